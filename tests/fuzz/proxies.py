"""Target: the PROXY header.

However many bytes have come, the verdict is one of three, and once it is not "more" it stays. Exactly the header is
taken off the stream, and what it names is an address.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from hypothesis import strategies as st

from tests.fuzz.mutation import cuts, nearly, split
from tests.fuzz.target import Target
from wsworker.protocol.proxy import MOST_BYTES, Defect, Proxied, Version, read

DENSE_BYTES: Final = 250
"""Up to here every prefix is tried, behind it those that the cuts give."""


@dataclass(frozen=True)
class Header:
    """One connection. version: which header is expected; data: with what it begins; cuts: how that is split."""

    version: Version
    data: bytes
    cuts: tuple[int, ...] = ()


def check_header(case: Header) -> None:
    """One case of the target."""
    data, most = case.data, MOST_BYTES[case.version]
    dense = range(min(len(data), DENSE_BYTES) + 1)
    ends, end = {*dense, len(data)}, 0
    for piece in split(data, case.cuts):
        end += len(piece)
        ends.add(end)
    settled: Proxied | Defect | None = None
    for end in sorted(ends):
        found = read(case.version, data[:end])
        assert found == read(case.version, bytearray(data[:end]))
        if settled is not None:
            assert found == settled, f"{settled} became {found} at {end}"
        settled = found
        if found is None:
            assert end < most
        elif isinstance(found, Proxied):
            _check_proxied(case, found, end)
        else:
            assert found.reason.isascii()
            assert found.reason.isprintable()


def _check_proxied(case: Header, found: Proxied, end: int) -> None:
    assert 0 < found.size <= min(end, MOST_BYTES[case.version])
    assert read(case.version, case.data[: found.size]) == found
    assert read(case.version, case.data[: found.size - 1]) is None
    if found.source is not None:
        address = ip_address(found.source.host)
        assert str(address) == found.source.host
        assert not (isinstance(address, IPv6Address) and address.ipv4_mapped)
        assert 0 <= found.source.port <= 65535


_hosts: Final = st.sampled_from(
    (
        b"192.0.2.1",
        b"255.255.255.255",
        b"1.2.3",
        b"01.2.3.4",
        b"::1",
        b"::ffff:192.0.2.1",
        b"fe80::1%eth0",
        b"f" * 39,
        b"",
    )
)
_ports: Final = st.sampled_from((b"0", b"1", b"65535", b"65536", b"00", b"+1", b"99999", b""))
_lines: Final = st.builds(
    lambda family, source, target, ports, end: b"PROXY %b %b %b %b %b%b" % (family, source, target, *ports, end),
    st.sampled_from((b"TCP4", b"TCP6", b"UNKNOWN", b"TCP5", b"tcp4")),
    _hosts,
    _hosts,
    st.tuples(_ports, _ports),
    st.sampled_from((b"\r\n", b"\r\n", b"\r\nGET ", b"\n", b"\r", b"")),
)
_v1: Final = st.one_of(
    _lines, st.sampled_from((b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", b"GET /"))
)


@st.composite
def _v2(draw: st.DrawFn) -> bytes:
    command = draw(st.sampled_from((0x20, 0x21, 0x21, 0x21, 0x22, 0x11)))
    family, needed = draw(st.sampled_from(((0x11, 12), (0x21, 36), (0x31, 216), (0x00, 0), (0x12, 12), (0xFF, 0))))
    host = socket.inet_pton(socket.AF_INET6, "::ffff:1.2.3.4") if draw(st.booleans()) else draw(st.binary(max_size=16))
    body = (host * 16)[:needed] + b"t" * draw(st.sampled_from((0, 0, 3, 300)))
    length = draw(st.sampled_from((len(body), len(body), len(body), needed - 1, needed, 4080, 4081, 65535)))
    start = b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, family]) + max(0, length).to_bytes(2, "big")
    return start + body + draw(st.sampled_from((b"", b"GET / HTTP/1.1\r\n", b"x" * 4096)))


_cases: Final = st.one_of(
    st.builds(Header, version=st.just("v1"), data=nearly(_v1, most=2), cuts=cuts),
    st.builds(Header, version=st.just("v2"), data=nearly(_v2(), most=2), cuts=cuts),
    st.builds(Header, version=st.sampled_from(("v1", "v2")), data=nearly(st.one_of(_v1, _v2()), most=2), cuts=cuts),
)

_KNOWN: Final = (
    Header("v1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET"),
    Header("v1", b"PROXY UNKNOWN " + b"x" * 100),
    Header("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"),
    Header("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24" + bytes(10) + b"\xff\xff" + bytes(24)),
)

TARGET: Final = Target("proxies", _cases, check_header, _KNOWN)
