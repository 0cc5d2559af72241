"""Standard streams: closed ones, and those that cannot write what we say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len

from tests.cli.conftest import Answering, Place, Script
from tests.cli.test_connections import ROW, answers
from tests.master.forks import in_child
from wsworker.cli.history import BLOCKS
from wsworker.cli.streams import IN_ASCII, prepare

SAY = """
import sys
from wsworker.cli.streams import prepare
prepare()
sys.stdout.write(sys.argv[1])
"""


def test_closed_streams_are_opened() -> None:
    """`wsworker start <&- >&- 2>&-`: no file of ours takes the place of a standard stream."""

    def closed() -> list[Any]:
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        sys.stdout = sys.stderr = None  # as Python leaves them when it finds them closed
        prepare()
        print("lost")
        return [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in (0, 1, 2)]

    assert [os.devnull] * 3 == in_child(closed)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "é б ▁█ …"), ("latin-1", "é \\u0431 .@ ~"), ("ascii", "\\xe9 \\u0431 .@ ~")],
)
def test_what_a_stream_cannot_write(encoding: str, expected: str) -> None:
    """It is written as in a string of Python; what we draw with is drawn with ASCII."""
    environ = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", SAY, "é б ▁█ …"]
    written = subprocess.run(command, env=environ, capture_output=True, check=True, timeout=30).stdout
    assert expected == written.decode(encoding)


def test_what_is_drawn_keeps_its_width() -> None:
    """So columns stand below each other in every encoding; no two blocks look alike."""
    assert {*BLOCKS} <= IN_ASCII.keys()
    assert len(BLOCKS) == len({IN_ASCII[block] for block in BLOCKS})
    assert all(instead.isascii() and cell_len(char) == cell_len(instead) == 1 for char, instead in IN_ASCII.items())


def test_a_name_that_cannot_be_written(place: Place, running: Callable[[Script], Answering]) -> None:
    """It ends no list: the other clients are shown, and so is it."""
    rows = [{**ROW, "user": "борис"}, {**ROW, "user": "tom"}]
    running(answers(*rows))
    environ = os.environ | {"PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "wsworker", "connections"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert (0, "") == (ended.returncode, ended.stderr)
    assert "  \\u0431\\u043e\\u0440\\u0438\\u0441  " in ended.stdout
    assert "  tom  " in ended.stdout
