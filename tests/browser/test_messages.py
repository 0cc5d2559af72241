"""Messages in both directions: how Chromium cuts and masks them, and what a page gets to see.

Where the wire is asserted, a relay between page and service has recorded it. What wsworker never sends, a message in
fragments for one, comes from a raw server.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.browser.conftest import MakeService
from tests.browser.service import Service
from tests.browser.wire import Peer, RawServer, Relay, build
from tests.frames import BINARY, CONTINUATION, FIN, PING, PONG, TEXT
from tests.system.daemon import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

PIECE = 131_000
"""So many bytes Chromium puts into one frame."""

UPLOAD = """async ([url, size]) => {
    const watched = await opened(url);
    watched.ws.send(new Uint8Array(size).map((_, place) => place % 251));
    watched.ws.send("done");
    watched.ws.close(1000);
    return await watched.end();
}"""


def pattern(size: int) -> bytes:
    """Return what UPLOAD sends."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (PIECE, 1), (PIECE + 1, 2), (20 * 1024**2, 161)])
def test_row_8_uploads(page: Page, service: Service, relay: Relay, size: int, pieces: int) -> None:
    """Every frame is masked; a message of more than 131,000 bytes comes in fragments of so many."""
    path = f"/row-8-{size}"
    page.evaluate(UPLOAD, [relay.url(f"{path}?quiet"), size])
    binary, text = service.seen(path, "message")
    content = pattern(size)
    assert "done" == text["data"]
    if size:
        assert {"kind": "binary", "size": size, "sha256": hashlib.sha256(content).hexdigest()} == binary
    else:
        assert {"kind": "binary", "data": ""} == binary
    frames = relay.wires[0].from_browser
    assert all(frame.masked for frame in frames)
    firsts = [BINARY, *[CONTINUATION] * (pieces - 1)]
    firsts[-1] |= FIN
    assert firsts == [frame.first for frame in frames[:pieces]]
    assert {PIECE} >= {len(frame.payload) for frame in frames[: pieces - 1]}
    assert content == b"".join(frame.payload for frame in frames[:pieces])


def test_row_24_text(page: Page, service: Service) -> None:
    """An empty text and characters outside the basic plane come back as they were."""
    texts = page.evaluate(
        """async url => {
            const watched = await opened(url);
            watched.ws.send("");
            watched.ws.send("𝄞 ü");
            return (await watched.until("message", 2)).data;
        }""",
        service.url("/row-24"),
    )
    assert ["", "𝄞 ü"] == texts


def test_row_24_text_in_fragments(page: Page) -> None:
    """A character may lie in two fragments, with an empty one and a ping between; the pong comes before the rest."""
    clef = "𝄞".encode()

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(build(TEXT, clef[:2], flags=0) + build(PING, b"now"))
        pong = peer.read_frame()
        assert pong is not None
        assert (FIN | PONG, True, b"now") == (pong.first, pong.masked, pong.payload)
        peer.send(build(CONTINUATION, b"", flags=0) + build(CONTINUATION, clef[2:]))
        peer.read_rest()

    with RawServer(script) as server:
        data = page.evaluate("async url => (await watch(url).until('message')).data", server.url())
        assert ["𝄞"] == data


def test_row_25_binary(page: Page, service: Service) -> None:
    """Binary messages are Blobs by default, empty ones too, and hold what was sent."""
    orders = json.dumps([{"binary": "00ff80"}, {"binary": ""}])
    kinds, digits = page.evaluate(
        """async url => {
            const {data} = await watch(url).until("message", 2);
            return [data.map(item => item.constructor.name), await Promise.all(data.map(hex))];
        }""",
        service.url(f"/row-25?orders={quote(orders)}"),
    )
    assert ["Blob", "Blob"] == kinds
    assert ["00ff80", ""] == digits


def test_row_25_the_binary_type(page: Page, service: Service) -> None:
    """BinaryType acts on the next event, also between messages that came together; a wrong value is ignored."""
    orders = json.dumps([{"binary": "01"}, {"binary": "02"}, {"binary": "03"}])
    kinds, digits = page.evaluate(
        """async url => {
            const watched = watch(url);
            const types = ["arraybuffer", "nonsense"];
            watched.ws.addEventListener("message", () => { watched.ws.binaryType = types.shift() });
            const {data} = await watched.until("message", 3);
            return [data.map(item => item.constructor.name), await Promise.all(data.map(hex))];
        }""",
        service.url(f"/row-25?orders={quote(orders)}"),
    )
    assert ["Blob", "ArrayBuffer", "ArrayBuffer"] == kinds
    assert ["01", "02", "03"] == digits


def test_row_26_a_large_message(page: Page, relay: Relay) -> None:
    """16 MiB come in one frame, and as one Blob."""
    size = 16 * 1024**2
    orders = json.dumps([{"binary": bytes(range(256)).hex(), "times": size // 256}])
    received, digest = page.evaluate(
        """async url => {
            const [blob] = (await watch(url).until("message")).data;
            return [blob.size, await hex(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()))];
        }""",
        relay.url(f"/row-26?orders={quote(orders)}"),
    )
    content = bytes(range(256)) * (size // 256)
    assert size == received
    assert hashlib.sha256(content).hexdigest() == digest
    assert [(FIN | BINARY, size)] == [(frame.first, len(frame.payload)) for frame in relay.wires[0].from_server]


def test_row_28_our_pings(page: Page, make_service: MakeService) -> None:
    """Chromium answers our pings, masked and with their payload; the page sees nothing of it."""
    service = make_service({"ping_interval": "1s"})
    with Relay(service.port) as relay:
        page.evaluate("async url => { globalThis.watched = await opened(url) }", relay.url("/row-28"))
        [wire] = relay.wires
        pongs = eventually(lambda: [frame for frame in wire.from_browser if frame.opcode == PONG], "a pong")
        pings = [frame for frame in wire.from_server if frame.opcode == PING]
        assert (FIN | PONG, True, pings[0].payload) == pongs[0]
        assert pings[0].payload
        assert [["open", 1]] == page.evaluate("watched.events")


def test_row_28_pings_and_pongs(page: Page) -> None:
    """A pong echoes the payload of its ping; a pong that nobody asked for is ignored; the page sees neither."""

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(build(PONG, b"unasked") + build(PING, b"p" * 125) + build(PING))
        pongs = [peer.read_frame(), peer.read_frame()]
        assert [(FIN | PONG, True, b"p" * 125), (FIN | PONG, True, b"")] == pongs
        peer.send(build(TEXT, b"done"))
        peer.read_rest()

    with RawServer(script) as server:
        events = page.evaluate("async url => (await watch(url).until('message')).events", server.url())
        assert [["open", 1], ["message", 1, "done"]] == events


SENDS = """async url => {
    const watched = await opened(url);
    const buffer = new Uint8Array([0, 1, 2, 3, 4, 5, 6, 7]).buffer;
    for (const value of [
        "text", "\\ud800!", new Blob(["blob", " of two"]), "behind the blob", buffer, new Uint8Array(buffer, 2, 3),
        new DataView(buffer, 6), new Uint16Array(0), 123, {}, null,
    ]) {
        watched.ws.send(value);
    }
    watched.ws.close(1000);
    await watched.end();
}"""


def test_row_30_what_can_be_sent(page: Page, service: Service) -> None:
    """Blobs, buffers and views are binary, all else is text, with U+FFFD for lone surrogates. Order is kept."""
    page.evaluate(SENDS, service.url("/row-30?quiet"))
    assert [
        ("text", "text"),
        ("text", "\ufffd!"),
        ("binary", b"blob of two".hex()),
        ("text", "behind the blob"),
        ("binary", "0001020304050607"),
        ("binary", "020304"),
        ("binary", "0607"),
        ("binary", ""),
        ("text", "123"),
        ("text", "[object Object]"),
        ("text", "null"),
    ] == [(fact["kind"], fact["data"]) for fact in service.seen("/row-30", "message")]
