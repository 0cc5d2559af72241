"""Workers of one machine in one process: a folder with sockets, a table of who lives, and a mesh for each.

What the master does in a service is done here by the test: it says who is READY and who drains.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.bus.contract import DEADLINE_SECONDS, Sink, Station
from wsworker.bus.mesh.adapter import Mesh
from wsworker.bus.mesh.berth import Berth, socket_name
from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.records import Hello, Reader, Record, encode_key, encode_snapshot
from wsworker.bus.topics import Key

SECRET = b"0123456789abcdef"
NODE = "node-1"
RIGHT = Hello(SECRET, 0, 0, 10**6, NODE)
"""What a program outside says."""

MAX_MESSAGE = 2**20
PEER_QUEUE = 2**23


def snapshot(*keys: Key) -> bytes:
    """Return the records of one who wants these keys."""
    return b"".join(encode_snapshot(map(encode_key, keys)))


class Harbor:
    """Where they meet. members: who lives; you may change it, and the meshes see it within a moment."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ws"))
        self.folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.members: dict[int, Member] = {}
        self.listeners: dict[int, socket.socket] = {}
        self.meshes: dict[int, Mesh] = {}

    def listener(self, slot: int) -> socket.socket:
        """Return the listener of a slot, made at the first call."""
        if slot not in self.listeners:
            made = socket.socket(socket.AF_UNIX)
            made.setblocking(False)
            made.bind(str(self.path / socket_name(slot)))
            made.listen(100)
            self.listeners[slot] = made
        return self.listeners[slot]

    def mesh(self, worker: int, slot: int = 0, **changes: Any) -> Mesh:
        """Return the mesh of a new worker that starts; changes: of the berth or the settings."""
        slot = slot or worker
        self.members[worker] = Member(worker, slot, Standing.STARTING)
        settings = {"max_message": MAX_MESSAGE, "peer_queue": PEER_QUEUE}
        settings |= {name: changes.pop(name) for name in [*settings] if name in changes}
        facts: dict[str, Any] = {
            "me": self.members[worker],
            "node": NODE,
            "secret": SECRET,
            # a worker has a copy of its own
            "listener": changes.pop("listener", None) or self.listener(slot).dup(),
            "folder": self.folder,
            "uids": {os.geteuid()},
            "members": lambda: [*self.members.values()],
        }
        berth = Berth(**(facts | changes))
        mesh = Mesh(asyncio.get_running_loop(), berth, draw=lambda: 0.5, **settings)
        self.meshes[worker] = mesh
        return mesh

    def stand(self, worker: int, standing: Standing) -> None:
        """Say where a worker stands, in the table and to itself."""
        self.members[worker] = self.members[worker]._replace(standing=standing)
        if standing == Standing.READY:
            self.meshes[worker].go()
        else:
            self.meshes[worker].drain()

    async def boot(self, worker: int, slot: int = 0, **changes: Any) -> Station:
        """Return a worker that is READY and linked with all others that are."""
        station = Station(self.mesh(worker, slot, **changes), Sink())
        await station.bus.start(station.sink)
        assert "" == await self.meshes[worker].linked(5)
        self.stand(worker, Standing.READY)
        return station

    def kill(self, worker: int) -> None:
        """End a worker as SIGKILL does; the table shows it as the master would."""
        mesh = self.meshes.pop(worker)
        mesh._sink = None
        mesh._ties.close()
        if mesh._gate and mesh._prober:
            mesh._gate.shut()
            mesh._prober.cancel()
        for link in mesh.links:
            link.close()
        mesh._berth.listener.close()

    def bury(self, worker: int) -> None:
        """Take a dead worker out of the table."""
        del self.members[worker]

    async def close(self) -> None:
        """End all that lives."""
        for worker in [*self.meshes]:
            await self.end(worker)
        for listener in self.listeners.values():
            listener.close()
        os.close(self.folder)
        shutil.rmtree(self.path)

    async def end(self, worker: int) -> None:
        """End a worker in good order."""
        mesh = self.meshes.pop(worker)
        await mesh.close(5)
        mesh._berth.listener.close()
        self.members.pop(worker, None)


@asynccontextmanager
async def harbor() -> AsyncIterator[Harbor]:
    """Give a harbor, and close it."""
    made = Harbor()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def circle(count: int) -> AsyncIterator[Sequence[Station]]:
    """Some workers that are READY and linked."""
    async with harbor() as made:
        yield [await made.boot(number) for number in range(1, count + 1)]


class Stranger:
    """Whoever connects to a slot; or, if it accepts, whoever answers the first that has dialled there."""

    def __init__(self, made: Harbor, slot: int = 1, accepts: bool = False) -> None:
        if accepts:
            self.socket, _ = made.listener(slot).accept()
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(made.path / socket_name(slot)))
        self.socket.setblocking(False)
        self.records: list[Record] = []
        self._reader = Reader(10**6)

    def say(self, *parts: bytes) -> None:
        """Send something."""
        self.socket.send(b"".join(parts))

    async def until_out(self) -> None:
        """Wait until the other side has closed."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                while data := await loop.sock_recv(self.socket, 65536):
                    self.records += self._reader.feed(data)
            except ConnectionResetError:
                pass
        self.socket.close()

    async def hear(self, count: int) -> list[Record]:
        """Return the first records that come."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.records) < count:
                self.records += self._reader.feed(await loop.sock_recv(self.socket, 65536))
        return self.records
