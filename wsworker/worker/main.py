"""A worker's life: boot, serve, drain, exit.

It runs in a fork of the master. It loads the user's module, lets on_worker_start do its work, reports ready, and
accepts clients once the master says go. From then on the event loop does everything. The steps of the boot are in
boot.py, the order of things at the end in leaving.py; how the master sees that the loop still turns, in heartbeat.py.

When it cannot boot, or its loop fails later on, it says why over its channel, with the user's own traceback, and exits.
What it cannot say any more, as it is killed or hung, stands in its last words: faulthandler writes the stacks to a
descriptor that the master reads. When the channel ends, the master is dead, and so is this worker at once: it must
never hold a port that nobody supervises.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
import traceback
from random import Random
from typing import Final

from wsworker import log
from wsworker.assignment import Assignment
from wsworker.brokers import BrokerUrl
from wsworker.bus import choice
from wsworker.bus.mesh.adapter import Mesh
from wsworker.bus.mesh.berth import Berth
from wsworker.bus.topics import Origin
from wsworker.counters import Counters
from wsworker.errors import EX_CONFIG
from wsworker.forked import let_go
from wsworker.wire import ERROR_CHARACTERS, GIVE_TIMEOUTS, FailureKind, Order, Report
from wsworker.worker import app as app_module
from wsworker.worker import boot, copies, listing
from wsworker.worker.accept import Acceptor
from wsworker.worker.admin import Admin
from wsworker.worker.boot import BootError
from wsworker.worker.channel import Channel, close_all
from wsworker.worker.giving import Giving, Outcome
from wsworker.worker.heartbeat import Heartbeat
from wsworker.worker.hub import Hub
from wsworker.worker.leaving import Leaving
from wsworker.worker.loops import end_tasks
from wsworker.worker.taking import Taking
from wsworker.worker.watcher import Watcher

LINK_SECONDS: Final = 1.0
"""How long a worker waits for the others, to hear what they want before it is ready, and to have its last word read."""

HURRIED_SECONDS: Final = 0.1
"""The same for the last word of a quick stop, see drain.py."""

logger = logging.getLogger("wsworker.worker")


def run(assignment: Assignment, watched: str = "") -> int:
    """Be a worker until told to go; return the exit code.

    watched: the config file, absolute, if the worker is to tell when that or the app's files change; else "".
    A fault of the loop is reported. A SystemExit of user code is too, and passes: the process ends with its code.
    """
    channel = Channel(assignment.channel)
    try:
        loop = boot.set_up(assignment)
    except Exception as error:
        # the log may be what has failed, so the master says it
        text = f"a worker cannot start: {type(error).__name__}: {error}"[:ERROR_CHARACTERS]
        channel.send(Report("failed", kind="boot", error=text))
        return 1
    life = Life(assignment, channel, loop, watched)
    copies.watch(loop, life.let_go)
    try:
        return _live(life, loop)
    except SystemExit as error:
        channel.send(life.obituary(error))
        raise
    except BaseException as error:
        channel.send(life.obituary(error))
        return 1


def _live(life: Life, loop: asyncio.AbstractEventLoop) -> int:
    try:
        code = loop.run_until_complete(life.run())
        copies.end_if_copy(None)
    except BaseException as error:
        copies.end_if_copy(error)
        raise
    finally:
        life.heartbeat.beat()
        end_tasks(loop)
    # not after a SystemExit: connections are open then, and uvloop warns of each, for ever if warnings are errors
    loop.close()
    return code


class Life:
    """The state of one worker, from the fork to its exit."""

    def __init__(
        self, assignment: Assignment, channel: Channel, loop: asyncio.AbstractEventLoop, watched: str = ""
    ) -> None:
        self._assignment = assignment
        self._config = assignment.config
        self._channel = channel
        self._loop = loop
        self._counters = Counters()
        self.heartbeat = Heartbeat(loop, assignment.seat, self._counters)
        self._hub: Hub | None = None
        self._acceptor: Acceptor | None = None
        self._ready = False
        self._leaving = Leaving(loop, self._config, self._tell_moved)
        self._admin = Admin(loop, assignment.desk, self._config) if assignment.desk else None
        self._lists: set[asyncio.Task[None]] = set()
        self._takings: dict[Taking, asyncio.Task[int]] = {}
        self._givings: dict[Giving, asyncio.Task[None]] = {}
        self._watched = watched
        self._watcher: Watcher | None = None
        self._mesh: Mesh | None = None
        # who says what all would say, and at every reload again
        self._is_first = (assignment.slot, assignment.generation) == (1, 1)

    async def run(self) -> int:
        """Boot, serve until told to drain, drain; return the exit code."""
        self._channel.stop_blocking(self._loop)
        self._loop.add_reader(self._channel, self._listen)
        self.heartbeat.start()
        if self._admin:
            self._admin.start()
        try:
            hub, acceptor = await self._boot()
        except BootError as error:
            self._channel.send(error.report)
            if self._hub:
                # with a goodbye: an app that fails at its start is no gap for the workers that go on
                await self._hub.post.exchange.close(LINK_SECONDS)
            if self._admin:
                await self._admin.close()
            return EX_CONFIG if error.report.kind == "app" else 1
        for clause in await hub.post.exchange.linked(LINK_SECONDS):
            logger.warning("%s; it goes on trying", clause)
        self._loop.add_signal_handler(signal.SIGTERM, self._channel.send, Report("leaving"))
        self._ready = True
        # logged first: the master's own line, that all are ready, stands below those of its workers
        logger.info("ready, pid %d, app imported in %.2f s", os.getpid(), hub.app.seconds)
        # whoever asks when all are ready sees what this one can reach
        self.heartbeat.beat()
        self._channel.send(Report("ready"))
        if self._watcher:
            self._watch(self._watcher)
        await self._leaving.told()
        if self._watcher:
            self._watcher.stop()
        self._loop.add_signal_handler(signal.SIGTERM, lambda: None)
        await self._end_givings()
        await self._leaving.leave(hub, acceptor)
        if self._mesh and not self._leaving.is_quick:
            await self._mesh.hear_out()
        await hub.post.exchange.close(HURRIED_SECONDS if self._leaving.is_quick else LINK_SECONDS)
        if self._admin:
            await self._admin.close()
        return 0

    def _watch(self, watcher: Watcher) -> None:
        count = watcher.start(self._loop)
        if self._is_first:
            logger.info("watching %d file%s; a saved change is loaded at once", count, "" if count == 1 else "s")

    def _tell_change(self, names: str, mark: str) -> None:
        self._channel.send(Report("changed", error=names[:ERROR_CHARACTERS], mark=mark))

    def obituary(self, error: BaseException) -> Report:
        """Return what the master is told of a fault that ends the worker."""
        kind: FailureKind = "crash" if self._ready else "boot"
        if isinstance(error, SystemExit):
            text = "the app called sys.exit(); take that call out, as wsworker ends its workers itself"
            if kind == "boot" and error.code == EX_CONFIG:
                kind = "app"
        else:
            text = f"worker {self._assignment.slot} ended with {type(error).__name__}"
            # as a traceback has it: user code may have written a __str__ that raises
            if reason := str(traceback.TracebackException.from_exception(error)):
                text += f": {reason}"[:ERROR_CHARACTERS]
        if not isinstance(error, (SystemExit, KeyboardInterrupt)):
            # with all frames: it may be a bug of ours, and the master shows those of the user only
            logger.error("the event loop has failed", exc_info=error)
        return Report("failed", kind, error=text, trace=app_module.trace(error))

    def let_go(self) -> None:
        """Close, in a process that user code has forked, what is the worker's alone: see copies.py."""
        faulthandler.disable()
        faulthandler.unregister(signal.SIGUSR2)
        if self._acceptor:
            self._acceptor.let_go()
        if self._admin:
            self._admin.let_go()
        for taking in self._takings:
            taking.let_go()
        for giving in self._givings:
            giving.let_go()
        self._leaving.let_go()
        for sock in self._assignment.sockets:
            let_go(sock)
        self._channel.let_go()
        if self._hub:
            self._hub.post.exchange.let_go()
        if self._assignment.berth:
            self._assignment.berth.let_go()
        let_go(self._assignment.words)

    # Boot

    async def _boot(self) -> tuple[Hub, Acceptor]:
        assignment = self._assignment
        if self._watched:
            # compiled code counts as current if size and second of the source are the same: an edit may fit into that
            sys.dont_write_bytecode = True
            self._watcher = Watcher(
                self._config.app_dir, self._watched, self._tell_change, time.monotonic, warns=self._is_first
            )
            self._tell_change("", self._watcher.mark)
        if self._config.bus.url:
            # a reload may have brought it, and the app's folder comes first on the path from here on
            choice.load(self._config.bus.url)
        app = boot.load(self._config, assignment.app_set_at)
        self._hub = hub = Hub(
            config=self._config,
            app=app,
            worker_id=assignment.worker,
            slot=assignment.slot,
            node=assignment.node,
            boot=str(assignment.worker),
            loop=self._loop,
            random=Random(),  # noqa: S311 - it spreads load in time and guards nothing
            counters=self._counters,
            changed=self._count,
        )
        hub.post.exchange.origin = Origin(assignment.node, assignment.worker)
        self._acceptor = boot.make_acceptor(
            hub,
            assignment.sockets,
            tls=assignment.tls,
            shared=assignment.shared,
            others=assignment.others,
            changed=self._count,
            short_changed=self.heartbeat.show,
        )
        self.heartbeat.know(hub, self._acceptor)
        if assignment.berth:
            await self._join(assignment.berth, hub)
        if self._config.bus.url:
            await self._join_broker(self._config.bus.url, hub)
        await boot.start_app(hub)
        return hub, self._acceptor

    async def _join(self, berth: Berth, hub: Hub) -> None:
        """Take part in the mesh of workers: what on_worker_start publishes reaches the others."""
        settings = self._config.bus
        self._mesh = Mesh(
            self._loop,
            berth,
            max_message=settings.max_message,
            peer_queue=settings.peer_queue,
            draw=hub.random.random,
        )
        await hub.post.exchange.join("mesh", self._mesh, "the other workers")

    async def _join_broker(self, url: BrokerUrl, hub: Hub) -> None:
        """Take part in the bus between machines."""
        origin = Origin(self._assignment.node, self._assignment.worker)
        broker = choice.connect(self._loop, url, origin, self._config.bus, hub.random.random)
        await hub.post.exchange.join("broker", broker, str(url))

    def _count(self) -> None:
        """Know that a client has come or gone: the master must see it, and there may be room for another one."""
        self.heartbeat.show()
        if self._acceptor:
            self._acceptor.wake()

    # The hand-over

    def _take(self, hub: Hub, pair: socket.socket, expected: int) -> None:
        """Take over the connections that come by a pair."""
        taking = Taking(hub, pair, expected)
        self._takings[taking] = task = self._loop.create_task(taking.run())
        task.add_done_callback(lambda task: self._takings.pop(taking))

    def _give(self, hub: Hub, pairs: list[socket.socket], numbers: tuple[int, ...]) -> None:
        """Hand so many connections to each of others, and serve on."""
        giving = Giving(hub, self._config.handover_timeout)
        self._givings[giving] = task = self._loop.create_task(self._finish(giving, pairs, numbers))
        task.add_done_callback(lambda task: self._givings.pop(giving))

    async def _finish(self, giving: Giving, pairs: list[socket.socket], numbers: tuple[int, ...]) -> None:
        deadline = self._loop.time() + GIVE_TIMEOUTS * self._config.handover_timeout
        outcome = await giving.run(pairs, numbers, counted=True, deadline=deadline)
        logger.info("hand-over: %s", outcome)
        self._tell_moved(outcome)

    async def _end_givings(self) -> None:
        """Give nothing more away by the way: all that is here is about to leave."""
        for giving in self._givings:
            giving.stop()
        if self._givings:
            await asyncio.wait(self._givings.values())

    def _tell_moved(self, outcome: Outcome) -> None:
        left = {str(reason): count for reason, count in outcome.left.items()}
        report = Report("moved", total=outcome.moved, left=left, pause=outcome.pause_seconds, waits=outcome.waits)
        self._channel.send(report)

    # The channel

    def _listen(self) -> None:
        orders = self._channel.read()
        if orders is None:
            # the master is dead: nobody would ever stop or replace this process
            os._exit(1)
        for order, descriptors in orders:
            self._obey(order, descriptors)

    def _obey(self, order: Order, descriptors: list[int]) -> None:
        hub, acceptor = self._hub, self._acceptor
        assert hub is not None
        assert acceptor is not None, "nothing is awaited before it is there, so the loop has not read any order yet"
        match order.name:
            case "lend" if len(descriptors) < order.fds:
                acceptor.run_short()
            case "go":
                acceptor.start()
                if self._mesh:
                    self._mesh.go()
            case "drain":
                self._leaving.tell(order.why, _pairs(descriptors), order.shares)
                if self._mesh:
                    self._mesh.drain()
            case "lend" if self._leaving.is_told:
                # who leaves borrows nothing
                close_all(descriptors)
            case "lend":
                acceptor.lend(order.slot, [_listener(descriptor) for descriptor in descriptors])
            case "take" | "give" if self._leaving.is_told:
                close_all(descriptors)
            case "take":
                for pair in _pairs(descriptors):
                    self._take(hub, pair, sum(order.shares))
            case "give":
                self._give(hub, _pairs(descriptors), order.shares)
            case "recall":
                acceptor.recall(order.slot)
            case "reopen":
                for descriptor in descriptors:
                    log.adopt(descriptor)
            case "list":
                task = self._loop.create_task(listing.answer(order, hub, self._channel))
                self._lists.add(task)
                task.add_done_callback(self._lists.discard)


def _pairs(descriptors: list[int]) -> list[socket.socket]:
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def _listener(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock
