"""Frames: runs of plain ones decoded, headers judged, outgoing ones built. Keeps no state.

A frame is a header of 2 to 14 bytes and a payload (RFC 6455 section 5.2):

    byte 0   FIN, RSV1-3, opcode           byte 1   MASK, length or 126 or 127
    then 0, 2 or 8 bytes of length         then 4 bytes of masking key if MASK is set

Nearly all that clients send is plain: FIN, no reserved bit, text or binary, masked, and there in one piece. A run of
such frames is decoded by decode_run(), a loop that knows nothing else: this is the fast lane. It judges nothing.
Whatever is not plain, or not right, ends the run and is left to the session.

defect() judges a header before its payload has come, so that no byte is buffered for a frame that is refused anyway.
Its rules look at one header only. What needs memory (the order of fragments, the states of closing, what a Close may
hold) belongs to ServerProtocol. websockets would judge reserved bits and control frames only after their payload and
takes lengths that are not minimal, hence the rules here.

Outgoing messages are never fragmented and a server never masks (section 5.1), so a frame can be built once and sent to
any number of connections: a Shared is such a message. With permessage-deflate (RFC 7692) that holds as well, since no
side keeps its context from one message to the next; there is one variant for each size of window.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from websockets.frames import CTRL_OPCODES, Opcode

# The names of the codes, for users: `wsworker.CloseCode`. Connection.close refuses 1005, 1006 and 1015, which stand for
# the lack of a code and are never sent: RFC 6455 section 7.4.1
from websockets.frames import CloseCode as CloseCode

try:
    from websockets.speedups import apply_mask
except ImportError:
    # a websockets without its C extension: right, and slow; the worker warns of it
    from websockets.utils import apply_mask

OPCODES = frozenset(Opcode)
CONTROL_OPCODES = frozenset(CTRL_OPCODES)

MAX_CONTROL_BYTES = 125
MAX_REASON_BYTES = MAX_CONTROL_BYTES - 2  # the code takes two
MASKING_KEY_BYTES = 4

TOO_LARGE: Final = "the message is larger than websocket.max_size"

MASKS_IN_C: Final = apply_mask.__module__ != "websockets.utils"

DEFLATED_BYTES: Final = 1024
"""Smaller messages are sent as they are: what deflate saves on them is not worth its time."""

_FIN = 0x80
_RSV1 = 0x40
_MASK = 0x80
_TEXT = _FIN | Opcode.TEXT
_BINARY = _FIN | Opcode.BINARY
_LENGTH_16 = 126
_LENGTH_64 = 127


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
        size += MASKING_KEY_BYTES
    return Header(size, first & 0x0F, bool(first & _FIN), first >> 4 & 0x7, masked, length, minimal)


def decode_run(data: bytes | bytearray, position: int, max_size: int, most: int) -> tuple[list[str | bytes], int]:
    """Decode plain frames from position on; return their messages, at most so many, and where the next frame begins.

    The run ends before a frame that is not plain, not complete, larger than max_size or, as text, not UTF-8. Never
    raises. Source: RFC 6455 sections 5.2, 5.3 and 5.6.
    """
    messages: list[str | bytes] = []
    end = len(data)
    while most:
        # where the payload begins, behind two bytes and the masking key
        begin = position + 6
        if begin > end:
            break
        first = data[position]
        # without its mask bit a second byte ends up below 0
        length = data[position + 1] - _MASK
        if length >= _LENGTH_16:
            begin += 2 if length == _LENGTH_16 else 8
            if begin > end:
                break
            least = _LENGTH_16 if length == _LENGTH_16 else 0x10000
            length = int.from_bytes(data[position + 2 : begin - 4], "big")
            if length < least:
                break
        stop = begin + length
        if stop > end or length > max_size or length < 0:
            break
        payload = apply_mask(data[begin:stop], data[begin - 4 : begin])
        if first == _TEXT:
            try:
                messages.append(payload.decode())
            except UnicodeDecodeError:
                break
        elif first == _BINARY:
            messages.append(payload)
        else:
            break
        position = stop
        most -= 1
    return messages, position


def unmask(data: bytes | bytearray, key: bytes | bytearray, position: int) -> bytes:
    """Return the bytes of a payload that stand from this position of it on. Source: RFC 6455 section 5.3."""
    turn = position % MASKING_KEY_BYTES
    return apply_mask(data, key[turn:] + key[:turn])


def defect(header: Header, room: int, rsv1: bool = False) -> tuple[int, str] | None:
    """Return the close code and the reason if this header breaks a rule, else None.

    room: bytes by which the message may still grow; control frames do not count against it. rsv1: permessage-deflate
    was agreed on, so the first frame of a message may say that it is compressed. The verdict does not depend on how
    much of the header has come: what two bytes prove is judged before what the length proves.
    Source: RFC 6455 sections 5.1, 5.2, 5.5 and 7.4.1; RFC 7692 section 6.1.
    """
    control = header.opcode in CONTROL_OPCODES
    if header.opcode not in OPCODES:
        return 1002, f"unknown opcode {header.opcode:#x}"
    if not header.masked:
        return 1002, "frames from a client must be masked"
    if header.rsv and not (rsv1 and header.rsv == _RSV1 >> 4 and header.opcode in (Opcode.TEXT, Opcode.BINARY)):
        return 1002, "reserved bits must be 0"
    if control and not header.fin:
        return 1002, "control frames must not be fragmented"
    # 126 and 127 announce a longer length, which a control frame may not have, whatever it turns out to be
    if control and (header.length is None or header.length > MAX_CONTROL_BYTES or not header.minimal):
        return 1002, f"control frames carry at most {MAX_CONTROL_BYTES} bytes"
    if not header.minimal:
        return 1002, "the length must be encoded in the fewest bytes"
    if header.length is not None and header.length > room and not control:
        return 1009, TOO_LARGE
    return None


def build(data: str | bytes | bytearray | memoryview) -> bytes:
    """Return the frame that carries data: text for a str, binary for the others.

    Raises TypeError for any other type and UnicodeEncodeError for a lone surrogate, which UTF-8 cannot carry.
    """
    if type(data) is str:
        payload = data.encode()
        size = len(payload)
        return TEXT_HEADERS[size] + payload if size < _LENGTH_16 else _header(_TEXT, size) + payload
    if type(data) is bytes:
        return _header(_BINARY, len(data)) + data
    first, payload = _content(data)
    return _header(first, len(payload)) + payload


def deflate(data: str | bytes | bytearray | memoryview, window_bits: int) -> bytes | None:
    """Return the frame that carries data compressed, or None if that is not smaller or not worth the time.

    window_bits: base-two logarithm of the window, 9 to 15. Errors as for build. Source: RFC 7692 section 7.2.1.
    """
    first, payload = _content(data)
    if len(payload) < DEFLATED_BYTES:
        return None
    # level 1: it saves nearly as much as the higher ones in a fraction of their time
    compressor = zlib.compressobj(1, zlib.DEFLATED, -window_bits)
    # a flush ends in an empty block, 00 00 FF FF, which the other side adds again
    compressed = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    if len(compressed) >= len(payload):
        return None
    return _header(first | _RSV1, len(compressed)) + compressed


class Shared:
    """A message that goes to many connections; each variant of its frame is built once, when it is first asked for.

    plain: the frame without compression; uniform: there is no other, whatever a connection has agreed on. Errors as for
    build.
    """

    __slots__ = ("_data", "_frames", "plain", "uniform")

    def __init__(self, data: str | bytes | bytearray | memoryview) -> None:
        self.plain = plain = build(data)
        # what is mutable may have changed until a variant is built
        self._data = data if isinstance(data, (str, bytes)) else bytes(data)
        self._frames = {0: plain}
        self.uniform = len(plain) < DEFLATED_BYTES

    def frame(self, window_bits: int) -> bytes:
        """Return the frame for a connection with a window of this size, 0 being one without compression."""
        frame = self._frames.get(window_bits)
        if frame is None:
            frame = self._frames[window_bits] = deflate(self._data, window_bits) or self._frames[0]
        return frame


def is_message(frame: bytes) -> bool:
    """Tell whether this is the frame of a message, and neither a control frame nor, as the first bytes of a 101, none.

    Control frames have the opcodes from 8 on (section 5.2), and the H of HTTP has that bit, too.
    """
    return not frame[0] & 0x08


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


def check_close_code(code: int) -> None:
    """Raise ValueError unless a Close frame may hold this code."""
    if not is_close_code(code):
        raise ValueError(f"a Close carries 1000-1003, 1007-1014 or 3000-4999, not {code}")


def _content(data: str | bytes | bytearray | memoryview) -> tuple[int, bytes]:
    """Return the first byte of a frame that carries data, and its payload."""
    if isinstance(data, str):
        return _TEXT, data.encode()
    if isinstance(data, memoryview):
        # tobytes also flattens a view with strides or with items of more than a byte
        return _BINARY, data.tobytes()
    if isinstance(data, (bytes, bytearray)):
        return _BINARY, bytes(data)
    raise TypeError(f"a message is str, bytes, bytearray or memoryview, not {type(data).__name__}")


def _header(first: int, length: int) -> bytes:
    if length < _LENGTH_16:
        return struct.pack("!BB", first, length)
    if length <= 0xFFFF:
        return struct.pack("!BBH", first, _LENGTH_16, length)
    return struct.pack("!BBQ", first, _LENGTH_64, length)


TEXT_HEADERS: Final = tuple(_header(_TEXT, length) for length in range(_LENGTH_16))
"""The header of each text frame whose length fits into the second byte."""
