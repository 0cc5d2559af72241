"""A worker in a process of its own, as its master sees it, with apps for it and clients on its port."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from websockets.frames import Opcode

from tests.worker.service import DEADLINE_SECONDS, closing, head
from wsworker.assignment import Assignment
from wsworker.bus.mesh.berth import Berth
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.master.process import identity, spawn
from wsworker.stats import Reading, Table
from wsworker.wire import DrainReason, Lines, Order, Report, decode_report, encode
from wsworker.worker import main

WORKER = 7

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
    """A worker as its master sees it. folder: where its app, its journal and its stderr are; watched: as of run().

    berth: its place among other workers, if it has any.
    """

    def __init__(
        self,
        folder: Path,
        app: str,
        watched: str = "",
        slot: int = 1,
        generation: int = 1,
        berth: Berth | None = None,
        **settings: Any,
    ) -> None:
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
        seat = self.table.claim(slot, WORKER)
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
                    slot=slot,
                    generation=generation,
                    node="node",
                    sockets=[self.listener],
                    shared=[],
                    channel=theirs,
                    seat=seat,
                    others=lambda: self.table.others(slot),
                    words=self.words,
                    tls=None,
                    berth=berth,
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


def beside_bytes(counters: Counters) -> dict[str, int]:
    """Return what was counted at all but the bytes, which depend on the length of heads.

    Nor whether a callback was slow, which depends on the machine: it may have to wait for the disk or for a processor.
    """
    counted = {name: value for name, value in counters.plain().items() if value and not name.startswith("bytes_")}
    counted.pop("slow_callbacks", None)
    return counted
