"""Fakes: a connection and a worker without sockets, for tests of callbacks that are called directly.

They take and return what the real ones do and raise the same errors, which one test body makes sure of by asking both.
What the real ones write to a network is kept in lists here. Messages between connections are delivered: what is
published to a topic is in `sent` of every fake connection of the same worker that has subscribed to it. At once, and
not in the next turn of a loop, because there is none.

Nothing happens by itself. No client answers a close, no timer fires, no callback is called: a test does that, so it
can be read from top to bottom.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from wsworker.bus.topics import check_name
from wsworker.protocol import frames
from wsworker.protocol.request import Address, Request
from wsworker.sections import WebSocketConfig

Message: TypeAlias = str | bytes
Data: TypeAlias = str | bytes | bytearray | memoryview

HOME: Final = Address("127.0.0.1", 50000)

MOST_TOPICS: Final = WebSocketConfig().max_topics
"""The default: a fake connection has no settings."""

_numbers = itertools.count(1)


class FakeRequest(Request):
    """What a client asked for. target: path and query; headers: as the client would send them."""

    def __init__(self, target: str = "/", headers: Mapping[str, str] | None = None, remote: Address = HOME) -> None:
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        super().__init__("\r\n".join([*lines, "", ""]).encode("latin-1"), remote)


class FakeTimer:
    """What every() and after() return here. seconds, fn, repeats: what was asked for; run it by calling fn()."""

    def __init__(self, seconds: float, fn: Callable[[], Any], repeats: bool) -> None:
        self.seconds = seconds
        self.fn = fn
        self.repeats = repeats
        self.cancelled = False

    def cancel(self) -> None:
        """Note that it was cancelled."""
        self.cancelled = True


class FakeWorker:
    """A worker without a process.

    published: each (topic, data); broadcasts: each message; sent_to: each (user, data); closed_users: each (user, code,
    reason); timers: those of every() and after(). connections: the fake ones that belong to it and are open.
    """

    def __init__(self, slot: int = 1) -> None:
        self.id = slot
        self.slot = slot
        self.log = logging.getLogger("wsworker.app")
        self.published: list[tuple[str, Message]] = []
        self.broadcasts: list[Message] = []
        self.sent_to: list[tuple[str, Message]] = []
        self.closed_users: list[tuple[str, int, str]] = []
        self.timers: list[FakeTimer] = []
        self._open: dict[str, FakeConnection] = {}
        self.connections: Mapping[str, FakeConnection] = MappingProxyType(self._open)

    def __repr__(self) -> str:
        return f"<FakeWorker in slot {self.slot}, {len(self.connections)} connections>"

    def publish(self, topic: str, data: Data, exclude: FakeConnection | None = None) -> None:
        """Note a message in published, and send it to those who have subscribed."""
        check_name(topic)
        message = _message(data)
        self.published.append((topic, message))
        self._send(message, (one for one in self._open.values() if topic in one.topics and one is not exclude))

    def broadcast(self, data: Data) -> None:
        """Note a message in broadcasts, and send it to every connection."""
        message = _message(data)
        self.broadcasts.append(message)
        self._send(message, self._open.values())

    def send_to(self, user: str, data: Data) -> None:
        """Note a message in sent_to, and send it to every connection of a user."""
        check_name(user, "a user")
        message = _message(data)
        self.sent_to.append((user, message))
        self._send(message, self._of(user))

    def close_user(self, user: str, code: int = 1000, reason: str = "") -> None:
        """Note it in closed_users, and close every connection of a user."""
        check_name(user, "a user")
        _check_code(code)
        self.closed_users.append((user, code, reason))
        for connection in self._of(user):
            connection.close(code, reason)

    def count(self, topic: str) -> int:
        """Return how many connections have subscribed."""
        check_name(topic)
        return sum(topic in one.topics and one.state == "open" for one in self._open.values())

    def every(self, seconds: float, fn: Callable[[], Any]) -> FakeTimer:
        """Note a timer in timers; it never fires."""
        return self._timer(seconds, fn, repeats=True)

    def after(self, seconds: float, fn: Callable[[], Any]) -> FakeTimer:
        """Note a timer in timers; it never fires."""
        return self._timer(seconds, fn, repeats=False)

    def _timer(self, seconds: float, fn: Callable[[], Any], repeats: bool) -> FakeTimer:
        if not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(f"a timer takes seconds above 0, not {seconds!r}")
        if not callable(fn):
            raise TypeError(f"a timer takes a function, not {fn!r}")
        self.timers.append(FakeTimer(seconds, fn, repeats))
        return self.timers[-1]

    def _of(self, user: str) -> list[FakeConnection]:
        return [connection for connection in self._open.values() if connection.user == user]

    def _send(self, message: Message, connections: Iterable[FakeConnection]) -> None:
        for connection in [*connections]:
            connection.send(message)


class FakeConnection:
    """A connection without a socket.

    sent: every message that send() has taken, and what was published to it; closed: (code, reason) once it was closed
    from this side, else None; full: set it to True to have send() return False, as it does for a client that does not
    read; paused: between pause() and resume(). worker, request (which brings its remote), subprotocol, remote and data
    may be set. It takes no other attributes, as the real one takes none: what you keep for a connection goes into data.
    """

    __slots__ = (
        "_request",
        "_state",
        "_topics",
        "_user",
        "_worker",
        "closed",
        "data",
        "full",
        "id",
        "paused",
        "remote",
        "sent",
        "subprotocol",
    )

    def __init__(self, worker: FakeWorker | None = None, request: Request | None = None) -> None:
        self.id = f"fake.1.{next(_numbers)}"
        self.subprotocol: str | None = None
        self.data: dict[Any, Any] = {}
        self.sent: list[Message] = []
        self.closed: tuple[int, str] | None = None
        self.full = False
        self.paused = False
        self._user: str | None = None
        self._topics: set[str] = set()
        self._state: Literal["open", "closing", "closed"] = "open"
        self._worker = worker or FakeWorker()
        self._worker._open[self.id] = self
        self.request = request or FakeRequest()

    def __repr__(self) -> str:
        return f"<FakeConnection {self.id}, {self.state}>"

    @property
    def worker(self) -> FakeWorker:
        """The worker that it belongs to."""
        return self._worker

    @worker.setter
    def worker(self, worker: FakeWorker) -> None:
        """Move it to another worker, which reaches it from now on unless it has ended."""
        self._worker._open.pop(self.id, None)
        self._worker = worker
        if self._state != "closed":
            worker._open[self.id] = self

    @property
    def request(self) -> Request:
        """What the client has asked for."""
        return self._request

    @request.setter
    def request(self, request: Request) -> None:
        """Give it another request; remote becomes that of the request."""
        self._request = request
        self.remote = request.remote

    @property
    def state(self) -> Literal["open", "closing", "closed"]:
        """Where it stands: "open", "closing" after close(), "closed" after terminate() or end()."""
        return self._state

    @property
    def buffered(self) -> int:
        """Bytes that wait: none, as everything is taken at once."""
        return 0

    @property
    def topics(self) -> frozenset[str]:
        """What it has subscribed to; it stays as it is when the connection ends."""
        return frozenset(self._topics)

    @property
    def user(self) -> str | None:
        """Who this is."""
        return self._user

    @user.setter
    def user(self, name: str | None) -> None:
        """Say who this is. TypeError for anything but a str or None, ValueError for what cannot be a name."""
        if not (name is None or isinstance(name, str)):
            raise TypeError(f"user is a str or None, not {type(name).__name__}")
        if name is not None:
            check_name(name, "a user")
        self._user = name

    def send(self, data: Data) -> bool:
        """Keep a message in sent, bytes-like ones as bytes; False if it is not open, or full."""
        message = _message(data)
        if self._state != "open" or self.full:
            return False
        self.sent.append(message)
        return True

    async def drain(self) -> None:
        """Return at once."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Note code and reason in closed, the first time. ValueError for a code that no Close may carry."""
        _check_code(code)
        if self._state == "open":
            self.closed = (code, frames.cut_reason(reason))
            self._state = "closing"

    def terminate(self) -> None:
        """Be gone: closed is (1006, "") unless it was closed before."""
        self.closed = self.closed or (1006, "")
        self.end()

    def end(self) -> None:
        """Be gone as when the client has left, which the real one does by itself; call your on_close next."""
        self._state = "closed"
        self.worker._open.pop(self.id, None)

    def pause(self) -> None:
        """Note it in paused."""
        self.paused = self._state == "open"

    def resume(self) -> None:
        """Note it in paused."""
        self.paused = False

    def subscribe(self, topic: str) -> None:
        """Add a topic to topics; no effect unless open. ValueError for what cannot be a topic, and over MOST_TOPICS."""
        check_name(topic)
        if self._state != "open" or topic in self._topics:
            return
        if len(self._topics) >= MOST_TOPICS:
            raise ValueError(f"a connection has at most {MOST_TOPICS} topics, see websocket.max_topics")
        self._topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        """Take a topic out of topics, if it is there and this is open; errors as for subscribe."""
        check_name(topic)
        if self._state == "open":
            self._topics.discard(topic)


def _message(data: Data) -> Message:
    """Return a message as a client would get it. TypeError or UnicodeEncodeError for what cannot be sent."""
    frames.build(data)
    return data if isinstance(data, str) else bytes(data)


def _check_code(code: int) -> None:
    if not frames.is_close_code(code):
        raise ValueError(f"a Close carries 1000-1003, 1007-1014 or 3000-4999, not {code}")
