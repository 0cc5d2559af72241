"""A query: which open connections somebody wants to see, in what order, and how many of them at most.

It travels from the command line through the master to every worker. A worker finds what fits, sorts it and sends no
more than the limit, so the master gets the best rows of each worker and puts them together by the same order. What
both have to agree on stands here: the filters, the orders, and the key that makes rows comparable.

A query comes from a program that may be of another version, or may be no program of ours. So each field is checked
when it arrives, and a row's value never breaks a comparison, whatever it is. Texts have a longest: the order that the
master makes of a query is somewhat longer than the command it came in, and must fit a line all the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Rank: TypeAlias = tuple[int, float, str]

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 10_000
"""As many as the master holds for one caller; whoever wants others has the filters."""

LONGEST: Final[Mapping[str, int]] = {"ip": 100, "path": 4096, "user": 255, "topic": 255}
"""Characters of each text. JSON may make six bytes of one, so all four are 28 KB on a line at most."""

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")

SORTS: Final[Mapping[str, str]] = {
    "worker": "slot",
    "remote": "remote",
    "path": "path",
    "user": "user",
    "since": "uptime",
    "idle": "idle",
    "in": "bytes_in",
    "out": "bytes_out",
    "sendq": "send_queue",
    "ping": "ping",
}
"""The orders, by the headings of the table, and the key of a row that each goes by."""

ASCENDING: Final = frozenset({"slot"})
"""Of other numbers the largest is the interesting one: what is busiest, fullest, slowest or oldest stands first."""


@dataclass(frozen=True)
class Query:
    """What is asked for; a filter that is None lets everything through.

    slot: only the workers of one slot; ip: a network such as 192.0.2.0/24, or one address; path: what the path begins
    with; user, topic: the very name; sort: one of SORTS; limit: 1 to MAX_LIMIT.
    """

    slot: int | None = None
    ip: str | None = None
    path: str | None = None
    user: str | None = None
    topic: str | None = None
    sort: str = "worker"
    limit: int = DEFAULT_LIMIT

    @property
    def network(self) -> Network | None:
        """The network of `ip`."""
        return None if self.ip is None else network(self.ip)


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "slot": (int, NoneType),
    "sort": (str,),
    "limit": (int,),
    **dict.fromkeys(LONGEST, (str, NoneType)),
}


def query_of(values: Mapping[str, Any]) -> Query:
    """Return the query with these values, one for each of its fields. Raises ValueError with what is wrong."""
    if values.keys() != {field.name for field in fields(Query)}:
        raise ValueError(f"a query has the fields {', '.join(field.name for field in fields(Query))}")
    for name, types in _TYPES.items():
        # type() and not isinstance(): a bool is an int to Python
        if type(values[name]) not in types:
            raise ValueError(f"{name} is a {type(values[name]).__name__}")
    query = Query(**values)
    if query.sort not in SORTS:
        raise ValueError(f"sort is none of {', '.join(SORTS)}")
    if not 1 <= query.limit <= MAX_LIMIT:
        raise ValueError(f"limit is not from 1 to {MAX_LIMIT}")
    for name in LONGEST:
        if values[name] is not None:
            check_text(name, values[name])
    return query


def check_text(name: str, text: str) -> None:
    """Raise ValueError, with what is wrong, if a text cannot be what connections are filtered by. name: of LONGEST."""
    if len(text) > LONGEST[name]:
        raise ValueError(f"{name} is longer than {LONGEST[name]} characters")
    if name == "ip":
        network(text)


def network(text: str) -> Network:
    """Return the network that a text names. Raises ValueError with what it should be.

    IPv4-mapped IPv6 is the IPv4 that it stands for, as in Address. Source: RFC 4291 section 2.5.5.2.
    """
    try:
        # strict would refuse 192.0.2.7/24, which people write for the network that this address is in
        where = ipaddress.ip_network(text, strict=False)
    except ValueError:
        examples = "192.0.2.0/24 or 2001:db8::/32"
        raise ValueError(f"{text!r} is neither an address nor a network such as {examples}") from None
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, and clients are listed without: leave it out")
    if isinstance(where, ipaddress.IPv6Network) and where.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((where.network_address.packed[-4:], where.prefixlen - _MAPPED.prefixlen))
    return where


def within(host: str, where: Network) -> bool:
    """Whether an address is in a network. host: as in Address; the peer of a unix socket is in none."""
    try:
        return ipaddress.ip_address(host) in where
    except ValueError:
        return False


def rank(query: Query, value: object) -> Rank:
    """Return the key by which rows are sorted, the smallest first; value: what the row has under SORTS[query.sort].

    Names are in their own order, numbers as ASCENDING says; a row without a value comes last.
    """
    match value:
        case bool() | None:
            return (2, 0, "")
        case int() | float():
            return (0, value if SORTS[query.sort] in ASCENDING else -value, "")
        case str():
            return (1, 0, value)
        case _:
            return (2, 0, "")
