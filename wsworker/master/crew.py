"""The crew: the workers as the master's loop sees them, each a process, a channel and a seat in the shared table.

It forks them when told, carries orders to them, turns what comes back into events (reports, and at last an exit) and
keeps no opinion about any of it. A worker's end is seen by its pidfd. Its last report, its counters and its last words
are taken before the news of its end goes out, so whoever hears of a death knows all that was said before.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import setproctitle

from wsworker import log, tls
from wsworker.assignment import Assignment, Desk
from wsworker.bus.mesh.berth import Berth
from wsworker.bus.mesh.members import Standing
from wsworker.errors import EX_CONFIG, OUT_OF_DESCRIPTORS, TlsError, WireError
from wsworker.master import events, stacks
from wsworker.master.cgroup import OomCounter
from wsworker.master.estate import Living
from wsworker.master.events import Event, Reading, WorkerId
from wsworker.master.orders import Orders
from wsworker.master.process import Identity, Process, is_stopped, spawn
from wsworker.master.words import LastWords
from wsworker.stats import Seat, Table
from wsworker.wire import ERROR_CHARACTERS, FailureKind, Lines, Order, OrderName, Report, decode_report, encode

EnterWorker: TypeAlias = Callable[[Assignment], int]
"""What a forked worker runs until it is told to go; returns the exit code. The CLI hands in that of worker/main.py."""

SILENT_SECONDS: Final = 2.0
"""A beat older than this is worth a look into /proc: is the worker stopped?"""

TRACE_CHARACTERS: Final = 9000
"""Of a traceback; at most six bytes each in JSON, so that the report stays below wire.MAX_LINE_BYTES."""

STANDINGS: Final[Mapping[OrderName, Standing]] = {"go": Standing.READY, "drain": Standing.DRAINING}
"""Where a worker stands, to the others, once it is told so."""

PAIR: Final = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
"""Of what a pair for a hand-over is: each packet arrives whole, with its descriptors; unix(7)."""

REASONS: Final[Mapping[int | None, str]] = {
    errno.EAGAIN: "no more processes are allowed; raise TasksMax= of the unit or `ulimit -u`",
    errno.ENOMEM: "out of memory",
    **{number: "; ".join(words) for number, words in OUT_OF_DESCRIPTORS.items()},
}
"""Why a worker cannot be forked, or a pair cannot be made, in words."""

logger = logging.getLogger("wsworker.master")


@dataclass(eq=False, slots=True)
class Child:
    """One living worker.

    orders: what it is told over the channel. log_file: where it was told to log. killed: we have sent it SIGKILL.
    lines: holds what came of a report that is not whole yet.
    """

    worker: WorkerId
    slot: int
    process: Process
    channel: socket.socket
    orders: Orders
    seat: Seat
    words: LastWords
    log_file: str
    killed: bool = False
    lines: Lines = field(default_factory=Lines)


class Crew:
    """All living workers.

    selector: the master's; handlers stand in the data of its keys. feed: takes each event. identity: who the workers
    are, looked up once. enter_worker: what a worker runs. leave: called in a fresh worker with its slot, closes what is
    the master's. sockets: gives a slot's listeners; lendable: those of them that another slot may accept from. rss:
    gives the resident bytes of a worker as last sampled, 0 before. oom: tells whether the kernel has killed for want of
    memory. now: a clock. changed: hears of files that a worker has seen change, by its id, their names and the mark.
    desk: gives what a worker needs for admin requests. app_set_at: tells where `app` is set.
    berth: gives the place of a worker, by its id and slot, in the mesh of workers.
    """

    def __init__(
        self,
        name: str,
        node: str,
        selector: selectors.BaseSelector,
        table: Table,
        feed: Callable[[Event], None],
        identity: Identity,
        enter_worker: EnterWorker,
        leave: Callable[[int], None],
        sockets: Callable[[int], list[socket.socket]],
        lendable: Callable[[int], list[socket.socket]],
        rss: Callable[[WorkerId], int],
        oom: OomCounter,
        now: Callable[[], float],
        changed: Callable[[int, str, str], None] = lambda worker, names, mark: None,
        desk: Callable[[], Desk | None] = lambda: None,
        app_set_at: Callable[[], str] = lambda: "",
        berth: Callable[[WorkerId, int], Berth | None] = lambda worker, slot: None,
    ) -> None:
        self._name = name
        self._node = node
        self._selector = selector
        self._table = table
        self._feed = feed
        self._identity = identity
        self._enter_worker = enter_worker
        self._leave = leave
        self._sockets = sockets
        self._lendable = lendable
        self._rss = rss
        self._oom = oom
        self._now = now
        self._changed = changed
        self._desk = desk
        self._app_set_at = app_set_at
        self._berth = berth
        self._children: dict[WorkerId, Child] = {}
        self._traced: list[Child] = []  # dead and not reaped yet

    def pids(self) -> dict[WorkerId, int]:
        """Return the pid of each living worker."""
        return {child.worker: child.process.pid for child in self._children.values()}

    def readings(self, slot: int | None = None) -> dict[WorkerId, Reading]:
        """Return what is known of each living worker, or of those of one slot."""
        now = self._now()
        children = [child for child in self._children.values() if slot in (None, child.slot)]
        return {child.worker: self._reading(child, now) for child in children}

    def _reading(self, child: Child, now: float) -> Reading:
        seen = child.seat.read()
        return Reading(
            beat_at=seen.beat_at,
            connections=seen.connections,
            full=seen.full,
            lag_seconds=seen.lag_seconds,
            messages=seen.counters.messages_in,
            rss_bytes=self._rss(child.worker),
            stopped=now - seen.beat_at > SILENT_SECONDS and is_stopped(child.process.pid),
        )

    def spawn(self, action: events.Spawn) -> Event:
        """Fork a worker and listen to it. If anything for it is not to be had, nothing is left of the try."""
        seat = self._table.claim(action.slot, action.worker)
        with contextlib.ExitStack() as undo:
            undo.callback(self._table.fold, action.slot, action.worker)
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                undo.enter_context(ours)
                with theirs:
                    words = LastWords()
                    undo.callback(words.close)
                    process = self._fork(action, seat, ours, theirs, words)
            except OSError as error:
                return events.SpawnFailed(action.worker, REASONS.get(error.errno, error.strerror or str(error)))
            undo.pop_all()
        ours.setblocking(False)
        orders = Orders(ours, self._selector, action.slot)
        child = Child(action.worker, action.slot, process, ours, orders, seat, words, action.config.log.file)
        self._listen_to(child)
        return events.Spawned(action.worker, process.pid)

    def _fork(
        self, action: events.Spawn, seat: Seat, ours: socket.socket, theirs: socket.socket, words: LastWords
    ) -> Process:
        """Raises OSError."""
        config = action.config
        context: ssl.SSLContext | None = None

        def prepare() -> None:
            nonlocal context
            ours.close()
            self.close()
            self._leave(action.slot)
            # while it may still open a log file that is new in this configuration: the user it becomes may not
            log.set_up(config.log, action.slot)
            # and while it may read the key
            try:
                context = tls.context(config.tls)
            except TlsError as error:
                report("app", str(error))
                raise SystemExit(EX_CONFIG) from None

        def run() -> int:
            setproctitle.setproctitle(f"wsworker: worker {action.slot} [{self._name}] gen {action.generation}")
            listeners, own = self._sockets(action.slot), self._lendable(action.slot)
            assignment = Assignment(
                config=config,
                worker=action.worker,
                slot=action.slot,
                generation=action.generation,
                node=self._node,
                sockets=listeners,
                shared=[listener for listener in listeners if listener not in own],
                channel=theirs,
                seat=seat,
                others=lambda: self._table.others(action.slot),
                words=words.fd,
                tls=context,
                desk=self._desk(),
                app_set_at=self._app_set_at(),
                berth=self._berth(action.worker, action.slot),
            )
            return self._enter_worker(assignment)

        def report(kind: FailureKind, reason: str, trace: str = "") -> None:
            failure = Report("failed", kind, error=reason[:ERROR_CHARACTERS], trace=trace[-TRACE_CHARACTERS:])
            theirs.sendall(encode(failure))

        return spawn(prepare, self._identity, run, lambda reason, trace: report("boot", reason, trace))

    def bequeath(self) -> list[Living]:
        """Return every worker, for the program that goes on in this process.

        Raises OSError (EBUSY) if one of them was told something that it has not read, as half of it cannot be left, or
        if one cannot be told anything.
        """
        for child in self._children.values():
            child.orders.flush()
            if child.channel.fileno() < 0:
                raise OSError(errno.EBUSY, f"worker {child.slot} has closed its channel; reload first")
            if child.orders.waits:
                raise OSError(errno.EBUSY, f"worker {child.slot} reads no orders now; try again")
        return [
            Living(
                child.worker,
                child.slot,
                child.process.pid,
                child.process.pidfd,
                child.channel.fileno(),
                child.words.fd,
                child.words.read,
                child.log_file,
                child.lines.rest.decode("latin-1"),
            )
            for child in self._children.values()
        ]

    def inherit(self, left: Sequence[Living]) -> None:
        """Go on with the workers that a former program of this process has started; each has a seat in the table."""
        for one in left:
            channel = socket.socket(fileno=one.channel)
            for descriptor in (one.channel, one.pidfd, one.words):
                os.set_inheritable(descriptor, False)
            child = Child(
                worker=one.worker,
                slot=one.slot,
                process=Process(one.pid, one.pidfd),
                channel=channel,
                orders=Orders(channel, self._selector, one.slot),
                seat=self._table.seat(one.slot, one.worker),
                words=LastWords(one.words, one.words_read),
                log_file=one.log_file,
            )
            child.lines.feed(one.rest.encode("latin-1"))
            self._listen_to(child)

    def _listen_to(self, child: Child) -> None:
        self._children[child.worker] = child
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._attend(child))
        self._selector.register(child.process.pidfd, selectors.EVENT_READ, lambda: self._die(child))

    def tell(self, action: events.Tell) -> None:
        """Send an order, and with `lend` the listeners of its slot; a busy worker gets it once it reads again."""
        child = self._children.get(action.worker)
        if child:
            self._stand(child, action.order)
            lent = self._lendable(action.order.slot) if action.order.name == "lend" else []
            child.orders.send(action.order, [listener.fileno() for listener in lent])

    def hand_over(self, action: events.Handover) -> Event | None:
        """Give a worker and each of its takers the two ends of a pair, and tell them what to do with it.

        A taker that cannot be told any more has no end, so the giver sees the end of file. Without any pair a `drain`
        is told without one, and nothing of a `give`; then it is over already, and why is what it returns.
        """
        giver = self._children.get(action.giver)
        if giver is None:
            return None
        with contextlib.ExitStack() as copies:
            ends: dict[int, int] = {}
            # of what it holds, or as many as the shares say
            held, everything = giver.seat.read().connections, sum(share for _, share in action.takers)
            count = held if action.order.name == "drain" else everything
            for worker, share in action.takers:
                taker = self._children.get(worker)
                try:
                    ours, theirs = socket.socketpair(socket.AF_UNIX, PAIR)
                except OSError as error:
                    reason = REASONS.get(error.errno, error.strerror or str(error))
                    logger.error("no connection of worker %d can move to worker %d: %s", giver.slot, worker, reason)
                    break
                copies.enter_context(ours)
                copies.enter_context(theirs)
                ends[ours.fileno()] = share
                if taker:
                    taker.orders.send(Order("take", shares=(count * share // everything,)), [theirs.fileno()])
            if ends or action.order.name == "drain":
                self._stand(giver, action.order)
                giver.orders.send(replace(action.order, shares=tuple(ends.values())), [*ends])
        if ends:
            return None
        return events.HandoverFinished(action.giver, 0, {"descriptors": count} if count else {}, 0.0)

    def hand_log(self, file: str, fd: int) -> None:
        """Have every worker that logs to a file write to this descriptor from now on. It stays the caller's.

        file: `log.file` as it was opened anew. During a reload that changes it workers of both files live side by side.
        """
        for child in self._children.values():
            if child.log_file == file:
                child.orders.send(Order("reopen"), [fd])

    def _stand(self, child: Child, order: Order) -> None:
        if order.name in STANDINGS:
            # before the order: a worker that is dialled too early only finds it waiting
            child.seat.stand(STANDINGS[order.name])

    def signal(self, action: events.Signal) -> None:
        """Send a signal, if that worker still lives."""
        child = self._children.get(action.worker)
        if child:
            try:
                child.process.signal(action.name)
            except PermissionError:
                logger.error("may not send %s to worker %d (pid %d)", action.name, child.slot, child.process.pid)
            else:
                child.killed = child.killed or action.name == "SIGKILL"

    def read_words(self) -> None:
        """Tell of every living worker that has written its stacks; to be called about once a second."""
        for child in [*self._children.values()]:
            words = stacks.trim(child.words.unread())
            if words:
                self._feed(events.WorkerDumped(child.worker, words))

    def send_late(self) -> None:
        """Try again what the kernel could not take; to be called about once a second."""
        for child in self._children.values():
            child.orders.flush()

    def bury_late(self) -> None:
        """Reap those whose tracer had them first; to be called about once a second."""
        for child in [*self._traced]:
            self._bury(child)

    def close(self) -> None:
        """Close all channels, pidfds, memfds and descriptors that wait to be sent, in a fresh worker.

        While it held the master's end of another worker's channel, that worker would never see the end of file by which
        it notices that the master is gone.
        """
        for child in self._children.values():
            child.channel.close()
            child.orders.close()
            os.close(child.process.pidfd)
            child.words.close()

    def _attend(self, child: Child) -> None:
        child.orders.flush()
        self._hear(child)

    def _hear(self, child: Child) -> bool:
        """Read the reports that are there; False if there is nothing more.

        A channel that speaks nonsense is closed, and its worker ends by that.
        """
        if child.channel.fileno() < 0:
            # its pidfd stood before it in the same turn of the loop
            return False
        try:
            data = child.channel.recv(65536)
            reports = [decode_report(line) for line in child.lines.feed(data)]
        except BlockingIOError:
            return False
        except OSError:
            # it has died with orders unread; its pidfd tells more
            data, reports = b"", []
        except WireError as error:
            logger.error("the channel of worker %d is closed: %s", child.slot, error)
            data, reports = b"", []
        for report in reports:
            if report.name == "ready":
                # whoever is replaced now has its connections counted as they are now
                self._feed(events.SlotsRead(self.readings(child.slot)))
            if report.name == "changed":
                # what follows begins in the configuration, and not in the supervisor
                self._changed(child.worker, report.error, report.mark)
            else:
                self._feed(_event_of(report, child.worker))
        if not data:
            self._hang_up(child)
        return bool(data)

    def _hang_up(self, child: Child) -> None:
        if child.channel.fileno() >= 0:
            self._selector.unregister(child.channel)
            child.channel.close()
            child.orders.close()

    def _die(self, child: Child) -> None:
        self._selector.unregister(child.process.pidfd)
        # before it is reaped: a report may cause a fork, and the pidfd is still one of those to be closed in it
        while self._hear(child):
            # why it died may stand behind what it was telling just then
            pass
        self._hang_up(child)
        self._traced.append(child)
        self._bury(child)

    def _bury(self, child: Child) -> None:
        status = child.process.reap()
        if status is None:
            # strace or a debugger holds it: it is dead, and its status is the tracer's to take first. ptrace(2)
            return
        self._traced.remove(child)
        words = stacks.trim(child.words.unread())
        child.words.close()
        last = self._table.read(child.slot, child.worker)
        dropped = last.counters.cut + last.connections if last else 0
        self._table.fold(child.slot, child.worker)
        del self._children[child.worker]
        code, signal_name = status
        oom = signal_name == "SIGKILL" and not child.killed and self._oom.just_killed(self._now())
        self._feed(events.WorkerExited(child.worker, code, signal_name, oom, words, dropped))


def _event_of(report: Report, worker: WorkerId) -> Event:
    match report.name:
        case "ready":
            return events.WorkerReady(worker)
        case "failed":
            return events.WorkerFailed(worker, report.kind, report.error, report.trace)
        case "leaving":
            return events.WorkerLeaving(worker)
        case "rows":
            return events.WorkerAnswered(worker, report.token, report.total, report.rows, report.last)
        case "moved":
            return events.HandoverFinished(worker, report.total, report.left, report.pause, report.waits)
        case "changed":
            raise AssertionError("no event: see _hear")
