"""The reserve: a client is told to go by a process that has no descriptor left."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.master.forks import in_child
from tests.worker.service import DEADLINE_SECONDS, head
from wsworker.worker.reserve import Reserve


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listener on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def dial(listener: socket.socket, *data: bytes) -> socket.socket:
    """Connect a client; once this returns it stands in the queue."""
    client = socket.create_connection(listener.getsockname(), DEADLINE_SECONDS)
    client.sendall(b"".join(data))
    return client


def rest(client: socket.socket) -> str:
    """Return all that comes until the end."""
    with client:
        return client.makefile().read()


def short(body: Callable[[Reserve], Any], spare: int = 0, mute: bool = False) -> Any:
    """Run body in a child with a reserve and no other descriptor but so many; return what it returns."""

    def child() -> Any:
        reserve = Reserve(mute)
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, highest + 20))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        for fd in taken[:spare]:
            os.close(fd)
        return body(reserve)

    return in_child(child)


def test_it_is_given_up_and_taken_back() -> None:
    """As often as one likes, and only where it was."""

    def body(reserve: Reserve) -> list[bool]:
        found = [reserve.give_up(), reserve.give_up()]
        lost = os.dup(0)
        reserve.take_back()
        found.append(reserve.give_up())
        os.close(lost)
        reserve.take_back()
        reserve.take_back()
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        return [*found, reserve.give_up()]

    assert [True, False, False, True] == short(body)


@pytest.mark.parametrize("sent", [b"", head()], ids=["silent", "asking"])
def test_a_client_is_told_to_come_again(listener: socket.socket, sent: bytes) -> None:
    """In a whole response with nothing behind it, and not all at the same time; then nobody is there any more."""
    clients = [dial(listener, sent) for _ in range(6)]
    assert [True] * 6 + [False] == short(lambda reserve: [reserve.turn_away(listener) for _ in range(7)])
    answers = [rest(client) for client in clients]
    for answer in answers:
        start, _, body = answer.partition("\n\n")
        assert "HTTP/1.1 503 Service Unavailable" == start.splitlines()[0]
        assert {"Connection: close", f"Content-Length: {len(body)}"} <= set(start.splitlines())
    lines = [next(line for line in answer.splitlines() if line.startswith("Retry-After")) for answer in answers]
    assert [f"Retry-After: {seconds}" for seconds in (1, 2, 3, 4, 5, 1)] == lines


def test_a_client_that_expects_tls_is_told_nothing(listener: socket.socket) -> None:
    """It is closed all the same: plain text is none of what it could read."""
    client = dial(listener)
    assert short(lambda reserve: reserve.turn_away(listener), mute=True)
    assert "" == rest(client)


def test_a_client_that_has_left_is_no_fault(listener: socket.socket) -> None:
    """It is gone when it is told."""
    dial(listener).close()
    assert short(lambda reserve: reserve.turn_away(listener))


def test_it_knows_whether_there_is_another_descriptor() -> None:
    """The reserve itself does not count."""
    assert not short(lambda reserve: reserve.has_company())
    assert short(lambda reserve: reserve.has_company(), spare=1)


def test_a_reserve_that_was_lost_is_taken_back(listener: socket.socket) -> None:
    """Somebody else took the descriptor meanwhile: nobody is turned away then, until there is one again."""

    def body(reserve: Reserve) -> list[bool]:
        class Thief(socket.socket):
            def accept(self) -> tuple[socket.socket, Any]:
                stolen.append(os.dup(0))
                return super().accept()

        stolen: list[int] = []
        thief = Thief(fileno=listener.detach())
        seen = [reserve.turn_away(thief)]
        again = socket.socket(fileno=thief.detach())
        seen += [reserve.turn_away(again), reserve.has_company()]
        os.close(stolen.pop())
        seen += [reserve.has_company(), reserve.turn_away(again)]
        return seen

    client = dial(listener)
    assert [False, False, False, False, True] == short(body)
    assert "503" in rest(client)
