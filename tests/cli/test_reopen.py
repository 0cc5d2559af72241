"""`wsworker reopen`."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.cli.conftest import NAME, Answering, Result, Script
from wsworker.wire import Command

MESSAGE = "cannot open the log file /var/log/hello.log: Permission denied; change `log.file` or make it writable"
FAILURE = {"result": "failed", "error": {"code": "platform", "message": MESSAGE}}


def test_a_file(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The result names the file."""
    master = running({"reopen": [{"result": "ok", "file": "/var/log/hello.log"}]})
    result = wsworker("reopen")
    assert (0, "reopened /var/log/hello.log\n", "") == (result.code, result.out, result.err)
    result = wsworker("reopen", "--json")
    assert {"schema": 1, "name": NAME, "result": "ok", "file": "/var/log/hello.log"} == json.loads(result.out)
    assert (0, "") == (result.code, result.err)
    assert [Command("reopen")] * 2 == master.heard


def test_standard_error(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """Without a file there is nothing to do, which is no failure."""
    running({"reopen": [{"result": "ok", "file": "-"}]})
    result = wsworker("reopen")
    assert (0, f"nothing to reopen: {NAME} logs to standard error\n", "") == (result.code, result.out, result.err)
    assert "-" == json.loads(wsworker("reopen", "--json").out)["file"]


def test_a_file_that_cannot_be_opened(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The reason is the master's; --json has the whole answer."""
    running({"reopen": [FAILURE]})
    result = wsworker("reopen")
    assert (1, "", f"error: {MESSAGE}\n") == (result.code, result.out, result.err)
    result = wsworker("reopen", "--json")
    assert (1, "") == (result.code, result.err)
    assert {"schema": 1, "name": NAME, **FAILURE} == json.loads(result.out)


def test_progress_is_not_the_result(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What a later version may say before its result is passed over."""
    running({"reopen": [{"event": "of a later version"}, {"result": "ok", "file": "/log"}]})
    result = wsworker("reopen")
    assert (0, "reopened /log\n", "") == (result.code, result.out, result.err)


def test_nothing_runs(wsworker: Callable[..., Result]) -> None:
    """There is nobody to ask: 7."""
    assert 7 == wsworker("reopen").code
