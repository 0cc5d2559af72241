"""A worker's life in a process of its own, as its master sees it: channel, seat, exit code, and clients on its port."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from websockets.frames import Opcode

from tests.worker.service import DEADLINE_SECONDS, closing, head, text
from wsworker.assignment import Assignment
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.errors import WireError
from wsworker.master.process import identity, spawn
from wsworker.query import Query
from wsworker.sections import LogConfig
from wsworker.stats import Reading, Table
from wsworker.wire import DrainReason, Lines, Order, Report, decode_report, encode
from wsworker.worker import accept, drain, main
from wsworker.worker.hub import Hub

WORKER = 7

CALLED_EXIT = "the app called sys.exit(); take that call out, as wsworker ends its workers itself"

PREAMBLE = """\
import asyncio, os, sys
from pathlib import Path

FOLDER = Path(__file__).parent

def note(*words):
    with open(FOLDER / "journal", "a") as file:
        print(*words, file=file)

def block(name):
    os.mkfifo(FOLDER / name)
    note("blocked")
    open(FOLDER / name).read()

"""

ECHO = """\
def on_message(connection, data):
    connection.send(data)
"""

EVERYTHING = """\
def on_worker_start(worker):
    note("start", worker.id, worker.slot)

def on_connect(connection):
    note("connect", connection.id)

def on_message(connection, data):
    note("message", data)
    connection.send(data)

async def on_close(connection, code, reason):
    await asyncio.sleep(0.01)
    note("close", code)

async def on_worker_reload(worker):
    await asyncio.sleep(0)
    note("reload", len(worker.connections))

def on_worker_stop(worker):
    note("stop", len(worker.connections))
"""


def until(condition: Callable[[], object]) -> None:
    """Wait for a fact; fails at the deadline."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(0.002)


class Client:
    """One client's TCP connection; every wait has the deadline."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, DEADLINE_SECONDS)
        self._stream = self.socket.makefile("rb")

    def send(self, *data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(b"".join(data))

    def status(self) -> int:
        """Read the head of the HTTP response; return its status."""
        status = int(self._stream.readline().split()[1])
        while self._stream.readline().strip():
            pass
        return status

    def receive(self) -> tuple[Opcode, bytes]:
        """Return opcode and payload of the next frame, a short one."""
        first, length = self._stream.read(2)
        return Opcode(first & 0x0F), self._stream.read(length)

    def close_code(self) -> int:
        """Return the code of the next frame, a Close."""
        opcode, payload = self.receive()
        assert opcode is Opcode.CLOSE
        return int(struct.unpack_from("!H", payload)[0])

    def answer(self, code: int) -> None:
        """Answer a Close, and close the socket when the server does."""
        self.send(closing(code))
        assert b"" == self.rest()
        self.close()

    def rest(self) -> bytes:
        """Return all that comes until the server's FIN."""
        return self._stream.read()

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()
        self.socket.close()


def listening() -> socket.socket:
    """Return a listener of a slot, as the master makes it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    return sock


def queue(listener: socket.socket) -> int:
    """Return how many clients stand in the queue of a listener (tcpi_unacked)."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 24)[0])


def socket_of(sock: socket.socket) -> str:
    """Return what /proc/*/fd shows for a socket."""
    return f"socket:[{os.fstat(sock.fileno()).st_ino}]"


class Ward:
    """A worker as its master sees it. folder: where its app, its journal and its stderr are; watched: as of run()."""

    def __init__(self, folder: Path, app: str, watched: str = "", **settings: Any) -> None:
        folder.mkdir()
        (folder / "chat.py").write_text(PREAMBLE + app)
        self.folder = folder
        self.listener = listening()
        self.words = os.memfd_create("words", os.MFD_CLOEXEC)
        self.table = Table(2)
        self.channel, theirs = socket.socketpair()
        self.worker_only = {socket_of(self.listener), socket_of(theirs)}
        self.channel.settimeout(DEADLINE_SECONDS)
        self._lines = Lines()
        self._reports: list[Report] = []
        self._clients: list[Client] = []
        self._over: tuple[int | None, str | None] | None = None
        seat = self.table.claim(1, WORKER)
        config = Config(app="chat", app_dir=str(folder), **settings)

        def prepare() -> None:
            self.channel.close()
            output = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - it lives as long

        def run() -> int:
            return main.run(
                Assignment(
                    config=config,
                    worker=WORKER,
                    slot=1,
                    generation=1,
                    node="node",
                    sockets=[self.listener],
                    shared=[],
                    channel=theirs,
                    seat=seat,
                    others=lambda: self.table.others(1),
                    words=self.words,
                    tls=None,
                ),
                watched,
            )

        self.process = spawn(prepare, identity(config), run, print)
        theirs.close()

    def report(self) -> Report:
        """Return the next report; fails if the channel ends instead."""
        while not self._reports:
            data = self.channel.recv(65536)
            assert data, "the channel has ended"
            self._reports += [decode_report(line) for line in self._lines.feed(data)]
        return self._reports.pop(0)

    def ready(self) -> None:
        """Wait until it has booted."""
        assert "ready" == self.report().name

    def tell(self, *orders: Order) -> None:
        """Give orders, in one write."""
        self.channel.sendall(b"".join(encode(order) for order in orders))

    def lend(self, slot: int, *listeners: socket.socket) -> None:
        """Lend it the listeners of another slot."""
        order = Order("lend", slot=slot, fds=len(listeners))
        socket.send_fds(self.channel, [encode(order)], [listener.fileno() for listener in listeners])

    def leave(self, why: DrainReason) -> None:
        """Tell it to drain."""
        self.tell(Order("drain", why))

    def go(self) -> None:
        """Wait until it has booted and let it accept."""
        self.ready()
        self.tell(Order("go"))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def dial(self, *data: bytes, to: socket.socket | None = None) -> Client:
        """Connect a client and send what it has to say; to: another listener than its own."""
        client = Client((to or self.listener).getsockname())
        self._clients.append(client)
        client.send(*data)
        return client

    def open(self, *data: bytes) -> Client:
        """Connect a client, complete its handshake and send data."""
        client = self.dial(head())
        assert 101 == client.status()
        client.send(*data)
        return client

    def waiting(self) -> int:
        """Return how many clients stand in the queue of its listener."""
        return queue(self.listener)

    def reading(self) -> Reading:
        """Return what stands in its seat."""
        reading = self.table.read(1, WORKER)
        assert reading is not None
        return reading

    def journal(self) -> list[str]:
        """Return what its app has noted."""
        file = self.folder / "journal"
        return file.read_text().splitlines() if file.exists() else []

    def release(self, name: str) -> None:
        """Let its app go on that stands in block(name)."""
        (self.folder / name).write_text("")

    def stderr(self) -> str:
        """Return what it has logged and printed."""
        return (self.folder / "stderr").read_text()

    def last_words(self) -> str:
        """Return the stacks that it has written."""
        return os.pread(self.words, 10**6, 0).decode()

    def exit(self) -> tuple[int | None, str | None]:
        """Wait for its end; return (exit code, None) or (None, signal)."""
        if self._over is None:
            assert select.select([self.process.pidfd], [], [], DEADLINE_SECONDS)[0], "it goes on"
            self._over = self.process.reap()
            assert self._over is not None
        return self._over

    def bury(self) -> None:
        """Leave nothing behind."""
        if self._over is None:
            self.signal(signal.SIGKILL)
            self.exit()
        for client in self._clients:
            client.close()
        self.listener.close()
        self.channel.close()
        os.close(self.words)


class Start(Protocol):
    """Starts a worker with the source of an app; loop and further settings are those of its configuration."""

    def __call__(self, app: str, **settings: Any) -> Ward: ...


@pytest.fixture(params=["asyncio", "uvloop"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Return what starts workers, on either loop; they end with the test."""
    wards: list[Ward] = []

    def start_one(app: str, **settings: Any) -> Ward:
        wards.append(Ward(tmp_path / str(len(wards)), app, loop=request.param, **settings))
        return wards[-1]

    yield start_one
    for ward in wards:
        ward.bury()


# Boot


def test_it_reports_ready(start: Start) -> None:
    """Once, when the app is imported and on_worker_start is done."""
    ward = start(EVERYTHING)
    assert Report("ready") == ward.report()
    assert ["start 7 1"] == ward.journal()
    until(lambda: "ready, pid" in ward.stderr())


def test_an_async_start_is_waited_for(start: Start) -> None:
    """Ready means that on_worker_start is over."""
    ward = start("async def on_worker_start(worker):\n    await asyncio.sleep(0.01)\n    note('started')\n" + ECHO)
    ward.ready()
    assert ["started"] == ward.journal()


def test_an_app_that_does_not_import_is_reported(start: Start) -> None:
    """With a sentence, and the traceback of the user's frames only; the exit code says that it is the app."""
    ward = start("def boom():\n    1 / 0\n\nboom()\n")
    report = ward.report()
    assert Report("failed", kind="app", error=report.error, trace=report.trace) == report
    line = PREAMBLE.count("\n") + 2
    assert f"cannot import app 'chat': chat.py:{line} raised ZeroDivisionError" == report.error
    assert 2 == report.trace.count('  File "')
    assert report.trace.endswith("ZeroDivisionError: division by zero")
    assert (78, None) == ward.exit()


def test_a_misspelt_callback_is_reported(start: Start) -> None:
    """There is nothing to trace then."""
    ward = start("def on_mesage(connection, data):\n    pass\n")
    report = ward.report()
    assert ("failed", "app", "") == (report.name, report.kind, report.trace)
    assert "did you mean 'on_message'?" in report.error
    assert (78, None) == ward.exit()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_start_that_raises_is_reported(start: Start, kind: str) -> None:
    """That it was not the import tells the kind and the exit code; the trace begins at the callback."""
    ward = start(f"{kind} on_worker_start(worker):\n    raise OSError('no database')\n")
    report = ward.report()
    line = PREAMBLE.count("\n") + 1
    assert ("failed", "boot") == (report.name, report.kind)
    assert f"on_worker_start (chat.py:{line}) raised OSError" == report.error
    assert [
        "Traceback (most recent call last):",
        f'  File "{ward.folder}/chat.py", line {line + 1}, in on_worker_start',
        "    raise OSError('no database')",
        "OSError: no database",
    ] == report.trace.splitlines()
    assert (1, None) == ward.exit()


@pytest.mark.parametrize("raised", ["Exception('x' * 10**6)", "Odd()", "asyncio.CancelledError()"])
def test_whatever_a_start_raises_is_reported(start: Start, raised: str) -> None:
    """Also an exception with a megabyte of text, one that has no text, and one that asyncio uses itself."""
    odd = "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n"
    ward = start(f"{odd}\nasync def on_worker_start(worker):\n    raise {raised}\n")
    report = ward.report()
    assert ("failed", "boot") == (report.name, report.kind)
    assert " raised " in report.error
    assert (1, None) == ward.exit()


def test_a_log_that_cannot_be_opened_is_reported(start: Start) -> None:
    """The log itself cannot say it, so the master is told."""
    ward = start(ECHO, log=LogConfig(file="/nowhere/wsworker.log"))
    report = ward.report()
    assert Report("failed", kind="boot", error=report.error) == report
    assert report.error.startswith("a worker cannot start: PlatformError: ")
    assert "/nowhere/wsworker.log" in report.error
    assert (1, None) == ward.exit()


def test_a_loop_that_cannot_be_had_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvloop a worker that wants it ends with a sentence."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    ward = Ward(tmp_path / "app", ECHO, loop="auto")
    report = ward.report()
    assert ("failed", "boot", "") == (report.name, report.kind, report.trace)
    assert report.error.startswith("a worker cannot start: ModuleNotFoundError: ")
    assert (1, None) == ward.exit()
    ward.bury()


def test_term_before_ready_ends_it(start: Start) -> None:
    """Nobody waits for a boot that is not wanted any more."""
    ward = start("async def on_worker_start(worker):\n    note('began')\n    await asyncio.Event().wait()\n" + ECHO)
    until(ward.journal)
    ward.signal(signal.SIGTERM)
    assert (None, "SIGTERM") == ward.exit()


# Serving


def test_a_saved_file_is_reported(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each change, while it goes on, and at first what is about to be loaded.

    What it compiles is not kept, as it might be taken for the next edit.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    config = tmp_path / "config.yaml"
    config.write_text("one")
    ward = start("def on_message(connection, data): pass\n", watched=str(config))
    loaded = ward.report()
    assert ("changed", "") == (loaded.name, loaded.error)
    ward.ready()
    until(lambda: "a saved change is loaded at once" in ward.stderr())
    (ward.folder / "chat.py").unlink()
    first = ward.report()
    assert ("changed", "chat.py") == (first.name, first.error)
    config.write_text("other")
    second = ward.report()
    assert ("changed", str(config)) == (second.name, second.error)
    assert 3 == len({loaded.mark, first.mark, second.mark})
    assert not (ward.folder / "__pycache__").exists()
    ward.leave("reload")
    assert (0, None) == ward.exit()


def test_nobody_is_accepted_before_go(start: Start) -> None:
    """Clients wait in the queue until the master says go; then they are served."""
    ward = start(ECHO)
    ward.ready()
    client = ward.dial(head(), text("hello"))
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name  # so the loop has gone round since the client came
    assert 1 == ward.waiting()
    ward.tell(Order("go"))
    assert 101 == client.status()
    assert (Opcode.TEXT, b"hello") == client.receive()
    assert 0 == ward.waiting()


def test_term_after_ready_asks_to_leave(start: Start) -> None:
    """A signal from outside is passed on to the master, who decides; the worker serves on."""
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    ward.signal(signal.SIGTERM)
    assert Report("leaving") == ward.report()
    client.send(text("still there?"))
    assert (Opcode.TEXT, b"still there?") == client.receive()
    ward.open()
    assert not any(line.startswith(("close", "stop")) for line in ward.journal())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH])
def test_signals_of_the_terminal_are_the_masters(start: Start, number: signal.Signals) -> None:
    """Ctrl-C and a hang-up reach the whole group; a worker takes no notice."""
    ward = start(ECHO)
    ward.go()
    client = ward.open()
    ward.signal(number)
    client.send(text("still there?"))
    assert (Opcode.TEXT, b"still there?") == client.receive()


@pytest.mark.parametrize(
    "app",
    [
        "def on_message(connection, data):\n    sys.exit(7)\n",
        "async def on_message(connection, data):\n    sys.exit(7)\n",
        "def on_connect(connection):\n    connection.worker.after(0.001, lambda: sys.exit(7))\n",
        "def on_close(connection, code, reason):\n    sys.exit(7)\n",
    ],
    ids=["sync", "async", "timer", "on_close"],
)
def test_an_exit_of_user_code_is_an_exit(start: Start, app: str) -> None:
    """Wherever sys.exit is called, it ends the process with its code; the master is told, and where that was."""
    ward = start(app)
    ward.go()
    client = ward.open(text("bye"), closing(1000))
    assert (7, None) == ward.exit()
    assert 1 == ward.reading().counters.accepted
    told = ward.report()
    assert ("failed", "crash", CALLED_EXIT) == (told.name, told.kind, told.error)
    assert "chat.py" in told.trace
    assert told.trace.endswith("\nSystemExit: 7")
    client.close()


@pytest.mark.parametrize(
    "app",
    [
        "def on_message(connection, data):\n    raise KeyboardInterrupt\n",
        "async def on_message(connection, data):\n    raise KeyboardInterrupt\n",
        "def on_connect(connection):\n    connection.worker.after(0.001, interrupt)\n",
    ],
    ids=["sync", "async", "timer"],
)
def test_an_interrupt_of_user_code_ends_it(start: Start, app: str) -> None:
    """On either loop, and not with success; the master is told with the user's frames, and the log has no others."""
    ward = start("def interrupt():\n    raise KeyboardInterrupt\n\n" + app)
    ward.go()
    ward.open(text("bye"))
    told = ward.report()
    assert ("failed", "crash", "worker 1 ended with KeyboardInterrupt") == (told.name, told.kind, told.error)
    first, *frames, last = told.trace.splitlines()
    assert ("Traceback (most recent call last):", "KeyboardInterrupt") == (first, last)
    assert [f'  File "{ward.folder}/chat.py"'] == [line.split(",")[0] for line in frames if line.startswith("  File")]
    assert (1, None) == ward.exit()
    assert "Traceback" not in ward.stderr()


def test_a_fault_that_cannot_be_told_is_reported(start: Start) -> None:
    """User code may have written an exception whose text raises."""
    odd = "class Odd(KeyboardInterrupt):\n    def __str__(self):\n        raise ValueError\n\n"
    ward = start(odd + "def on_message(connection, data):\n    raise Odd\n")
    ward.go()
    ward.open(text("bye"))
    told = ward.report()
    assert ("crash", "worker 1 ended with Odd: <exception str() failed>") == (told.kind, told.error)
    assert (1, None) == ward.exit()


@pytest.mark.parametrize("fault", ["loop.stop()", "[task.cancel() for task in asyncio.all_tasks()]"])
def test_a_fault_of_the_loop_is_reported(start: Start, fault: str) -> None:
    """Whatever ends the loop that is no exit: a sentence for the master, and the counters are kept."""
    ward = start(f"def on_message(connection, data):\n    loop = asyncio.get_running_loop()\n    {fault}\n")
    ward.go()
    ward.open(text("stop"))
    report = ward.report()
    assert ("failed", "crash") == (report.name, report.kind)
    error, _, reason = report.error.partition(":")
    kind = "RuntimeError" if fault == "loop.stop()" else "CancelledError"
    assert (f"worker 1 ended with {kind}", kind == "RuntimeError") == (error, bool(reason))
    assert kind in report.trace
    assert "\n" not in report.error
    assert (1, None) == ward.exit()
    assert 1 == ward.reading().counters.messages_in
    # it could be a bug of ours, so all frames are in the log
    assert "the event loop has failed" in ward.stderr()
    assert "wsworker/worker/main.py" in ward.stderr()


def test_a_fault_that_the_user_causes_is_told_with_their_frames(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours are only in the log."""
    monkeypatch.setattr(Hub, "drain", lambda hub: hub.app.on_message.function(None, None))
    ward = start("def on_message(connection, data):\n    raise ValueError('of mine')\n")
    ward.go()
    ward.leave("stop")
    report = ward.report()
    assert ("crash", "worker 1 ended with ValueError: of mine") == (report.kind, report.error)
    assert f'File "{ward.folder}/chat.py"' in report.trace
    assert "leaving.py" not in report.trace
    assert (1, None) == ward.exit()
    assert "leaving.py" in ward.stderr()


def test_a_loop_that_fails_before_it_is_ready_is_a_failed_boot(start: Start) -> None:
    """The master treats it like any other one."""
    waits = (
        "async def on_worker_start(worker):\n    asyncio.get_running_loop().stop()\n    await asyncio.Event().wait()\n"
    )
    ward = start(waits + ECHO)
    report = ward.report()
    assert ("failed", "boot") == (report.name, report.kind)
    assert (1, None) == ward.exit()


def test_the_last_words_are_for_the_master(start: Start) -> None:
    """What kills it in C is in the stacks that it leaves behind."""
    ward = start("def on_message(connection, data):\n    os.abort()\n")
    ward.go()
    ward.open(text("die"))
    assert (None, "SIGABRT") == ward.exit()
    assert "Fatal Python error: Aborted" in ward.last_words()
    assert f'File "{ward.folder}/chat.py"' in ward.last_words()
    assert "Fatal" not in ward.stderr()


HOARDS = """\
import resource
taken = []
def on_message(connection, data):
    if data == 'take':
        highest = max(int(fd) for fd in os.listdir('/proc/self/fd'))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, highest + 10))
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
    else:
        for fd in taken:
            os.close(fd)
    connection.send(data)
"""
"""Takes all descriptors at `take`, and gives them back at any other word."""

FORKS = """\
def show(who):
    for fd in os.listdir("/proc/self/fd"):
        try:
            note(who, os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass

def fork():
    show("worker")
    pid = os.fork()
    if pid == 0:
        show("child")
        os._exit(0)
    os.waitpid(pid, 0)

def on_worker_start(worker):
    fork()

def on_message(connection, data):
    fork()
    connection.send(data)
"""


def test_a_child_of_user_code_holds_neither_port_nor_channel(start: Start) -> None:
    """Whenever it is forked; the worker itself goes on with both."""
    ward = start(FORKS)
    ward.go()
    for _ in range(2):
        seen = [line.split(maxsplit=1) for line in ward.journal()]
        assert ward.worker_only <= {what for who, what in seen if who == "worker"}
        assert "child" in {who for who, _ in seen}
        assert not ward.worker_only & {what for who, what in seen if who == "child"}
        (ward.folder / "journal").unlink()
        client = ward.open(text("hello"))
        assert (Opcode.TEXT, b"hello") == client.receive()
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name


def test_a_child_of_user_code_holds_nothing_that_is_lent(start: Start) -> None:
    """Nor the file of the last words; its own crash is not the worker's."""
    ward = start(FORKS.replace("os._exit(0)", "os.abort()"))
    ward.go()
    with listening() as other:
        ward.lend(2, other)
        client = ward.dial(head(), text("hello"), to=other)
        assert 101 == client.status()
        assert (Opcode.TEXT, b"hello") == client.receive()
        seen = [line.split(maxsplit=1) for line in ward.journal()]
        assert ["worker", socket_of(other)] in seen
        assert ["child", socket_of(other)] not in seen
        assert [["worker", "/memfd:words (deleted)"]] * 2 == [line for line in seen if "memfd" in line[1]]
        assert "" == ward.last_words()
        client.close()


NUMBERS = """\
def on_message(connection, data):
    if os.fork() == 0:
        files = [os.memfd_create("mine") for _ in range(20)]
        grandchild = os.fork()
        if grandchild == 0:
            for file in files:
                os.fstat(file)
            os._exit(7)
        note(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        os._exit(0)
    os.wait()
    connection.send(data)
"""


def test_a_grandchild_keeps_the_files_of_its_parent(start: Start) -> None:
    """They may have the numbers that were closed when the child began."""
    ward = start(NUMBERS)
    ward.go()
    with listening() as other:
        # its order is not whole, so the channel still holds the descriptor
        socket.send_fds(ward.channel, [encode(Order("lend", slot=2, fds=1))[:5]], [other.fileno()])
        client = ward.open(text("hello"))
        assert (Opcode.TEXT, b"hello") == client.receive()
    assert ["7"] == ward.journal()


COMING_BACK = """\
import signal

def fork(end):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # for one that is not ended
        end()
        return
    # the worker itself beats no more while it waits, nor does anything else
    note("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

def leave():
    sys.exit(7)

def fail():
    raise ValueError

def come_back():
    pass

def reply(connection, end):
    fork(end)
    connection.send("hello")

async def sleep(end):
    await asyncio.sleep(0)
    fork(end)

async def late(connection, end):
    await sleep(end)
    connection.send("hello")

async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        note("cancelled in", os.getpid())

def on_worker_start(worker):
    worker.task = asyncio.get_running_loop().create_task(forever())

"""


@pytest.mark.parametrize(("end", "code"), [("leave", 7), ("fail", 1), ("come_back", 0)])
@pytest.mark.parametrize(
    "app",
    [
        "def on_message(connection, data):\n    fork({end})\n    connection.send(data)\n",
        "async def on_message(connection, data):\n    await sleep({end})\n    connection.send(data)\n",
        "def on_message(connection, data):\n    connection.worker.after(0.001, lambda: reply(connection, {end}))\n",
        "def on_message(connection, data):\n    connection.worker.after(0.001, lambda: late(connection, {end}))\n",
    ],
    ids=["sync", "async", "timer", "async timer"],
)
def test_a_child_that_comes_back_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch, app: str, end: str, code: int
) -> None:
    """With its own code, and without a touch of the worker's seat, tasks, channel or loop: the worker goes on."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 3600.0)
    ward = start(COMING_BACK + app.format(end=end))
    ward.go()
    client = ward.open()
    beat_at = ward.reading().beat_at
    client.send(text("hello"))
    until(lambda: f"code {code}" in ward.journal())
    assert beat_at == ward.reading().beat_at
    assert not any(line.startswith("cancelled") for line in ward.journal())
    if end == "leave":
        # the others may have sent something before they ended
        assert (Opcode.TEXT, b"hello") == client.receive()
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name
    assert (end == "come_back") == ("came back and is ended" in ward.stderr())
    assert (end == "fail") == ("a process that the app has forked has failed" in ward.stderr())
    ward.open()


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("end", ["leave", "fail", "come_back"])
def test_a_child_that_comes_back_serves_nobody(start: Start, kind: str, end: str) -> None:
    """Not even the message that came with the one before it; nor is its fault told to the client."""
    app = (
        f"{kind} on_message(connection, data):\n"
        "    note(data)\n"
        f"    if data == 'fork':\n        fork({end})\n"
        "    else:\n        connection.send(data)\n"
    )
    ward = start(COMING_BACK + app)
    ward.go()
    client = ward.open(text("fork") + text("next"))
    assert (Opcode.TEXT, b"next") == client.receive()
    client.send(text("last"))
    assert (Opcode.TEXT, b"last") == client.receive()
    assert ["fork", "next", "last"] == [line for line in ward.journal() if not line.startswith("code")]


@pytest.mark.parametrize(("end", "code"), [("sys.exit(7)", 7), ("1 / 0", 1), ("pass", 0)])
def test_a_child_that_comes_back_from_the_import(start: Start, end: str, code: int) -> None:
    """It is ended before it would be a worker."""
    ward = start(COMING_BACK.split("def leave", maxsplit=1)[0] + f"def end():\n    {end}\n\nfork(end)\n" + ECHO)
    ward.ready()
    assert [f"code {code}"] == ward.journal()


@pytest.mark.parametrize(("end", "code"), [("leave", 7), ("come_back", 0)])
def test_a_child_that_comes_back_from_a_task_of_the_user(start: Start, end: str, code: int) -> None:
    """The loop has it then, and the loop ends it."""
    app = f"def on_message(connection, data):\n    connection.task = asyncio.ensure_future(sleep({end}))\n"
    ward = start(COMING_BACK + app)
    ward.go()
    ward.open(text("hello"))
    until(lambda: f"code {code}" in ward.journal())
    assert not any(line.startswith("cancelled") for line in ward.journal())
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name


def test_a_child_that_leaves_with_a_text(start: Start) -> None:
    """It is printed and means 1, as the interpreter has it; sys.exit() means 0."""
    app = "def on_message(connection, data):\n    fork(lambda: sys.exit('why' if data == '1' else None))\n"
    ward = start(COMING_BACK + app)
    ward.go()
    ward.open(text("1"), text("0"))
    until(lambda: ["code 1", "code 0"] == [line for line in ward.journal() if line.startswith("code")])
    assert "why\n" in ward.stderr()


def test_a_child_that_comes_back_from_the_last_callback(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the worker's life is over in it before the loop turns again; it does not beat for the worker either."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 3600.0)
    app = (
        "def on_worker_stop(worker):\n"
        "    worker_pid = os.getpid()\n"
        "    fork(come_back)\n"
        "    if os.getpid() == worker_pid:\n"
        "        block('stop')\n"
    )
    ward = start(COMING_BACK + ECHO + app)
    ward.go()
    beat_at = ward.reading().beat_at
    ward.leave("stop")
    until(lambda: "blocked" in ward.journal())
    assert beat_at == ward.reading().beat_at
    ward.release("stop")
    assert (0, None) == ward.exit()
    assert "code 0" in ward.journal()
    assert 1 == sum(line.startswith("cancelled") for line in ward.journal())


def test_an_exit_during_the_start_is_an_exit(start: Start) -> None:
    """It keeps its code; the master is told why there is no worker."""
    ward = start("def on_worker_start(worker):\n    sys.exit(7)\n")
    assert (7, None) == ward.exit()
    told = ward.report()
    assert ("failed", "boot", CALLED_EXIT) == (told.name, told.kind, told.error)


def test_the_end_of_the_channel_ends_it(start: Start) -> None:
    """The master is dead: at once, without a goodbye."""
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    ward.channel.close()
    assert (1, None) == ward.exit()
    assert b"" == client.rest()
    assert not any(line.startswith(("close", "stop")) for line in ward.journal())


def test_the_end_of_the_channel_ends_a_boot(start: Start) -> None:
    """Also while on_worker_start waits for something."""
    ward = start("async def on_worker_start(worker):\n    note('began')\n    await asyncio.Event().wait()\n" + ECHO)
    until(ward.journal)
    ward.channel.close()
    assert (1, None) == ward.exit()


def test_nonsense_on_the_channel_ends_it(start: Start) -> None:
    """Who says so is no master."""
    ward = start(ECHO)
    ward.ready()
    with pytest.raises(WireError):
        decode_report(b"nonsense")
    ward.channel.sendall(b"nonsense\n")
    assert (1, None) == ward.exit()


# Other orders


def test_it_serves_a_slot_that_is_lent(start: Start) -> None:
    """Until that slot is recalled; its own clients are served all the time."""
    ward = start(ECHO)
    ward.go()
    with listening() as first, listening() as second:
        ward.lend(2, first, second)
        for one in (first, second, ward.listener):
            assert 101 == ward.dial(head(), to=one).status()
        ward.tell(Order("recall", slot=2))
        ward.signal(signal.SIGTERM)
        assert "leaving" == ward.report().name  # so it has obeyed
        left = ward.dial(head(), to=first)
        ward.open()
        assert (1, 0) == (queue(first), ward.waiting())
        left.close()


def test_who_leaves_borrows_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lent then is closed at once, and what was lent before is closed with its own."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    with listening() as before, listening() as after:
        ward.lend(2, before)
        assert 101 == ward.dial(head(), to=before).status()
        ward.leave("reload")
        assert 1012 == client.close_code()
        ward.lend(2, after)
        waiting = [ward.dial(head(), to=one) for one in (before, after)]
        ward.leave("quick")
        assert (0, None) == ward.exit()
        assert (1, 1) == (queue(before), queue(after))
        for one in waiting:
            one.close()


def test_what_is_lent_before_go_waits_for_it(start: Start) -> None:
    """Also if the worker has not booted yet; nothing is accepted meanwhile."""
    ward = start("block('import')\n" + ECHO)
    until(ward.journal)
    with listening() as other:
        ward.lend(2, other)
        client = ward.dial(head(), to=other)
        ward.release("import")
        ward.ready()
        ward.signal(signal.SIGTERM)
        assert "leaving" == ward.report().name
        assert 1 == queue(other)
        ward.tell(Order("go"))
        assert 101 == client.status()


def test_a_loan_that_is_lost_is_seen(start: Start) -> None:
    """The worker shows itself as full, so that the master lends to another one, and takes clients again by itself."""
    ward = start(HOARDS)
    ward.go()
    client = ward.open(text("take"))
    assert (Opcode.TEXT, b"take") == client.receive()
    with listening() as other:
        ward.lend(2, other)
        until(lambda: ward.reading().full)
        client.send(text("give"))
        assert (Opcode.TEXT, b"give") == client.receive()
        until(lambda: not ward.reading().full)
        ward.lend(2, other)
        assert 101 == ward.dial(head(), to=other).status()
    assert "the order lend is lost" in ward.stderr()


def test_the_log_goes_on_in_another_file(start: Start, tmp_path: Path) -> None:
    """The one that came along with the order, and what user code prints as well."""
    log = tmp_path / "log"
    log.touch()
    ward = start(
        "def on_message(connection, data):\n    print('printed', data)\n" + "    connection.send(data)\n",
        log=LogConfig(file=str(log)),
    )
    ward.ready()
    until(lambda: "ready, pid" in log.read_text())
    new = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    socket.send_fds(ward.channel, [encode(Order("reopen", fds=1)) + encode(Order("go"))], [new])
    os.close(new)
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    client.close()
    ward.leave("stop")
    assert (0, None) == ward.exit()
    assert "left, pid" not in log.read_text()
    assert "printed hello" in (tmp_path / "new").read_text()
    assert "left, pid" in (tmp_path / "new").read_text()


LOUD = """\
def on_connect(connection):
    connection.user = connection.request.path[1:] or None

def on_message(connection, data):
    if data == "block":
        block("hold")
    connection.send(data)
"""


def test_it_lists_its_connections(start: Start) -> None:
    """Those that fit the query, in its order; the answer has the master's token, and comes while clients are served."""
    ward = start(LOUD)
    ward.go()
    for path in ("/ann", "/tom", "/max"):
        client = ward.dial(head(path))
        assert 101 == client.status()
    until_at = time.monotonic() + DEADLINE_SECONDS
    ward.tell(Order("list", token=9, until=until_at, query=Query(sort="user", limit=2)))
    report = ward.report()
    assert ("rows", 9, 3, True) == (report.name, report.token, report.total, report.last)
    assert ["/ann", "/max"] == [row["path"] for row in report.rows]
    assert {(1, ward.process.pid)} == {(row["slot"], row["pid"]) for row in report.rows}


def test_it_does_not_list_for_nobody(start: Start) -> None:
    """A worker that was busy drops the questions of those who have waited long enough."""
    ward = start(LOUD)
    ward.go()
    # without connections it is done before it lets anybody else have a turn
    ward.tell(Order("list", token=6, until=time.monotonic(), query=Query()))
    ward.tell(Order("list", token=7, until=time.monotonic() + DEADLINE_SECONDS, query=Query()))
    assert 7 == ward.report().token
    client = ward.open(text("block"))
    until(lambda: "blocked" in ward.journal())
    ward.tell(Order("list", token=8, until=time.monotonic(), query=Query()))
    ward.tell(Order("list", token=9, until=time.monotonic() + DEADLINE_SECONDS, query=Query()))
    ward.release("hold")
    assert 9 == ward.report().token
    assert (Opcode.TEXT, b"block") == client.receive()


# The seat


def test_a_full_worker_is_seen_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the next beat, so that its clients need not wait for long; and so is one that has room again."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 3600.0)
    ward = start(ECHO, worker_connections=1)
    ward.table.claim(2, WORKER + 1)
    ward.go()
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    assert (1, True) == (ward.reading().connections, ward.reading().full)
    waiting = ward.dial(head())
    client.send(closing(1000))
    assert 101 == waiting.status()
    assert client.receive()[0] is Opcode.CLOSE
    waiting.send(closing(1000))
    until(lambda: (ward.reading().connections, ward.reading().full) == (0, False))


def test_nobody_hangs_when_all_are_full(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom no other worker takes is told after a while; those who are in are served as ever."""
    monkeypatch.setattr(accept, "CROWD_SECONDS", 0.2)
    ward = start(ECHO, worker_connections=1)
    ward.table.claim(2, WORKER + 1)
    ward.go()
    client = ward.open()
    assert 503 == ward.dial(head()).status()
    client.send(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()


def test_whether_others_may_take_a_client_is_asked_each_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are added and taken away while this one lives: it waits for others only while there are some."""
    monkeypatch.setattr(accept, "CROWD_SECONDS", 3600.0)
    ward = start(ECHO, worker_connections=1, workers=1)
    ward.go()
    ward.open()
    assert 503 == ward.dial(head()).status()
    ward.table.claim(2, WORKER + 1)
    waiting = ward.dial(head())
    assert not select.select([waiting.socket], [], [], 0.3)[0]
    ward.table.fold(2, WORKER + 1)
    assert 503 == waiting.status()


def test_a_worker_without_descriptors_is_seen_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets go of no client, tells those who come, and takes them again as soon as it can."""
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.2)
    ward = start(HOARDS)
    ward.go()
    client = ward.open(text("take"))
    assert (Opcode.TEXT, b"take") == client.receive()
    refused = ward.dial(head())
    until(lambda: ward.reading().full)
    assert 503 == refused.status()
    client.send(text("give"))
    assert (Opcode.TEXT, b"give") == client.receive()
    until(lambda: not ward.reading().full)
    ward.open()
    until(lambda: ward.reading().counters.rejected == 1)
    assert 1 == ward.stderr().count("out of file descriptors")


DISABLING = """\
import logging.config

def disable():
    logging.config.dictConfig({"version": 1})

disable()

def on_worker_start(worker):
    logging.getLogger("wsworker.worker").info("heard after the import")
    disable()

def on_message(connection, data):
    connection.worker.log.info("heard again %s", data)
    disable()
    connection.send(data)
"""


def test_a_logging_config_of_user_code_does_not_silence_us(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It disables all loggers that it does not name; ours are heard again at the next step of the boot, or beat."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 0.01)
    ward = start(DISABLING)
    ward.go()
    client = ward.open()
    for number in range(2):
        client.send(text(str(number)))
        client.receive()
        beat_at = ward.reading().beat_at
        until(lambda: ward.reading().beat_at > beat_at)  # noqa: B023
    client.close()
    ward.leave("stop")
    assert (0, None) == ward.exit()
    said = ward.stderr()
    for line in ("heard after the import", "ready, pid", "heard again 0", "heard again 1", "left, pid"):
        assert line in said


def test_lost_log_lines_are_counted(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the next beat; a pipe that nobody empties neither blocks nor ends it."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 0.01)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    ward = start(
        "def on_message(connection, data):\n    for _ in range(3000):\n        connection.worker.log.info('x' * 1000)\n"
        "    connection.send(data)\n",
        log=LogConfig(file=str(pipe)),
    )
    ward.go()
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    until(lambda: ward.reading().counters.log_dropped > 0)
    os.close(reader)


def beside_bytes(counters: Counters) -> dict[str, int]:
    """Return what was counted at all but the bytes, which depend on the length of heads."""
    return {name: value for name, value in counters.plain().items() if value and not name.startswith("bytes_")}


def test_the_loop_beats(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seat is renewed with the time, the number of connections and whether there is room for more."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 0.01)
    before = time.monotonic()
    ward = start(ECHO, worker_connections=2)
    ward.go()
    seen = {ward.reading().beat_at}
    until(lambda: seen.add(ward.reading().beat_at) or len(seen) > 5)  # type: ignore[func-returns-value]
    assert before < max(seen) < time.monotonic()
    ward.open()
    until(lambda: ward.reading().connections == 1)
    assert not ward.reading().full
    ward.open(text("hello"))
    until(lambda: ward.reading().full)
    until(lambda: beside_bytes(ward.reading().counters) == {"accepted": 2, "messages_in": 1, "messages_out": 1})
    counters = ward.reading().counters
    assert (2, 1) == (sum(counters.handshakes.counts), sum(counters.sync_calls.counts))
    assert len(seen) <= sum(counters.lags.counts)
    # heads, frames, masks and all
    assert ward.reading().counters.bytes_in == 2 * len(head()) + len(text("hello"))
    assert 503 == ward.dial(head()).status()
    until(lambda: ward.reading().counters.rejected == 1)


def test_a_beat_is_there_before_the_app_is(start: Start) -> None:
    """The first one comes before anything of the user's runs, so that a slow import is no silence."""
    ward = start("block('import')\n" + ECHO)
    until(ward.journal)
    assert ward.reading().beat_at > 0
    ward.release("import")
    ward.ready()


def test_a_blocked_loop_does_not_beat(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another worker beats, it is silent; the first beat afterwards tells how late it comes."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 0.02)
    # the second block comes two turns of the loop later, just behind the beat that is overdue
    blocked = start(
        "def on_message(connection, data):\n"
        "    block('first')\n"
        "    loop = asyncio.get_running_loop()\n"
        "    loop.call_soon(loop.call_soon, loop.call_soon, block, 'second')\n"
    )
    healthy = start(ECHO)
    blocked.go()
    healthy.ready()
    blocked.open(text("block"))
    until(lambda: blocked.journal() == ["blocked"])
    silent_since = blocked.reading().beat_at
    beats: set[float] = set()
    until(lambda: beats.add(healthy.reading().beat_at) or len(beats) > 10)  # type: ignore[func-returns-value]
    assert silent_since == blocked.reading().beat_at
    blocked.release("first")
    until(lambda: blocked.journal() == ["blocked", "blocked"])
    assert blocked.reading().beat_at > silent_since
    assert blocked.reading().lag_seconds > 0.1
    assert healthy.reading().lag_seconds < blocked.reading().lag_seconds


def test_a_stall_between_two_beats_is_shown(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the beat behind it comes in time; the one after that knows of it no more."""
    monkeypatch.setattr(main, "BEAT_SECONDS", 0.5)
    ward = start("import time\ndef on_message(connection, data):\n    time.sleep(0.1)\n")
    ward.go()
    first = ward.reading().beat_at
    until(lambda: ward.reading().beat_at > first)
    ward.open(text("block"))
    until(lambda: ward.reading().lag_seconds >= 0.1)
    until(lambda: ward.reading().lag_seconds < 0.1)


def test_usr2_shows_the_stacks(start: Start) -> None:
    """The master can read them; also of a loop that is blocked, and it goes on afterwards."""
    ward = start("def on_message(connection, data):\n    block('here')\n    connection.send(data)\n")
    ward.go()
    client = ward.open(text("hello"))
    until(ward.journal)
    ward.signal(signal.SIGUSR2)
    until(lambda: " in run" in ward.last_words())
    assert f'File "{ward.folder}/chat.py", line 13 in block' in ward.last_words()
    assert " in on_message" in ward.last_words()
    assert "chat.py" not in ward.stderr()
    ward.release("here")
    assert (Opcode.TEXT, b"hello") == client.receive()


# The end


@pytest.mark.parametrize(
    ("why", "code", "reloads"),
    [
        ("reload", 1012, True),
        ("replace", 1012, False),
        ("scale", 1012, False),
        ("stop", 1001, False),
        ("quick", 1001, False),
    ],
)
def test_it_leaves_when_told(
    start: Start, why: DrainReason, code: int, reloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason has its code; on_worker_reload is for a reload, on_worker_stop comes last, the seat is up to date."""
    monkeypatch.setattr(accept, "QUIET_SECONDS", 0.05)
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    ward.leave(why)
    assert code == client.close_code()
    client.answer(code)
    assert (0, None) == ward.exit()
    assert [
        "start 7 1",
        f"connect node.{WORKER}.1",
        "message hello",
        *(["reload 1"] if reloads else []),
        f"close {code}",
        "stop 0",
    ] == ward.journal()
    expected = {"accepted": 1, "messages_in": 1, "messages_out": 1}
    assert (0, expected) == (ward.reading().connections, beside_bytes(ward.reading().counters))
    assert f": 1 connection closed with {code}, 0 cut" in ward.stderr()


def test_the_drain_can_be_hurried(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second order to be quick ends the wait for a client that does not answer."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    ward = start(EVERYTHING, graceful_timeout=60.0)
    ward.go()
    client = ward.open()
    ward.leave("stop")
    assert 1001 == client.close_code()
    ward.leave("stop")
    ward.leave("quick")
    assert (0, None) == ward.exit()
    assert ["close 1006", "stop 0"] == ward.journal()[-2:]
    assert ": 0 connections closed with 1001, 1 cut" in ward.stderr()


def test_on_close_comes_before_the_end_of_the_worker(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a client whose message is never done with: that callback is cancelled, and no error is told."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    wait = "async def on_message(connection, data):\n    note('began')\n    await asyncio.Event().wait()\n"
    ward = start(EVERYTHING + wait)
    ward.go()
    ward.open(text("a"))
    until(lambda: "began" in ward.journal())
    ward.leave("quick")
    assert (0, None) == ward.exit()
    assert ["began", "close 1006", "stop 0"] == ward.journal()[-3:]
    assert 0 == ward.reading().counters.errors


def test_a_quick_stop_interrupts_the_reload_callback(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it might still take, the clients have their goodbye at once."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    wait = "async def on_worker_reload(worker):\n    note('reload')\n    await asyncio.Event().wait()\n"
    ward = start(wait + ECHO, graceful_timeout=600.0)
    ward.go()
    client = ward.open()
    ward.leave("reload")
    until(lambda: "reload" in ward.journal())
    ward.leave("quick")
    assert 1012 == client.close_code()
    assert (0, None) == ward.exit()
    assert "was in the way of a quick stop and was cancelled" in ward.stderr()


def test_an_order_to_be_quick_is_never_lost(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it comes together with the first one, before the drain has begun."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    ward = start(EVERYTHING, graceful_timeout=60.0)
    ward.go()
    client = ward.open()
    ward.tell(Order("drain", "reload"), Order("drain", "quick"))
    assert 1012 == client.close_code()
    assert (0, None) == ward.exit()


def test_term_is_ignored_while_it_leaves(start: Start) -> None:
    """The master has said what it wants; whoever sends TERM then can have nothing more."""
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    ward.leave("stop")
    assert 1001 == client.close_code()
    ward.signal(signal.SIGTERM)
    client.answer(1001)
    assert (0, None) == ward.exit()
    assert b"" == ward.channel.recv(1)


def test_a_reload_leaves_the_queue_to_the_next(start: Start) -> None:
    """Who waits there is neither accepted nor reset: the new worker has the same listener."""
    ward = start(ECHO)
    ward.ready()
    ward.dial(head())
    ward.leave("reload")
    assert (0, None) == ward.exit()
    assert 1 == ward.waiting()


def test_a_stop_answers_the_queue(start: Start) -> None:
    """Nobody else will: who waits gets 503, even if there is no other client to wait for."""
    ward = start(ECHO)
    ward.ready()
    asking, silent = ward.dial(head()), ward.dial()
    ward.leave("stop")
    assert [503, 503] == [asking.status(), silent.status()]
    asking.close()
    silent.close()
    assert (0, None) == ward.exit()
    assert (0, 2) == (ward.waiting(), ward.reading().counters.rejected)


@pytest.mark.parametrize("callback", ["on_worker_reload", "on_worker_stop"])
def test_a_callback_that_raises_does_not_keep_it(start: Start, callback: str) -> None:
    """It is logged and counted, and the worker leaves all the same."""
    ward = start(f"async def {callback}(worker):\n    raise OSError('too late')\n{ECHO}")
    ward.go()
    client = ward.open()
    ward.leave("reload")
    assert 1012 == client.close_code()
    client.close()
    assert (0, None) == ward.exit()
    assert 1 == ward.reading().counters.errors
    assert f"{callback} raised OSError" in ward.stderr()


def test_a_reload_callback_that_never_returns_does_not_keep_the_goodbye(start: Start) -> None:
    """It has half of graceful_timeout; then the clients are told all the same."""
    ward = start(f"async def on_worker_reload(worker):\n    await asyncio.Event().wait()\n{ECHO}", graceful_timeout=1.0)
    ward.go()
    client = ward.open()
    ward.leave("reload")
    assert 1012 == client.close_code()
    client.close()
    assert (0, None) == ward.exit()
    assert "on_worker_reload (" in ward.stderr()
    assert "took longer than 0.5 s" in ward.stderr()


def test_tasks_of_the_user_are_cancelled(start: Start) -> None:
    """What user code has left running may clean up, after on_worker_stop; timers do not fire any more by then."""
    ward = start(
        "async def forever():\n"
        "    try:\n"
        "        await asyncio.Event().wait()\n"
        "    finally:\n"
        "        note('cleaned up')\n"
        "def on_worker_start(worker):\n"
        "    worker.task = asyncio.get_running_loop().create_task(forever())\n"
        "    worker.every(0.001, lambda: (FOLDER / 'ticks').touch())\n"
        "async def on_worker_stop(worker):\n"
        "    (FOLDER / 'ticks').unlink(missing_ok=True)\n"
        "    await asyncio.sleep(0.05)\n"
        "    note('stop', (FOLDER / 'ticks').exists())\n"
    )
    ward.go()
    until((ward.folder / "ticks").exists)
    ward.leave("stop")
    assert (0, None) == ward.exit()
    assert ["stop False", "cleaned up"] == ward.journal()


# The loop

ALONE = """\
import os, socket, sys
from wsworker.assignment import Assignment
from wsworker.config import Config
from wsworker.stats import Table
from wsworker.wire import Order, encode
from wsworker.worker.main import run

ours, theirs = socket.socketpair()
ours.sendall(encode(Order("drain", "stop")))
config = Config(app="chat", app_dir=sys.argv[1], loop=sys.argv[2])
seat = Table(1).claim(1, 1)
code = run(Assignment(config, 1, 1, 1, "n", [], [], theirs, seat, lambda: False, os.memfd_create("words"), None))
print(code, "uvloop" in sys.modules)
"""


@pytest.mark.parametrize(("loop", "loaded"), [("asyncio", False), ("uvloop", True), ("auto", True)])
def test_uvloop_is_loaded_when_it_is_used(tmp_path: Path, loop: str, loaded: bool) -> None:
    """Auto is uvloop; with asyncio it never comes into the process."""
    (tmp_path / "chat.py").write_text(ECHO)
    command = [sys.executable, "-W", "error", "-c", ALONE, str(tmp_path), loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * DEADLINE_SECONDS, check=False)
    # what is printed in a worker is a line of its log
    assert done.stdout.endswith(f" INFO  worker 1  0 {loaded}\n"), done.stderr
