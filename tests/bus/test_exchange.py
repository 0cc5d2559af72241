"""Between the hub and the adapter: what goes out when, what is given up late, and gaps told once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextvars import copy_context
from typing import Any

import pytest

from tests.worker.clock import on_the_clock, passes, turns
from wsworker.bus.bus import BusStats, Sink
from wsworker.bus.exchange import Exchange
from wsworker.bus.topics import Envelope, Key
from wsworker.counters import Adapter, Counters

A, B = Key("topic", "a"), Key("topic", "b")


class Written:
    """An adapter that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.lacks = ""
        self.owes = False
        self.full = 5
        self.sink: Sink | None = None

    async def start(self, sink: Sink) -> None:
        self.sink = sink

    async def linked(self, seconds: float) -> str:
        return self.lacks

    def subscribe(self, keys: Iterable[Key]) -> None:
        self.calls.append(("+", *keys))

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        self.calls.append(("-", *keys))

    def publish(self, envelope: Envelope) -> bool:
        self.calls.append(envelope)
        return True

    def owe(self) -> None:
        self.calls.append("owe")

    def flush(self) -> None:
        self.calls.append("flush")

    def stats(self) -> BusStats:
        return BusStats(links=3, sent=7, dropped={"full": self.full, "size": 0, "down": 0, "refused": 0}, reconnects=2)

    async def close(self, grace_seconds: float) -> None:
        self.calls.append(("close", grace_seconds))

    def let_go(self) -> None:
        self.calls.append("let_go")

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
            self._deliver,
            self._publish,
            lambda key: key.name != "of nobody",
            self.gaps.append,
        )

    async def join(self, name: Adapter = "mesh", bus: Written | None = None) -> None:
        """Use an adapter."""
        await self.exchange.join(
            name, bus or self.bus, "redis://here:6379" if name == "broker" else "the other workers"
        )

    @property
    def road(self) -> Sink:
        """What the adapter was given."""
        assert self.bus.sink is not None
        return self.bus.sink

    def _deliver(self, envelope: Envelope) -> bool:
        self.delivered.append(envelope)
        return envelope.body != b"no"

    def _publish(self, envelope: Envelope) -> bool:
        self.published.append(envelope)
        return envelope.body != b"no"


def test_a_tick_is_flushed_once() -> None:
    """What is published and subscribed to goes to the adapter at once, and is written at the end of the tick."""

    async def main() -> None:
        made = Made()
        await made.join()
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
        await made.join()
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
        await made.join()
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


def test_what_the_adapter_says_is_handed_on() -> None:
    """Deliveries are counted; what a program outside hands in is published, or not."""

    async def main() -> None:
        made = Made()
        await made.join()
        envelope = Envelope(A, b"x")
        made.road.on_envelope(envelope)
        assert ([envelope], 1) == (made.delivered, made.counters.bus_received["mesh"])
        made.road.on_envelope(Envelope(A, b"no"))
        made.exchange.count()
        assert 1 == made.counters.bus_refused["mesh"]
        assert [True, False] == [made.road.on_outside(Envelope(A, body)) for body in (b"yes", b"no")]
        assert 2 == len(made.published)
        await made.exchange.close(1)
        # it would go nowhere any more
        assert not made.road.on_outside(Envelope(A, b"yes"))
        assert 2 == len(made.published)

    on_the_clock(main)


def test_counters_follow_the_adapter() -> None:
    """Without one nobody can be reached, and nothing is done about topics."""

    async def main() -> None:
        made = Made()
        assert {} == made.exchange.count()
        made.exchange.subscribe(A)
        made.exchange.unsubscribe(A)
        made.exchange.publish(Envelope(A, b"x"))
        await passes(1)
        await made.join()
        stats, is_up = made.exchange.count()["mesh"]
        assert (3, False) == (stats.links, is_up)
        assert {"mesh": 7, "broker": 0} == made.counters.bus_sent
        assert {"mesh": 2, "broker": 0} == made.counters.bus_reconnects
        assert {"mesh:full": 5} == {cause: count for cause, count in made.counters.bus_dropped.items() if count}
        assert [] == made.bus.told()
        await made.exchange.close(1)

    on_the_clock(main)


def test_two_adapters() -> None:
    """Each is told all, once; a gap of either is told, and each counts for itself."""

    async def main() -> None:
        made, broker = Made(), Written()
        await made.join()
        await made.join("broker", broker)
        envelope = Envelope(A, b"x")
        made.exchange.subscribe(A)
        made.exchange.publish(envelope)
        await turns()
        made.exchange.unsubscribe(A)
        await passes(1)
        expected = [("+", A), envelope, "flush", ("-", A), "flush"]
        assert expected == made.bus.told() == broker.told()
        assert broker.sink is not None
        broker.sink.on_envelope(envelope)
        broker.sink.on_gap(frozenset({A}), 2)
        made.road.on_gap(frozenset({B}), 1)
        await passes(1)
        assert [frozenset({A, B})] == made.gaps
        assert {"mesh": 0, "broker": 1} == made.counters.bus_received
        assert {"mesh": 1, "broker": 1} == made.counters.bus_gaps
        assert [] == await made.exchange.linked(1)
        broker.lacks = "redis://here:6379 does not answer"
        assert ["redis://here:6379 does not answer"] == await made.exchange.linked(1)
        broker.sink.on_state(False, "it has closed the connection")
        # the log has it
        assert [] == await made.exchange.linked(1)
        made.exchange.let_go()
        assert ["let_go"] == made.bus.told() == broker.told()
        await made.exchange.close(3)
        assert ["flush", ("close", 3)] == made.bus.told() == broker.told()
        # what an adapter says in its own close concerns nobody
        broker.sink.on_gap(None, None)
        await passes(2)
        assert 1 == len(made.gaps)

    on_the_clock(main)


def test_a_broker_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and whoever looks at the worker sees it."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        made = Made()
        made.bus.full = 0
        await made.join("broker")
        assert not made.exchange.count()["broker"][1]
        made.road.on_state(True, "")
        assert made.exchange.count()["broker"][1]
        made.road.on_state(False, "the connection was lost")
        assert not made.exchange.count()["broker"][1]
        await made.exchange.close(1)

    on_the_clock(main)
    lost = "redis://here:6379 is out of reach: the connection was lost"
    assert [
        "linked with redis://here:6379",
        f"{lost}; until it is back, messages stay on this machine, and it is tried every second",
    ] == caplog.messages


def test_a_gap_of_what_nobody_wants() -> None:
    """It is none: who tells of it may not know who wants what."""

    async def main() -> None:
        made = Made()
        await made.join()
        made.road.on_gap(frozenset({Key("topic", "of nobody")}), 1)
        await passes(1)
        assert ([], 0) == (made.gaps, made.counters.bus_gaps["mesh"])
        made.road.on_gap(frozenset({Key("topic", "of nobody"), A}), 1)
        await passes(1)
        assert [frozenset({A})] == made.gaps
        await made.exchange.close(1)

    on_the_clock(main)


def test_a_worker_that_has_died_had_something_for_others() -> None:
    """It cannot tell them any more, so the others of its machine do; what a broker tells goes no further."""

    async def main() -> None:
        made, broker = Made(), Written()
        await made.join()
        await made.join("broker", broker)
        made.road.on_gap(None, None)
        await turns()
        assert ["owe", "flush"] == broker.told()
        assert ["flush"] == made.bus.told()
        assert broker.sink is not None
        broker.sink.on_gap(None, None)
        made.road.on_gap(frozenset({A}), 3)
        # a full queue between two workers here
        made.road.on_gap(None, 2000)
        await turns()
        assert [] == broker.told()
        await made.exchange.close(1)

    on_the_clock(main)


def test_a_worker_that_leaves_and_owes_others_something() -> None:
    """The broker was away: another worker of this machine is told over the mesh, and tells them when it is back."""

    async def main() -> None:
        made, broker = Made(), Written()
        await made.join()
        await made.join("broker", broker)
        made.road.on_debt()
        await turns()
        assert ["owe", "flush"] == broker.told()
        assert ["flush"] == made.bus.told()
        broker.owes = True
        await made.exchange.close(1)
        assert ["flush", "owe", "flush", ("close", 1)] == made.bus.told()

    on_the_clock(main)


def test_a_queue_that_is_full(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever could raise the limit is told, once a minute; the others hear of it by the gap."""

    async def main() -> None:
        made = Made()
        await made.join()
        made.exchange.count()
        made.exchange.count()
        await made.exchange.close(1)

    on_the_clock(main)
    text = "the queue to the other workers was full (bus.peer_queue); 5 messages for others were dropped of late"
    assert [text] == caplog.messages
