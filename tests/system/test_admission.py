"""Admission: who comes in through a public port, and what everybody else is told, by a running daemon.

A raw answer is read to its end, so each of these tests also shows that the connection ends with the answer.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.system.clients import ask_raw, await_upgrade, raw, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually

APP = """
import json

from wsworker import Reject

def on_handshake(request):
    if request.path == "/reject":
        raise Reject(403, {"X-Why": request.query["why"]}, "no")

def on_connect(connection):
    request = connection.request
    connection.send(json.dumps([dict(request.cookies), request.headers.get("cookie"), connection.subprotocol]))
"""

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
LINE = b"GET / HTTP/1.1\r\n"
FIELDS = (
    b"Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
GOOD = LINE + FIELDS + b"\r\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One worker with a health check, which must be the same at the end of all these tests."""
    settings = {"http": {"health": "/healthz"}, "websocket": {"subprotocols": ["chat"]}}
    with Daemon(APP, **settings) as daemon:
        before = daemon.start().workers
        yield daemon
        assert before == daemon.workers
        assert 0 == daemon.status()["totals"]["restarts"]


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers in lower case, and body, of the one response that an answer must be."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(fields) == len(lines)
    return int(status.split()[1]), fields, body


def refused(daemon: Daemon, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request that must not be admitted, and check what holds for every such answer."""
    status, fields, body = parsed(ask_raw(daemon, request))
    assert status != 101
    assert fields["connection"] == "close"
    assert fields["content-length"] == str(len(body)) or request.startswith(b"HEAD ")
    return status, fields, body


def first_line(daemon: Daemon, request: bytes) -> bytes:
    """Return the status line of the answer to a request, which may be a 101."""
    with raw(daemon) as sock:
        sock.sendall(request)
        return sock.recv(65536).partition(b"\r\n")[0]


# The health check


def test_health(daemon: Daemon) -> None:
    """A balancer is answered 200, by GET and HEAD, with and without a query, also in HTTP/1.0 without a Host."""
    status, fields, body = refused(daemon, HEALTH)
    assert (200, "no-store", b"ready\n") == (status, fields["cache-control"], body)
    assert 200 == refused(daemon, HEALTH.replace(b"healthz", b"healthz?from=lb"))[0]
    assert 200 == refused(daemon, b"GET /healthz HTTP/1.0\r\n\r\n")[0]
    head = refused(daemon, HEALTH.replace(b"GET", b"HEAD"))
    assert (200, "6", b"") == (head[0], head[1]["content-length"], head[2])
    post = refused(daemon, HEALTH.replace(b"GET", b"POST"))
    assert (405, "GET, HEAD") == (post[0], post[1]["allow"])
    assert 400 == refused(daemon, HEALTH.replace(b"Host: a\r\n", b""))[0]
    assert "healthz" not in daemon.log


def test_full(make_daemon: MakeDaemon) -> None:
    """A full worker sends clients away, is healthy all the same, and takes the next one when a client leaves."""
    daemon = make_daemon(APP, worker_connections=1, http={"health": "/healthz"}).start()
    with daemon.connect() as client:
        client.recv(10)
        status, fields, _ = refused(daemon, GOOD)
        assert status == 503
        assert fields["retry-after"] in ("1", "2", "3", "4", "5")
        assert (200, b"ready\n") == refused(daemon, HEALTH)[::2]
        assert 426 == refused(daemon, GOOD.replace(b": 13", b": 8"))[0]
    eventually(lambda: first_line(daemon, GOOD).startswith(b"HTTP/1.1 101 "))


def test_draining(make_daemon: MakeDaemon) -> None:
    """Who is in the middle of a request when the worker stops gets 503, health check and handshake alike."""
    daemon = make_daemon(APP, http={"health": "/healthz"}).start()
    with raw(daemon) as probe, raw(daemon) as client:
        probe.sendall(HEALTH[:-2])
        client.sendall(GOOD[:-2])
        with daemon.connect() as later:
            later.recv(10)
        daemon.signal(signal.SIGTERM)
        for sock in (probe, client):
            status, fields, _ = parsed(read_to_end(sock))
            assert status == 503
            assert fields["retry-after"] in ("1", "2", "3", "4", "5")
    assert 0 == daemon.wait_exit()


# Defects of a handshake


@pytest.mark.parametrize("version", [b"0", b"7", b"8", b"12", b"14", b"13, 8", b"8, 13", b"013", b"", None])
def test_versions(daemon: Daemon, version: bytes | None) -> None:
    """Any version but 13 is told the right one; so is a client from before RFC 6455, which sends none."""
    line = b"" if version is None else b"Sec-WebSocket-Version: " + version + b"\r\n"
    request = GOOD.replace(b"Sec-WebSocket-Version: 13\r\n", line)
    status, fields, _ = refused(daemon, request)
    assert (426, "13", "websocket") == (status, fields["sec-websocket-version"], fields["upgrade"])
    if version is None:
        old = request.replace(b"Sec-WebSocket-Key:", b"Sec-WebSocket-Key1: 4 @1 46546xW%0l 1 5\r\nSec-WebSocket-Key:")
        assert 426 == refused(daemon, old + b"^n:ds[4U")[0]


SMUGGLED = {
    "body": (GOOD[:-2] + b"Content-Length: 5\r\n\r\nhello", 400),
    "body behind a plain GET": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400),
    "two lengths": (GOOD[:-2] + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    "list of lengths": (GOOD[:-2] + b"Content-Length: 0, 5\r\n\r\n", 400),
    "signed length": (GOOD[:-2] + b"Content-Length: +0\r\n\r\n", 400),
    "chunked": (GOOD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (GOOD[:-2] + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400),
    "strange coding": (GOOD[:-2] + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    "folded": (LINE + b"X: a\r\n b\r\n" + FIELDS + b"\r\n", 400),
    "folded coding": (LINE + b"Transfer-Encoding:\r\n chunked\r\n" + FIELDS + b"\r\n", 400),
    "space before colon": (LINE + b"Content-Length : 5\r\n" + FIELDS + b"\r\n", 400),
    "bare LF": (LINE + b"X: a\n" + FIELDS + b"\r\n", 400),
    "bare LF in a value": (LINE + b"X: a\nContent-Length: 5\r\n" + FIELDS + b"\r\n", 400),
    "bare CR": (LINE + b"X: a\rContent-Length: 5\r\n" + FIELDS + b"\r\n", 400),
    "NUL": (LINE + b"X: a\0\r\n" + FIELDS + b"\r\n", 400),
    "two Hosts": (LINE + b"Host: b\r\n" + FIELDS + b"\r\n", 400),
    "no Host": (GOOD.replace(b"Host: a\r\n", b""), 400),
    "two keys": (GOOD[:-2] + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400),
    "two versions": (GOOD[:-2] + b"Sec-WebSocket-Version: 13\r\n\r\n", 400),
    "two Origins": (GOOD[:-2] + b"Origin: http://a\r\nOrigin: http://a\r\n\r\n", 400),
    "two upgrades": (GOOD[:-2] + b"Upgrade: websocket\r\n\r\n", 426),
    "no upgrade": (GOOD.replace(b"Upgrade: websocket\r\n", b""), 426),
    "no connection": (GOOD.replace(b"Connection: Upgrade\r\n", b"Connection: keep-alive\r\n"), 426),
    "post": (GOOD.replace(b"GET", b"POST"), 405),
    "connect": (GOOD.replace(b"GET /", b"CONNECT a:80"), 405),
    "1.0": (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    "0.9": (b"GET /\r\n", 400),
    "2.0": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "refused Origin": (GOOD[:-2] + b"Origin: https://evil.example\r\n\r\n", 403),
    "kept alive": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 200),
    "long line": (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "long header": (LINE + b"X: " + b"x" * 9000 + b"\r\n\r\n", 431),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_second_request_is_never_answered(daemon: Daemon, name: str) -> None:
    """Whatever a proxy in between may have taken for one request, what follows the first one is not looked at."""
    request, status = SMUGGLED[name]
    answer = ask_raw(daemon, request + HEALTH * 3)
    assert status == parsed(answer)[0]
    assert 1 == answer.count(b"HTTP/1.1 ")
    # also where it comes behind the answer
    with raw(daemon) as sock:
        sock.sendall(request)
        answer = sock.recv(65536)
        with suppress(OSError):
            sock.sendall(HEALTH)
        answer += read_to_end(sock)
    assert 1 == answer.count(b"HTTP/1.1 ")


def test_a_request_behind_a_handshake_is_no_request(daemon: Daemon) -> None:
    """After the 101 there are frames, and a GET is a bad one."""
    answer = ask_raw(daemon, GOOD + HEALTH)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert 1 == answer.count(b"HTTP/1.1 ")
    assert (1002).to_bytes(2, "big") in answer


def header(size: int, name: bytes = b"X") -> bytes:
    """Return a header line of so many bytes, its end included."""
    return (name + b": ").ljust(size - 2, b"x") + b"\r\n"


@pytest.mark.parametrize(
    ("more", "status"), [(-1, 101), (0, 101), (1, 0)], ids=["below the limit", "at the limit", "above the limit"]
)
def test_limits_of_the_head(daemon: Daemon, more: int, status: int) -> None:
    """8 KiB for a line, 16 KiB and 100 headers for the head: up to that comes in, a byte or a header more does not."""
    target = b"/".ljust(8192 - len(LINE) + 1 + more, b"x")
    lines = len(FIELDS.split(b"\r\n")) - 1
    rest = 16384 - len(GOOD) - 8192
    requests = [
        (GOOD.replace(b" / ", b" " + target + b" "), 414),
        (LINE + header(8192 + more) + FIELDS + b"\r\n", 431),
        (LINE + header(8192) + header(rest + more, b"Y") + FIELDS + b"\r\n", 431),
        (LINE + b"a: b\r\n" * (100 - lines + more) + FIELDS + b"\r\n", 431),
    ]
    for request, over in requests:
        assert f"HTTP/1.1 {status or over} ".encode() in first_line(daemon, request) + b" "


LISTS = ["Upgrade", "Connection", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "X-Forwarded-For", "Cookie"]


@pytest.mark.parametrize("filler", [",", " ,", ", ", ",\t", ";", ",;=", '"', "a,", "\\,"])
@pytest.mark.parametrize("name", [*LISTS, "If-None-Match", "Host", "Origin"])
def test_endless_lists(daemon: Daemon, name: str, filler: str) -> None:
    """A header that is all commas, as long as a head may be, gets one of the answers, and others are served."""
    lines = b"".join(f"{name}: {filler * (size // len(filler))}\r\n".encode() for size in (8000, 7900))
    with raw(daemon) as sock:
        sock.sendall(LINE + lines + FIELDS + b"\r\n")
        status = int(sock.recv(65536).split()[1])
    assert status in (101, 400, 403, 426)
    assert 200 == refused(daemon, HEALTH)[0]


def test_response_splitting(daemon: Daemon) -> None:
    """Neither what the app makes a header of, nor an offered subprotocol, can add a line to a response."""
    status, fields, body = refused(daemon, GOOD.replace(b" / ", b" /reject?why=policy "))
    assert (403, "policy", b"no") == (status, fields["x-why"], body)
    for value in (b"a%0d%0aSet-Cookie:%20x=1", b"a%0aSet-Cookie:%20x=1", b"a%00", b"%e2%80%a8"):
        status, fields, body = refused(daemon, GOOD.replace(b" / ", b" /reject?why=" + value + b" "))
        assert status == 500
        assert "set-cookie" not in fields
        assert "x-why" not in fields
        assert b"Cookie" not in body
    for offer, chosen in ((b"x-foo, chat", b"chat"), (b"x-foo", None), (b"CHAT", None)):
        with raw(daemon) as sock:
            sock.sendall(GOOD[:-2] + b"Sec-WebSocket-Protocol: " + offer + b"\r\n\r\n")
            answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert (b"Sec-WebSocket-Protocol: chat\r\n" in answer) == (chosen is not None)
    for offer in (b"chat\rX: y", b"chat\0", b"chat\x85X: y"):
        assert 400 == refused(daemon, GOOD[:-2] + b"Sec-WebSocket-Protocol: " + offer + b"\r\n\r\n")[0]


# Hosts


def test_hosts(make_daemon: MakeDaemon) -> None:
    """A page that has let its name resolve to us (DNS rebinding) is of our origin, but under a foreign Host."""
    rebound = GOOD.replace(b"Host: a", b"Host: evil.example\r\nOrigin: http://evil.example")
    daemon = make_daemon(APP, http={"health": "/healthz"}).start()
    assert first_line(daemon, rebound).startswith(b"HTTP/1.1 101 ")
    daemon.write_config(http={"health": "/healthz", "allowed_hosts": ["Example.org", f"127.0.0.1:{daemon.port}"]})
    assert 0 == daemon.cli("reload").code
    assert 403 == refused(daemon, rebound)[0]
    assert 403 == refused(daemon, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")[0]
    assert 426 == refused(daemon, b"GET / HTTP/1.1\r\nHost: example.org:99\r\n\r\n")[0]
    assert 200 == refused(daemon, HEALTH)[0]
    assert first_line(daemon, GOOD.replace(b"Host: a", b"Host: example.org")).startswith(b"HTTP/1.1 101 ")
    with daemon.connect() as client:
        client.recv(10)
    daemon.wait_log("refused Host 'evil.example': not in the list; to answer it, add it to http.allowed_hosts")


# Origins and cookies

SAME, LISTED, FOREIGN = "http://127.0.0.1:{port}", "https://app.example", "https://evil.example"
BOTH, ADMITTED, REFUSED = "with cookies", "without cookies", "refused"


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ("same-origin", {None: BOTH, SAME: BOTH, LISTED: REFUSED, FOREIGN: REFUSED, "null": REFUSED}),
        ([LISTED], {None: BOTH, SAME: REFUSED, LISTED: BOTH, FOREIGN: REFUSED, "null": REFUSED}),
        (["null"], {None: BOTH, SAME: REFUSED, LISTED: REFUSED, FOREIGN: REFUSED, "null": BOTH}),
        ("*", {None: BOTH, SAME: BOTH, LISTED: ADMITTED, FOREIGN: ADMITTED, "null": ADMITTED}),
    ],
)
def test_origins_and_cookies(make_daemon: MakeDaemon, origins: object, expected: dict[str | None, str]) -> None:
    """Which pages may connect, and whose cookies the app sees; a client without an Origin is no page."""
    daemon = make_daemon(APP, websocket={"origins": origins}).start()
    variants = [*expected.items()]
    # neither another port nor another scheme is the same origin
    variants += [
        ("http://127.0.0.1", expected[FOREIGN]),
        (f"https://127.0.0.1:{daemon.port}.example", expected[FOREIGN]),
    ]
    for origin, wanted in variants:
        line = "" if origin is None else f"Origin: {origin.format(port=daemon.port)}\r\n"
        request = f"Host: 127.0.0.1:{daemon.port}\r\nCookie: sid=1\r\ncookie: x=2\r\n{line}"
        with raw(daemon) as sock:
            sock.sendall(GOOD.replace(b"Host: a\r\n", request.encode()))
            if wanted == REFUSED:
                assert sock.recv(65536).startswith(b"HTTP/1.1 403 "), (origins, origin)
                continue
            await_upgrade(sock)
            size = sock.recv(2)[1]
            cookies, field, _ = json.loads(sock.recv(size))
        assert ({"sid": "1", "x": "2"} if wanted == BOTH else {}) == cookies, (origins, origin)
        assert ("sid=1, x=2" if wanted == BOTH else None) == field, (origins, origin)


# Addresses


def test_too_many_of_one_address(make_daemon: MakeDaemon) -> None:
    """The limit holds for what is open, so a place is free again when a connection ends, however it ends."""
    daemon = make_daemon(APP, websocket={"max_per_address": 2}, http={"health": "/healthz"}).start()

    with daemon.connect() as first, daemon.connect() as second:
        # both are in once they are spoken to
        assert "[" == str(first.recv(10))[0] == str(second.recv(10))[0]
        for _ in range(3):
            status, fields, _ = refused(daemon, GOOD)
            assert status == 429
            assert fields["retry-after"] in ("1", "2", "3", "4", "5")
        assert 200 == refused(daemon, HEALTH)[0]
        # another address, as a trusted proxy tells it
        forwarded = GOOD[:-2] + b"X-Forwarded-For: 192.0.2.7\r\n\r\n"
        assert first_line(daemon, forwarded).startswith(b"HTTP/1.1 101 ")
        second.close()
        eventually(lambda: first_line(daemon, GOOD).startswith(b"HTTP/1.1 101 "))
    for _ in range(5):
        eventually(lambda: first_line(daemon, GOOD).startswith(b"HTTP/1.1 101 "))
    daemon.wait_log("refused with 429: websocket.max_per_address is reached")


def test_too_often_from_one_address(make_daemon: MakeDaemon) -> None:
    """Over the rate handshakes get 429, refused ones count too, and health checks do not."""
    daemon = make_daemon(APP, websocket={"rate_handshakes": 1}, http={"health": "/healthz"}).start()
    for _ in range(3):
        assert 200 == refused(daemon, HEALTH)[0]
    statuses = [first_line(daemon, GOOD).split()[1] for _ in range(10)]
    assert statuses[0] == b"101"
    assert statuses.count(b"429") >= 5
    assert 200 == refused(daemon, HEALTH)[0]
    eventually(lambda: first_line(daemon, GOOD).startswith(b"HTTP/1.1 101 "))
    daemon.wait_log("websocket.rate_handshakes")
