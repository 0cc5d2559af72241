"""Lane: the way to one taker, with a stranger at its end who does whatever a taker might."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from typing import Any

import pytest

from tests.worker.clock import state as state_of
from tests.worker.conftest import Run
from tests.worker.moving import PATIENCE, Stranger, lane_to_stranger, make_pair, move, nothing_left, texts, two
from tests.worker.service import DEADLINE_SECONDS, Peer, closing, make_app, text, until
from wsworker.bus.topics import Key
from wsworker.handover import packets, wishes
from wsworker.handover import state as states
from wsworker.handover.packets import Ack, Bye, Done, Go, Hello, Keys, Marks, Ready, Refused, State, Tail, Type
from wsworker.handover.wishes import Wish
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.freezing import Frozen
from wsworker.worker.lane import WINDOW, WINDOW_AGAIN, Lane
from wsworker.worker.limbo import Limbo


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


def give(lane: Lane, connection: Connection, hook: dict[str, Any] | None = None) -> None:
    """Give a connection that rests."""
    freezing.hold(connection)
    lane.give(connection, hook)


async def lives(peer: Peer) -> None:
    """Make sure that a client is served."""
    peer.send(text("lives"))
    assert "lives" == await peer.message()


def test_keys_marks_states_and_wishes_in_order(run: Run) -> None:
    """Marks before the state they are for, wishes behind the acknowledgement, and a last word that counts."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peer = await old.service.open()
            connection = old.connection
            connection.subscribe("news")
            async with lane_to_stranger(old) as (lane, stranger, back):
                assert isinstance(await stranger.hear(), Hello)
                assert not lane.covers([])
                covering = asyncio.ensure_future(lane.cover([Key("topic", "news")], DEADLINE_SECONDS))
                assert Keys(1, (Key("topic", "news"),), True) == await stranger.hear()
                assert not lane.covers([Key("topic", "news")])
                await stranger.say(Ready(1))
                assert await covering
                assert lane.covers([Key("topic", "news")])
                assert lane.begun
                old.hub.worker.publish("news", "1")
                assert "1" == await peer.message()
                give(lane, connection, {"a": 1})
                assert (1, True, False) == (lane.taken, lane.has_room, lane.rests)
                assert Marks([["node", 1, [["topic", "news", 1]]]]) == await stranger.hear()
                message = await stranger.hear()
                assert isinstance(message, State)
                state = states.decode(message.state)
                assert (connection.id, {"a": 1}, ("news",)) == (state.id, state.hook, state.topics)
                assert 1 == len(stranger.descriptors)
                asked = [
                    Wish("text", b"a"),
                    Wish("binary", b"b"),
                    Wish("subscribe", b"more"),
                    Wish("unsubscribe", b"news"),
                    Wish("user", b"me"),
                    Wish("user"),
                    Wish("pause"),
                    Wish("resume"),
                    Wish("close", b"bye", 4000),
                    Wish("terminate"),
                ]
                assert connection.send("a")
                assert connection.send(b"b")
                connection.subscribe("more")
                connection.unsubscribe("news")
                connection.user = "me"
                connection.user = None
                connection.pause()
                connection.resume()
                connection.close(4000, "bye")
                connection.terminate()
                # to many, so it is the other worker's to send
                old.hub.worker.publish("news", "2")
                assert "open" == state_of(connection)
                await stranger.say(Ack((message.number,)))
                assert Go((message.number,)) == await stranger.hear()
                await until(lambda: lane.moved)
                assert (1, True, True) == (lane.taken, 0 < lane.pause_seconds < 10, lane.rests)
                assert "closed" == state_of(connection)
                assert 0 == len(old)
                for wish in asked:
                    assert Tail(message.number, wishes.encode(wish)) == await stranger.hear()
                ending = asyncio.ensure_future(lane.end(DEADLINE_SECONDS))
                assert Done(1, True) == await stranger.hear()
                await stranger.say(Bye())
                await ending
                assert [] == back
            assert nothing_left(old)

    run(main())


@pytest.mark.parametrize("how", ["refuses", "dies", "breaks the rules", "speaks of another"])
def test_what_is_not_taken_comes_back(run: Run, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """The same object goes on, with what was asked for in order; nothing is lost and nothing doubled."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, other):
            peer = await old.service.open()
            connection = old.connection
            connection.subscribe("news")
            async with lane_to_stranger(old) as (lane, stranger, back):
                connection.send("before")
                give(lane, connection)
                message = await stranger.hear_until(State)
                assert isinstance(message, State)
                connection.send("1")
                other.hub.worker.publish("news", "2")
                await until(lambda: connection._wishes and len([*connection._wishes]) == 2)
                connection.subscribe("more")
                old.hub.worker.publish("more", "nobody wants it yet")
                old.hub.worker.broadcast("3")
                connection.user = "me"
                connection.unsubscribe("news")
                assert isinstance(connection._transport, Limbo)
                if how == "refuses":
                    await stranger.say(Refused(message.number, "full"))
                elif how == "dies":
                    stranger.die()
                elif how == "breaks the rules":
                    await stranger.pair.send(b"not a packet at all")
                else:
                    await stranger.say(Ack((message.number + 1,)))
                await until(lambda: back)
                assert [(connection, "full" if how == "refuses" else None)] == back
                assert (how == "refuses") == lane.open
                assert old.connection is connection
                assert (0, True) == (lane.moved, lane.rests)
                assert ["before", "1", "2", "3"] == await texts(peer, 4)
                old.hub.worker.publish("news", "not any more")
                old.hub.worker.publish("more", "4")
                old.hub.worker.send_to("me", "5")
                assert ["4", "5"] == await texts(peer, 2)
                await lives(peer)
                assert 0 == old.hub.counters.moved_out
            assert nothing_left(old)

    run(main())
    assert ("cannot be handed" in caplog.text) == (how != "refuses")


@pytest.mark.parametrize("act", ["close", "terminate"])
def test_an_end_that_was_asked_for_is_kept(run: Run, act: str) -> None:
    """It comes when the connection is back, behind what was sent before."""

    async def main() -> None:
        ends: list[Any] = []
        app = make_app(on_message=echo, on_close=lambda connection, code, reason: ends.append(code))
        async with two(app) as (old, _):
            peer = await old.service.open()
            connection = old.connection
            async with lane_to_stranger(old) as (lane, stranger, back):
                give(lane, connection)
                await stranger.hear_until(State)
                connection.send("last")
                connection.close(4000) if act == "close" else connection.terminate()
                assert "open" == state_of(connection)
                lane.drop()
                await until(lambda: back)
                if act == "close":
                    assert "last" == await peer.message()
                    assert 4000 == await peer.close_code()
                    peer.send(closing(4000))
                await until(lambda: ends)
                assert [4000 if act == "close" else 1006] == ends

    run(main())


def test_a_taker_of_another_version(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It is known before anything is touched."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            ours, theirs = make_pair()
            lane = Lane(old.hub, ours, 1, lambda connection, why: None)
            stranger = Stranger(old.hub, theirs, "taker")
            (hello,) = packets.encode(Hello("9.9"))
            await stranger.pair.send(hello.replace(b'"version":1', b'"version":2'))
            await lane.greet(DEADLINE_SECONDS)
            assert (False, False, False) == (lane.open, lane.speaks, lane.has_room)
            await lane.close()
            stranger.die()

    run(main())
    assert "version 2 of the hand-over, that of wsworker 9.9" in caplog.text


def test_a_taker_that_says_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It is given up after a while."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            ours, theirs = make_pair()
            lane = Lane(old.hub, ours, 1, lambda connection, why: None)
            await lane.greet(0.05)
            assert (False, True) == (lane.open, lane.speaks)
            await lane.close()
            theirs.close()

    run(main())
    assert "it does not answer" in caplog.text


def test_a_taker_that_is_never_ready(run: Run) -> None:
    """The keys are not covered, and it is said so in time."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _), lane_to_stranger(old) as (lane, stranger, _):
            assert not await lane.cover([Key("topic", "x")], 0.05)
            assert not lane.covers([Key("topic", "x")])
            await stranger.say(Ready(1))
            assert await _again(lane, stranger)
            lane.drop()
            assert not await lane.cover([Key("topic", "y")], DEADLINE_SECONDS)

    async def _again(lane: Lane, stranger: Stranger) -> bool:
        covering = asyncio.ensure_future(lane.cover([Key("topic", "x"), Key("topic", "z")], DEADLINE_SECONDS))
        while not isinstance(message := await stranger.hear_until(Keys), Keys) or message.number < 2:
            pass
        # those that were told already are not told again
        assert (Key("topic", "z"),) == message.keys
        await stranger.say(Ready(2))
        return await covering

    run(main())


def test_not_more_than_a_window_is_on_its_way(run: Run) -> None:
    """So many descriptors at most, on either side; there is room again when enough of them are answered."""

    async def main() -> None:
        async with two(make_app(on_message=echo), worker_connections=200) as (old, _):
            for _ in range(WINDOW + 1):
                await old.service.open()
            connections = old.connections
            async with lane_to_stranger(old) as (lane, stranger, back):
                for connection in connections[:-1]:
                    assert lane.has_room
                    give(lane, connection)
                assert not lane.has_room
                for _ in range(WINDOW):
                    await stranger.hear_until(State)
                answered = WINDOW - WINDOW_AGAIN + 1
                await stranger.say(Ack(tuple(range(answered - 1))))
                await stranger.hear_until(Go)
                assert not await lane.until(lambda: lane.has_room, 0.02)
                await stranger.say(Ack((answered - 1,)))
                assert await lane.until(lambda: lane.has_room, DEADLINE_SECONDS)
                assert not await lane.until(lambda: lane.rests, 0.02)
            assert WINDOW - answered == len(back)
            assert WINDOW + 1 - answered == len(old)

    run(main())


def test_data_that_changes_under_way(run: Run) -> None:
    """What a timer puts into a list of it, between freeze and departure, does not end the hand-over of the others."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peers = [await old.service.open() for _ in range(2)]
            first, second = old.connections
            first.data["cart"] = []
            async with lane_to_stranger(old) as (lane, stranger, back):
                give(lane, first)
                first.data["cart"].append(object())
                give(lane, second)
                message = await stranger.hear_until(State)
                assert isinstance(message, State)
                # either as it was, or not at all
                if states.decode(message.state).id == second.id:
                    await until(lambda: back)
                    assert first is back[0][0]
                    await lives(peers[0])
                else:
                    assert {"cart": []} == states.decode(message.state).data

    run(main())


def test_one_without_a_state_stands_alone(run: Run) -> None:
    """Nothing is said of it, it goes on here, and the pair is there for the others."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peers = [await old.service.open() for _ in range(2)]
            first, second = old.connections
            first.data["cart"] = []
            async with lane_to_stranger(old) as (lane, stranger, back):
                give(lane, first)
                first.data["cart"].append(object())
                await until(lambda: back)
                assert [(first, "error")] == back
                await lives(peers[0])
                assert lane.open
                give(lane, second)
                message = await stranger.hear_until(State)
                assert isinstance(message, State)
                await stranger.say(Ack((message.number,)))
                assert Go((message.number,)) == await stranger.hear()
                await until(lambda: lane.moved)

    run(main())


@pytest.mark.parametrize("word", [Ack((0,)), Refused(0, "full")])
def test_a_taker_that_answers_before_it_was_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, word: Ack | Refused
) -> None:
    """It cannot have what it has not been sent: the pair ends, and the connection goes on here."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peer = await old.service.open()
            gate, settled = asyncio.Event(), Frozen.settled

            async def later(self: Frozen) -> states.ConnectionState:
                await gate.wait()
                return await settled(self)

            monkeypatch.setattr(Frozen, "settled", later)
            async with lane_to_stranger(old) as (lane, stranger, back):
                connection = old.connection
                give(lane, connection)
                await stranger.say(word)
                assert await lane.until(lambda: not lane.open, DEADLINE_SECONDS)
                gate.set()
                await until(lambda: back)
                assert [(connection, None)] == back
                await lives(peer)

    run(main())
    assert "connection 0 is not on its way" in caplog.text


def test_a_bug_in_the_writer(run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and what is on its way comes back at once."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peer = await old.service.open()

            def wrong(state: object) -> bytes:
                raise AssertionError("of all things")

            monkeypatch.setattr(states, "encode", wrong)
            async with lane_to_stranger(old) as (lane, _, back):
                give(lane, old.connection)
                await until(lambda: back)
                assert not lane.open
                await lives(peer)

    run(main())
    assert "a bug in wsworker: a hand-over" in caplog.text
    assert "of all things" in caplog.text


def test_more_than_any_message_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a connection stays, and the others move."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peers = [await old.service.open() for _ in range(2)]
            first, second = old.connections
            first.data["x"] = "x" * 20_000
            monkeypatch.setattr(packets, "MOST_BYTES", 10_000)
            async with lane_to_stranger(old) as (lane, stranger, back):
                give(lane, first)
                give(lane, second)
                message = await stranger.hear_until(State)
                assert isinstance(message, State)
                assert second.id == states.decode(message.state).id
                await until(lambda: back)
                assert [(first, "error")] == back
                await lives(peers[0])

    run(main())


def test_a_state_in_parts(run: Run) -> None:
    """Its descriptor comes with the last one, and it is whole."""

    async def main() -> None:
        async with two(make_app(on_message=lambda connection, data: connection.send(f"{len(data)}"))) as (old, new):
            peer = await old.service.open()
            old.connection.data["x"] = "é" * 700_000
            message = text("y" * 900_000)
            peer.send(message[:600_000])
            await until(lambda: old.connection._session.unread)
            assert 1 == (await move(old, new, seconds=PATIENCE)).moved
            assert "é" * 700_000 == new.connection.data["x"]
            peer.send(message[600_000:])
            assert "900000" == await peer.message()

    run(main())


def test_no_descriptor_is_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever meets that goes on here, and is tried again as soon as others have given theirs back."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peers = [await old.service.open() for _ in range(3)]
            tries = 0
            dup = os.dup

            def short(descriptor: int) -> int:
                nonlocal tries
                tries += 1
                if tries == 2:
                    raise OSError(24, "Too many open files")
                return dup(descriptor)

            monkeypatch.setattr(os, "dup", short)
            outcome = await move(old, new)
            assert (3, {}) == (outcome.moved, dict(outcome.left))
            assert 4 == tries
            for peer in peers:
                await lives(peer)

            def none(descriptor: int) -> int:
                raise OSError(24, "Too many open files")

            monkeypatch.setattr(os, "dup", none)
            outcome = await move(new, old)
            assert (0, {"descriptors": 3}) == (outcome.moved, dict(outcome.left))
            for peer in peers:
                await lives(peer)

    run(main())


def test_packets_of_a_taker_that_are_none(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Each of them ends the lane, and nobody else is hurt."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peer = await old.service.open()
            for bad in (
                b"x",
                struct.pack("!BIHH", Type.STATE, 0, 0, 1),
                struct.pack("!BIHH", 99, 0, 0, 1),
                struct.pack("!BIHH", Type.READY, 1, 1, 1),
                struct.pack("!BIHH", Type.ACK, 0, 0, 1) + b"\0",
                struct.pack("!BIHH", Type.ACK, 0, 0, 1),
            ):
                async with lane_to_stranger(old) as (lane, stranger, _):
                    await stranger.pair.send(bad)
                    assert await lane.until(lambda: not lane.open, DEADLINE_SECONDS)
                await lives(peer)

    with caplog.at_level(logging.WARNING):
        run(main())
    assert 6 == caplog.text.count("a bug in wsworker: ")
