"""`wsworker reload`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Place, Result, Script, Turns
from tests.master.forks import until
from wsworker.cli.reload import progress_line, refusal, result_line
from wsworker.wire import Command

ROW = {"slot": 1, "old_pid": 4243, "new_pid": 4301, "seconds": 0.112, "canary": True}
DONE: dict[str, Any] = {
    "result": "ok",
    "error": None,
    "workers": [ROW, ROW | {"slot": 2, "canary": False}],
    "asked": 1,
    "dropped": 0,
    "seconds": 4.2,
    "generation": 2,
    "restart_needed": [],
    "applied": [],
}
WORKER = STATUS["workers"][0]
AFTER = STATUS | {"workers": [WORKER | {"generation": 2}]}
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
    expected = "reloaded hello: 2 workers, 1 connection asked to reconnect (1012), 0 dropped, 4.2 s"
    assert expected == result_line("hello", DONE, gone=True)
    assert expected.replace("dropped", "dropped so far") == result_line("hello", DONE, gone=False)
    older = {key: value for key, value in DONE.items() if key != "dropped"}
    assert expected.replace(", 0 dropped", "") == result_line("hello", older, gone=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"moved": 512, "asked": 0}, "512 connections moved, 0 asked to reconnect (1012), longest pause 12 ms"),
        (
            {"moved": 1, "asked": 3, "drained": {"tls": 1, "busy": 2}},
            "1 connection moved, 3 asked to reconnect (1012): 2 busy, 1 tls; longest pause 12 ms",
        ),
        ({"moved": 0, "asked": 3, "drained": {"tls": 3}}, "3 connections asked to reconnect (1012): 3 tls"),
        ({"moved": 0, "asked": 3}, "3 connections asked to reconnect (1012)"),
    ],
)
def test_the_result_line_tells_what_moved(changes: dict[str, Any], words: str) -> None:
    """How many did, how long that took for each at most, and why the others did not."""
    body = DONE | {"drained": {}, "longest_pause": 0.012} | changes
    assert f"reloaded hello: 2 workers, {words}, 0 dropped, 4.2 s" == result_line("hello", body, gone=True)


def row(generation: int, **changes: Any) -> dict[str, Any]:
    """Return a worker in the status document."""
    return {**WORKER, "generation": generation, "drain_seconds": None, **changes}


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
    master = running({"status": [AFTER], "reload": [body, {"event": "replaced", **ROW}, DONE]})
    result = wsworker("reload")
    assert result.code == 0
    assert f"reloaded {NAME}: 2 workers, 1 connection asked to reconnect (1012), 0 dropped, 4.2 s\n" == result.out
    assert result.err.splitlines() == [
        f"reloading {NAME}: 1 worker, one at a time",
        "note: listen changed (config.yaml:3:9): needs a restart",
        "  worker 1  4243 -> 4301  ready in 0.11 s (canary)",
    ]
    assert [Command("status"), Command("reload"), Command("status")] == master.heard


def test_the_drain_is_followed(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """Until the old workers have gone, and what they cut is in the result; the first look is printed."""
    old = AFTER | {"workers": [*AFTER["workers"], row(1, connections=7, drain_seconds=4.0)]}
    gone = AFTER | {"last_reload": DONE | {"dropped": 7}}
    running({"status": Turns(STATUS, old, old, gone), "reload": [DONE]})
    result = wsworker("reload")
    assert ["  draining  7 connections, 4 s left"] == result.err.splitlines()[1:]
    assert "asked to reconnect (1012), 7 dropped, " in result.out


def test_what_is_about_to_move_does_not_drain(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """Old workers still hold it when they are first looked at; nobody was asked to reconnect."""
    old = AFTER | {
        "workers": [*AFTER["workers"], row(1, connections=7, drain_seconds=4.0)],
        "last_reload": DONE | {"asked": 0, "moved": 0},
    }
    moved = AFTER | {"last_reload": DONE | {"asked": 0, "moved": 7, "longest_pause": 0.012, "drained": {}}}
    running({"status": Turns(STATUS, old, moved), "reload": [DONE | {"asked": 0}]})
    result = wsworker("reload")
    assert 1 == len(result.err.splitlines())
    assert "7 connections moved, 0 asked to reconnect (1012), longest pause 12 ms, 0 dropped, " in result.out


def test_what_is_busy_is_shown_after_a_while(
    monkeypatch: pytest.MonkeyPatch, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """It may take handover_timeout until it moves or is asked to reconnect."""
    monkeypatch.setattr("wsworker.cli.reload.MOVING_SECONDS", 0.0)
    old = AFTER | {
        "workers": [*AFTER["workers"], row(1, connections=7, drain_seconds=4.0)],
        "last_reload": DONE | {"asked": 0, "moved": 0},
    }
    running({"status": Turns(STATUS, old, AFTER), "reload": [DONE | {"asked": 0}]})
    assert ["  draining  7 connections, 4 s left"] == wsworker("reload").err.splitlines()[1:]


def test_the_drain_s_end_in_json(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The document is that of the end: how many were dropped, and how long all of it took."""
    old = AFTER | {"workers": [*AFTER["workers"], row(1, connections=7, drain_seconds=4.0)]}
    running({"status": Turns(STATUS, old, AFTER | {"last_reload": DONE | {"dropped": 7}}), "reload": [DONE]})
    result = wsworker("reload", "--json")
    document = json.loads(result.out)
    assert ("", 7, True) == (result.err, document["dropped"], document["seconds"] > DONE["seconds"])


def test_what_moves_behind_the_answer_is_in_the_result(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """The last old worker hands over while it is followed."""
    counted = {"asked": 2, "moved": 30, "drained": {"busy": 2}, "longest_pause": 0.012, "dropped": 1}
    old = AFTER | {"workers": [*AFTER["workers"], row(1, connections=2, drain_seconds=4.0)]}
    script: Script = {"status": Turns(STATUS, old, AFTER | {"last_reload": DONE | counted}), "reload": [DONE]}
    running(script)
    document = json.loads(wsworker("reload", "--json").out)
    assert counted == {key: document[key] for key in counted}


def test_a_worker_that_does_not_leave(
    monkeypatch: pytest.MonkeyPatch, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """It is waited for no longer than its own time and a margin; the reload has worked all the same."""
    monkeypatch.setattr("wsworker.cli.reload.MARGIN_SECONDS", 0.0)
    old = AFTER | {"workers": [*AFTER["workers"], row(1, pid=99, drain_seconds=0.0)]}
    running({"status": Turns(STATUS, old), "reload": [DONE]})
    result = wsworker("reload")
    assert (0, "note: old workers do not leave: pid 99") == (result.code, result.err.splitlines()[-1])


def test_as_a_command_of_systemd_it_does_not_follow(
    monkeypatch: pytest.MonkeyPatch, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """The time that systemd gives it has nothing to do with graceful_timeout."""
    monkeypatch.setenv("MAINPID", "4242")
    master = running({"status": [STATUS], "reload": [DONE]})
    result = wsworker("reload")
    assert (0, True) == (result.code, ", 0 dropped so far, " in result.out)
    assert [Command("status"), Command("reload")] == master.heard


def test_a_service_that_ends_behind_its_reload(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """The reload was done; that there is nobody left to follow is told, and no failure."""
    running({"status": Turns(STATUS, None), "reload": [DONE]})
    result = wsworker("reload")
    assert (0, True) == (result.code, result.err.splitlines()[-1].startswith(f"note: {NAME} is reloaded, and then: "))


def test_what_was_applied(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The settings that changed have a line of their own before the result; --json has the list."""
    running({"status": [AFTER], "reload": [DONE | {"applied": ["log.level", "workers"]}]})
    lines = wsworker("reload").out.splitlines()
    assert ["applied: log.level, workers", f"reloaded {NAME}"] == [lines[0], lines[1].partition(":")[0]]
    assert ["log.level", "workers"] == json.loads(wsworker("reload", "--json").out)["applied"]


def test_a_master_that_does_not_say_what_it_applied(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """The result is shown all the same."""
    running({"status": [AFTER], "reload": [{key: value for key, value in DONE.items() if key != "applied"}]})
    result = wsworker("reload")
    assert (0, 1) == (result.code, len(result.out.splitlines()))


def test_events_of_a_later_version(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What we do not know we do not show."""
    running({"status": [AFTER], "reload": [{"event": "new"}, DONE]})
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


def interrupted(master: Answering, said: str) -> tuple[int, str]:
    """Press Ctrl-C once `reload` has said something and is heard; return its exit code and what it says then."""
    command = [sys.executable, "-m", "wsworker", "reload"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while said not in process.stderr.readline():
            assert process.poll() is None
        until(lambda: Command("reload") in master.heard)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        return process.returncode, err


def test_ctrl_c_while_workers_are_replaced(running: Callable[[Script], Answering]) -> None:
    """Nobody takes the wish back: one sentence says that it goes on."""
    master = running({"status": [STATUS]})
    expected = f"the reload of {NAME} goes on; `wsworker status` and the log say how\n"
    assert (130, expected) == interrupted(master, "reloading")


def test_ctrl_c_while_old_workers_leave(running: Callable[[Script], Answering]) -> None:
    """All is done by then but for the goodbyes."""
    old = AFTER | {"workers": [*AFTER["workers"], row(1, connections=7, drain_seconds=40.0)]}
    master = running({"status": Turns(STATUS, old), "reload": [DONE]})
    expected = f"{NAME} is reloaded; 7 connections of old workers go on leaving\n"
    assert (130, expected) == interrupted(master, "draining")


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


@pytest.mark.parametrize("flags", [(), ("--no-wait",)], ids=["wait", "no wait"])
def test_a_service_of_another_file(
    place: Place, wsworker: Callable[..., Result], running: Callable[[Script], Answering], flags: tuple[str, ...]
) -> None:
    """It is not asked at all: even who does not wait for the result is told."""
    other = place.folder / "other.yaml"
    other.touch()
    master = running({"status": [STATUS | {"config": str(other)}]})
    expected = f"error: {NAME} runs with {other}; give this one its own `name`, or name that file with -c\n"
    assert Result(1, "", expected) == wsworker("reload", *flags)
    assert [Command("status")] == master.heard
