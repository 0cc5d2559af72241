"""Answers to a handshake that wsworker never gives, and what Chromium makes of them: why wsworker must not.

A raw server stands in. If one of these tests fails, Chromium has changed, and what wsworker's rules rest on as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.wire import Peer, RawServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

FAILED = [["error", 3], ["close", 3, 1006, "", False]]

UPGRADE = "Upgrade: websocket"
CONNECTION = "Connection: Upgrade"


def outcome(page: Page, *headers: str, offered: list[str] | None = None, version: str = "1.1") -> object:
    """Return the events of a page that is answered 101 with these headers; {accept} stands for the right value."""

    def script(peer: Peer) -> None:
        peer.read_head()
        lines = [header.replace("{accept}", peer.accept_value()) for header in headers]
        peer.respond("101 Switching Protocols", *lines, version=version)
        peer.read_rest()

    with RawServer(script) as server:
        return page.evaluate(
            """async ([url, offered]) => {
                const watched = offered === null ? watch(url) : watch(url, offered);
                await holds(() => watched.events.length > 0);
                return watched.ws.readyState === 1 ? watched.events : await watched.end();
            }""",
            [server.url(), offered],
        )


def test_row_4_user_and_password(page: Page) -> None:
    """User and password of the URL are sent only when a 401 asks for them, on a second connection."""
    heads = []

    def script(peer: Peer) -> None:
        heads.append(peer.read_head())
        if "Authorization" not in heads[-1]:
            peer.respond("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"', "Content-Length: 0")
        else:
            accept = f"Sec-WebSocket-Accept: {peer.accept_value()}"
            peer.respond("101 Switching Protocols", UPGRADE, CONNECTION, accept)
            peer.read_rest()

    with RawServer(script) as server:
        events = page.evaluate("async url => (await opened(url)).events", server.url().replace("//", "//u:p@"))
    assert [["open", 1]] == events
    first, second = heads
    assert "Authorization" not in first
    assert "\r\nAuthorization: Basic dTpw\r\n" in second


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (["a"], []),
        (["a"], ["b"]),
        (["a"], ["A"]),
        (["a", "b"], ["a, b"]),
        (["a", "b"], ["a", "b"]),
        (None, ["a"]),
    ],
)
def test_row_17_a_wrong_subprotocol(page: Page, offered: list[str] | None, answered: list[str]) -> None:
    """None of those that were offered, one that was not, two, or one that nobody asked for: it never opens."""
    headers = [f"Sec-WebSocket-Protocol: {name}" for name in answered]
    accept = "Sec-WebSocket-Accept: {accept}"
    assert FAILED == outcome(page, UPGRADE, CONNECTION, accept, *headers, offered=offered)


@pytest.mark.parametrize(
    "headers",
    [
        [UPGRADE, CONNECTION],
        [UPGRADE, CONNECTION, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
        [CONNECTION, "Sec-WebSocket-Accept: {accept}"],
        [UPGRADE, "Sec-WebSocket-Accept: {accept}"],
    ],
)
def test_row_18_a_missing_header(page: Page, headers: list[str]) -> None:
    """Accept wrong or missing, Upgrade or Connection missing: it never opens."""
    assert FAILED == outcome(page, *headers)


@pytest.mark.parametrize(
    ("upgrade", "connection", "version"),
    [
        ("websocket", "keep-alive, Upgrade", "1.1"),
        ("WebSocket", "upgrade", "1.1"),
        ("websocket", "Upgrade", "1.0"),
    ],
)
def test_row_19_what_is_taken(page: Page, upgrade: str, connection: str, version: str) -> None:
    """Connection is a list, tokens have no case, and even a 101 of HTTP/1.0 will do."""
    headers = [f"Upgrade: {upgrade}", f"Connection: {connection}", "Sec-WebSocket-Accept: {accept}"]
    assert [["open", 1]] == outcome(page, *headers, version=version)


@pytest.mark.parametrize(
    "answered",
    [
        ["permessage-deflate; client_max_window_bits"],
        ["permessage-deflate; unknown"],
        ["x-foo"],
        ["x-webkit-deflate-frame"],
        ["permessage-deflate, permessage-deflate"],
        ["permessage-deflate", "permessage-deflate"],
    ],
)
def test_row_22_a_wrong_extension(page: Page, answered: list[str]) -> None:
    """A parameter or extension that Chromium did not offer, or one given twice: it never opens."""
    headers = [f"Sec-WebSocket-Extensions: {extension}" for extension in answered]
    assert FAILED == outcome(page, UPGRADE, CONNECTION, "Sec-WebSocket-Accept: {accept}", *headers)
