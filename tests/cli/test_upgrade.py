"""`wsworker upgrade`: what it shows; how it goes is tested with the real daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.cli.conftest import NAME, STATUS, Answering, Place, Result, Script, Turns
from tests.cli.test_reload import AFTER, DONE, REFUSED, ROW, TRACE
from tests.master.forks import until
from wsworker.wire import Command

NOTE = {"event": "note", "text": "wsworker 0.2.0 has taken over from 0.1.0"}
OBJECTION: dict[str, Any] = {
    "code": "upgrade_refused",
    "message": "not upgraded, and nothing has changed: a reload is under way",
    "cause": "",
    "trace": "",
}


def test_an_upgrade(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What runs, what has taken over, and then what a reload shows."""
    master = running({"status": [AFTER], "upgrade": [NOTE, {"event": "replaced", **ROW}, DONE]})
    result = wsworker("upgrade")
    assert 0 == result.code
    assert f"reloaded {NAME}: 2 workers, 1 connection asked to reconnect (1012), 0 dropped, 4.2 s\n" == result.out
    assert [
        f"upgrading {NAME}: wsworker 0.1.0 runs",
        "note: wsworker 0.2.0 has taken over from 0.1.0",
        "  worker 1  4243 -> 4301  ready in 0.11 s (canary)",
    ] == result.err.splitlines()
    assert [Command("status"), Command("upgrade"), Command("status")] == master.heard


def test_json(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The document is that of a reload, and nothing else is said."""
    running({"status": [AFTER], "upgrade": [NOTE, DONE]})
    result = wsworker("upgrade", "--json")
    document = json.loads(result.out)
    assert (0, "", "ok", NAME) == (result.code, result.err, document["result"], document["name"])
    assert {"schema", "name", *DONE} == document.keys()


def test_the_drain_is_followed(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """As behind a reload: until the old workers have gone."""
    worker = AFTER["workers"][0]
    old = AFTER | {"workers": [worker, {**worker, "generation": 1, "connections": 7, "drain_seconds": 4.0}]}
    gone = AFTER | {"last_reload": DONE | {"dropped": 7}}
    running({"status": Turns(STATUS, old, old, gone), "upgrade": [NOTE, DONE]})
    result = wsworker("upgrade")
    assert "  draining  7 connections, 4 s left" == result.err.splitlines()[-1]
    assert "asked to reconnect (1012), 7 dropped, " in result.out


def test_a_refusal(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The sentence is the master's: 1; --json has the whole answer."""
    body = REFUSED | {"error": OBJECTION}
    running({"status": [STATUS], "upgrade": [body]})
    ended = wsworker("upgrade")
    lines = [f"upgrading {NAME}: wsworker 0.1.0 runs", f"error: {OBJECTION['message']}"]
    assert (1, "", lines) == (ended.code, ended.out, ended.err.splitlines())
    ended = wsworker("upgrade", "--json")
    assert (1, "", {"schema": 1, "name": NAME, **body}) == (ended.code, ended.err, json.loads(ended.out))


def test_an_app_that_does_not_start_with_it(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """The new version has taken over by then, which is told, and the old workers serve on: 1."""
    error = {"code": "reload_refused", "message": "the new code does not start", "cause": "", "trace": TRACE}
    running({"status": [STATUS], "upgrade": [NOTE, REFUSED | {"error": error}]})
    ended = wsworker("upgrade")
    assert (1, "") == (ended.code, ended.out)
    assert f"note: {NOTE['text']}\nerror: the new code does not start\n{TRACE}\n" in ended.err


def test_a_master_that_ends_in_the_middle(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """Who has asked hears that nobody answers any more: no success, and no traceback."""
    running({"status": [STATUS], "upgrade": []})
    ended = wsworker("upgrade")
    assert (1, "", 2) == (ended.code, ended.out, len(ended.err.splitlines()))
    assert ended.err.splitlines()[-1].startswith("error: ")


def test_a_master_that_knows_no_upgrade(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """One of an older version cannot be upgraded so; what it says is told."""
    words = "'upgrade' is none of status, reload, stop"
    running({"status": [STATUS], "upgrade": [{"error": {"code": "usage", "message": words}}]})
    ended = wsworker("upgrade")
    assert (1, "") == (ended.code, ended.out)
    assert f"error: {NAME} does not understand this wsworker; restart it ({words})" == ended.err.splitlines()[-1]


def test_ctrl_c(running: Callable[[Script], Answering]) -> None:
    """Nobody takes the wish back: one sentence says that it goes on."""
    master = running({"status": [STATUS]})
    command = [sys.executable, "-m", "wsworker", "upgrade"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: Command("upgrade") in master.heard)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    last = f"the upgrade of {NAME} goes on; `wsworker status` and the log say how"
    assert (130, last) == (process.returncode, err.splitlines()[-1])


def test_nothing_runs(wsworker: Callable[..., Result]) -> None:
    """There is nothing to upgrade: 7."""
    assert 7 == wsworker("upgrade").code


def test_a_service_of_another_file(
    place: Place, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """It is not asked at all."""
    other = place.folder / "other.yaml"
    other.touch()
    master = running({"status": [STATUS | {"config": str(other)}]})
    expected = f"error: {NAME} runs with {other}; give this one its own `name`, or name that file with -c\n"
    assert Result(1, "", expected) == wsworker("upgrade")
    assert [Command("status")] == master.heard
