"""Who waits: only a queue that is never seen empty has clients that have waited for long."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from wsworker.worker.waiting import Waiting


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Two listeners on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        yield [first, second]


def dial(listener: socket.socket) -> socket.socket:
    """Connect a client; once this returns it stands in the queue."""
    return socket.create_connection(listener.getsockname())


def test_a_look_finds_where_somebody_waits(listeners: list[socket.socket]) -> None:
    """And nothing else."""
    waiting = Waiting()
    assert [] == waiting.look(listeners, 1.0)
    with dial(listeners[1]):
        assert listeners[1:] == waiting.look(listeners, 2.0)


def test_a_wait_that_is_seen_at_each_look_lasts(listeners: list[socket.socket]) -> None:
    """It begins with the first look that saw it, or with the first question."""
    waiting = Waiting()
    first, second = listeners
    assert not waiting.is_over(first, 2.0, 10.0)
    with dial(first), dial(second):
        for now in (10.1, 11.0, 11.9):
            waiting.look(listeners, now)
        assert not waiting.is_over(first, 2.0, 11.9)
        assert waiting.is_over(first, 2.0, 12.0)
        assert not waiting.is_over(second, 2.0, 12.0)
        assert waiting.is_over(second, 2.0, 12.1)


def test_a_queue_that_was_seen_empty_has_nobody_who_waited_for_long(listeners: list[socket.socket]) -> None:
    """Another worker has taken them meanwhile; whoever came since waits from the next look on."""
    waiting = Waiting()
    queue = listeners[0]
    with dial(queue):
        waiting.look(listeners, 10.0)
        queue.accept()[0].close()
    waiting.look(listeners, 11.0)
    with dial(queue):
        waiting.look(listeners, 12.0)
        assert not waiting.is_over(queue, 2.0, 13.0)
        assert waiting.is_over(queue, 2.0, 14.0)


def test_a_wait_may_be_forgotten(listeners: list[socket.socket]) -> None:
    """That of one queue or of all."""
    first, second = listeners
    for forgotten in ([first], listeners):
        waiting = Waiting()
        with dial(first), dial(second):
            waiting.look(listeners, 10.0)
            if forgotten == listeners:
                waiting.clear()
            else:
                waiting.forget(first)
            assert [queue not in forgotten for queue in listeners] == [
                waiting.is_over(queue, 2.0, 12.0) for queue in listeners
            ]
