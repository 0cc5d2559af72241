"""Quota: how much one client may send in a second, for those limits that are set.

A client may send what a second allows at once, and of bytes at least one whole message, since it cannot send less. Over
it the connection is closed with 1008 and a reason that names the setting, by which the author of a client finds out.

What counts is when it was sent, not when we come to read it: a client that keeps to its rate while our side does not
read for a minute has a minute's worth waiting in the kernel. So a limit is kept as the moment up to which the client
has used up its rate, which each message moves on by its share (the generic cell rate algorithm, ITU-T I.371). A moment
in the past is a right to send more; it is forgotten as time goes by, but not the time in which we do not read, nor the
second behind that, in which the kernel is emptied. Over any span this lets no more through than a bucket would.
"""

from __future__ import annotations

from math import inf
from typing import Final

from wsworker.sections import WebSocketConfig

FRAME_BYTES: Final = 14
"""The longest header of a frame."""

EMPTIED_SECONDS: Final = 1.0
"""So long after we read again all is read that was sent before."""

ROUNDING: Final = 0.001
"""Of a message or a byte: more than the arithmetic of times loses in years."""


class Quota:
    """The quota of one connection. now: seconds on the clock of the loop, here and in what follows.

    The verdict of each method is None, or the reason for which the connection must be closed.
    """

    __slots__ = ("_bytes_until", "_emptied_at", "_messages_until", "_settings", "_stopped_at")

    def __init__(self, settings: WebSocketConfig, now: float) -> None:
        self._settings = settings
        self._messages_until = now
        self._bytes_until = now
        self._stopped_at = now
        self._emptied_at = now

    def take_bytes(self, count: int, now: float) -> str | None:
        """Take the bytes of one read."""
        settings = self._settings
        rate = settings.rate_bytes
        if not rate:
            return None
        until = max(self._bytes_until, self._since(now)) + count / rate
        if (until - now) * rate > max(rate, settings.max_size + FRAME_BYTES) + ROUNDING:
            return f"more than websocket.rate_bytes = {rate}"
        self._bytes_until = until
        return None

    def take_messages(self, count: int, now: float) -> tuple[int, str | None]:
        """Take messages; return how many of them are within the quota, and the verdict on the next one.

        You must give back those that are not handled now, since they come again.
        """
        rate = self._settings.rate_messages
        if not rate:
            return count, None
        until = max(self._messages_until, self._since(now))
        taken = min(count, int((now - until + 1.0) * rate + ROUNDING))
        self._messages_until = until + taken / rate
        return taken, None if taken == count else f"more than websocket.rate_messages = {rate}"

    def give_back(self, count: int) -> None:
        """Take messages back that were taken."""
        if rate := self._settings.rate_messages:
            self._messages_until -= count / rate

    def mind_reading(self, reading: bool, now: float) -> None:
        """Know that the client is read from again, or not any more."""
        if reading:
            self._emptied_at = now + EMPTIED_SECONDS
            return
        if now >= self._emptied_at:
            self._stopped_at = now
        self._emptied_at = inf

    def _since(self, now: float) -> float:
        """Return the earliest moment at which what is read now may have been sent."""
        return now if now >= self._emptied_at else self._stopped_at
