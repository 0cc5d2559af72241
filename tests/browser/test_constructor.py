"""What `new WebSocket` takes and refuses, and what a socket says before it is open.

All of this happens in the page; the service only shows that a URL which is accepted leads somewhere. It is tested
because wsworker's documents tell authors of pages what to write, and because browsers have changed here: http(s) and
relative URLs are accepted since 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.browser.service import Service

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_row_9_initial_state(page: Page, service: Service) -> None:
    """A new socket is connecting, has sent nothing and agreed on nothing; binary messages will be Blobs."""
    state = page.evaluate(
        """url => {
            const ws = new WebSocket(url);
            return [ws.readyState, ws.bufferedAmount, ws.protocol, ws.extensions, ws.binaryType];
        }""",
        service.url("/row-9"),
    )
    assert [0, 0, "", "", "blob"] == state


def test_row_10_urls_refused(page: Page, service: Service) -> None:
    """A URL with a fragment, even an empty one, or of another scheme is a SyntaxError."""
    urls = [service.url("/#frag"), service.url("/#"), f"ftp://{service.authority}/", "ws://"]
    names = page.evaluate("urls => urls.map(url => thrown(() => new WebSocket(url)))", urls)
    assert ["SyntaxError"] * 4 == names


SUBPROTOCOLS_REFUSED: list[str | list[str]] = [["a", "a"], "a b", "", [""], "a,b", "ü", [" a"]]


def test_row_10_subprotocols(page: Page, service: Service) -> None:
    """A subprotocol given twice, or one that is no token, is a SyntaxError; case makes two, and [] is no offer."""
    offers = [*SUBPROTOCOLS_REFUSED, ["a", "A"], []]
    names = page.evaluate(
        "([url, offers]) => offers.map(offered => thrown(() => new WebSocket(url, offered)))",
        [service.url("/row-10"), offers],
    )
    assert ["SyntaxError"] * len(SUBPROTOCOLS_REFUSED) + [None, None] == names


def test_row_11_http_is_ws(page: Page, service: Service) -> None:
    """An http URL is taken for ws, and connects."""
    url = page.evaluate("async url => (await opened(url)).ws.url", f"http://{service.authority}/row-11")
    assert service.url("/row-11") == url
    assert ["handshake", "connect"] == [fact["what"] for fact in service.seen("/row-11")]


def test_row_11_relative_urls(page: Page, site: str) -> None:
    """A relative URL starts at the page's; its scheme follows the page's."""
    here = site.replace("http", "ws")
    urls = page.evaluate(
        "urls => urls.map(url => new WebSocket(url).url)", ["chat?x=1", "/chat", "", "//chat.invalid/a"]
    )
    assert [f"{here}/chat?x=1", f"{here}/chat", f"{here}/", "ws://chat.invalid/a"] == urls


def test_row_11_urls_are_normalised(page: Page) -> None:
    """The default port is dropped, and path and query are percent-encoded UTF-8."""
    urls = page.evaluate(
        "urls => urls.map(url => new WebSocket(url).url)",
        ["ws://chat.invalid:80", "wss://chat.invalid:443/", "https://chat.invalid", "ws://chat.invalid/a b/ü?q=ü d"],
    )
    assert [
        "ws://chat.invalid/",
        "wss://chat.invalid/",
        "wss://chat.invalid/",
        "ws://chat.invalid/a%20b/%C3%BC?q=%C3%BC%20d",
    ] == urls


def test_row_13_send_while_connecting(page: Page, service: Service) -> None:
    """Nothing can be sent before the socket is open; that it was tried does no harm."""
    seen = page.evaluate(
        """async url => {
            const watched = watch(url);
            const name = thrown(() => watched.ws.send("early"));
            await watched.until("open");
            watched.ws.send("late");
            return [name, (await watched.until("message")).data];
        }""",
        service.url("/row-13"),
    )
    assert ["InvalidStateError", ["late"]] == seen


def test_row_14_close_while_connecting(page: Page, service: Service) -> None:
    """close() before the answer ends the attempt: closing at once, then an error and 1006."""
    page.evaluate("url => { globalThis.watched = watch(url) }", service.url("/row-14?held"))
    service.wait_seen("/row-14", "handshake")
    assert 2 == page.evaluate("() => { watched.ws.close(); return watched.ws.readyState }")
    assert [["error", 3], ["close", 3, 1006, "", False]] == page.evaluate("watched.end()")
    # whether the app sees it come and go depends on when its handshake notices
    service.release("/row-14")


def test_row_53_ready_state_in_handlers(page: Page, service: Service) -> None:
    """Handlers see the state after the change: 1 in open and message, 3 in error and close."""
    good, bad = page.evaluate(
        """async ([good, bad]) => {
            const watched = await opened(good);
            watched.ws.send("x");
            await watched.until("message");
            watched.ws.close(1000);
            return [await watched.end(), await watch(bad).end()];
        }""",
        [service.url("/row-53"), service.url("/row-53?status=403")],
    )
    assert [("open", 1), ("message", 1), ("close", 3)] == [(kind, state) for kind, state, *_ in good]
    assert [("error", 3), ("close", 3)] == [(kind, state) for kind, state, *_ in bad]
