"""The import budget: what a command of a second's worth must not load.

No time is measured, as it depends on the machine. What costs time is told apart by name, and all the rest is bounded by
its number: a module costs a quarter of a millisecond, and whoever adds fifty of them notices it here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Place, Script

EVENT_LOOPS = {"asyncio", "uvloop"}
MODELS = {"pydantic", "pydantic_core"}
PROTOCOL = {"websockets"}
NEVER = EVENT_LOOPS | MODELS | PROTOCOL | {"psutil", "importlib.metadata", "unittest"}
DRAWING = {"rich"}
DOCUMENT = STATUS | {
    "over_budget": False,
    "steering": "weights",
    "totals": {**STATUS["totals"], "log_dropped": 0},
    "workers": [{**STATUS["workers"][0], "weight": 256, "lent_to": None, "queue": 0}],
}


def imported(*arguments: str) -> tuple[str, list[str]]:
    """Run a command as a program; return what it printed and every module that it loaded."""
    command = [sys.executable, "-X", "importtime", "-m", "wsworker", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    times = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    modules = [line.rpartition("|")[2].strip() for line in times]
    assert "wsworker.cli.main" in modules, ended.stderr
    return ended.stdout, modules


def heavy(modules: list[str], names: set[str]) -> list[str]:
    """Return which of the modules belong to what is named."""
    return [module for module in modules if any(module == name or module.startswith(f"{name}.") for name in names)]


@pytest.mark.parametrize("arguments", [("--help",), ("status", "--help"), ("stop", "--help")])
def test_help(place: Place, arguments: tuple[str, ...]) -> None:
    """It is read more often than anything else: click, and what we say ourselves."""
    out, modules = imported(*arguments)
    assert out.startswith("Usage: wsworker")
    assert [] == heavy(modules, NEVER | DRAWING)


def test_help_of_the_program(place: Place) -> None:
    """It loads no command, and no YAML."""
    _, modules = imported("--help")
    assert [] == heavy(modules, {"yaml", "socket", "logging", "json"})
    assert ["failures", "main", "options", "streams", "version"] == sorted(
        module.rpartition(".")[2] for module in modules if module.startswith("wsworker.cli.")
    )
    assert len(modules) < 160


def test_a_look_by_a_machine(place: Place, running: Callable[[Script], Answering]) -> None:
    """`status --json` draws nothing."""
    running({"status": [DOCUMENT]})
    out, modules = imported("status", "--json")
    assert out.startswith('{"schema": 1')
    assert [] == heavy(modules, NEVER | DRAWING)
    assert len(modules) < 230


def test_a_look_by_a_person(place: Place, running: Callable[[Script], Answering]) -> None:
    """`status` draws a table and nothing that moves."""
    running({"status": [DOCUMENT]})
    out, modules = imported("status")
    assert out.startswith(f"{NAME}  running")
    assert [] == heavy(modules, NEVER | {"rich.live", "rich.progress", "rich.markdown", "rich.traceback", "pygments"})
    assert len(modules) < 300


def test_nobody_to_look_at(place: Place) -> None:
    """A service that does not run needs no table."""
    out, modules = imported("status")
    assert out.startswith(f"{NAME}  stopped")
    assert [] == heavy(modules, NEVER | DRAWING)


@pytest.mark.parametrize("command", ["reload", "rebalance", "reopen", "connections", "top"])
def test_clients(place: Place, command: str) -> None:
    """Whoever only talks to the master builds no models and starts no loop."""
    _, modules = imported(command)
    assert [] == heavy(modules, NEVER)


def test_completion(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell waits for it at every Tab."""
    monkeypatch.setenv("_WSWORKER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "wsworker stat")
    monkeypatch.setenv("COMP_CWORD", "1")
    out, modules = imported()
    assert "plain,status\n" == out
    assert [] == heavy(modules, NEVER | DRAWING)
