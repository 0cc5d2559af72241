"""Boot: the steps that make a worker out of a process that was just forked, in their order.

    preload          in the master, before it forks: what every worker needs
    set_up           the process: its log, its last words, its garbage collector, its loop
    load             the user's module
    make_acceptor    the way of a client: accepted, let in by the entrance, a connection of the hub
    start_app        on_worker_start

What is the user's to put right raises BootError, which holds what the master is told; all else is a fault. What keeps
the worker together, and when it is ready, is in main.py.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import importlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from wsworker import log, signalstack
from wsworker.assignment import Assignment
from wsworker.bus import choice
from wsworker.config import Config
from wsworker.errors import AppError
from wsworker.protocol.frames import MASKS_IN_C
from wsworker.wire import Report
from wsworker.worker import app as app_module
from wsworker.worker.accept import Acceptor
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.entrance import Entrance
from wsworker.worker.hub import Hub
from wsworker.worker.loops import new_loop

ALLOCATIONS_PER_COLLECTION: Final = 10_000
"""Python's 700 was chosen for small programs: here a connection is twenty objects, and each handshake would pay."""

logger = logging.getLogger("wsworker.worker")


class BootError(Exception):
    """The worker cannot serve; report says why."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.error)
        self.report = report


def preload(config: Config) -> None:
    """Load, in the master, what every worker needs: once for all of them, and as the user who may read it.

    A worker that has become another user may not be able to read the interpreter's own files. `loop: asyncio` never
    loads uvloop, without `admin.listen` prometheus-client is not needed, and a broker's library only with `bus.url`.
    """
    if config.loop != "asyncio":
        importlib.import_module("uvloop")
    if config.admin.listen:
        importlib.import_module("wsworker.worker.metrics")
    if config.bus.url:
        choice.load(config.bus.url)


def set_up(assignment: Assignment) -> asyncio.AbstractEventLoop:
    """Prepare the process for user code; return its loop."""
    config = assignment.config
    output = log.set_up(config.log, assignment.slot)
    if config.log.file != "-":
        # what the user's code prints belongs there too
        log.redirect_output(output)
    log.capture_output()
    faulthandler.enable(file=assignment.words, all_threads=True)
    faulthandler.register(signal.SIGUSR2, file=assignment.words, all_threads=True)
    signalstack.widen()
    if not MASKS_IN_C:
        logger.warning("websockets has no C extension here, so messages are unmasked slowly; reinstall it from a wheel")
    # before user code, which may know better
    gc.set_threshold(ALLOCATIONS_PER_COLLECTION)
    loop = new_loop(config.loop)
    asyncio.set_event_loop(loop)
    return loop


def load(config: Config, set_at: str) -> App:
    """Import the app; BootError if it cannot be used. set_at: where `app` is set, for errors."""
    try:
        app = app_module.load(config.app, Path(config.app_dir), time.monotonic, set_at)
    except AppError as error:
        raise BootError(Report("failed", kind="app", error=error.message, trace=error.trace)) from None
    finally:
        log.keep_enabled()
    # what is loaded by now stays for good: no collection looks at it again
    gc.collect()
    gc.freeze()
    return app


def make_acceptor(
    hub: Hub,
    listeners: Sequence[socket.socket],
    *,
    tls: ssl.SSLContext | None,
    shared: Collection[socket.socket],
    others: Callable[[], bool],
    changed: Callable[[], None],
    short_changed: Callable[[], None],
) -> Acceptor:
    """Return what accepts clients and makes each a connection of the hub; it is not started yet.

    changed: as for the Entrance; short_changed: what the Acceptor calls `changed`; the others as for either of them.
    """
    entrance = Entrance(
        hub.loop,
        lambda arrival: Connection(hub, arrival),
        config=hub.config,
        tls=tls,
        changed=changed,
        counters=hub.counters,
        log=hub.log,
    )
    return Acceptor(
        hub.loop,
        listeners,
        entrance,
        shared=shared,
        full=lambda: hub.full,
        others=others,
        unfinished=lambda: hub.unfinished,
        most_handshakes=hub.config.websocket.max_handshakes,
        changed=short_changed,
        counters=hub.counters,
        log=hub.log,
    )


async def start_app(hub: Hub) -> None:
    """Call on_worker_start, if there is one; BootError if it raises."""
    callback = hub.app.on_worker_start
    if callback is None:
        return
    exception = await hub.caller.wait(callback, hub.worker)
    log.keep_enabled()
    if exception is not None:
        # what the exception says stands in the trace, which is bounded and survives a __str__ that raises
        text = f"on_worker_start ({callback.place}) raised {type(exception).__name__}"
        raise BootError(Report("failed", kind="boot", error=text, trace=app_module.trace(exception)))
