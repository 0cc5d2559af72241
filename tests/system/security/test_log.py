"""Row 30: nothing that a client sends can pretend to be a line of the log, or act on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.frames import BINARY, CLOSE, PING, TEXT
from tests.system.clients import ask_raw, raw, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.security.hostile import Client, framed, steadfast

LOGS = """
import logging
import sys

log = logging.getLogger(__name__)
# each refusal, and not one of a kind in a minute
logging.getLogger("wsworker.worker").setLevel(logging.DEBUG)

def on_connect(connection):
    log.info("in: %s %r", connection, connection.request)
    log.info("asks for %s", connection.request.headers.get("x"))

def on_message(connection, data):
    log.info("received %s", data)
    print("printed", data)
    print("complained", data, file=sys.stderr)
    try:
        connection.user = str(data)
    except ValueError as error:
        log.warning("no name: %s", error)
    connection.worker.log.warning(f"{data} is here: {connection!r}")
    if "raise" in str(data):
        raise ValueError(data)
    try:
        {}[data]
    except KeyError:
        log.exception("no %s", data)
    connection.send("done")

def on_close(connection, code, reason):
    log.info("gone: %d %s", code, reason)
"""
"""Logs all that a client can choose, as careless as user code may be."""

LONGEST = 2000
"""Characters of a line in which a request is shown that is short enough to come in; values may be forty times that."""

FORGED = "2030-01-01T00:00:00.000+00:00 INFO  master    stopped"
HOSTILE = {
    "line feed": f"a\n{FORGED}",
    "line ends": f"a\r\n{FORGED}\r{FORGED}",
    "other line ends": f"a\x0b{FORGED}\x0c{FORGED}\x85{FORGED}\u2028{FORGED}\u2029{FORGED}",
    "separators": f"a\x1c{FORGED}\x1d{FORGED}\x1e{FORGED}",
    "escape": "\x1b[2J\x1b[31m\x1b]0;title\x07\x9b2J",
    "NUL and DEL": "a\x00b\x7fc\x08\x08\x08d",
    "from right to left": "\u202egnp.exe\u2066x\u2069\u200f",
    "priority of the journal": "a\n<0>panic",
    "a format": "%s %d %(name)s {0} {data!r}",
    "no characters": "\ufffe\uffff\U0010ffff",
}
OURS = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+[+-][\d:]+ (INFO |WARN |ERROR|DEBUG) (master  |worker \d)  |  ")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One worker that logs what clients send."""
    with Daemon(LOGS, websocket={"subprotocols": ["chat"]}, log={"access": True}) as daemon, steadfast(daemon):
        yield daemon


def check(daemon: Daemon) -> None:
    """Fail unless every line of the log is one of ours, or the indented rest of one, and harmless on a screen."""
    text = "".join((daemon.folder / name).read_bytes().decode() for name in ("stdout.txt", "stderr.txt"))
    for line in text.removesuffix("\n").split("\n"):
        assert OURS.match(line), line
        assert not line.startswith("2030")
        assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line), line
        assert len(line) < LONGEST


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_row_30_what_a_message_holds(daemon: Daemon, text: str) -> None:
    """Text of a client that user code logs or prints, as it is, in an exception, or as a user's name."""
    with Client(daemon) as client:
        client.send(framed(TEXT, text[:120].encode()), framed(BINARY, text[:60].encode()))
        assert [b"done", b"done"] == [client.message(), client.message()]
        client.send(framed(TEXT, f"raise {text}"[:110].encode()))
        assert 1011 == client.close_code()
    check(daemon)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_row_30_the_reason_of_a_close(daemon: Daemon, text: str) -> None:
    """on_close gets the reason as it is; what the log makes of it is harmless."""
    reason = text.encode()[:123].decode(errors="ignore")
    with Client(daemon) as client:
        client.send(framed(CLOSE, (4000).to_bytes(2, "big") + reason.encode()))
        assert 4000 == client.close_code()
    daemon.wait_log("gone: 4000")
    check(daemon)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_row_30_what_a_request_holds(daemon: Daemon, text: str) -> None:
    """Target, names and values of headers, in UTF-8 and Latin-1 and percent-encoded; most are refused with a line."""
    plain = text.encode()
    narrow = text.encode("latin-1", errors="replace")
    quoted = b"".join(b"%%%02x" % byte for byte in plain)
    good = (
        b"Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    for value in (plain, narrow, quoted, plain * 30):
        for name in (b"X", b"Origin", b"Host", b"Sec-WebSocket-Protocol", b"X-Forwarded-For", b"User-Agent", b"Cookie"):
            with raw(daemon) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n" + name + b": " + value + b"\r\n" + good + b"\r\n")
                assert sock.recv(65536).startswith(b"HTTP/1.1 ")
        for head in (
            b"GET /" + value + b" HTTP/1.1\r\n",
            value + b" / HTTP/1.1\r\n",
            b"GET / HTTP/" + value + b"\r\n",
            b"GET / HTTP/1.1\r\n" + value + b": x\r\n",
        ):
            with raw(daemon) as sock, suppress(ConnectionResetError):
                sock.sendall(head + good + b"\r\n")
                assert sock.recv(65536).startswith(b"HTTP/1.1 ")
    daemon.wait_log("websocket.origins")
    daemon.wait_log("refuse remote=")
    check(daemon)


def test_row_30_endless_values(daemon: Daemon) -> None:
    """A value as long as it may be, and one of 64 KiB, are cut or not shown at all."""
    for size in (7000, 65536):
        for line in (b"Origin: ", b"Host: ", b"Sec-WebSocket-Protocol: ", b"X-Forwarded-For: ", b"GET /"):
            start = b"" if line.startswith(b"GET") else b"GET / HTTP/1.1\r\n"
            end = b" HTTP/1.1\r\n" if line.startswith(b"GET") else b"\r\n"
            # of a reset behind an end that was seen, a sender is told by the second
            with raw(daemon) as sock, suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(start + line + b"y" * size + end + b"Host: a\r\nUpgrade: websocket\r\n\r\n")
                read_to_end(sock)
    with Client(daemon) as client:
        client.send(framed(PING, b"y" * 125) + framed(TEXT, b"\xff" + b"y" * 100_000))
        client.frame()
        assert 1007 == client.close_code()
    check(daemon)


def test_row_30_what_comes_before_the_request(make_daemon: MakeDaemon) -> None:
    """What is no PROXY header, and no TLS, is told without a byte of it."""
    with steadfast(make_daemon(LOGS, proxy_protocol="v1")) as daemon:
        for text in HOSTILE.values():
            assert b"" == ask_raw(daemon, b"PROXY TCP4 " + text.encode() + b"\r\n")
            assert b"" == ask_raw(daemon, text.encode() + b"\r\n")
        daemon.wait_log("closed a connection from 127.0.0.1")
        check(daemon)
        assert "panic" not in daemon.log
        assert "title" not in daemon.log
