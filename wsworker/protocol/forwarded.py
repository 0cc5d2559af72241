"""Forwarded: who the client is behind proxies that we trust.

A proxy connects in the client's place and names the client in a header. Each proxy appends to what it received, so the
right end was written by our own peer and the left end by anybody. The walk therefore starts at our peer and goes from
right to left, and takes a step only from an address that is trusted: what a trusted proxy says about its own client is
believed, what that client said is believed only if it is trusted as well. The first address that is not is the client.

The walk also ends at a hop that names no address: empty, unknown, obfuscated (RFC 7239 section 6.3), malformed. The
client is then the last address that was read, at worst our peer. That is safe, because a trusted proxy vouched for it,
and no stranger can bring it about: right of anything he writes stands his own address, which ends the walk.

The list is cut at every comma, also within a quoted string. No address holds one, and a quote that a client leaves open
would else swallow what the proxies append. An empty hop is not skipped, unlike in other lists (RFC 9110 section
5.6.1.2): a proxy that wrote nothing knew nothing, and what stands left of it may be forged. At most MOST_HOPS are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, TypeAlias

from wsworker.protocol.request import Address

Header: TypeAlias = Literal["x-forwarded-for", "forwarded"]

MOST_HOPS: Final = 32
"""Far more proxies than stand in a row anywhere; the head may hold thousands of commas."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")

# RFC 7239 section 6, except that the address itself is judged by ipaddress; there is no % for a zone, which has no
# meaning on another machine and may hold any character
_IPV6: Final = r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40}"
_NODE = re.compile(rf"(?:([0-9.]{{7,15}})|\[({_IPV6})\])(?::(?:([0-9]{{1,5}})|_[0-9A-Za-z._-]+))?")
_BARE_IPV6 = re.compile(_IPV6)

# RFC 7239 section 4, with the space behind a semicolon that some proxies write. The possessive *+ keeps it linear.
_TCHARS: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR = re.compile(rf'({_TCHARS})=({_TCHARS}|"(?:[^"\\]|\\.)*")')
_ELEMENT = re.compile(rf"(?:{_PAIR.pattern})?(?:;[ \t]*+(?:{_PAIR.pattern})?)*")
_QUOTED_PAIR = re.compile(r"\\(.)")


class Trusted:
    """The addresses whose word about their client is taken; made by Trusted.of."""

    __slots__ = ("_networks", "_words")

    def __init__(self, networks: tuple[IPv4Network | IPv6Network, ...], words: frozenset[str]) -> None:
        self._networks = networks
        self._words = words

    @classmethod
    def of(cls, entries: Iterable[str]) -> Trusted:
        """Return the addresses that the entries hold together; none if there are none.

        entries: each an IP address, a network such as 10.0.0.0/8, unix (the peers of unix sockets) or * (everyone).
        ::/0 is every IPv6 address and no IPv4 one. Raises ValueError for anything else.
        """
        several = frozenset(entries)
        words = several & {"unix", "*"}
        return cls(tuple(_network(entry) for entry in several - words), words)

    def holds(self, host: str) -> bool:
        """Say whether a peer or hop is trusted; what is neither an IP address nor unix is not, unless * is.

        host: as in Address; an IPv4-mapped IPv6 address counts as the IPv4 address.
        """
        if "*" in self._words or host in self._words:
            return True
        address = ip_of(host)
        return address is not None and any(address in network for network in self._networks)


def client_address(values: Sequence[str], peer: Address, header: Header, trusted: Trusted) -> Address:
    """Return the client's address as far as trusted proxies tell it; peer itself if it is not trusted.

    values: one entry per occurrence of the header, in order; may be empty. peer: who connected to us. An
    X-Forwarded-For hop is an IP address with or without a port, IPv6 in brackets if it has one; a Forwarded hop has one
    for= parameter. The port is 0 where the hop names none. An IPv4-mapped IPv6 hop comes out as IPv4.
    If all hops are trusted, the leftmost is the client. Never raises.
    Source: RFC 7239 sections 4 to 6 and 7.4; X-Forwarded-For has no standard.
    """
    read_hop = _forwarded_hop if header == "forwarded" else _listed_hop
    client = peer
    for text in reversed(",".join(values).rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
        if not trusted.holds(client.host):
            break
        hop = read_hop(text.strip(" \t"))
        if hop is None:
            break
        client = hop
    return client


def ip_of(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that host spells, an IPv4-mapped one as IPv4; None if it spells none."""
    try:
        return unmapped(ip_address(host))
    except ValueError:
        return None


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the address, or the IPv4 address that it stands for. Source: RFC 4291 section 2.5.5.2."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _network(entry: str) -> IPv4Network | IPv6Network:
    network = ip_network(entry)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((network.network_address.packed[-4:], network.prefixlen - _MAPPED.prefixlen))
    return network


def _listed_hop(text: str) -> Address | None:
    return _node(f"[{text}]" if _BARE_IPV6.fullmatch(text) else text)


def _forwarded_hop(element: str) -> Address | None:
    if not _ELEMENT.fullmatch(element):
        return None
    nodes = [value for name, value in _PAIR.findall(element) if name.lower() == "for"]
    # a parameter must not be repeated (RFC 7239 section 4), and which one would be meant?
    return _node(_unquoted(nodes[0])) if len(nodes) == 1 else None


def _unquoted(value: str) -> str:
    return _QUOTED_PAIR.sub(r"\1", value[1:-1]) if value.startswith('"') else value


def _node(text: str) -> Address | None:
    match = _NODE.fullmatch(text)
    address = ip_of(match[1] or match[2]) if match else None
    if match is None or address is None:
        return None
    port = int(match[3] or 0)  # an obfuscated port is none
    return Address(str(address), port) if port <= 65535 else None
