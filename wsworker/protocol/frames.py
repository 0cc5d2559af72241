"""Frames: headers read, plain outgoing frames built, what a header alone already proves wrong. Keeps no state.

A frame is a header of 2 to 14 bytes and a payload (RFC 6455 section 5.2):

    byte 0   FIN, RSV1-3, opcode           byte 1   MASK, length or 126 or 127
    then 0, 2 or 8 bytes of length         then 4 bytes of masking key if MASK is set

defect() judges a header before its payload has come, so that no byte is buffered for a frame that is refused anyway.
Its rules look at one header only. What needs memory (the order of fragments, the states of closing, what a Close may
hold) belongs to ServerProtocol. websockets would judge reserved bits and control frames only after their payload and
takes lengths that are not minimal, hence the rules here.

Outgoing messages are never fragmented and a server never masks (section 5.1), so a frame can be built once and sent to
any number of connections.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from websockets.frames import CTRL_OPCODES, Opcode
from websockets.frames import CloseCode as CloseCode  # the names of the codes, for users: `wsworker.CloseCode`

OPCODES = frozenset(Opcode)
CONTROL_OPCODES = frozenset(CTRL_OPCODES)

MAX_CONTROL_BYTES = 125
MAX_REASON_BYTES = MAX_CONTROL_BYTES - 2  # the code takes two

_FIN = 0x80
_MASK = 0x80
_LENGTH_16 = 126
_LENGTH_64 = 127
_MASKING_KEY_BYTES = 4


class Header(NamedTuple):
    """The header of one incoming frame.

    size: bytes of the header, masking key included; rsv: the three reserved bits as 0 to 7; length: bytes of payload,
    None while the bytes that hold it have not come; minimal: the length stands in the fewest bytes possible.
    """

    size: int
    opcode: int
    fin: bool
    rsv: int
    masked: bool
    length: int | None
    minimal: bool


def read_header(data: bytes | bytearray) -> Header | None:
    """Read the header at the start of data, which may hold less or more than one frame.

    Returns None below two bytes. With two bytes everything but a long length is known, so you can judge early.
    """
    if len(data) < 2:
        return None
    first, second = data[0], data[1]
    length: int | None = second & 0x7F
    size, minimal = 2, True
    if length == _LENGTH_16:
        size = 4
        length = int.from_bytes(data[2:4], "big") if len(data) >= size else None
        minimal = length is None or length >= _LENGTH_16
    elif length == _LENGTH_64:
        size = 10
        length = int.from_bytes(data[2:10], "big") if len(data) >= size else None
        minimal = length is None or length > 0xFFFF
    masked = bool(second & _MASK)
    if masked:
        size += _MASKING_KEY_BYTES
    return Header(size, first & 0x0F, bool(first & _FIN), first >> 4 & 0x7, masked, length, minimal)


def defect(header: Header, room: int) -> tuple[int, str] | None:
    """Return the close code and the reason if this header breaks a rule, else None.

    room: bytes by which the message may still grow; control frames do not count against it. The verdict does not
    depend on how much of the header has come: what two bytes prove is judged before what the length proves.
    Source: RFC 6455 sections 5.1, 5.2, 5.5 and 7.4.1.
    """
    control = header.opcode in CONTROL_OPCODES
    if header.opcode not in OPCODES:
        return 1002, f"unknown opcode {header.opcode:#x}"
    if not header.masked:
        return 1002, "frames from a client must be masked"
    if header.rsv:
        return 1002, "reserved bits must be 0"
    if control and not header.fin:
        return 1002, "control frames must not be fragmented"
    # 126 and 127 announce a longer length, which a control frame may not have, whatever it turns out to be
    if control and (header.length is None or header.length > MAX_CONTROL_BYTES or not header.minimal):
        return 1002, f"control frames carry at most {MAX_CONTROL_BYTES} bytes"
    if not header.minimal:
        return 1002, "the length must be encoded in the fewest bytes"
    if header.length is not None and header.length > room and not control:
        return 1009, "the message is larger than websocket.max_size"
    return None


def build(data: str | bytes | bytearray | memoryview) -> bytes:
    """Return the frame that carries data: text for a str, binary for the others.

    Raises TypeError for any other type and UnicodeEncodeError for a lone surrogate, which UTF-8 cannot carry.
    """
    if isinstance(data, str):
        opcode, payload = Opcode.TEXT, data.encode()
    elif isinstance(data, (bytes, bytearray)):
        opcode, payload = Opcode.BINARY, bytes(data)
    elif isinstance(data, memoryview):
        # tobytes also flattens a view with strides or with items of more than a byte
        opcode, payload = Opcode.BINARY, data.tobytes()
    else:
        raise TypeError(f"a message is str, bytes, bytearray or memoryview, not {type(data).__name__}")
    return _header(opcode, len(payload)) + payload


def payload_size(frame: bytes) -> int:
    """Return the payload bytes of a frame that build() made."""
    size = len(frame)
    if size < 2 + _LENGTH_16:
        return size - 2
    if size <= 4 + 0xFFFF:
        return size - 4
    return size - 10


def cut_reason(text: str) -> str:
    """Return as much of text as a Close frame holds: 123 bytes of UTF-8, cut between characters.

    Never raises: a lone surrogate becomes "?", because no close should fail over the wording of its reason.
    """
    return text.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")


def is_close_code(code: int) -> bool:
    """Tell whether a Close frame may hold this code, whichever side sends it.

    1004, 1005, 1006 and 1015 never travel; 1016 to 2999 are not assigned; a browser would pass any of them on to the
    page. Source: RFC 6455 section 7.4 and the IANA registry, which added 1012 to 1014.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _header(opcode: Opcode, length: int) -> bytes:
    first = _FIN | opcode
    if length < _LENGTH_16:
        return struct.pack("!BB", first, length)
    if length <= 0xFFFF:
        return struct.pack("!BBH", first, _LENGTH_16, length)
    return struct.pack("!BBQ", first, _LENGTH_64, length)
