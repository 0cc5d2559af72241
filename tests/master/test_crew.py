"""The crew: real forks with a tiny worker inside; reports, orders, deaths, and what a worker must not hold."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import Child, Pipe, in_child, orders, say, stay, until
from wsworker.config import Config
from wsworker.master import events
from wsworker.master.crew import Crew, EnterWorker
from wsworker.master.events import Event, Reading, WorkerExited, WorkerFailed, WorkerLeaving, WorkerReady
from wsworker.stats import Counters, Seat, Table
from wsworker.wire import Order, Report, encode

CONFIG = Config(app="app", name="chat", workers=2)


class Deck:
    """A crew in its loop, and the events that it fed."""

    def __init__(self, enter_worker: EnterWorker) -> None:
        self.selector = selectors.DefaultSelector()
        self.table = Table(3)
        self.events: list[Event] = []
        self.readings: list[events.SlotsRead] = []
        self.totals: list[tuple[Event, Counters]] = []
        self.living: list[set[int]] = []
        self.left: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.crew = Crew(
            name="chat",
            node="node",
            selector=self.selector,
            table=self.table,
            feed=self._feed,
            enter_worker=enter_worker,
            leave=self._leave,
            sockets=lambda slot: [self.listener] * slot,
        )

    def _feed(self, event: Event) -> None:
        if isinstance(event, events.SlotsRead):
            # one comes before each WorkerReady, so that it is judged by the counts of that moment
            self.readings.append(event)
            return
        self.events.append(event)
        self.totals.append((event, self.table.totals(1)))
        self.living.append(set(self.crew.pids()))

    def _leave(self, slot: int) -> None:
        self.selector.close()
        self.left.append(slot)

    def turn(self, backwards: bool = False) -> None:
        """Handle what is ready, in the selector's order or the other way round; waits for nothing."""
        ready = self.selector.select(0)
        for key, _ in reversed(ready) if backwards else ready:
            key.data()

    def until(self, condition: Callable[[], object]) -> None:
        """Turn until a condition holds."""

        def turned() -> object:
            self.turn()
            return condition()

        until(turned)

    def spawn(self, worker: int = 7, slot: int = 1, config: Config = CONFIG) -> int:
        """Fork a worker; return its pid."""
        event = self.crew.spawn(events.Spawn(worker, slot, 5, config))
        assert isinstance(event, events.Spawned)
        assert worker == event.worker
        assert event.pid == self.crew.pids()[worker]
        return event.pid

    def tell(self, order: Order, worker: int = 7) -> None:
        """Send an order."""
        self.crew.tell(events.Tell(worker, order))

    def watches_death(self) -> bool:
        """Whether a pidfd is watched."""
        return any(isinstance(key.fileobj, int) for key in self.selector.get_map().values())

    def kill(self, worker: int = 7) -> None:
        """End a worker and wait for the news."""
        self.crew.signal(events.Signal(worker, "SIGKILL"))
        self.until(lambda: worker not in self.crew.pids())

    def close(self) -> None:
        """End all workers."""
        for worker in self.crew.pids():
            self.kill(worker)
        assert {} == dict(self.selector.get_map())
        self.listener.close()
        self.selector.close()


@pytest.fixture
def make() -> Iterator[Callable[[Callable[..., int]], Deck]]:
    """Give a function that makes a deck of its worker function."""
    decks: list[Deck] = []

    def made(enter_worker: Callable[..., int]) -> Deck:
        decks.append(Deck(enter_worker))
        return decks[-1]

    yield made
    for deck in decks:
        deck.close()


def obedient(*, worker: int, channel: socket.socket, seat: Seat, **rest: Any) -> int:
    """Be ready, say `leaving` at go, and leave with 3 at drain."""
    seat.write(2_000_000_000, 0, 4, True, Counters(messages_in=10))
    say(channel, Report("ready"))
    for order in orders(channel):
        if order == Order("go"):
            say(channel, Report("leaving"))
        elif order == Order("drain", "stop"):
            seat.write(3_000_000_000, 0, 0, False, Counters(messages_in=11))
            return 3
    return 9


def failing(*, channel: socket.socket, seat: Seat, **rest: Any) -> int:
    """Say why it cannot boot, and exit at once."""
    seat.write(1, 0, 0, False, Counters(errors=2))
    say(channel, Report("failed", kind="app", error="no module named 'chat'", trace="Traceback: é"))
    return 78


def deaf(*, channel: socket.socket, **rest: Any) -> int:
    """Be ready and never read an order."""
    say(channel, Report("ready"))
    stay()


def babbling(*, channel: socket.socket, **rest: Any) -> int:
    """Say what is no report, and stay."""
    channel.sendall(b'{"v":1,"type":"order"}\n')
    stay()


def endless(*, channel: socket.socket, **rest: Any) -> int:
    """Say a line that does not end, and stay."""
    channel.sendall(b"x" * 200_000)
    stay()


def in_parts(*, channel: socket.socket, **rest: Any) -> int:
    """Say two reports, cut in the middle of the second; the rest comes after an order."""
    line = encode(Report("leaving"))
    channel.sendall(encode(Report("ready")) + line[:9])
    channel.recv(100)
    channel.sendall(line[9:])
    stay()


def telling(pipe: Pipe, facts: Callable[..., Any]) -> Callable[..., int]:
    """Make a worker that tells facts about itself, taken from its arguments, and stays."""

    def enter_worker(**given: Any) -> int:
        pipe.tell(facts(**given))
        stay()

    return enter_worker


Make = Callable[[Callable[..., int]], Deck]


# --- what a worker gets -------------------------------------------------------------------------------------------


def test_a_worker_gets_what_is_its_own(make: Make, pipe: Pipe) -> None:
    """Its names and numbers, the listeners of its slot, its seat; and its title says which worker it is."""

    def facts(**given: Any) -> list[Any]:
        rest = {key: given[key] for key in ("worker", "slot", "generation", "node")}
        same = [sock.getsockname() == deck.listener.getsockname() for sock in given["sockets"]]
        return [rest, given["config"].name, same, given["seat"].worker, deck.left]

    deck = make(telling(pipe, facts))
    pid = deck.spawn(worker=9, slot=2)
    names = {"worker": 9, "slot": 2, "generation": 5, "node": "node"}
    assert [names, "chat", [True, True], 9, [2]] == pipe.hear()
    title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    assert b"wsworker: worker 2 [chat] gen 5" == title
    assert [] == deck.left


def descriptors() -> dict[str, str]:
    """Return what this process has open, by number."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def test_a_worker_holds_nothing_of_the_others(make: Make, pipe: Pipe) -> None:
    """Channels and pidfds of the other workers, the master's end of its own channel and the selector are closed."""

    def facts(*, channel: socket.socket, **rest: Any) -> list[Any]:
        return [[*descriptors().values()], os.readlink(f"/proc/self/fd/{channel.fileno()}")]

    before = set(descriptors().values())
    deck = make(telling(pipe, facts))
    deck.spawn(worker=1, slot=1)
    _, first_channel = pipe.hear()
    deck.spawn(worker=2, slot=2)
    held, second_channel = pipe.hear()
    masters = set(descriptors().values()) - before
    ends = {name for name in masters if name.startswith("socket:")} - {
        os.readlink(f"/proc/self/fd/{deck.listener.fileno()}")
    }
    assert 2 == len(ends)
    assert set() == ends & set(held)
    assert first_channel not in held
    assert 1 == held.count(second_channel)
    # these have no numbers of their own; pytest itself has neither
    assert not [name for name in held if "eventpoll" in name or "pidfd" in name]
    # and the master has let go of the workers' ends: else it would never see the end of a channel
    assert set() == masters & {first_channel, second_channel}


# --- reports and deaths -------------------------------------------------------------------------------------------


def test_the_life_of_a_worker(make: Make) -> None:
    """Ready, told to go, told to drain: each report is an event, and the end comes with its exit code."""
    deck = make(obedient)
    deck.spawn()
    deck.until(lambda: deck.events)
    assert [WorkerReady(7)] == deck.events
    assert {7: Reading(2.0, 4, True)} == deck.crew.readings()
    assert [events.SlotsRead({7: Reading(2.0, 4, True)})] == deck.readings
    deck.tell(Order("go"))
    deck.until(lambda: len(deck.events) == 2)
    deck.tell(Order("drain", "stop"))
    deck.until(lambda: len(deck.events) == 3)
    assert [WorkerReady(7), WorkerLeaving(7), WorkerExited(7, 3, None)] == deck.events
    assert {} == deck.crew.pids()
    assert {} == deck.crew.readings()


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "pidfd first"])
def test_the_last_words_come_before_the_end(make: Make, caplog: pytest.LogCaptureFixture, backwards: bool) -> None:
    """Report and counters are taken before WorkerExited is told, whichever descriptor the loop comes to first."""
    deck = make(failing)
    deck.spawn()
    # all that it will ever say is there, and its end is too
    pidfd = next(key.fd for key in deck.selector.get_map().values() if isinstance(key.fileobj, int))
    until(lambda: pidfd in {key.fd for key, _ in deck.selector.select(0)})
    deck.turn(backwards)
    while deck.crew.pids():
        deck.turn(backwards)
    failed = WorkerFailed(7, "app", "no module named 'chat'", "Traceback: é")
    assert [failed, WorkerExited(7, 78, None)] == deck.events
    assert [Counters(errors=2)] * 2 == [totals for _, totals in deck.totals]
    assert [{7}, set()] == deck.living
    assert deck.table.read(1, 7) is None
    assert [] == [record.message for record in caplog.records]


def test_counters_of_a_killed_worker_are_kept(make: Make) -> None:
    """What it had written into its seat is folded before the news; the signal is told by name."""
    deck = make(obedient)
    deck.spawn()
    deck.until(lambda: deck.events)
    deck.kill()
    assert (WorkerExited(7, None, "SIGKILL"), Counters(messages_in=10)) == deck.totals[-1]
    deck.spawn(worker=8)
    deck.until(lambda: WorkerReady(8) in deck.events)
    assert Counters(messages_in=20) == deck.table.totals(1)


def test_two_workers_of_a_slot(make: Make) -> None:
    """A worker and its replacement live side by side, and the end of one is not the other's."""
    deck = make(obedient)
    deck.spawn(worker=1)
    deck.spawn(worker=2)
    deck.until(lambda: len(deck.events) == 2)
    deck.tell(Order("drain", "stop"), worker=1)
    deck.until(lambda: len(deck.events) == 3)
    assert [WorkerExited(1, 3, None)] == deck.events[2:]
    assert [2] == [*deck.crew.pids()] == [*deck.crew.readings()]
    deck.tell(Order("go"), worker=2)
    deck.until(lambda: len(deck.events) == 4)
    assert [WorkerLeaving(2)] == deck.events[3:]


def test_a_report_may_come_in_parts(make: Make) -> None:
    """Each is fed when it is whole."""
    deck = make(in_parts)
    deck.spawn()
    deck.until(lambda: deck.events)
    assert [WorkerReady(7)] == deck.events
    deck.tell(Order("go"))
    deck.until(lambda: len(deck.events) == 2)
    assert WorkerLeaving(7) == deck.events[-1]


def test_a_worker_that_does_not_come_up_says_why(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """An exception before the first report: the master gets a sentence, stderr the traceback, and it exits with 1."""

    def broken(**given: Any) -> int:
        raise RuntimeError("out of luck")

    deck = make(broken)
    deck.spawn()
    deck.until(lambda: len(deck.events) == 2)
    reason = "a worker ended with RuntimeError: out of luck"
    assert [WorkerFailed(7, "boot", reason), WorkerExited(7, 1, None)] == deck.events
    assert "RuntimeError: out of luck" in capfd.readouterr().err


PTRACE_SEIZE = 0x4206


def test_a_traced_worker_is_buried_when_its_tracer_lets_go(make: Make) -> None:
    """A debugger takes the exit status first: the pidfd is readable then, and there is nothing to reap. ptrace(2)."""
    deck = make(obedient)
    pid = deck.spawn()
    deck.until(lambda: deck.events)

    pipe = Pipe()

    def trace() -> None:
        pipe.tell(ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_SEIZE, pid, None, None) == 0)
        stay()

    with Child(trace):
        if not pipe.hear():
            pytest.skip("this system lets nobody trace a process")
        os.kill(pid, signal.SIGKILL)
        deck.until(lambda: not deck.watches_death())
        deck.crew.bury_late()
        assert [WorkerReady(7)] == deck.events
        assert {7} == deck.crew.pids().keys()
    deck.crew.bury_late()
    assert [WorkerReady(7), WorkerExited(7, None, "SIGKILL")] == deck.events
    pipe.close()


def test_without_descriptors_no_worker_is_spawned() -> None:
    """The supervisor hears of it and tries again later; nothing is left of the try."""

    def master() -> list[Any]:
        deck = Deck(obedient)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        left = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        event = deck.crew.spawn(events.Spawn(7, 1, 5, CONFIG))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return [type(event).__name__, left - len(os.listdir("/proc/self/fd")), len(deck.crew.pids())]

    assert ["SpawnFailed", 0, 0] == in_child(master)


@pytest.mark.parametrize("enter_worker", [babbling, endless])
def test_a_channel_that_speaks_nonsense_is_closed(
    make: Make, caplog: pytest.LogCaptureFixture, enter_worker: Callable[..., int]
) -> None:
    """It is logged once; the worker goes on to be watched, and orders to it go nowhere."""
    deck = make(enter_worker)
    pid = deck.spawn()
    deck.until(lambda: caplog.records)
    (record,) = caplog.records
    assert (logging.ERROR, "wsworker.master") == (record.levelno, record.name)
    assert record.message.startswith("the channel of worker 1 is closed: malformed message: ")
    assert [] == deck.events
    assert {7: pid} == deck.crew.pids()
    assert 1 == len(deck.selector.get_map())
    deck.tell(Order("go"))
    deck.kill()
    assert [WorkerExited(7, None, "SIGKILL")] == deck.events
    assert 1 == len(caplog.records)


def test_a_channel_that_ends_is_no_death(make: Make, pipe: Pipe) -> None:
    """A worker may close its end; only its pidfd says that it is dead."""

    def closing(*, channel: socket.socket, **rest: Any) -> int:
        channel.close()
        stay()

    deck = make(closing)
    pid = deck.spawn()
    deck.until(lambda: len(deck.selector.get_map()) == 1)
    assert [] == deck.events
    assert {7: pid} == deck.crew.pids()


# --- orders and signals -------------------------------------------------------------------------------------------


def test_unknown_workers_are_harmless(make: Make) -> None:
    """An order or a signal to a worker that is not there any more does nothing."""
    deck = make(deaf)
    deck.tell(Order("go"), worker=99)
    deck.crew.signal(events.Signal(99, "SIGKILL"))
    deck.spawn()
    deck.kill()
    deck.tell(Order("go"))
    deck.crew.signal(events.Signal(7, "SIGKILL"))
    assert WorkerExited(7, None, "SIGKILL") == deck.events[-1]


def test_an_order_to_a_worker_that_is_just_dead_is_harmless(make: Make) -> None:
    """The loop has not heard of its end yet: the channel is broken, and the signal meets a dead process."""
    deck = make(failing)
    pid = deck.spawn()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    deck.tell(Order("go"))
    deck.crew.signal(events.Signal(7, "SIGTERM"))
    deck.until(lambda: not deck.crew.pids())
    assert WorkerExited(7, 78, None) == deck.events[-1]


def test_a_worker_that_reads_no_orders_does_not_stop_the_master(make: Make) -> None:
    """Orders to a full channel are lost, and the loop does not wait: such a worker is hung, its deadline tells."""
    deck = make(deaf)
    deck.spawn()
    deck.until(lambda: deck.events)
    for _ in range(20_000):
        deck.tell(Order("go"))
    assert 2 == len(deck.selector.get_map())
    assert {} != deck.crew.pids()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGABRT", "SIGKILL"])
def test_a_signal_ends_a_worker(make: Make, name: events.SignalName) -> None:
    """Its name comes back with the news of its end."""

    def plain(*, channel: socket.socket, **rest: Any) -> int:
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        say(channel, Report("ready"))
        stay()

    deck = make(plain)
    deck.spawn()
    deck.until(lambda: deck.events)
    deck.crew.signal(events.Signal(7, name))
    deck.until(lambda: len(deck.events) == 2)
    assert WorkerExited(7, None, name) == deck.events[-1]


# --- a fork that fails --------------------------------------------------------------------------------------------


def test_a_spawn_that_fails_leaves_nothing(make: Make) -> None:
    """An account that is gone is an event like any failed fork: no process, no descriptor, no seat."""
    deck = make(deaf)
    before = descriptors()
    gone = CONFIG.model_copy(update={"user": "no-such-user"})
    event = deck.crew.spawn(events.Spawn(7, 1, 5, gone))
    assert isinstance(event, events.SpawnFailed)
    assert 7 == event.worker
    assert "no-such-user" in event.reason
    assert before == descriptors()
    assert {} == deck.crew.pids()
    assert deck.table.read(1, 7) is None
    for worker in (1, 2):
        deck.spawn(worker=worker)
