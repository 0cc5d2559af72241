"""The command line of the run; what starts a daemon is left to the run itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compliance import __main__ as program
from tests.compliance.results import read_expected

EXPECTED = read_expected(program.PINNED.read_text())


def test_without_python_2_it_is_skipped_loudly(tmp_path: Path) -> None:
    """It says so in large letters and does not fail."""
    nowhere = {"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path)}
    environ = {name: value for name, value in os.environ.items() if name != "WSWORKER_PYTHON2"} | nowhere
    command = [sys.executable, "-m", "tests.compliance"]
    done = subprocess.run(
        command, cwd=program.ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert "S K I P P E D" in done.stdout
    assert "" == done.stderr


def test_a_python_2_that_is_none_fails() -> None:
    """One sentence and no traceback."""
    environ = {**os.environ, "WSWORKER_PYTHON2": "/nowhere"}
    command = [sys.executable, "-m", "tests.compliance"]
    done = subprocess.run(
        command, cwd=program.ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (1, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("\n")


@pytest.mark.parametrize("arguments", ["--write", "--full --write 6", "8", "9"])
def test_what_makes_no_sense_is_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The document is written from all sections only; a section must be one that the run has."""
    with pytest.raises(SystemExit):
        program.parse(arguments.split(), EXPECTED)
    assert "error: " in capsys.readouterr().err


def test_sections_are_chosen() -> None:
    """They are numbers, any of those that the run has."""
    assert [6, 9] == program.parse(["--full", "6", "9"], EXPECTED).sections
    assert [] == program.parse([], EXPECTED).sections
