"""The channel: orders and their descriptors, however the bytes are cut."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.master.forks import in_child
from tests.worker.conftest import Run
from wsworker.wire import Order, Report, decode_report, encode
from wsworker.worker import channel as channel_module
from wsworker.worker.channel import Channel, close_all


class Master:
    """The other end, with descriptors to send."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.loop = asyncio.new_event_loop()
        self.channel = Channel(theirs)
        self.channel.stop_blocking(self.loop)

    def tell(self, order: Order, first: int = 10**6) -> list[int]:
        """Send an order and new files, as many as it says; cut after so many bytes. Return what tells the files."""
        files = [os.memfd_create("file") for _ in range(order.fds)]
        data = encode(order)
        socket.send_fds(self.socket, [data[:first]], files)
        if data[first:]:
            self.socket.send(data[first:])
        marks = [os.fstat(file).st_ino for file in files]
        close_all(files)
        return marks

    def close(self) -> None:
        """Close both ends."""
        self.socket.close()
        self.channel.let_go()
        self.loop.close()


@pytest.fixture
def master() -> Iterator[Master]:
    """A master with its worker's channel."""
    one = Master()
    yield one
    one.close()


def marks_of(descriptors: list[int]) -> list[int]:
    """Return what tells the files, and close them."""
    marks = [os.fstat(descriptor).st_ino for descriptor in descriptors]
    close_all(descriptors)
    return marks


def read_all(channel: Channel) -> list[tuple[Order, list[int]]]:
    """Read until there is nothing more; return the orders with what tells their files."""
    seen: list[tuple[Order, list[int]]] = []
    while orders := channel.read():
        seen += [(order, marks_of(descriptors)) for order, descriptors in orders]
    return seen


def test_nothing_has_come(master: Master) -> None:
    """That is no order, and no end."""
    assert [] == master.channel.read()


def test_an_order_comes_with_its_descriptors(master: Master) -> None:
    """Those are not inherited by programs that the user's code executes."""
    order = Order("lend", slot=3, fds=2)
    marks = master.tell(order)
    read = master.channel.read()
    assert read is not None
    ((received, descriptors),) = read
    assert order == received
    assert [fcntl.FD_CLOEXEC] * 2 == [fcntl.fcntl(descriptor, fcntl.F_GETFD) for descriptor in descriptors]
    assert marks == marks_of(descriptors)


orders = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 200)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(orders)
def test_each_order_has_its_own_descriptors(sent: list[tuple[int, int]]) -> None:
    """However many there are, and wherever the bytes of an order are cut."""
    master = Master()
    told = []
    for slot, (count, first) in enumerate(sent):
        order = Order("lend", slot=slot, fds=count)
        told.append((order, master.tell(order, first)))
    seen: list[tuple[Order, list[int]]] = []
    while len(seen) < len(told):
        read = master.channel.read()
        assert read is not None
        seen += [(order, marks_of(descriptors)) for order, descriptors in read]
    assert told == seen
    master.close()


def test_an_order_whose_descriptors_are_lost_comes_without(caplog: pytest.LogCaptureFixture) -> None:
    """The kernel leaves out what a full process has no room for; the orders around it are not touched."""

    def full() -> Any:
        master = Master()
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, highest + 8))
        master.tell(Order("go"))
        master.tell(Order("lend", slot=2, fds=3))
        master.tell(Order("recall", slot=2))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            os.close(taken.pop())
        seen = [[order.name, len(found)] for order, found in read_all(master.channel)]
        # the one that did come is not kept either
        os.close(os.dup(0))
        marks = []
        for fd in taken:
            os.close(fd)
        marks.append(master.tell(Order("reopen", fds=1)))
        return seen, [marks == [found for _, found in read_all(master.channel)], caplog.messages]

    said = "the order lend is lost: out of file descriptors, see LimitNOFILE= or ulimit -n"
    assert [[["go", 0], ["lend", 0], ["recall", 0]], [True, [said]]] == in_child(full)


def test_a_master_that_dies_with_something_unread(master: Master, run: Run) -> None:
    """And with more sent than is read at once: the loop tells of that once, and the end must be seen then."""

    async def main() -> None:
        master.channel.send(Report("ready"))
        read: list[Any] = []
        ended = asyncio.Event()

        def listen() -> None:
            read.append(master.channel.read())
            if read[-1] is None:
                asyncio.get_running_loop().remove_reader(master.channel)
                ended.set()

        master.socket.sendall(encode(Order("recall", slot=1)) * 1500)
        master.socket.close()
        asyncio.get_running_loop().add_reader(master.channel, listen)
        await asyncio.wait_for(ended.wait(), 10)

    run(main())


@pytest.mark.parametrize("last", [b"", b"nonsense\n", encode(Order("go")) + b"{}\n", b"x" * 70_000])
def test_the_end_is_told(master: Master, last: bytes) -> None:
    """Whether the master has died or speaks nonsense."""
    master.socket.sendall(last)
    if last == b"":
        master.socket.close()
    seen: list[Any] = [master.channel.read(), master.channel.read()]
    assert None in seen


def test_a_reset_is_an_end(master: Master) -> None:
    """It comes when the master dies with a report unread."""
    master.channel.send(Report("ready"))
    master.socket.close()
    assert master.channel.read() is None


def test_reports_are_sent(master: Master) -> None:
    """And lost without an error when nobody is there any more."""
    master.channel.send(Report("leaving"))
    assert Report("leaving") == decode_report(master.socket.recv(1000).rstrip())
    master.socket.close()
    master.channel.send(Report("leaving"))


def rows(number: int) -> Report:
    """Return a long report."""
    return Report("rows", token=number, rows=({"path": "x" * 50_000},))


def test_what_does_not_fit_waits_for_room(master: Master) -> None:
    """The loop goes on meanwhile; whoever sends much waits until it has gone, and every line comes whole."""
    received = b""

    async def talk() -> None:
        nonlocal received
        for number in range(20):
            master.channel.send(rows(number))
        drained = asyncio.create_task(master.channel.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        while not drained.done():
            received += master.socket.recv(65536)
            await asyncio.sleep(0)
        # the loop does not look at it any more
        assert not master.loop.remove_writer(master.channel)

    master.loop.run_until_complete(talk())
    master.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while data := master.socket.recv(65536):
            received += data
    assert [*range(20)] == [decode_report(line).token for line in received.splitlines()]


def test_a_last_word_comes_behind_what_waits(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the loop has ended, the rest is sent before it, without one."""
    monkeypatch.setattr(channel_module, "LAST_SECONDS", 10.0)

    async def talk() -> None:
        for number in range(9):
            master.channel.send(rows(number))

    master.loop.run_until_complete(talk())
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: master.socket.makefile("rb").readlines())
        master.channel.send(Report("failed", "crash", "no more"))
        master.channel.let_go()
        lines = reading.result(10)
    assert 10 == len(lines)
    assert Report("failed", "crash", "no more") == decode_report(lines[-1])


def test_what_waits_is_forgotten_when_the_master_is_gone(master: Master) -> None:
    """Nobody waits for it for ever."""

    async def talk() -> None:
        for number in range(9):
            master.channel.send(rows(number))
        master.socket.close()
        await master.channel.drained()

    master.loop.run_until_complete(talk())


def test_a_child_of_user_code_lets_go_of_all(master: Master) -> None:
    """Of the socket, and of descriptors whose order is not complete; the worker still has both."""
    socket.send_fds(master.socket, [encode(Order("lend", slot=2, fds=2))[:5]], [0, 0])
    assert [] == master.channel.read()

    def child() -> list[int]:
        before = len(os.listdir("/proc/self/fd"))
        master.channel.let_go()
        return [before - len(os.listdir("/proc/self/fd")), master.channel.fileno()]

    assert [3, -1] == in_child(child)
    master.tell(Order("go"))
    assert master.channel.fileno() >= 0
