"""Early: what is published before it is known whether the broker can be reached.

A worker answers its first clients while it dials, and what they publish is for other machines too.
"""

from __future__ import annotations

from wsworker.bus.broker.payload import EXTRA_BYTES
from wsworker.bus.topics import Envelope


class Early:
    """The queue. limit: bytes; size: how many wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[Envelope] = []
        self.size = 0

    def push(self, envelope: Envelope) -> bool:
        """Keep a message; False if it does not fit. The first one fits however large it is."""
        size = EXTRA_BYTES + len(envelope.body)
        if self._waiting and self.size + size > self._limit:
            return False
        self._waiting.append(envelope)
        self.size += size
        return True

    def take(self) -> list[Envelope]:
        """Return all that waits, oldest first; nothing waits any more."""
        waiting, self._waiting, self.size = self._waiting, [], 0
        return waiting
