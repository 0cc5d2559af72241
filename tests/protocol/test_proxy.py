"""The PROXY protocol header: both versions, whole, split at every byte, and wrong in every place."""

from __future__ import annotations

import ipaddress
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.protocol.proxy import MOST_BYTES, Defect, Proxied, Version, read
from wsworker.protocol.request import Address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNSPECIFIED, TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DATAGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
VERSIONS: tuple[Version, ...] = get_args(Version)

FOUR = bytes([203, 0, 113, 9, 10, 0, 0, 1]) + (56324).to_bytes(2, "big") + (443).to_bytes(2, "big")
SIX = (
    ipaddress.IPv6Address("2001:db8::9").packed
    + ipaddress.IPv6Address("2001:db8::1").packed
    + (56324).to_bytes(2, "big")
    + (443).to_bytes(2, "big")
)
TLV = b"\x02\x00\x0bexample.org"
REST = b"\x16\x03\x01GET / HTTP/1.1\r\n"


def v2(command: int = PROXY, family: int = TCP4, body: bytes = FOUR, length: int | None = None) -> bytes:
    """Return a header of version 2. length: what it announces, if not the length of the body."""
    announced = len(body) if length is None else length
    return SIGNATURE + bytes([command, family]) + announced.to_bytes(2, "big") + body


GOOD: dict[str, tuple[Version, bytes, Address | None]] = {
    "tcp4": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n", Address("203.0.113.9", 56324)),
    "least ports": ("v1", b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Address("0.0.0.0", 0)),
    "longest tcp4": (
        "v1",
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        Address("255.255.255.255", 65535),
    ),
    "tcp6": ("v1", b"PROXY TCP6 2001:DB8::9 ::1 56324 443\r\n", Address("2001:db8::9", 56324)),
    "longest tcp6": (
        "v1",
        b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
        Address("ffff:" * 7 + "ffff", 65535),
    ),
    "mapped tcp6": ("v1", b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", Address("203.0.113.9", 1)),
    "unknown": ("v1", b"PROXY UNKNOWN\r\n", None),
    "unknown with words": ("v1", b"PROXY UNKNOWN anything at all 99999\r\n", None),
    "longest unknown": ("v1", b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    "v2 tcp4": ("v2", v2(), Address("203.0.113.9", 56324)),
    "v2 tcp4 with more": ("v2", v2(body=FOUR + TLV), Address("203.0.113.9", 56324)),
    "v2 more that is no list": ("v2", v2(body=FOUR + b"\x02\xff\xff"), Address("203.0.113.9", 56324)),
    "v2 tcp6": ("v2", v2(family=TCP6, body=SIX), Address("2001:db8::9", 56324)),
    "v2 mapped tcp6": (
        "v2",
        v2(family=TCP6, body=bytes(10) + b"\xff\xff\1\2\3\4" + SIX[16:]),
        Address("1.2.3.4", 56324),
    ),
    "v2 unix": ("v2", v2(family=UNIX, body=bytes(216)), None),
    "v2 unspecified": ("v2", v2(family=UNSPECIFIED, body=b""), None),
    "v2 unspecified with more": ("v2", v2(family=UNSPECIFIED, body=TLV), None),
    "v2 local": ("v2", v2(LOCAL, UNSPECIFIED, b""), None),
    "v2 local with addresses": ("v2", v2(LOCAL, TCP4, FOUR), None),
    "v2 local of any family": ("v2", v2(LOCAL, 0xFF, TLV), None),
    "v2 local too short for its family": ("v2", v2(LOCAL, TCP6, b"abc"), None),
    "v2 largest": ("v2", v2(body=FOUR + bytes(MOST_BYTES["v2"] - 16 - 12)), Address("203.0.113.9", 56324)),
}

BAD: dict[str, tuple[Version, bytes]] = {
    "http": ("v1", b"GET / HTTP/1.1\r\n"),
    "tls": ("v1", b"\x16\x03\x01\x02\x00"),
    "the other version": ("v1", v2()),
    "lower case": ("v1", b"proxy TCP4 203.0.113.9 10.0.0.1 1 2\r\n"),
    "two spaces": ("v1", b"PROXY  TCP4 203.0.113.9 10.0.0.1 1 2\r\n"),
    "a tab": ("v1", b"PROXY\tTCP4 203.0.113.9 10.0.0.1 1 2\r\n"),
    "no family": ("v1", b"PROXY\r\n"),
    "nothing but a family": ("v1", b"PROXY TCP4\r\n"),
    "udp": ("v1", b"PROXY UDP4 203.0.113.9 10.0.0.1 1 2\r\n"),
    "tcp5": ("v1", b"PROXY TCP5 203.0.113.9 10.0.0.1 1 2\r\n"),
    "a longer word": ("v1", b"PROXY UNKNOWNS\r\n"),
    "a word for unknown": ("v1", b"PROXY UNKNOWN\n"),
    "LF alone": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\n"),
    "CR alone": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\rG"),
    "CR CR LF": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\r\n"),
    "LF within unknown": ("v1", b"PROXY UNKNOWN a\nb\r\n"),
    "NUL": ("v1", b"PROXY TCP4 203.0.113.9\x00 10.0.0.1 1 2\r\n"),
    "DEL": ("v1", b"PROXY UNKNOWN \x7f\r\n"),
    "the last control character": ("v1", b"PROXY UNKNOWN \x1f\r\n"),
    "a byte above ASCII": ("v1", b"PROXY UNKNOWN \xff\r\n"),
    "no end": ("v1", b"PROXY UNKNOWN " + b"x" * 93),
    "too long by one": ("v1", b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n"),
    "one port": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1\r\n"),
    "three ports": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2 3\r\n"),
    "a space at the end": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2 \r\n"),
    "a leading zero": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 01 2\r\n"),
    "a leading zero behind": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 02\r\n"),
    "a large port": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 2\r\n"),
    "a large port behind": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 65536\r\n"),
    "a sign": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0.1 +1 2\r\n"),
    "an octal address": ("v1", b"PROXY TCP4 203.0.113.09 10.0.0.1 1 2\r\n"),
    "a large octet": ("v1", b"PROXY TCP4 203.0.113.256 10.0.0.1 1 2\r\n"),
    "a wrong destination": ("v1", b"PROXY TCP4 203.0.113.9 10.0.0 1 2\r\n"),
    "IPv6 in TCP4": ("v1", b"PROXY TCP4 ::1 ::1 1 2\r\n"),
    "IPv4 in TCP6": ("v1", b"PROXY TCP6 203.0.113.9 10.0.0.1 1 2\r\n"),
    "mixed": ("v1", b"PROXY TCP6 ::1 10.0.0.1 1 2\r\n"),
    "brackets": ("v1", b"PROXY TCP6 [::1] [::1] 1 2\r\n"),
    "a zone": ("v1", b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n"),
    "two gaps": ("v1", b"PROXY TCP6 1::2::3 ::1 1 2\r\n"),
    "v2: http": ("v2", b"GET / HTTP/1.1\r\n"),
    "v2: tls": ("v2", b"\x16\x03\x01\x02\x00"),
    "v2: the other version": ("v2", b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n"),
    "v2: a wrong signature": ("v2", SIGNATURE[:-1] + b"\r\x21\x11\x00\x0c" + FOUR),
    "v2: version 1": ("v2", v2(command=0x11)),
    "v2: version 3": ("v2", v2(command=0x31)),
    "v2: command 2": ("v2", v2(command=0x22)),
    "v2: command 15": ("v2", v2(command=0x2F)),
    "v2: udp4": ("v2", v2(family=UDP4)),
    "v2: udp6": ("v2", v2(family=UDP6, body=SIX)),
    "v2: unix datagrams": ("v2", v2(family=UNIX_DATAGRAM, body=bytes(216))),
    "v2: half unspecified": ("v2", v2(family=0x10)),
    "v2: family 4": ("v2", v2(family=0x41, body=bytes(216))),
    "v2: protocol 3": ("v2", v2(family=0x13)),
    "v2: no addresses": ("v2", v2(body=b"")),
    "v2: addresses too short": ("v2", v2(body=FOUR[:-1])),
    "v2: tcp6 with the length of tcp4": ("v2", v2(family=TCP6, body=FOUR)),
    "v2: unix too short": ("v2", v2(family=UNIX, body=bytes(215))),
    "v2: too large by one": ("v2", v2(body=FOUR, length=MOST_BYTES["v2"] - 16 + 1)),
    "v2: largest length": ("v2", v2(body=FOUR, length=65535)),
    "v2: too large and local": ("v2", v2(LOCAL, UNSPECIFIED, b"", length=65535)),
}


def verdicts(version: Version, data: bytes) -> list[Proxied | Defect | None]:
    """Return the answers as the data arrives byte by byte, and check that the first that is one is the last word."""
    answers = [read(version, data[:length]) for length in range(len(data) + 1)]
    known = [answer for answer in answers if answer is not None]
    assert all(answer == known[0] for answer in known)
    assert [None] * (len(answers) - len(known)) + known == answers
    return answers


@pytest.mark.parametrize("name", GOOD)
def test_a_good_header(name: str) -> None:
    """Its last byte completes it, whether TLS, HTTP or nothing follows; its size is exact."""
    version, header, source = GOOD[name]
    expected = Proxied(len(header), source)
    answers = verdicts(version, header)
    assert [None] * len(header) + [expected] == answers
    assert expected == read(version, header + REST)
    assert expected == read(version, header + header)
    assert expected == read(version, bytearray(header))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header(name: str) -> None:
    """It is refused at some byte and stays so; the reason is a clause for the log."""
    version, header = BAD[name]
    defect = verdicts(version, header)[-1]
    assert isinstance(defect, Defect)
    assert defect == read(version, header + REST)
    assert defect.reason.isprintable()


@pytest.mark.parametrize(
    ("name", "wrong_at"),
    [
        ("http", 0),
        ("tls", 0),
        ("the other version", 0),
        ("two spaces", 6),
        ("no family", 5),
        ("tcp5", 9),
        ("a longer word", 13),
        ("LF alone", 35),
        ("CR alone", 36),
        ("LF within unknown", 15),
        ("NUL", 22),
        ("no end", 106),
        ("too long by one", 106),
        ("v2: http", 0),
        ("v2: the other version", 0),
        ("v2: a wrong signature", 11),
        ("v2: version 1", 12),
        ("v2: command 15", 12),
        ("v2: udp4", 13),
        ("v2: no addresses", 15),
        ("v2: largest length", 15),
    ],
)
def test_a_wrong_byte_is_noticed_when_it_comes(name: str, wrong_at: int) -> None:
    """So a foreign client is not left waiting for the deadline."""
    version, header = BAD[name]
    assert wrong_at + 1 == verdicts(version, header).index(read(version, header))


def test_a_wrong_version_names_the_setting() -> None:
    """The mistake that an operator makes is one line away from its repair."""
    for defect in (read("v1", v2()), read("v2", b"PROXY UNKNOWN\r\n")):
        assert isinstance(defect, Defect)
        assert "proxy_protocol" in defect.reason


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_incomplete(version: Version) -> None:
    """A connection may say nothing for a while."""
    assert read(version, b"") is None


@given(st.ip_addresses(), st.data(), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=40))
def test_both_versions_say_the_same(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    data: st.DataObject,
    port: int,
    destination_port: int,
    more: bytes,
) -> None:
    """Any pair of addresses of one family survives either way, byte by byte."""
    destination = data.draw(st.ip_addresses(v=source.version))
    mapped = source.ipv4_mapped if isinstance(source, ipaddress.IPv6Address) else None
    expected = Address(str(mapped or source), port)
    line = f"PROXY TCP{source.version} {source} {destination} {port} {destination_port}\r\n".encode()
    assert Proxied(len(line), expected) == verdicts("v1", line)[-1]
    body = source.packed + destination.packed + port.to_bytes(2, "big") + destination_port.to_bytes(2, "big") + more
    header = v2(family=TCP4 if source.version == 4 else TCP6, body=body)
    assert Proxied(len(header), expected) == verdicts("v2", header)[-1]


STARTS = [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", b"PROXY UNKNOWN", SIGNATURE, SIGNATURE + b"\x21\x11"]
TAILS = st.binary(max_size=120) | st.text("PROXYTCP46UNKW ::1.2\r\n").map(str.encode)


@given(st.sampled_from(VERSIONS), st.sampled_from(STARTS), TAILS)
def test_any_bytes_get_one_verdict(version: Version, start: bytes, tail: bytes) -> None:
    """It never raises, the split does not matter, and a header is never larger than what was there."""
    data = start + tail
    answer = verdicts(version, data)[-1]
    if isinstance(answer, Proxied):
        assert 0 < answer.size <= min(len(data), MOST_BYTES[version])
        assert Proxied(answer.size, answer.source) == read(version, data[: answer.size])


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_good_header_with_one_wrong_byte_gets_one_verdict(name: str, data: st.DataObject) -> None:
    """It may still be good, but what it says does not depend on the split."""
    version, header, _ = GOOD[name]
    place, value = data.draw(st.integers(0, min(len(header), 250) - 1)), data.draw(st.integers(0, 255))
    changed = header[:place] + bytes([value]) + header[place + 1 :]
    verdicts(version, changed[:300])
