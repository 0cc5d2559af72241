"""Who has an address: real listeners of this process and of others."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.master.forks import Child, Pipe, become_nobody, in_child, needs_root, stay
from wsworker.config import ListenAddress
from wsworker.occupant import occupant

US = "this service itself"


@pytest.fixture
def listening() -> Iterator[Callable[..., socket.socket]]:
    """Make listeners that are closed after the test."""
    sockets: list[socket.socket] = []

    def listen(address: tuple[str, int] | str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sockets.append(sock)
        sock.bind(address)
        sock.listen()
        return sock

    yield listen
    for sock in sockets:
        sock.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Give a pipe from a process of the test to the test."""
    made = Pipe()
    yield made
    made.close()


def test_nobody(tmp_path: Path) -> None:
    """A free address has no occupant."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert occupant(ListenAddress("127.0.0.1", port)) == ""
    assert occupant(ListenAddress("", 0, str(tmp_path / "free.ws"))) == ""


def test_this_process(listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    """Two addresses of one service may be in each other's way; a wildcard has the port of every address."""
    one = listening(("127.0.0.1", 0)).getsockname()[1]
    every = listening(("0.0.0.0", 0)).getsockname()[1]
    path = str(tmp_path / "taken.ws")
    listening(path)
    assert [US] * 5 == [
        occupant(ListenAddress("127.0.0.1", one)),
        occupant(ListenAddress("0.0.0.0", one)),
        occupant(ListenAddress("::", one)),
        occupant(ListenAddress("127.0.0.1", every)),
        occupant(ListenAddress("", 0, path)),
    ]
    assert occupant(ListenAddress("127.0.0.2", one)) == ""


def test_a_connection_does_not_occupy(listening: Callable[..., socket.socket]) -> None:
    """Its local port is one that others may listen on."""
    address = listening(("127.0.0.1", 0)).getsockname()
    with socket.create_connection(address) as client:
        assert occupant(ListenAddress("127.0.0.1", client.getsockname()[1])) == ""


def test_the_master_among_the_holders_is_named(pipe: Pipe) -> None:
    """A listener that a service shares with its workers belongs to all of them; the first one is the one to stop."""

    def serve() -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        if os.fork() == 0:
            pipe.tell(sock.getsockname()[1])
        stay()

    with Child(serve) as master:
        port = pipe.hear()
        process = psutil.Process(master.pid)
        (worker,) = process.children()
        try:
            assert occupant(ListenAddress("127.0.0.1", port)) == f"pid {master.pid} ({process.name()})"
        finally:
            worker.kill()


@needs_root
def test_what_we_may_not_see(listening: Callable[..., socket.socket]) -> None:
    """Without the right to look at the occupant's process there is no name, and no error."""
    sock = listening(("127.0.0.1", 0))
    port = sock.getsockname()[1]

    def ask() -> str:
        sock.close()
        become_nobody()
        return occupant(ListenAddress("127.0.0.1", port))

    assert in_child(ask) == ""
