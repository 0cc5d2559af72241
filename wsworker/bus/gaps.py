"""Gaps: what may be missing, collected, and logged and told at most once a second.

Whoever reloads its state because of a gap need not do it again for each message that is missing.
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
        self._keys: frozenset[Key] | None = frozenset()
        self._dropped = 0  # how many messages, as far as it is known
        self._adapters: set[Adapter] = set()  # that are concerned
        self._severed: set[Adapter] = set()  # by which a worker or a link was lost, and nobody knows with how many
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = -GAP_SECONDS

    def add(self, adapter: Adapter, keys: frozenset[Key] | None, count: int | None) -> None:
        """Collect one, and tell of it soon. keys, count: as for Sink.on_gap."""
        self._adapters.add(adapter)
        self._dropped += count or 0
        if count is None:
            self._severed.add(adapter)
        self._keys = None if self._keys is None or keys is None else self._keys | keys
        if self._timer is None:
            self._timer = self._loop.call_at(self._told_at + GAP_SECONDS, self._tell_now, context=self._context)

    def close(self) -> None:
        """Tell no more. What was collected is logged, as nobody is left to be told."""
        if self._timer is not None:
            self._timer.cancel()
            self._take()

    def _tell_now(self) -> None:
        self._told_at = self._loop.time()
        self._tell(self._take())

    def _take(self) -> frozenset[Key] | None:
        """Count and log what was collected, and begin anew; return whose it was."""
        for adapter in self._adapters:
            self._counters.bus_gaps[adapter] += 1
        logger.warning("messages of %s may be missing: %s (on_bus_gap tells the app)", self._whose(), self._why())
        keys, self._keys = self._keys, frozenset()
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
