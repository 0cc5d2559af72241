"""A browser, a page and a service for each test.

Chromium is started once for all tests of this folder, headless, by its path: $WSWORKER_TEST_CHROMIUM, or `chromium` on
the PATH. Each test gets a context of its own, a profile without cookies or connections. Playwright's sync API keeps
an event loop running in this thread while it lives; it therefore ends with this folder, not with the session, as other
tests call asyncio.run.

Pages come from an HTTP server of the test, because a page needs an origin, and a loopback one is a secure context. All
are empty, and have the functions of page.js: in a script element, since the one that Playwright adds to every new page
may come too late for an iframe.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from tests.browser.service import Service
from tests.browser.wire import Peer, RawServer, Relay
from tests.conftest import lacking

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

MakeService: TypeAlias = Callable[..., Service]
MakeRaw: TypeAlias = Callable[[Callable[[Peer], None]], RawServer]

LIBRARY: Final = Path(__file__).with_name("page.js").read_text()
PAGE: Final = f"<!doctype html><title>test</title><script>{LIBRARY}</script>"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A running Chromium."""
    path = os.environ.get("WSWORKER_TEST_CHROMIUM") or shutil.which("chromium")
    if path is None:
        lacking("chromium is not installed", "chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright, which drives chromium, is not installed", "chromium")
    with sync_playwright() as playwright:
        # no name server is asked
        arguments = ["--host-resolver-rules=MAP *.invalid ^NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class _SamePage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="package")
def site() -> Iterator[str]:
    """Return the origin that the pages come from; every path gives the same page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _SamePage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Return a profile of its own."""
    with browser.new_context() as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, site: str) -> Page:
    """Return a page of the site."""
    page = context.new_page()
    page.goto(site)
    return page


@pytest.fixture(scope="package")
def service(browser: Browser, site: str) -> Iterator[Service]:
    """Return the service that most tests share; each uses paths of its own."""
    with Service([site], {"subprotocols": ["chat.v2", "chat.v1"]}) as service:
        yield service.start()


@pytest.fixture
def make_service(browser: Browser, site: str) -> Iterator[MakeService]:
    """Return a function that starts a service with other settings: those of its section websocket, and others."""
    with ExitStack() as stack:
        yield lambda websocket=None, **settings: stack.enter_context(Service([site], websocket, **settings)).start()


@pytest.fixture
def relay(service: Service) -> Iterator[Relay]:
    """Return a recording way to the shared service."""
    with Relay(service.port) as relay:
        yield relay
