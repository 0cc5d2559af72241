"""PROXY: the header with which a proxy that understands no HTTP tells whose connection it forwards.

It is the first thing on the connection, before TLS. Version 1 is one line of text, version 2 is binary; which one comes
is a setting and never guessed, because whoever could choose could also name any address as his own. For the same reason
only a trusted peer may send one, which is the caller's to check.

read() is called with all that has come so far, as MSG_PEEK shows it: exactly the header must be taken off the stream,
and the byte behind it belongs to TLS or HTTP. The answer depends on the bytes alone and not on how they were split:
once it is not None, more bytes do not change it. A wrong byte is a defect as soon as it is there where that tells a
foreign protocol from ours; addresses are judged when the header is complete, as section 2.1 demands.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. The section numbers below are of that document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeAlias

from wsworker.protocol.forwarded import unmapped
from wsworker.protocol.request import Address

Version: TypeAlias = Literal["v1", "v2"]

MOST_BYTES: Final[Mapping[Version, int]] = {"v1": 107, "v2": 4096}
"""The largest header of each version. v1: section 2.1, with CRLF. v2: our bound, and nginx's; the addresses take 232
bytes at most, the rest is for additions such as a certificate's name. The length field itself would allow 65551."""

# section 2.1
_V1_STARTS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
_V1_TEXT: Final = bytes(range(0x20, 0x7F))
_V1_ADDRESS: Final = r"([0-9A-Fa-f:.]+)"
_V1_PORT: Final = r"(0|[1-9][0-9]{0,4})"
_V1_TCP = re.compile(rf"PROXY TCP([46]) {_V1_ADDRESS} {_V1_ADDRESS} {_V1_PORT} {_V1_PORT}")

# section 2.2; version 2 is the upper half of the byte that holds the command
_V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_START_BYTES: Final = 16
_V2_LOCAL: Final = 0x20
_V2_PROXY: Final = 0x21
_V2_TCP4: Final = 0x11
_V2_TCP6: Final = 0x21
_V2_ADDRESS_BYTES: Final = {0x00: 0, _V2_TCP4: 12, _V2_TCP6: 36, 0x31: 216}  # unspecified, ..., unix stream


@dataclass(frozen=True, slots=True)
class Proxied:
    """A whole header. size: its bytes, which you must take off the stream; source: the client, None: the real peer.

    source is None for the proxy's own connections (LOCAL) and for those that come from no IP address.
    """

    size: int
    source: Address | None


@dataclass(frozen=True, slots=True)
class Defect:
    """The connection does not begin with a valid header and must be closed. reason: a clause for the log."""

    reason: str


def read(version: Version, data: bytes | bytearray) -> Proxied | Defect | None:
    """Return what the header says with which the data begins; None: incomplete, and every byte so far belongs to it.

    data: all that has come since the connection began; more than MOST_BYTES[version] is not looked at, and more need
    not be peeked for. Never raises. Source: sections 2, 2.1 and 2.2.
    """
    head = bytes(data[: MOST_BYTES[version]])
    return _read_v1(head) if version == "v1" else _read_v2(head)


def _read_v1(head: bytes) -> Proxied | Defect | None:
    if not any(head.startswith(start) or start.startswith(head) for start in _V1_STARTS):
        return _foreign(1)
    length = len(head) - len(head.lstrip(_V1_TEXT))
    ending = head[length : length + 2]
    if ending == b"\r\n":
        return _decoded_v1(head[:length].decode(), length + 2)
    if ending not in (b"", b"\r"):
        return Defect("the PROXY protocol line holds a byte that is no text, or a CR or LF alone")
    if len(head) == MOST_BYTES["v1"]:
        return Defect(f"the PROXY protocol line does not end within {MOST_BYTES['v1']} bytes")
    return None


def _decoded_v1(line: str, size: int) -> Proxied | Defect:
    if line.startswith("PROXY UNKNOWN"):
        return Proxied(size, None)  # "the receiver must ignore anything presented before the CRLF"
    defect = Defect("the PROXY protocol line must hold two addresses of its family and two ports")
    match = _V1_TCP.fullmatch(line)
    if match is None:
        return defect
    family, source, destination, source_port, destination_port = match.groups()
    kind = IPv4Address if family == "4" else IPv6Address
    try:
        address, _ = kind(source), kind(destination)
    except ValueError:
        return defect
    if max(int(source_port), int(destination_port)) > 65535:
        return defect
    return Proxied(size, Address(str(unmapped(address)), int(source_port)))


def _read_v2(head: bytes) -> Proxied | Defect | None:
    if head[: len(_V2_SIGNATURE)] != _V2_SIGNATURE[: len(head)]:
        return _foreign(2)
    command, family = head[12:13], head[13:14]
    if command and command[0] not in (_V2_LOCAL, _V2_PROXY):
        return Defect(f"the PROXY protocol header has the version and command 0x{command.hex()}, not 0x20 or 0x21")
    # the family of a LOCAL header is ignored, as is all behind it
    least = _V2_ADDRESS_BYTES.get(family[0]) if family and command[0] == _V2_PROXY else 0
    if least is None:
        return Defect(f"the PROXY protocol header has the family 0x{family.hex()}, which is no stream that we know")
    if len(head) < _V2_START_BYTES:
        return None
    length = int.from_bytes(head[14:16], "big")
    size = _V2_START_BYTES + length
    if length < least:
        return Defect(f"the PROXY protocol header announces {length} bytes, its addresses need {least}")
    if size > MOST_BYTES["v2"]:
        return Defect(f"the PROXY protocol header announces {size} bytes, more than {MOST_BYTES['v2']}")
    return Proxied(size, _v2_source(command[0], family[0], head)) if len(head) >= size else None


def _v2_source(command: int, family: int, head: bytes) -> Address | None:
    """Return the source; behind the 16 bytes stand source, destination, source port, destination port."""
    if command == _V2_LOCAL:
        return None
    if family == _V2_TCP4:
        return Address(str(IPv4Address(head[16:20])), int.from_bytes(head[24:26], "big"))
    if family == _V2_TCP6:
        return Address(str(unmapped(IPv6Address(head[16:32]))), int.from_bytes(head[48:50], "big"))
    return None


def _foreign(version: int) -> Defect:
    return Defect(
        f"it does not begin with a PROXY protocol header of version {version}; if the proxy sends another version or"
        " none, correct proxy_protocol"
    )
