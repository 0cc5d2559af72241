"""The orders to one worker: a real channel that is filled up, and what comes out of its other end."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import become_nobody, in_child
from wsworker.master.orders import MAX_WAITING, Orders
from wsworker.query import Query
from wsworker.wire import Lines, Order, decode_order

FILLER = Order("lend", slot=999)
"""Tells nothing; as a lend it is not replaced by a later one."""


class Worker:
    """A channel, the orders that the master writes to it, and the worker's end, which reads when it is told to."""

    def __init__(self) -> None:
        self.channel, self.end = socket.socketpair()
        self.channel.setblocking(False)
        self.end.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.orders = Orders(self.channel, self.selector, 3)
        self.selector.register(self.channel, selectors.EVENT_READ, self.orders.flush)
        self.lines = Lines()
        self.files: list[str] = []
        self.filled = 0

    @property
    def watched(self) -> bool:
        """Whether the selector tells when the channel can be written to."""
        return bool(self.selector.get_key(self.channel).events & selectors.EVENT_WRITE)

    def fill(self) -> None:
        """Send orders until one waits."""
        while not self.watched:
            self.orders.send(FILLER, [])
            self.filled += 1

    def turn(self) -> None:
        """Do what the master's loop does."""
        for key, _ in self.selector.select(0):
            key.data()

    def read(self) -> list[tuple[Order, list[str]]]:
        """Return the orders of one read, each with the files that came along; empty if nothing is there."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.end, 65536, 10)
        except BlockingIOError:
            return []
        for descriptor in descriptors:
            self.files.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            os.close(descriptor)
        return [(order, self.take(order.fds)) for order in map(decode_order, self.lines.feed(data))]

    def take(self, number: int) -> list[str]:
        """Return the files of an order: they come in the order of the orders, and never late."""
        assert len(self.files) >= number
        taken, self.files = self.files[:number], self.files[number:]
        return taken

    def read_all(self) -> list[tuple[Order, list[str]]]:
        """Return all orders that come, save those that filled the channel, while the loop turns."""
        told: list[tuple[Order, list[str]]] = []
        self.turn()
        while read := self.read():
            told += read
            self.turn()
        assert [] == self.files
        assert self.filled == len([order for order, _ in told if order == FILLER])
        return [(order, files) for order, files in told if order != FILLER]

    def close(self) -> None:
        """Close all of it."""
        self.selector.close()
        self.channel.close()
        self.end.close()
        self.orders.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Give a worker whose channel is empty."""
    made = Worker()
    yield made
    made.close()


def count() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def opened(path: Path) -> int:
    """Open a file to append to it."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def send(worker: Worker, order: Order, path: Path) -> None:
    """Send an order with a file that its owner closes at once."""
    descriptor = opened(path)
    worker.orders.send(order, [descriptor])
    os.close(descriptor)


# --- what fits, and what waits ------------------------------------------------------------------------------------


def test_what_fits_goes_at_once(worker: Worker, tmp_path: Path) -> None:
    """With its descriptors, and it says how many; nothing is kept and nothing is watched."""
    with (tmp_path / "log").open("ab") as log:
        before = count()
        worker.orders.send(Order("reopen"), [log.fileno(), log.fileno()])
        worker.orders.send(Order("drain", "stop"), [])
        assert before == count()
        os.fstat(log.fileno())
    assert not worker.watched
    log_file = str(tmp_path / "log")
    assert [(Order("reopen", fds=2), [log_file] * 2), (Order("drain", "stop"), [])] == worker.read_all()


def test_what_does_not_fit_comes_later_and_in_order(worker: Worker, tmp_path: Path) -> None:
    """With the files that were meant, though their owner has closed them; and nothing of it is left here."""
    before = count()
    worker.fill()
    worker.orders.send(Order("go"), [])
    send(worker, Order("lend", slot=2), tmp_path / "2")
    worker.orders.send(Order("recall", slot=1), [])
    send(worker, Order("reopen"), tmp_path / "log")
    worker.orders.send(Order("drain", "reload"), [])
    assert before + 2 == count()
    assert [
        (Order("go"), []),
        (Order("lend", slot=2, fds=1), [str(tmp_path / "2")]),
        (Order("recall", slot=1), []),
        (Order("reopen", fds=1), [str(tmp_path / "log")]),
        (Order("drain", "reload"), []),
    ] == worker.read_all()
    assert before == count()
    assert not worker.watched


def test_a_list_is_sent_at_once_or_not_at_all(worker: Worker) -> None:
    """By the time there is room nobody waits for the answer any more."""
    asking = Order("list", token=7, until=1.0, query=Query())
    worker.orders.send(asking, [])
    assert [(asking, [])] == worker.read_all()
    worker.fill()
    for _ in range(3):
        worker.orders.send(asking, [])
    drain = Order("drain", "stop")
    worker.orders.send(drain, [])
    assert [(drain, [])] == worker.read_all()


def test_nothing_overtakes_what_waits(worker: Worker) -> None:
    """There may be room again before the loop turns: a new order queues up all the same."""
    worker.fill()
    worker.orders.send(Order("go"), [])
    told = worker.read()
    worker.orders.send(Order("drain", "stop"), [])
    assert {FILLER} == {order for order, _ in told}
    worker.filled -= len(told)
    assert [(Order("go"), []), (Order("drain", "stop"), [])] == worker.read_all()


def test_a_full_channel_is_tried_without_harm(worker: Worker) -> None:
    """As when the channel is readable and not writable: what waits goes on to wait."""
    worker.fill()
    worker.orders.flush()
    assert worker.watched
    assert [] == worker.read_all()


@pytest.mark.parametrize("before", range(1, 5))
def test_the_rest_of_a_line_goes_first(worker: Worker, tmp_path: Path, before: int) -> None:
    """A line that was cut is completed before anything else, and its files come once, with its beginning."""
    worker.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    # one of more than half of the smallest buffer goes in two parts, of which the second finds no room
    long = Order("lend", slot=10**4000)
    short = Order("recall", slot=1)
    with (tmp_path / "log").open("ab") as log:
        held = count()
        for _ in range(before):
            worker.orders.send(short, [])
        worker.orders.send(long, [log.fileno()])
        # the rest of it waits, and its descriptor does not
        assert worker.watched
        assert held == count()
    send(worker, Order("reopen"), tmp_path / "new")
    told = worker.read()
    assert [(short, [])] * before == told
    assert [] == worker.read()
    assert [str(tmp_path / "log")] == worker.files
    worker.turn()
    while read := worker.read():
        told += read
        worker.turn()
    whole = Order("lend", slot=10**4000, fds=1)
    reopen = Order("reopen", fds=1)
    assert [(whole, [str(tmp_path / "log")]), (reopen, [str(tmp_path / "new")])] == told[before:]
    assert [] == worker.files
    assert not worker.watched


def test_a_channel_that_breaks_within_a_line(worker: Worker) -> None:
    """The rest of it is forgotten with all that waits."""
    worker.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    worker.orders.send(Order("recall", slot=1), [])
    worker.orders.send(Order("recall", slot=10**4000), [])
    worker.orders.send(Order("drain", "stop"), [])
    assert worker.watched
    worker.end.close()
    worker.turn()
    assert not worker.watched


# --- what need not be told ----------------------------------------------------------------------------------------


def test_of_the_logs_that_wait_only_the_newest_is_told(worker: Worker, tmp_path: Path) -> None:
    """In the place of the older one; the older file is let go of."""
    before = count()
    worker.fill()
    send(worker, Order("reopen"), tmp_path / "1")
    worker.orders.send(Order("drain", "reload"), [])
    send(worker, Order("reopen"), tmp_path / "2")
    send(worker, Order("reopen"), tmp_path / "3")
    assert before + 1 == count()
    told = [(Order("reopen", fds=1), [str(tmp_path / "3")]), (Order("drain", "reload"), [])]
    assert told == worker.read_all()
    assert before == count()


def test_a_lend_that_is_recalled_is_not_told(worker: Worker, tmp_path: Path) -> None:
    """Both vanish; those of other slots, and what was recalled before, do not."""
    before = count()
    worker.fill()
    worker.orders.send(Order("recall", slot=2), [])
    send(worker, Order("lend", slot=2), tmp_path / "2")
    send(worker, Order("lend", slot=4), tmp_path / "4")
    worker.orders.send(Order("recall", slot=2), [])
    assert before + 1 == count()
    worker.orders.send(Order("recall", slot=5), [])
    send(worker, Order("lend", slot=2), tmp_path / "2")
    assert [
        (Order("recall", slot=2), []),
        (Order("lend", slot=4, fds=1), [str(tmp_path / "4")]),
        (Order("recall", slot=5), []),
        (Order("lend", slot=2, fds=1), [str(tmp_path / "2")]),
    ] == worker.read_all()


def test_a_lend_that_was_sent_is_recalled(worker: Worker, tmp_path: Path) -> None:
    """It is in the channel already, so the worker will hear of it."""
    send(worker, Order("lend", slot=2), tmp_path / "2")
    worker.fill()
    worker.orders.send(Order("recall", slot=2), [])
    assert [
        (Order("lend", slot=2, fds=1), [str(tmp_path / "2")]),
        (Order("recall", slot=2), []),
    ] == worker.read_all()


# --- when it ends -------------------------------------------------------------------------------------------------


def test_a_broken_channel_is_forgotten(worker: Worker, tmp_path: Path) -> None:
    """The worker is dead: what waits is let go of, later orders are lost, nothing is raised or watched."""
    before = count()
    worker.fill()
    send(worker, Order("lend", slot=2), tmp_path / "2")
    send(worker, Order("reopen"), tmp_path / "log")
    worker.end.close()
    worker.turn()
    assert before - 1 == count()
    assert not worker.watched
    worker.orders.send(Order("go"), [])
    assert not worker.watched


def test_a_closed_channel_takes_nothing(worker: Worker, tmp_path: Path) -> None:
    """A worker whose end is known is told nothing more, and the loop may still come with what it saw before."""
    before = count()
    worker.fill()
    send(worker, Order("reopen"), tmp_path / "log")
    worker.selector.unregister(worker.channel)
    worker.channel.close()
    worker.orders.close()
    assert before - 1 == count()
    send(worker, Order("reopen"), tmp_path / "log")
    worker.orders.flush()
    assert before - 1 == count()


# --- what is lost -------------------------------------------------------------------------------------------------


def test_the_queue_is_bounded(worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is too much is lost, and that is told; a newer log still takes the place of an older one."""
    worker.fill()
    send(worker, Order("reopen"), tmp_path / "1")
    for _ in range(MAX_WAITING - 2):
        worker.orders.send(Order("go"), [])
    assert [] == caplog.messages
    worker.orders.send(Order("drain", "stop"), [])
    assert ["the order drain to worker 3, which reads none now, is lost: 600 wait already"] == caplog.messages
    send(worker, Order("reopen"), tmp_path / "2")
    told = worker.read_all()
    assert (Order("reopen", fds=1), [str(tmp_path / "2")]) == told[0]
    assert [(Order("go"), [])] * (MAX_WAITING - 2) == told[1:]


def test_without_descriptors_nothing_is_kept_that_has_some(caplog: pytest.LogCaptureFixture) -> None:
    """It is lost and that is told; an older log that waits is better than none. Other orders wait as ever."""

    def master() -> list[Any]:
        worker = Worker()
        worker.fill()
        read, write = os.pipe()
        # what waits is a duplicate of the pipe's end that reads
        worker.orders.send(Order("reopen"), [read])
        before = count()
        free = os.dup(read)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # there is room for one, and of that one nothing is left
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        worker.orders.send(Order("lend", slot=2), [read, write])
        worker.orders.send(Order("drain", "stop"), [])
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        worker.orders.send(Order("reopen"), [write])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        told = [(order.name, len(files)) for order, files in worker.read_all()]
        return [told, before - count(), caplog.messages]

    reason = "is lost: the master is out of descriptors; raise LimitNOFILE= of the unit or `ulimit -n`"
    lost = [f"the order {name} to worker 3, which reads none now, {reason}" for name in ("lend", "reopen")]
    assert [[["reopen", 1], ["drain", 0]], 1, lost] == in_child(master)


def test_a_drain_is_heard_without_its_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is never told to leave would be killed; its connections drain, and that is told."""

    def master() -> list[Any]:
        worker = Worker()
        worker.fill()
        read, write = os.pipe()
        before = count()
        free = os.dup(read)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # there is room for one of two
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        for order in (Order("take"), Order("give", shares=(1, 2)), Order("drain", "reload", shares=(1, 2))):
            worker.orders.send(order, [read, write])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        told = [(order.name, order.why, order.shares, len(files)) for order, files in worker.read_all()]
        return [told, before - count(), caplog.messages]

    reason = "the master is out of descriptors; raise LimitNOFILE= of the unit or `ulimit -n`"
    lost = [f"the order {name} to worker 3, which reads none now, is lost: {reason}" for name in ("take", "give")]
    lost.append(f"no connection of worker 3, which reads no orders now, can move: {reason}")
    assert [[["drain", "reload", [], 0]], 0, lost] == in_child(master)


def test_pairs_wait_with_their_order(worker: Worker) -> None:
    """What the master has closed meanwhile is still there for the worker."""
    before = count()
    worker.fill()
    with open(os.devnull) as first, open(os.devnull) as second:
        worker.orders.send(Order("drain", "scale", shares=(3, 4)), [first.fileno(), second.fileno()])
    assert before + 2 == count()
    assert [(Order("drain", "scale", fds=2, shares=(3, 4)), [os.devnull] * 2)] == worker.read_all()
    assert before == count()


def test_too_many_descriptors_on_their_way(caplog: pytest.LogCaptureFixture) -> None:
    """Without privileges no more may wait in all channels than a process may open: the rest waits with us.

    Nobody watches for room meanwhile, as the channel is writable: that would spin the loop. ETOOMANYREFS in unix(7).
    """

    def master() -> list[Any]:
        become_nobody()
        worker = Worker()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # what the tests before have left open is below the limit
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 60, hard))
        for _ in range(20):
            worker.orders.send(FILLER, [worker.end.fileno()])
        # what is under way to anybody counts
        ours, theirs = socket.socketpair()
        with contextlib.suppress(OSError):
            while True:
                socket.send_fds(ours, [b"x"], [0] * 50)
        worker.orders.send(FILLER, [worker.end.fileno()])
        worker.orders.send(Order("go"), [])
        watched = worker.watched
        theirs.close()
        told: list[str] = []
        while len(told) < 22:
            told += [order.name for order, _ in worker.read()]
            worker.orders.flush()
        return [watched, told.count("lend"), told[-1], caplog.messages]

    if os.geteuid() == 0:
        assert [False, 21, "go", []] == in_child(master)
    else:
        pytest.skip("only root can become a user who has sent nothing yet")
