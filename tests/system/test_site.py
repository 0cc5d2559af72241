"""Files on the main port, by a running daemon: those of one folder, to everybody, and no others."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tests.system.clients import UPGRADE, ask_raw, raw, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, Daemon, eventually
from tests.system.test_admission import parsed

SECRET = "nobody may read this"
BIG = os.urandom(1024) * 16 * 1024


def lay_out(daemon: Daemon) -> None:
    """Make a folder of files, a secret beside it, and in it all that leads to the secret."""
    site = daemon.folder / "public"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text("<p>start")
    (site / "sub" / "index.html").write_text("below")
    (site / "a.js").write_text("let a")
    (site / "big.bin").write_bytes(BIG)
    (site / "empty.txt").touch()
    (daemon.folder / "secret.txt").write_text(SECRET)
    (site / ".env").write_text(SECRET)
    (site / "link").symlink_to("../secret.txt")
    (site / "linked").symlink_to("..")
    (site / "hidden").symlink_to(".env")
    os.mkfifo(site / "pipe")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One worker with a folder of files, which must be the same at the end of all these tests."""
    # debug: of lines that strangers can cause, the log has one a minute otherwise
    with Daemon(HELLO, http={"static": "public", "health": "/healthz"}, log={"level": "debug"}) as daemon:
        lay_out(daemon)
        before = daemon.start().workers
        yield daemon
        assert before == daemon.workers
        assert 0 == daemon.status()["totals"]["restarts"]
        assert "Traceback" not in daemon.log


def ask(daemon: Daemon, target: str, *lines: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer, behind which the connection ends."""
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *lines, "", ""])
    return parsed(ask_raw(daemon, head.encode()))


def test_files(daemon: Daemon) -> None:
    """The page, a file and an index below are served with type and length, and the connection is closed."""
    status, fields, body = ask(daemon, "/")
    assert (200, b"<p>start") == (status, body)
    assert ("text/html; charset=utf-8", "8") == (fields["content-type"], fields["content-length"])
    assert ("close", "nosniff", "no-cache") == (
        fields["connection"],
        fields["x-content-type-options"],
        fields["cache-control"],
    )
    assert {"date", "etag", "last-modified"} <= fields.keys()
    assert (200, b"let a") == ask(daemon, "/a.js?v=3")[::2]
    assert (200, b"below") == ask(daemon, "/sub/")[::2]
    assert (200, b"") == ask(daemon, "/empty.txt")[::2]
    assert (200, b"ready\n") == ask(daemon, "/healthz")[::2]
    assert (200, b"<p>start") == parsed(ask_raw(daemon, b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n"))[::2]


def test_websockets_beside_the_files(daemon: Daemon) -> None:
    """On the same path a handshake gets its WebSocket, also once pages were served."""
    assert 200 == ask(daemon, "/")[0]
    assert "hello tom" == daemon.echo("tom")


def test_head(daemon: Daemon) -> None:
    """HEAD gets the same headers and nothing behind them."""
    for target in ("/", "/big.bin", "/none"):
        status, fields, _ = ask(daemon, target)
        found = ask(daemon, target, method="HEAD")
        del fields["date"], found[1]["date"]
        assert (status, fields, b"") == found


def test_not_modified(daemon: Daemon) -> None:
    """A client that has the file gets 304, by its tag or its date; with another tag the date does not count."""
    _, fields, _ = ask(daemon, "/a.js")
    tag, date = fields["etag"], fields["last-modified"]
    for lines in ([f"If-None-Match: {tag}"], [f'If-None-Match: "x", W/{tag}'], [f"If-Modified-Since: {date}"]):
        status, found, body = ask(daemon, "/a.js", *lines)
        assert (304, b"", tag) == (status, body, found["etag"])
        assert "content-length" not in found
    assert 200 == ask(daemon, "/a.js", 'If-None-Match: "x"', f"If-Modified-Since: {date}")[0]


def test_only_reading(daemon: Daemon) -> None:
    """No other method is served, and a body is none of ours whatever comes behind it."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        status, fields, _ = ask(daemon, "/a.js", method=method)
        assert (405, "GET, HEAD") == (status, fields["allow"])
    assert 400 == parsed(ask_raw(daemon, b"POST /a.js HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"))[0]
    assert 400 == parsed(ask_raw(daemon, b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"))[0]
    assert b"let a" == ask(daemon, "/a.js")[2]


UP = ["..", "%2e%2e", ".%2e", "%2E.", "..%00", "%252e%252e", "%c0%ae%c0%ae", "%uff0e%uff0e", "..;", "...", "linked"]


@pytest.mark.parametrize("up", UP)
@pytest.mark.parametrize("slash", ["/", "//", "%2f", "%252f", "\\", "%5c", "/./", "/x/../"])
def test_no_spelling_leads_out(daemon: Daemon, up: str, slash: str) -> None:
    """No way to write "one folder up" gives the file that lies there, or says that it is there."""
    for target in (f"/{up}{slash}secret.txt", f"/sub{slash}{up}{slash}{up}{slash}secret.txt"):
        status, _, body = ask(daemon, target)
        assert status == 404, target
        assert SECRET.encode() not in body


@pytest.mark.parametrize(
    "target",
    [
        "/link",
        "/linked/secret.txt",
        "/linked/",
        "/linked",
        "/hidden",
        "/.env",
        "/%2eenv",
        "/sub/../.env",
        "/pipe",
        "/../config.yaml",
        "/config.yaml",
        "/app.py",
        "/etc/passwd",
        "//etc/passwd",
        "/a.js/",
        "/a.js%00.html",
        "file:///etc/passwd",
        "http://127.0.0.1/a.js",
        "*",
    ],
)
def test_what_is_not_served(daemon: Daemon, target: str) -> None:
    """Links out, hidden files, pipes, and targets that are no path are missing files to a client; nothing waits."""
    assert 404 == ask(daemon, target)[0]


def test_the_log_says_why(daemon: Daemon) -> None:
    """A link that is not followed is told to the operator, as the file is there for all to see."""
    ask(daemon, "/link")
    daemon.wait_log("link is not served: a link leads out of http.static")


def test_a_folder_gets_its_slash(daemon: Daemon) -> None:
    """A redirect names no host, so it cannot lead away."""
    status, fields, _ = ask(daemon, "/sub?a=//evil.example")
    assert (301, "/sub/?a=//evil.example") == (status, fields["location"])
    for target in ("//sub", "//evil.example/..", "/\\evil.example", "http://evil.example/sub"):
        status, fields, _ = ask(daemon, target)
        assert 404 == status
        assert "location" not in fields


def test_a_big_file(daemon: Daemon) -> None:
    """A file of many chunks arrives whole."""
    status, fields, body = ask(daemon, "/big.bin")
    assert (200, str(len(BIG))) == (status, fields["content-length"])
    assert hashlib.sha256(BIG).digest() == hashlib.sha256(body).digest()


def slow(daemon: Daemon) -> socket.socket:
    """Return a connection that has asked for the big file and takes little at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", daemon.port))
    sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n")
    return sock


def test_slow_readers(daemon: Daemon) -> None:
    """Clients that read slowly cost no memory to speak of and hold up nobody, and in the end they have it all."""
    worker = psutil.Process(*daemon.workers)
    before = worker.memory_info().rss
    socks = [slow(daemon) for _ in range(10)]
    try:
        for sock in socks:
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        assert "hello tom" == daemon.echo("tom")
        assert 200 == ask(daemon, "/healthz")[0]
        # half of the files would be 80 MiB
        assert worker.memory_info().rss - before < 40 * 1024**2
        assert read_to_end(socks[0]).endswith(BIG)
    finally:
        for sock in socks:
            sock.close()


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    found = 0
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith("socket:")
    return found


def test_who_does_not_read_is_cut(make_daemon: MakeDaemon) -> None:
    """After write_timeout without a byte taken the worker drops the connection, and with it the rest of the file."""
    daemon = make_daemon(HELLO, http={"static": "public"}, websocket={"write_timeout": "1s"})
    lay_out(daemon)
    daemon.start()
    (worker,) = daemon.workers
    before = eventually(lambda: sockets(worker))
    with slow(daemon) as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: sockets(worker) <= before)
        # what the kernel had taken still comes
        assert len(read_to_end(sock)) < len(BIG)


def test_half_closed_clients(daemon: Daemon) -> None:
    """A client may end its own direction behind the request, as `nc -N` does, and gets the whole file."""
    with raw(daemon) as sock:
        sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock).endswith(BIG)


def test_a_second_request_is_never_answered(daemon: Daemon) -> None:
    """What comes behind a request for a file is dropped, also when it is a handshake."""
    answer = ask_raw(daemon, b"GET /a.js HTTP/1.1\r\nHost: a\r\n\r\n" + UPGRADE)
    assert 1 == answer.count(b"HTTP/1.1 ")
    assert answer.endswith(b"let a")


def test_wrong_folders(make_daemon: MakeDaemon) -> None:
    """A folder that is not there, or that holds the config or the app, is a start error with its place."""
    daemon = make_daemon(HELLO, http={"static": "public"})
    outcome = daemon.cli("start")
    assert 78 == outcome.code
    assert f"no directory {daemon.folder}/public; create it or correct http.static" in outcome.err
    daemon.write_config(http={"static": "."})
    outcome = daemon.cli("start")
    assert 78 == outcome.code
    assert "holds this config file" in outcome.err
    outcome.check_tone()
