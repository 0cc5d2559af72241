"""The crew: the workers as the master's loop sees them, each a process, a channel and a seat in the shared table.

It forks them when told, carries orders to them, turns what comes back into events (reports, and at last an exit) and
keeps no opinion about any of it. A worker's end is seen by its pidfd. Its last report and its counters are taken before
the news of its end goes out, so whoever hears of a death knows all that was said before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
from collections.abc import Callable
from typing import Protocol

import setproctitle

from wsworker.config import Config
from wsworker.errors import WireError
from wsworker.master import events
from wsworker.master.events import Event, Reading, WorkerId
from wsworker.master.process import Process, identity, spawn
from wsworker.stats import Seat, Table
from wsworker.wire import Lines, Report, decode_report, encode

logger = logging.getLogger("wsworker.master")


class EnterWorker(Protocol):
    """What a forked worker runs; it stands in worker/main.py and is handed in by the CLI."""

    def __call__(
        self,
        *,
        config: Config,
        worker: WorkerId,
        slot: int,
        generation: int,
        node: str,
        sockets: list[socket.socket],
        channel: socket.socket,
        seat: Seat,
    ) -> int:
        """Serve until told to go; return the exit code."""


class Child:
    """One living worker; lines holds what came of a report that is not whole yet."""

    def __init__(self, worker: WorkerId, slot: int, process: Process, channel: socket.socket) -> None:
        self.worker = worker
        self.slot = slot
        self.process = process
        self.channel = channel
        self.lines = Lines()


class Crew:
    """All living workers.

    selector: the master's; handlers stand in the data of its keys. feed: takes each event. enter_worker: what a worker
    runs. leave: called in a fresh worker with its slot, closes what is the master's. sockets: gives a slot's listeners.
    """

    def __init__(
        self,
        name: str,
        node: str,
        selector: selectors.BaseSelector,
        table: Table,
        feed: Callable[[Event], None],
        enter_worker: EnterWorker,
        leave: Callable[[int], None],
        sockets: Callable[[int], list[socket.socket]],
    ) -> None:
        self._name = name
        self._node = node
        self._selector = selector
        self._table = table
        self._feed = feed
        self._enter_worker = enter_worker
        self._leave = leave
        self._sockets = sockets
        self._children: dict[WorkerId, Child] = {}
        self._traced: list[Child] = []  # dead and not reaped yet

    def pids(self) -> dict[WorkerId, int]:
        """Return the pid of each living worker."""
        return {child.worker: child.process.pid for child in self._children.values()}

    def readings(self) -> dict[WorkerId, Reading]:
        """Return what the table says of each living worker."""
        readings = {}
        for child in self._children.values():
            reading = self._table.read(child.slot, child.worker)
            if reading:
                readings[child.worker] = Reading(reading.beat_at, reading.connections, reading.full)
        return readings

    def spawn(self, action: events.Spawn) -> Event:
        """Fork a worker and listen to it."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            return events.SpawnFailed(action.worker, str(error))
        seat = self._table.claim(action.slot, action.worker)

        def prepare() -> None:
            ours.close()
            self.close()
            self._leave(action.slot)

        def run() -> int:
            setproctitle.setproctitle(f"wsworker: worker {action.slot} [{self._name}] gen {action.generation}")
            return self._enter_worker(
                config=action.config,
                worker=action.worker,
                slot=action.slot,
                generation=action.generation,
                node=self._node,
                sockets=self._sockets(action.slot),
                channel=theirs,
                seat=seat,
            )

        def failed(reason: str) -> None:
            theirs.send(encode(Report("failed", kind="boot", error=reason)))

        try:
            process = spawn(prepare, identity(action.config), run, failed)
        except (OSError, KeyError) as error:
            # KeyError: the account of `user` is gone since the configuration was read
            ours.close()
            self._table.fold(action.slot, action.worker)
            return events.SpawnFailed(action.worker, str(error))
        finally:
            theirs.close()
        ours.setblocking(False)
        child = Child(action.worker, action.slot, process, ours)
        self._children[action.worker] = child
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(child))
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda: self._die(child))
        return events.Spawned(action.worker, process.pid)

    def tell(self, action: events.Tell) -> None:
        """Send an order. A full or broken channel is that of a hung or dead worker: its deadline or pidfd tells."""
        child = self._children.get(action.worker)
        if child and child.channel.fileno() >= 0:
            with contextlib.suppress(OSError):
                child.channel.send(encode(action.order))

    def signal(self, action: events.Signal) -> None:
        """Send a signal, if that worker still lives."""
        child = self._children.get(action.worker)
        if child:
            try:
                child.process.signal(action.name)
            except PermissionError:
                logger.error("may not send %s to worker %d (pid %d)", action.name, child.slot, child.process.pid)

    def bury_late(self) -> None:
        """Reap those whose tracer had them first; to be called about once a second."""
        for child in [*self._traced]:
            self._bury(child)

    def close(self) -> None:
        """Close all channels and pidfds, in a fresh worker.

        While it held the master's end of another worker's channel, that worker would never see the end of file by which
        it notices that the master is gone.
        """
        for child in self._children.values():
            child.channel.close()
            os.close(child.process.pidfd)

    def _hear(self, child: Child) -> None:
        """Read the reports that are there. A channel that speaks nonsense is closed, and its worker ends by that."""
        if child.channel.fileno() < 0:
            # its pidfd stood before it in the same turn of the loop
            return
        try:
            data = child.channel.recv(65536)
            reports = [decode_report(line) for line in child.lines.feed(data)]
        except BlockingIOError:
            return
        except OSError:
            # it has died with orders unread; its pidfd tells more
            data, reports = b"", []
        except WireError as error:
            logger.error("the channel of worker %d is closed: %s", child.slot, error)
            data, reports = b"", []
        for report in reports:
            if report.name == "ready":
                # whoever is replaced now has its connections counted as they are now
                self._feed(events.SlotsRead(self.readings()))
            self._feed(_event_of(report, child.worker))
        if not data:
            self._hang_up(child)

    def _hang_up(self, child: Child) -> None:
        if child.channel.fileno() >= 0:
            self._selector.unregister(child.channel)
            child.channel.close()

    def _die(self, child: Child) -> None:
        self._selector.unregister(child.process.pidfd)
        self._traced.append(child)
        self._bury(child)

    def _bury(self, child: Child) -> None:
        status = child.process.reap()
        if status is None:
            # strace or a debugger holds it: it is dead, and its status is the tracer's to take first. ptrace(2)
            return
        self._traced.remove(child)
        self._hear(child)
        self._hang_up(child)
        self._table.fold(child.slot, child.worker)
        del self._children[child.worker]
        self._feed(events.WorkerExited(child.worker, *status))


def _event_of(report: Report, worker: WorkerId) -> Event:
    match report.name:
        case "ready":
            return events.WorkerReady(worker)
        case "failed":
            return events.WorkerFailed(worker, report.kind, report.error, report.trace)
        case "leaving":
            return events.WorkerLeaving(worker)
