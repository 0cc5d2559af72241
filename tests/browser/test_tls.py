"""wss: a certificate that Chromium does not know is a failure like any other; one that it takes changes nothing else.

The certificate comes from an authority made for the test. To have it accepted, Chromium is told to ignore errors of
certificates, which is also the way to try a service of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.service import Service
from tests.certificates import Authority

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def secure(browser: Browser, site: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service with a certificate for 127.0.0.1."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    with Service([site], trust=authority.client(), tls=authority.issue("server").settings) as service:
        yield service.start()


@pytest.fixture
def careless_page(browser: Browser, site: str) -> Iterator[Page]:
    """Return a page that takes any certificate."""
    with browser.new_context(ignore_https_errors=True) as context:
        page = context.new_page()
        page.goto(site)
        yield page


def test_row_12_an_untrusted_certificate(page: Page, secure: Service) -> None:
    """An unknown certificate is an error and 1006; the request is never made."""
    events = page.evaluate("url => watch(url).end()", secure.url("/row-12-untrusted"))
    assert [["error", 3], ["close", 3, 1006, "", False]] == events
    assert [] == secure.seen("/row-12-untrusted")


def test_row_12_wss(careless_page: Page, secure: Service) -> None:
    """With the certificate accepted, a message is echoed, its origin is wss, and the end is clean."""
    origin, events = careless_page.evaluate(
        """async url => {
            const watched = await opened(url);
            const origin = new Promise(resolve => watched.ws.onmessage = event => resolve(event.origin));
            watched.ws.send("x");
            await origin;
            watched.ws.close(1000);
            return [await origin, await watched.end()];
        }""",
        secure.url("/row-12"),
    )
    assert f"wss://{secure.authority}" == origin
    assert [["open", 1], ["message", 1, "x"], ["close", 3, 1000, "", True]] == events
    assert [{"code": 1000, "reason": ""}] == secure.wait_seen("/row-12", "close")


def test_row_12_a_close_of_ours_over_tls(careless_page: Page, secure: Service) -> None:
    """Closes of the app are clean over TLS too, where a half-close is not to be had."""
    careless_page.evaluate("async url => { globalThis.watched = await opened(url) }", secure.url("/row-12-close"))
    secure.order("/row-12-close", close=4001, reason="enough")
    assert [["open", 1], ["close", 3, 4001, "enough", True]] == careless_page.evaluate("watched.end()")
    assert [{"code": 4001, "reason": "enough"}] == secure.wait_seen("/row-12-close", "close")


def test_row_12_a_large_message_over_tls(careless_page: Page, secure: Service) -> None:
    """5 MiB go there and back."""
    sizes = careless_page.evaluate(
        """async ([url, size]) => {
            const watched = await opened(url);
            watched.ws.send(new Uint8Array(size));
            return (await watched.until("message")).data.map(blob => blob.size);
        }""",
        [secure.url("/row-12-large"), 5 * 1024**2],
    )
    assert [5 * 1024**2] == sizes
