"""A worker's place among the others: its greeting, what is checked of others', and the way to their sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsworker.bus.mesh.berth import Berth, socket_name
from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.records import Hello
from wsworker.errors import WireError

SECRET = b"0123456789abcdef"


def make(folder: Path) -> Berth:
    """Return the berth of worker 7 in slot 2."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    return Berth(Member(7, 2, Standing.STARTING), "node", SECRET, listener, descriptor, {0}, list)


@pytest.fixture
def berth(tmp_path: Path) -> Iterator[Berth]:
    """A berth, and its end."""
    made = make(tmp_path)
    yield made
    made.let_go()


def test_the_greeting(berth: Berth) -> None:
    """It says who it is, and is right in the eyes of others of this run."""
    hello = berth.hello(999)
    assert Hello(SECRET, 7, 2, 999, "node") == hello
    berth.check(hello)


def test_the_secret_is_shown_nowhere(berth: Berth) -> None:
    """A log or a traceback may have either of them in it."""
    shown = repr(berth) + repr(berth.hello(999)) + str(berth.hello(999))
    assert "worker=7" in shown
    assert "<Hello of worker 7 in slot 2 of node>" in shown
    assert repr(SECRET) not in shown


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"version": 2}, "it speaks version 2 of the bus and not 1"),
        ({"secret": bytes(16)}, "it does not know the secret"),
        ({"node": "other"}, "it belongs to another run of the service"),
    ],
)
def test_greetings_that_are_not_right(berth: Berth, wrong: dict[str, object], why: str) -> None:
    """Each says what is wrong with it."""
    with pytest.raises(WireError) as caught:
        berth.check(berth.hello(999)._replace(**wrong))  # type: ignore[arg-type]
    assert why == caught.value.reason


def test_the_way_to_a_socket(berth: Berth, tmp_path: Path) -> None:
    """Through the folder's descriptor, however long its path is."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(berth.address(3))
        listener.listen()
        assert (tmp_path / socket_name(3)).is_socket()
        client.connect(berth.address(3))


def test_it_is_let_go(tmp_path: Path) -> None:
    """In a copy of the worker; what is closed already is no error."""
    berth = make(tmp_path)
    os.close(berth.folder)
    berth.let_go()
    assert -1 == berth.listener.fileno()
