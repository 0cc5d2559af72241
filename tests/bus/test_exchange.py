"""Between the hub and the adapter: what goes out when, what is given up late, and gaps told once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import copy_context
from typing import Any

import pytest

from tests.worker.clock import on_the_clock, passes, turns
from wsworker.bus.bus import BusStats, Sink
from wsworker.bus.exchange import Exchange
from wsworker.bus.topics import EVERYBODY, Envelope, Key
from wsworker.counters import Counters

A, B = Key("topic", "a"), Key("topic", "b")


class Written:
    """An adapter that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.sink: Sink | None = None

    async def start(self, sink: Sink) -> None:
        self.sink = sink

    def subscribe(self, keys: Iterable[Key]) -> None:
        self.calls.append(("+", *keys))

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        self.calls.append(("-", *keys))

    def publish(self, envelope: Envelope) -> bool:
        self.calls.append(envelope)
        return True

    def flush(self) -> None:
        self.calls.append("flush")

    def stats(self) -> BusStats:
        return BusStats(links=3, dropped=5, reconnects=2)

    async def close(self, grace_seconds: float) -> None:
        self.calls.append(("close", grace_seconds))

    def told(self) -> list[Any]:
        """Return what it was told since the last time."""
        calls, self.calls = self.calls, []
        return calls


class Made:
    """An exchange on the running loop, and what it has called."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.delivered: list[Envelope] = []
        self.published: list[Envelope] = []
        self.gaps: list[frozenset[Key] | None] = []
        self.bus = Written()
        self.exchange = Exchange(
            asyncio.get_running_loop(),
            copy_context(),
            self.counters,
            self.delivered.append,
            self._publish,
            self.gaps.append,
        )

    def _publish(self, envelope: Envelope) -> bool:
        self.published.append(envelope)
        return envelope.body != b"no"


def test_a_tick_is_flushed_once() -> None:
    """What is published and subscribed to goes to the adapter at once, and is written at the end of the tick."""

    async def main() -> None:
        made = Made()
        await made.exchange.join(made.bus)
        envelope = Envelope(A, b"x")
        made.exchange.subscribe(A)
        made.exchange.publish(envelope)
        made.exchange.publish(envelope)
        assert [("+", A), envelope, envelope] == made.bus.told()
        await turns()
        assert ["flush"] == made.bus.told()
        made.exchange.publish(envelope)
        await turns()
        assert [envelope, "flush"] == made.bus.told()
        assert 3 == made.counters.bus_published
        await made.exchange.close(2)
        assert ["flush", ("close", 2)] == made.bus.told()
        made.exchange.publish(envelope)
        await made.exchange.close(2)
        assert [] == made.bus.told()

    on_the_clock(main)


def test_a_key_is_given_up_late() -> None:
    """Half a second after nobody wants it; who comes again meanwhile costs nothing."""

    async def main() -> None:
        made = Made()
        await made.exchange.join(made.bus)
        for key in (A, B):
            made.exchange.subscribe(key)
        await turns()
        made.bus.told()
        made.exchange.unsubscribe(A)
        await passes(0.25)
        made.exchange.unsubscribe(B)
        made.exchange.subscribe(A)
        made.exchange.unsubscribe(A)
        await passes(0.25)
        assert [] == made.bus.told()
        await passes(0.25)
        assert [("-", B, A), "flush"] == made.bus.told()
        made.exchange.subscribe(A)
        assert [("+", A)] == made.bus.told()
        made.exchange.unsubscribe(A)
        await passes(0.25)
        made.exchange.subscribe(A)
        await passes(2)
        assert ["flush"] == made.bus.told()
        made.exchange.unsubscribe(A)
        await made.exchange.close(1)
        made.bus.told()
        await passes(2)
        assert [] == made.bus.told()

    on_the_clock(main)


def test_keys_that_come_and_go_cost_one_timer() -> None:
    """However often they do: each timer would wake the loop for ever, as there is always something to give up."""

    async def main() -> None:
        made = Made()
        await made.exchange.join(made.bus)
        loop = asyncio.get_running_loop()
        made.exchange.subscribe(A)
        for _ in range(8):
            for _ in range(10):
                made.exchange.unsubscribe(A)
                made.exchange.subscribe(A)
            made.exchange.unsubscribe(A)
            assert 1 == len(loop._scheduled)  # type: ignore[attr-defined]
            await passes(0.25)
        await passes(0.5)
        assert [("+", A), "flush", ("-", A), "flush"] == made.bus.told()
        assert [] == loop._scheduled  # type: ignore[attr-defined]
        await made.exchange.close(1)

    on_the_clock(main)


def test_gaps_are_collected() -> None:
    """The first is told at once, those of the next second together; any topic is more than some."""

    async def main() -> None:
        made = Made()
        await made.exchange.join(made.bus)
        made.exchange.on_gap(frozenset({A}), 1)
        await turns()
        assert [frozenset({A})] == made.gaps
        made.exchange.on_gap(frozenset({A}), 1)
        made.exchange.on_gap(frozenset({B, EVERYBODY}), 2)
        await passes(0.75)
        assert 1 == len(made.gaps)
        await passes(0.25)
        assert [frozenset({A, B, EVERYBODY})] == made.gaps[1:]
        made.exchange.on_gap(None, None)
        made.exchange.on_gap(frozenset({B}), 2)
        await passes(1)
        assert [None] == made.gaps[2:]
        assert 5 == made.counters.bus_gaps
        made.exchange.on_gap(None, None)
        await made.exchange.close(1)
        await passes(2)
        assert 3 == len(made.gaps)

    on_the_clock(main)


def test_gaps_are_logged_when_they_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """With sums: however many come, a line a second; those that nobody is told of any more are logged at the end."""

    async def main() -> None:
        made = Made()
        await made.exchange.join(made.bus)
        made.exchange.on_gap(frozenset({A}), 1)
        await turns()
        for _ in range(100):
            made.exchange.on_gap(frozenset({A, B}), 2)
        await passes(1)
        made.exchange.on_gap(None, None)
        await passes(1)
        made.exchange.on_gap(None, None)
        made.exchange.on_gap(frozenset({A}), 3)
        await passes(1)
        made.exchange.on_gap(frozenset({A}), 4)
        await made.exchange.close(1)
        await made.exchange.close(1)
        await passes(2)
        assert 4 == len(made.gaps)

    on_the_clock(main)
    died = "another worker has died, or its link was lost"
    assert [
        f"messages of {text} (on_bus_gap tells the app)"
        for text in (
            "1 topic or user may be missing: 1 was dropped on its way to this worker",
            "2 topics or users may be missing: 200 were dropped on their way to this worker",
            f"any topic may be missing: {died}",
            f"any topic may be missing: {died}; 3 were dropped on their way to this worker",
            "1 topic or user may be missing: 4 were dropped on their way to this worker",
        )
    ] == caplog.messages


def test_what_the_adapter_says_is_handed_on() -> None:
    """Deliveries are counted; what a program outside hands in is published, or not."""

    async def main() -> None:
        made = Made()
        envelope = Envelope(A, b"x")
        made.exchange.on_envelope(envelope)
        assert ([envelope], 1) == (made.delivered, made.counters.bus_received)
        assert [True, False] == [made.exchange.on_outside(Envelope(A, body)) for body in (b"yes", b"no")]
        assert 2 == len(made.published)
        await made.exchange.close(1)
        # it would go nowhere any more
        assert not made.exchange.on_outside(Envelope(A, b"yes"))
        assert 2 == len(made.published)

    on_the_clock(main)


def test_counters_follow_the_adapter() -> None:
    """Without one nobody can be reached, and nothing is done about topics."""

    async def main() -> None:
        made = Made()
        assert 0 == made.exchange.count()
        made.exchange.subscribe(A)
        made.exchange.unsubscribe(A)
        made.exchange.publish(Envelope(A, b"x"))
        await passes(1)
        await made.exchange.join(made.bus)
        assert 3 == made.exchange.count()
        assert (5, 2) == (made.counters.bus_dropped, made.counters.bus_reconnects)
        assert [] == made.bus.told()
        await made.exchange.close(1)

    on_the_clock(main)
