"""The post: who gets which message that is published, in this worker and, through the bus, from it and to it.

A message goes to the subscribers here at once, before publish() returns, its frame built once; one that a callback
publishes while another is handed out comes behind that. And it goes to the exchange, which hands it to the other
workers at the end of the tick. What they publish comes in there and goes to the same subscribers. No message takes both
ways.

A connection that is closing gets nothing more. Its topics are given up as soon as it is not open; its user's place is
kept until its end, since that counts for websocket.max_per_user.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextvars import Context
from typing import Protocol, TypeAlias

from wsworker.bus.exchange import Exchange
from wsworker.bus.records import decode_close, encode_close
from wsworker.bus.topics import Envelope, Key, Subscribers
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.errors import WireError
from wsworker.protocol.frames import cut_reason, is_close_code
from wsworker.worker.app import App, Callback
from wsworker.worker.connection import Connection
from wsworker.worker.delivery import Caller
from wsworker.worker.users import Users

Data: TypeAlias = str | bytes | bytearray | memoryview


class Office(Protocol):
    """What the post needs of its hub. worker: the user's handle, with all connections."""

    config: Config
    app: App
    caller: Caller
    counters: Counters
    loop: asyncio.AbstractEventLoop
    log: logging.Logger

    @property
    def worker(self) -> Handle:
        """The user's handle on the worker."""

    def deliver(self, data: Data, connections: Iterable[Connection]) -> int:
        """Send a message to many connections."""


class Handle(Protocol):
    """What the post needs of the user's handle."""

    connections: Mapping[str, Connection]


class Post:
    """The post of one worker. context: of what is scheduled here. You must close the exchange at the end."""

    def __init__(self, office: Office, context: Context) -> None:
        self._office = office
        self._context = context
        self.exchange = Exchange(
            office.loop, context, office.counters, self._receive, self._publish_for_others, self._tell_gap
        )
        self.subscribers: Subscribers[Connection] = Subscribers()
        self.users: Users[Connection] = Users(
            office.config.websocket.max_per_user,
            lambda name: self.exchange.subscribe(Key("user", name)),
            lambda name: self.exchange.unsubscribe(Key("user", name)),
        )
        self._delivers = False
        self._later: deque[tuple[Data, Collection[Connection]]] = deque()  # what was published within a delivery
        self._gap_told: asyncio.Task[None] | None = None  # the last call of an async on_bus_gap

    # What connections say

    def subscribe(self, topic: str, connection: Connection) -> None:
        """Send it what is published to a topic."""
        if self.subscribers.add(topic, connection):
            self.exchange.subscribe(Key("topic", topic))

    def unsubscribe(self, topic: str, connection: Connection) -> None:
        """Send it no more of that."""
        if self.subscribers.discard(topic, connection):
            self.exchange.unsubscribe(Key("topic", topic))

    # What users say

    def publish(self, key: Key, data: Data, exclude: Connection | None = None) -> None:
        """Send a message to those who want it, here and elsewhere. Errors as Worker.publish, but for names."""
        body = _body(data)
        most = self._office.config.bus.max_message
        if len(body) > most:
            raise ValueError(f"a message of {len(body)} bytes is over bus.max_message = {most}; raise it or send less")
        receivers = self._receivers(key)
        if exclude is not None:
            receivers = [connection for connection in receivers if connection is not exclude]
        # first, as what on_buffer_full publishes within the delivery comes behind it
        self.exchange.publish(Envelope(key, body, binary=not isinstance(data, str)))
        if receivers:
            self._deliver(data, receivers)

    def close_user(self, user: str, code: int, reason: str) -> None:
        """Close a user's connections, here and elsewhere. ValueError for a code that no Close carries."""
        if not is_close_code(code):
            raise ValueError(f"a Close carries 1000-1003, 1007-1014 or 3000-4999, not {code}")
        self._close(user, code, reason)
        self.exchange.publish(Envelope(Key("user", user), encode_close(code, cut_reason(reason)), closes=True))

    def _receivers(self, key: Key) -> Collection[Connection]:
        if key.kind == "topic":
            return self.subscribers.of(key.name)
        everybody = self.users.of(key.name) if key.kind == "user" else self._office.worker.connections.values()
        return [connection for connection in everybody if connection.state == "open"]

    def _deliver(self, data: Data, receivers: Collection[Connection]) -> None:
        """Send to connections here; within a delivery, once that is over, so that all get both in the same order."""
        if self._delivers:
            # of what may be changed until then, copies
            self._later.append((data if isinstance(data, str) else bytes(data), tuple(receivers)))
            return
        self._delivers = True
        try:
            self._office.deliver(data, receivers)
            while self._later:
                self._office.deliver(*self._later.popleft())
        finally:
            self._delivers = False
            self._later.clear()

    def _close(self, user: str, code: int, reason: str) -> None:
        for connection in self.users.of(user):
            connection.close(code, reason)

    # What the exchange says

    def _receive(self, envelope: Envelope) -> None:
        """Deliver what another worker has published; the rules of names, texts and codes hold for it too."""
        try:
            if envelope.closes:
                self._close(envelope.key.name, *decode_close(envelope.body))
            elif receivers := self._receivers(envelope.key):
                self._deliver(_data(envelope), receivers)
        except (ValueError, WireError) as error:
            self._office.log.warning("a message of another worker is dropped: %s", error)

    def _publish_for_others(self, envelope: Envelope) -> bool:
        try:
            self.publish(envelope.key, _data(envelope))
        except ValueError:
            return False
        return True

    def _tell_gap(self, keys: frozenset[Key] | None) -> None:
        """Call on_bus_gap with those topics of a gap that somebody here wants, one call after the other."""
        office = self._office
        callback = office.app.on_bus_gap
        if callback is None:
            return
        topics = frozenset(self.subscribers.keys())
        if keys is not None:
            topics = topics.intersection(key.name for key in keys if key.kind == "topic")
        if callback.is_async:
            call = self._call_gap(callback, topics, self._gap_told)
            self._gap_told = office.loop.create_task(call, context=self._context)
        elif (exception := office.caller.run(callback, office.worker, topics)) is not None:
            office.caller.report(callback, exception)

    async def _call_gap(self, callback: Callback, topics: frozenset[str], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        exception = await self._office.caller.wait(callback, self._office.worker, topics)
        if exception is not None:
            self._office.caller.report(callback, exception)


def _body(data: Data) -> bytes:
    """Return what travels of a message. TypeError or UnicodeEncodeError for what cannot be sent."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, memoryview):
        return data.tobytes()
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    raise TypeError(f"a message is str, bytes, bytearray or memoryview, not {type(data).__name__}")


def _data(envelope: Envelope) -> str | bytes:
    """Return the message that an envelope carries. ValueError if a text is not UTF-8."""
    return envelope.body if envelope.binary else envelope.body.decode()
