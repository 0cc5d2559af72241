"""Target: the life of a real Connection, over a wire that does what it is told.

A case is a list of steps: the client sends, leaves, or does not take what is sent to it; time passes; the application
and the worker act. Whatever comes together: nothing raises, the callbacks come in their order, the buffers keep within
their limits, what is written is right, and at the end nothing of the connection is left in its worker.

Where no time passes and nobody interferes, the same bytes give the same messages and the same output however they are
split: such a case is run twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, Final, Literal, TypeAlias, cast

from hypothesis import strategies as st

from tests.fuzz import grammar
from tests.fuzz.clockwork import Clockwork, Wire
from tests.fuzz.mutation import cuts, split
from tests.fuzz.pages import site
from tests.fuzz.reading import CLOSE_CODES, read_frames, read_response, timeless
from tests.fuzz.target import Target
from wsworker.config import Config
from wsworker.errors import Reject
from wsworker.protocol.request import Request
from wsworker.sections import HttpConfig, WebSocketConfig
from wsworker.stats import Counters
from wsworker.worker.app import App, Callback
from wsworker.worker.arrival import Arrival
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

SEND_BUFFER: Final = 4096
RATE_MESSAGES: Final = 5
LARGEST: Final = 5000
"""The largest message that the application sends of itself."""

_WORDS: Final = frozenset({"close", "raise", "end"})
STATUSES: Final = frozenset({101, 200, 301, 304, 400, 403, 404, 405, 408, 414, 426, 429, 431, 503, 505})
OUR_CODES: Final = frozenset({1000, 1002, 1007, 1008, 1009, 1011, 1012, 3008, 3502, 3504, 4000, 4001})
LONGEST_SECONDS: Final = 300.0
"""Longer than all deadlines of a silent client together."""

Step: TypeAlias = tuple[Literal["send"], bytes] | tuple[str, int]
"""What happens, and a number: bytes, seconds or nothing."""

Settings: TypeAlias = Literal["plain", "deflate", "strict", "oldest", "disconnect"]

_WEBSOCKET: Final[dict[Settings, dict[str, Any]]] = {
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
def _config(settings: Settings, max_size: int) -> Config:
    websocket = WebSocketConfig(
        max_size=max_size,
        send_buffer=SEND_BUFFER,
        subprotocols=("chat",),
        **_WEBSOCKET[settings],
    )
    http = HttpConfig(health="/health") if settings == "plain" else HttpConfig()
    return Config(app="app", websocket=websocket, http=http)


class _Faults(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


class Meant(Exception):
    """The application raises it on purpose."""


@dataclass
class Journal:
    """What the application has heard."""

    calls: list[str] = field(default_factory=list)
    messages: list[str | bytes] = field(default_factory=list)
    end: tuple[int, str] | None = None
    connection: Connection | None = None
    raised: int = 0


class Play:
    """One run of a case."""

    def __init__(self, case: Life, max_size: int) -> None:
        self._case = case
        # a loop has forty methods, and what is not there raises NotImplementedError
        self._loop = Clockwork()  # type: ignore[abstract]
        self.journal = Journal()
        asyncio._set_running_loop(self._loop)
        try:
            self._hub = Hub(
                config=_config(case.settings, max_size),
                app=_app(self.journal, case.awaits),
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
        if case.settings == "plain":
            self._hub.site = site()
        # nobody asks for the socket
        arrival = Arrival(("127.0.0.1", 5), None, case.tls, self._loop.now, cast(Any, None))
        self._connection = Connection(self._hub, arrival)
        self.wire = Wire(self._loop, self._connection, case.tls)
        self._sent = 0

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
        elif kind in _WORLD:
            _WORLD[kind](self, value)
        elif self.journal.connection is not None:
            connection = self.journal.connection
            self._loop.call(lambda: _APPLICATION[kind](connection, value))

    def leave(self) -> None:
        """Let the client half-close."""
        self.wire.send(b"")

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._loop.wait(seconds)

    def call(self, act: Callable[[Hub], object]) -> None:
        """Let the worker act."""
        self._loop.call(lambda: act(self._hub))

    def _check(self) -> None:
        if self._connection.state == "open":
            # one message and one answer to a ping may pass the limit
            most = SEND_BUFFER + max(self._hub.config.websocket.max_size, LARGEST) + 200
            assert self._connection.buffered <= most, f"{self._connection.buffered} bytes wait"

    def _check_end(self) -> None:
        journal, hub = self.journal, self._hub
        assert self.wire.lost
        assert self._loop.faults == []
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
        is_head = self._request().startswith(b"HEAD ")
        response = read_response(output, is_head)
        assert response.status in STATUSES, response
        rest = output[response.size :]
        if response.status != 101:
            # a malformed request gets its answer whatever the method might have been
            assert rest == b"" or is_head
            return
        for opcode, payload in read_frames(rest, self._case.settings == "deflate"):
            if opcode == 8 and payload and self.journal.end is not None and self.journal.end[0] == 1006:
                assert int.from_bytes(payload[:2], "big") in OUR_CODES

    def _request(self) -> bytes:
        return b"".join(step[1] for step in self._case.steps if isinstance(step[1], bytes))


def _app(journal: Journal, awaits: bool) -> App:
    def on_handshake(request: Request) -> None:
        if "room=1" in repr(request.query) or request.path == "/reject":
            raise Reject(403, {"X-Why": "policy"}, "no\n")

    def on_connect(connection: Connection) -> None:
        journal.calls.append("connect")
        journal.connection = connection
        connection.send("hello")

    def on_message(connection: Connection, data: str | bytes) -> None:
        journal.calls.append("message")
        journal.messages.append(data)
        if data == "close":
            connection.close(4000, "as you wish")
        elif data == "pause":
            connection.pause()
            connection.resume()
        elif data == "raise":
            journal.raised += 1
            raise Meant
        elif data == "end":
            connection.terminate()
        elif data == "user":
            connection.user = "somebody"
        else:
            connection.send(data)

    def on_close(connection: Connection, code: int, reason: str) -> None:
        journal.calls.append("close")
        journal.end = (code, reason)
        connection.send("too late")

    def on_error(connection: Connection, exc: Exception) -> None:
        journal.calls.append("error")
        assert isinstance(exc, Meant), exc

    def on_buffer_full(connection: Connection) -> None:
        journal.calls.append("full")

    def on_buffer_drain(connection: Connection) -> None:
        journal.calls.append("drain")

    functions = (on_connect, on_message, on_close, on_error, on_buffer_full, on_buffer_drain)
    callbacks = {function.__name__: _callback(function, awaits) for function in functions}
    return App("app", 0.0, on_handshake=_callback(on_handshake, awaits), **callbacks)


def _callback(function: Callable[..., None], awaits: bool) -> Callback:
    async def later(*args: Any) -> None:
        await asyncio.sleep(0)
        function(*args)
        await asyncio.sleep(0)

    return Callback(later if awaits else function, awaits, f"app.py:{function.__name__}")


# what is not the application's doing
_WORLD: Final[dict[str, Callable[[Play, int], object]]] = {
    "leave": lambda play, _: play.leave(),
    "reset": lambda play, _: play.wire.reset(),
    "wait": lambda play, seconds: play.wait(seconds),
    "dam": lambda play, _: play.wire.dam(),
    "take": lambda play, size: play.wire.take(size),
    "flow": lambda play, _: play.wire.flow(),
    "drain": lambda play, _: play.call(Hub.drain),
    "close all": lambda play, _: play.call(lambda hub: hub.close_all(1012, "reload")),
    "terminate all": lambda play, _: play.call(Hub.terminate_all),
}
_APPLICATION: Final[dict[str, Callable[[Connection, int], object]]] = {
    "say": lambda connection, size: [connection.send("s" * size), connection.send(bytes(size))],
    "close": lambda connection, _: connection.close(4001, "enough"),
    "pause": lambda connection, _: connection.pause(),
    "resume": lambda connection, _: connection.resume(),
    "terminate": lambda connection, _: connection.terminate(),
    "user": lambda connection, _: setattr(connection, "user", "somebody"),
    "nobody": lambda connection, _: setattr(connection, "user", None),
}


def check_life(case: Life) -> None:
    """One case of the target."""
    faults = _Faults()
    log = logging.getLogger("wsworker.worker")
    level = log.level
    log.addHandler(faults)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        _check_life(case, faults)
    finally:
        log.removeHandler(faults)
        log.setLevel(level)
        log.propagate = True


def _check_life(case: Life, faults: _Faults) -> None:
    play = Play(case, 1000)
    play.run(case.steps)
    bugs = [text for text in faults.texts if "Meant" not in text]
    assert bugs == []
    # an async application may end it all while more comes: then it is a matter of time how much that was
    if not case.cuts or (case.awaits and _WORDS.intersection(play.journal.messages)):
        return
    for several in ((), case.cuts):
        again = Play(case, 1000)
        again.run(_recut(case, several))
        assert play.journal.messages == again.journal.messages
        assert play.journal.end == again.journal.end
        # an async answer may come before that to a ping or behind it; terminate() drops what is not written
        if not case.awaits and "end" not in play.journal.messages:
            assert timeless(bytes(play.wire.got)) == timeless(bytes(again.wire.got))
        assert [text for text in faults.texts if "Meant" not in text] == []


def _recut(case: Life, several: tuple[int, ...]) -> tuple[Step, ...]:
    """Return the steps with all that is sent cut anew."""
    data = b"".join(step[1] for step in case.steps if isinstance(step[1], bytes))
    return tuple(("send", piece) for piece in split(data, several))


_heads: Final = st.one_of(
    st.just(grammar.HEAD % grammar.OFFER), st.just(grammar.HEAD % b"Sec-WebSocket-Protocol: chat\r\n"), grammar.heads
).map(lambda head: head.replace(b"?room=1", b"?room=2"))
_opening: Final = st.one_of(*[st.just(grammar.HEAD.replace(b"room=1", b"room=2") % grammar.OFFER)] * 3, _heads)
_sending: Final = st.tuples(st.just("send"), grammar.frames)
_others: Final = st.one_of(
    st.tuples(st.sampled_from(sorted(_WORLD.keys() - {"wait", "take"})), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from((1, 1, 2, 5, 12, 30, 70))),
    st.tuples(st.just("take"), st.sampled_from((1, 100, 4000, 100_000))),
    st.tuples(st.sampled_from(sorted(_APPLICATION.keys() - {"say"})), st.just(0)),
    st.tuples(st.just("say"), st.sampled_from((0, 10, 1500, 2000, LARGEST))),
    st.tuples(st.just("say"), st.sampled_from((1500, 2000))),
    st.tuples(st.sampled_from(("dam", "dam", "flow")), st.just(0)),
)
_settings: Final = st.sampled_from(sorted(_WEBSOCKET))


@st.composite
def _calm(draw: st.DrawFn) -> Life:
    """Nothing but bytes, so that their splits must not matter."""
    steps = (("send", draw(_opening)), ("send", draw(grammar.frames)))
    splits = (0, *draw(cuts))
    return Life(steps, splits, draw(st.booleans()), draw(_settings), draw(st.booleans()))


@st.composite
def _eventful(draw: st.DrawFn) -> Life:
    steps: list[Step] = [("send", draw(_opening))]
    if draw(st.integers(0, 9)) == 9:
        steps.insert(0, draw(_others))
    steps += draw(st.lists(st.one_of(_sending, _others, _others), max_size=10))
    return Life(tuple(steps), (), draw(st.booleans()), draw(_settings), draw(st.booleans()))


_HEAD: Final = grammar.HEAD.replace(b"room=1", b"room=2") % grammar.OFFER
_MESSAGES: Final = grammar.frame(0x81, b"pause") + grammar.frame(0x81, b"a") * 3
_KNOWN: Final = (
    Life(()),
    Life((("wait", 30),)),
    Life((("send", b"GET / HT"), ("wait", 30))),
    Life((("send", _HEAD + grammar.frame(0x81, b"a") * 600),), (5, 300)),
    Life((("send", _HEAD), ("dam", 0), ("send", grammar.frame(0x81, b"x" * 900) * 20), ("wait", 10), ("flow", 0))),
    Life((("send", _HEAD), ("dam", 0), ("send", grammar.frame(0x89, b"x" * 100) * 200), ("flow", 0))),
    Life((("send", _HEAD + grammar.frame(0x81, b"a") * 40),), (9,), awaits=True),
    Life((("send", _HEAD), ("send", _MESSAGES)), (300,)),
    Life((("send", _HEAD), ("send", _MESSAGES)), (300,), settings="strict"),
)

CALM: Final = Target("calm lives", _calm(), check_life, ())
TARGET: Final = Target("lives", _eventful(), check_life, _KNOWN)
