"""Frames of RFC 6455 as tests write and read them, right or wrong.

All of it is written anew, with no function of the package or of the websockets package: what judges a server must not
share a mistake with it. Nothing here refuses anything, since tests need what no library would send.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
"""Opcodes of RFC 6455, section 5.2."""

FIN: Final = 0x80
RSV1: Final = 0x40
RSV2: Final = 0x20
"""Bits of the first byte."""


def header(first: int, length: int, key: bytes | None = bytes(4), form: int = 0) -> bytes:
    """Return the header of a frame that says it has so many bytes.

    first: the first byte, with FIN, RSV bits and opcode; key: zeros are a legal mask, which leaves the payload as it
    is, and None is unmasked, as servers send; form: in how many bytes the length stands, 1, 2 or 8, or 0 for the
    fewest. What does not fit is cut off.
    """
    if not form:
        form = 1 if length < 126 else 2 if length < 2**16 else 8
    mask = 0 if key is None else 0x80
    if form == 1:
        size = bytes([mask | length & 0x7F])
    else:
        size = bytes([mask | (126 if form == 2 else 127)]) + (length % 256**form).to_bytes(form, "big")
    return bytes([first]) + size + (key or b"")


def frame(first: int, payload: bytes = b"", key: bytes | None = bytes(4), form: int = 0) -> bytes:
    """Return one frame; the arguments are those of header()."""
    return header(first, len(payload), key, form) + _masked(payload, key)


def deflated(payload: bytes, last: bool = False) -> bytes:
    """Return a payload as permessage-deflate sends it. RFC 7692 section 7.2.1.

    last: in a block that says that it is the last one, which is allowed.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(payload)
    return data + compressor.flush() if last else (data + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return data cut at these places, which are taken modulo its length; some pieces may be empty."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


class Frame(NamedTuple):
    """One frame as it was read; payload: unmasked; first: the first byte, with FIN, RSV bits and opcode."""

    first: int
    masked: bool
    payload: bytes

    @property
    def opcode(self) -> int:
        """What kind of frame it is."""
        return self.first & 0x0F


def parse(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the whole frames at the beginning of data, and the bytes behind them."""
    frames = []
    at = 0
    while len(data) >= at + 2:
        size, body = data[at + 1] & 0x7F, at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, body = int.from_bytes(data[body : body + width]), body + width
        masked = bool(data[at + 1] & 0x80)
        key, body = (data[body : body + 4], body + 4) if masked else (None, body)
        if len(data) < body + size:
            break
        frames.append(Frame(data[at], masked, _masked(data[body : body + size], key)))
        at = body + size
    return frames, data[at:]


def _masked(payload: bytes, key: bytes | None) -> bytes:
    if key is None or not any(key):
        return payload
    # one XOR of two huge numbers takes milliseconds for what a loop over 20 MiB takes seconds
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)
