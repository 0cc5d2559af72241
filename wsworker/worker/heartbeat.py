"""The heartbeat: how a worker shows that it lives, by what its loop writes into its seat of the shared table.

Once a second the loop itself beats: it writes the time, how long it was kept, and the counters. A loop that is blocked
does not beat, and the master sees that without asking. A last beat, when the loop is over, saves what was counted since
the one before.

How many are connected, and whether there is room for more, cannot wait for a beat: see Seat.count_connections.
The heartbeat of a client is another thing: see pulse.py.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from wsworker import log
from wsworker.counters import Adapter, Counters
from wsworker.stats import Reach, Seat
from wsworker.worker.accept import Acceptor
from wsworker.worker.hub import Hub

BEAT_SECONDS: Final = 1.0


class Heartbeat:
    """Writes the seat of one worker. Until it knows hub and acceptor nobody is connected, and nobody is turned away."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seat: Seat, counters: Counters) -> None:
        self._loop = loop
        self._seat = seat
        self._counters = counters
        self._hub: Hub | None = None
        self._acceptor: Acceptor | None = None
        self._due_at = 0.0

    def start(self) -> None:
        """Beat at once, and every BEAT_SECONDS from now on."""
        self._due_at = self._loop.time()
        self._keep_beating()

    def know(self, hub: Hub, acceptor: Acceptor) -> None:
        """Write from now on what these have to say; you must call show() whenever one of them has changed."""
        self._hub = hub
        self._acceptor = acceptor

    def beat(self) -> None:
        """Write the seat, with how long the loop was kept; a stuck log is tried again."""
        late = max(0.0, self._loop.time() - self._due_at)
        # a callback between two beats may have kept it for longer than this one is late
        lag = max(late, self._hub.stalls.take_longest() if self._hub else 0.0)
        log.keep_enabled()
        log.flush()
        self._counters.log_dropped = log.dropped()
        self._counters.lags.add(late)
        buffered = self._hub.buffered if self._hub else 0
        bus = _bus(self._hub) if self._hub else {}
        now_ns, lag_us = time.monotonic_ns(), int(lag * 1e6)
        self._seat.write(now_ns, lag_us, self._connections, self._full, self._counters, buffered, bus)

    def show(self) -> None:
        """Write at once how many are connected and whether that is all."""
        self._seat.count_connections(self._connections, self._full)

    def _keep_beating(self) -> None:
        try:
            self.beat()
        finally:
            # whatever became of this one: a worker that beats no more is taken for hung
            self._due_at = self._loop.time() + BEAT_SECONDS
            self._loop.call_at(self._due_at, self._keep_beating)

    @property
    def _connections(self) -> int:
        return len(self._hub.worker.connections) if self._hub else 0

    @property
    def _full(self) -> bool:
        """Whether nobody is accepted for now."""
        return (self._hub is not None and self._hub.full) or (self._acceptor is not None and self._acceptor.short)


def _bus(hub: Hub) -> dict[Adapter, Reach]:
    """Return how the adapters in use stand; their counters are brought up to date."""
    return {
        adapter: Reach(up, stats.links, stats.queued_bytes, stats.lag_seconds, stats.keys)
        for adapter, (stats, up) in hub.post.exchange.count().items()
    }
