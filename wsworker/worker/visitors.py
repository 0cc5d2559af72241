"""Visitors: how many connections each address has in this worker, and how fast it comes back for more.

Two limits, each off at 0. max_per_address bounds the connections that are open; rate_handshakes bounds the attempts,
and so also a client that connects, is refused and connects again. An IPv6 client has a whole /64 to choose addresses
from (RFC 6177), so that counts as one address.

What is kept must not grow with the number of strangers. A count of connections is forgotten with the last of them. A
bucket of the rate is forgotten when it is full again, since a new one is full as well. To find those without a sweep,
there are two generations: a bucket that is used moves to the young; each time an empty bucket would have become full,
the young become the old, and the old, unused for that long, are dropped. If more than MOST_GROUPS come in one such
time, the generations change early: some of that crowd get a fresh bucket, and memory stays bounded. To refuse newcomers
instead was rejected, because then a crowd of attackers would keep everybody out.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from wsworker.protocol.forwarded import ip_of
from wsworker.protocol.rates import Bucket

BURST_SECONDS: Final = 1.0
"""An address may use so many seconds of its rate at once, and at least one handshake."""

MOST_GROUPS: Final = 8192
"""Groups with a bucket in one generation; both together take some 10 MiB at most."""


def group(host: str) -> str:
    """Return what counts as one address: an IPv4 address, the /64 of an IPv6 one, unix for peers of unix sockets.

    host: as in Address; an IPv4-mapped IPv6 address is the IPv4 address.
    """
    if ":" not in host:
        return host
    address = ip_of(host)
    if address is None or isinstance(address, IPv4Address):
        return str(address or host)
    return f"{IPv6Address(address.packed[:8] + bytes(8))}/64"


class Visitors:
    """The connections and handshakes of each address. max_per_address: connections; rate_handshakes: a second; 0: off.

    A worker sees its own connections only, so with N workers an address may have up to N times as many.
    """

    __slots__ = ("_burst", "_max", "_old", "_places", "_rate", "_turn_at", "_turn_seconds", "_young")

    def __init__(self, max_per_address: int, rate_handshakes: float) -> None:
        self._max = max_per_address
        self._places: dict[str, int] = {}
        self._rate = rate_handshakes
        self._burst = max(1.0, rate_handshakes * BURST_SECONDS)
        self._turn_seconds = self._burst / rate_handshakes if rate_handshakes else 0.0
        self._turn_at = 0.0
        self._young: dict[str, Bucket] = {}
        self._old: dict[str, Bucket] = {}

    def knock(self, host: str, now: float) -> bool:
        """Count a handshake; False: this address comes too often, refuse it. now: seconds on a monotonic clock."""
        if not self._rate:
            return True
        if now >= self._turn_at or len(self._young) >= MOST_GROUPS:
            self._old, self._young = self._young, {}
            self._turn_at = now + self._turn_seconds
        name = group(host)
        bucket = self._young.get(name) or self._old.pop(name, None) or Bucket(self._rate, self._burst, now)
        self._young[name] = bucket
        return bucket.take(1.0, now)

    def enter(self, host: str) -> bool:
        """Give a connection its place, which you must give back with leave(); False: this address has all it may."""
        if not self._max:
            return True
        name = group(host)
        taken = self._places.get(name, 0)
        if taken >= self._max:
            return False
        self._places[name] = taken + 1
        return True

    def return_to(self, host: str) -> None:
        """Give a connection that comes from another worker its place, even if its address has all it may."""
        if self._max:
            name = group(host)
            self._places[name] = self._places.get(name, 0) + 1

    def leave(self, host: str) -> None:
        """Give a place back; call it exactly once for each place that was given, with the same host."""
        if not self._max:
            return
        name = group(host)
        taken = self._places[name]
        if taken > 1:
            self._places[name] = taken - 1
        else:
            del self._places[name]
