"""`wsworker rebalance`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import NAME, Answering, Result, Script
from tests.master.forks import until
from wsworker.cli.rebalance import result_line
from wsworker.wire import Command

DONE: dict[str, Any] = {
    "result": "ok",
    "error": None,
    "moved": 40,
    "unmoved": {},
    "longest_pause": 0.012,
    "missing": [],
    "workers": [{"slot": 1, "before": 100, "wanted": 60}, {"slot": 2, "before": 20, "wanted": 60}],
    "seconds": 0.25,
}
LEVEL = DONE | {"moved": 0, "workers": [{"slot": 1, "before": 60, "wanted": 60}], "seconds": 0.0}
REFUSED = {"code": "rebalance_refused", "message": "a reload is under way; nothing has moved"}
PARTIAL = {"code": "rebalance_partial", "message": "worker 2 did not say what has moved; see the log"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (DONE, "rebalanced hello: 40 connections moved, longest pause 12 ms, 0.25 s"),
        (
            DONE | {"moved": 1, "unmoved": {"tls": 1, "busy": 2}},
            "rebalanced hello: 1 connection moved, 3 stayed: 2 busy, 1 tls; longest pause 12 ms, 0.25 s",
        ),
        (
            DONE | {"moved": 0, "unmoved": {"tls": 40}},
            "rebalanced hello: 0 connections moved, 40 stayed: 40 tls; 0.25 s",
        ),
        (LEVEL, "hello is level: nothing to move"),
        (LEVEL | {"workers": []}, "hello is level: nothing to move"),
    ],
)
def test_the_result_line(body: dict[str, Any], expected: str) -> None:
    """How many moved, why the others stayed, and the longest pause of a connection."""
    assert expected == result_line("hello", body)


def test_a_rebalance(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The result on standard output; --json has the whole answer."""
    master = running({"rebalance": [{"event": "of a later version"}, DONE]})
    line = f"rebalanced {NAME}: 40 connections moved, longest pause 12 ms, 0.25 s\n"
    assert Result(0, line, "") == wsworker("rebalance")
    ended = wsworker("rebalance", "--json")
    assert (0, "", {"schema": 1, "name": NAME, **DONE}) == (ended.code, ended.err, json.loads(ended.out))
    assert [Command("rebalance")] * 2 == master.heard


def test_a_refusal(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The reason is the master's."""
    body = DONE | {"result": "refused", "error": REFUSED, "moved": 0, "workers": []}
    running({"rebalance": [body]})
    assert Result(1, "", f"error: {REFUSED['message']}\n") == wsworker("rebalance")
    ended = wsworker("rebalance", "--json")
    assert (1, "", {"schema": 1, "name": NAME, **body}) == (ended.code, ended.err, json.loads(ended.out))


def test_a_worker_that_kept_silent(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What has moved is told, and that it may not be all: 1."""
    running({"rebalance": [DONE | {"result": "partial", "error": PARTIAL, "missing": [2]}]})
    ended = wsworker("rebalance")
    assert (1, "") == (ended.code, ended.out)
    assert ended.err.startswith(f"rebalanced {NAME}: 40 connections moved")
    assert ended.err.endswith(f"error: {PARTIAL['message']}\n")


def test_ctrl_c(running: Callable[[Script], Answering]) -> None:
    """Nobody takes the wish back: one sentence says that it goes on."""
    master = running({})
    command = [sys.executable, "-m", "wsworker", "rebalance"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: master.heard)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (130, f"the rebalance of {NAME} goes on; the log says how\n") == (process.returncode, err)


def test_nothing_runs(wsworker: Callable[..., Result]) -> None:
    """There is nothing to level: 7."""
    assert 7 == wsworker("rebalance").code
