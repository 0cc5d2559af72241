"""Bad clients: each gets the answer of the RFC or a plain sentence, and no worker dies of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.frames import CLOSE, TEXT
from tests.system.clients import UPGRADE, ask_raw, close_code, frame, raw, raw_open, read_to_end
from tests.system.daemon import Daemon

APP = """
import os

from wsworker import Reject

def on_handshake(request):
    if request.path == "/secret":
        raise Reject(403, {"X-Why": "secret"}, "members only")
    if request.path == "/broken":
        raise KeyError("database password")

def on_message(connection, data):
    if data == "raise":
        raise ValueError("the user's own mistake")
    connection.send(f"{os.getpid()} {data}")
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Two workers, which must be the same at the end of all these tests, and a log without a line of ours."""
    with Daemon(APP, workers=2, websocket={"max_size": 100}) as daemon:
        before = daemon.start().workers
        yield daemon
        assert before == daemon.workers
        assert 0 == daemon.status()["totals"]["restarts"]


@pytest.fixture(autouse=True)
def _others_go_on(daemon: Daemon) -> Iterator[None]:
    """Whatever a bad client does, a good one that was there before is served after it, by each worker."""
    first, second = daemon.workers
    with daemon.connect_to(first) as one, daemon.connect_to(second) as two:
        yield
        for pid, client in ((first, one), (second, two)):
            client.send("still here?")
            assert f"{pid} still here?" == client.recv(10)


def head(answer: bytes) -> str:
    """Return the status line and the headers of a response, in lower case."""
    return answer.partition(b"\r\n\r\n")[0].decode().lower()


def test_plain_http(daemon: Daemon) -> None:
    """A browser that opens the address reads a sentence: 426, and the connection is closed."""
    answer = ask_raw(daemon, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head(answer).startswith("http/1.1 426 upgrade required\r\n")
    assert "upgrade: websocket" in head(answer)
    assert "connection: close" in head(answer)
    body = answer.partition(b"\r\n\r\n")[2].decode()
    assert "WebSocket" in body
    assert body.strip().endswith(".")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\r\n\r\n", 400),
        (b"\x00\xff" * 100 + b"\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n", 414),
        (UPGRADE[:-2] + b"X: " + b"y" * 10_000, 431),
        (UPGRADE.replace(b"GET ", b"PUT "), 405),
        (UPGRADE.replace(b"Version: 13", b"Version: 8"), 426),
        (UPGRADE.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 426),
        (UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), 400),
        (UPGRADE.replace(b"Host: 127.0.0.1\r\n", b""), 400),
        (UPGRADE[:-2] + b"Content-Length: 5\r\n\r\nhello", 400),
    ],
)
def test_what_is_no_handshake(daemon: Daemon, request_: bytes, status: int) -> None:
    """Garbage, TLS on a plain port, and requests that break a rule each get one response, and then the end."""
    answer = ask_raw(daemon, request_)
    assert head(answer).startswith(f"http/1.1 {status} "), answer
    assert "connection: close" in head(answer)
    if status == 426:
        assert "sec-websocket-version: 13" in head(answer) or "upgrade: websocket" in head(answer)


def test_half_a_handshake_and_then_nothing(daemon: Daemon) -> None:
    """Who begins a request and does not end it gets 408 after open_timeout; who says nothing is just closed."""
    # of 5 s, as by default: those of all other tests of this file are to come through on a slow machine too
    with raw(daemon) as half, raw(daemon) as silent:
        half.sendall(UPGRADE[:40])
        assert head(read_to_end(half)).startswith("http/1.1 408 ")
        assert b"" == read_to_end(silent)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"\x81\x03abc", 1002, id="unmasked"),
        pytest.param(bytes([0xC1]) + frame(TEXT, b"abc")[1:], 1002, id="reserved bit"),
        pytest.param(frame(3, b"abc"), 1002, id="unknown opcode"),
        pytest.param(frame(0, b"abc"), 1002, id="nothing to continue"),
        pytest.param(bytes([0x09]) + frame(9, b"")[1:], 1002, id="fragmented ping"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, id="half a code"),
        pytest.param(frame(CLOSE, b"\x03\xed"), 1002, id="reserved code"),
        pytest.param(frame(TEXT, b"\xc3("), 1007, id="invalid UTF-8"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), 1007, id="surrogate"),
        pytest.param(frame(TEXT, b"x" * 101), 1009, id="over max_size"),
        pytest.param(b"\x81\xff" + (2**62).to_bytes(8, "big"), 1009, id="far over max_size"),
    ],
)
def test_what_breaks_the_protocol(daemon: Daemon, sent: bytes, code: int) -> None:
    """A frame that breaks a rule ends its connection with the code of RFC 6455, section 7.4.1."""
    with raw_open(daemon) as sock:
        sock.sendall(sent)
        assert code == close_code(read_to_end(sock))


def test_the_echo_of_a_good_frame_comes_before_the_close_for_a_bad_one(daemon: Daemon) -> None:
    """What was right is answered before what was wrong ends the connection, though both came in one read."""
    with raw_open(daemon) as sock:
        sock.sendall(frame(TEXT, b"good") + b"\x81\x03bad")
        echo, _, close = read_to_end(sock).partition(b"good")
        assert b"\x81" == echo[:1]
        assert 1002 == close_code(close)


def test_a_foreign_origin(daemon: Daemon) -> None:
    """A page of another site is refused: 403. One of the same host and port comes in."""
    with pytest.raises(InvalidStatus) as refused, daemon.connect(origin="https://elsewhere.example"):
        pass
    assert 403 == refused.value.response.status_code
    with daemon.connect(origin=f"http://127.0.0.1:{daemon.port}") as client:
        client.send("same")
        assert str(client.recv(10)).endswith(" same")


def test_on_handshake_refuses(daemon: Daemon) -> None:
    """Reject is answered with its status, headers and body; any other exception with 500 and not a word of it."""
    with pytest.raises(InvalidStatus) as refused, daemon.connect("/secret"):
        pass
    response = refused.value.response
    assert (403, "secret", b"members only") == (response.status_code, response.headers["X-Why"], response.body)
    with pytest.raises(InvalidStatus) as broken, daemon.connect("/broken"):
        pass
    response = broken.value.response
    assert 500 == response.status_code
    assert b"password" not in (response.body or b"")


def test_an_exception_in_a_callback(daemon: Daemon) -> None:
    """It closes that connection with 1011; the log has the user's traceback, and errors are counted."""
    with daemon.connect() as client:
        client.send("raise")
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(10)
    assert closed.value.rcvd is not None
    assert 1011 == closed.value.rcvd.code
    daemon.wait_log("ValueError: the user's own mistake")
    daemon.wait_status(lambda status: status["totals"]["errors"] >= 1)


def vanish(daemon: Daemon) -> None:
    """Connect, ask, and close at once with unread input, which makes the kernel send a reset."""
    with raw_open(daemon) as sock:
        sock.sendall(frame(TEXT, b"x") * 50)


BAD_CLIENTS: list[Callable[[Daemon], object]] = [
    lambda daemon: ask_raw(daemon, b"GET / HTTP/1.0\r\n\r\n"),
    lambda daemon: ask_raw(daemon, b"\x00\xff" * 1000 + b"\r\n\r\n"),
    lambda daemon: raw(daemon).close(),
    vanish,
]


def test_200_bad_clients_in_a_row(daemon: Daemon) -> None:
    """Two hundred bad clients cost no worker, no connection of others, and no line of a traceback of ours."""
    before = daemon.workers
    with raw_open(daemon) as silent:
        for number in range(200):
            BAD_CLIENTS[number % len(BAD_CLIENTS)](daemon)
        silent.sendall(frame(TEXT, b"still here?"))
        assert silent.recv(100).endswith(b" still here?")
    assert before == daemon.workers
    status = daemon.wait_status(lambda status: status["totals"]["connections"] <= 2)
    assert 0 == status["totals"]["restarts"]


def test_the_log_has_no_traceback_of_ours(daemon: Daemon) -> None:
    """Tracebacks in the log are the user's: each is of one of the two callbacks that raised."""
    for number in range(20):
        BAD_CLIENTS[number % len(BAD_CLIENTS)](daemon)
    assert daemon.log.count("Traceback") == daemon.log.count("ValueError: the") + daemon.log.count("KeyError: 'data")
    assert "wsworker/" not in daemon.log
