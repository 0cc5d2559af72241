"""Quota: how much one client may send in a second, for those limits that are set.

Each is a token bucket that holds what may come at once: one second's worth, and of bytes at least one whole message,
since a client cannot send less. Over it the connection is closed with 1008 and a reason that names the setting, by
which the author of a client finds out.
"""

from __future__ import annotations

from wsworker.protocol.rates import Bucket
from wsworker.sections import WebSocketConfig

FRAME_BYTES = 14
"""The longest header of a frame."""


class Quota:
    """The quota of one connection. now: seconds on the clock of the loop, here and in what follows.

    The verdict of each method is None, or the reason for which the connection must be closed.
    """

    __slots__ = ("_bytes", "_messages", "_settings")

    def __init__(self, settings: WebSocketConfig, now: float) -> None:
        self._settings = settings
        self._messages = bucket(settings.rate_messages, 1, now)
        self._bytes = bucket(settings.rate_bytes, settings.max_size + FRAME_BYTES, now)

    def take_bytes(self, count: int, now: float) -> str | None:
        """Take the bytes of one read."""
        if self._bytes is None or self._bytes.take(count, now):
            return None
        return f"more than websocket.rate_bytes = {self._settings.rate_bytes}"

    def take_messages(self, count: int, now: float) -> tuple[int, str | None]:
        """Take messages; return how many of them are within the quota, and the verdict on the next one."""
        if self._messages is None:
            return count, None
        for taken in range(count):
            if not self._messages.take(1.0, now):
                return taken, f"more than websocket.rate_messages = {self._settings.rate_messages}"
        return count, None


def bucket(rate: int, least: int, now: float) -> Bucket | None:
    """Return a full bucket that holds what a second brings, and at least so much; None for the rate 0, which is off."""
    return Bucket(rate, max(rate, least), now) if rate else None
