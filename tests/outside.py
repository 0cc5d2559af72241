"""Workers as programs outside see them: sockets that take what is published, and a master that says where they are."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Answering, Place, Script
from wsworker import client
from wsworker.bus import records
from wsworker.bus.records import EXTRA_BYTES, Hello, Reader, Record, Type
from wsworker.bus.topics import Envelope
from wsworker.wire import Command

SECRET = b"0123456789abcdef"
NODE = "node-1"


class FakeWorker:
    """A worker's side of the links.

    most: the longest message that it takes. deaf: it accepts nothing; stuck: it reads no more than what comes first;
    dies: it ends when something is published; leaves: on so many links it hears nothing more behind the greeting, as if
    it had just begun to drain.
    links: so many programs came; heard: every record of theirs.
    """

    def __init__(self, path: Path, secret: bytes = SECRET) -> None:
        self.path = path
        self.secret = secret
        self.most = 100
        self.deaf = False
        self.stuck = False
        self.dies = False
        self.leaves = 0
        self.links = 0
        self.heard: list[Record] = []
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def goodbye(self) -> None:
        """Leave, as a worker that drains."""
        for connection in self._connections:
            connection.sendall(records.encode(Type.GOODBYE))

    def close(self) -> None:
        """End it all."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.links += 1
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        reader, count = Reader(2**21), 0
        try:
            while data := connection.recv(65536):
                if self.stuck:
                    return
                for record in reader.feed(data):
                    self.heard.append(record)
                    count += record.type == Type.MESSAGE
                    if record.type == Type.HELLO:
                        if self.leaves:
                            self.leaves -= 1
                            connection.shutdown(socket.SHUT_RD)
                        hello = Hello(self.secret, 7, 1, self.most + EXTRA_BYTES, NODE)
                        connection.sendall(records.encode_hello(hello))
                    elif self.dies:
                        connection.shutdown(socket.SHUT_RDWR)
                    elif not self.deaf:
                        connection.sendall(records.encode_accepted(count))
        except OSError:
            pass
        connection.close()

    @property
    def messages(self) -> list[Envelope]:
        """What was published."""
        return [record.envelope for record in self.heard if record.type == Type.MESSAGE]


class Service:
    """A master that answers, and workers that tests add. address: what it answers."""

    def __init__(self, folder: Path, place: Place, master: Answering, address: dict[str, Any]) -> None:
        self.control_socket = place.paths.socket
        self.workers: list[FakeWorker] = []
        self.address = address
        self._folder = folder
        self._master = master

    @property
    def asked(self) -> int:
        """How often the master was asked where its workers are."""
        return self._master.heard.count(Command("bus"))

    def worker(self, **facts: Any) -> FakeWorker:
        """Return a new worker, which is ready."""
        made = FakeWorker(self._folder / f"{len(self.workers) + 1}.sock", **facts)
        self.workers.append(made)
        self.address["sockets"].append(str(made.path))
        return made

    def leave(self, worker: FakeWorker) -> None:
        """Have a worker leave, as one that drains."""
        self.address["sockets"].remove(str(worker.path))
        worker.goodbye()

    def publish(self, data: client.Data, topic: str = "news") -> None:
        """Publish to it."""
        client.publish(topic, data, control_socket=self.control_socket)


@pytest.fixture
def service(place: Place, running: Callable[[Script], Answering]) -> Iterator[Service]:
    """A service without workers; links that were kept are closed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ws"))
    address: dict[str, Any] = {"node": NODE, "secret": SECRET.hex(), "sockets": []}
    made = Service(folder, place, running({"bus": [{"event": "of a later version"}, address]}), address)
    yield made
    forget_links()
    for worker in made.workers:
        worker.close()
    shutil.rmtree(folder)


def forget_links() -> None:
    """Close what the client has kept."""
    for road in client._roads.values():
        if road.worker is not None:
            road.worker.close()
    client._roads.clear()
