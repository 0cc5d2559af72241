"""The end of a connection, from either side: codes, reasons and wasClean, as the page and the app see them.

The rule that pages rely on: an end with a Close frame from both sides is clean and has no error event, and each side
learns the other's code. Without a Close it is 1006, unclean, and once the socket was open also without an error event.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.browser.conftest import MakeService
from tests.browser.service import Service
from tests.browser.wire import Relay
from tests.frames import CLOSE, FIN
from tests.system.daemon import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

LONGEST_REASON = "é" * 61 + "x"  # 123 bytes of UTF-8

CLOSE_WITH = """async ([url, args]) => {
    const watched = await opened(url);
    watched.ws.close(...args);
    return await watched.end();
}"""


def body(code: int, reason: str) -> bytes:
    """Return the payload of a Close frame."""
    return code.to_bytes(2) + reason.encode()


def test_row_33_close_without_a_code(page: Page, service: Service, relay: Relay) -> None:
    """close() sends an empty Close and gets an empty one: 1005 and clean on both sides."""
    events = page.evaluate(CLOSE_WITH, [relay.url("/row-33"), []])
    assert [["open", 1], ["close", 3, 1005, "", True]] == events
    assert [{"code": 1005, "reason": ""}] == service.wait_seen("/row-33", "close")
    [wire] = relay.wires
    assert [(FIN | CLOSE, True, b"")] == wire.from_browser
    assert [(FIN | CLOSE, False, b"")] == wire.from_server


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1000, "bye"), (3000, "x"), (4001, "cli"), (4999, LONGEST_REASON)]
)
def test_rows_34_and_38_close_with_a_code(page: Page, service: Service, relay: Relay, code: int, reason: str) -> None:
    """Code and reason arrive at the app, and come back to the page in our echo."""
    path = f"/row-34-{code}-{len(reason)}"
    events = page.evaluate(CLOSE_WITH, [relay.url(path), [code, reason]])
    assert [["open", 1], ["close", 3, code, reason, True]] == events
    assert [{"code": code, "reason": reason}] == service.wait_seen(path, "close")
    [wire] = relay.wires
    assert [(FIN | CLOSE, True, body(code, reason))] == wire.from_browser
    assert [(FIN | CLOSE, False, body(code, reason))] == wire.from_server


CODES_REFUSED = [0, 999, 1001, 1005, 1006, 1011, 1015, 2999, 5000, 65536, "abc", None]


def test_row_35_codes_refused(page: Page, service: Service) -> None:
    """Every other code, and a reason without one, is an InvalidAccessError; the socket stays open."""
    names, data = page.evaluate(
        """async ([url, codes]) => {
            const watched = await opened(url), {ws} = watched;
            const names = codes.map(code => thrown(() => ws.close(code)));
            names.push(thrown(() => ws.close(NaN)), thrown(() => ws.close(undefined, "x")));
            ws.send("still here");
            return [names, (await watched.until("message")).data];
        }""",
        [service.url("/row-35"), CODES_REFUSED],
    )
    assert ["InvalidAccessError"] * (len(CODES_REFUSED) + 2) == names
    assert ["still here"] == data


def test_row_36_reasons(page: Page, service: Service) -> None:
    """A reason over 123 bytes of UTF-8 is a SyntaxError and closes nothing; a lone surrogate becomes U+FFFD."""
    name, events = page.evaluate(
        """async ([url, long]) => {
            const watched = await opened(url);
            const name = thrown(() => watched.ws.close(1000, long));
            watched.ws.close(1000, "\\udc00");
            return [name, await watched.end()];
        }""",
        [service.url("/row-36"), LONGEST_REASON + "x"],
    )
    assert "SyntaxError" == name
    assert [["open", 1], ["close", 3, 1000, "\ufffd", True]] == events
    assert [{"code": 1000, "reason": "\ufffd"}] == service.wait_seen("/row-36", "close")


def test_row_37_close_twice(page: Page, service: Service) -> None:
    """The first close() counts."""
    events = page.evaluate(
        """async url => {
            const watched = await opened(url);
            watched.ws.close(4001, "first");
            watched.ws.close(4002, "second");
            return await watched.end();
        }""",
        service.url("/row-37"),
    )
    assert [["open", 1], ["close", 3, 4001, "first", True]] == events


def test_row_39_data_after_close(page: Page, relay: Relay) -> None:
    """What the service still sends when the page has called close() is on the wire, but not delivered."""
    events = page.evaluate(
        """async url => {
            const watched = await opened(url);
            watched.ws.send("echo me");
            watched.ws.close(1000);
            return await watched.end();
        }""",
        relay.url("/row-39"),
    )
    assert [["open", 1], ["close", 3, 1000, "", True]] == events
    assert [b"echo me", body(1000, "")] == [frame.payload for frame in relay.wires[0].from_server]


def test_row_41_we_answer_at_once(page: Page, relay: Relay) -> None:
    """close() leaves the page in state 2 until our echo; the service then ends TCP, for which Chromium waits."""
    state, events = page.evaluate(
        """async url => {
            const watched = await opened(url);
            watched.ws.close();
            return [watched.ws.readyState, await watched.end()];
        }""",
        relay.url("/row-41"),
    )
    assert 2 == state
    assert [["open", 1], ["close", 3, 1005, "", True]] == events
    [wire] = relay.wires
    eventually(lambda: len(wire.ends) == 2, "both sides have closed")
    assert ["server", "browser"] == wire.ends


def test_row_42_we_close_tcp_first(page: Page, relay: Relay) -> None:
    """After the echo of our Close the service ends TCP; if it did not, Chromium would only after 2 s."""
    orders = json.dumps([{"close": 4000, "reason": ""}])
    events = page.evaluate("url => watch(url).end()", relay.url(f"/row-42?orders={quote(orders)}"))
    assert [["open", 1], ["close", 3, 4000, "", True]] == events
    [wire] = relay.wires
    eventually(lambda: len(wire.ends) == 2, "both sides have closed")
    assert ["server", "browser"] == wire.ends
    assert [(FIN | CLOSE, True, body(4000, ""))] == wire.from_browser


def test_row_43_quick_stop(page: Page, make_service: MakeService) -> None:
    """A quick stop, which sends Close and FIN at once, is a clean 1001 to every page."""
    service = make_service()
    page.evaluate(
        """async url => {
            globalThis.watched = await Promise.all(Array.from({length: 5}, () => opened(url)));
        }""",
        service.url("/row-43"),
    )
    assert 0 == service.cli("stop", "--quick").code
    ends = page.evaluate("Promise.all(watched.map(one => one.end()))")
    assert [[["open", 1], ["close", 3, 1001, "", True]]] * 5 == [without_reason(events) for events in ends]


def without_reason(events: list[list[Any]]) -> list[list[Any]]:
    """Return events, the reason of the close taken out."""
    *before, (kind, state, code, _, clean) = events
    return [*before, [kind, state, code, "", clean]]


OURS = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]


def test_row_45_our_codes(page: Page, service: Service) -> None:
    """Every code that close() takes reaches the page with its reason, clean, and comes back to the app."""
    path = "/row-45-"
    urls = [
        service.url(f"{path}{code}?orders=" + quote(json.dumps([{"close": code, "reason": f"why {code}"}])))
        for code in OURS
    ]
    ends = page.evaluate("urls => Promise.all(urls.map(url => watch(url).end()))", urls)
    assert [[["open", 1], ["close", 3, code, f"why {code}", True]] for code in OURS] == ends
    for code in OURS:
        assert [{"code": code, "reason": f"why {code}"}] == service.wait_seen(f"{path}{code}", "close")


def test_row_48_the_longest_reason(page: Page, service: Service) -> None:
    """A reason of 123 bytes arrives whole; a longer one is cut to that, between two characters."""
    reasons = [LONGEST_REASON, "é" * 80]
    urls = [
        service.url(f"/row-48?orders={quote(json.dumps([{'close': 4000, 'reason': reason}]))}") for reason in reasons
    ]
    ends = page.evaluate("urls => Promise.all(urls.map(url => watch(url).end()))", urls)
    assert [LONGEST_REASON, "é" * 61] == [events[-1][3] for events in ends]


def test_row_49_terminate(page: Page, service: Service) -> None:
    """A connection that the app drops is 1006 and unclean, without an error event."""
    orders = json.dumps([{"send": "last words"}])
    page.evaluate(
        "async url => { globalThis.watched = await watch(url).until('message') }",
        service.url(f"/row-49?orders={quote(orders)}"),
    )
    service.order("/row-49", terminate=True)
    assert [["open", 1], ["message", 1, "last words"], ["close", 3, 1006, "", False]] == page.evaluate("watched.end()")


def test_row_49_a_killed_worker(page: Page, make_service: MakeService) -> None:
    """So is one whose worker was killed; the page may connect again, and is served."""
    service = make_service()
    page.evaluate("async url => { globalThis.watched = await opened(url) }", service.url("/row-49"))
    [worker] = service.workers
    os.kill(worker, signal.SIGKILL)
    assert [["open", 1], ["close", 3, 1006, "", False]] == page.evaluate("watched.end()")
    service.wait_status(lambda status: [row["pid"] for row in status["workers"] if row["state"] == "ready"] != [worker])
    assert [["open", 1]] == page.evaluate("async url => (await opened(url)).events", service.url("/row-49"))


IN_FRAME = """async url => {
    const frame = document.createElement("iframe");
    frame.src = "/frame";
    const loaded = new Promise(resolve => frame.onload = resolve);
    document.body.append(frame);
    await loaded;
    globalThis.frame = frame;
    await frame.contentWindow.opened(url);
}"""


def test_row_51_a_frame_is_removed(page: Page, service: Service, relay: Relay) -> None:
    """The sockets of an iframe that is removed close with 1001, masked and without a reason."""
    page.evaluate(IN_FRAME, relay.url("/row-51-frame"))
    page.evaluate("globalThis.frame.remove()")
    assert [{"code": 1001, "reason": ""}] == service.wait_seen("/row-51-frame", "close")
    assert [(FIN | CLOSE, True, body(1001, ""))] == relay.wires[0].from_browser


@pytest.mark.parametrize("how", ["close", "leave"])
def test_row_51_the_page_is_gone(page: Page, service: Service, relay: Relay, how: str) -> None:
    """So do those of a page that is closed or left."""
    path = f"/row-51-{how}"
    page.evaluate("async url => { await opened(url) }", relay.url(path))
    if how == "close":
        page.close()
    else:
        page.goto("about:blank")
    assert [{"code": 1001, "reason": ""}] == service.wait_seen(path, "close")
    assert [(FIN | CLOSE, True, body(1001, ""))] == relay.wires[0].from_browser
