"""A reload hands connections to the new worker: a page sees nothing of it, see docs/reload.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.browser.conftest import MakeService
from tests.browser.service import APP

if TYPE_CHECKING:
    from playwright.sync_api import Page

TALK: Final = """
async urls => {
    const sockets = await Promise.all(urls.map((url) => opened(url)));
    globalThis.stopped = false;
    globalThis.talks = sockets.map(async (socket) => {
        const sent = [];
        do {
            // most are whole in one read, some are not
            const text = `${sent.length} ${"x".repeat(sent.length % 8 ? 10 : 100000)}`;
            sent.push(text);
            socket.ws.send(text);
            await new Promise((done) => setTimeout(done, 5));
        } while (!stopped);
        await socket.until("message", sent.length);
        const kinds = [...new Set(socket.events.map(([type]) => type))];
        return [sent.length > 20, JSON.stringify(sent) === JSON.stringify(socket.data), kinds];
    });
}
"""
"""Sends on each socket every few milliseconds, until it is stopped; compares what has come back."""


@pytest.mark.parametrize("compression", ["none", "deflate"])
def test_a_page_that_talks(page: Page, make_service: MakeService, compression: str) -> None:
    """During three reloads every echo comes once and in order, and nothing but messages; the newest code answers."""
    service = make_service({"compression": compression}, workers=2)
    page.evaluate(TALK, [service.url(f"/talk-{number}") for number in range(4)])
    page.evaluate("async url => { globalThis.idle = await opened(url); }", service.url("/idle"))
    for number in range(3):
        # longer each time: Python takes a file of the same size and second for the same
        service.write_app(APP.replace("connection.send(data)", f'connection.send(data if data else "{"x" * number}")'))
        done = service.cli("reload", "--json")
        assert 0 == done.code, done.err
        document = json.loads(done.out)
        assert (5, 0, {}) == (document["moved"], document["asked"], document["drained"])
    page.evaluate("() => { stopped = true; }")
    assert [[True, True, ["open", "message"]]] * 4 == page.evaluate("() => Promise.all(talks)")
    assert [["open", 1]] == page.evaluate("idle.events")
    page.evaluate("() => { idle.ws.send(''); return idle.until('message'); }")
    assert ["xx"] == page.evaluate("idle.data")
