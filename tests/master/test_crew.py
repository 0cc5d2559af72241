"""The crew: real forks with a tiny worker inside; reports, orders, deaths, and what a worker must not hold."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import faulthandler
import gc
import json
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

from tests.certificates import Authority
from tests.master.forks import (
    NOBODY,
    Child,
    Pipe,
    become_nobody,
    in_child,
    needs_root,
    orders,
    readable,
    say,
    stay,
    until,
)
from tests.master.heirs import inheritable, left
from wsworker.assignment import Assignment
from wsworker.bus.mesh.members import Member, Standing
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.master import events
from wsworker.master.cgroup import OomCounter
from wsworker.master.crew import TRACE_CHARACTERS, Crew, EnterWorker
from wsworker.master.events import Event, Reading, WorkerDumped, WorkerExited, WorkerFailed, WorkerLeaving, WorkerReady
from wsworker.master.process import Identity, identity
from wsworker.sections import LogConfig, TlsConfig
from wsworker.stats import Table
from wsworker.wire import ERROR_CHARACTERS, Lines, Order, Report, decode_order, encode

CONFIG = Config(app="app", name="chat", workers=2)
AS_WE_ARE = identity(CONFIG)


class Deck:
    """A crew in its loop, and the events that it fed."""

    def __init__(
        self, enter_worker: EnterWorker, folder: Path = Path("/nonexistent"), who: Identity = AS_WE_ARE
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self.rss: dict[int, int] = {}
        self.now = 2.0
        self.table = Table(3)
        self.events: list[Event] = []
        self.readings: list[events.SlotsRead] = []
        self.totals: list[tuple[Event, Counters]] = []
        self.living: list[set[int]] = []
        self.left: list[int] = []
        self.changes: list[tuple[int, str, str]] = []
        self.reactions: dict[Event, Callable[[], object]] = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.crew = Crew(
            name="chat",
            node="node",
            selector=self.selector,
            table=self.table,
            feed=self._feed,
            identity=who,
            enter_worker=enter_worker,
            leave=self._leave,
            sockets=lambda slot: [self.listener] * slot,
            lendable=lambda slot: [self.listener] * (slot - 1),
            rss=lambda worker: self.rss.get(worker, 0),
            oom=OomCounter(folder / "cgroup", folder / "membership"),
            now=lambda: self.now,
            changed=lambda *change: self.changes.append(change),
        )

    def _feed(self, event: Event) -> None:
        if isinstance(event, events.SlotsRead):
            # one comes before each WorkerReady, so that it is judged by the counts of that moment
            self.readings.append(event)
            return
        self.events.append(event)
        self.totals.append((event, self.table.totals(1)))
        self.living.append(set(self.crew.pids()))
        if reaction := self.reactions.pop(event, None):
            reaction()

    def when(self, event: Event, reaction: Callable[[], object]) -> None:
        """Do something when an event is fed, as the supervisor would."""
        self.reactions[event] = reaction

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

    def writes(self) -> bool:
        """Whether an order waits for its channel."""
        return any(key.events & selectors.EVENT_WRITE for key in self.selector.get_map().values())

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


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """Let go of the tables now, which hang in cycles: other tests count descriptors."""
    yield
    gc.collect()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Deck]]:
    """Give a function that makes a deck of its worker function, and of who its workers are."""
    decks: list[Deck] = []

    def made(enter_worker: EnterWorker, who: Identity = AS_WE_ARE) -> Deck:
        decks.append(Deck(enter_worker, tmp_path, who))
        return decks[-1]

    yield made
    for deck in decks:
        deck.close()


def obedient(assignment: Assignment) -> int:
    """Be ready, say `leaving` at go, and leave with 3 at drain."""
    assignment.seat.write(2_000_000_000, 250_000, 4, True, Counters(messages_in=10))
    say(assignment.channel, Report("ready"))
    for order in orders(assignment.channel):
        if order == Order("go"):
            say(assignment.channel, Report("leaving"))
        elif order == Order("drain", "stop"):
            assignment.seat.write(3_000_000_000, 0, 0, False, Counters(messages_in=11))
            return 3
    return 9


def failing(assignment: Assignment) -> int:
    """Say why it cannot boot, and exit at once."""
    assignment.seat.write(1, 0, 0, False, Counters(errors=2))
    say(assignment.channel, Report("failed", kind="app", error="no module named 'chat'", trace="Traceback: é"))
    return 78


def deaf(assignment: Assignment) -> int:
    """Be ready and never read an order."""
    say(assignment.channel, Report("ready"))
    stay()


def babbling(assignment: Assignment) -> int:
    """Say what is no report, and stay."""
    assignment.channel.sendall(b'{"v":1,"type":"order"}\n')
    stay()


def endless(assignment: Assignment) -> int:
    """Say a line that does not end, and stay."""
    # the master may have closed the channel before all of it is said
    with contextlib.suppress(OSError):
        assignment.channel.sendall(b"x" * 200_000)
    stay()


def in_parts(assignment: Assignment) -> int:
    """Say two reports, cut in the middle of the second; the rest comes after an order."""
    channel = assignment.channel
    line = encode(Report("leaving"))
    channel.sendall(encode(Report("ready")) + line[:9])
    channel.recv(100)
    channel.sendall(line[9:])
    stay()


def telling(pipe: Pipe, facts: Callable[[Assignment], Any]) -> EnterWorker:
    """Make a worker that tells facts about itself, taken from its assignment, and stays."""

    def enter_worker(assignment: Assignment) -> int:
        pipe.tell(facts(assignment))
        stay()

    return enter_worker


Make = Callable[..., Deck]


def watchful(assignment: Assignment) -> int:
    """Tell of a change, and stay."""
    say(assignment.channel, Report("changed", error="app.py", mark="one"))
    say(assignment.channel, Report("ready"))
    stay()


def test_a_change_of_files_is_no_event(make: Make) -> None:
    """It is handed on as it is: what follows begins with the configuration."""
    deck = make(watchful)
    deck.spawn()
    deck.until(lambda: deck.events)
    assert ([(7, "app.py", "one")], [WorkerReady(7)]) == (deck.changes, deck.events)


# --- what a worker gets -------------------------------------------------------------------------------------------


def tls_of(given: Assignment) -> bool:
    """Tell whether a worker has a certificate."""
    return given.tls is not None


@needs_root
def test_a_worker_gets_the_certificate(make: Make, pipe: Pipe, tmp_path: Path) -> None:
    """It was loaded before the change of user: the key need be readable for root alone. Without one there is no TLS."""
    pair = Authority(tmp_path).issue("one")
    pair.keyfile.chmod(0o600)
    deck = make(telling(pipe, tls_of), Identity(NOBODY.pw_uid, NOBODY.pw_gid, (), 0o027))
    deck.spawn(worker=1, config=CONFIG.model_copy(update={"tls": TlsConfig(**pair.settings)}))
    assert pipe.hear() is True
    deck.spawn(worker=2, slot=2)
    assert pipe.hear() is False


def test_a_worker_without_its_certificate(make: Make, tmp_path: Path) -> None:
    """It never runs: it says what is wrong, as a fault of what is on disk, and exits as for a wrong configuration."""
    pair = Authority(tmp_path).issue("one")
    pair.keyfile.unlink()
    deck = make(deaf)
    deck.spawn(config=CONFIG.model_copy(update={"tls": TlsConfig(**pair.settings)}))
    deck.until(lambda: len(deck.events) == 2)
    text = f"tls.keyfile: there is no file {pair.keyfile}; create it, or correct the path"
    assert [WorkerFailed(7, "app", text), WorkerExited(7, code=78)] == deck.events


def test_a_worker_gets_what_is_its_own(make: Make, pipe: Pipe) -> None:
    """Its names and numbers, the listeners of its slot, its seat; and its title says which worker it is."""

    def facts(given: Assignment) -> list[Any]:
        rest = {key: getattr(given, key) for key in ("worker", "slot", "generation", "node")}
        same = [sock.getsockname() == deck.listener.getsockname() for sock in given.sockets]
        return [rest, given.config.name, same, given.seat.worker, deck.left]

    deck = make(telling(pipe, facts))
    pid = deck.spawn(worker=9, slot=2)
    names = {"worker": 9, "slot": 2, "generation": 5, "node": "node"}
    assert [names, "chat", [True, True], 9, [2]] == pipe.hear()
    title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    assert b"wsworker: worker 2 [chat] gen 5" == title
    assert [] == deck.left


def test_a_worker_knows_which_of_its_listeners_are_shared(make: Make, pipe: Pipe) -> None:
    """Those that cannot be lent, as they are one queue for all workers already."""
    deck = make(telling(pipe, lambda given: [len(given.sockets), len(given.shared), given.shared == given.sockets]))
    deck.spawn(worker=1, slot=1)
    assert [1, 1, True] == pipe.hear()
    deck.spawn(worker=2, slot=2)
    assert [2, 0, False] == pipe.hear()


def test_a_worker_can_tell_whether_there_are_others(make: Make, pipe: Pipe) -> None:
    """In another slot, and now: not when it was forked."""

    def asked(given: Assignment) -> int:
        say(given.channel, Report("ready"))
        for _ in orders(given.channel):
            pipe.tell(given.others())
        return 0

    def others() -> object:
        deck.tell(Order("go"), worker=1)
        return pipe.hear()

    deck = make(asked)
    deck.spawn(worker=1, slot=2)
    assert others() is False
    # its own replacement is no other
    deck.spawn(worker=2, slot=2)
    assert others() is False
    deck.spawn(worker=3, slot=1)
    assert others() is True
    deck.kill(3)
    assert others() is False


def descriptors() -> dict[str, str]:
    """Return what this process has open, by number."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the one that listed them
            continue
    return found


def open_now() -> int:
    """Return how many descriptors are open, but for tables: those of former tests go when Python gets to it."""
    return sum("wsworker-table" not in name for name in descriptors().values())


def test_a_worker_holds_nothing_of_the_others(make: Make, pipe: Pipe) -> None:
    """Channels and pidfds of the other workers, the master's end of its own channel and the selector are closed."""

    def facts(given: Assignment) -> list[Any]:
        return [[*descriptors().values()], os.readlink(f"/proc/self/fd/{given.channel.fileno()}")]

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
    assert 1 == len([name for name in held if "wsworker-words" in name])
    # and the master has let go of the workers' ends: else it would never see the end of a channel
    assert set() == masters & {first_channel, second_channel}


# --- reports and deaths -------------------------------------------------------------------------------------------


def test_the_life_of_a_worker(make: Make) -> None:
    """Ready, told to go, told to drain: each report is an event, and the end comes with its exit code."""
    deck = make(obedient)
    deck.spawn()
    deck.until(lambda: deck.events)
    assert [WorkerReady(7)] == deck.events
    reading = Reading(2.0, 4, True, lag_seconds=0.25, messages=10)
    assert {7: reading} == deck.crew.readings()
    assert [events.SlotsRead({7: reading})] == deck.readings
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
    assert (WorkerExited(7, None, "SIGKILL", dropped=4), Counters(messages_in=10)) == deck.totals[-1]
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

    def broken(assignment: Assignment) -> int:
        raise RuntimeError("out of luck")

    deck = make(broken)
    deck.spawn()
    deck.until(lambda: len(deck.events) == 2)
    failed, exited = deck.events
    assert isinstance(failed, WorkerFailed)
    assert (7, "boot", "a worker ended with RuntimeError") == (failed.worker, failed.kind, failed.error)
    assert failed.trace.startswith("Traceback ")
    assert failed.trace.endswith("RuntimeError: out of luck\n")
    assert WorkerExited(7, 1, None) == exited
    assert "" == capfd.readouterr().err


@pytest.mark.parametrize("character", ["\0", "\ud800", "\U0001f980"], ids=["escaped", "surrogate", "four bytes"])
def test_a_report_always_fits_its_line(make: Make, caplog: pytest.LogCaptureFixture, character: str) -> None:
    """However long the traceback and the name of the exception are: the end of it arrives, and no line is too long."""

    def broken(assignment: Assignment) -> int:
        raise type("\U0001f980" * 50_000, (Exception,), {})(character * 100_000)

    deck = make(broken)
    deck.spawn()
    deck.until(lambda: len(deck.events) == 2)
    failed = deck.events[0]
    assert isinstance(failed, WorkerFailed)
    assert (ERROR_CHARACTERS, TRACE_CHARACTERS) == (len(failed.error), len(failed.trace))
    assert [] == caplog.records


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
    assert [WorkerReady(7), WorkerExited(7, None, "SIGKILL", dropped=4)] == deck.events
    pipe.close()


def test_others_see_where_a_worker_stands(make: Make) -> None:
    """With the order that makes it so, and not before; other orders change nothing."""
    deck = make(obedient)
    deck.spawn(worker=3, slot=2)
    seen = [deck.table.members()]
    for order in (Order("go"), Order("reopen"), Order("drain", "stop")):
        deck.tell(order, worker=3)
        seen.append(deck.table.members())
    starting, ready, draining = ([Member(3, 2, standing)] for standing in Standing)
    assert [starting, ready, ready, draining] == seen


@pytest.mark.parametrize("enter_worker", [babbling, endless])
def test_a_channel_that_speaks_nonsense_is_closed(
    make: Make, caplog: pytest.LogCaptureFixture, enter_worker: EnterWorker
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

    def closing(assignment: Assignment) -> int:
        assignment.channel.close()
        stay()

    deck = make(closing)
    pid = deck.spawn()
    deck.until(lambda: len(deck.selector.get_map()) == 1)
    assert [] == deck.events
    assert {7: pid} == deck.crew.pids()


# --- readings -----------------------------------------------------------------------------------------------------


def test_readings_of_one_slot(make: Make) -> None:
    """A worker that is ready has its own slot read, and not the whole table."""
    deck = make(obedient)
    deck.spawn(worker=1, slot=1)
    deck.until(lambda: deck.events)
    deck.spawn(worker=2, slot=2)
    deck.until(lambda: len(deck.events) == 2)
    assert [{1}, {2}] == [set(event.readings) for event in deck.readings]
    assert {1, 2} == deck.crew.readings().keys()
    assert {2} == deck.crew.readings(slot=2).keys()
    assert {} == deck.crew.readings(slot=3)


def test_readings_hold_the_memory_as_it_was_sampled(make: Make) -> None:
    """0 stands for a worker that was not sampled yet."""
    deck = make(obedient)
    deck.spawn(worker=1)
    deck.spawn(worker=2)
    deck.rss[2] = 123_456
    assert {1: 0, 2: 123_456} == {worker: one.rss_bytes for worker, one in deck.crew.readings().items()}


def test_only_of_a_silent_worker_it_is_asked_whether_it_is_stopped(make: Make) -> None:
    """One that has beaten within 2 s goes on; of the others the kernel knows."""
    deck = make(obedient)
    pid = deck.spawn()
    deck.until(lambda: deck.events)
    deck.now = 60.0
    assert not deck.crew.readings()[7].stopped
    os.kill(pid, signal.SIGSTOP)
    deck.until(lambda: deck.crew.readings()[7].stopped)
    deck.now = 4.0
    assert not deck.crew.readings()[7].stopped
    deck.now = 4.01
    assert deck.crew.readings()[7].stopped


# --- last words ---------------------------------------------------------------------------------------------------


def talking(assignment: Assignment) -> int:
    """Write its stacks at USR2, and also when it dies of a signal; report `leaving` behind each dump."""
    faulthandler.enable(assignment.words)
    faulthandler.register(signal.SIGUSR2, assignment.words)
    # as in stay()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    # the handler runs here and nowhere else: a dump is whole when the report comes
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    say(assignment.channel, Report("ready"))
    while True:
        signal.sigwait({signal.SIGUSR2})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        signal.raise_signal(signal.SIGUSR2)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        say(assignment.channel, Report("leaving"))


def dump(deck: Deck) -> WorkerDumped:
    """Ask worker 7, which is talking, for its stacks; return what the master then tells of it, alone."""
    deck.events.clear()
    deck.crew.signal(events.Signal(7, "SIGUSR2"))
    deck.until(lambda: deck.events)
    assert [WorkerLeaving(7)] == deck.events
    deck.crew.read_words()
    _, dumped = deck.events
    assert isinstance(dumped, WorkerDumped)
    return dumped


def test_a_living_worker_shows_its_stacks(make: Make) -> None:
    """Once for each time it was asked, and only what it has not told before."""
    deck = make(talking)
    deck.spawn()
    deck.spawn(worker=8)
    deck.until(lambda: len(deck.events) == 2)
    deck.events.clear()
    deck.crew.read_words()
    assert [] == deck.events
    for _ in range(2):
        dumped = dump(deck)
        assert (7, 1) == (dumped.worker, dumped.words.count("in talking"))


def test_the_stacks_of_a_crash_come_with_the_news_of_it(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """What was read before does not come again."""
    deck = make(talking)
    deck.spawn()
    deck.until(lambda: deck.events)
    deck.crew.signal(events.Signal(7, "SIGABRT"))
    deck.until(lambda: len(deck.events) == 2)
    exited = deck.events[-1]
    assert isinstance(exited, WorkerExited)
    assert (None, "SIGABRT", False) == (exited.code, exited.signal, exited.oom)
    assert exited.words.startswith("Fatal Python error: Aborted\n")
    assert "in talking" in exited.words
    assert "" == capfd.readouterr().err


def test_words_that_were_told_are_not_told_again_at_the_end(make: Make) -> None:
    """Who was asked for its stacks and is killed later has said all."""
    deck = make(talking)
    deck.spawn()
    deck.until(lambda: deck.events)
    assert "in talking" in dump(deck).words
    deck.kill()
    assert WorkerExited(7, None, "SIGKILL") == deck.events[-1]


def test_each_worker_has_a_file_of_its_own(make: Make) -> None:
    """And the master lets go of it when the worker is dead."""
    before = open_now()
    deck = make(talking)
    deck.spawn(worker=1)
    deck.spawn(worker=2)
    deck.until(lambda: len(deck.events) == 2)
    held = [name for name in descriptors().values() if "wsworker-words" in name]
    assert 2 == len(held)
    deck.kill(1)
    deck.kill(2)
    assert not [name for name in descriptors().values() if "wsworker-words" in name]
    assert 2 == open_now() - before  # the selector and the listener of the deck


def test_rows_are_handed_on(make: Make) -> None:
    """A part of a list is an event, with the worker it is from."""

    def enter_worker(assignment: Assignment) -> int:
        say(assignment.channel, Report("rows", token=9, total=2, rows=({"id": "a"},), last=True))
        stay()

    deck = make(enter_worker)
    deck.spawn()
    deck.until(lambda: deck.events)
    assert [events.WorkerAnswered(7, 9, 2, ({"id": "a"},), last=True)] == deck.events


def test_the_last_word_is_heard_behind_much_else(make: Make) -> None:
    """A worker that fails while it lists thousands of connections still tells why."""

    def enter_worker(assignment: Assignment) -> int:
        assignment.channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for _ in range(3):
            say(assignment.channel, Report("rows", token=9, rows=({"path": "x" * 50_000},)))
        say(assignment.channel, Report("failed", "crash", "no more"))
        return 1

    deck = make(enter_worker)
    pid = deck.spawn()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    deck.turn(backwards=True)
    deck.until(lambda: deck.events and isinstance(deck.events[-1], WorkerExited))
    assert WorkerFailed(7, "crash", "no more") == deck.events[-2]


# --- out of memory ------------------------------------------------------------------------------------------------


def count_oom(folder: Path, kills: int) -> None:
    """Be the kernel that has killed so many."""
    (folder / "cgroup").mkdir(exist_ok=True)
    (folder / "membership").write_text("0::/\n")
    (folder / "cgroup" / "memory.events").write_text(f"oom 9\noom_kill {kills}\n")


def exits(deck: Deck) -> list[WorkerExited]:
    """Return the deaths."""
    return [event for event in deck.events if isinstance(event, WorkerExited)]


def test_a_worker_that_the_kernel_killed_for_memory(make: Make, tmp_path: Path) -> None:
    """SIGKILL that is not ours, while the count has just grown: told of all that die now, and not of a later one."""
    count_oom(tmp_path, 3)
    deck = make(deaf)
    pids = {worker: deck.spawn(worker=worker, slot=worker) for worker in (1, 2, 3)}
    count_oom(tmp_path, 5)
    for worker in (1, 2):
        os.kill(pids[worker], signal.SIGKILL)
    deck.until(lambda: len(exits(deck)) == 2)
    deck.now += 4.0
    os.kill(pids[3], signal.SIGKILL)
    deck.until(lambda: len(exits(deck)) == 3)
    assert [True, True, False] == [event.oom for event in exits(deck)]


def test_a_kill_of_ours_is_never_one_for_memory(make: Make, tmp_path: Path) -> None:
    """Nor is another signal or an exit; the one that it was is told all the same."""
    count_oom(tmp_path, 0)
    deck = make(deaf)
    pids = {worker: deck.spawn(worker=worker, slot=worker) for worker in (1, 2, 3)}
    count_oom(tmp_path, 1)
    deck.kill(1)
    os.kill(pids[2], signal.SIGTERM)
    deck.until(lambda: len(exits(deck)) == 2)
    os.kill(pids[3], signal.SIGKILL)
    deck.until(lambda: len(exits(deck)) == 3)
    assert [False, False, True] == [event.oom for event in exits(deck)]


# --- descriptors that go along ------------------------------------------------------------------------------------


def as_heard(order: Order) -> Any:
    """Return the fields of an order as they come out of a pipe."""
    return json.loads(json.dumps(dataclasses.asdict(order)))


def taking(pipe: Pipe) -> EnterWorker:
    """Make a worker that tells each order and which files came along."""

    def enter_worker(assignment: Assignment) -> int:
        say(assignment.channel, Report("ready"))
        while True:
            data, fds, _, _ = socket.recv_fds(assignment.channel, 65536, 10)
            (line,) = data.splitlines()
            pipe.tell([as_heard(decode_order(line)), [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]])

    return enter_worker


@pytest.mark.parametrize("slot", [3, 2, 1])
def test_lent_listeners_go_along(make: Make, pipe: Pipe, slot: int) -> None:
    """As many as may be lent of that slot; the order says how many, also none."""
    deck = make(taking(pipe))
    deck.spawn()
    listener = descriptors()[str(deck.listener.fileno())]
    deck.tell(Order("lend", slot=slot))
    assert [as_heard(Order("lend", slot=slot, fds=slot - 1)), [listener] * (slot - 1)] == pipe.hear()
    deck.tell(Order("recall", slot=slot))
    assert [as_heard(Order("recall", slot=slot)), []] == pipe.hear()


def moving(pipe: Pipe) -> EnterWorker:
    """Make a worker that says to each pair of a hand-over which share it has, and tells what it hears at others' ends.

    A giver tells its order first, and then what became of each of its ends; a taker what it was sent, "" for the end.
    """

    def hear(end: socket.socket) -> str:
        assert readable(end.fileno())
        return end.recv(100).decode()

    def enter_worker(assignment: Assignment) -> int:
        assignment.seat.write(1, 0, 24, False, Counters())
        say(assignment.channel, Report("ready"))
        while True:
            data, fds, _, _ = socket.recv_fds(assignment.channel, 65536, 64)
            ends = [socket.socket(fileno=fd) for fd in fds]
            for line in data.splitlines():
                order = decode_order(line)
                mine, ends = ends[: order.fds], ends[order.fds :]
                kinds = [[end.type == socket.SOCK_SEQPACKET, os.get_blocking(end.fileno())] for end in mine]
                if order.name == "take":
                    pipe.tell([assignment.worker, "take", list(order.shares), kinds, hear(mine[0])])
                    continue
                pipe.tell([assignment.worker, order.name, order.why, list(order.shares), kinds])
                for end, share in zip(mine, order.shares, strict=True):
                    with contextlib.suppress(BrokenPipeError):
                        end.send(f"share {share}".encode())
                if order.name == "give":
                    say(assignment.channel, Report("moved", total=3, left={"busy": 2}, pause=0.5, waits=1))

    return enter_worker


PAIR_KIND = [True, False]
"""Packets, and no waiting."""


def test_a_hand_over_gives_both_sides_an_end_of_a_pair(make: Make, pipe: Pipe) -> None:
    """Each taker has one of its own, and knows how many come; the master keeps none of them."""
    deck = make(moving(pipe))
    for number in (1, 2, 3):
        deck.spawn(worker=number, slot=number)
    deck.until(lambda: len(deck.events) == 3)
    before = descriptors()
    assert None is deck.crew.hand_over(events.Handover(3, ((1, 5), (2, 7)), Order("give")))
    assert before == descriptors()
    told = sorted((pipe.hear() for _ in range(3)), key=str)
    assert [
        [1, "take", [5], [PAIR_KIND], "share 5"],
        [2, "take", [7], [PAIR_KIND], "share 7"],
        [3, "give", "", [5, 7], [PAIR_KIND] * 2],
    ] == told
    deck.until(lambda: len(deck.events) == 4)
    assert events.HandoverFinished(3, 3, {"busy": 2}, 0.5, 1) == deck.events[-1]
    assert Standing.DRAINING not in [member.standing for member in deck.table.members()]


def test_who_drains_by_handing_over_is_seen_to_drain(make: Make, pipe: Pipe) -> None:
    """As one that only drains: others open no link to it any more."""
    deck = make(moving(pipe))
    for number in (1, 2):
        deck.spawn(worker=number, slot=number)
    deck.until(lambda: len(deck.events) == 2)
    deck.crew.hand_over(events.Handover(1, ((2, 1),), Order("drain", "reload")))
    standings = {member.worker: member.standing for member in deck.table.members()}
    assert Standing.DRAINING == standings[1]
    assert Standing.DRAINING != standings.get(2)
    told = sorted((pipe.hear() for _ in range(2)), key=str)
    assert [[1, "drain", "reload", [1], [PAIR_KIND]], [2, "take", [24], [PAIR_KIND], "share 1"]] == told


@pytest.mark.parametrize("reaped", [False, True], ids=["the master knows", "it has just died"])
def test_a_taker_that_has_died_is_an_end_of_file(make: Make, pipe: Pipe, reaped: bool) -> None:
    """The giver sees at once that nobody is there, and keeps what it has."""

    def giver(assignment: Assignment) -> int:
        say(assignment.channel, Report("ready"))
        _, fds, _, _ = socket.recv_fds(assignment.channel, 65536, 10)
        end = socket.socket(fileno=fds[0])
        assert readable(end.fileno())
        pipe.tell(end.recv(100).decode())
        stay()

    deck = make(lambda given: giver(given) if given.worker == 1 else deaf(given))
    deck.spawn(worker=1)
    pid = deck.spawn(worker=2, slot=2)
    deck.until(lambda: len(deck.events) == 2)
    if reaped:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    else:
        deck.kill(2)
    assert None is deck.crew.hand_over(events.Handover(1, ((2, 1),), Order("drain", "reload")))
    assert "" == pipe.hear()
    deck.until(lambda: 2 not in deck.crew.pids())


def test_a_giver_that_has_died_gives_nothing(make: Make) -> None:
    """Nobody is told to take from it."""
    deck = make(deaf)
    deck.spawn(worker=2)
    before = descriptors()
    assert None is deck.crew.hand_over(events.Handover(1, ((2, 1),), Order("drain", "reload")))
    assert before == descriptors()


@pytest.mark.parametrize(
    ("order", "told", "left"),
    [
        (Order("drain", "reload"), ["drain", "reload", 0], {"descriptors": 4}),
        (Order("give"), ["go", "", 0], {"descriptors": 3}),
    ],
    ids=["drain", "give"],
)
def test_without_a_pair_nothing_moves_and_that_is_told(order: Order, told: list[Any], left: dict[str, int]) -> None:
    """Who leaves drains as it always could; a rebalance hears of it at once, and does not wait."""

    def master() -> list[Any]:
        pipe = Pipe()

        def giver(assignment: Assignment) -> int:
            assignment.seat.write(1, 0, 4, False, Counters())
            say(assignment.channel, Report("ready"))
            for heard in orders(assignment.channel):
                pipe.tell([heard.name, heard.why, heard.fds])
            return 0

        deck = Deck(giver)
        deck.spawn(worker=1)
        deck.spawn(worker=2, slot=2)
        deck.until(lambda: len(deck.events) == 2)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = sorted(set(range(1000)) - {int(fd) for fd in descriptors()})
        # room for one end, and of that nothing is left
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[1], hard))
        event = deck.crew.hand_over(events.Handover(1, ((2, 3),), order))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        deck.tell(Order("go"), worker=1)
        heard = pipe.hear()
        deck.close()
        assert isinstance(event, events.HandoverFinished)
        return [heard, event.worker, event.moved, event.left, event.waits]

    assert [told, 1, 0, left, 0] == in_child(master)


def test_some_pairs_are_better_than_none() -> None:
    """The takers that are left out get nothing; the log says so."""

    def master() -> list[Any]:
        pipe = Pipe()
        deck = Deck(moving(pipe))
        for number in (1, 2, 3):
            deck.spawn(worker=number, slot=number)
        deck.until(lambda: len(deck.events) == 3)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = sorted(set(range(1000)) - {int(fd) for fd in descriptors()})
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[3], hard))
        event = deck.crew.hand_over(events.Handover(3, ((1, 5), (2, 7)), Order("drain", "scale")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        heard = sorted((pipe.hear() for _ in range(2)), key=str)
        silent = pipe.silent()
        deck.close()
        return [event, heard, silent]

    told = [[1, "take", [10], [PAIR_KIND], "share 5"], [3, "drain", "scale", [5], [PAIR_KIND]]]
    assert [None, told, True] == in_child(master)


def test_a_new_log_is_handed_to_every_worker(make: Make, pipe: Pipe, tmp_path: Path) -> None:
    """The descriptor goes along and stays open here; a broken channel keeps nobody else from it."""
    deck = make(taking(pipe))
    deck.spawn(worker=1, slot=1)
    dead = deck.spawn(worker=2, slot=2)
    deck.spawn(worker=3, slot=3)
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    with (tmp_path / "chat.log").open("ab") as log:
        deck.crew.hand_log("-", log.fileno())
        os.fstat(log.fileno())
    told = [as_heard(Order("reopen", fds=1)), [str(tmp_path / "chat.log")]]
    assert [told, told] == [pipe.hear(), pipe.hear()]
    deck.until(lambda: exits(deck))
    deck.crew.hand_log("-", 2)
    assert [pipe.hear()[0], pipe.hear()[0]] == [told[0], told[0]]


def test_a_log_is_handed_to_those_that_write_to_it(make: Make, pipe: Pipe, tmp_path: Path) -> None:
    """Another one has the log of a configuration that is just being tried, or of one that is on its way out."""
    deck = make(taking(pipe))
    deck.spawn(worker=1, slot=1)
    new = str(tmp_path / "new.log")
    deck.spawn(worker=2, slot=2, config=Config(app="app", name="chat", log=LogConfig(file=new)))
    deck.crew.hand_log("-", 2)
    deck.tell(Order("go"), worker=1)
    deck.tell(Order("go"), worker=2)
    assert ["go", "go", "reopen"] == sorted(pipe.hear()[0]["name"] for _ in range(3))
    with (tmp_path / "new.log").open("ab") as log:
        deck.crew.hand_log(new, log.fileno())
    assert ["reopen", [new]] == [(told := pipe.hear())[0]["name"], told[1]]


def fill(deck: Deck, worker: int = 7) -> int:
    """Send orders until one waits; return how many went before."""
    went = 0
    while not deck.writes():
        deck.tell(Order("go"), worker)
        went += 1
    return went - 1


def busy(pipe: Pipe, gate: int) -> EnterWorker:
    """Make a worker that is in a callback until the gate opens, and then tells what it was told, but `go`."""

    def enter_worker(assignment: Assignment) -> int:
        channel = assignment.channel
        say(channel, Report("ready"))
        assert readable(gate)
        lines, descriptors = Lines(), []
        while True:
            data, fds, _, _ = socket.recv_fds(channel, 65536, 10)
            descriptors += fds
            for order in map(decode_order, lines.feed(data)):
                taken, descriptors = descriptors[: order.fds], descriptors[order.fds :]
                if order.name != "go":
                    pipe.tell([order.name, order.why, [os.readlink(f"/proc/self/fd/{fd}") for fd in taken]])
                if order.name == "drain":
                    return 0

    return enter_worker


def test_a_busy_worker_is_told_when_it_reads_again(make: Make, pipe: Pipe, tmp_path: Path) -> None:
    """What did not fit is not lost: of the logs the newest comes, and then it is told to drain."""
    gate, opener = os.pipe()
    deck = make(busy(pipe, gate))
    deck.spawn()
    deck.until(lambda: deck.events)
    before = descriptors()
    fill(deck)
    for number in range(400):
        with (tmp_path / str(number)).open("ab") as log:
            deck.crew.hand_log("-", log.fileno())
    deck.tell(Order("lend", slot=2))
    deck.tell(Order("drain", "reload"))
    # the newest log and one lent listener
    assert 2 == len(descriptors()) - len(before)
    os.write(opener, b"x")
    deck.until(lambda: exits(deck))
    listener = os.readlink(f"/proc/self/fd/{deck.listener.fileno()}")
    told = [["reopen", "", [str(tmp_path / "399")]], ["lend", "", [listener]], ["drain", "reload", []]]
    assert told == [pipe.hear(), pipe.hear(), pipe.hear()]
    assert [WorkerReady(7), WorkerExited(7, 0)] == deck.events
    # its channel, pidfd and words are gone too
    assert 3 == len(before) - len(descriptors())
    os.close(gate)
    os.close(opener)


def test_a_worker_that_has_read_all_is_not_watched_for_more(make: Make, pipe: Pipe) -> None:
    """Its channel can nearly always be written to: the loop would spin."""
    gate, opener = os.pipe()
    deck = make(busy(pipe, gate))
    deck.spawn()
    deck.until(lambda: deck.events)
    fill(deck)
    deck.tell(Order("recall", slot=2))
    os.write(opener, b"x")
    deck.until(lambda: not deck.writes())
    assert ["recall", "", []] == pipe.hear()
    os.close(gate)
    os.close(opener)


def test_what_waits_for_a_worker_dies_with_it(make: Make) -> None:
    """The master lets go of the descriptors, whatever it is told to send in between."""
    before = open_now()
    deck = make(deaf)
    pid = deck.spawn()
    deck.until(lambda: deck.events)
    fill(deck)
    deck.tell(Order("lend", slot=3))
    deck.crew.hand_log("-", 2)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    deck.tell(Order("drain", "stop"))
    deck.until(lambda: exits(deck))
    assert 2 == open_now() - before  # the selector and the listener of the deck


def test_what_waits_for_a_channel_that_is_closed_is_forgotten(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It spoke nonsense, and nothing is ever written to it again."""
    deck = make(babbling)
    deck.spawn()
    before = descriptors()
    fill(deck)
    deck.tell(Order("lend", slot=3))
    assert 2 == len(descriptors()) - len(before)
    deck.until(lambda: caplog.records)
    # the channel is gone as well
    assert 1 == len(before) - len(descriptors())
    deck.tell(Order("lend", slot=3))
    assert 1 == len(before) - len(descriptors())


def test_a_fresh_worker_holds_nothing_that_waits_for_another(make: Make, pipe: Pipe, tmp_path: Path) -> None:
    """A listener would go on to take clients there, after all others have let go of it."""
    deck = make(lambda given: deaf(given) if given.worker == 1 else telling(pipe, lambda _: descriptors())(given))
    deck.spawn(worker=1)
    deck.until(lambda: deck.events)
    fill(deck, worker=1)
    with (tmp_path / "log").open("ab") as log:
        deck.crew.hand_log("-", log.fileno())
    assert str(tmp_path / "log") in descriptors().values()
    deck.spawn(worker=2)
    assert str(tmp_path / "log") not in pipe.hear().values()
    deck.kill(1)
    assert str(tmp_path / "log") not in descriptors().values()


# --- the log of a worker ------------------------------------------------------------------------------------------


def test_a_new_log_file_is_opened_before_any_code_of_the_worker(make: Make, pipe: Pipe, tmp_path: Path) -> None:
    """What a worker logs stands there under its own name."""

    def log(given: Assignment) -> None:
        logging.getLogger("wsworker.worker").info("here I am")

    file = tmp_path / "new.log"
    deck = make(telling(pipe, log))
    deck.spawn(slot=2, config=Config(app="app", name="chat", log=LogConfig(file=str(file))))
    assert pipe.hear() is None
    assert file.read_text().endswith("INFO  worker 2  here I am\n")


@needs_root
def test_a_worker_of_another_user_gets_a_log_that_only_root_may_open(make: Make, pipe: Pipe, tmp_path: Path) -> None:
    """It is opened before the privileges are dropped."""

    def log(given: Assignment) -> int:
        logging.getLogger("wsworker.worker").info("here I am")
        return os.getuid()

    file = tmp_path / "new.log"
    file.touch(0o600)
    config = Config(app="app", name="chat", user="nobody", log=LogConfig(file=str(file)))
    deck = make(telling(pipe, log), identity(config))
    deck.spawn(config=config)
    assert NOBODY.pw_uid == pipe.hear()
    assert file.read_text().endswith("here I am\n")


def test_a_log_that_cannot_be_opened_is_told_in_a_sentence(make: Make, tmp_path: Path) -> None:
    """The worker does not come up; there is no traceback, and nothing on stderr."""
    deck = make(deaf)
    deck.spawn(config=Config(app="app", name="chat", log=LogConfig(file=str(tmp_path / "no" / "log"))))
    deck.until(lambda: len(deck.events) == 2)
    reason = f"cannot open the log file {tmp_path}/no/log: No such file or directory; "
    advice = "change `log.file` or make it writable"
    assert [WorkerFailed(7, "boot", reason + advice), WorkerExited(7, 1, None)] == deck.events


def test_a_report_of_the_dead_may_cause_a_fork(make: Make) -> None:
    """The new worker closes what the dead one has left in the master, no less and no more."""

    def leaving(assignment: Assignment) -> int:
        say(assignment.channel, Report("ready" if assignment.worker == 8 else "leaving"))
        return 0

    deck = make(leaving)
    deck.when(WorkerLeaving(7), lambda: deck.spawn(worker=8))
    deck.spawn()
    pidfd = next(key for key in deck.selector.get_map().values() if isinstance(key.fileobj, int))
    assert readable(pidfd.fd)
    pidfd.data()
    deck.until(lambda: len(deck.events) == 4)
    assert {WorkerLeaving(7), WorkerExited(7, 0), WorkerReady(8), WorkerExited(8, 0)} == set(deck.events)


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
    """What does not fit into its channel waits, and the loop does not: such a worker is hung, its deadline tells."""
    deck = make(deaf)
    deck.spawn()
    deck.until(lambda: deck.events)
    fill(deck)
    deck.tell(Order("drain", "stop"))
    # nothing is ready: the channel is full
    assert [] == deck.selector.select(0)
    assert 2 == len(deck.selector.get_map())
    assert {} != deck.crew.pids()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGABRT", "SIGKILL"])
def test_a_signal_ends_a_worker(make: Make, name: events.SignalName) -> None:
    """Its name comes back with the news of its end."""

    def plain(assignment: Assignment) -> int:
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        say(assignment.channel, Report("ready"))
        stay()

    deck = make(plain)
    deck.spawn()
    deck.until(lambda: deck.events)
    deck.crew.signal(events.Signal(7, name))
    deck.until(lambda: len(deck.events) == 2)
    assert WorkerExited(7, None, name) == deck.events[-1]


# --- a fork that fails --------------------------------------------------------------------------------------------


def test_a_fork_asks_for_no_account(make: Make, pipe: Pipe) -> None:
    """Who the workers are was looked up once: a directory server that hangs, or an account that is gone, holds no fork.

    It could hold the master's loop, and with it every other worker.
    """
    deck = make(telling(pipe, lambda given: given.config.user))
    deck.spawn(config=CONFIG.model_copy(update={"user": "no-such-user"}))
    assert "no-such-user" == pipe.hear()


def failing_spawn(prepare: Callable[[], None]) -> list[Any]:
    """Let a spawn fail in a process of its own; return why, and what is left of it: descriptors, workers, seats."""

    def master() -> list[Any]:
        deck = Deck(deaf)
        before = descriptors()
        limits = [(which, resource.getrlimit(which)) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
        prepare()
        event = deck.crew.spawn(events.Spawn(7, 1, 5, CONFIG))
        for which, limit in limits:
            resource.setrlimit(which, limit)
        assert isinstance(event, events.SpawnFailed)
        left: list[Any] = [before == descriptors(), len(deck.crew.pids()), deck.table.read(1, 7) is None]
        with contextlib.suppress(ChildProcessError):
            left.append(os.waitpid(-1, os.WNOHANG))
        return [event.reason, left]

    result = in_child(master)
    assert isinstance(result, list)
    return result


@pytest.mark.parametrize("room", range(5), ids=["nothing", "half a channel", "no memfd", "no pidfd", "all"])
def test_without_descriptors_no_worker_is_spawned(room: int) -> None:
    """Whatever comes to be missing: the supervisor hears of it in words, and nothing is left of the try."""

    def exhaust() -> None:
        free = sorted(set(range(1000)) - {int(fd) for fd in descriptors()})
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))

    if room < 4:
        reason = "the master is out of descriptors; raise LimitNOFILE= of the unit or `ulimit -n`"
        assert [reason, [True, 0, True]] == failing_spawn(exhaust)
    else:
        # the four that a worker costs: two ends of a channel, last words, a pidfd
        with pytest.raises(AssertionError, match="Spawned"):
            failing_spawn(exhaust)


def test_without_room_for_a_process_no_worker_is_spawned() -> None:
    """The limit of processes, as TasksMax= and `ulimit -u` set it."""

    def crowd() -> None:
        if os.geteuid() == 0:
            become_nobody()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))

    reason = "no more processes are allowed; raise TasksMax= of the unit or `ulimit -u`"
    assert [reason, [True, 0, True]] == failing_spawn(crowd)


# --- the next program in this process -----------------------------------------------------------------------------


def heir(deck: Deck) -> Deck:
    """Return the deck of the next program; the one before knows of no worker any more."""
    given = inheritable()
    after = Deck(obedient)
    after.table = Table(3, os.dup(deck.table.memory.fd))
    after.crew._table = after.table
    after.crew.inherit([left(one) for one in deck.crew.bequeath()])
    assert given == inheritable()
    for child in deck.crew._children.values():
        deck.selector.unregister(child.channel)
        deck.selector.unregister(child.process.pidfd)
        child.channel.close()
        child.words.close()
        os.close(child.process.pidfd)
    deck.crew._children.clear()
    return after


@pytest.fixture
def handed() -> Iterator[Callable[[Deck], Deck]]:
    """Give a function: have another program go on with the workers of a deck."""
    made: list[Deck] = []

    def hand_over(deck: Deck) -> Deck:
        made.append(heir(deck))
        return made[-1]

    yield hand_over
    for deck in made:
        deck.close()


Handed = Callable[[Deck], Deck]


def test_another_program_goes_on_with_the_workers(make: Make, handed: Handed) -> None:
    """It is told what they say, they are told what it wants, and what they have counted is theirs."""
    deck = make(obedient)
    pids = {worker: deck.spawn(worker, slot) for worker, slot in ((7, 1), (8, 1), (9, 2))}
    deck.until(lambda: len(deck.events) == 3)
    after = handed(deck)
    assert pids == dict(after.crew.pids())
    assert 4 == after.table.readings(1)[0].connections
    after.tell(Order("go"), 9)
    after.until(lambda: after.events)
    assert [WorkerLeaving(9)] == after.events
    for worker in pids:
        after.tell(Order("drain", "stop"), worker)
    after.until(lambda: not after.crew.pids())
    assert {WorkerExited(worker, 3) for worker in pids} == set(after.events) - {WorkerLeaving(9)}
    assert (22, 11) == tuple(after.table.totals(slot).messages_in for slot in (1, 2))
    assert None is after.table.read(1, 7)


def test_another_program_hears_the_rest_of_a_report(make: Make, handed: Handed) -> None:
    """One that was cut in the middle."""
    deck = make(in_parts)
    deck.spawn()
    deck.until(lambda: deck.events and deck.crew._children[7].lines.rest)
    after = handed(deck)
    after.tell(Order("go"))
    after.until(lambda: after.events)
    assert [WorkerLeaving(7)] == after.events


def test_another_program_reads_the_last_words(make: Make, handed: Handed) -> None:
    """Those that were not told yet, and no others."""
    deck = make(talking)
    deck.spawn()
    deck.until(lambda: deck.events)
    assert "in talking" in dump(deck).words
    after = handed(deck)
    after.crew.signal(events.Signal(7, "SIGABRT"))
    after.until(lambda: after.events)
    (exited,) = after.events
    assert isinstance(exited, WorkerExited)
    assert "SIGABRT" == exited.signal
    assert exited.words.startswith("Fatal Python error: Aborted\n")


def test_a_death_in_between_is_heard_of(make: Make, handed: Handed) -> None:
    """A worker that is dead when the next program begins is reaped by it."""
    deck = make(obedient)
    pid = deck.spawn()
    deck.until(lambda: deck.events)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    after = handed(deck)
    after.until(lambda: after.events)
    assert [WorkerExited(7, None, "SIGKILL", dropped=4)] == after.events
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_a_log_is_handed_on_to_workers_of_the_former_program(make: Make, handed: Handed, pipe: Pipe) -> None:
    """Which file each of them writes to is known."""
    deck = make(lambda given: hear_orders(given, pipe))
    deck.spawn()
    deck.until(lambda: deck.events)
    after = handed(deck)
    after.crew.hand_log("elsewhere", 2)
    after.crew.hand_log("-", 2)
    after.tell(Order("recall", slot=2))
    assert ["reopen", "recall"] == [pipe.hear(), pipe.hear()]


def hear_orders(given: Assignment, pipe: Pipe) -> int:
    """Be ready, and tell which orders come."""
    say(given.channel, Report("ready"))
    for order in orders(given.channel):
        pipe.tell(order.name)
    return 0


def test_half_an_order_cannot_be_left(make: Make, pipe: Pipe) -> None:
    """A worker that reads none is in the way, until it reads again."""
    gate, opener = os.pipe()
    deck = make(busy(pipe, gate))
    deck.spawn(slot=2)
    deck.until(lambda: deck.events)
    fill(deck)
    with pytest.raises(OSError, match="worker 2 reads no orders now; try again") as caught:
        deck.crew.bequeath()
    assert errno.EBUSY == caught.value.errno
    os.write(opener, b"x")
    deck.until(lambda: not deck.writes())
    assert [7] == [one.worker for one in deck.crew.bequeath()]
    os.close(gate)
    os.close(opener)


def test_a_channel_that_is_closed_cannot_be_left(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """There is no descriptor for it; a reload replaces the worker."""
    deck = make(babbling)
    deck.spawn()
    deck.until(lambda: caplog.records)
    with pytest.raises(OSError, match="worker 1 has closed its channel; reload first"):
        deck.crew.bequeath()
