"""Moves and the bus: what may be missing is told, what has no number comes all the same, and marks are taken by key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.worker.conftest import Run
from tests.worker.moving import Move, Place, Stranger, lane_to_stranger, make_pair, move, nothing_left, two
from tests.worker.service import DEADLINE_SECONDS, make_app, text, until
from wsworker.bus.bus import Loopback
from wsworker.bus.ledger import Marks
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin
from wsworker.handover.packets import Ack, Bye, Done, Go, Hello, Keys, Ready, State
from wsworker.worker import freezing
from wsworker.worker import lane as lanes
from wsworker.worker.connection import Connection
from wsworker.worker.lane import Lane
from wsworker.worker.taking import Taking

NEWS, OTHER = Key("topic", "news"), Key("topic", "other")
ONE, TWO = Origin("node", 1), Origin("node", 2)
NOBODY = Origin("", 0)


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


class Away(Loopback):
    """The bus to a broker that cannot be reached."""

    async def settle(self, seconds: float) -> bool:
        """Say at once that it does not."""
        return False


class Slow(Loopback):
    """The bus to workers that hear what was published when they may, or when nobody waits any more."""

    def __init__(self, origin: Origin) -> None:
        super().__init__([], origin)
        self.asked: list[float] = []
        self.may_hear = asyncio.Event()

    async def settle(self, seconds: float) -> bool:
        """Wait."""
        self.asked.append(seconds)
        try:
            async with asyncio.timeout(seconds):
                return await self.may_hear.wait()
        except TimeoutError:
            return False


async def offered(lane: Lane, stranger: Stranger, connection: Connection) -> int:
    """Give a connection, and have the stranger say that it could have it; return its number."""
    freezing.hold(connection)
    lane.give(connection, None)
    message = await stranger.hear_until(State)
    assert isinstance(message, State)
    await stranger.say(Ack((message.number,)))
    return message.number


def gaps_of(place: Place) -> int:
    """Return how many gaps a worker knows of."""
    return sum(place.hub.counters.bus_gaps.values())


# Order


def test_what_was_published_is_heard_before_others_may_publish(run: Run) -> None:
    """A connection is let go of when all have heard what was published where it was; at once, if nothing was."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            for _ in range(3):
                await old.service.open()
            first, second, third = old.connections
            bus = Slow(old.origin)
            await old.hub.post.exchange.join("broker", bus, "the broker")
            async with lane_to_stranger(old) as (lane, stranger, _):
                assert Go((await offered(lane, stranger, first),)) == await stranger.hear()
                assert [] == bus.asked
                old.hub.worker.publish("news", "1")
                number = await offered(lane, stranger, second)
                await until(lambda: bus.asked)
                assert 1 == lane.moved
                bus.may_hear.set()
                assert Go((number,)) == await stranger.hear()
                assert Go((await offered(lane, stranger, third),)) == await stranger.hear()
                assert 1 == len(bus.asked)

    run(main())


def test_a_worker_that_does_not_hear_keeps_nobody_for_long(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience is that of all connections together."""

    async def main() -> None:
        monkeypatch.setattr(lanes, "ORDER_SECONDS", 0.2)
        async with two(make_app(on_message=echo)) as (old, _):
            for _ in range(2):
                await old.service.open()
            first, second = old.connections
            bus = Slow(old.origin)
            await old.hub.post.exchange.join("broker", bus, "the broker")
            async with lane_to_stranger(old) as (lane, stranger, _):
                old.hub.worker.publish("news", "1")
                assert Go((await offered(lane, stranger, first),)) == await stranger.hear()
                old.hub.worker.publish("news", "2")
                assert Go((await offered(lane, stranger, second),)) == await stranger.hear()
                assert 2 == len(bus.asked)
                assert 0.2 == bus.asked[0] > 0.1 > bus.asked[1]

    run(main())


# Gaps


def test_a_giver_whose_broker_is_away(run: Run) -> None:
    """What it has missed is told by the worker in which its connections are then, once."""

    async def main() -> None:
        gaps: list[tuple[str, frozenset[str]]] = []
        old_app = make_app(on_message=echo, on_bus_gap=lambda worker, topics: gaps.append(("old", topics)))
        new_app = make_app(on_message=echo, on_bus_gap=lambda worker, topics: gaps.append(("new", topics)))
        async with two(old_app, new_app) as (old, new):
            await old.service.open()
            old.connection.subscribe("news")
            await old.hub.post.exchange.join("broker", Away([], old.origin), "the broker")
            assert 1 == (await move(old, new)).moved
            await until(lambda: gaps)
            assert [("new", frozenset(["news"]))] == gaps
            assert (0, 1) == (gaps_of(old), gaps_of(new))

    run(main())


def test_a_giver_that_hears_of_a_gap_meanwhile(run: Run) -> None:
    """It concerns those that have moved as well."""

    async def main() -> None:
        gaps: list[frozenset[str]] = []
        new_app = make_app(on_message=echo, on_bus_gap=lambda worker, topics: gaps.append(topics))
        began, may_end = asyncio.Event(), asyncio.Event()

        async def busy(connection: Connection, data: Any) -> None:
            began.set()
            await may_end.wait()

        async with two(make_app(on_message=busy), new_app) as (old, new):
            peers = [await old.service.open() for _ in range(2)]
            old.connections[0].subscribe("news")
            peers[1].send(text("x"))
            await began.wait()
            moving = Move(old, new)
            await until(lambda: len(new) == 1)
            old.hub.post.exchange.missed("mesh", None, None)
            await until(lambda: gaps_of(old))
            may_end.set()
            assert 2 == (await moving.end()).moved
            await until(lambda: gaps)
            assert [frozenset(["news"])] == gaps

    run(main())


@pytest.mark.parametrize("settled", [True, False])
def test_the_word_of_the_giver(run: Run, settled: bool) -> None:
    """A gap is told if the giver says that it has not settled, and else not."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (_, new):
            await new.service.open()
            new.connection.subscribe("news")
            ours, theirs = make_pair()
            stranger = Stranger(new.hub, ours, "giver")
            task = asyncio.ensure_future(Taking(new.hub, theirs).run())
            assert isinstance(await stranger.hear(), Hello)
            await stranger.greet()
            await stranger.say(Keys(1, (NEWS,), True))
            assert Ready(1) == await stranger.hear()
            await stranger.say(Done(0, settled))
            assert Bye() == await stranger.hear()
            assert 0 == await asyncio.wait_for(task, DEADLINE_SECONDS)
            stranger.die()
            # at the end all that is known of is counted
            new.hub.post.exchange._gaps.close()
            assert (0 if settled else 1) == gaps_of(new)

    run(main())


# What has no number


def test_what_has_no_number_is_not_left_out(run: Run) -> None:
    """Whoever publishes at a broker by other means counts nothing: it may come twice, and never stays away."""

    async def main() -> None:
        began, may_end = asyncio.Event(), asyncio.Event()

        async def busy(connection: Connection, data: Any) -> None:
            began.set()
            await may_end.wait()

        async with two(make_app(on_message=busy), make_app(on_message=echo)) as (old, new):

            def handed(body: str) -> None:
                for place in (old, new):
                    place.hub.post.exchange.received("broker", NOBODY, Envelope(NEWS, body.encode()))

            peers = [await old.service.open() for _ in range(2)]
            for connection in old.connections:
                connection.subscribe("news")
            # the second one keeps the hand-over open
            peers[1].send(text("x"))
            await began.wait()
            moving = Move(old, new)
            await until(lambda: old.hub.post.exchange._ledgers)
            handed("first")
            await until(lambda: len(new) == 1)
            words = [f"later {number}" for number in range(5)]
            for word in words:
                handed(word)
            may_end.set()
            assert 2 == (await moving.end()).moved
            handed("end")
            for peer in peers:
                got: list[str] = []
                while not got or got[-1] != "end":
                    got.append(await peer.message())
                # those from before it came may be there again
                assert ["first", *words, "end"] == [*dict.fromkeys(got)]
            assert nothing_left(new)

    run(main())


def test_no_mark_without_a_number() -> None:
    """Else all that follows would be within it."""
    marks = Marks()
    marks.note(NOBODY, Envelope(NEWS, b""))
    assert ({}, False) == (marks.take_changes(), marks.has(NOBODY, NEWS, 0))
    marks.note(ONE, Envelope(NEWS, b"", number=1))
    assert ({(ONE, NEWS): 1}, True) == (marks.take_changes(), marks.has(ONE, NEWS, 1))


# Marks


def test_marks_of_some_keys() -> None:
    """Only theirs are copied, of all publishers; later ones change nothing, neither here nor there."""
    marks = Marks()
    marks.apply({(ONE, NEWS): 3, (TWO, NEWS): 5, (ONE, OTHER): 7, (TWO, EVERYBODY): 9})
    some = marks.of([NEWS, EVERYBODY, Key("user", "nobody")])
    assert {NEWS, EVERYBODY} == some._highest.keys()
    marks.apply({(ONE, NEWS): 4, (ONE, EVERYBODY): 1})
    some.apply({(TWO, NEWS): 6})
    assert [True, False] == [some.has(ONE, NEWS, number) for number in (3, 4)]
    assert [True, False] == [some.has(TWO, EVERYBODY, number) for number in (9, 10)]
    assert (False, False) == (some.has(ONE, OTHER, 7), some.has(ONE, EVERYBODY, 1))
    assert (True, False) == (marks.has(ONE, NEWS, 4), marks.has(TWO, NEWS, 6))
