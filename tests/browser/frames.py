"""Frames of RFC 6455 as a test reads them off the wire, or makes them up, right or wrong.

Written anew, not with the package's own functions or those of the websockets package: what judges a wire must not share
a mistake with what writes it.
"""

from __future__ import annotations

import struct
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


class Frame(NamedTuple):
    """One frame as it was read; payload: unmasked; first: the first byte, with FIN, RSV bits and opcode."""

    first: int
    masked: bool
    payload: bytes

    @property
    def opcode(self) -> int:
        """What kind of frame it is."""
        return self.first & 0x0F


def build(opcode: int, payload: bytes = b"", flags: int = FIN) -> bytes:
    """Return a frame of a server; flags: FIN and RSV bits. It may break every rule but those of the length."""
    size = len(payload)
    if size < 126:
        header = bytes([flags | opcode, size])
    elif size < 0x10000:
        header = struct.pack("!BBH", flags | opcode, 126, size)
    else:
        header = struct.pack("!BBQ", flags | opcode, 127, size)
    return header + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a Close of a server."""
    return build(CLOSE, struct.pack("!H", code) + reason.encode())


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
        key, body = (data[body : body + 4], body + 4) if masked else (bytes(4), body)
        if len(data) < body + size:
            break
        frames.append(Frame(data[at], masked, _unmask(data[body : body + size], key)))
        at = body + size
    return frames, data[at:]


def _unmask(payload: bytes, key: bytes) -> bytes:
    # one XOR of two huge numbers takes milliseconds for what a loop over 20 MiB takes seconds
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)
