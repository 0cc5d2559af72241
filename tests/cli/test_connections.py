"""`wsworker connections`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Result, Script
from wsworker.cli.connections import COLUMNS, cells, notes
from wsworker.query import Query
from wsworker.wire import Command

ROW: dict[str, Any] = {
    "id": "srv1.12.1",
    "slot": 1,
    "pid": 4243,
    "remote": "127.0.0.1:55232",
    "path": "/",
    "user": None,
    "subprotocol": None,
    "state": "open",
    "topics": [],
    "uptime": 62.0,
    "idle": 1.9,
    "messages_in": 9,
    "messages_out": 9,
    "bytes_in": 273,
    "bytes_out": 159,
    "send_queue": 0,
    "ping": 0.0004,
}
OTHER = ROW | {
    "id": "srv1.13.7",
    "slot": 2,
    "path": "/chat",
    "user": "tom",
    "topics": ["news", "weather"],
    "bytes_in": 3 * 1024**2,
    "send_queue": 2048,
    "ping": None,
}


def answers(*rows: dict[str, Any], total: int | None = None, missing: tuple[int, ...] = ()) -> Script:
    """Return a script: the rows one by one, then the result."""
    result = {"total": len(rows) if total is None else total, "shown": len(rows), "missing": list(missing)}
    return {"connections": [*({"connections": [row]} for row in rows), result]}


def test_a_table(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """One line for each connection, in the order of the answer, with words for sizes and times."""
    running(answers(ROW, OTHER))
    result = wsworker("connections")
    assert (0, "") == (result.code, result.err)
    assert result.out.splitlines() == [
        "WORKER  ID         REMOTE           PATH   USER  SINCE       IN    OUT    SENDQ  PING  TOPICS",
        "     1  srv1.12.1  127.0.0.1:55232  /      -      1m2s    273 B  159 B      0 B  0 ms  -",
        "     2  srv1.13.7  127.0.0.1:55232  /chat  tom    1m2s  3.0 MiB  159 B  2.0 KiB     -  news,weather",
    ]


def test_a_document(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The rows as they came, and what there is beside them; nothing else is printed."""
    running(answers(ROW, OTHER, total=9, missing=(3,)))
    result = wsworker("connections", "--json")
    assert (0, "") == (result.code, result.err)
    assert {
        "schema": 1,
        "name": NAME,
        "total": 9,
        "shown": 2,
        "missing": [3],
        "connections": [ROW, OTHER],
    } == json.loads(result.out)


def test_options_become_the_query(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """Each of them; without any, the defaults."""
    master = running(answers())
    options = "--worker 2 --ip 192.0.2.0/24 --path /chat --user tom --topic news --sort sendq --limit 7"
    assert 0 == wsworker("connections", *options.split()).code
    assert 0 == wsworker("connections").code
    query = Query(slot=2, ip="192.0.2.0/24", path="/chat", user="tom", topic="news", sort="sendq", limit=7)
    assert [Command("connections", query=query), Command("connections", query=Query())] == master.heard


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--ip 300.1", "Invalid value for '--ip': '300.1' is neither an address nor a network such as 192.0.2.0/24"),
        ("--ip fe80::1%eth0", "Invalid value for '--ip': 'fe80::1%eth0' has a zone"),
        (f"--path /{'x' * 4096}", "Invalid value for '--path': path is longer than 4096 characters"),
        (f"--user {'x' * 256}", "Invalid value for '--user': user is longer than 255 characters"),
        (f"--topic {'x' * 256}", "Invalid value for '--topic': topic is longer than 255 characters"),
        ("--sort foo", "'foo' is not one of 'worker', 'remote', 'path', 'user', 'since', 'idle', 'in', 'out', 'sendq'"),
        ("--limit 0", "Invalid value for '--limit': must be a number from 1 to 10000"),
        ("--limit 10001", "Invalid value for '--limit': must be a number from 1 to 10000"),
        ("--worker 0", "Invalid value for '--worker': must be a number of at least 1"),
        ("--worker two", "Invalid value for '--worker': must be a number of at least 1"),
        ("more", "Got unexpected extra argument (more)"),
    ],
)
def test_wrong_options(wsworker: Callable[..., Result], options: str, words: str) -> None:
    """Wrong usage, with what is possible."""
    result = wsworker("connections", *options.split())
    assert (2, "") == (result.code, result.out)
    assert words in result.err
    assert "(see `wsworker connections --help`)" in result.err


def test_a_worker_that_is_not_there(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The master knows which there are; it is wrong usage all the same."""
    message = "there is no worker 9: the workers are 1 to 2"
    running({"connections": [{"result": "failed", "error": {"code": "usage", "message": message}}]})
    result = wsworker("connections", "--worker", "9")
    assert (2, "", f"error: {message}\n") == (result.code, result.out, result.err)
    result = wsworker("connections", "--worker", "9", "--json")
    assert {"schema": 1, "error": {"code": "usage", "message": message}} == json.loads(result.out)


def test_a_master_that_is_asked_by_too_many(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """Try again."""
    running({"connections": [{"error": {"code": "busy", "message": "16 callers wait for connections already"}}]})
    result = wsworker("connections")
    assert (1, f"error: {NAME}: 16 callers wait for connections already; try again later\n") == (
        result.code,
        result.err,
    )


def test_who_is_missing_is_named(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """Beside the table and not in it: what is piped on has rows only."""
    running(answers(ROW, total=1200, missing=(2, 4)))
    result = wsworker("connections")
    assert 0 == result.code
    assert 2 == len(result.out.splitlines())
    assert result.err.splitlines() == [
        "1 of 1200 connections shown; see --limit and --sort",
        "warning: worker 2 gave no complete answer: connections of it are missing here; see `wsworker status`",
        "warning: worker 4 gave no complete answer: connections of it are missing here; see `wsworker status`",
    ]


def test_nobody(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The headings stay, and a line says that this is all; unless somebody is missing, which nobody can know."""
    running(answers())
    result = wsworker("connections")
    assert ("WORKER  ID  REMOTE", "no connections\n") == (result.out[:18], result.err)
    assert ["warning"] == [note[:7] for note in notes({"shown": 0, "total": 0, "missing": [1]})]


def test_what_clients_chose_is_escaped(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """No terminal is moved by a name; the document has it as it is."""
    evil = ROW | {"user": "tom\x1b[2J\nroot", "path": "/\u202e", "topics": ["[red]a", "\r"]}
    running(answers(evil))
    result = wsworker("connections", "--color", "always")
    assert 2 == len(result.out.splitlines())
    assert r"tom\x1b[2J\x0aroot" in result.out or r"tom\x1b[2J\nroot" in result.out
    assert "\u202e" not in result.out
    assert r"[red]a,\x0d" in result.out or r"[red]a,\r" in result.out
    assert [evil] == json.loads(wsworker("connections", "--json").out)["connections"]


def test_a_long_text_costs_no_column(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client's path, name and topics share what is left on a terminal; a pipe and --json have the whole of them."""
    long = ROW | {"path": "/" + "p" * 500, "user": "u" * 255, "topics": ["t" * 255, "news"]}
    running(answers(ROW, long))
    for text in (long["path"], long["user"], ",".join(long["topics"])):
        assert text in wsworker("connections").out
    assert [ROW, long] == json.loads(wsworker("connections", "--json").out)["connections"]
    monkeypatch.setattr("wsworker.cli.connections.terminal_width", lambda: 180)
    heading, first, second = wsworker("connections").out.splitlines()
    assert [column.heading for column in COLUMNS] == heading.split()
    assert 180 == len(second)
    assert first.split()[3:5] == ["/", "-"]
    short = {word[0]: len(word) for word in second.split() if word.endswith("…")}
    assert {"/": 36, "u": 35, "t": 35} == short


def test_a_long_path_on_a_terminal_of_80(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves the others what they need, and one column at most goes that would have had room without it."""
    running(answers(ROW, ROW | {"path": "/" + "p" * 47}))
    monkeypatch.setattr("wsworker.cli.connections.terminal_width", lambda: 80)
    heading, _, second, note = wsworker("connections").out.splitlines()
    assert ["WORKER", "ID", "REMOTE", "PATH", "USER", "SINCE", "IN", "OUT", "SENDQ"] == heading.split()
    assert f"/{'p' * 8}…" == second.split()[3]
    assert "too narrow for: PING, TOPICS" == note


def test_control_c(running: Callable[[Script], Answering]) -> None:
    """It ends the wait for the workers with 130, and without a traceback."""
    master = running({"status": [STATUS]})
    command = [sys.executable, "-m", "wsworker", "connections"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        give_up_at = time.monotonic() + 30
        while not master.heard:
            assert time.monotonic() < give_up_at
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (130, "", "") == (process.returncode, out, err.strip())


def test_a_later_version_may_say_more(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What is no row is passed over."""
    script = answers(ROW)
    running({"connections": [{"event": "of a later version"}, *script["connections"]]})
    assert 2 == len(wsworker("connections").out.splitlines())


def test_nothing_runs(wsworker: Callable[..., Result]) -> None:
    """There is nobody to ask: 7."""
    assert 7 == wsworker("connections").code


def test_every_column_has_a_cell() -> None:
    """As the table would fail otherwise."""
    assert len(COLUMNS) == len(cells(ROW))
