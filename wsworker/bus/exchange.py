"""The exchange: between the hub, which knows connections, and the adapter, which knows other workers.

What changes in the middle of a tick goes out at its end, once. A key that nobody here wants any more is given up half a
second late: pages are changed and connections come again, and each time every other worker would have to be told.

Gaps are collected, and logged and told at most once a second: whoever reloads its state because of one need not do it
again for each message that is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from itertools import takewhile
from typing import Final

from wsworker.bus.bus import Bus
from wsworker.bus.topics import Envelope, Key
from wsworker.counters import Counters

LATE_SECONDS: Final = 0.5
GAP_SECONDS: Final = 1.0

logger = logging.getLogger("wsworker.bus")


class Exchange:
    """The way out of one hub, and back into it; a Sink.

    context: of what is scheduled here. deliver: called with what others have published; publish: called with what a
    program outside wants published, returns whether it could be; tell: called with the keys of a gap, None for all.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        counters: Counters,
        deliver: Callable[[Envelope], None],
        publish: Callable[[Envelope], bool],
        tell: Callable[[frozenset[Key] | None], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._counters = counters
        self._deliver = deliver
        self._publish = publish
        self._tell = tell
        self._bus: Bus | None = None
        self._flushes = False
        self._leaving: dict[Key, float] = {}  # since when nobody wants them, oldest first
        self._leaving_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._gap: frozenset[Key] | None = frozenset()
        self._gap_dropped = 0  # how many messages, as far as it is known
        self._gap_severed = False  # a worker or a link was lost, and nobody knows with how many
        self._gap_timer: asyncio.TimerHandle | None = None
        self._told_at = -GAP_SECONDS

    async def join(self, bus: Bus) -> None:
        """Use an adapter from now on. Nothing is subscribed to yet. You must call close at the end."""
        self._bus = bus
        await bus.start(self)

    async def close(self, grace_seconds: float) -> None:
        """End in good order."""
        bus, self._bus = self._bus, None
        self._closed = True
        for timer in (self._gap_timer, self._leaving_timer):
            if timer is not None:
                timer.cancel()
        if self._gap_timer is not None:
            # there is nobody left to be told
            self._gap_timer = None
            self._log_gap()
        if bus is not None:
            bus.flush()
            await bus.close(grace_seconds)

    def count(self) -> int:
        """Bring the counters up to date; return how many others can be reached."""
        if self._bus is None:
            return 0
        stats = self._bus.stats()
        self._counters.bus_dropped = stats.dropped
        self._counters.bus_reconnects = stats.reconnects
        return stats.links

    # What the hub says

    def subscribe(self, key: Key) -> None:
        """Somebody here wants this key, and nobody did before."""
        still_ours = self._leaving.pop(key, None) is not None
        if self._bus is not None and not still_ours:
            self._bus.subscribe((key,))
            self._flush_soon()

    def unsubscribe(self, key: Key) -> None:
        """Nobody here wants this key any more."""
        if self._bus is None:
            return
        self._leaving[key] = now = self._loop.time()
        self._unsubscribe_at(now + LATE_SECONDS)

    def publish(self, envelope: Envelope) -> None:
        """Send to every other worker that wants it."""
        self._counters.bus_published += 1
        if self._bus is not None:
            self._bus.publish(envelope)
            self._flush_soon()

    # What the adapter says

    def on_envelope(self, envelope: Envelope) -> None:
        """Deliver what another worker has published."""
        self._counters.bus_received += 1
        self._deliver(envelope)

    def on_outside(self, envelope: Envelope) -> bool:
        """Publish what a program outside has handed in; False if it cannot be published, or no more."""
        return not self._closed and self._publish(envelope)

    def on_gap(self, keys: frozenset[Key] | None, count: int | None) -> None:
        """Collect what may be missing, and tell of it soon."""
        self._counters.bus_gaps += 1
        self._gap_dropped += count or 0
        self._gap_severed = self._gap_severed or count is None
        self._gap = None if self._gap is None or keys is None else self._gap | keys
        if self._gap_timer is None:
            self._gap_timer = self._loop.call_at(self._told_at + GAP_SECONDS, self._tell_gap, context=self._context)

    def _tell_gap(self) -> None:
        self._told_at = self._loop.time()
        self._gap_timer = None
        self._log_gap()
        keys, self._gap = self._gap, frozenset()
        self._gap_dropped, self._gap_severed = 0, False
        self._tell(keys)

    def _log_gap(self) -> None:
        keys, dropped = self._gap, self._gap_dropped
        whose = "any topic" if keys is None else "1 topic or user" if len(keys) == 1 else f"{len(keys)} topics or users"
        reasons = ["another worker has died, or its link was lost"] if self._gap_severed else []
        if dropped:
            were = "1 was dropped on its way" if dropped == 1 else f"{dropped} were dropped on their way"
            reasons.append(f"{were} to this worker")
        logger.warning("messages of %s may be missing: %s (on_bus_gap tells the app)", whose, "; ".join(reasons))

    def _flush_soon(self) -> None:
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        self._flushes = False
        if self._bus is not None:
            self._bus.flush()

    def _unsubscribe_at(self, when: float) -> None:
        # one timer, however often keys come and go
        if self._leaving_timer is None:
            self._leaving_timer = self._loop.call_at(when, self._unsubscribe_late, context=self._context)

    def _unsubscribe_late(self) -> None:
        self._leaving_timer = None
        if self._bus is None:
            return
        # a timer may fire up to the clock's resolution early
        until = self._loop.time() - LATE_SECONDS + 0.01
        late = [key for key, _ in takewhile(lambda item: item[1] < until, self._leaving.items())]
        for key in late:
            del self._leaving[key]
        if late:
            self._bus.unsubscribe(late)
            self._flush_soon()
        if self._leaving:
            self._unsubscribe_at(next(iter(self._leaving.values())) + LATE_SECONDS)
