"""The child process that imports the user's app."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsworker.cli.importapp import ENTRY

ROOT = Path(__file__).parents[2]


def imported(folder: Path, code: str) -> tuple[dict[str, Any], str]:
    """Import a module in a child process, as check does; return what it says, and its standard error."""
    (folder / "app.py").write_text(code)
    asked = json.dumps({"path": [str(ROOT), *sys.path], "app": "app", "app_dir": str(folder), "set_at": ""})
    command = [sys.executable, "-P", "-c", ENTRY, asked]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return json.loads(ended.stdout), ended.stderr


def test_a_good_app(tmp_path: Path) -> None:
    """The answer names the callbacks and the file; what the app prints is no part of it."""
    code = "import os\nprint('from python')\nos.system('echo from a program')\ndef on_message(connection, data): pass\n"
    answer, printed = imported(tmp_path, code)
    assert {"callbacks": ["on_message"], "file": str(tmp_path / "app.py")} == answer
    assert {"from python", "from a program"} == set(printed.split("\n")) - {""}


def test_an_app_that_raises(tmp_path: Path) -> None:
    """The answer has the sentence and the user's traceback, and the child itself does not fail."""
    answer, _ = imported(tmp_path, "x = 1 / 0\n")
    assert {"error", "trace"} == answer.keys()
    assert answer["trace"].endswith("ZeroDivisionError: division by zero")


def test_an_interrupt_by_the_app_is_its_own(tmp_path: Path) -> None:
    """It is an exception like any other."""
    answer, _ = imported(tmp_path, "raise KeyboardInterrupt\n")
    assert "cannot import app 'app': app.py:1 raised KeyboardInterrupt" == answer["error"]


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_ends_it(tmp_path: Path, ignored: bool) -> None:
    """Without a word, unless it was ignored from the start."""
    (tmp_path / "app.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    asked = json.dumps({"path": [str(ROOT), *sys.path], "app": "app", "app_dir": str(tmp_path), "set_at": ""})
    ignore = ["env", "--ignore-signal=INT"] if ignored else []
    command = [*ignore, sys.executable, "-P", "-c", ENTRY, asked]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (0 if ignored else -signal.SIGINT, "") == (ended.returncode, ended.stderr)
    assert ignored == ("has no callback" in ended.stdout)
