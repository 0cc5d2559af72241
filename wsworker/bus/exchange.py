"""The exchange: between the hub, which knows connections, and the adapters, which know other workers.

There are two at most: the mesh reaches the workers of this machine, a broker those of others. Either leaves out whom
the other one reaches, so a message takes one road to each worker, and a broker that is down is no trouble for the rest.

What is published here is counted: by its number others tell it from what they have had, see ledger.py.

What changes in the middle of a tick goes out at its end, once. A key that nobody here wants any more is given up half a
second late: pages are changed and connections come again, and each time every other worker would have to be told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from itertools import takewhile
from typing import Final, Protocol

from wsworker.bus.bus import Bus, BusStats
from wsworker.bus.gaps import Gaps
from wsworker.bus.topics import Envelope, Key, Origin
from wsworker.counters import Adapter, Counters
from wsworker.notices import Notices

LATE_SECONDS: Final = 0.5

logger = logging.getLogger("wsworker.bus")


class Ledger(Protocol):
    """Who writes down what comes, see ledger.py."""

    def note(self, publisher: Origin, envelope: Envelope) -> None:
        """Know that a message was received, or published."""


class Trunk:
    """One adapter in use, and its Sink. name: by which it counts; shown: by which people know it.

    up: whether its broker can be reached; is_told_down: whether the log says that it cannot; closed: whether nothing
    goes out by it any more; undeliverable: how much has come that was no message.
    """

    def __init__(self, exchange: Exchange, name: Adapter, bus: Bus, shown: str) -> None:
        self._exchange = exchange
        self.name: Final = name
        self.bus: Final = bus
        self._shown = shown
        self.up = False
        self.is_told_down = False
        self.closed = False
        self.undeliverable = 0

    def count(self, counters: Counters, notices: Notices) -> BusStats:
        """Bring the counters up to date; return what the adapter has seen."""
        stats = self.bus.stats()
        counters.bus_sent[self.name] = stats.sent
        counters.bus_reconnects[self.name] = stats.reconnects
        counters.bus_refused[self.name] = stats.refused + self.undeliverable
        lost = stats.dropped["full"]
        if lost > counters.bus_dropped[f"{self.name}:full"]:
            # all since the start: a line tells of more than what was lost since the last look
            text = "the queue to %s was full (bus.peer_queue); %d messages for others were dropped so far"
            notices.tell(f"full {self.name}", text, self._shown, lost, level=logging.WARNING)
        for cause, count in stats.dropped.items():
            # who has no such cause has nothing to count there
            if count:
                counters.bus_dropped[f"{self.name}:{cause}"] = count
        return stats

    def on_envelope(self, envelope: Envelope, publisher: Origin) -> None:
        """Deliver what another worker has published."""
        self.undeliverable += not self._exchange.received(self.name, publisher, envelope)

    def on_outside(self, envelope: Envelope) -> bool:
        """Publish what a program outside has handed in; False if it cannot be published, or no more."""
        return self._exchange.handed_in(envelope)

    def on_gap(self, keys: frozenset[Key] | None, count: int | None) -> None:
        """Have what may be missing told soon."""
        self._exchange.missed(self.name, keys, count)

    def on_debt(self) -> None:
        """Have other machines be told, as a worker that has left or died could not."""
        self._exchange.owed()

    def on_state(self, up: bool, why: str) -> None:
        """Say it in the log."""
        self.up = up
        self.is_told_down = not up
        if up:
            logger.info("linked with %s", self._shown)
        else:
            text = (
                "%s is out of reach: %s; until it is back, messages stay on this machine, and it is tried every second"
            )
            logger.warning(text, self._shown, why)


class Exchange:
    """The way out of one hub, and back into it.

    context: of what is scheduled here. deliver: called with what others have published and who has, returns whether it
    could be delivered; publish: called with what a program outside wants published, returns whether it could be; wants:
    returns whether anybody here wants a key; tell: called with the keys of a gap, None for all.

    origin: as whom this worker publishes; nobody until you set it, which you must before something is noted.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        counters: Counters,
        deliver: Callable[[Envelope, Origin], bool],
        publish: Callable[[Envelope], bool],
        wants: Callable[[Key], bool],
        tell: Callable[[frozenset[Key] | None], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._counters = counters
        self._deliver = deliver
        self._publish = publish
        self._wants = wants
        self._trunks: list[Trunk] = []
        self._number = 0  # of what was published last
        self._ledgers: tuple[Ledger, ...] = ()
        self._flushes = False
        self._leaving: dict[Key, float] = {}  # since when nobody wants them, oldest first
        self._leaving_timer: asyncio.TimerHandle | None = None
        self._closed = False  # from the first moment of close
        self._late = 0  # messages that were published since then
        self._untold = False  # to other machines, of what was lost, as the broker is closed
        self._gaps = Gaps(loop, context, counters, tell)
        self._notices = Notices(logger, loop.time)
        self.origin = Origin("", 0)

    async def join(self, name: Adapter, bus: Bus, shown: str) -> None:
        """Use an adapter from now on; nothing may be subscribed to yet. You must call close at the end.

        shown: what it is in the log, such as a URL without its password.
        """
        trunk = Trunk(self, name, bus, shown)
        self._trunks.append(trunk)
        await bus.start(trunk)

    async def linked(self, seconds: float) -> list[str]:
        """Wait, so long at most, until all others can be reached; return a clause about each adapter that lacks one.

        What on_state has told is left out: that is in the log already.
        """
        clauses = await asyncio.gather(*(trunk.bus.linked(seconds) for trunk in self._trunks))
        return [
            clause for trunk, clause in zip(self._trunks, clauses, strict=True) if clause and not trunk.is_told_down
        ]

    async def settle(self, seconds: float) -> bool:
        """Wait, so long at most, until every adapter has settled, see Bus; False if one has not, or when closed."""
        if self._closed:
            return False
        self._flush()
        return all(await asyncio.gather(*(trunk.bus.settle(seconds) for trunk in self._trunks)))

    @property
    def published(self) -> int:
        """The number of what was published here last."""
        return self._number

    def note(self, ledger: Ledger) -> None:
        """Have it note what comes and what is published here from now on, before it is delivered; once each."""
        self._ledgers = (*self._ledgers, ledger)

    def unnote(self, ledger: Ledger) -> None:
        """Have it note no more; harmless when repeated."""
        self._ledgers = tuple(other for other in self._ledgers if other is not ledger)

    async def close(self, grace_seconds: float) -> None:
        """End in good order. What is published from now on goes nowhere, as on_worker_stop was the last word.

        It is logged, and no gap: of what was said while the worker served, others have lost nothing by it. Nor does it
        go out as long as there is a way: who publishes without a pause would keep the queues from being empty.
        """
        self._closed = True
        self._gaps.close()
        if self._leaving_timer is not None:
            self._leaving_timer.cancel()
        # the mesh last: over it another worker is told what this one could not tell by the broker
        trunks = sorted(self._trunks, key=lambda trunk: trunk.name == "mesh")
        for trunk in trunks:
            self._flush()
            await trunk.bus.close(grace_seconds)
            trunk.closed, trunk.up = True, False
            self._untold = self._untold or trunk.bus.owes
        self._trunks = []
        if self._untold:
            logger.warning("other machines could not be told that messages of this one are missing")
        if self._late:
            text = "what was published after on_worker_stop went nowhere (%d messages); end there what publishes"
            logger.warning(text, self._late)
        for trunk in trunks:
            trunk.count(self._counters, self._notices)

    def let_go(self) -> None:
        """Close the descriptors of all adapters, in a process that user code has forked."""
        for trunk in self._trunks:
            trunk.bus.let_go()

    def count(self) -> dict[Adapter, tuple[BusStats, bool]]:
        """Bring the counters up to date; return what each adapter has seen, and whether its broker can be reached."""
        return {trunk.name: (trunk.count(self._counters, self._notices), trunk.up) for trunk in self._trunks}

    # What the hub says

    def subscribe(self, key: Key) -> None:
        """Somebody here wants this key, and nobody did before."""
        still_ours = self._leaving.pop(key, None) is not None
        if not still_ours and not self._closed:
            for trunk in self._trunks:
                trunk.bus.subscribe((key,))
            self._flush_soon()

    def unsubscribe(self, key: Key) -> None:
        """Nobody here wants this key any more."""
        if not self._trunks or self._closed:
            return
        self._leaving[key] = now = self._loop.time()
        self._unsubscribe_at(now + LATE_SECONDS)

    def publish(self, key: Key, body: bytes, *, binary: bool = False, closes: bool = False) -> None:
        """Send to every other worker that wants it; arguments as for Envelope. You must deliver it here afterwards."""
        self._counters.bus_published += 1
        self._number += 1
        envelope = Envelope(key, body, binary, closes, self._number)
        if self._ledgers:
            self._note(self.origin, envelope)
        if self._closed:
            self._late += 1
            return
        for trunk in self._trunks:
            trunk.bus.publish(envelope)
        self._flush_soon()

    # What the adapters say

    def received(self, adapter: Adapter, publisher: Origin, envelope: Envelope) -> bool:
        """Deliver what another worker has published; False if that cannot be done."""
        self._counters.bus_received[adapter] += 1
        if self._ledgers:
            self._note(publisher, envelope)
        return self._deliver(envelope, publisher)

    def handed_in(self, envelope: Envelope) -> bool:
        """Publish what a program outside has handed in; False if it cannot be published, or no more."""
        return not self._closed and self._publish(envelope)

    def missed(self, adapter: Adapter, keys: frozenset[Key] | None, count: int | None) -> None:
        """Collect what may be missing, and tell of it soon."""
        if self._closed:
            return
        if keys is not None:
            # who tells of a gap does not always know who wants what
            keys = frozenset(filter(self._wants, keys))
            if not keys:
                return
        self._gaps.add(adapter, keys, count)

    def owed(self) -> None:
        """Tell other machines that messages of this one may be missing."""
        for trunk in self._trunks:
            if trunk.name == "broker":
                trunk.bus.owe()
                self._untold = self._untold or trunk.closed
        self._flush_soon()

    def _note(self, publisher: Origin, envelope: Envelope) -> None:
        for ledger in self._ledgers:
            ledger.note(publisher, envelope)

    def _flush_soon(self) -> None:
        if self._trunks and not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        self._flushes = False
        for trunk in self._trunks:
            if trunk.closed:
                continue
            if trunk.name == "mesh" and self._untold:
                self._untold = not trunk.bus.owe()
            trunk.bus.flush()

    def _unsubscribe_at(self, when: float) -> None:
        # one timer, however often keys come and go
        if self._leaving_timer is None:
            self._leaving_timer = self._loop.call_at(when, self._unsubscribe_late, context=self._context)

    def _unsubscribe_late(self) -> None:
        self._leaving_timer = None
        # a timer may fire up to the clock's resolution early
        until = self._loop.time() - LATE_SECONDS + 0.01
        late = [key for key, _ in takewhile(lambda item: item[1] < until, self._leaving.items())]
        for key in late:
            del self._leaving[key]
        if late:
            for trunk in self._trunks:
                trunk.bus.unsubscribe(late)
            self._flush_soon()
        if self._leaving:
            self._unsubscribe_at(next(iter(self._leaving.values())) + LATE_SECONDS)
