"""The first five minutes, as the documentation shows them: each command prints what is written there, line for line.

Only what differs from run to run is masked: pids, times, sizes, versions, the folder and the port. Blanks count, as the
columns of a table stand where its widest value puts them; so masks keep the width of what they stand for where the
next column depends on it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.system.clients import raw_open
from tests.system.daemon import Daemon, Outcome, finish

HELLO = """
def on_connect(connection):
    pass

def on_message(connection, data):
    connection.send(f"hello {data}")

def on_close(connection, code, reason):
    pass
"""

MASKS = (
    (r"wsworker \d+\.\d+\.\d+\S*", "wsworker 1.0.0"),
    (r"Python 3\.\d+\.\d+\S*", "Python 3.11.7"),
    (r"websockets \d\S*", "websockets 17.4"),
    (r"uvloop \d\S*", "uvloop 0.23.0"),
    (r"\b\d\d:\d\d:\d\d\b", "01:40:53"),
    (r"pid \d+", "pid 4242"),
    (r"\d+ -> \d+", "4243 -> 4301"),
    (r"in \d+(\.\d+)? s\b", "in 0.1 s"),
    (r", \d+(\.\d+)? s$", ", 4.2 s"),
    (r"\bup \d+\S*", "up 2m10s"),
    (r"longest pause \d+ ms", "longest pause 8 ms"),
    (r"\b(in|out) \d+\.\d msg/s", r"\1 0.5 msg/s"),
)


def masked(text: str, daemon: Daemon) -> list[str]:
    """Return the lines of an output with all that differs from run to run replaced."""
    text = (
        text.replace(str(daemon.folder), "/srv/hello").replace(daemon.name, "hello").replace(str(daemon.port), "2346")
    )
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.splitlines()


@pytest.fixture
def hello() -> Iterator[Daemon]:
    """Give the daemon of the documentation: four workers that say hello. It is not started."""
    with Daemon(HELLO, workers=4) as daemon:
        yield daemon


@contextlib.contextmanager
def on_terminal(daemon: Daemon, *arguments: str) -> Iterator[int]:
    """Run a command on a terminal of its own; yield the descriptor of our side."""
    master, slave = pty.openpty()
    environ = daemon.environ | {"TERM": "xterm", "COLUMNS": "200"}
    command = [sys.executable, "-m", "wsworker", *arguments]
    process = subprocess.Popen(
        command, cwd=daemon.folder, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    try:
        yield master
    finally:
        process.terminate()
        process.wait(30)
        os.close(master)


def read_until(terminal: int, text: str, seconds: float = 30.0) -> str:
    """Return what a terminal shows up to the end of the line with a text in it, without colour."""
    shown = ""
    give_up_at = time.monotonic() + seconds
    while not (text in shown and shown.endswith("\n")):
        assert time.monotonic() < give_up_at, shown
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65536).decode()
            shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r\n", "\n")
    return shown


def plain(daemon: Daemon, *arguments: str) -> Outcome:
    """Run a command without -c."""
    command = [sys.executable, "-m", "wsworker", *arguments]
    done = subprocess.run(
        command, cwd=daemon.folder, env=daemon.environ, capture_output=True, text=True, timeout=30, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def code_of(client: ClientConnection) -> int:
    """Wait until a client is closed; return the code."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(30)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def test_the_start(hello: Daemon) -> None:
    """On a terminal: what it stands on, where it listens, each worker, and what to do next."""
    with on_terminal(hello, "start") as terminal:
        lines = masked(read_until(terminal, "in another terminal"), hello)
        # root is warned of being root, which the documentation's reader is not
        lines = [line for line in lines if "workers run as root" not in line]
        ready = sorted(line for line in lines if "ready, pid" in line)
        assert [
            "wsworker 1.0.0 · Python 3.11.7 · websockets 17.4 · uvloop 0.23.0",
            "01:40:53 INFO  master    hello: listening on ws://127.0.0.1:2346, 4 workers, pid 4242, config config.yaml",
        ] == lines[:2]
        assert [
            f"01:40:53 INFO  worker {slot}  ready, pid 4242, app imported in 0.1 s" for slot in range(1, 5)
        ] == ready
        # the program of this test is not one on the PATH
        program = f"{sys.executable} -m wsworker"
        last = [line.replace(program, "wsworker") for line in lines[6:]]
        assert ["01:40:53 INFO  master    ready. Ctrl+C stops; `wsworker status` in another terminal"] == last


def test_status(hello: Daemon) -> None:
    """Two lines for the service and a row for each worker."""
    hello.start()
    with hello.connect() as client:
        client.send("tom")
        assert "hello tom" == client.recv(10)
        hello.wait_status(lambda status: status["totals"]["messages_out"] == 1)
        shown = hello.cli("status")
    assert (0, "") == (shown.code, shown.err)
    first, second, blank, headings, *rows = masked(shown.out, hello)
    assert "hello  running  pid 4242  up 2m10s  reloads 0  ws://127.0.0.1:2346  config /srv/hello/config.yaml" == first
    logs = "/srv/hello/stderr.txt"
    assert f"4/4 workers  1 connection  in 0.5 msg/s  out 0.5 msg/s  restarts 0  logs: {logs}" == second
    assert ("", 4) == (blank, len(rows))
    assert [
        "#",
        "PID",
        "STATE",
        "UP",
        "CONN",
        "IN/s",
        "OUT/s",
        "SENDQ",
        "CPU%",
        "RSS",
        "LAG",
        "RESTARTS",
    ] == headings.split()
    row = re.compile(r" \d  +\d+  ready  +\d+\S*  +[01]  +\d+\.\d  +\d+\.\d  +0 B  +\d+\.\d  +\d+ MiB  +\d+ ms  +0")
    for line in rows:
        assert row.fullmatch(line), line
        assert len(headings) == len(line)


def test_a_reload(hello: Daemon) -> None:
    """A line for each worker, then what became of the clients: the one that there is has not noticed."""
    hello.start()
    with hello.connect() as client:
        done = hello.cli("reload")
        client.send("tom")
        assert "hello tom" == client.recv(10)
    moved = "1 connection moved, 0 asked to reconnect (1012), longest pause 8 ms, 0 dropped"
    assert (0, [f"reloaded hello: 4 workers, {moved}, 4.2 s"]) == (done.code, masked(done.out, hello))
    assert masked(done.err, hello) == [
        "reloading hello: 4 workers, one at a time",
        "  worker 1  4243 -> 4301  ready in 0.1 s (canary)",
        *(f"  worker {slot}  4243 -> 4301  ready in 0.1 s" for slot in (2, 3, 4)),
    ]


def test_a_reload_that_drains(hello: Daemon) -> None:
    """With `reload_strategy: drain` the client is asked to come again."""
    hello.write_config(reload_strategy="drain")
    hello.start()
    with hello.connect() as client:
        began = hello.cli_begin("reload")
        assert 1012 == code_of(client)
    done = finish(began)
    assert (0, ["reloaded hello: 4 workers, 1 connection asked to reconnect (1012), 0 dropped, 4.2 s"]) == (
        done.code,
        masked(done.out, hello),
    )


def test_a_reload_that_drops(hello: Daemon) -> None:
    """Who does not answer the goodbye until graceful_timeout is cut, and counted; that is followed to its end."""
    hello.write_config(graceful_timeout=3, reload_strategy="drain", websocket={"close_timeout": 20})
    hello.start()
    with raw_open(hello):
        hello.wait_status(lambda status: status["totals"]["connections"] == 1)
        done = hello.cli("reload")
    assert "1 connection asked to reconnect (1012), 1 dropped, " in done.out
    assert any(re.fullmatch(r"  draining  1 connection, [0-3] s left", line) for line in done.err.splitlines())
    assert 1 == hello.status()["last_reload"]["dropped"]


def test_a_refused_reload(hello: Daemon) -> None:
    """The reader's own mistake, as Python shows it, and that nothing has happened; 1."""
    hello.start()
    hello.write_app(HELLO.replace("data):", "data)"))
    done = hello.cli("reload")
    done.check_tone()
    assert (1, "") == (done.code, done.out)
    assert masked(done.err, hello)[1:] == [
        "error: the new code does not start; the 4 old workers keep serving",
        '  File "/srv/hello/app.py", line 5',
        "    def on_message(connection, data)",
        "                                    ^",
        "SyntaxError: expected ':'",
    ]


def test_a_check(hello: Daemon) -> None:
    """What the configuration, the app and the limits are; further rows and warnings depend on the machine."""
    done = hello.cli("check")
    assert (0, "") == (done.code, done.err)
    lines = masked(done.out, hello)
    for expected in (
        r"config\.yaml   ok   \d+ keys( \(\d+ from environment\))?",
        r"app           ok   on_connect, on_message, on_close +/srv/hello/app\.py",
        r"files         ok   open-file limit \d+ >= 10000 connections \+ \d+ in each worker",
    ):
        assert any(re.fullmatch(expected, line) for line in lines), (expected, lines)


def test_a_stop(hello: Daemon) -> None:
    """How many were there, and how long it took."""
    hello.start()
    with hello.connect() as client:
        began = hello.cli_begin("stop")
        assert 1001 == code_of(client)
    done = finish(began)
    assert (0, "") == (done.code, done.err)
    assert ["stopping hello (pid 4242): 1 connection closed (1001), stopped in 0.1 s"] == masked(done.out, hello)


def test_an_init(hello: Daemon) -> None:
    """The five files, and what to do next; the service that it writes is right as it is."""
    done = plain(hello, "init", "hello")
    assert (0, "") == (done.code, done.err)
    assert done.out.splitlines() == [
        "created  hello/app.py              on_connect, on_message, on_close",
        "created  hello/config.yaml         4 workers, ws://127.0.0.1:2346",
        "created  hello/config.schema.json  completion in editors",
        "created  hello/public/index.html   test page, served at http://127.0.0.1:2346/",
        "created  hello/test_app.py         2 tests, run with pytest",
        "next:    cd hello && wsworker start",
    ]


def test_connections(hello: Daemon) -> None:
    """A table with a row for each client."""
    hello.start()
    with hello.connect() as client:
        client.send("tom")
        assert "hello tom" == client.recv(10)
        shown = hello.cli("connections")
    assert 0 == shown.code
    headings, row = shown.out.splitlines()
    assert [
        "WORKER",
        "ID",
        "REMOTE",
        "PATH",
        "USER",
        "SINCE",
        "IN",
        "OUT",
        "SENDQ",
        "PING",
        "TOPICS",
    ] == headings.split()
    pattern = r" +[1-4]  \S+  127\.0\.0\.1:\d+  / +- +\d+s +\d+ B +\d+ B +0 B +(-|\d+ ms)  -"
    assert re.fullmatch(pattern, row), row


def test_a_unit(hello: Daemon) -> None:
    """It is printed and nothing else is, as it goes into a file."""
    done = hello.cli("unit")
    assert 0 == done.code, done.err
    lines = done.out.splitlines()
    assert "[Unit]" == lines[0]
    assert {"[Service]", "Type=notify", "[Install]", "WantedBy=multi-user.target"} <= {*lines}
    started = next(line for line in lines if line.startswith("ExecStart="))
    assert started.endswith(f" start -c {hello.config}")


# The errors, word for word


def test_nothing_runs(hello: Daemon) -> None:
    """Where it was looked for, and what to do."""
    done = hello.cli("reload")
    expected = "error: hello is not running (no socket at /srv/hello/run/wsworker/hello.sock)"
    assert (7, "", [f"{expected}; start it with `wsworker start`"]) == (done.code, done.out, masked(done.err, hello))


def test_it_runs_already(hello: Daemon) -> None:
    """What to use instead."""
    hello.start()
    done = hello.cli("start")
    assert (1, "") == (done.code, done.out)
    expected = "error: hello is already running (pid 4242); use `wsworker reload` or `wsworker restart`"
    assert [expected] == masked(done.err, hello)


def test_the_address_is_taken(hello: Daemon) -> None:
    """By whom, and which line to change."""
    with socket.create_server(("127.0.0.1", hello.port)):
        done = hello.cli("start")
    assert (1, "") == (done.code, done.out)
    place = hello.place("listen")
    (line,) = masked(done.err, hello)
    by = r"address in use by pid 4242 \(.+\)"
    assert re.fullmatch(rf"error: cannot listen on 127\.0\.0\.1:2346: {by}; change `listen` \({place}\)", line), line


def test_no_terminal_to_log_to(hello: Daemon) -> None:
    """The background needs a file."""
    done = hello.cli("start", "-d")
    assert (78, "") == (done.code, done.out)
    assert ["error: -d needs `log.file`: there will be no terminal to log to"] == masked(done.err, hello)


LINES = "def on_close(connection, code, reason):\n    pass\n\n\n\n\n\n\n"


@pytest.mark.parametrize(
    ("app", "text", "expected"),
    [
        (
            "hello",
            LINES,
            "cannot import app 'hello' (PLACE): no module 'hello' in /srv/hello; found app.py. Did you mean 'app'?",
        ),
        (
            "app",
            f"{LINES}def on_mesage(connection, data): pass",
            "app.py:9: 'on_mesage' is not a callback; did you mean 'on_message'?",
        ),
        (
            "app",
            f"{LINES}def on_message(connection): pass",
            "app.py:9: on_message takes (connection), wsworker calls it with (connection, data)",
        ),
    ],
)
def test_the_app_is_wrong(hello: Daemon, app: str, text: str, expected: str) -> None:
    """`start` and `check` say so in the same words; 78."""
    hello.write_app(text)
    hello.write_config(app=app)
    expected = expected.replace("PLACE", hello.place("app"))
    done = hello.cli("start")
    assert (78, "") == (done.code, done.out)
    assert f"error: {expected}" == masked(done.err, hello)[-1]
    checked = hello.cli("check")
    assert 78 == checked.code
    assert expected in "\n".join(masked(checked.out, hello))
