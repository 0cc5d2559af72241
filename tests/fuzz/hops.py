"""Target: the headers with which proxies name the client.

The result is the peer or an address, never anything else that a client wrote. Nobody who is not trusted changes what
those to the right of him say. Headers that are repeated count as one that is joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from hypothesis import strategies as st

from tests.fuzz.mutation import nearly
from tests.fuzz.target import Target
from wsworker.protocol.forwarded import Header, Trusted, client_address
from wsworker.protocol.request import Address

TRUSTED: Final = (
    Trusted.of(()),
    Trusted.of(("127.0.0.1", "10.0.0.0/8", "unix", "fd00::/8")),
    Trusted.of(("::ffff:0:0/96",)),
    Trusted.of(("*",)),
)
PEERS: Final = (Address("127.0.0.1", 5), Address("unix", 0), Address("192.0.2.9", 7), Address("fd00::1", 8))
FORGED: Final = ("6.6.6.6", 'for=6.6.6.6, for="', "unknown", '"', "127.0.0.1", "for=10.0.0.1;by=x", "")


@dataclass(frozen=True)
class Hops:
    """One request. values: of the header, in order; header: which; peer, trusted: indices."""

    values: tuple[str, ...]
    header: Header = "x-forwarded-for"
    peer: int = 0
    trusted: int = 1


def check_hops(case: Hops) -> None:
    """One case of the target."""
    peer, trusted = PEERS[case.peer], TRUSTED[case.trusted]
    found = client_address(case.values, peer, case.header, trusted)
    if not trusted.holds(peer.host):
        assert found == peer
    if found != peer:
        assert str(ip_address(found.host)) == found.host
        assert 0 <= found.port <= 65535
    assert found == client_address([", ".join(case.values)], peer, case.header, trusted)
    assert not case.values or found == client_address(
        [*case.values[:-1], f"\t{case.values[-1]} "], peer, case.header, trusted
    )
    if not trusted.holds(found.host):
        for forged in FORGED:
            first, *others = case.values or ("",)
            values = [f"{forged},{first}", *others] if case.values else []
            assert found == client_address(values, peer, case.header, trusted), forged
            values = [forged, *case.values] if case.values else []
            assert found == client_address(values, peer, case.header, trusted), forged


_NODES: Final = (
    b"10.0.0.1",
    b"10.0.0.2:80",
    b"127.0.0.1",
    b"192.0.2.1:65535",
    b"192.0.2.1:65536",
    b"010.0.0.1",
    b"fd00::2",
    b"[fd00::3]:80",
    b"[::ffff:10.0.0.4]",
    b"::ffff:10.0.0.4",
    b"2001:db8::1%eth0",
    b"unknown",
    b"unix",
    b"_hidden",
    b"",
)
_listed: Final = st.sampled_from(_NODES)
_elements: Final = st.builds(
    lambda form, node: form % node,
    st.sampled_from(
        (b"for=%b", b'for="%b"', b'FOR="%b" ; by=x', b'by="a\\"b,c";for=%b', b"for=%b;for=a", b'for="\\1%b"')
    ),
    _listed,
)
_ends: Final = st.sampled_from((b",", b", ", b" ,\t", b",,", b"", b";"))
_parts: Final = st.builds(lambda part, end: part + end, st.one_of(_listed, _elements), _ends)
_values: Final = nearly(st.one_of(_parts, _parts, _listed, _elements), most=12).map(
    # a header's value as the parser of the head gives it
    lambda data: data.translate(None, bytes([*range(9), *range(10, 32), 127])).decode("latin-1").strip(" \t")
)

_cases: Final = st.builds(
    Hops,
    values=st.lists(_values, max_size=3).map(tuple),
    header=st.sampled_from(("x-forwarded-for", "forwarded")),
    peer=st.sampled_from(range(len(PEERS))),
    trusted=st.sampled_from((1, 1, 1, 0, 2, 3)),
)

_KNOWN: Final = (
    Hops(()),
    Hops(("6.6.6.6, 192.0.2.1, 10.0.0.1",)),
    Hops((",".join(["10.0.0.1"] * 40),)),
    Hops(('for="6.6.6.6', "for=192.0.2.1"), "forwarded"),
    Hops((";" + " " * 8000 + "x",), "forwarded"),
    Hops(('for="' + "\\" * 8001 + '"',), "forwarded"),
)

TARGET: Final = Target("hops", _cases, check_hops, _KNOWN)
