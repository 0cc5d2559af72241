"""Frames that wsworker never sends, and what Chromium makes of them: why wsworker must not.

A raw server stands in. If one of these tests fails, Chromium has changed, and what wsworker's rules rest on as well.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest

from tests.browser.wire import Peer, RawServer, build
from tests.frames import CLOSE, CONTINUATION, FIN, PING, RSV1, RSV2, TEXT, Frame

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_row_29_context_takeover(page: Page) -> None:
    """Messages compressed with the context of the one before are read, and an uncompressed one among them."""
    compressor = zlib.compressobj(wbits=-15)

    def compressed(text: str) -> bytes:
        data = compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH)
        # RFC 7692 section 7.2.1
        return data.removesuffix(b"\x00\x00\xff\xff")

    def script(peer: Peer) -> None:
        peer.accept("Sec-WebSocket-Extensions: permessage-deflate")
        frames = [build(TEXT, compressed("tick tock"), FIN | RSV1) for _ in range(2)]
        peer.send(frames[0] + frames[1] + build(TEXT, b"plain"))
        peer.read_rest()

    with RawServer(script) as server:
        data = page.evaluate("async url => (await watch(url).until('message', 3)).data", server.url())
    assert ["tick tock", "tick tock", "plain"] == data


MASKED = bytes([FIN | TEXT, 0x80 | 1]) + bytes(4) + b"x"
LONG_LENGTH = bytes([FIN | TEXT, 126, 0, 1]) + b"x"
TOP_BIT = bytes([FIN | TEXT, 127, 0x80, 0, 0, 0, 0, 0, 0, 1]) + b"x"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (MASKED, "Masked frame from server"),
        (build(TEXT, b"x", FIN | RSV1), "Invalid reserved bit"),
        (build(TEXT, b"x", FIN | RSV2), "Invalid reserved bit"),
        (build(3), "Unknown opcode"),
        (build(0xB), "Unknown opcode"),
        (build(PING, b"x", flags=0), ""),
        (build(PING, b"x" * 126), ""),
        (build(CONTINUATION, b"x"), "Unexpected continuation"),
        (build(TEXT, b"x", flags=0) + build(TEXT, b"y"), "Previous data frame unfinished"),
        (build(TEXT, b"\xff"), "Invalid UTF-8 in text frame"),
        (build(TEXT, b"\xed\xa0\x80"), "Invalid UTF-8 in text frame"),
        (build(TEXT, b"\xf0\x9d", flags=0) + build(CONTINUATION, b"x"), "Invalid UTF-8 in text frame"),
        (LONG_LENGTH, ""),
        (TOP_BIT, ""),
    ],
    ids=[
        "masked",
        "rsv1",
        "rsv2",
        "opcode-3",
        "opcode-11",
        "ping-in-fragments",
        "ping-of-126",
        "lone-continuation",
        "new-data-in-fragments",
        "bad-utf-8",
        "surrogate",
        "split-utf-8",
        "long-length",
        "top-bit",
    ],
)
def test_row_50_a_broken_frame(page: Page, sent: bytes, reason: str) -> None:
    """Chromium ends the connection with 1002, also for text that is no UTF-8; the page sees an error and 1006."""
    closes: list[Frame | None] = []

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(sent)
        closes.append(peer.read_frame())

    with RawServer(script) as server:
        events = page.evaluate("url => watch(url).end()", server.url())
        server.wait()
    assert [["open", 1], ["error", 3], ["close", 3, 1006, "", False]] == events
    [close] = closes
    assert close is not None
    assert (FIN | CLOSE, True, 1002) == (close.first, close.masked, int.from_bytes(close.payload[:2]))
    assert reason in close.payload[2:].decode()
