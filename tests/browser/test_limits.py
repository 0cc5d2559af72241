"""How many sockets a browser opens, in what order, and what a page learns of those that fail.

The two limits explain complaints that look like faults of a server: a handshake that hangs keeps all others to the same
address waiting, so a service must answer or refuse soon; and a test page with hundreds of sockets hits Chromium's limit
and not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import MakeService
from tests.browser.service import Service
from tests.ports import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

FAILED = [["error", 3], ["close", 3, 1006, "", False]]


def test_row_6_handshakes_are_serial(page: Page, site: str, make_service: MakeService) -> None:
    """A handshake waits for the one before it to the same address; localhost and 127.0.0.1 are the same."""
    port = free_port()
    service = make_service(listen=[f"127.0.0.1:{port}", f"127.0.0.2:{port}"])
    service.port = port
    page.evaluate("url => { globalThis.held = watch(url) }", service.url("/row-6-held?held"))
    service.wait_seen("/row-6-held", "handshake")
    page.evaluate(
        """async ([same, local, other]) => {
            globalThis.behind = [watch(same), watch(local)];
            // the last one to be made, and the first one to be open
            await opened(other);
        }""",
        [
            service.url("/row-6-same"),
            f"ws://localhost:{port}/row-6-local",
            f"ws://127.0.0.2:{port}/row-6-other",
        ],
    )
    assert [] == service.seen("/row-6-same") == service.seen("/row-6-local")
    service.release("/row-6-held")
    page.evaluate("Promise.all([held, ...behind].map(one => one.until('open')))")
    assert [{"subprotocol": None}] == service.seen("/row-6-held", "connect")


def test_row_7_many_sockets(page: Page, service: Service) -> None:
    """Of 300 sockets 255 open, and 45 fail at once; when they are closed, there is room again."""
    opened, failures = page.evaluate(
        """async url => {
            globalThis.all = Array.from({length: 300}, () => watch(url));
            await holds(() => all.every(one => one.events.length > 0));
            return [
                all.filter(one => one.events[0][0] === "open").length,
                all.filter(one => one.events[0][0] !== "open").map(one => one.events),
            ];
        }""",
        service.url("/row-7"),
    )
    assert (255, [FAILED] * 45) == (opened, failures)
    again = page.evaluate(
        """async url => {
            const open = all.filter(one => one.ws.readyState === 1);
            open.forEach(one => one.ws.close());
            await Promise.all(open.map(one => one.end()));
            return (await opened(url)).events;
        }""",
        service.url("/row-7"),
    )
    assert [["open", 1]] == again


@pytest.mark.parametrize("authority", ["127.0.0.1:25", "127.0.0.1:FREE", "nowhere.invalid"])
def test_row_12_no_connection(page: Page, authority: str) -> None:
    """A forbidden port, a refused connection and a name that is not found are the same failure to a page."""
    url = f"ws://{authority.replace('FREE', str(free_port()))}/"
    assert FAILED == page.evaluate("url => watch(url).end()", url)
