"""A service as the commands see it: its folder, its lock, its control socket, and what the master answers."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from wsworker.cli import ask
from wsworker.cli.main import run
from wsworker.master.control import Control
from wsworker.master.events import Token
from wsworker.master.rundir import Paths, RunDir, paths
from wsworker.wire import Command

NAME = "cli-test"
CONFIG = f"name: {NAME}\napp: app\nlisten: unix:cli.ws\n"
Script: TypeAlias = Mapping[str, "list[dict[str, Any]] | Turns"]

STATUS: dict[str, Any] = {
    "schema": 1,
    "name": NAME,
    "state": "running",
    "pid": 4242,
    "version": "0.1.0",
    "config": "/srv/hello/config.yaml",
    "listen": ["ws://127.0.0.1:2346"],
    "log": "/var/log/hello.log",
    "uptime": 130.2,
    "generation": 1,
    "reloads": 0,
    "last_reload": None,
    "workers_configured": 1,
    "workers_ready": 1,
    "totals": {"connections": 1, "messages_in": 9, "messages_out": 8, "restarts": 0},
    "workers": [
        {
            "slot": 1,
            "id": 1,
            "pid": 4243,
            "generation": 1,
            "state": "ready",
            "uptime": 129.4,
            "connections": 1,
            "messages_in": 9,
            "messages_out": 8,
            "loop_lag": 0.0004,
            "cpu": 0.001,
            "rss": 28311552,
            "restarts": 0,
            "last_exit": None,
        }
    ],
}


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """Where the service of a test lives."""

    folder: Path
    paths: Paths

    @property
    def config(self) -> Path:
        """The config file."""
        return self.folder / "config.yaml"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Stand in a folder with a config file and an app; nothing runs."""
    for variable in [*os.environ]:
        if variable.startswith("WSWORKER_") and not variable.startswith("WSWORKER_TEST_"):
            monkeypatch.delenv(variable)
    for variable in ("NOTIFY_SOCKET", "NO_COLOR", "RUNTIME_DIRECTORY", "WEB_CONCURRENCY"):
        monkeypatch.delenv(variable, raising=False)
    # not below tmp_path, whose length could make the path of a socket too long
    runtime = Path(tempfile.mkdtemp(prefix="ws-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "app.py").write_text("def on_message(connection, data):\n    connection.send(data)\n")
    yield Place(tmp_path, paths(NAME, "auto", os.environ, os.geteuid()))
    shutil.rmtree(runtime)


@pytest.fixture
def wsworker(place: Place, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Return a function: run a command in this process."""

    def call(*arguments: str) -> Result:
        code = run(arguments)
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def program(place: Place) -> Callable[..., Result]:
    """Return a function: run a command as a program of its own."""

    def call(*arguments: str) -> Result:
        command = [sys.executable, "-m", "wsworker", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return Result(ended.returncode, ended.stdout, ended.stderr)

    return call


class Turns(list[dict[str, Any] | None]):
    """Bodies that are given one for each time a command comes, the last one for ever; None hangs up."""

    def __init__(self, *bodies: dict[str, Any] | None) -> None:
        super().__init__(bodies)

    def next(self) -> list[dict[str, Any]]:
        """Return the bodies of this time."""
        body = self.pop(0) if len(self) > 1 else self[0]
        return [] if body is None else [body]


class Answering:
    """The lock and the control socket of a running master; only what it answers is written down.

    script: the bodies for each command, the last one final, or Turns; an empty list hangs up, and a command that is not
    in it is never answered. After a stop it ends, as the master does. heard: the commands that came, without the config
    file that each of them was asked with; those are in configs.
    """

    def __init__(self, at: Paths, script: Script) -> None:
        self.heard: list[Command] = []
        self.configs: set[str] = set()
        self._script = script
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._run_dir = RunDir.claim(NAME, at)
        self._control = Control(at.socket, self._selector, self._answer, time.monotonic)
        self._control.open()
        self._wakeup, self._waker = socket.socketpair()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._end)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select():
                key.data()
        self._control.finish()
        self._selector.close()
        self._run_dir.release()

    def _answer(self, command: Command, token: Token) -> None:
        self.heard.append(replace(command, config=""))
        self.configs.add(command.config)
        if command.name not in self._script:
            return
        script = self._script[command.name]
        bodies = script.next() if isinstance(script, Turns) else script
        if not bodies:
            self._ended = True
            return
        for body in bodies[:-1]:
            self._control.progress(token, body)
        self._control.answer(token, bodies[-1])
        self._ended = command.name == "stop"

    def _end(self) -> None:
        self._ended = True

    def close(self) -> None:
        """End it, if it has not ended yet."""
        self._waker.send(b".")
        self._thread.join()
        self._wakeup.close()
        self._waker.close()


@pytest.fixture
def running(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], Answering]]:
    """Return a function: let a master run that answers from a script."""
    # it is a thread of ours, which may get its turn late
    monkeypatch.setattr(ask, "ANSWER_SECONDS", 30.0)
    with contextlib.ExitStack() as stack:

        def start(script: Script) -> Answering:
            return stack.enter_context(contextlib.closing(Answering(place.paths, script)))

        yield start


DEAF = """
import os, signal, socket, sys
from wsworker.master.rundir import RunDir, paths
run_dir = RunDir.claim(sys.argv[1], paths(sys.argv[1], "auto", os.environ, os.geteuid()))
listener = socket.socket(socket.AF_UNIX)
listener.bind(str(run_dir.paths.socket))
listener.listen(16)
if sys.argv[2] == "pid":
    run_dir.write_pid(os.getpid())
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGQUIT})
print("up", flush=True)
number = signal.sigwait({signal.SIGTERM, signal.SIGQUIT})
print(signal.Signals(number).name, flush=True)
run_dir.release()
"""


@pytest.fixture
def deaf(place: Place) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return a function: let a process hold lock and socket and never answer; "pid" gives it a pid file, "" does not.

    It ends at TERM or QUIT and prints which of them came.
    """
    with contextlib.ExitStack() as stack:

        def start(pid_file: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", DEAF, NAME, pid_file]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            return process

        yield start
