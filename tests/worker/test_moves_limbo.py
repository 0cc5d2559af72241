"""Moves, between two workers: what is asked for meanwhile, and who is read again behind it, and who is not."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import struct
import termios
from typing import Any

import pytest

from tests.worker.clock import turns
from tests.worker.conftest import Run
from tests.worker.moving import lane_to_stranger, move, two
from tests.worker.service import DEADLINE_SECONDS, Journal, Peer, make_app, text, until
from wsworker.handover import wishes
from wsworker.handover.packets import Ack, Go, State, Tail
from wsworker.handover.wishes import Wish
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.freezing import Frozen


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


def freeze(connection: Connection) -> Frozen:
    """Take a connection out of its worker."""
    freezing.hold(connection)
    return freezing.freeze(connection, None)


async def lives(peer: Peer) -> None:
    """Make sure that a client is served."""
    peer.send(text("lives"))
    assert "lives" == await peer.message()


def unread(connection: Connection) -> int:
    """Return how many bytes the kernel has for a connection that nobody has read."""
    sock = connection._transport.get_extra_info("socket")
    (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0" * 4))
    return int(count)


def half_closed(connection: Connection) -> bool:
    """Return whether the client's FIN has come, read or not."""
    poll = select.poll()
    poll.register(connection._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


# What is asked for meanwhile


@pytest.mark.parametrize("returns", [True, False])
def test_drain_gives_way_to_the_loop(run: Run, returns: bool) -> None:
    """A producer that obeys it waits until it is known where the connection goes; else that would never be known."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            await old.service.open()
            connection = old.connection
            frozen = freeze(connection)
            waits = asyncio.ensure_future(connection.drain())
            await turns()
            assert not waits.done()
            if returns:
                await freezing.give_back(frozen)
            else:
                os.close(frozen.descriptor)
                freezing.forget(connection)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await waits
            assert ("open" if returns else "closed") == connection.state

    run(main())


def test_a_topic_too_many(run: Run) -> None:
    """What would raise has nobody to raise to: it has no effect, and the connection goes on, with what came behind."""

    async def main() -> None:
        async with two(make_app(on_message=echo), max_topics=1) as (old, _):
            peer = await old.service.open()
            connection = old.connection
            connection.subscribe("a")
            frozen = freeze(connection)
            connection.subscribe("b")
            connection.send("behind")
            await freezing.give_back(frozen)
            assert "behind" == await peer.message()
            assert (frozenset("a"), 0) == (connection.topics, connection._holds)
            await lives(peer)

    run(main())


def test_a_worker_that_drops_everybody(run: Run) -> None:
    """Who is between two workers is dropped as soon as it is back, once; it was not lost in limbo."""

    async def main() -> None:
        journal = Journal()
        async with two(journal.app()) as (old, _):
            peer = await old.service.open()
            frozen = freeze(old.connection)
            old.hub.terminate_all()
            assert "moving" == frozen.connection._stage
            await freezing.give_back(frozen)
            assert b"" == await peer.rest()
            await until(lambda: journal.ends)
            assert ([1006], 0) == ([code for code, _ in journal.ends], len(old))

    run(main())


def test_a_worker_that_drops_everybody_and_one_has_gone(run: Run) -> None:
    """The other worker is told."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            await old.service.open()
            async with lane_to_stranger(old) as (lane, stranger, back):
                freezing.hold(connection := old.connection)
                lane.give(connection, None)
                old.hub.terminate_all()
                state = await stranger.hear_until(State)
                assert isinstance(state, State)
                await stranger.say(Ack((state.number,)))
                assert Go((state.number,)) == await stranger.hear()
                assert Tail(state.number, wishes.encode(Wish("terminate"))) == await stranger.hear()
                assert [] == back

    run(main())


def test_a_go_for_each_ack(run: Run) -> None:
    """Of those that are named, and no others: who was not acknowledged is still on its way."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            for _ in range(3):
                await old.service.open()
            connections = old.connections
            async with lane_to_stranger(old) as (lane, stranger, back):
                for connection in connections:
                    freezing.hold(connection)
                    lane.give(connection, None)
                    assert isinstance(await stranger.hear_until(State), State)
                await stranger.say(Ack((2, 0)))
                assert Go((2, 0)) == await stranger.hear()
                await until(lambda: lane.moved == 2)
                assert ["gone", "moving", "gone"] == [connection._stage for connection in connections]
                assert not lane.rests
                await stranger.say(Ack((1,)))
                assert Go((1,)) == await stranger.hear()
                await until(lambda: lane.rests)
                assert (3, []) == (lane.moved, back)

    run(main())


# Who is read again


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_a_slow_reader_is_read_again(run: Run, size: int) -> None:
    """It was choked, moved so, and takes what waits for it: then what it has said is heard, and goes on being heard."""

    async def main() -> None:
        got: list[Any] = []
        app = make_app(on_message=lambda connection, data: got.append(data))
        async with two(app, send_buffer=500_000) as (old, new):
            peer = await old.service.open(receive_buffer=4096)
            while not old.connection._cork.choked:
                old.connection.send(b"x" * size)
            assert 1 == (await move(old, new)).moved
            connection = new.connection
            assert connection._cork.choked
            sent = text("first")
            peer.send(sent)
            await until(lambda: unread(connection) == len(sent))
            await turns()
            assert (len(sent), []) == (unread(connection), got)

            async def drink() -> None:
                while await peer.reader.read(2**20):
                    pass

            drinking = asyncio.ensure_future(drink())
            await until(lambda: got)
            peer.send(text("second"))
            await until(lambda: len(got) > 1)
            assert (["first", "second"], 0) == (got, connection._holds)
            drinking.cancel()

    run(main())


@pytest.mark.parametrize("moves", [True, False])
def test_who_is_paused_is_not_read(run: Run, moves: bool) -> None:
    """Neither in the new worker nor back in the old one: messages and FIN stay with the kernel until resume()."""

    async def main() -> None:
        journal = Journal()
        async with two(journal.app()) as (old, new):
            peer = await old.service.open()
            connection = old.connection
            connection.pause()
            if moves:
                assert 1 == (await move(old, new)).moved
                connection = new.connection
            else:
                await freezing.give_back(freeze(connection))
            sent = text("kept")
            peer.send(sent)
            await until(lambda: unread(connection) == len(sent))
            peer.leave()
            await until(lambda: half_closed(connection))
            await turns()
            assert (len(sent), "open") == (unread(connection), connection.state)
            assert [("connect",)] == journal.calls
            connection.resume()
            await until(lambda: journal.ends)
            assert [("connect",), ("message", "kept"), ("close", 1006, "")] == [
                (*call[:2], "") if call[0] == "close" else call for call in journal.calls
            ]

    run(main())
