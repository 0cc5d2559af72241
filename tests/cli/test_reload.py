"""`wsworker reload`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Result, Script
from wsworker.cli.reload import progress_line, refusal, result_line
from wsworker.wire import Command

ROW = {"slot": 1, "old_pid": 4243, "new_pid": 4301, "seconds": 0.112, "canary": True}
DONE: dict[str, Any] = {
    "result": "ok",
    "error": None,
    "workers": [ROW, ROW | {"slot": 2, "canary": False}],
    "asked": 1,
    "seconds": 4.2,
    "generation": 2,
    "restart_needed": [],
    "applied": [],
}
REFUSED = DONE | {"result": "refused", "workers": [], "asked": 0, "seconds": 0.0, "generation": 1}
TRACE = "  File \"app.py\", line 7\nSyntaxError: expected ':'"
ERROR = {"code": "reload_refused", "message": "the new code does not start", "cause": "app.py:7 is bad", "trace": TRACE}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"event": "replaced", **ROW}, "  worker 1  4243 -> 4301  ready in 0.11 s (canary)"),
        ({"event": "replaced", **ROW, "canary": False}, "  worker 1  4243 -> 4301  ready in 0.11 s"),
        ({"event": "replaced", **ROW, "old_pid": None}, "  worker 1  none -> 4301  ready in 0.11 s (canary)"),
        ({"event": "note", "text": "listen changed"}, "note: listen changed"),
        ({"event": "of a later version"}, ""),
    ],
)
def test_progress(body: dict[str, Any], expected: str) -> None:
    """A line for each replaced worker and each note."""
    assert expected == progress_line(body)


def test_the_result_line() -> None:
    """How many workers, how many clients, how long."""
    expected = "reloaded hello: 2 workers, 1 connection asked to reconnect (1012), 4.2 s"
    assert expected == result_line("hello", DONE)


def test_refusals() -> None:
    """The user's traceback stands below the sentence; the cause does where there is no traceback."""
    assert f"error: the new code does not start\n{TRACE}" == refusal(ERROR).text
    assert "error: the new code does not start\n  app.py:7 is bad" == refusal(ERROR | {"trace": ""}).text
    assert (
        "error: the service is stopping"
        == refusal({"code": "reload_refused", "message": "the service is stopping", "cause": "", "trace": ""}).text
    )


def test_a_reload(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """Progress goes to standard error while it happens, the result to standard output."""
    body = {"event": "note", "text": "listen changed (config.yaml:3:9): needs a restart"}
    master = running({"status": [STATUS], "reload": [body, {"event": "replaced", **ROW}, DONE]})
    result = wsworker("reload")
    assert result.code == 0
    assert f"reloaded {NAME}: 2 workers, 1 connection asked to reconnect (1012), 4.2 s\n" == result.out
    assert result.err.splitlines() == [
        f"reloading {NAME}: 1 worker, one at a time",
        "note: listen changed (config.yaml:3:9): needs a restart",
        "  worker 1  4243 -> 4301  ready in 0.11 s (canary)",
    ]
    assert [Command("status"), Command("reload")] == master.heard


def test_what_was_applied(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The settings that changed have a line of their own before the result; --json has the list."""
    running({"status": [STATUS], "reload": [DONE | {"applied": ["log.level", "workers"]}]})
    lines = wsworker("reload").out.splitlines()
    assert ["applied: log.level, workers", f"reloaded {NAME}"] == [lines[0], lines[1].partition(":")[0]]
    assert ["log.level", "workers"] == json.loads(wsworker("reload", "--json").out)["applied"]


def test_a_master_that_does_not_say_what_it_applied(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """The result is shown all the same."""
    running({"status": [STATUS], "reload": [{key: value for key, value in DONE.items() if key != "applied"}]})
    result = wsworker("reload")
    assert (0, 1) == (result.code, len(result.out.splitlines()))


def test_events_of_a_later_version(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What we do not know we do not show."""
    running({"status": [STATUS], "reload": [{"event": "new"}, DONE]})
    assert 1 == len(wsworker("reload").err.splitlines())


@pytest.mark.parametrize("result", ["refused", "partial", "stopping"])
def test_a_reload_that_fails(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering], result: str
) -> None:
    """Anything but ok is 1, with the reason; --json has the whole answer."""
    running({"status": [STATUS], "reload": [DONE | {"result": result, "error": ERROR}]})
    ended = wsworker("reload")
    assert (1, "") == (ended.code, ended.out)
    assert ended.err.endswith(f"error: the new code does not start\n{TRACE}\n")
    ended = wsworker("reload", "--json")
    assert (1, "") == (ended.code, ended.err)
    assert {"schema": 1, "name": NAME, **DONE, "result": result, "error": ERROR} == json.loads(ended.out)


def test_a_config_error(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The block of problems is shown as it is; --json has the shape of any other result."""
    block = "config.yaml:4:1: error: unknown key\nwsworker: 1 error in config.yaml"
    error = {"code": "config_invalid", "message": block, "cause": "", "trace": ""}
    running({"status": [STATUS], "reload": [REFUSED | {"error": error}]})
    ended = wsworker("reload")
    assert (1, "", block) == (ended.code, ended.out, ended.err.partition("\n")[2].rstrip())
    ended = wsworker("reload", "--json")
    document = json.loads(ended.out)
    assert (1, "") == (ended.code, ended.err)
    assert {"schema", "name", *DONE} == document.keys()
    assert ("refused", [], 1, error) == (
        document["result"],
        document["workers"],
        document["generation"],
        document["error"],
    )


def test_no_wait(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """It only asks: 0 also if the reload is refused later."""
    master = running({"status": [STATUS], "reload": [REFUSED | {"error": ERROR}]})
    ended = wsworker("reload", "--no-wait")
    assert (0, "") == (ended.code, ended.err)
    assert "asked" == json.loads(wsworker("reload", "--no-wait", "--json").out)["result"]
    # its second question was answered after the first reload was heard
    assert [Command("status"), Command("reload"), Command("status")] == master.heard[:3]


def test_nothing_runs(wsworker: Callable[..., Result]) -> None:
    """There is nothing to reload: 7."""
    assert 7 == wsworker("reload").code
