"""A worker's life: boot, serve, drain, exit.

It runs in a fork of the master. It loads the user's module, lets on_worker_start do its work, reports ready, and
accepts clients once the master says go. From then on the event loop does everything. Once a second the loop itself
beats: it writes the counters and the time into this worker's seat of the shared table. A loop that is blocked does not
beat, and the master sees that without asking.

When it cannot boot it says why over its channel, with the user's own traceback, and exits. When the channel ends, the
master is dead, and so is this worker at once: it must never hold a port that nobody supervises.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import importlib
import logging
import os
import signal
import socket
import time
from pathlib import Path
from random import Random
from typing import Any, Final

from wsworker import log
from wsworker.config import Config
from wsworker.errors import AppError, WireError
from wsworker.stats import Counters, Seat
from wsworker.wire import Lines, Order, Report, decode_order, encode
from wsworker.worker import app as app_module
from wsworker.worker.accept import Acceptor
from wsworker.worker.app import Callback
from wsworker.worker.connection import Connection
from wsworker.worker.delivery import OURS
from wsworker.worker.drain import RELOAD_CODE, STOP_CODE, Drain
from wsworker.worker.hub import Hub

BEAT_SECONDS: Final = 1.0
RELOAD_SHARE: Final = 0.5
"""Part of graceful_timeout that an async on_worker_reload may take; the rest is for the clients."""

EX_CONFIG: Final = 78

logger = logging.getLogger("wsworker.worker")


class BootError(Exception):
    """The worker cannot serve; report says why."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.error)
        self.report = report


def run(
    *,
    config: Config,
    worker: int,
    slot: int,
    generation: int,
    node: str,
    sockets: list[socket.socket],
    channel: socket.socket,
    seat: Seat,
) -> int:
    """Be a worker until told to go; return the exit code.

    sockets: the slot's listeners, borrowed; channel: our end of the socketpair to the master; seat: ours in the shared
    table; node: first part of every connection's id, unique to this run of the service. A SystemExit of user code
    passes: the process ends with its code.
    """
    try:
        loop = _set_up(config, slot)
    except Exception as error:
        # the log may be what has failed, so the master says it
        report = Report("failed", kind="boot", error=f"a worker cannot start: {type(error).__name__}: {error}"[:1000])
        with contextlib.suppress(OSError):
            channel.send(encode(report))
        return 1
    os.register_at_fork(after_in_child=lambda: _let_go([*sockets, channel]))
    life = Life(config, worker, slot, generation, node, sockets, channel, seat, loop)
    try:
        code = loop.run_until_complete(life.run())
    finally:
        life.beat()
        _end_tasks(loop)
    # not after a SystemExit: connections are open then, and uvloop warns of each, for ever if warnings are errors
    loop.close()
    return code


def _set_up(config: Config, slot: int) -> asyncio.AbstractEventLoop:
    """Prepare the process for user code; return its loop."""
    output = log.set_up(config.log.level, config.log.file, f"worker {slot}")
    if config.log.file != "-":
        # what the user's code prints belongs there too
        log.redirect_output(output)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)
    loop = _new_loop(config.loop)
    asyncio.set_event_loop(loop)
    return loop


def _let_go(sockets: list[socket.socket]) -> None:
    """Close, in a process that user code has forked, what is the worker's alone.

    A child that outlives its worker would else hold the port, and keep the channel open, whose end tells that the
    master is dead. Only descriptors are closed: the loop's epoll is shared with the worker, which goes on.
    """
    for sock in sockets:
        with contextlib.suppress(OSError):
            # detached, so that the object does not close the number a second time when somebody else has it
            os.close(sock.detach())


class Life:
    """The state of one worker, from the fork to its exit."""

    def __init__(
        self,
        config: Config,
        worker: int,
        slot: int,
        generation: int,
        node: str,
        sockets: list[socket.socket],
        channel: socket.socket,
        seat: Seat,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._config = config
        self._worker = worker
        self._slot = slot
        self._generation = generation
        self._node = node
        self._sockets = sockets
        self._channel = channel
        self._seat = seat
        self._loop = loop
        self._lines = Lines()
        self._counters = Counters()
        self._hub: Hub | None = None
        self._acceptor: Acceptor | None = None
        self._beat_due_at = 0.0
        self._drain: Drain | None = None
        self._quick = False  # asked for; the order may come before the drain has begun
        self._told: asyncio.Future[Order] = loop.create_future()

    async def run(self) -> int:
        """Boot, serve until told to drain, drain; return the exit code."""
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._orders)
        self._beat_due_at = self._loop.time()
        self._keep_beating()
        try:
            hub = await self._boot()
        except BootError as error:
            self._report(error.report)
            return EX_CONFIG if error.report.kind == "app" else 1
        self._loop.add_signal_handler(signal.SIGTERM, self._report, Report("leaving"))
        self._report(Report("ready"))
        logger.info("ready, pid %d, app imported in %.2f s", os.getpid(), hub.app.seconds)
        order = await self._told
        await self._leave(hub, order)
        return 0

    # Boot

    async def _boot(self) -> Hub:
        try:
            app = app_module.load(self._config.app, Path(self._config.app_dir), time.monotonic)
        except AppError as error:
            raise BootError(Report("failed", kind="app", error=error.message, trace=error.trace)) from None
        hub = Hub(
            config=self._config,
            app=app,
            worker_id=self._worker,
            slot=self._slot,
            node=self._node,
            boot=str(self._worker),
            loop=self._loop,
            random=Random(),  # noqa: S311 - it spreads load in time and guards nothing
            counters=self._counters,
            count=self._seat.count_connections,
        )
        self._hub = hub
        self._acceptor = Acceptor(
            self._loop, self._sockets, lambda peer: Connection(hub, peer), lambda: hub.full, logger
        )
        if app.on_worker_start:
            await self._start_app(app.on_worker_start, hub)
        return hub

    async def _start_app(self, callback: Callback, hub: Hub) -> None:
        exception = await hub.caller.wait(callback, hub.worker)
        if exception is not None:
            # what the exception says stands in the trace, which is bounded and survives a __str__ that raises
            text = f"on_worker_start ({callback.place}) raised {type(exception).__name__}"
            raise BootError(Report("failed", kind="boot", error=text, trace=app_module.trace(exception)))

    # The channel

    def _orders(self) -> None:
        try:
            data = self._channel.recv(65536)
            orders = [decode_order(line) for line in self._lines.feed(data)]
        except BlockingIOError:
            return
        except (OSError, WireError):
            data, orders = b"", []
        if not data:
            # the master is dead: nobody would ever stop or replace this process
            os._exit(1)
        for order in orders:
            self._obey(order)

    def _obey(self, order: Order) -> None:
        if order.name == "go":
            assert self._acceptor is not None, "go comes after ready"
            self._acceptor.start()
            return
        if order.why == "quick":
            self._quick = True
            if self._drain:
                self._drain.hurry()
        if not self._told.done():
            self._told.set_result(order)

    def _report(self, report: Report) -> None:
        # the master may be dying; the end of the channel will tell
        with contextlib.suppress(OSError):
            self._channel.send(encode(report))

    # The beat

    def _keep_beating(self) -> None:
        self.beat()
        self._beat_due_at = self._loop.time() + BEAT_SECONDS
        self._loop.call_at(self._beat_due_at, self._keep_beating)

    def beat(self) -> None:
        """Write this worker's seat, with how late the loop is."""
        lag = max(0.0, self._loop.time() - self._beat_due_at)
        connections = len(self._hub.worker.connections) if self._hub else 0
        full = self._hub.full if self._hub else False
        self._seat.write(time.monotonic_ns(), int(lag * 1e6), connections, full, self._counters)

    # The end

    async def _leave(self, hub: Hub, order: Order) -> None:
        assert self._acceptor is not None
        self._loop.add_signal_handler(signal.SIGTERM, lambda: None)
        reloading = order.why in ("reload", "replace")
        code, reason = (RELOAD_CODE, "service restart") if reloading else (STOP_CODE, "going away")
        self._drain = Drain(hub, code, reason)
        if self._quick:
            self._drain.hurry()
        if reloading:
            await self._acceptor.close()
        else:
            hub.drain()
            await self._acceptor.empty_and_close()
        deadline = self._loop.time() + self._config.graceful_timeout
        if order.why == "reload" and hub.app.on_worker_reload:
            await self._announce_reload(hub.app.on_worker_reload, hub, self._drain)
        asked = len(hub.worker.connections)
        cut = await self._drain.run(self._config.drain_window, deadline - self._loop.time())
        hub.timers.cancel_all()
        await self._call(hub.app.on_worker_stop, hub)
        logger.info("left, pid %d: %d connections closed with %d, %d cut", os.getpid(), asked, code, cut)

    async def _announce_reload(self, callback: Callback, hub: Hub, drain: Drain) -> None:
        """Call on_worker_reload; clients must have their goodbye even if it never returns."""
        seconds = self._config.graceful_timeout * RELOAD_SHARE
        task = self._loop.create_task(self._call(callback, hub))
        hurry = self._loop.create_task(drain.wait_for_hurry())
        await asyncio.wait({task, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            why = "was in the way of a quick stop" if hurry.done() else f"took longer than {seconds:g} s"
            logger.error("on_worker_reload (%s) %s and was cancelled", callback.place, why)
            task.cancel(OURS)
        hurry.cancel()

    async def _call(self, callback: Callback | None, hub: Hub) -> None:
        if callback:
            exception = await hub.caller.wait(callback, hub.worker)
            if exception is not None:
                hub.caller.report(callback, exception)


def preload(kind: str) -> None:
    """Load, in the master, what every worker needs: once for all of them, and as the user who may read it.

    A worker that has become another user may not be able to read the interpreter's own files. kind: the setting `loop`;
    `asyncio` never loads uvloop.
    """
    if kind != "asyncio":
        importlib.import_module("uvloop")


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a loop; auto is uvloop, which is a dependency."""
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    import uvloop

    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_let_exits_pass)
    return loop


def _let_exits_pass(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process when user code wants that in a read: uvloop takes it for a fault of the transport and goes on."""
    exception = context.get("exception")
    if "transport" in context and isinstance(exception, (SystemExit, KeyboardInterrupt)):
        loop.call_soon(_throw, exception)
    else:
        loop.default_exception_handler(context)


def _throw(exception: BaseException) -> None:
    raise exception


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what user code left running and give it a second to end."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel(OURS)
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())
