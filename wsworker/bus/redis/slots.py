"""Slots: which server of a Redis or Valkey cluster has a channel.

A cluster deals its 16384 slots out among its primaries. A channel's slot is a checksum of its name, or, if there is
something between the first { and the next } of it, of that alone. CLUSTER SLOTS says who has which:

    [first slot, last slot, [host, port, ...] of the primary, [host, port, ...] of each replica ...] ...

A server may not know its own name, and leaves it empty: it is then the one that has answered. Redis cluster
specification, sections "Key distribution model" and "Hash tags".

A single server is a layout too, in which it has everything.
"""

from __future__ import annotations

from binascii import crc_hqx
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final

from wsworker.brokers import Server
from wsworker.errors import WireError

SLOTS: Final = 16384
_MOST_NAMES: Final = 10_000
"""Tried until each server of a cluster has one; if the prefix has a tag, all channels are one server's, and none is."""


def slot_of(channel: bytes) -> int:
    """Return the slot of a channel."""
    begin = channel.find(b"{") + 1
    end = channel.find(b"}", begin) if begin else -1
    # an empty tag is none
    return crc_hqx(channel[begin:end] if end > begin else channel, 0) % SLOTS


class Layout:
    """Who has what. ranges: first and last slot, and whose they are; what nobody has is missing."""

    def __init__(self, ranges: Iterable[tuple[int, int, Server]]) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [first for first, _, _ in self._ranges]
        self.servers: Final = frozenset(server for _, _, server in self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]

    def server(self, channel: bytes) -> Server | None:
        """Return who has a channel, None for nobody."""
        if len(self._ranges) == 1 and self._ranges[0][1] - self._ranges[0][0] == SLOTS - 1:
            return self._ranges[0][2]
        slot = slot_of(channel)
        position = bisect_right(self._firsts, slot) - 1
        if position < 0 or self._ranges[position][1] < slot:
            return None
        return self._ranges[position][2]


def alone(server: Server) -> Layout:
    """Return the layout of a server that is no cluster."""
    return Layout([(0, SLOTS - 1, server)])


def probe_names(layout: Layout, servers: Iterable[Server], channel: Callable[[str], bytes]) -> dict[Server, bytes]:
    """Return for each of some servers a channel that it has; none for one that so soon no name is found for.

    channel: gives the channel of an ending of the name.
    """
    missing = set(servers)
    found: dict[Server, bytes] = {}
    for number in range(_MOST_NAMES):
        if not missing:
            break
        name = channel(f".{number}" if number else "")
        server = layout.server(name)
        if server in missing:
            missing.discard(server)
            found[server] = name
    return found


def read_layout(reply: object, asked: Server) -> Layout:
    """Return what CLUSTER SLOTS has answered. asked: who has answered it. Raises WireError."""
    try:
        layout = Layout(_range(entry, asked) for entry in _items(reply))
    except (IndexError, TypeError, ValueError):
        raise WireError("what it says of its cluster makes no sense") from None
    if not layout.servers:
        raise WireError("nobody in its cluster has any slots")
    return layout


def _range(entry: object, asked: Server) -> tuple[int, int, Server]:
    first, last, primary, *_ = _items(entry)
    host, port, *_ = _items(primary)
    if not (isinstance(first, int) and isinstance(last, int) and isinstance(port, int)):
        raise TypeError("numbers are wanted")
    if not (0 <= first <= last < SLOTS and 0 < port < 65536):
        raise ValueError("out of range")
    name = host.decode() if isinstance(host, bytes) else ""
    # "?" is how a server says that a name was wanted and it has none
    return first, last, Server(asked.host if name in ("", "?") else name, port)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list is wanted")
    return value
