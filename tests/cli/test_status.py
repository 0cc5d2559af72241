"""`wsworker status`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Place, Result, Script
from wsworker.cli.status import cells, draw

STATES = ("STATE", "ready", "parked", "new-state")
HEAVY = ("pydantic", "websockets", "uvloop", "psutil", "rich", "asyncio")


def slot(number: int, **changes: Any) -> dict[str, Any]:
    """Return the row of a worker."""
    return {**STATUS["workers"][0], "slot": number, **changes}


def plain(document: dict[str, Any]) -> list[str]:
    """Draw a document without colour."""
    return click.unstyle(draw(document, "journalctl -u hello")).splitlines()


def test_the_picture() -> None:
    """A line for the service, a summary, an empty line, and a table with a row for each worker."""
    document = STATUS | {"name": "hello", "workers": [slot(1), slot(2, pid=14244, messages_in=123456)]}
    document |= {"workers_configured": 2, "workers_ready": 2}
    assert plain(document) == [
        "hello  running  pid 4242  up 2m10s  reloads 0  ws://127.0.0.1:2346  config /srv/hello/config.yaml",
        "2/2 workers  1 connection  in 9 msg  out 8 msg  restarts 0  logs: journalctl -u hello",
        "",
        "#    PID  STATE    UP  CONN      IN  OUT     RSS  CPU%   LAG  RESTARTS",
        "1   4243  ready  2m9s     1       9    8  27 MiB   0.1  0 ms         0",
        "2  14244  ready  2m9s     1  123456    8  27 MiB   0.1  0 ms         0",
    ]


def test_a_slot_without_a_worker() -> None:
    """It shows its counters, why its last worker ended, and when the next one starts."""
    row = slot(3, pid=None, id=None, state="waiting", restarts=4, retry_in=3.4)
    row |= {"last_exit": {"reason": "killed by SIGKILL", "code": None, "signal": "SIGKILL", "time": 0.0}}
    expected = ["3", "-", "waiting", "-", "-", "9", "8", "-", "-", "-", "4", "killed by SIGKILL; next start in 3s"]
    assert expected == cells(row)


def test_a_parked_slot() -> None:
    """What is parked has no next start; a reason from user code cannot leave its line."""
    row = slot(3, pid=None, id=None, state="parked", retry_in=None)
    row |= {"last_exit": {"reason": "app.py:7 raised \x1b[31mOops\n", "code": 1, "signal": None, "time": 0.0}}
    assert r"app.py:7 raised \x1b[31mOops\x0a" == cells(row)[-1]


def test_a_living_worker_keeps_quiet_about_its_predecessor() -> None:
    """The last exit matters while nobody serves."""
    last = {"reason": "exit 1", "code": 1, "signal": None, "time": 0.0}
    assert "" == cells(slot(1, last_exit=last))[-1]


def test_a_reload_that_failed_is_shown() -> None:
    """As long as the last reload did not go well, its reason has a line."""
    error = {
        "code": "reload_refused",
        "message": "the new code does not start",
        "cause": "app.py:7 is bad",
        "trace": "",
    }
    document = STATUS | {"last_reload": {"result": "refused", "error": error}}
    assert "last reload refused: app.py:7 is bad" == plain(document)[2]
    document = STATUS | {"last_reload": {"result": "ok", "error": None}}
    assert "" == plain(document)[2]


def test_colour_does_not_move_columns() -> None:
    """States are coloured, an unknown one is not, and without its colours a picture is the plain one."""
    document = STATUS | {"workers": [slot(1), slot(2, state="parked"), slot(3, state="new-state")]}
    picture = draw(document, "x")
    assert "\x1b[31m" in picture
    columns = [line.index(word) for word, line in zip(STATES, plain(document)[3:], strict=True)]
    assert [9, 9, 9, 9] == columns


@pytest.mark.parametrize(
    ("state", "code"), [("running", 0), ("starting", 0), ("reloading", 0), ("stopping", 0), ("degraded", 150)]
)
def test_exit_codes(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering], state: str, code: int
) -> None:
    """The exit code tells what the state is."""
    running({"status": [STATUS | {"state": state}]})
    assert code == wsworker("status").code


def test_json_is_the_master_s(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The document of the master is printed as it came."""
    running({"status": [STATUS]})
    assert json.loads(wsworker("status", "--json").out) == STATUS


def test_a_pipe_gets_no_colour(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What is no terminal gets plain text, of any width."""
    running({"status": [STATUS | {"config": "/" + "x" * 400}]})
    result = wsworker("status")
    assert "\x1b" not in result.out
    assert "x" * 400 in result.out


def test_stopped(place: Place, wsworker: Callable[..., Result]) -> None:
    """Nothing runs: 3, and where it was looked for."""
    result = wsworker("status")
    assert (3, "") == (result.code, result.err)
    assert f"{NAME}  stopped  no socket at {place.paths.socket}; start it with `wsworker start`\n" == result.out


def test_dead(place: Place, wsworker: Callable[..., Result]) -> None:
    """Files of a master without its lock: 1, and which files."""
    place.paths.folder.mkdir()
    place.paths.pid.touch()
    result = wsworker("status", "--json")
    document = json.loads(result.out)
    assert (1, "dead", NAME) == (result.code, document["state"], document["name"])
    assert str(place.paths.pid) in document["reason"]


def test_unknown(wsworker: Callable[..., Result], deaf: Callable[[str], subprocess.Popen[str]]) -> None:
    """A lock without an answer: 4."""
    deaf("")
    result = wsworker("status")
    assert (4, "unknown") == (result.code, result.out.split()[1])


def test_no_config_file(place: Place, wsworker: Callable[..., Result]) -> None:
    """Without a config file there is no service to look for: 78."""
    place.config.unlink()
    result = wsworker("status")
    assert (78, "") == (result.code, result.out)
    assert "config.yaml: error: no such file" in result.err


def test_the_import_budget(place: Place, running: Callable[[Script], Answering]) -> None:
    """Nothing is imported that a look at a running service does not need."""
    running({"status": [STATUS]})
    code = "import sys; from wsworker.cli.main import run; run(['status']); print('imported', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout.startswith(f"{NAME}  running")
    imported = ended.stdout.splitlines()[-1].split()
    assert "wsworker.cli.status" in imported
    assert [] == [name for name in HEAVY if name in imported]
