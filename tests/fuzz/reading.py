"""Reading: what the server has written, taken apart as strictly as the strictest client would.

It shares no code with the server, so that both cannot be wrong in the same way.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final

_LINE: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+: [ -~]*")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]+")
_DATE: Final = re.compile(rb"(Date|Last-Modified): [^\r]*\r\n")
CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})


@dataclass(frozen=True)
class Response:
    """One answer to a handshake. size: its bytes."""

    status: int
    headers: dict[str, str]
    body: bytes
    size: int


def read_response(data: bytes, is_head: bool = False) -> Response:
    """Return the response at the start of data; AssertionError if it is not whole or breaks a rule of HTTP."""
    head, mark, rest = data.partition(b"\r\n\r\n")
    assert mark, "the head does not end"
    first, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    assert match, first
    assert all(_LINE.fullmatch(line) for line in lines), head
    pairs = [line.decode("ascii").split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs), f"a header is repeated: {head!r}"
    status = int(match[1])
    if status == 101:
        assert "content-length" not in headers
        assert ("Upgrade", "websocket") == (headers["connection"], headers["upgrade"])
        return Response(status, headers, b"", len(head) + 4)
    assert headers["connection"] == "close"
    size = 0 if is_head or status == 304 else int(headers["content-length"])
    assert len(rest) >= size, "the body is not whole"
    return Response(status, headers, rest[:size], len(head) + 4 + size)


def read_frames(data: bytes, compressed: bool = False) -> list[tuple[int, bytes]]:
    """Return opcode and payload of each frame; AssertionError if one breaks a rule.

    Behind a Close there may be answers to pings, and nothing else (RFC 6455 section 5.5.1).
    """
    found: list[tuple[int, bytes]] = []
    closed = False
    while data:
        assert len(data) >= 2, "the last frame is not whole"
        first, length = data[0], data[1]
        assert length < 128, "a server does not mask"
        start = 2
        if length > 125:
            start = 4 if length == 126 else 10
            assert (length == 126) == (int.from_bytes(data[2:start], "big") < 2**16), "the length is not minimal"
            length = int.from_bytes(data[2:start], "big")
            assert length > 125, "the length is not minimal"
        payload = data[start : start + length]
        assert len(payload) == length, "the last frame is not whole"
        data = data[start + length :]
        opcode = first & 0x0F
        assert first & 0x80, "fragmented"
        assert opcode in (1, 2, 8, 9, 10), first
        if first & 0x70:
            assert compressed, "reserved bits"
            assert first & 0x70 == 0x40, "reserved bits"
            assert opcode < 3, "a compressed control frame"
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        if opcode == 1:
            payload.decode()
        if opcode > 7:
            assert len(payload) <= 125, "a long control frame"
        if opcode == 8 and payload:
            assert int.from_bytes(payload[:2], "big") in CLOSE_CODES, payload
            payload[2:].decode()
        assert not closed or opcode == 10, f"behind the Close: {first:#x}"
        closed = closed or opcode == 8
        found.append((opcode, payload))
    return found


def timeless(output: bytes) -> bytes:
    """Return what was written without the headers that hold a clock."""
    return _DATE.sub(b"", output)
