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
from wsworker.bus.topics import Envelope, Key, Origin
from wsworker.counters import Adapter, Counters

A, B = Key("topic", "a"), Key("topic", "b")
ME, OTHER = Origin("node", 1), Origin("node", 2)


class Written:
    """An adapter that writes down what it is told.

    has_heir: what owe returns; leaves: set while close goes on, which it does until may_leave is set.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.lacks = ""
        self.owes = self.owes_at_close = False
        self.full = 5
        self.sink: Sink | None = None
        self.has_heir = self.settles = True
        self.leaves = asyncio.Event()
        self.may_leave = asyncio.Event()
        self.may_leave.set()
        self.closed = False

    async def start(self, sink: Sink) -> None:
        self.sink = sink

    async def linked(self, seconds: float) -> str:
        return self.lacks

    async def settle(self, seconds: float) -> bool:
        self.calls.append(("settle", seconds))
        return self.settles

    def subscribe(self, keys: Iterable[Key]) -> None:
        self.calls.append(("+", *keys))

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        self.calls.append(("-", *keys))

    def publish(self, envelope: Envelope) -> bool:
        self.calls.append(envelope)
        return not self.closed

    def owe(self) -> bool:
        self.calls.append("owe")
        return self.has_heir

    def flush(self) -> None:
        self.calls.append("flush")

    def stats(self) -> BusStats:
        return BusStats(links=3, sent=7, dropped={"full": self.full, "size": 0, "down": 0, "refused": 0}, reconnects=2)

    async def close(self, grace_seconds: float) -> None:
        self.calls.append(("close", grace_seconds))
        self.owes = self.owes or self.owes_at_close
        self.leaves.set()
        await self.may_leave.wait()
        self.closed = True

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
        self.publishers: list[Origin] = []
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

    def _deliver(self, envelope: Envelope, publisher: Origin) -> bool:
        self.delivered.append(envelope)
        self.publishers.append(publisher)
        return envelope.body != b"no"

    def _publish(self, envelope: Envelope) -> bool:
        self.published.append(envelope)
        return envelope.body != b"no"


def test_a_tick_is_flushed_once() -> None:
    """What is published and subscribed to goes to the adapter at once, and is written at the end of the tick."""

    async def main() -> None:
        made = Made()
        await made.join()
        made.exchange.subscribe(A)
        made.exchange.publish(A, b"x")
        made.exchange.publish(A, b"\xff", binary=True)
        one, two = Envelope(A, b"x", number=1), Envelope(A, b"\xff", binary=True, number=2)
        assert [("+", A), one, two] == made.bus.told()
        await turns()
        assert ["flush"] == made.bus.told()
        made.exchange.publish(A, b"\x0f\xa0", closes=True)
        await turns()
        assert [Envelope(A, b"\x0f\xa0", closes=True, number=3), "flush"] == made.bus.told()
        assert 3 == made.counters.bus_published
        await made.exchange.close(2)
        assert ["flush", ("close", 2)] == made.bus.told()
        made.exchange.publish(A, b"x")
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
        made.road.on_envelope(envelope, OTHER)
        assert ([envelope], 1) == (made.delivered, made.counters.bus_received["mesh"])
        assert [OTHER] == made.publishers
        made.road.on_envelope(Envelope(A, b"no"), OTHER)
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
        made.exchange.publish(A, b"x")
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
        made.exchange.publish(A, b"x")
        await turns()
        made.exchange.unsubscribe(A)
        await passes(1)
        expected = [("+", A), Envelope(A, b"x", number=1), "flush", ("-", A), "flush"]
        assert expected == made.bus.told() == broker.told()
        assert broker.sink is not None
        broker.sink.on_envelope(envelope, OTHER)
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
        assert ["flush", ("close", 3)] == broker.told()
        assert ["flush", "flush", ("close", 3)] == made.bus.told()
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
        made.road.on_debt()
        await turns()
        assert ["owe", "flush"] == broker.told()
        assert ["flush"] == made.bus.told()
        assert broker.sink is not None
        broker.sink.on_gap(None, None)
        # a link between two workers here that live
        made.road.on_gap(None, None)
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
        made.bus.calls = broker.calls
        # what it could not say it knows at its end
        broker.owes_at_close = True
        made.bus.full = 6
        await made.exchange.close(1)
        # the broker first, and the mesh behind it
        assert ["flush", "flush", ("close", 1), "owe", "flush", ("close", 1)] == broker.told()
        # what was dropped at the end counts as well
        assert 6 == made.counters.bus_dropped["mesh:full"]

    on_the_clock(main)


class Leaving:
    """A worker whose broker was away, so it owes others something; who comes next is told over the mesh."""

    def __init__(self) -> None:
        self.made, self.broker = Made(), Written()
        self.made.bus.full = self.broker.full = 0
        self._closing: asyncio.Task[None] | None = None

    async def begin(self, waits_for: Written) -> Leaving:
        """Close, until this adapter does not return from its close."""
        await self.made.join()
        await self.made.join("broker", self.broker)
        waits_for.may_leave.clear()
        self._closing = asyncio.create_task(self.made.exchange.close(1))
        await waits_for.leaves.wait()
        self.made.bus.told(), self.broker.told()
        return self

    async def end(self) -> None:
        """Let it return."""
        assert self._closing is not None
        for bus in (self.made.bus, self.broker):
            bus.may_leave.set()
        await self._closing


UNTOLD = "other machines could not be told that messages of this one are missing"


def test_a_debt_that_comes_while_the_broker_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """In a stop several leave together: it is told by the broker if there is still time."""

    async def main() -> None:
        leaving = Leaving()
        await leaving.begin(leaving.broker)
        leaving.made.road.on_debt()
        await turns()
        assert ["owe", "flush"] == leaving.broker.told()
        assert ["flush"] == leaving.made.bus.told()
        await leaving.end()
        assert ["flush", ("close", 1)] == leaving.made.bus.told()

    on_the_clock(main)
    assert [] == caplog.messages


def test_a_debt_that_comes_when_the_broker_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """It is handed on; nothing else is asked of either any more."""

    async def main() -> None:
        leaving = Leaving()
        await leaving.begin(leaving.made.bus)
        leaving.made.road.on_debt()
        await turns()
        assert ["owe"] == leaving.broker.told()
        assert ["owe", "flush"] == leaving.made.bus.told()
        # who would hear of it from now on?
        leaving.made.exchange.subscribe(A)
        leaving.made.exchange.unsubscribe(A)
        await leaving.end()
        assert [] == leaving.broker.told() == leaving.made.bus.told()

    on_the_clock(main)
    assert [] == caplog.messages


def test_what_is_published_while_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """A task that nobody has ended says more: it goes nowhere, is logged, and is no loss that others are told of."""

    async def main() -> None:
        leaving = Leaving()
        await leaving.begin(leaving.broker)
        for _ in range(3):
            leaving.made.exchange.publish(A, b"x")
        await turns()
        assert [] == leaving.broker.told() == leaving.made.bus.told()
        await leaving.end()

    on_the_clock(main)
    text = "what was published after on_worker_stop went nowhere (3 messages); end there what publishes"
    assert [text] == caplog.messages


@pytest.mark.parametrize("has_mesh", [True, False])
def test_a_debt_that_nobody_takes(caplog: pytest.LogCaptureFixture, has_mesh: bool) -> None:
    """The last worker of a machine, or the only one, is the last to know; so it says so."""

    async def main() -> None:
        made, broker = Made(), Written()
        made.bus.full = broker.full = 0
        if has_mesh:
            await made.join()
        await made.join("broker", broker)
        broker.owes, made.bus.has_heir = True, False
        await made.exchange.close(1)

    on_the_clock(main)
    assert [UNTOLD] == caplog.messages


def test_a_debt_that_somebody_takes_at_last(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody was there first, and then there is: all of it is handed on."""

    async def main() -> None:
        leaving = Leaving()
        leaving.broker.owes, leaving.made.bus.has_heir = True, False
        await leaving.begin(leaving.made.bus)
        leaving.made.bus.has_heir = True
        leaving.made.road.on_debt()
        await turns()
        await leaving.end()
        assert ["owe", "flush"] == leaving.made.bus.told()

    on_the_clock(main)
    assert [] == caplog.messages


def test_a_queue_that_is_full(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever could raise the limit is told, once a minute; the others hear of it by the gap."""

    async def main() -> None:
        made = Made()
        await made.join()
        made.exchange.count()
        for made.bus.full in (105, 105, 1105):
            made.exchange.count()
        await passes(61)
        made.bus.full = 1106
        made.exchange.count()
        await made.exchange.close(1)

    on_the_clock(main)
    text = "the queue to the other workers was full (bus.peer_queue); %d messages for others were dropped so far"
    assert [text % 5, text % 1106 + " (and 2 more like it since the last such line)"] == caplog.messages


class Noted:
    """A ledger that writes down what it notes, and how much was delivered before."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.notes: list[tuple[Origin, Envelope, int]] = []

    def note(self, publisher: Origin, envelope: Envelope) -> None:
        self.notes.append((publisher, envelope, len(self.made.delivered)))


def test_a_ledger_notes_what_comes_and_what_goes() -> None:
    """Before it is delivered, and only while it is registered; each by itself."""

    async def main() -> None:
        made = Made()
        await made.join()
        one, two = Noted(made), Noted(made)
        made.exchange.origin = ME
        made.exchange.publish(A, b"before")
        made.exchange.note(one)
        made.exchange.publish(A, b"here")
        made.exchange.note(two)
        came = Envelope(B, b"there", number=9)
        made.road.on_envelope(came, OTHER)
        made.exchange.unnote(one)
        made.exchange.unnote(one)
        made.exchange.publish(B, b"last", binary=True)
        made.exchange.unnote(two)
        made.exchange.publish(B, b"after")
        made.road.on_envelope(came, OTHER)
        noted = [(OTHER, came, 0), (ME, Envelope(B, b"last", binary=True, number=3), 1)]
        assert [(ME, Envelope(A, b"here", number=2), 0), noted[0]] == one.notes
        assert noted == two.notes
        await made.exchange.close(1)

    on_the_clock(main)


@pytest.mark.parametrize("settles", [(True, True), (True, False), (False, True)])
def test_it_has_settled_when_all_have(settles: tuple[bool, bool]) -> None:
    """What was published and subscribed to in this tick is written before."""

    async def main() -> None:
        made, broker = Made(), Written()
        assert await made.exchange.settle(1)
        made.bus.settles, broker.settles = settles
        await made.join()
        await made.join("broker", broker)
        made.exchange.subscribe(A)
        assert all(settles) == await made.exchange.settle(3)
        for bus in (made.bus, broker):
            first, second, *_, last = bus.told()
            assert [("+", A), "flush", ("settle", 3)] == [first, second, last]
        await made.exchange.close(1)
        assert not await made.exchange.settle(1)

    on_the_clock(main)
