"""Rates: a token bucket, which tells an even stream from a flood.

A bucket holds up to `burst` tokens and gains `rate` of them a second; what happens takes some out. So over any span of
s seconds at most burst + rate * s passes, in whatever pieces it comes. Counting per calendar second was rejected: it
lets twice the rate through around the turn of a second.

It runs for every message of a connection that has a limit, hence four plain numbers, one method and no object for the
limit. Looking at the clock only when the bucket is empty was rejected too: a bucket that has been full for an hour
would give its burst twice.
"""

from __future__ import annotations

from typing import NamedTuple


class BucketState(NamedTuple):
    """A bucket that is moved to another clock. left: tokens; age: seconds since they were counted."""

    left: float
    age: float


class Bucket:
    """A full bucket. rate: tokens a second, above 0; burst: tokens it holds; now: seconds on a monotonic clock."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def freeze(self, now: float) -> BucketState:
        """Return what thaw needs to go on from here, whatever its clock says."""
        return BucketState(self._left, now - self._at)

    @classmethod
    def thaw(cls, state: BucketState, rate: float, burst: float, now: float) -> Bucket:
        """Return a bucket that goes on where another was frozen; what it had beyond this burst is lost."""
        bucket = cls(rate, burst, now - state.age)
        bucket._left = min(state.left, burst)
        return bucket

    def take(self, amount: float, now: float) -> bool:
        """Take so many tokens and return True, or take nothing and return False: this is over the rate.

        amount: at least 0; more than the burst never passes. now: as in the constructor; one that is not later than
        the last counts as no time, so a caller may read the clock once for many messages.
        """
        left = self._left
        if now > self._at:
            left += (now - self._at) * self._rate
            if left > self._burst:
                left = self._burst
            self._at = now
        if amount > left:
            self._left = left
            return False
        self._left = left - amount
        return True
