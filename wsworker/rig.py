"""Rig: a real worker in a thread of this process, for tests of a service with real clients.

The accept loop, the handshake, the limits, the callbacks: all of it is what runs in production. What is left out is
what belongs to a process: the master, the fork, signals, beats, and the log, which is pytest's here. There is one
worker, so what is published reaches the connections of this server alone.

A callback that raises must fail the test, also where its client would not notice. A worker only logs such a thing, and
goes on; so it tells the exception here as well. The log itself is not listened to: the app that is tested may well set
it up anew, and then nothing would be heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from wsworker import spelling, tls
from wsworker.config import KEYS, Config
from wsworker.counters import Counters
from wsworker.errors import AppError
from wsworker.judging import validate
from wsworker.surroundings import file_of
from wsworker.worker import app as app_module
from wsworker.worker.app import App
from wsworker.worker.boot import make_acceptor
from wsworker.worker.hub import Hub
from wsworker.worker.leaving import Leaving
from wsworker.worker.loops import end_tasks, new_loop

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

HOST: Final = "127.0.0.1"
PATIENCE_SECONDS: Final = 10.0
"""How long a start or a close may take; on_worker_start has as long as boot_timeout says."""

LAST_SECONDS: Final = 1.0

OF_A_MASTER: Final = (
    "listen",
    "workers",
    "worker_timeout",
    "max_messages",
    "max_worker_age",
    "max_worker_rss",
    "user",
    "group",
    "umask",
    "pidfile",
    "control_socket",
    "control_socket_mode",
    "admin.listen",
    "admin.min_ready",
)
"""Settings that nobody would read here; a test that gives one would test something else than it says."""


class Server:
    """A running server; use it in a `with`, or call close() at the end.

    app: "module" or "module:attribute", a module, or any object with callbacks; a class or function is called once.
    settings: keys of config.yaml, a section as a dict; text as in the file: {"websocket": {"max_size": "64KiB"}}.
    folders: where a module is looked for; the first that has it becomes app_dir and stands first in sys.path from then
    on, as the folder of a test does with pytest. port: a free one; url: without a path, "ws://127.0.0.1:41234".
    errors: what callbacks and timers have raised; a test that wants that clears the list. Raises AppError for an app
    that cannot be used, ValueError for a wrong setting, and whatever on_worker_start has raised.
    """

    def __init__(self, app: object, settings: Mapping[str, Any], folders: Sequence[Path] = (Path(),)) -> None:
        __tracebackhide__ = True  # pytest then shows the line of the test
        folder = home(app, folders)
        if isinstance(app, str):
            need_own(top_of(app), folder)
        self._config = configure(app, settings, folder)
        self._context = tls.context(self._config.tls)
        self._app = app
        self.errors: list[BaseException] = []
        self._listener = socket.create_server((HOST, 0), backlog=self._config.backlog)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'wss' if self._context else 'ws'}://{HOST}:{self.port}"
        self._ready: Future[tuple[asyncio.AbstractEventLoop, Leaving]] = Future()
        self._hub: Hub | None = None
        self._ended = False
        # a daemon: a callback that never returns must not keep pytest from its end
        self._thread = threading.Thread(target=self._run, name=f"wsworker on port {self.port}", daemon=True)
        self._thread.start()
        try:
            self._loop, self._leaving = self._ready.result(self._config.boot_timeout + PATIENCE_SECONDS)
        except AppError as error:
            self._let_go()
            # without the frames of the thread
            raise AppError(error.message, error.trace) from None
        except BaseException:
            self._let_go()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        try:
            self.close()
        except AssertionError as failed:
            if error is None:
                raise
            # the test has failed already, and perhaps of this; its own failure must not be hidden
            error.add_note(str(failed))

    def __repr__(self) -> str:
        return f"<Server {self.url}>"

    def connect(self, path: str = "/", **options: Any) -> ClientConnection:
        """Return a new client, to be used in a `with`; options: of websockets.sync.client.connect."""
        from websockets.sync.client import connect

        client: ClientConnection = connect(f"{self.url}{path}", **{"proxy": None, **options})
        return client

    def close(self) -> None:
        """Close every connection with 1001 and end; AssertionError if a callback has raised. May be called twice."""
        __tracebackhide__ = True
        if self._ended:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: something has ended it
            self._loop.call_soon_threadsafe(self._leaving.tell, "quick")
        self._thread.join(PATIENCE_SECONDS)
        where = self._where()
        self._let_go()
        if where:
            raise AssertionError(
                f"the worker is still busy {PATIENCE_SECONDS:.0f} s after it was told to end:\n{where}"
            )
        if self.errors:
            error = self.errors[0]
            more = f", and {len(self.errors) - 1} more" if len(self.errors) > 1 else ""
            raise AssertionError(f"a callback raised {type(error).__name__}{more}; see the log") from error

    def _where(self) -> str:
        """Return the stack of a thread that has not ended, or ""."""
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread.is_alive() else None
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _let_go(self) -> None:
        self._ended = True
        self._listener.close()

    # In the thread

    def _run(self) -> None:
        loop = new_loop(self._config.loop)
        log_fault = loop.get_exception_handler()

        def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if isinstance(context.get("exception"), Exception):
                self.errors.append(context["exception"])
            if log_fault:
                log_fault(loop, context)
            else:
                loop.default_exception_handler(context)

        loop.set_exception_handler(note)
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(loop))
        except BaseException as error:
            # SystemExit as well: there is no process to end
            if self._ready.done():
                self.errors.append(error)
            else:
                self._ready.set_exception(error)
        finally:
            self._cut_off(loop)
            end_tasks(loop)
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()

    def _cut_off(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop the connections that are left when the worker has ended in the midst of its work."""
        if self._hub:
            self._hub.timers.cancel_all()
            self._hub.terminate_all()
            with contextlib.suppress(TimeoutError, SystemExit):
                loop.run_until_complete(asyncio.wait_for(self._hub.empty.wait(), LAST_SECONDS))

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub = self._make_hub(self._load(), loop)
        acceptor = make_acceptor(
            hub,
            [self._listener],
            tls=self._context,
            shared=(),
            others=lambda: False,
            changed=lambda: self._wake(),
            short_changed=lambda: None,
        )
        self._wake = acceptor.wake
        if hub.app.on_worker_start:
            async with asyncio.timeout(self._config.boot_timeout):
                error = await hub.caller.wait(hub.app.on_worker_start, hub.worker)
            if error:
                raise error
        leaving = Leaving(loop, self._config)
        acceptor.start()
        self._ready.set_result((loop, leaving))
        await leaving.told()
        await leaving.leave(hub, acceptor)
        await hub.post.exchange.close(0.0)

    def _load(self) -> App:
        folder = Path(self._config.app_dir)
        if isinstance(self._app, str):
            return app_module.load(self._app, folder, time.monotonic)
        return app_module.of(self._app, folder)

    def _make_hub(self, app: App, loop: asyncio.AbstractEventLoop) -> Hub:
        return Hub(
            config=self._config,
            app=app,
            worker_id=1,
            slot=1,
            node="test",
            boot=str(self.port),
            loop=loop,
            random=Random(),  # noqa: S311 - it spreads load in time and guards nothing
            counters=Counters(),
            changed=lambda: self._wake(),
            failed=self.errors.append,
        )


def home(app: object, folders: Sequence[Path]) -> Path:
    """Return the first folder in which the module of an app lies, or the last folder."""
    if isinstance(app, str):
        for folder in folders:
            if holds(folder, top_of(app)):
                return folder
    return folders[-1]


def top_of(app: str) -> str:
    """Return the module or package that is imported first for "package.module:attribute"."""
    return app.partition(":")[0].partition(".")[0]


def holds(folder: Path, top: str) -> bool:
    """Whether a module or package lies in a folder."""
    return Path(file_of(top, str(folder))).is_file()


def need_own(top: str, folder: Path) -> None:
    """Raise AppError if the module in this folder cannot be had, as another one of its name was imported before."""
    __tracebackhide__ = True
    file = getattr(sys.modules.get(top), "__file__", None)
    if file and holds(folder, top) and not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise AppError(f"module {top!r} was already imported from {file}; give it another name or pass the module")


def configure(app: object, settings: Mapping[str, Any], folder: Path) -> Config:
    """Return a Config from keyword arguments; folder: where relative paths start, and app_dir. Raises ValueError."""
    __tracebackhide__ = True
    values: dict[str, Any] = {"app": app if isinstance(app, str) else "app", "app_dir": "."}
    for key, value in settings.items():
        values |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
    wrong = [f"unknown setting {key!r}; {spelling.advice(key, KEYS)}" for key in values if key not in KEYS]
    wrong += [
        f"setting {key!r} has no effect here; remove it: a test has one worker, on a free port, and no master"
        for key in values
        if key in OF_A_MASTER
    ]
    read = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    made = validate({key: value for key, value in read.items() if key in KEYS}, str(folder.absolute()))
    if isinstance(made, list):
        wrong += [mistake.message for mistake in made]
    if wrong or isinstance(made, list):
        raise ValueError("; ".join(wrong))
    return made
