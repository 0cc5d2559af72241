"""What the tests of the fault matrix share: an app that does harm when told to, a gate, a pause, and systemd.

Each test of this folder is named after its row of the matrix: test_row_05_... is about row 5, and its docstring says in
plain words what is promised there. The exact times of the matrix are held by the tests of the files that decide, such
as tests/master/test_health.py, where time is passed in. Here the machine is real and may be busy: what the master does
about a silent worker must stand in the log not earlier than promised, and not much later (check_times); whatever is
promised within a time may need NOISE_SECONDS more. Other waits say nothing about how long something may take.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import psutil
from websockets.sync.client import ClientConnection

from tests.frames import TEXT
from tests.system.clients import UPGRADE, await_upgrade, frame, raw
from tests.system.daemon import PACKAGE, WHO, Daemon, eventually

Row: TypeAlias = Mapping[str, Any]
Status: TypeAlias = Mapping[str, Any]

UNIT_FILE: Final = PACKAGE.parent / "systemd" / "wsworker.service"

NOISE_SECONDS: Final = 12.0
"""A busy machine may need so much longer for what is promised within a time."""
MOST_LATE_SECONDS: Final = 5.0
"""So much later may a line of the log be than it is promised."""
CLOCKS_SECONDS: Final = 0.05
"""The log cuts its times to milliseconds, and its clock need not run exactly like the monotonic one."""

ORDERS: Final = """
import asyncio
import ctypes
import os
import re
import signal
import sys

hoard = []

def segv():
    ctypes.string_at(0)

def abort():
    os.abort()

def leave():
    sys.exit(3)

def stop_the_loop():
    asyncio.get_running_loop().stop()

def spin():
    print("blocked", flush=True)
    while True:
        pass

def spin_and_block_abort():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})
    spin()

def match():
    print("blocked", flush=True)
    re.match(r"(a+)+$", "a" * 64 + "b")

def grow(mib):
    hoard.append(b"x" * (int(mib) << 20))

def on_message(connection, data):
    name, *arguments = data.split()
    if name in globals():
        globals()[name](*arguments)
    connection.send(f"{os.getpid()} {data}")
"""
"""Answers like WHO. A message that names one of its functions calls it; `match` holds the GIL in C."""

GATED: Final = """
import asyncio

async def pass_gate():
    while os.path.exists("gate"):
        await asyncio.sleep(0.01)
"""
"""Goes behind WHO: what awaits pass_gate() waits until the gate is opened."""

STARTS_AT_THE_GATE: Final = f"{WHO}{GATED}\nasync def on_worker_start(worker):\n    await pass_gate()\n"
"""No worker gets ready while the gate is closed."""


class Gate:
    """A file that user code waits for; open at first."""

    def __init__(self, daemon: Daemon) -> None:
        self._file = daemon.folder / "gate"

    def close(self) -> None:
        """Let everybody wait who comes to it."""
        self._file.touch()

    def open(self) -> None:
        """Let everybody pass."""
        self._file.unlink()


# Facts of a status document


def slot(status: Status, number: int) -> Row:
    """Return the newest row of a slot: the one of its replacement while the old worker drains."""
    row: Row = [row for row in status["workers"] if row["slot"] == number][-1]
    return row


def replaced(number: int, old_pid: int) -> Callable[[Status], bool]:
    """Return a fact for wait_status: the slot has another worker than this one, and it is ready."""

    def fact(status: Status) -> bool:
        row = slot(status, number)
        return bool(row["state"] == "ready" and row["pid"] != old_pid)

    return fact


def weights(status: Status) -> list[int]:
    """Return the weight of each slot."""
    return [slot(status, number)["weight"] for number in range(1, status["workers_configured"] + 1)]


def waiting_at(daemon: Daemon, number: int) -> int:
    """Return how many clients wait in the queue of a slot right now."""
    return int(slot(daemon.status(), number)["queue"])


def starting(status: Status) -> int:
    """Return how many workers boot at this moment."""
    return sum(row["state"] == "starting" for row in status["workers"])


# Times


def logged_at(daemon: Daemon, text: str) -> float:
    """Return when the first line with a text was logged, in seconds since the epoch."""
    line = next(line for line in daemon.log.splitlines() if text in line)
    return datetime.fromisoformat(line.split()[0]).timestamp()


def last_beat(daemon: Daemon, worker: int) -> float:
    """Return when a worker last gave a sign of life, in seconds since the epoch.

    worker: its id. The log must be at level debug, where the master tells what it reads.
    """
    beats = re.findall(rf"\b{worker}: Reading\(beat_at=([\d.]+)", daemon.log)
    return float(beats[-1]) + time.time() - time.monotonic()


def check_times(daemon: Daemon, since: float, promised: Mapping[str, float]) -> None:
    """Fail unless each of these lines was logged when it is promised: not earlier, and not much later.

    since: in seconds since the epoch; promised: from a text in the line to seconds after that.
    """
    seconds = {text: logged_at(daemon, text) - since for text in promised}
    for text, promise in promised.items():
        assert promise - CLOCKS_SECONDS < seconds[text] < promise + MOST_LATE_SECONDS, seconds


# Clients


def clients_of(daemon: Daemon, stack: ExitStack, *pids: int, each: int = 3) -> list[ClientConnection]:
    """Return some clients of each of these workers, which live as long as the stack."""
    return [stack.enter_context(daemon.connect_to(pid)) for pid in pids for _ in range(each)]


def check_untouched(clients: Sequence[ClientConnection]) -> None:
    """Fail unless every client is still served, and by the worker that it had."""
    for number, client in enumerate(clients):
        client.send(f"untouched {number}")
        assert str(client.recv(10)).endswith(f" untouched {number}")


def begin_handshakes(daemon: Daemon, stack: ExitStack, number: int = 20) -> list[socket.socket]:
    """Return connections on which the handshake is asked for, and that nobody may have accepted yet."""
    begun = [stack.enter_context(raw(daemon)) for _ in range(number)]
    for sock in begun:
        sock.sendall(UPGRADE)
    return begun


def end_handshake(sock: socket.socket) -> int:
    """Wait until such a connection is open, and return the pid of the worker that serves it."""
    await_upgrade(sock)
    sock.sendall(frame(TEXT, b"who"))
    header = sock.recv(2, socket.MSG_WAITALL)
    return int(sock.recv(header[1], socket.MSG_WAITALL).split()[0])


def stand_still(pid: int) -> None:
    """Stop a process, and return once it does nothing any more."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, f"process {pid} stands still")


def check_avoided(daemon: Daemon, stack: ExitStack, number: int, other: int) -> None:
    """Fail if one of 20 new clients goes to a slot that should get none; nobody may wait there before.

    other: the pid of the one worker that accepts. It stands still meanwhile, as it has borrowed the slot's listeners
    and would serve who comes there at once; and for less than the three seconds after which it would be thought hung.
    """
    stand_still(other)
    try:
        new = begin_handshakes(daemon, stack)
        gone_astray = waiting_at(daemon, number)
    finally:
        os.kill(other, signal.SIGCONT)
    assert 0 == gone_astray, f"{gone_astray} of 20 wait where nobody is"
    assert {other} == {end_handshake(sock) for sock in new}


def listeners_of(daemon: Daemon, pid: int) -> int:
    """Return how many of the sockets that listen at the service's port a process has open: one for each slot."""
    sockets = psutil.Process(pid).net_connections("tcp")
    return sum(one.status == psutil.CONN_LISTEN and one.laddr.port == daemon.port for one in sockets)


def knock(daemon: Daemon) -> int:
    """Try to connect; return the number of the error, 0 if the port listens."""
    with socket.socket() as sock:
        sock.settimeout(10)
        return sock.connect_ex(("127.0.0.1", daemon.port))


def pid_of(answer: str | bytes) -> int:
    """Return the pid in an answer of WHO."""
    return int(answer.split()[0])


# Other ways to start a daemon


class Wrapped(Daemon):
    """A daemon that another program starts: it does something and then executes what follows it, with the same pid."""

    def __init__(self, wrapper: Sequence[str], app: str, **settings: object) -> None:
        super().__init__(app, **settings)
        self._wrapper = wrapper

    def _command(self, command: str, *arguments: str) -> Sequence[str]:
        plain = super()._command(command, *arguments)
        return [*self._wrapper, *plain] if command == "start" else plain


def store_max() -> int:
    """Return how many descriptors systemd keeps for the unit that comes with wsworker."""
    key = re.search(r"^FileDescriptorStoreMax=(\d+)$", UNIT_FILE.read_text(), re.MULTILINE)
    # the default
    return int(key[1]) if key else 0


class Systemd:
    """What systemd is to a service: it hears its notifications and keeps the descriptors that it is given.

    said: all datagrams but those of the watchdog, in their order; kept: name to descriptor, in the order they came. It
    keeps no more than FileDescriptorStoreMax= of our own unit allows; systemd.service(5).
    A thread reads, as the queue of the socket is short and who finds it full does not wait. sd_notify(3).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[dict[str, str]] = []
        self.kept: dict[str, int] = {}
        self._store_max = store_max()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._hear)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for descriptor in self.kept.values():
            os.close(descriptor)

    def wait_for(self, name: str, times: int = 1) -> dict[str, str]:
        """Return the nth datagram that assigns a name, once it has come."""

        def found() -> list[dict[str, str]]:
            datagrams = [datagram for datagram in self.said if name in datagram]
            return datagrams[times - 1 :]

        return eventually(found, f"{name} from the service")[0]

    def states(self) -> list[str]:
        """Return what the service has said of its state so far: READY, RELOADING and STOPPING, in their order."""
        names = ("READY", "RELOADING", "STOPPING")
        return [name for datagram in [*self.said] for name in names if name in datagram]

    def _hear(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 16)
            if not data:
                return
            datagram = dict(line.split("=", 1) for line in data.decode().split("\n") if line)
            name = datagram.get("FDNAME", "")
            if "FDSTORE" in datagram:
                assert 1 == len(descriptors), "a name for each descriptor"
                if len(self.kept) < self._store_max:
                    self.kept[name] = descriptors[0]
                else:
                    os.close(descriptors[0])
            elif "FDSTOREREMOVE" in datagram:
                os.close(self.kept.pop(name))
            if "WATCHDOG" not in datagram:
                self.said.append(datagram)


HAND_OVER: Final = """
import os, sys
descriptors, command = sys.argv[1].split(","), sys.argv[2:]
for number, descriptor in enumerate(descriptors, 3):
    os.dup2(int(descriptor), number)
    os.close(int(descriptor))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""
FIRST_SPARE: Final = 500
"""Descriptors from here on are in nobody's way when others become 3, 4 and so on."""


class Unit(Daemon):
    """A daemon that systemd runs: it gets back what systemd keeps for it, as in sd_listen_fds(3)."""

    def __init__(self, systemd: Systemd, app: str, **settings: object) -> None:
        super().__init__(app, **settings)
        self.environ["NOTIFY_SOCKET"] = str(systemd.path)
        self._systemd = systemd

    def launch(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start it as Daemon does, with the descriptors as 3, 4 and so on."""
        kept = {**self._systemd.kept}
        spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, FIRST_SPARE) for descriptor in kept.values()]
        command, environ = [*self._command("start", *flags)], self.environ
        if kept:
            command = [sys.executable, "-c", HAND_OVER, ",".join(map(str, spare)), *command]
            environ = environ | {"LISTEN_FDS": str(len(kept)), "LISTEN_FDNAMES": ":".join(kept)}
        with (self.folder / "stdout.txt").open("ab") as out, (self.folder / "stderr.txt").open("ab") as err:
            self._started = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                pass_fds=spare,
            )
        for descriptor in spare:
            os.close(descriptor)
        self._sessions.append(self._started.pid)
        return self._started
