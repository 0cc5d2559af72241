"""permessage-deflate between Chromium and us: what is agreed on, and which messages are compressed.

Chromium offers it always. It compresses every data message once it is agreed on, empty ones too; we compress large
messages only, and each by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.browser.conftest import MakeService
from tests.browser.service import Service
from tests.browser.wire import Peer, RawServer, Relay
from tests.frames import BINARY, CLOSE, CONTINUATION, FIN, RSV1, TEXT

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_row_21_not_agreed(page: Page, service: Service) -> None:
    """Without websocket.compression the offer is not taken up, and a page sees no extension."""
    assert "" == page.evaluate("async url => (await opened(url)).ws.extensions", service.url("/row-21"))


def test_row_21_agreed(page: Page, make_service: MakeService) -> None:
    """With it a page sees our answer word by word; both sides begin each message afresh."""
    service = make_service({"compression": "deflate"})
    with Relay(service.port) as relay:
        extensions = page.evaluate("async url => (await opened(url)).ws.extensions", relay.url("/row-21"))
        [header] = [
            line for line in relay.wires[0].response.split("\r\n") if line.startswith("Sec-WebSocket-Extensions: ")
        ]
    assert header.partition(": ")[2] == extensions
    name, *parameters = extensions.split("; ")
    assert ("permessage-deflate", {"server_no_context_takeover", "client_no_context_takeover"}) == (
        name,
        set(parameters),
    )


ANSWERS = [
    "permessage-deflate",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=10",
    *(f"permessage-deflate; client_max_window_bits={bits}" for bits in range(8, 16)),
]


def test_row_21_what_chromium_takes(page: Page) -> None:
    """A page sees the extension as the server has written it, with these parameters."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.accept(f"Sec-WebSocket-Extensions: {ANSWERS[int(peer.path.lstrip('/'))]}")
        peer.read_rest()

    with RawServer(script) as server:
        urls = [server.url(f"/{number}") for number in range(len(ANSWERS))]
        extensions = page.evaluate(
            "urls => Promise.all(urls.map(async url => (await opened(url)).ws.extensions))", urls
        )
    assert ANSWERS == extensions


def test_row_8_every_message_is_compressed(page: Page, make_service: MakeService) -> None:
    """With compression every data message of Chromium has RSV1 on its first frame, empty ones and small ones too."""
    service = make_service({"compression": "deflate"})
    with Relay(service.port) as relay:
        page.evaluate(
            """async url => {
                const {ws} = globalThis.watched = await opened(url);
                ws.send("");
                ws.send("small");
                ws.send(new Uint8Array(0));
                const noise = new Uint8Array(4 * 65536);
                for (let at = 0; at < noise.length; at += 65536) {
                    crypto.getRandomValues(noise.subarray(at, at + 65536));
                }
                ws.send(noise);
                ws.close(1000);
                await watched.end();
            }""",
            relay.url("/row-8?quiet"),
        )
        frames = relay.wires[0].from_browser
    assert all(frame.masked for frame in frames)
    *firsts, close = [frame.first for frame in frames if frame.opcode != CONTINUATION]
    assert [FIN | RSV1 | TEXT, FIN | RSV1 | TEXT, FIN | RSV1 | BINARY, RSV1 | BINARY, FIN | CLOSE] == [*firsts, close]
    assert {0, FIN} == {frame.first for frame in frames if frame.opcode == CONTINUATION}
    messages = service.seen("/row-8", "message")
    assert ["", "small", ""] == [fact["data"] for fact in messages[:3]]
    assert 4 * 65536 == messages[3]["size"]


def test_row_29_our_compressed_messages(page: Page, make_service: MakeService) -> None:
    """Chromium reads our compressed messages and our plain ones, in any order."""
    service = make_service({"compression": "deflate"})
    texts = ["tick " * 4000, "plain", "tock " * 4000]
    with Relay(service.port) as relay:
        data = page.evaluate(
            """async ([url, texts]) => {
                const watched = await opened(url);
                texts.forEach(text => watched.ws.send(text));
                return (await watched.until("message", texts.length)).data;
            }""",
            [relay.url("/row-29"), texts],
        )
        firsts = [frame.first for frame in relay.wires[0].from_server]
    assert texts == data
    assert [FIN | RSV1 | TEXT, FIN | TEXT, FIN | RSV1 | TEXT] == firsts
