"""A real daemon, and what the system tests do to it: start, ask, signal, stop, look what is left.

Each Daemon has a folder of its own with config.yaml, app.py and a run directory, a free port on loopback, and a name
that nobody else has. The folder lies directly under the temporary directory, because a path of a unix socket has at
most 107 bytes, and because a worker that runs as another user must be able to enter it.

Nothing here sleeps to let something happen. eventually() looks again and again until a fact holds, and fails loudly
when its time is over; the times are far longer than what is waited for, so a slow machine makes a test slow, not red.

A Daemon is a context manager. Its end stops what runs and fails the test if any process is left. Processes are found by
three signs, as none of them alone finds all: the name in their title (set by the daemon, which thereby overwrites the
environment that /proc shows), a variable in their environment (inherited by programs that user code starts), and the
session of the process that was started.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

import psutil
from websockets.sync.client import ClientConnection, connect

import wsworker
from tests.ports import free_port
from wsworker.cli import ask
from wsworker.errors import ControlError, NotRunning

T = TypeVar("T")

PACKAGE: Final = Path(wsworker.__file__).parent
POLL_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 15.0

HELLO: Final = """
def on_message(connection, data):
    connection.send("hello " + data)
"""

WHO: Final = """
import os

def on_message(connection, data):
    connection.send(f"{os.getpid()} {data}")
"""
"""Answers with the worker's pid, so that a client knows which worker it talks to."""

FOREIGN_VARIABLES: Final = ("NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "JOURNAL_STREAM", "INVOCATION_ID", "WEB_CONCURRENCY")
FOREIGN_PREFIXES: Final = ("WSWORKER_", "WATCHDOG_", "LISTEN_")
"""What the environment of the tests may hold and the daemon must not see."""


def eventually(fact: Callable[[], T], what: str = "", seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of fact, which is called again and again; AssertionError when the time is over."""
    give_up_at = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < give_up_at, f"not within {seconds:.0f} s: {what or fact}"
        time.sleep(POLL_SECONDS)
    return value


class Outcome(NamedTuple):
    """How a command of the CLI ended."""

    code: int
    out: str
    err: str

    def document(self) -> dict[str, Any]:
        """Return the one JSON document that --json prints."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    def check_tone(self) -> None:
        """Fail if something was printed that no user should ever see: a traceback with a line of wsworker in it."""
        assert f'File "{PACKAGE}' not in self.err, self.err
        assert "Traceback" not in self.out, self.out


class Daemon:
    """One service: its files, its processes and its clients. It does not run before start().

    app: the text of app.py; settings: keys of config.yaml, over the few that are set here.
    """

    def __init__(self, app: str = HELLO, **settings: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ws"))
        self.folder.chmod(0o755)
        self.name = self.folder.name.replace("_", "-")
        self.port = free_port()
        self.settings: dict[str, object] = {
            "name": self.name,
            "app": "app",
            "listen": f"127.0.0.1:{self.port}",
            "workers": 1,
            **settings,
        }
        self.environ = self._environment()
        self._started: subprocess.Popen[bytes] | None = None
        self._sessions: list[int] = []
        self._apps_written = 0
        (self.folder / "run").mkdir(mode=0o700)
        self.write_app(app)
        self.write_config()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Daemon {self.name} on port {self.port}>"

    # Its files

    @property
    def config(self) -> Path:
        """The config file."""
        return self.folder / "config.yaml"

    @property
    def run_dir(self) -> Path:
        """Where lock, control socket and pid file are."""
        return self.folder / "run" / "wsworker"

    @property
    def log(self) -> str:
        """What the daemon has logged or printed so far, on standard error and in log.txt."""
        files = (self.folder / "stderr.txt", self.folder / "log.txt")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    @property
    def out(self) -> str:
        """What user code in the workers has printed on standard output, without what stands before each line."""
        text = (self.folder / "stdout.txt").read_text()
        return re.sub(r"^\S+ INFO  worker \d+ +(\[\S+\] )?", "", text, flags=re.MULTILINE)

    def write_app(self, text: str) -> None:
        """Write the user's module.

        Python takes compiled code for current if size and whole-second time of the source are the same. Two versions
        within a second must therefore differ in size: hence the last line, which grows by more than texts differ.
        """
        self._apps_written += 1
        # whoever watches the file sees no half of it
        half = self.folder / "app.half"
        half.write_text(f"{text}\n#{'.' * 1000 * self._apps_written}\n")
        half.replace(self.folder / "app.py")

    def write_config(self, **changes: object) -> None:
        """Write the config file with some settings changed, one key a line in the order of self.settings."""
        self.settings |= changes
        # JSON is YAML
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in self.settings.items()]
        self.config.write_text("".join(lines))

    def place(self, key: str) -> str:
        """Return where a setting's value stands, as error texts name it: "config.yaml:3:9"."""
        return f"config.yaml:{[*self.settings].index(key) + 1}:{len(key) + 3}"

    # Its processes

    def start(self, *flags: str) -> Self:
        """Start it in the foreground, in a session of its own, and wait until every worker is ready."""
        self.launch(*flags)
        self.wait_status(lambda status: status["state"] == "running")
        return self

    def launch(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start it in the foreground and return at once."""
        with (self.folder / "stdout.txt").open("ab") as out, (self.folder / "stderr.txt").open("ab") as err:
            self._started = subprocess.Popen(
                self._command("start", *flags),
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._sessions.append(self._started.pid)
        return self._started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        os.kill(self.master, number)

    def wait_exit(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until the foreground daemon has ended, and return its exit code (-9: killed by signal 9)."""
        assert self._started is not None, "start() or launch() comes first"
        return self._started.wait(seconds)

    def processes(self) -> dict[int, str]:
        """Return all that lives and belongs to this daemon, pid to title; a zombie does not live."""
        marker = f"WSWORKER_TEST_ID={self.name}".encode()
        found = {}
        for process in psutil.process_iter():
            try:
                title = b" ".join(Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")).strip()
                alive = process.status() != psutil.STATUS_ZOMBIE
                ours = (
                    f"[{self.name}]".encode() in title
                    or os.getsid(process.pid) in self._sessions
                    or marker in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                )
            except (psutil.Error, OSError):
                continue  # it has just ended, or is none of ours to look at
            if alive and ours:
                found[process.pid] = title.decode(errors="replace")
        return found

    def wait_gone(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until no process is left."""
        give_up_at = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < give_up_at, f"left behind: {left}"
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Stop what runs, remove the folder; AssertionError if a process was left that a stop does not end."""
        # shown by pytest where a test failed
        print(f"--- log of {self.name}\n{self.log}---")
        try:
            self.close_master()
            self.wait_gone()
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            if self._started is not None:
                self._started.wait(5)
            shutil.rmtree(self.folder)

    def close_master(self) -> None:
        """End the master if one runs, the hard way if the soft one takes too long."""
        masters = {pid for pid, title in self.processes().items() if title.startswith("wsworker: master")}
        if self._started is not None and self._started.poll() is None:
            masters.add(self._started.pid)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL):
            for pid in masters & self.processes().keys():
                os.kill(pid, number)
            give_up_at = time.monotonic() + 3
            while masters & self.processes().keys() and time.monotonic() < give_up_at:
                if self._started is not None:
                    self._started.poll()
                time.sleep(POLL_SECONDS)

    # Its command line

    def cli(self, *arguments: str, seconds: float = 30.0) -> Outcome:
        """Run one command, with -c, to its end."""
        done = subprocess.run(
            self._command(*arguments),
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def cli_begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command, in a session of its own; you must end it with finish()."""
        process = subprocess.Popen(
            self._command(*arguments),
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._sessions.append(process.pid)
        return process

    def _command(self, command: str, *arguments: str) -> Sequence[str]:
        return [sys.executable, "-m", "wsworker", command, "-c", self.config.name, *arguments]

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in FOREIGN_VARIABLES and not name.startswith(FOREIGN_PREFIXES)
        }
        own = {
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "WSWORKER_TEST_ID": self.name,
            # the checkout under test, also where wsworker is not installed
            "PYTHONPATH": str(PACKAGE.parent),
        }
        return kept | own

    # Its state

    def status(self) -> dict[str, Any]:
        """Return what `status --json` prints, asked in this process, as a command takes a tenth of a second.

        A command gives up after two seconds. A busy machine may let the master stand still for as long as that.
        """
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return ask.status(ask.locate(self.config, self.environ))
            except ControlError as error:
                if error.code != "timeout" or time.monotonic() > give_up_at:
                    raise

    def wait_status(
        self, fact: Callable[[Mapping[str, Any]], object], seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Wait until a fact holds of the status document, and return the document."""
        last: dict[str, Any] = {}

        def holds() -> bool:
            nonlocal last
            ended = self._started is not None and self._started.poll() is not None
            assert not ended, f"the daemon has ended:\n{self.log}"
            try:
                last = self.status()
            except (NotRunning, ControlError):
                return False
            return bool(fact(last))

        try:
            eventually(holds, "a fact of the status document", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\nlast seen: {json.dumps(last, indent=1)}\n{self.log}") from None
        return last

    def wait_log(self, text: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a text is in the log."""
        eventually(lambda: text in self.log, f"{text!r} in the log", seconds)

    @property
    def master(self) -> int:
        """The master's pid."""
        pid = self.status()["pid"]
        assert isinstance(pid, int)
        return pid

    def descriptors(self) -> int:
        """Return how many the master and the workers have open together."""
        return sum(psutil.Process(pid).num_fds() for pid in (self.master, *self.workers))

    @property
    def workers(self) -> list[int]:
        """The workers' pids, slot by slot."""
        return [row["pid"] for row in self.status()["workers"]]

    # Its clients

    def connect(self, path: str = "/", **options: Any) -> ClientConnection:
        """Return a new client; use it in a `with`."""
        options = {"open_timeout": 10, "close_timeout": 10, "proxy": None, **options}
        client: ClientConnection = connect(f"ws://127.0.0.1:{self.port}{path}", **options)
        return client

    @contextmanager
    def connect_to(self, worker: int) -> Iterator[ClientConnection]:
        """Be a client of one worker; worker: its pid; the app must be WHO, or answer like it."""
        # the fullest of 64 workers gets one of thousands
        for _ in range(3000):
            with self.connect() as client:
                client.send("who")
                if str(client.recv(10)).split()[0] == str(worker):
                    yield client
                    return
        raise AssertionError(f"3000 clients, and none came to worker {worker}: {self.status()}")

    def echo(self, text: str) -> str:
        """Return what a new client is answered."""
        with self.connect() as client:
            client.send(text)
            return str(client.recv(10))


def finish(process: subprocess.Popen[str], seconds: float = 30.0) -> Outcome:
    """Wait for the end of what cli_begin has begun."""
    with process:
        out, err = process.communicate(timeout=seconds)
        return Outcome(process.returncode, out, err)
