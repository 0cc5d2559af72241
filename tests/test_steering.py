"""The BPF program that chooses among listeners, first by an interpreter of our own, then by the kernel."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.steering import NO_SOCKET, attach, detach, program

CLIENTS = 40


def run(instructions: list[tuple[int, int, int, int]], random: int) -> int:
    """Interpret classic BPF, as far as program() uses it."""
    at, register = 0, 0
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        if code == 0x20 and k == 0xFFFFF038:
            register = random
        elif code == 0x94:
            register %= k
        elif code == 0x35:
            at += if_true if register >= k else if_false
        else:
            assert code == 0x06
            return k


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_each_index_comes_up_as_often_as_its_weight(weights: list[int]) -> None:
    """Over all remainders of the random number the shares are exact, and a weight of 0 is never chosen."""
    total = sum(weights)
    outcomes = Counter(run(program(weights), random) for random in range(max(total, 1)))
    expected = {index: weight for index, weight in enumerate(weights) if weight} or {NO_SOCKET: 1}
    assert expected == dict(outcomes)


@given(st.lists(st.integers(0, 256), min_size=1, max_size=256))
def test_the_program_has_two_lines_for_each_weight_and_one(weights: list[int]) -> None:
    """Its length stays far below the kernel's limit of 4096, and its jumps inside it."""
    chosen = sum(1 for weight in weights if weight)
    assert len(program(weights)) == 2 * chosen + 1
    assert 0 <= run(program(weights), 0xFFFFFFFF) <= NO_SOCKET


# --- the kernel ---------------------------------------------------------------------------------------------------


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Two listeners that share a port."""
    sockets: list[socket.socket] = []
    for _ in range(2):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockets[0].getsockname() if sockets else ("127.0.0.1", 0))
        sock.listen(CLIENTS)
        sock.setblocking(False)
        sockets.append(sock)
    yield sockets
    for sock in sockets:
        sock.close()


def spread(listeners: list[socket.socket]) -> list[int]:
    """Connect some clients and return how many came to each listener."""
    clients = [socket.create_connection(listeners[0].getsockname()) for _ in range(CLIENTS)]
    counted = []
    for listener in listeners:
        accepted = 0
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            accepted += 1
        counted.append(accepted)
    for client in clients:
        client.close()
    return counted


def test_it_may_be_attached_to_any_socket_of_the_group(listeners: list[socket.socket]) -> None:
    """The newest program holds for all of them."""
    assert attach(listeners[0], [1, 0])
    assert [CLIENTS, 0] == spread(listeners)
    assert attach(listeners[1], [0, 1])
    assert [0, CLIENTS] == spread(listeners)


def test_detached_the_hash_decides(listeners: list[socket.socket]) -> None:
    """Both get some; to detach when nothing is attached does no harm."""
    detach(listeners[0])
    assert attach(listeners[0], [1, 0])
    detach(listeners[0])
    assert min(spread(listeners)) > 0


def test_a_program_that_the_kernel_refuses(listeners: list[socket.socket]) -> None:
    """More than 4096 instructions: False, and the program of before no longer holds."""
    assert attach(listeners[0], [1, 0])
    assert not attach(listeners[0], [1] * 2048)
    assert min(spread(listeners)) > 0


def test_a_socket_that_is_closed(listeners: list[socket.socket]) -> None:
    """It cannot be steered, and nothing is raised."""
    listeners[0].close()
    assert not attach(listeners[0], [1])
