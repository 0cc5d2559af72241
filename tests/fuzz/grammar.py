"""Grammar: the valid pieces of what a client sends, and those that are wrong in a way that somebody has thought of.

Requests are made of lines, streams of frames. A compressed message is made by zlib, so that a frame of it is right
unless it was made wrong on purpose.
"""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from tests.frames import deflated, frame, split
from tests.fuzz.mutation import nearly

KEY: Final = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
HEAD: Final = b"\r\n".join(
    (
        b"GET /chat?room=1 HTTP/1.1",
        b"Host: localhost:2346",
        b"Upgrade: websocket",
        b"Connection: keep-alive, Upgrade",
        KEY,
        b"Sec-WebSocket-Version: 13",
        b"%b\r\n",
    )
)
OFFER: Final = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
LIMITS: Final = (300, 1000, 70_000)
"""Values of max_size to try; the smallest makes growth visible, the largest has lengths of 64 bits."""

# --- the request ---

_REQUEST_LINES: Final = (
    b"GET / HTTP/1.1",
    b"GET /chat?room=1&room=%41&=&%zz HTTP/1.1",
    b"GET /reject HTTP/1.1",
    b"GET /health HTTP/1.1",
    b"HEAD /health HTTP/1.0",
    b"GET /page.html HTTP/1.1",
    b"HEAD /folder HTTP/1.1",
    b"GET /../secret HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"POST / HTTP/1.1",
    b"GET http://localhost/ HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET / HTTP/2.0",
    b"PRI * HTTP/2.0",
    b"GET  / HTTP/1.1",
    b"GET /\xff HTTP/1.1",
    b"GET /" + b"x" * 8192 + b" HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"",
)
_NEEDED: Final = (
    (b"Host: localhost:2346", b"host: LOCALHOST", b"Host:", b"Host: [::1]:80", b"Host: a:99999", b"Host: \xe4"),
    (b"Upgrade: websocket", b"upgrade: WebSocket", b"Upgrade: websocket, h2c", b"Upgrade: , websocket,", b"Upgrade:"),
    (b"Connection: Upgrade", b"connection: keep-alive, UPGRADE", b"Connection: ,upgrade,,", b"Connection: upgrade;x"),
    (KEY, KEY[:-1], b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==", KEY + b" "),
    (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", b"Sec-WebSocket-Version: 13, 8"),
)
_MORE: Final = (
    b"Origin: http://localhost:2346",
    b"Origin: null",
    b"Origin: https://evil.example:99999999",
    b"Origin: http://[::1]",
    b"Origin: \xff://\xff",
    b'Cookie: a=1; b; =c; d="e"; a=2; f="',
    b"Sec-WebSocket-Protocol: chat, b",
    b'Sec-WebSocket-Protocol: "a", ,b\xe4, chat',
    b"Sec-WebSocket-Extensions: permessage-deflate",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, permessage-deflate",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9; client_max_window_bits=8",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8",
    b'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits="10"; x',
    b'Sec-WebSocket-Extensions: ,;="',
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=" + b"\xb2",
    b"X-Forwarded-For: 1.2.3.4, [::1]:80",
    b"If-None-Match: *",
    b"If-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"X-Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b" folded",
    b"Name : value",
    b"NoColon",
    b": no name",
    b"X: " + b",;= " * 2000,
    b"X: " + b"y" * 8192,
    b"X: \t\x80\xff\t",
    b"X: \x00",
    b"",
)
_ENDS: Final = st.sampled_from((b"\r\n",) * 30 + (b"\n", b"\r", b"\r\r\n", b"\n\r\n"))


@st.composite
def _heads(draw: st.DrawFn) -> bytes:
    lines = [_REQUEST_LINES[0] if draw(st.booleans()) else draw(st.sampled_from(_REQUEST_LINES))]
    for spellings in _NEEDED:
        # nearly always there, and nearly always as it should be
        choice = draw(st.integers(0, 15))
        lines += [] if choice == 15 else [draw(st.sampled_from(spellings)) if choice > 11 else spellings[0]]
        lines += [spellings[0]] if choice == 14 else []
    lines += draw(st.lists(st.sampled_from(_MORE), max_size=4))
    ends = [draw(_ENDS) for _ in lines] if draw(st.integers(0, 3)) == 3 else [b"\r\n"] * len(lines)
    return b"".join(line + end for line, end in zip(lines, ends, strict=True)) + b"\r\n"


_MANY: Final = st.integers(95, 105).map(lambda count: HEAD % (b"X: y\r\n" * count))
_LONG: Final = st.integers(-3, 3).map(lambda more: HEAD % (b"X: %b\r\nY: %b\r\n" % (b"x" * 8000, b"y" * (8157 + more))))

heads: Final = nearly(st.one_of(_heads(), _heads(), _heads(), _MANY, _LONG), most=2)
"""A request, or something like it; what stands behind it is not part of it."""


# --- frames ---


TEXTS: Final = (b"", b"a", "grüß dich, 世界 🎈".encode(), b"close", b"pause", b"raise", b"end", b"user", b"x" * 125)
_BAD_TEXTS: Final = (b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"a\xf0\x9f\x8e")
_CLOSES: Final = (
    b"",
    b"\x03",
    *(code.to_bytes(2, "big") for code in (0, 999, 1000, 1003, 1004, 1005, 1006, 1007, 1014, 1015, 1016, 2999, 3000)),
    *(code.to_bytes(2, "big") + b"bye" for code in (1000, 1001, 4999, 5000, 65535)),
    b"\x03\xe8\xff",
    b"\x03\xe8" + b"r" * 123,
    b"\x03\xe8" + "ü".encode() * 62,
)
_SIZES: Final = (124, 125, 126, 127, 299, 300, 301, 999, 1000, 1001, 1024, 2043, 2044, 2045)
_LARGE: Final = (65535, 65536, 69_999, 70_000, 70_001)
_BOMBS: Final = (deflated(bytes(300)), deflated(bytes(301)), deflated(bytes(10**6)), deflated(b"", last=True))

_bodies: Final = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(TEXTS),
    st.sampled_from(_BAD_TEXTS),
    st.sampled_from(_SIZES).map(lambda size: b"s" * size),
    st.binary(max_size=20),
    st.text(max_size=12).map(lambda text: text.encode(errors="replace")),
)
_keys: Final = st.sampled_from((bytes(4), bytes(4), b"\x01\x02\x03\x04", b"\xff\x00\x80\x7f", None))
_deflated: Final = st.builds(deflated, _bodies, st.booleans())
_DATA: Final = (0x81, 0x82)


@st.composite
def _plain(draw: st.DrawFn) -> bytes:
    return frame(draw(st.sampled_from(_DATA)), draw(_bodies), draw(_keys) or bytes(4))


@st.composite
def _control(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 3)) == 3:
        return frame(0x88, draw(st.sampled_from(_CLOSES)))
    return frame(draw(st.sampled_from((0x89, 0x8A))), draw(st.binary(max_size=8)))


@st.composite
def _odd(draw: st.DrawFn) -> bytes:
    """Any first byte, any mask, any form of the length."""
    first = draw(st.one_of(st.integers(0, 255), st.sampled_from((0x81, 0x82, 0x01, 0x80, 0x00, 0xC1, 0x41))))
    return frame(first, draw(_bodies), draw(_keys), draw(st.sampled_from((0, 0, 0, 1, 2, 8))))


@st.composite
def _fragmented(draw: st.DrawFn) -> bytes:
    """A message in fragments, with control frames between, compressed or not."""
    body = draw(_bodies)
    first = draw(st.sampled_from((0x01, 0x02)))
    if draw(st.booleans()):
        body = draw(st.sampled_from(_BOMBS)) if draw(st.integers(0, 3)) == 3 else deflated(body, draw(st.booleans()))
        first |= 0x40
    parts = split(body, draw(st.lists(st.integers(0, 1023), max_size=4)))
    parts += [b"p" * draw(st.integers(0, 300))] * draw(st.sampled_from((0, 0, 0, 1, 12)))
    data = b""
    for index, part in enumerate(parts):
        fin = 0x80 if index == len(parts) - 1 and draw(st.integers(0, 7)) else 0
        data += frame((first if index == 0 else 0) | fin, part)
        if not draw(st.integers(0, 3)):
            data += draw(_control())
    return data


_compressed: Final = st.builds(
    frame, st.sampled_from((0xC1, 0xC2)), st.one_of(_deflated, _deflated, _deflated, st.sampled_from(_BOMBS))
)
_large: Final = st.builds(
    lambda first, size: frame(first, b"l" * size), st.sampled_from(_DATA), st.sampled_from(_LARGE)
)

pieces: Final = st.one_of(_plain(), _plain(), _plain(), _control(), _fragmented(), _compressed, _odd())

frames: Final = st.one_of(*([nearly(pieces)] * 15), nearly(st.one_of(pieces, _large), most=2))
"""A stream of frames, or something like it."""
