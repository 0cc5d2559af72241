"""The pytest plugin, as pytest loads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wsworker import testing
from wsworker.fakes import FakeConnection
from wsworker.rig import Server

ROOT = Path(__file__).parents[1]

APP = """
def on_message(connection, data):
    connection.send(f"hello {data}")
"""

LOADED = """
import sys, pytest
before = {*sys.modules}
import wsworker.testing
import json
print(json.dumps(sorted({*sys.modules} - before)))
"""


def run_pytest(folder: Path, text: str, *options: str) -> tuple[int, str]:
    """Run a test file in a process of its own, with this plugin and no other one; return exit code and output."""
    (folder / "test_it.py").write_text(text)
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "wsworker.testing", "-W", "error", "-q", *options]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_where_pytest_finds_it() -> None:
    """The package says that it has a plugin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"wsworker": testing.__name__} == project["entry-points"]["pytest11"]


def test_it_costs_nothing() -> None:
    """Every test run imports it, also those that have nothing to do with us: nothing else is loaded with it."""
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ["wsworker", "wsworker.testing"] == json.loads(done.stdout)


def test_what_can_be_taken_from_it() -> None:
    """The classes behind the fixtures, and nothing by mistake."""
    assert (FakeConnection, Server) == (testing.FakeConnection, testing.Server)
    assert all(getattr(testing, name).__name__ == name for name in testing._HOMES)
    with pytest.raises(AttributeError, match="has no attribute 'FakeConection'; it has FakeConnection, FakeRequest"):
        _ = testing.FakeConection


def test_the_fixtures(tmp_path: Path) -> None:
    """Both are there without an import; the app is found from a folder of tests, and from the root of the project."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_deep.py").write_text(REAL)
    code, output = run_pytest(tmp_path, REAL + FAKE)
    assert (0, "3 passed") == (code, (re.findall("[0-9]+ passed", output) or [output])[0])


REAL = """
def test_real(wsworker_server):
    with wsworker_server("app") as one, wsworker_server("app") as two:
        for server in (one, two):
            with server.connect() as client:
                client.send("tom")
                assert client.recv(timeout=10) == "hello tom"
"""
FAKE = """
import app

def test_fake(fake_connection):
    app.on_message(fake_connection, "tom")
    assert fake_connection.sent == ["hello tom"]
"""


def test_a_test_that_forgets_to_close(tmp_path: Path) -> None:
    """The server ends with its test, and a callback that has raised fails it then, with the user's own line."""
    code, output = run_pytest(tmp_path, UNCLOSED)
    assert (1, True) == (code, "1 passed, 1 error" in output)
    assert "AssertionError: a callback raised LookupError; see the log" in output
    assert 'raise LookupError("nobody looks")' in output
    assert f"{ROOT}/wsworker/rig.py" not in output


UNCLOSED = """
from types import SimpleNamespace

def on_close(connection, code, reason):
    raise LookupError("nobody looks")

def test_it(wsworker_server):
    server = wsworker_server(SimpleNamespace(on_close=on_close))
    with server.connect():
        pass
"""


def test_a_wrong_app_shows_the_test(tmp_path: Path) -> None:
    """The report shows the line of the test and the sentence, and none of our frames."""
    code, output = run_pytest(tmp_path, "def test_it(wsworker_server):\n    wsworker_server('nothing')\n")
    assert 1 == code
    assert "wsworker_server('nothing')" in output
    assert "no module 'nothing'" in output
    assert f"{ROOT}/wsworker" not in output


def test_the_fixtures_are_described(tmp_path: Path) -> None:
    """`pytest --fixtures` has a sentence for each."""
    code, output = run_pytest(tmp_path, "", "--fixtures")
    assert code in (0, 5), output
    assert "fake_connection" in output
    assert "A connection without a socket" in output
    assert "A function that starts a real worker in a thread" in output
