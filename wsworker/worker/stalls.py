"""Stalls: for how long user code has kept the event loop, so that every other client of the worker has waited.

Whoever calls user code takes the time anyway, and tells here what was long. So the calls that are quick, which are
nearly all, cost nothing more. The longest is for the beat: that one only sees a stall that it comes too late by, and of
two tenths of a second in the middle between two beats nothing is left when it is due.
"""

from __future__ import annotations

import logging
from typing import Final

from wsworker.counters import Counters

LONG_SECONDS: Final = 0.01
"""What is shorter need not be told."""

SLOW_SECONDS: Final = 0.1
"""What takes longer is logged."""


class Stalls:
    """The stalls of one worker. slot: for the log line; counters: where slow callbacks are counted."""

    def __init__(self, slot: int, counters: Counters, log: logging.Logger) -> None:
        self._slot = slot
        self._counters = counters
        self._log = log
        self._longest = 0.0

    def tell(self, name: str, place: str, seconds: float) -> None:
        """Know of a call, or of some in a row, and log it if it was slow. You must tell all above LONG_SECONDS.

        name: of the callback; place: where it is written, such as "app.py:9".
        """
        self._longest = max(self._longest, seconds)
        if seconds > SLOW_SECONDS:
            self._counters.slow_callbacks += 1
            self._log.warning("%s blocked worker %d for %d ms (%s)", name, self._slot, seconds * 1000, place)

    def take_longest(self) -> float:
        """Return the seconds of the longest that was told since the last time, 0.0 if there was none."""
        longest, self._longest = self._longest, 0.0
        return longest
