"""Gaps: what may be missing, collected, and logged and told at most once a second.

Whoever reloads its state because of a gap need not do it again for each message that is missing.

The first is told at once: it comes in its place in the order, and the later the app knows of it, the more newer
messages meet an old state. What others tell of without knowing how much is missing has no such place. Of a worker that
was killed all others of its machine tell, each on its own; so that waits a moment, in which the rest of it comes. To
tell of the first and leave out the rest would not do: it could be the next loss, of which the app must hear.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Final

from wsworker.bus.topics import Key
from wsworker.counters import ADAPTERS, Adapter, Counters

GAP_SECONDS: Final = 1.0
MOMENT_SECONDS: Final = 0.1
"""The workers of a machine find a dead one when the master has reaped it, each by a look of its own: see ties.py."""

_SEVERED: Final[Mapping[Adapter, str]] = {
    "mesh": "another worker has died, or its link was lost",
    "broker": "a worker of another machine has died, or the way to them was lost for a while",
}

logger = logging.getLogger("wsworker.bus")


class Gaps:
    """The gaps of one worker. context: of what is scheduled here; tell: called with their keys, None for all."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        counters: Counters,
        tell: Callable[[frozenset[Key] | None], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._counters = counters
        self._tell = tell
        self._keys: set[Key] | None = set()
        self._dropped = 0  # how many messages, as far as it is known
        self._adapters: set[Adapter] = set()  # that are concerned
        self._severed: set[Adapter] = set()  # by which a worker or a link was lost, and nobody knows with how many
        self._timer: asyncio.TimerHandle | None = None
        self._tell_due_at = 0.0  # by the timer, which cannot be asked: what uvloop calls at once is none
        self._told_at = -GAP_SECONDS

    def add(self, adapter: Adapter, keys: frozenset[Key] | None, count: int | None) -> None:
        """Collect one, and tell of it soon. keys, count: as for Sink.on_gap."""
        self._adapters.add(adapter)
        self._dropped += count or 0
        if not count:
            self._severed.add(adapter)
        if keys is None:
            self._keys = None
        elif self._keys is not None:
            self._keys |= keys
        waits = MOMENT_SECONDS if count == 0 else 0.0
        self._tell_at(max(self._told_at + GAP_SECONDS, self._loop.time() + waits))

    def close(self) -> None:
        """Tell no more. What was collected is logged, as nobody is left to be told."""
        if self._timer is not None:
            self._timer.cancel()
            self._take("nobody is told any more")

    def _tell_at(self, when: float) -> None:
        """Tell then, or before if that is due."""
        if self._timer is not None:
            if self._tell_due_at <= when:
                return
            self._timer.cancel()
        self._tell_due_at = when
        self._timer = self._loop.call_at(when, self._tell_now, context=self._context)

    def _tell_now(self) -> None:
        self._told_at = self._loop.time()
        self._tell(self._take("on_bus_gap tells the app"))

    def _take(self, what_follows: str) -> frozenset[Key] | None:
        """Count and log what was collected, and begin anew; return whose it was. what_follows: a clause."""
        for adapter in self._adapters:
            self._counters.bus_gaps[adapter] += 1
        logger.warning("messages of %s may be missing: %s (%s)", self._whose(), self._why(), what_follows)
        keys = None if self._keys is None else frozenset(self._keys)
        self._keys = set()
        self._timer = None
        self._dropped = 0
        self._adapters.clear()
        self._severed.clear()
        return keys

    def _whose(self) -> str:
        if self._keys is None:
            return "any topic"
        return "1 topic or user" if len(self._keys) == 1 else f"{len(self._keys)} topics or users"

    def _why(self) -> str:
        reasons = [_SEVERED[adapter] for adapter in ADAPTERS if adapter in self._severed]
        if self._dropped:
            were = "1 was dropped on its way" if self._dropped == 1 else f"{self._dropped} were dropped on their way"
            reasons.append(f"{were} to this worker")
        return "; ".join(reasons)
