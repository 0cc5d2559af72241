"""A server that does what a test says: for what no real broker would do on demand."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self, TypeAlias

import pytest

from wsworker.remote import road

DEADLINE_SECONDS = 20.0
HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Close what was kept, at the end of a test."""
    yield
    for made in road._roads.values():
        made.close()
    road._roads.clear()


def soon(seconds: float = 10.0) -> float:
    """Return when so many seconds have passed, on CLOCK_MONOTONIC."""
    return time.monotonic() + seconds


class Talk:
    """One connection that was made to a Peer; what a test does with it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._unread = b""

    def hear(self, end: bytes = b"\r\n") -> bytes:
        """Read up to and with an end; b"" if the stream ends first."""
        while end not in self._unread:
            data = self.connection.recv(65536)
            if not data:
                return b""
            self._unread += data
        heard, end, self._unread = self._unread.partition(end)
        return heard + end

    def say(self, data: bytes) -> None:
        self.connection.sendall(data)


Script: TypeAlias = Callable[[Talk], None]


class Peer:
    """A server that goes through a script for each connection, one after the other, and closes it then.

    scripts: the last one stands for all later connections. talks: so many connections were made.
    """

    def __init__(self, *scripts: Script, context: ssl.SSLContext | None = None) -> None:
        self.talks = 0
        self._scripts = scripts
        self._context = context
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; nobody listens any more."""
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.talks, len(self._scripts) - 1)]
            self.talks += 1
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._talk, args=(connection, script)))
            self._threads[-1].start()

    def _talk(self, connection: socket.socket, script: Script) -> None:
        # a client that goes is the end of any script
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            script(Talk(connection))
        with contextlib.suppress(OSError):
            connection.close()


def until(fact: Callable[[], object]) -> None:
    """Wait for a fact; fails at the deadline."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not fact():
        assert time.monotonic() < give_up_at, "it did not become true"
        time.sleep(0.005)
