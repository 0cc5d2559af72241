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
from typing import Final, NamedTuple

from wsworker.sections import WebSocketConfig

FRAME_BYTES: Final = 14
"""The longest header of a frame."""

EMPTIED_SECONDS: Final = 1.0
"""So long after we read again all is read that was sent before."""

ROUNDING: Final = 0.001
"""Of a message or a byte: more than the arithmetic of times loses in years."""


class QuotaState(NamedTuple):
    """A quota that is moved to another clock: how long ago its moments were, in seconds, below 0 for the future.

    messages, bytes: up to which the rate is used up; stopped: since when what is read may have been sent; emptied: all
    that was sent before is read, None if nothing is read now. rate_messages, rate_bytes, burst_bytes: the limits.
    """

    messages: float
    bytes: float
    stopped: float
    emptied: float | None
    rate_messages: int
    rate_bytes: int
    burst_bytes: int


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

    def freeze(self, now: float) -> QuotaState:
        """Return what thaw needs to go on from here, whatever its clock says."""
        settings = self._settings
        return QuotaState(
            messages=now - self._messages_until,
            bytes=now - self._bytes_until,
            stopped=now - self._stopped_at,
            emptied=None if self._emptied_at == inf else now - self._emptied_at,
            rate_messages=settings.rate_messages,
            rate_bytes=settings.rate_bytes,
            burst_bytes=_burst_bytes(settings),
        )

    @classmethod
    def thaw(cls, state: QuotaState | None, settings: WebSocketConfig, now: float) -> Quota | None:
        """Return a quota that goes on where another was frozen, None if there is no limit now.

        state: None if there was no limit. A limit with other numbers begins anew: a client that kept to the old one has
        not broken the new one yet.
        """
        if not (settings.rate_messages or settings.rate_bytes):
            return None
        quota = cls(settings, now)
        if state is None:
            return quota
        quota._stopped_at = now - state.stopped
        quota._emptied_at = inf if state.emptied is None else now - state.emptied
        # anew, it is used up as far as what is read now was sent at the earliest: what waits in the kernel was allowed
        quota._messages_until = quota._bytes_until = quota._stopped_at
        if state.rate_messages == settings.rate_messages:
            quota._messages_until = now - state.messages
        if (state.rate_bytes, state.burst_bytes) == (settings.rate_bytes, _burst_bytes(settings)):
            quota._bytes_until = now - state.bytes
        return quota

    def take_bytes(self, count: int, now: float) -> str | None:
        """Take the bytes of one read."""
        settings = self._settings
        rate = settings.rate_bytes
        if not rate:
            return None
        until = max(self._bytes_until, self._since(now)) + count / rate
        if (until - now) * rate > _burst_bytes(settings) + ROUNDING:
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


def _burst_bytes(settings: WebSocketConfig) -> int:
    """Return how many bytes may come at once."""
    return max(settings.rate_bytes, settings.max_size + FRAME_BYTES)
