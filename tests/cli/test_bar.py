"""What is shown while clients leave."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.conftest import STATUS
from wsworker.cli.bar import Draining, bar, draining
from wsworker.cli.options import Settings

WORKER = STATUS["workers"][0]
SHOW = """
import sys
from wsworker.cli.bar import bar
from wsworker.cli.options import Settings
with bar(Settings(color=sys.argv[1])) as show:
    show("  draining  [b]2[/b] connections", 0.5)
"""


def row(generation: int, **changes: Any) -> dict[str, Any]:
    """Return a worker in the status document."""
    return {**WORKER, "generation": generation, "drain_seconds": None, **changes}


def test_what_old_workers_still_hold() -> None:
    """Their connections, and the time of the slowest; slots without a worker and new workers do not count."""
    rows = [row(1, connections=3, drain_seconds=4.4), row(2, connections=9), row(1, pid=5, drain_seconds=2.0)]
    left = draining({"workers": [*rows, row(2, pid=None)]}, 2)
    assert Draining(4, 4.4, (4243, 5)) == left
    assert "  draining  4 connections, 4 s left" == left.line
    assert None is draining({"workers": [row(2)]}, 2)


def test_what_a_service_that_stops_still_holds() -> None:
    """All of it, of whatever generation."""
    assert Draining(3, 4.0, (4243, 5)) == draining(
        {"workers": [row(1, connections=1, drain_seconds=4.0), row(2, pid=5, connections=2), row(1, pid=None)]}
    )
    assert None is draining({"workers": [row(1, pid=None)]})


def test_without_a_terminal_the_first_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """And no other: a log has no use for a countdown."""
    with bar(Settings()) as show:
        show("  draining  2 connections, 4 s left", 0.0)
        show("  draining  1 connection, 3 s left", 0.5)
    assert ("", "  draining  2 connections, 4 s left\n") == capsys.readouterr()


def test_with_json_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the document of the result is."""
    with bar(Settings(json=True)) as show:
        show("  draining  2 connections, 4 s left", 0.0)
    assert ("", "") == capsys.readouterr()


def on_terminal(color: str, **environ: str) -> str:
    """Return what a terminal of 80 columns gets."""
    master, slave = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    variables |= {"COLUMNS": "80", "TERM": "xterm"} | environ
    subprocess.run([sys.executable, "-c", SHOW, color], stderr=slave, env=variables, check=True, timeout=30)
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:
        # Linux: the other end is closed, and all is read
        pass
    os.close(master)
    return shown.decode()


def test_on_a_terminal_there_is_a_bar() -> None:
    """With its line, which is no markup, and its share; it is gone at the end, and the cursor is back."""
    shown = on_terminal("auto")
    assert "  draining  [b]2[/b] connections " in shown
    assert "━" in shown
    assert " 50%" in shown
    assert shown.index("\x1b[?25l") < shown.index("\x1b[?25h")
    assert shown.endswith("\x1b[2K")


@pytest.mark.parametrize(("color", "environ"), [("never", {}), ("auto", {"NO_COLOR": "1"}), ("auto", {"TERM": "dumb"})])
def test_without_colour_there_is_no_bar(color: str, environ: dict[str, str]) -> None:
    """The line alone."""
    assert "  draining  [b]2[/b] connections\r\n" == on_terminal(color, **environ)


def test_colour_that_is_wanted_beats_the_environment() -> None:
    """--color=always is a word of now, NO_COLOR one of the profile."""
    assert "50%" in on_terminal("always", NO_COLOR="1")
