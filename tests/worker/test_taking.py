"""Taking: a worker that takes over connections, with a stranger at the other end who gives whatever a giver might."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.worker.clock import turns
from tests.worker.conftest import Run
from tests.worker.moving import (
    Place,
    Stranger,
    descriptors,
    make_pair,
    move,
    no_descriptors,
    nothing_left,
    scene,
    texts,
    two,
)
from tests.worker.service import DEADLINE_SECONDS, Journal, Peer, make_app, text, until
from wsworker.bus import ledger
from wsworker.bus.topics import Envelope, Key, Origin
from wsworker.handover import packets, wishes
from wsworker.handover import state as states
from wsworker.handover.packets import Ack, Bye, Done, Go, Hello, Keys, Marks, Ready, Refused, State, Tail, Type
from wsworker.handover.wishes import Wish
from wsworker.worker import freezing
from wsworker.worker import taking as module
from wsworker.worker.connection import Connection
from wsworker.worker.freezing import Frozen
from wsworker.worker.pair import PairClosed
from wsworker.worker.taking import Taking

NEWS = Key("topic", "news")


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


@asynccontextmanager
async def taken_from_stranger(new: Place, expected: int = 0) -> AsyncIterator[tuple[Stranger, asyncio.Task[int]]]:
    """Have a taking that runs, and the stranger who gives, with the greetings behind them."""
    ours, theirs = make_pair()
    stranger = Stranger(new.hub, ours, "giver")
    task = asyncio.ensure_future(Taking(new.hub, theirs, expected).run())
    assert isinstance(await stranger.hear(), Hello)
    await stranger.greet()
    yield stranger, task
    stranger.die()
    await asyncio.wait_for(task, DEADLINE_SECONDS)


async def frozen_of(old: Place, connection: Connection, hook: dict[str, Any] | None = None) -> Frozen:
    """Return a connection of an old worker, frozen."""
    freezing.hold(connection)
    return freezing.freeze(connection, hook)


async def ready(stranger: Stranger, number: int, *keys: Key) -> None:
    """Go through a round of keys."""
    await stranger.say(Keys(number, keys, True))
    assert Ready(number) == await stranger.hear()


def state_of(number: int, frozen: Frozen) -> State:
    """Return what is told of it."""
    return State(number, states.encode(frozen.state))


async def hand(stranger: Stranger, number: int, frozen: Frozen) -> None:
    """Hand over a connection as a giver does."""
    await stranger.say(state_of(number, frozen), descriptor=frozen.descriptor)
    assert Ack((number,)) == await stranger.hear()
    await stranger.say(Go((number,)))
    os.close(frozen.descriptor)
    freezing.forget(frozen.connection)


async def lives(peer: Peer) -> None:
    """Make sure that a client is served."""
    peer.send(text("lives"))
    assert "lives" == await peer.message()


def test_what_the_giver_had_is_left_out_and_what_it_had_not_is_replayed(run: Run) -> None:
    """By number, of each publisher; also what comes late by the bus; and wishes are granted behind it."""

    async def main() -> None:
        async with scene() as workers:
            old, new, far = [await workers.add(make_app(on_message=echo)) for _ in range(3)]
            peer = await old.service.open()
            old.connection.subscribe("news")
            async with taken_from_stranger(new) as (stranger, task):
                await ready(stranger, 1, NEWS)
                # numbers 1 to 5, of which the giver has had three
                for number in range(1, 6):
                    far.hub.worker.publish("news", f"{number}")
                assert ["1", "2", "3", "4", "5"] == await texts(peer, 5)
                frozen = await frozen_of(old, old.connection)
                await stranger.say(Marks(ledger.encode({(far.origin, NEWS): 3})))
                await hand(stranger, 7, frozen)
                await stranger.say(Tail(7, wishes.encode(Wish("text", b"a wish"))))
                # one of those comes twice, the second time by a slow way, and a new one behind it
                exchange = new.hub.post.exchange
                exchange.received("mesh", far.origin, Envelope(NEWS, b"3", number=3))
                far.hub.worker.publish("news", "6")
                await stranger.say(Done(1, True))
                assert Bye() == await stranger.hear()
                assert 1 == await task
                got = await texts(peer, 4)
                assert ["4", "5", "6"] == [word for word in got if word != "a wish"]
                await lives(peer)
            assert nothing_left(new)
            assert 1 == new.hub.counters.moved_in

    run(main())


def test_all_wishes_are_granted(run: Run) -> None:
    """In their order, each as if it had been asked here; one that cannot be is passed over."""

    async def main() -> None:
        async with two(make_app(on_message=echo), max_topics=2) as (old, new):
            peer = await old.service.open()
            async with taken_from_stranger(new) as (stranger, _):
                await ready(stranger, 1)
                frozen = await frozen_of(old, old.connection)
                await hand(stranger, 0, frozen)
                for wish in (
                    Wish("text", "ä".encode()),
                    Wish("binary", b"\xff"),
                    Wish("subscribe", b"one"),
                    Wish("subscribe", b"two"),
                    Wish("subscribe", b"one too many"),
                    Wish("unsubscribe", b"one"),
                    Wish("user", b"me"),
                    Wish("pause"),
                    Wish("resume"),
                ):
                    await stranger.say(Tail(0, wishes.encode(wish)))
                assert "ä" == await peer.message()
                assert b"\xff" == (await peer.receive())[1]
                await until(lambda: new.connection.user)
                assert {"two"} == new.connection.topics
                await lives(peer)
                await stranger.say(Tail(0, wishes.encode(Wish("close", b"bye", 4000))))
                assert 4000 == await peer.close_code()
                await stranger.say(Tail(0, wishes.encode(Wish("terminate"))))
                assert b"" == await peer.rest()
                await stranger.say(Done(1, True))
                await stranger.hear_until(Bye)

    run(main())


@pytest.mark.parametrize("why", ["full", "user", "draining"])
def test_a_worker_without_a_place(run: Run, why: str) -> None:
    """It refuses; the connection is the old one's still, and nothing of it is known here."""

    async def main() -> None:
        async with scene() as workers:
            app = make_app(on_message=echo)
            old = await workers.add(app)
            new = await workers.add(app, worker_connections=1 if why == "full" else 100, max_per_user=1)
            if why == "draining":
                new.hub.drain()
            else:
                await new.service.open()
                new.connection.user = "me"
            before = len(new)
            peers = [await old.service.open() for _ in range(3)]
            for number, connection in enumerate(old.connections):
                connection.user = "me" if why == "user" else f"{number}"
                connection.subscribe("news")
            outcome = await move(old, new)
            assert (0, {"full": 3}) == (outcome.moved, dict(outcome.left))
            assert (before, 3) == (len(new), len(old))
            for peer in peers:
                await lives(peer)
            assert nothing_left(old)
            assert nothing_left(new)
            assert 0 == new.hub.worker.count("news")

    run(main())


def test_places_are_kept_for_those_that_come(run: Run) -> None:
    """Nobody else is let in on one; when they have come, or do not any more, places are as ever."""

    async def main() -> None:
        async with scene() as workers:
            app = make_app(on_message=echo)
            old, new = await workers.add(app), await workers.add(app, worker_connections=2)
            [await old.service.open() for _ in range(2)]
            async with taken_from_stranger(new, expected=2):
                assert (2, True) == (new.hub.expected, new.hub.full)
            assert (0, False) == (new.hub.expected, new.hub.full)
            outcome = await move(old, new, expected=2)
            assert (2, True, 0) == (outcome.moved, new.hub.full, new.hub.expected)

    run(main())


def test_a_state_of_another_version_and_one_that_is_none(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Both are refused, by reason; the next one is taken."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peer = await old.service.open()
            async with taken_from_stranger(new) as (stranger, _):
                await ready(stranger, 1)
                frozen = await frozen_of(old, old.connection)
                good = states.encode(frozen.state)
                with socket.socket() as sock:
                    other = struct.pack("!H", states.VERSION + 1) + good[2:]
                    await stranger.say(State(0, other), descriptor=sock.fileno())
                    assert Refused(0, "version") == await stranger.hear()
                    await stranger.say(State(1, good[:2] + b"nonsense"), descriptor=sock.fileno())
                    assert Refused(1, "error") == await stranger.hear()
                    await stranger.say(State(2, good[:-1]), descriptor=sock.fileno())
                    assert Refused(2, "error") == await stranger.hear()
                    # its descriptor was lost on the way
                    await stranger.say(State(3, good))
                    assert Refused(3, "descriptors") == await stranger.hear()
                await hand(stranger, 4, frozen)
                await lives(peer)
                assert 1 == len(new)

    with caplog.at_level(logging.ERROR):
        run(main())
    assert "a bug in wsworker: the state of a connection" in caplog.text


def test_a_descriptor_for_which_there_is_no_room(run: Run) -> None:
    """That connection stays where it is; the limit of descriptors is the reason."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peer = await old.service.open()
            async with taken_from_stranger(new) as (stranger, _):
                await ready(stranger, 1)
                frozen = await frozen_of(old, old.connection)
                # the socket that was left is closed a turn later
                await turns()
                with no_descriptors():
                    await stranger.say(state_of(0, frozen), descriptor=frozen.descriptor)
                    assert Refused(0, "descriptors") == await stranger.hear()
                await freezing.give_back(frozen)
                await lives(peer)

    run(main())


@pytest.mark.parametrize(
    "bad",
    [
        b"x",
        struct.pack("!BIHH", Type.ACK, 0, 0, 1),
        struct.pack("!BIHH", 99, 0, 0, 1),
        struct.pack("!BIHH", Type.GO, 0, 0, 1),
        struct.pack("!BIHH", Type.GO, 5, 0, 1),
        struct.pack("!BIHH", Type.TAIL, 5, 0, 1),
        struct.pack("!BIHH", Type.DONE, 5, 0, 1),
        struct.pack("!BIHH", Type.MARKS, 0, 0, 1) + b"[1]",
        struct.pack("!BIHH", Type.KEYS, 0, 0, 1) + b'\1[["topic",""]]',
        struct.pack("!BIHH", Type.TAIL, 0, 0, 1) + b"\xff",
    ],
)
def test_packets_of_a_giver_that_are_none(run: Run, bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It ends there; what has come before is served, and no descriptor is left."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peer = await old.service.open()
            async with taken_from_stranger(new, expected=3) as (stranger, task):
                await ready(stranger, 1)
                frozen = await frozen_of(old, old.connection)
                await hand(stranger, 0, frozen)
                with socket.socket() as sock:
                    await stranger.pair.send(bad, sock.fileno())
                assert 1 == await asyncio.wait_for(task, DEADLINE_SECONDS)
            await lives(peer)
            assert nothing_left(new)

    run(main())
    assert "connections of another worker are not taken" in caplog.text


def test_a_giver_of_another_version(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is taken, and the log says which it is."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (_, new):
            ours, theirs = make_pair()
            stranger = Stranger(new.hub, ours, "giver")
            task = asyncio.ensure_future(Taking(new.hub, theirs).run())
            (hello,) = packets.encode(Hello("9.9"))
            await stranger.pair.send(hello.replace(b'"version":1', b'"version":2'))
            assert 0 == await asyncio.wait_for(task, DEADLINE_SECONDS)
            stranger.die()

    run(main())
    assert "version 2 of the hand-over, that of wsworker 9.9" in caplog.text


def test_the_giver_dies_in_the_middle(run: Run) -> None:
    """What has come is ours and goes on; keys and places are as ever."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peer = await old.service.open()
            old.connection.subscribe("news")
            async with taken_from_stranger(new, expected=5) as (stranger, task):
                await ready(stranger, 1, NEWS, Key("topic", "others"))
                frozen = await frozen_of(old, old.connection)
                await hand(stranger, 0, frozen)
                stranger.die()
                assert 1 == await asyncio.wait_for(task, DEADLINE_SECONDS)
            await lives(peer)
            assert nothing_left(new)
            new.hub.worker.publish("news", "n")
            assert "n" == await peer.message()

    run(main())


def test_without_a_go_it_is_not_ours(run: Run) -> None:
    """The giver goes on with it, or has died: nothing of it is known here, and its socket was not touched."""

    async def main() -> None:
        old_journal, journal = Journal(), Journal()

        async def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            connection.send("never seen")

        app = journal.app(on_resume=on_resume)
        async with two(old_journal.app(on_message=echo), app) as (old, new):
            peer = await old.service.open()
            old.connection.user = "me"
            old.connection.subscribe("news")
            async with taken_from_stranger(new) as (stranger, task):
                await ready(stranger, 1, NEWS)
                frozen = await frozen_of(old, old.connection)
                await stranger.say(state_of(0, frozen), descriptor=frozen.descriptor)
                assert Ack((0,)) == await stranger.hear()
                assert 1 == len(new)
                new.hub.worker.publish("news", "it is known there")
                stranger.die()
                assert 0 == await asyncio.wait_for(task, DEADLINE_SECONDS)
            assert (0, 0, 0) == (len(new), new.hub.worker.count("news"), new.hub.counters.moved_in)
            assert () == new.hub.users.of("me")
            assert nothing_left(new)
            await freezing.give_back(frozen)
            # it was published to both, and kept here
            assert "it is known there" == await peer.message()
            await lives(peer)
            assert [] == journal.calls

    run(main())


def test_what_is_declined_leaves_no_shadow(run: Run) -> None:
    """A connection that did not come is not kept in memory for the bus."""

    async def main() -> None:
        def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            raise ValueError("no")

        async with two(make_app(on_message=echo), make_app(on_resume=on_resume)) as (old, new):
            await old.service.open()
            old.connection.subscribe("news")
            outcome = await move(old, new)
            assert {"on_resume": 1} == dict(outcome.left)
            assert {} == new.hub.post._shadows

    run(main())


def test_a_log_that_is_too_small_tells_a_gap(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that were given up may be missing, and the user is told of which topics."""

    async def main() -> None:
        gaps: list[frozenset[str]] = []
        monkeypatch.setattr(module, "LOG_BYTES", 2000)
        new_app = make_app(on_message=echo, on_bus_gap=lambda worker, topics: gaps.append(topics))
        async with two(make_app(on_message=echo), new_app) as (old, new):
            await old.service.open()
            old.connection.subscribe("news")
            async with taken_from_stranger(new) as (stranger, _):
                await ready(stranger, 1, NEWS)
                for _ in range(20):
                    new.hub.post.exchange.received("mesh", Origin("far", 1), Envelope(NEWS, b"x" * 100, number=1))
                frozen = await frozen_of(old, old.connection)
                await hand(stranger, 0, frozen)
                await stranger.say(Done(1, True))
                await stranger.hear_until(Bye)
            await until(lambda: gaps)
            assert [frozenset(["news"])] == gaps

    run(main())


def test_a_giver_that_breaks_the_rules_hears_so_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair is closed before the bus settles, so that it lets go of nothing that is not taken."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peer = await old.service.open()
            async with taken_from_stranger(new) as (stranger, task):
                await ready(stranger, 1, NEWS)
                frozen = await frozen_of(old, old.connection)
                await stranger.say(state_of(0, frozen), descriptor=frozen.descriptor)
                assert Ack((0,)) == await stranger.hear()
                gate = asyncio.Event()

                async def settle(seconds: float) -> bool:
                    return await gate.wait()

                monkeypatch.setattr(new.hub.post.exchange, "settle", settle)
                await stranger.pair.send(b"x")
                with pytest.raises(PairClosed):
                    await stranger.hear()
                assert not task.done()
                gate.set()
                assert 0 == await asyncio.wait_for(task, DEADLINE_SECONDS)
            assert 0 == len(new)
            assert nothing_left(new)
            await freezing.give_back(frozen)
            await lives(peer)

    run(main())


def test_cancelled_with_a_descriptor_in_hand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (_, new):
            ours, theirs = make_pair()
            stranger = Stranger(new.hub, ours, "giver")
            monkeypatch.setattr(module, "TURN_SECONDS", -1.0)
            taking = Taking(new.hub, theirs)
            task = asyncio.ensure_future(taking.run())
            await stranger.greet()
            await until(lambda: taking._pair._awaits)
            waits = asyncio.Event()

            async def acknowledge() -> None:
                waits.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(taking, "_acknowledge", acknowledge)
            with socket.socket() as sock:
                before = descriptors()
                await stranger.say(Marks([]))
                await stranger.say(State(0, b"x"), descriptor=sock.fileno())
                await asyncio.wait_for(waits.wait(), DEADLINE_SECONDS)
                assert len(before) + 1 == len(descriptors())
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert len(before) - 1 == len(descriptors())
            stranger.die()

    run(main())


def test_let_go_closes_the_descriptor_alone(run: Run) -> None:
    """For a process that user code has forked: the loop is not touched."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (_, new):
            ours, theirs = make_pair()
            taking = Taking(new.hub, theirs)
            taking.let_go()
            assert b"" == ours.recv(1)
            taking._pair._socket.detach()
            ours.close()

    run(main())


def test_a_client_that_has_gone_before_it_lands(run: Run) -> None:
    """It has come and is lost there; on_close says so, once."""

    async def main() -> None:
        old_journal, journal = Journal(), Journal()
        async with two(old_journal.app(), journal.app()) as (old, new):
            peer = await old.service.open()
            frozen = await frozen_of(old, old.connection)
            peer.writer.transport.abort()
            async with taken_from_stranger(new) as (stranger, _):
                await ready(stranger, 1)
                await hand(stranger, 0, frozen)
                await until(lambda: journal.ends)
                assert 1006 == journal.ends[0][0]
                assert 0 == len(new)
            assert [("connect",)] == old_journal.calls

    run(main())
