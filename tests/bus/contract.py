"""What every adapter of the bus must do. The test of an adapter runs each of CHECKS over a circle of its own.

A circle is some stations, each with an adapter, that can reach each other; a check is given a function that makes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, TypeAlias

from wsworker.bus.bus import CAUSES, Bus
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin

DEADLINE_SECONDS: Final = 10

ROOM, OTHER, ANN = Key("topic", "room"), Key("topic", "other"), Key("user", "room")


class Settings(NamedTuple):
    """The section `bus` of a configuration."""

    prefix: str = "wsworker:"
    max_message: int = 1024 * 1024
    peer_queue: int = 8 * 1024 * 1024


class Sink:
    """Writes down what an adapter hands on."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.publishers: list[Origin] = []
        self.outside: list[Envelope] = []
        self.gaps: list[tuple[frozenset[Key] | None, int | None]] = []
        self.states: list[tuple[bool, str]] = []
        self.debts = 0
        self.order: list[object] = []
        self.refuses = False

    def on_envelope(self, envelope: Envelope, publisher: Origin) -> None:
        self.envelopes.append(envelope)
        self.publishers.append(publisher)
        self.order.append(envelope.body)

    def on_outside(self, envelope: Envelope) -> bool:
        self.outside.append(envelope)
        return not self.refuses

    def on_gap(self, keys: frozenset[Key] | None, count: int | None) -> None:
        self.gaps.append((keys, count))
        self.order.append("gap")

    def on_debt(self) -> None:
        self.debts += 1

    def on_state(self, up: bool, why: str) -> None:
        self.states.append((up, why))

    @property
    def bodies(self) -> list[bytes]:
        """What has come, in its order."""
        return [envelope.body for envelope in self.envelopes]


class Station:
    """One adapter and its sink."""

    def __init__(self, bus: Bus, sink: Sink) -> None:
        self.bus = bus
        self.sink = sink

    def subscribe(self, *keys: Key) -> None:
        self.bus.subscribe(keys)
        self.bus.flush()

    def unsubscribe(self, *keys: Key) -> None:
        self.bus.unsubscribe(keys)
        self.bus.flush()

    def publish(self, key: Key, *bodies: bytes, binary: bool = False) -> bool:
        """Publish some messages in one tick; whether all were taken."""
        taken = [self.bus.publish(Envelope(key, body, binary)) for body in bodies]
        self.bus.flush()
        return all(taken)


Circle: TypeAlias = Callable[[int], AbstractAsyncContextManager[list[Station]]]


async def until(fact: Callable[[], Any]) -> None:
    """Wait for a fact; fails at the deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not fact():
            await asyncio.sleep(0.002)


async def known(publisher: Station, *readers: Station, key: Key) -> None:
    """Wait until the publisher knows that these readers want a key, and nothing is on its way."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not all(b"known" in reader.sink.bodies for reader in readers):
            publisher.publish(key, b"known")
            await asyncio.sleep(0.002)
    last = str(id(readers)).encode()
    publisher.publish(key, last)
    await until(lambda: all(last in reader.sink.bodies for reader in readers))
    for reader in readers:
        reader.sink.envelopes.clear()


async def subscribers_and_nobody_else(circle: Circle) -> None:
    """A message reaches who has subscribed, once; not the others, and never the worker that has published it."""
    async with circle(3) as (one, two, three):
        one.subscribe(ROOM)
        two.subscribe(ROOM)
        three.subscribe(OTHER)
        await known(one, two, key=ROOM)
        await known(one, three, key=OTHER)
        one.publish(ROOM, b"hello")
        one.publish(OTHER, b"last")
        await until(lambda: three.sink.envelopes)
        await until(lambda: two.sink.envelopes)
        assert [Envelope(ROOM, b"hello")] == two.sink.envelopes
        assert [Envelope(OTHER, b"last")] == three.sink.envelopes
        assert [] == one.sink.envelopes


async def order_of_a_publisher(circle: Circle) -> None:
    """FIFO from each publisher to each reader, over topics and ticks."""
    async with circle(3) as (one, two, reader):
        reader.subscribe(ROOM, OTHER)
        await known(one, reader, key=ROOM)
        await known(two, reader, key=ROOM)
        for number in range(0, 300, 3):
            for name, publisher in ((b"1", one), (b"2", two)):
                publisher.publish(ROOM, b"%s %d" % (name, number), b"%s %d" % (name, number + 1))
                publisher.publish(OTHER, b"%s %d" % (name, number + 2))
            if number % 30 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(reader.sink.envelopes) == 600)
        for name in (b"1", b"2"):
            numbers = [int(body[2:]) for body in reader.sink.bodies if body.startswith(name)]
            assert [*range(300)] == numbers


async def bytes_stay_as_they_are(circle: Circle) -> None:
    """Any body arrives as it was, with its mark for text or binary; empty ones and large ones too."""
    async with circle(2) as (one, two):
        two.subscribe(ROOM)
        await known(one, two, key=ROOM)
        bodies = [b"", b"\0\xff", bytes(range(256)) * 2000, "é".encode()]
        for body in bodies:
            one.publish(ROOM, body, binary=True)
        one.publish(ROOM, b"text")
        await until(lambda: len(two.sink.envelopes) == 5)
        assert [(body, True) for body in bodies] + [(b"text", False)] == [
            (envelope.body, envelope.binary) for envelope in two.sink.envelopes
        ]


async def kinds_are_apart(circle: Circle) -> None:
    """A topic with the name of a user is another key; a close travels as one; everybody needs no subscription."""
    async with circle(2) as (one, two):
        two.subscribe(ANN)
        await known(one, two, key=ANN)
        one.publish(ROOM, b"topic")
        one.publish(ANN, b"user")
        one.bus.publish(Envelope(ANN, b"\x0f\xa1bye", closes=True))
        one.publish(EVERYBODY, b"all")
        await until(lambda: len(two.sink.envelopes) == 3)
        to_user = [envelope for envelope in two.sink.envelopes if envelope.key == ANN]
        assert [Envelope(ANN, b"user"), Envelope(ANN, b"\x0f\xa1bye", closes=True)] == to_user
        assert Envelope(EVERYBODY, b"all") in two.sink.envelopes


async def names_come_through(circle: Circle) -> None:
    """Dots, stars, blanks, colons and every script; the longest name there may be."""
    names = ["a.b", "*", ">", "a b", "wsworker:topic:x", "%2e", "комната", "💬" * 63, "x" * 255]
    async with circle(2) as (one, two):
        keys = [Key("topic", name) for name in names]
        two.subscribe(*keys)
        await known(one, two, key=keys[-1])
        for key in keys:
            one.publish(key, b"x")
        await until(lambda: len(two.sink.envelopes) == len(keys))
        # a cluster has each name elsewhere
        assert sorted(keys) == sorted(envelope.key for envelope in two.sink.envelopes)


async def what_is_unsubscribed_comes_no_more(circle: Circle) -> None:
    """And what is subscribed to again does."""
    async with circle(2) as (one, two):
        two.subscribe(ROOM, OTHER)
        await known(one, two, key=OTHER)
        two.unsubscribe(ROOM)
        two.subscribe(ANN)
        await known(one, two, key=ANN)
        one.publish(ROOM, b"gone")
        one.publish(OTHER, b"other")
        await until(lambda: two.sink.envelopes)
        two.subscribe(ROOM)
        # it forgets what has come, but for the order
        await known(one, two, key=ROOM)
        assert b"other" in two.sink.order
        assert b"gone" not in two.sink.order


async def what_is_settled_is_in_effect(circle: Circle) -> None:
    """What is published right after it comes, to each key, however many were subscribed to."""
    async with circle(3) as (one, two, reader):
        many = [Key("user", f"{number}") for number in range(2000)]
        for key in (ROOM, many[0], many[-1]):
            reader.subscribe(key, *(many[1:-1] if key == ROOM else ()))
            assert await reader.bus.settle(DEADLINE_SECONDS)
            for publisher in (one, two):
                publisher.publish(key, b"at once")
            await until(lambda: len(reader.sink.envelopes) == 2)
            assert [(key, b"at once")] * 2 == [(envelope.key, envelope.body) for envelope in reader.sink.envelopes]
            reader.sink.envelopes.clear()


async def what_was_published_has_come_when_it_is_settled(circle: Circle) -> None:
    """Of every publisher, as far as it had left that one; also if nothing was subscribed to since."""
    async with circle(3) as (one, two, reader):
        reader.subscribe(ROOM)
        assert await reader.bus.settle(DEADLINE_SECONDS)
        for turn in range(1, 21):
            for publisher in (one, two):
                publisher.publish(ROOM, *[bytes(1000)] * 50)
            await until(lambda: not (one.bus.stats().queued_bytes or two.bus.stats().queued_bytes))
            assert await reader.bus.settle(DEADLINE_SECONDS)
            assert turn * 100 == len(reader.sink.envelopes)


async def two_settle_at_once(circle: Circle) -> None:
    """Each waits for itself, and who subscribes meanwhile is another matter."""
    async with circle(2) as (one, two):
        two.subscribe(ROOM)
        first = asyncio.ensure_future(two.bus.settle(DEADLINE_SECONDS))
        await asyncio.sleep(0)
        two.subscribe(OTHER)
        assert await two.bus.settle(DEADLINE_SECONDS)
        assert await first
        one.publish(OTHER, b"x")
        one.publish(ROOM, b"y")
        await until(lambda: len(two.sink.envelopes) == 2)


async def numbers_come_through(circle: Circle) -> None:
    """And it is known who has published, each being another one."""
    async with circle(3) as (one, two, reader):
        reader.subscribe(ANN)
        assert await reader.bus.settle(DEADLINE_SECONDS)
        sent = [Envelope(ANN, b"x", number=2**64 - 1), Envelope(ANN, b"\x0f\xa1bye", closes=True, number=7)]
        for publisher in (one, two):
            for envelope in sent:
                publisher.bus.publish(envelope)
            publisher.bus.flush()
        await until(lambda: not (one.bus.stats().queued_bytes or two.bus.stats().queued_bytes))
        assert await reader.bus.settle(DEADLINE_SECONDS)
        by_publisher: dict[Origin, list[Envelope]] = {}
        for who, envelope in zip(reader.sink.publishers, reader.sink.envelopes, strict=True):
            by_publisher.setdefault(who, []).append(envelope)
        assert [sent, sent] == [*by_publisher.values()]


async def who_leaves_is_no_gap(circle: Circle) -> None:
    """An end in good order delivers what was published before it, and nobody misses anything."""
    async with circle(3) as (one, two, three):
        two.subscribe(ROOM)
        three.subscribe(ROOM)
        await known(one, two, three, key=ROOM)
        one.publish(ROOM, *(b"%d" % number for number in range(100)))
        await one.bus.close(5)
        await until(lambda: len(two.sink.envelopes) == len(three.sink.envelopes) == 100)
        await known(two, three, key=ROOM)
        assert [] == two.sink.gaps == three.sink.gaps


async def what_is_seen_is_counted(circle: Circle) -> None:
    """Whether others can be reached, be they workers or servers; and what is subscribed to."""
    async with circle(3) as (one, _, _):
        one.subscribe(ROOM, OTHER)
        await until(lambda: one.bus.stats().links)
        stats = one.bus.stats()
        nothing = dict.fromkeys(CAUSES, 0)
        assert (2, nothing, 0, 0) == (stats.keys, dict(stats.dropped), stats.reconnects, stats.refused)
        one.unsubscribe(OTHER)
        assert 1 == one.bus.stats().keys


CHECKS: Final = [
    subscribers_and_nobody_else,
    order_of_a_publisher,
    bytes_stay_as_they_are,
    kinds_are_apart,
    names_come_through,
    what_is_unsubscribed_comes_no_more,
    what_is_settled_is_in_effect,
    what_was_published_has_come_when_it_is_settled,
    two_settle_at_once,
    numbers_come_through,
    who_leaves_is_no_gap,
    what_is_seen_is_counted,
]
