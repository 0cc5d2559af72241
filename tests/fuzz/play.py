"""Play: one run of a client's life with a real Connection, and what must be true of it at any time and at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Final, Literal, TypeAlias, cast

from tests.fuzz.application import ACTS, LARGEST, Journal, make_app
from tests.fuzz.clockwork import Clockwork, Wire
from tests.fuzz.handshakes import asks_for_head
from tests.fuzz.pages import tempting
from tests.fuzz.reading import CLOSE_CODES, read_frames, read_response
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.sections import HttpConfig, WebSocketConfig
from wsworker.worker.arrival import Arrival
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

SEND_BUFFER: Final = 4096
MAX_SIZE: Final = 1000
RATE_MESSAGES: Final = 5
STATUSES: Final = frozenset({101, 200, 301, 304, 400, 403, 404, 405, 408, 414, 426, 429, 431, 503, 505})
OUR_CODES: Final = frozenset({1000, 1002, 1007, 1008, 1009, 1011, 1012, 3008, 3502, 3504, 4000, 4001})
LONGEST_SECONDS: Final = 300.0
"""Longer than all deadlines of a silent client together."""

Step: TypeAlias = tuple[Literal["send"], bytes] | tuple[str, int]
"""What happens, and a number: bytes, seconds or nothing."""

Settings: TypeAlias = Literal["plain", "deflate", "strict", "oldest", "disconnect"]

WEBSOCKET: Final[dict[Settings, dict[str, Any]]] = {
    "plain": {},
    "deflate": {"compression": "deflate"},
    "strict": {
        "rate_messages": RATE_MESSAGES,
        "rate_control": 3,
        "idle_timeout": 15,
        "auth_timeout": 5,
        "message_timeout": 3,
        "max_per_address": 1,
        "max_per_user": 1,
    },
    "oldest": {"slow_consumer": "drop_oldest", "ping_interval": 0, "write_timeout": 3},
    "disconnect": {"slow_consumer": "disconnect", "ping_interval": 1, "ping_timeout": 2},
}


@dataclass(frozen=True)
class Life:
    """One client. steps: what happens; cuts: how to split what is sent, if that must not matter; tls: no half-close.

    settings: a name; awaits: the callbacks are async.
    """

    steps: tuple[Step, ...]
    cuts: tuple[int, ...] = ()
    tls: bool = False
    settings: Settings = "plain"
    awaits: bool = False


@cache
def _config(settings: Settings) -> Config:
    websocket = WebSocketConfig(
        max_size=MAX_SIZE,
        send_buffer=SEND_BUFFER,
        subprotocols=("chat",),
        **WEBSOCKET[settings],
    )
    http = HttpConfig(health="/health", static=tempting()) if settings == "plain" else HttpConfig()
    return Config(app="app", websocket=websocket, http=http)


class Play:
    """One run of a case."""

    def __init__(self, case: Life) -> None:
        self._case = case
        # a loop has forty methods, and what is not there raises NotImplementedError
        self._loop = Clockwork()  # type: ignore[abstract]
        self.journal = Journal()
        asyncio._set_running_loop(self._loop)
        try:
            self._hub = Hub(
                config=_config(case.settings),
                app=make_app(self.journal, case.awaits),
                worker_id=1,
                slot=1,
                node="n",
                boot="b",
                loop=self._loop,
                random=Random(1),
                counters=Counters(),
                changed=lambda: None,
            )
        finally:
            asyncio._set_running_loop(None)
        # nobody asks for the socket
        arrival = Arrival(("127.0.0.1", 5), None, case.tls, self._loop.now, time.monotonic(), cast(Any, None))
        self._connection = Connection(self._hub, arrival)
        self.wire = Wire(self._loop, self._connection, case.tls)
        self._waiting: list[asyncio.Task[None]] = []

    def run(self, steps: tuple[Step, ...]) -> None:
        """Do the steps one after the other, and then let the client leave."""
        for step in steps:
            self._do(step)
            self._loop.settle()
            while self.wire.arrive():
                self._check()
            self._loop.settle()
            self._check()
        self.wire.send(b"")
        while self.wire.arrive():
            self._loop.settle()
        self._loop.wait(LONGEST_SECONDS)
        if not self.wire.lost:
            # only a client that does not take what waits for it can hold on for so long, or one whom we pause
            self.wire.reset()
        self._loop.settle()
        self._check_end()

    def _do(self, step: Step) -> None:
        kind, value = step
        if isinstance(value, bytes):
            if value:
                self.wire.send(value)
        elif kind in WORLD:
            WORLD[kind](self, value)
        elif self.journal.connection is not None:
            connection = self.journal.connection
            self._loop.call(lambda: ACTS[kind](connection, value))

    def leave(self) -> None:
        """Let the client half-close."""
        self.wire.send(b"")

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._loop.wait(seconds)

    def await_drain(self) -> None:
        """Let the application wait until the buffer is empty enough."""
        connection = self.journal.connection
        if connection is not None:
            self._loop.call(lambda: self._waiting.append(self._loop.create_task(connection.drain())))

    def call(self, act: Callable[[Hub], object]) -> None:
        """Let the worker act."""
        self._loop.call(lambda: act(self._hub))

    def _check(self) -> None:
        # one message and one answer to a ping may pass the limit
        most = SEND_BUFFER + max(MAX_SIZE, LARGEST) + 200
        assert self._connection.buffered <= most, f"{self._connection.buffered} bytes wait"

    def _check_end(self) -> None:
        journal, hub = self.journal, self._hub
        assert self.wire.lost
        assert self._loop.faults == []
        assert all(task.done() and task.exception() is None for task in self._waiting)
        assert hub.empty.is_set()
        assert not hub.worker.connections
        assert len(hub._wheel) == 0
        assert hub.unfinished == 0
        assert hub.visitors._places == {}
        assert hub.counters.errors == journal.raised
        calls = [call for call in journal.calls if call not in ("message", "full", "drain")]
        assert calls in ([], ["connect", "close"], ["connect", "error", "close"]), journal.calls
        if calls:
            assert journal.calls[0] == "connect"
            assert journal.calls[-1] == "close"
            assert journal.end is not None
            assert journal.end[0] in CLOSE_CODES | {1005, 1006}
            # what was given back is not counted twice
            assert "rate_messages" not in journal.end[1] or len(journal.messages) >= RATE_MESSAGES
        self._check_output()

    def _check_output(self) -> None:
        output = bytes(self.wire.got)
        if not output or not self.wire.whole:
            return
        response = read_response(output, asks_for_head(self._request()))
        assert response.status in STATUSES, response
        rest = output[response.size :]
        if response.status != 101:
            assert rest == b""
            return
        for opcode, payload in read_frames(rest, "sec-websocket-extensions" in response.headers):
            if opcode == 8 and payload and self.journal.end is not None and self.journal.end[0] == 1006:
                assert int.from_bytes(payload[:2], "big") in OUR_CODES

    def _request(self) -> bytes:
        return b"".join(step[1] for step in self._case.steps if isinstance(step[1], bytes))


# what is not the application's doing
WORLD: Final[dict[str, Callable[[Play, int], object]]] = {
    "leave": lambda play, _: play.leave(),
    "reset": lambda play, _: play.wire.reset(),
    "wait": lambda play, seconds: play.wait(seconds),
    "dam": lambda play, _: play.wire.dam(),
    "take": lambda play, size: play.wire.take(size),
    "flow": lambda play, _: play.wire.flow(),
    "await drain": lambda play, _: play.await_drain(),
    "drain": lambda play, _: play.call(Hub.drain),
    "close all": lambda play, _: play.call(lambda hub: hub.close_all(1012, "reload")),
    "terminate all": lambda play, _: play.call(Hub.terminate_all),
}
