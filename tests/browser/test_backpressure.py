"""A page and a service of which one is slower than the other, and how far the page can see it.

All that a WebSocket shows is bufferedAmount: the bytes that the page has sent and that Chromium has not given to the
kernel. It grows when the service stops reading. The other way round a page cannot be slow, as Chromium reads for it
whatever comes; only a WebSocketStream makes the service wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.browser.service import Service

if TYPE_CHECKING:
    from playwright.sync_api import Page

MIB = 1024**2


def test_row_31_buffered_amount(page: Page, service: Service) -> None:
    """It counts bytes of UTF-8 at once, and is 0 when they have left."""
    amounts = page.evaluate(
        """async url => {
            const watched = await opened(url), {ws} = watched, amounts = [];
            ws.send("hello");
            amounts.push(ws.bufferedAmount);
            ws.send("üüüüü");
            amounts.push(ws.bufferedAmount);
            await watched.until("message", 2);
            amounts.push(ws.bufferedAmount);
            return amounts;
        }""",
        service.url("/row-31"),
    )
    assert [5, 15, 0] == amounts


def test_row_31_buffered_amount_after_close(page: Page, service: Service) -> None:
    """After close() it still grows with every send(), which sends nothing and raises nothing, and never falls."""
    amounts, events = page.evaluate(
        """async url => {
            const watched = await opened(url), {ws} = watched, amounts = [];
            ws.close(1000);
            ws.send("hello");
            amounts.push(ws.bufferedAmount);
            ws.send("bye");
            amounts.push(ws.bufferedAmount);
            const events = await watched.end();
            amounts.push(ws.bufferedAmount);
            return [amounts, events];
        }""",
        service.url("/row-31-closed"),
    )
    assert [5, 8, 8] == amounts
    assert [["open", 1], ["close", 3, 1000, "", True]] == events
    assert [] == service.seen("/row-31-closed", "message")


def test_row_32_a_service_that_does_not_read(page: Page, service: Service) -> None:
    """What a paused service does not read stays in bufferedAmount, also after close(); then all of it arrives first."""
    size = 60 * MIB
    at_once, later = page.evaluate(
        """async ([url, size]) => {
            globalThis.watched = await opened(url);
            const {ws} = watched;
            ws.send(JSON.stringify({pause: true}));
            await holds(() => ws.bufferedAmount === 0);
            ws.send(new Uint8Array(size));
            const atOnce = ws.bufferedAmount;
            ws.close(1000);
            // the kernel takes what its buffers hold, and not more
            await holds(() => ws.bufferedAmount < size);
            return [atOnce, ws.bufferedAmount];
        }""",
        [service.url("/row-32?quiet"), size],
    )
    assert size == at_once
    assert size / 2 < later < size
    assert ['{"pause":true}'] == [fact["data"] for fact in service.seen("/row-32", "message")]
    assert size / 2 < page.evaluate("watched.ws.bufferedAmount")
    service.order("/row-32", resume=True)
    assert [["open", 1], ["close", 3, 1000, "", True]] == page.evaluate("watched.end()")
    assert 0 == page.evaluate("watched.ws.bufferedAmount")
    _, data = service.seen("/row-32", "message")
    assert size == data["size"]
    assert [{"code": 1000, "reason": ""}] == service.wait_seen("/row-32", "close")


def test_row_52_a_stream_that_is_not_read(page: Page, service: Service) -> None:
    """A WebSocketStream that is not read fills the service's buffer; once it is read, nothing is missing."""
    size, count = 8 * MIB, 8
    page.evaluate(
        "async url => { const stream = new WebSocketStream(url); globalThis.opening = await stream.opened }",
        service.url("/row-52-slow"),
    )
    accepted = 0
    while not service.seen("/row-52-slow", "full"):
        assert accepted < count, "the browser has read what the page did not"
        service.order("/row-52-slow", binary="00" * 1024, times=size // 1024)
        accepted += 1
    total = page.evaluate(
        """async size => {
            const reader = opening.readable.getReader();
            let total = 0;
            while (total < size) {
                total += (await reader.read()).value.byteLength;
            }
            return total;
        }""",
        accepted * size,
    )
    assert accepted * size == total
    service.wait_seen("/row-52-slow", "drain")
