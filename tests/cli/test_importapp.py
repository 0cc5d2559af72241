"""The child process that imports the user's app."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import NOBODY, in_child, libc, needs_root
from wsworker.cli.importapp import ENTRY

ROOT = Path(__file__).parents[2]
PR_CAPBSET_DROP = 24
CAP_SETUID = 7


def question(folder: Path, **more: object) -> str:
    """Return the argument of the child process."""
    asked = {"path": [str(ROOT), *sys.path], "app": "app", "app_dir": str(folder), "set_at": "", "identity": None}
    return json.dumps(asked | more)


def imported(folder: Path, code: str) -> tuple[dict[str, Any], str]:
    """Import a module in a child process, as check does; return what it says, and its standard error."""
    (folder / "app.py").write_text(code)
    command = [sys.executable, "-P", "-c", ENTRY, question(folder)]
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
    ignore = ["env", "--ignore-signal=INT"] if ignored else []
    command = [*ignore, sys.executable, "-P", "-c", ENTRY, question(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (0 if ignored else -signal.SIGINT, "") == (ended.returncode, ended.stderr)
    assert ignored == ("has no callback" in ended.stdout)


def test_a_thread_is_not_waited_for(tmp_path: Path) -> None:
    """A service may have one that never ends; what the app registered for its end is called all the same."""
    code = (
        "import atexit, threading\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "atexit.register(print, 'the end')\n"
        "def on_message(connection, data): pass\n"
    )
    answer, printed = imported(tmp_path, code)
    assert (["on_message"], "the end\n") == (answer["callbacks"], printed)


@needs_root
def test_the_app_is_imported_by_its_user() -> None:
    """Ids, groups and umask are those of a worker, for good, and nothing of it is imported before."""
    code = (
        "import os\n"
        "print(*os.getresuid(), *os.getresgid(), *os.getgroups(), oct(os.umask(0)))\n"
        "def on_message(connection, data): pass\n"
    )
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "app.py").write_text(code)
        asked = question(folder, identity={"uid": uid, "gid": gid, "groups": [gid], "umask": 0o77})
        command = [sys.executable, "-P", "-c", ENTRY, asked]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert f"{uid} {uid} {uid} {gid} {gid} {gid} {gid} 0o77\n" == ended.stderr
        assert ["on_message"] == json.loads(ended.stdout)["callbacks"]


@needs_root
def test_an_identity_that_cannot_be_taken(tmp_path: Path) -> None:
    """Then nothing is imported, as in a worker."""
    (tmp_path / "app.py").write_text("print('imported')\n")
    asked = question(tmp_path, identity={"uid": 1, "gid": 1, "groups": [], "umask": 0o77})

    def tried() -> list[str]:
        # root without the right to become another user, also behind an exec: capabilities(7)
        assert 0 == libc.prctl(PR_CAPBSET_DROP, CAP_SETUID, 0, 0, 0)
        command = [sys.executable, "-P", "-c", ENTRY, asked]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return [json.loads(ended.stdout)["error"], ended.stderr]

    sentence, printed = in_child(tried)
    assert sentence.startswith("cannot drop privileges: setresuid failed (Operation not permitted); ")
    assert "" == printed
