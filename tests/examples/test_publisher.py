"""examples/publisher: Django and FastAPI publish, wsworker asks Django's session who may listen, nginx is in front."""

from __future__ import annotations

import http.cookiejar
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.examples.conftest import MakeExample
from tests.examples.example import Example
from tests.examples.test_all import need_module
from tests.ports import free_port
from tests.system.daemon import PACKAGE, eventually

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

TOKEN = "a-long-secret"


class Browser:
    """What a browser does, as far as this site needs it: it keeps cookies and sends forms with Django's token."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))

    def get(self, path: str = "/") -> str:
        """Return a page."""
        with self._opener.open(f"{self.site}{path}", timeout=10) as answer:
            return str(answer.read(), "utf-8")

    def post(self, path: str, **form: str) -> int:
        """Send a form, and return the status of the answer."""
        tokens = [cookie.value or "" for cookie in self.jar if cookie.name == "csrftoken"]
        body = urllib.parse.urlencode(form).encode()
        return status(
            self._opener, urllib.request.Request(f"{self.site}{path}", body, {"X-CSRFToken": "".join(tokens)})
        )

    @property
    def cookies(self) -> str:
        """All cookies, as a header has them."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.jar)


def status(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> int:
    """Return the status with which a request is answered."""
    try:
        with opener.open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@contextmanager
def running(example: Example, port: int, *command: str, **environ: str) -> Iterator[None]:
    """Run a server beside the example, until it answers on a port and then until the end."""
    path = {"PYTHONPATH": f"{example.folder}{os.pathsep}{PACKAGE.parent}"}
    with (example.folder / "beside.txt").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=example.folder, env=example.environ | path | environ, stdout=log, stderr=log
        )
    try:
        with_answer = urllib.request.build_opener()

        def answers() -> bool:
            assert process.poll() is None, (example.folder / "beside.txt").read_text()
            try:
                return status(with_answer, urllib.request.Request(f"http://127.0.0.1:{port}/none")) > 0
            except OSError:
                return False

        eventually(answers, f"{command[0]} on port {port}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def django(example: Example) -> Iterator[str]:
    """Run the site; gives its address."""
    port = free_port()
    run = (sys.executable, "-m", "django", "runserver", "--noreload", "--settings", "settings", str(port))
    with running(example, port, *run):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def publisher(make_example: MakeExample) -> Example:
    """The service, ready, with a key."""
    need_module("django")
    example = make_example("publisher")
    (example.folder / "secret.key").write_text("a key for tests")
    # who publishes reads it to find the service
    example.change("127.0.0.1:2346", f"127.0.0.1:{example.port}", "config.yaml")
    return example.start()


def listen(address: str, headers: Mapping[str, str]) -> ClientConnection:
    """Return a client with some headers."""
    return connect(f"ws://{address}/ws/", additional_headers=headers, proxy=None, open_timeout=10)


def refusal(address: str, headers: Mapping[str, str]) -> int:
    """Return the status with which a client is refused."""
    with pytest.raises(InvalidStatus) as refused, listen(address, headers):
        pass
    return refused.value.response.status_code


def first_news(publish: Callable[[], int], client: ClientConnection) -> Any:
    """Publish until a client is told of it: a subscription takes effect in other workers a moment later."""
    for _ in range(20):
        assert 204 == publish()
        with suppress(TimeoutError):
            return json.loads(client.recv(0.5))
    raise AssertionError("no news in 10 s")


def test_django(publisher: Example) -> None:
    """Who has signed in at the site listens, and hears what it publishes; others and foreign pages get 403."""
    service = f"127.0.0.1:{publisher.port}"
    with django(publisher) as site:
        browser = Browser(site)
        assert "<title>publisher</title>" in browser.get()
        assert 403 == browser.post("/publish", text="too early")
        assert 403 == refusal(service, {"Cookie": browser.cookies})
        assert 400 == browser.post("/sign-in", name="")
        assert 204 == browser.post("/sign-in", name="tom")
        signed_in = {"Cookie": browser.cookies}
        publish = partial(browser.post, "/publish", text="dinner is ready")
        with (
            listen(service, signed_in | {"Origin": f"http://{service}"}) as client,
            listen(service, signed_in) as other,
        ):
            for one in (client, other):
                assert {"from": "tom", "text": "dinner is ready"} == first_news(publish, one)
        assert 403 == refusal(service, signed_in | {"Origin": "http://evil.example"})
        assert 403 == refusal(service, {"Cookie": f"{browser.cookies[:-3]}xyz"})
        publisher.cli("stop")
        assert 503 == browser.post("/publish", text="is anybody there?")
        # a form that comes from another site has no token
        assert 403 == Browser(site).post("/sign-in", name="tom")


def test_fastapi(publisher: Example) -> None:
    """Who shows the token publishes; others get 401, and what is too long 422."""
    need_module("fastapi")
    need_module("uvicorn")
    port = free_port()

    def post(text: str, token: str) -> int:
        body = json.dumps({"text": text}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        return status(
            urllib.request.build_opener(), urllib.request.Request(f"http://127.0.0.1:{port}/news", body, headers)
        )

    run = (sys.executable, "-m", "uvicorn", "api:api", "--port", str(port))
    with django(publisher) as site, running(publisher, port, *run, API_TOKEN=TOKEN):
        browser = Browser(site)
        browser.get()
        browser.post("/sign-in", name="tom")
        with listen(f"127.0.0.1:{publisher.port}", {"Cookie": browser.cookies}) as client:
            assert 401 == post("dinner is ready", "a-wrong-secret")
            assert 422 == post("x" * 1001, TOKEN)
            assert {"from": "the API", "text": "dinner is ready"} == first_news(
                lambda: post("dinner is ready", TOKEN), client
            )


@contextmanager
def behind_nginx(publisher: Example, nginx: str) -> Iterator[str]:
    """Run the site and nginx before it; gives the address of both."""
    port = free_port()
    publisher.change("127.0.0.1:8080", f"127.0.0.1:{port}", "nginx.conf")
    publisher.change("127.0.0.1:2346", f"127.0.0.1:{publisher.port}", "nginx.conf")
    with django(publisher) as site:
        publisher.change("http://127.0.0.1:8000", site, "nginx.conf")
        with running(publisher, port, nginx, "-p", str(publisher.folder), "-c", "nginx.conf"):
            yield f"127.0.0.1:{port}"


def test_nginx(publisher: Example, require: Callable[[str], str]) -> None:
    """Behind nginx all is one address: the page's own Origin comes in with its session, a foreign one gets 403."""
    with behind_nginx(publisher, require("nginx")) as address:
        browser = Browser(f"http://{address}")
        assert (publisher.folder / "public" / "index.html").read_text() == browser.get()
        assert 204 == browser.post("/sign-in", name="tom")
        cookie = {"Cookie": browser.cookies}
        publish = partial(browser.post, "/publish", text="dinner is ready")
        with listen(address, cookie | {"Origin": f"http://{address}"}) as client:
            assert {"from": "tom", "text": "dinner is ready"} == first_news(publish, client)
        assert 403 == refusal(address, cookie | {"Origin": "http://evil.example"})
        assert 403 == refusal(address, {"Origin": f"http://{address}"})


def test_the_page(publisher: Example, require: Callable[[str], str], context: BrowserContext) -> None:
    """A page is let in as soon as it has signed in, and reads what it publishes, as text."""
    with behind_nginx(publisher, require("nginx")) as address:
        page = context.new_page()
        page.goto(f"http://{address}/")
        page.wait_for_function("document.getElementById('state').textContent.startsWith('closed, code 1006')")
        page.fill("#name", "tom")
        page.click("text=Sign in")
        page.wait_for_function("document.getElementById('state').textContent === 'open'")
        page.fill("#text", "<b>dinner</b>")
        page.click("button:text('Publish')")
        page.wait_for_function("document.getElementById('log').textContent === 'tom: <b>dinner</b>\\n'")
