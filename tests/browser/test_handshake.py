"""What Chromium asks for when it connects, and what it makes of our answers.

The request has headers that wsworker relies on: an Origin always, cookies by host and not by port, a subprotocol list
in the page's order. The answer has one thing that a page can see, the 101; any other status is one and the same failure
to it, so an application that wants to say why has to let the page in first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.browser.conftest import PAGE, MakeService
from tests.browser.service import Service
from tests.browser.wire import Peer, RawServer, Relay

if TYPE_CHECKING:
    from playwright.sync_api import Page

FAILED = [["error", 3], ["close", 3, 1006, "", False]]


def test_row_1_the_request(page: Page, site: str, relay: Relay) -> None:
    """Chromium sends these headers in this order, and one line of subprotocols in the page's order."""
    page.context.add_cookies([{"name": "a", "value": "1", "url": site}])
    page.evaluate("async url => { await opened(url, ['chat.v1', 'chat.v2']) }", relay.url("/row-1?x=1"))
    line, *headers = relay.wires[0].head.split("\r\n")
    assert "GET /row-1?x=1 HTTP/1.1" == line
    names = [header.partition(": ")[0] for header in headers]
    assert [
        "Host",
        "Connection",
        "Pragma",
        "Cache-Control",
        "User-Agent",
        "Upgrade",
        "Origin",
        "Sec-WebSocket-Version",
        "Accept-Encoding",
        "Accept-Language",
        "Cookie",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
    ] == names
    values = dict(header.split(": ", 1) for header in headers)
    assert (relay.authority, "Upgrade", "websocket") == (values["Host"], values["Connection"], values["Upgrade"])
    assert (site, "13", "a=1") == (values["Origin"], values["Sec-WebSocket-Version"], values["Cookie"])
    assert "permessage-deflate; client_max_window_bits" == values["Sec-WebSocket-Extensions"]
    assert "chat.v1, chat.v2" == values["Sec-WebSocket-Protocol"]


def test_row_2_cookies_are_sent(page: Page, site: str, service: Service) -> None:
    """Cookies of the host come along whatever the port, HttpOnly ones too; those of another host do not."""
    page.context.add_cookies(
        [
            {"name": "sid", "value": "s3cret", "url": site, "httpOnly": True},
            {"name": "other", "value": "1", "url": "http://other.test"},
        ]
    )
    page.evaluate("async url => { await opened(url) }", service.url("/row-2"))
    assert [{"sid": "s3cret"}] == [fact["cookies"] for fact in service.seen("/row-2", "handshake")]


def test_row_2_cookies_are_stored(page: Page) -> None:
    """A Set-Cookie on the 101 is stored, for the next page and the next handshake."""

    def script(peer: Peer) -> None:
        peer.accept("Set-Cookie: sid=s3cret; HttpOnly")
        peer.read_rest()

    with RawServer(script) as server:
        page.evaluate("async url => { await opened(url) }", server.url())
        cookies = [(cookie["name"], cookie["value"]) for cookie in page.context.cookies(f"http://{server.authority}")]
        assert [("sid", "s3cret")] == cookies


SANDBOXED = """async ([page, url]) => {
    const told = [];
    onmessage = ({data}) => told.push(data);
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.srcdoc = `${page}<script>
        watch("${url}").end().catch(String).then(events => parent.postMessage(events, "*"));
    </script>`;
    document.body.append(frame);
    await holds(() => told.length > 0);
    return told[0];
}"""


def test_row_3_a_sandboxed_page_is_refused(page: Page, service: Service) -> None:
    """A sandboxed iframe has the Origin null, which a list of origins does not admit."""
    assert FAILED == page.evaluate(SANDBOXED, [PAGE, service.url("/row-3-refused")])
    service.wait_log("refused Origin 'null'")
    assert [] == service.seen("/row-3-refused")


def test_row_3_a_sandboxed_page_has_no_cookies(page: Page, site: str, make_service: MakeService) -> None:
    """Where the list has null it comes in, and without the cookies of the host."""
    page.context.add_cookies([{"name": "sid", "value": "s3cret", "url": site}])
    service = make_service({"origins": ["null"]})
    orders = json.dumps([{"close": 4000, "reason": "done"}])
    events = page.evaluate(SANDBOXED, [PAGE, service.url(f"/row-3?orders={quote(orders)}")])
    assert [["open", 1], ["close", 3, 4000, "done", True]] == events
    [handshake] = service.seen("/row-3", "handshake")
    assert "null" == handshake["headers"]["origin"]
    assert "cookie" not in handshake["headers"]


def test_same_origin(page: Page, tmp_path: Path, make_service: MakeService) -> None:
    """By default a page of the service's own may connect, with its cookies; one of another port may not."""
    (tmp_path / "index.html").write_text(PAGE)
    service = make_service({"origins": "same-origin"}, http={"static": str(tmp_path)})
    assert FAILED == page.evaluate("url => watch(url).end()", service.url("/foreign"))
    page.goto(f"http://{service.authority}/index.html")
    page.evaluate("async () => { document.cookie = 'sid=s3cret'; await opened('/own') }")
    assert [{"sid": "s3cret"}] == [fact["cookies"] for fact in service.seen("/own", "handshake")]
    assert [] == service.seen("/foreign")


def test_row_15_no_subprotocol(page: Page, service: Service) -> None:
    """A page that offers no subprotocol gets none, though the service has some."""
    protocol = page.evaluate("async url => (await opened(url)).ws.protocol", service.url("/row-15"))
    assert "" == protocol
    assert [{"subprotocol": None}] == service.seen("/row-15", "connect")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["chat.v1"], "chat.v1"),
        (["chat.v1", "chat.v2"], "chat.v2"),
        (["soap", "CHAT.V2", "chat.v1"], "chat.v1"),
    ],
)
def test_row_16_the_subprotocol(page: Page, service: Service, offered: list[str], chosen: str) -> None:
    """Page and app both see the first of the service's subprotocols that the page has offered, in its exact case."""
    path = f"/row-16-{len(offered)}"
    protocol = page.evaluate(
        "async ([url, offered]) => (await opened(url, offered)).ws.protocol",
        [
            service.url(path),
            offered,
        ],
    )
    assert chosen == protocol
    assert [{"subprotocol": chosen}] == service.seen(path, "connect")


def test_row_17_no_common_subprotocol(page: Page, service: Service) -> None:
    """A 101 without one of the offered subprotocols is no connection to Chromium; the app sees it come and go."""
    events = page.evaluate("url => watch(url, ['soap']).end()", service.url("/row-17"))
    assert FAILED == events
    [closed] = service.wait_seen("/row-17", "close")
    assert 1006 == closed["code"]
    service.wait_log("offers soap, not in websocket.subprotocols")


REFUSALS = [302, 400, 401, 403, 404, 426, 429, 500, 503]


def test_row_20_a_refusal(page: Page, service: Service) -> None:
    """A refused handshake is an error and 1006, whatever the status; a redirect is not followed."""
    urls = [service.url(f"/row-20-{status}?status={status}") for status in REFUSALS]
    ends = page.evaluate("urls => Promise.all(urls.map(url => watch(url).end()))", urls)
    assert [FAILED] * len(REFUSALS) == ends
    for status in REFUSALS:
        assert ["handshake"] == [fact["what"] for fact in service.seen(f"/row-20-{status}")]
    assert [] == service.seen("/redirected")


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_row_20_a_success_that_is_no_101(page: Page, status: str) -> None:
    """A status of success is a refusal as well."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.respond(status, "Connection: close", *(["Content-Length: 0"] if status.startswith("200") else []))

    with RawServer(script) as server:
        assert FAILED == page.evaluate("url => watch(url).end()", server.url())


def test_row_23_frames_glued_to_the_101(page: Page, relay: Relay) -> None:
    """Messages and a Close that come in one piece with the 101 are all delivered, behind the open event."""
    orders = json.dumps([{"send": "a"}, {"send": "b"}, {"close": 4000, "reason": "enough"}])
    events = page.evaluate("url => watch(url).end()", relay.url(f"/row-23?orders={quote(orders)}"))
    assert [["open", 1], ["message", 1, "a"], ["message", 1, "b"], ["close", 3, 4000, "enough", True]] == events
    # one read of the relay: what the service wrote in one piece
    first = relay.wires[0].reads[0]
    assert first.startswith(b"HTTP/1.1 101 ")
    assert first.endswith(b"\r\n\r\n\x81\x01a\x81\x01b\x88\x08\x0f\xa0enough")


def test_row_27_the_origin_of_a_message(page: Page, service: Service) -> None:
    """A message event names the service, by scheme, host and port."""
    origin = page.evaluate(
        """async url => {
            const watched = await opened(url);
            const origin = new Promise(resolve => watched.ws.onmessage = event => resolve(event.origin));
            watched.ws.send("x");
            return await origin;
        }""",
        service.url("/row-27"),
    )
    assert f"ws://{service.authority}" == origin


def test_row_54_how_to_say_why(page: Page, service: Service) -> None:
    """A page never sees the status of a refusal; a close with a code of its own, right after the 101, it does see."""
    orders = json.dumps([{"close": 3500, "reason": "sign in first"}])
    events = page.evaluate("url => watch(url).end()", service.url(f"/row-54?orders={quote(orders)}"))
    assert [["open", 1], ["close", 3, 3500, "sign in first", True]] == events
