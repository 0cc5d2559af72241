"""The other two ways to a socket: WebSocket inside a Worker, and WebSocketStream.

WebSocketStream is Chromium's own; its opened and closed are promises, and its messages are a readable and a writable.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.browser.conftest import LIBRARY
from tests.browser.service import Service

if TYPE_CHECKING:
    from playwright.sync_api import Page

IN_WORKER = """async ([library, url]) => {
    const scenario = `
        onmessage = async ({data}) => {
            const watched = await opened(data);
            watched.ws.binaryType = "arraybuffer";
            watched.ws.send("text");
            watched.ws.send(new Uint8Array([1, 2]));
            await watched.until("message", 2);
            watched.ws.close(4001, "done");
            postMessage([await watched.end(), await hex(watched.data[1])]);
        };`;
    const worker = new Worker(URL.createObjectURL(new Blob([library, scenario])));
    const told = new Promise((resolve, reject) => {
        worker.onmessage = ({data}) => resolve(data);
        worker.onerror = (event) => reject(new Error(event.message));
    });
    worker.postMessage(url);
    return await told;
}"""


def test_row_5_inside_a_worker(page: Page, site: str, service: Service) -> None:
    """A Worker's socket behaves like a page's, and has the Origin of the page."""
    events, digits = page.evaluate(IN_WORKER, [LIBRARY, service.url("/row-5")])
    assert [
        ["open", 1],
        ["message", 1, "text"],
        ["message", 1, "ArrayBuffer"],
        ["close", 3, 4001, "done", True],
    ] == events
    assert "0102" == digits
    [handshake] = service.seen("/row-5", "handshake")
    assert site == handshake["headers"]["origin"]
    assert [{"code": 4001, "reason": "done"}] == service.wait_seen("/row-5", "close")


def test_row_52_a_stream(page: Page, service: Service) -> None:
    """A stream tells what was agreed on, reads text as string and binary as ArrayBuffer, and closes with its code."""
    told = page.evaluate(
        """async url => {
            const stream = new WebSocketStream(url, {protocols: ["chat.v1"]});
            const {protocol, extensions, readable, writable} = await stream.opened;
            const reader = readable.getReader(), writer = writable.getWriter();
            await writer.write("text");
            await writer.write(new Uint8Array([1, 2]));
            const text = (await reader.read()).value, binary = (await reader.read()).value;
            stream.close({closeCode: 4001, reason: "done"});
            const {closeCode, reason} = await stream.closed;
            return {protocol, extensions, text, kind: binary.constructor.name, binary: await hex(binary),
                    closeCode, reason, url: stream.url};
        }""",
        service.url("/row-52"),
    )
    assert {
        "protocol": "chat.v1",
        "extensions": "",
        "text": "text",
        "kind": "ArrayBuffer",
        "binary": "0102",
        "closeCode": 4001,
        "reason": "done",
        "url": service.url("/row-52"),
    } == told
    assert [{"code": 4001, "reason": "done"}] == service.wait_seen("/row-52", "close")


def test_row_52_a_reason_alone(page: Page, service: Service) -> None:
    """A stream that closes with a reason but no code closes with 1000."""
    page.evaluate(
        """async url => {
            const stream = new WebSocketStream(url);
            await stream.opened;
            stream.close({reason: "done"});
            await stream.closed;
        }""",
        service.url("/row-52-reason"),
    )
    assert [{"code": 1000, "reason": "done"}] == service.wait_seen("/row-52-reason", "close")


def test_row_52_closed_by_us(page: Page, service: Service) -> None:
    """A stream that the app closes ends: its reader is done, and closed tells code and reason."""
    orders = quote(json.dumps([{"send": "last"}, {"close": 4002, "reason": "enough"}]))
    told = page.evaluate(
        """async url => {
            const stream = new WebSocketStream(url);
            const reader = (await stream.opened).readable.getReader();
            const reads = [await reader.read(), await reader.read()];
            const {closeCode, reason} = await stream.closed;
            return [reads.map(({value, done}) => [value ?? null, done]), closeCode, reason];
        }""",
        service.url(f"/row-52-ours?orders={orders}"),
    )
    assert [[["last", False], [None, True]], 4002, "enough"] == told


def test_row_52_an_unclean_end(page: Page, service: Service) -> None:
    """A stream whose connection is dropped rejects closed with a WebSocketError, 1006."""
    page.evaluate(
        "async url => { globalThis.stream = new WebSocketStream(url); await stream.opened }",
        service.url("/row-52-dropped"),
    )
    service.order("/row-52-dropped", terminate=True)
    told = page.evaluate(
        "stream.closed.catch(error => [error.constructor.name, error.name, error.closeCode, error.reason])"
    )
    assert ["WebSocketError", "WebSocketError", 1006, ""] == told


def test_row_52_a_refused_stream(page: Page, service: Service) -> None:
    """A stream that is refused rejects opened and closed alike."""
    told = page.evaluate(
        """async url => {
            const stream = new WebSocketStream(url);
            return await Promise.all([stream.opened, stream.closed].map(one => one.catch(error => error.name)));
        }""",
        service.url("/row-52-refused?status=403"),
    )
    assert ["WebSocketError", "WebSocketError"] == told
