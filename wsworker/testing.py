"""The pytest plugin: `fake_connection` and `wsworker_server`, in every test-suite beside which wsworker is installed.

pytest imports this file at the start of every run, also of those that have nothing to do with WebSockets. So all that
costs time is imported by the fixtures when a test asks for one. The classes behind them can be taken from here too, for
a second connection or for annotations; they are loaded at first use (PEP 562).

No asyncio plugin is needed: the server has its loop in a thread, and its clients are synchronous.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wsworker.fakes import FakeConnection as FakeConnection
    from wsworker.fakes import FakeRequest as FakeRequest
    from wsworker.fakes import FakeTimer as FakeTimer
    from wsworker.fakes import FakeWorker as FakeWorker
    from wsworker.rig import Server as Server

_HOMES = {
    "FakeConnection": "wsworker.fakes",
    "FakeRequest": "wsworker.fakes",
    "FakeTimer": "wsworker.fakes",
    "FakeWorker": "wsworker.fakes",
    "Server": "wsworker.rig",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wsworker.testing' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


@pytest.fixture
def fake_connection() -> FakeConnection:
    """A connection without a socket: .sent, .closed, .topics and .worker.published tell what was done to it."""
    from wsworker.fakes import FakeConnection

    return FakeConnection()


@pytest.fixture
def wsworker_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """A function that starts a real worker in a thread: it takes the app and, by name, settings of config.yaml.

    What it returns has .port, .url and .connect(path), a client of websockets. The test fails if a callback has raised.
    """
    from wsworker.rig import Server

    with ExitStack() as stack:

        def serve(app: Any, **settings: Any) -> Server:
            __tracebackhide__ = True
            server = Server(app, settings, folders=(request.path.parent, request.config.rootpath))
            stack.callback(server.close)
            return server

        yield serve
