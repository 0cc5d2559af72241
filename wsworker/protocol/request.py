"""Request and Address: what the user's callbacks may read of a client's handshake.

A connection may live for days, so Request keeps the head as one bytes object and parses each part when it is first
asked for: most applications look at the path, few at a cookie.

Nothing is decoded beyond what HTTP says: the path keeps its percent signs, header and cookie values are Latin-1, one
character per byte, as they stood on the wire. The query alone is unquoted, as forms and URLSearchParams write it.
All parsing takes linear time: a head is at most 16 KiB, but it comes from a stranger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from urllib.parse import parse_qsl


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client connects from; prints as host:port, [host]:port for IPv6, and unix for a unix socket's peer.

    host: an IP address, or "unix"; port: 0 for a unix socket's peer, and behind a proxy that does not tell it.
    """

    host: str
    port: int

    def __str__(self) -> str:
        if self.host == "unix":
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Request:
    """What a client asked for when it connected. It does not change, and reading it never fails.

    path: as the client sent it, without the query; query: the last value of a repeated name; headers: names in any
    case, repeated ones joined by ", "; cookies: the first value of a repeated name, because browsers send the one
    that belongs to the longest path first (RFC 6265 section 5.4); remote: the client's address; subprotocols: what it
    offered, in its order.
    """

    def __init__(self, head: bytes, remote: Address) -> None:
        self._head = head
        self.remote = remote

    def __repr__(self) -> str:
        return f"<Request {self.path} from {self.remote}>"

    @cached_property
    def path(self) -> str:
        """The path as sent, percent signs included, without the query."""
        return self._target.partition("?")[0]

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The query's names and values, unquoted; of a repeated name the last value."""
        return MappingProxyType(dict(parse_qsl(self._target.partition("?")[2], keep_blank_values=True)))

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers by name, in any case; repeated ones are joined by ", ". Iterating gives names in lower case."""
        return _Headers(self._fields)

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name, a value's own quotes removed; of a repeated name the first value."""
        cookies: dict[str, str] = {}
        for line in _values(self._fields, "cookie"):
            for pair in line.split(";"):
                name, equals, value = (part.strip(" \t") for part in pair.partition("="))
                if name and equals:
                    cookies.setdefault(name, _unquoted(value))
        return MappingProxyType(cookies)

    @cached_property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offered, in its order."""
        return list_items(_values(self._fields, "sec-websocket-protocol"))

    def _hide_cookies(self) -> None:
        """Take out of the head, before anybody has read any of it, what a browser sends for its user by itself.

        Authorization is such a header as well: a page cannot set any for a WebSocket.
        """
        lines = self._head.split(b"\r\n")
        kept = (line for line in lines if line.partition(b":")[0].lower() not in (b"cookie", b"authorization"))
        self._head = b"\r\n".join(kept)

    @property
    def _target(self) -> str:
        return self._head.split(b" ", 2)[1].decode("ascii")

    @property
    def _fields(self) -> Iterator[tuple[str, str]]:
        lines = self._head.decode("latin-1").split("\r\n")
        for line in lines[1:-2]:  # after the request line, before the empty one and the nothing behind it
            name, _, value = line.partition(":")
            yield name.lower(), value.strip(" \t")


class _Headers(Mapping[str, str]):
    """A read-only mapping whose keys match in any case; built from (lower-case name, value) pairs."""

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        collected: dict[str, list[str]] = {}
        for name, value in fields:
            collected.setdefault(name, []).append(value)
        self._joined = {name: ", ".join(values) for name, values in collected.items()}

    def __getitem__(self, name: str) -> str:
        return self._joined[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)

    def __repr__(self) -> str:
        return repr(self._joined)


def list_items(values: Iterable[str]) -> tuple[str, ...]:
    """Return the items of a header that is a comma-separated list, in order, without the empty ones.

    values: one entry per occurrence of the header. Source: RFC 9110 section 5.6.1.
    """
    # one join and one split cost less than a loop over loops, and each handshake has several lists
    items = [item.strip(" \t") for item in ",".join(values).split(",")]
    return tuple(filter(None, items))


def _values(fields: Iterable[tuple[str, str]], wanted: str) -> list[str]:
    return [value for name, value in fields if name == wanted]


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] == '"'
    return value[1:-1] if quoted else value
