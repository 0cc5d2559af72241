"""The post: who gets which message that is published, in this worker and, through the bus, from it and to it.

A message goes to the subscribers here at once, before publish() returns, its frame built once; one that a callback
publishes while another is handed out comes behind that, and so does the close of a user. And it goes to the exchange,
which hands it to the other workers at the end of the tick. What they publish comes in there and goes to the same
subscribers. No message takes both ways.

While connections come from another worker, their keys are held here before they come, each gets once what that worker
has not had for it, and what it has had is left out: see bus/ledger.py.

A connection that is closing gets nothing more. Its topics are given up as soon as it is not open; its user's place is
kept until its end, since that counts for websocket.max_per_user.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Protocol, TypeAlias

from wsworker.bus.exchange import Exchange
from wsworker.bus.ledger import Marks
from wsworker.bus.records import decode_close, encode_close
from wsworker.bus.topics import Envelope, Key, Origin, Subscribers
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.errors import WireError
from wsworker.notices import Notices
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
    notices: Notices

    @property
    def worker(self) -> Handle:
        """The user's handle on the worker."""

    def deliver(self, data: Data, connections: Iterable[Connection]) -> int:
        """Send a message to many connections."""


class Handle(Protocol):
    """What the post needs of the user's handle."""

    connections: Mapping[str, Connection]


class Post:
    """The post of one worker. context: of what is scheduled here, see Home. You must close the exchange at the end."""

    def __init__(self, office: Office, context: Context) -> None:
        self._office = office
        self._context = context
        self.exchange = Exchange(
            office.loop,
            context,
            office.counters,
            self._receive,
            self._publish_for_others,
            self._is_wanted,
            self._tell_gap,
        )
        self.subscribers: Subscribers[Connection] = Subscribers()
        self.users: Users[Connection] = Users(
            office.config.websocket.max_per_user,
            lambda name: self._wanted_now(Key("user", name)),
            lambda name: self._wanted_no_more(Key("user", name)),
        )
        self._held: dict[Key, int] = {}  # for how many hand-overs each
        self._shadows: dict[Connection, Marks] = {}
        self._delivers = False
        self._later: deque[Callable[[], object]] = deque()  # what was asked for within a delivery
        self._gap_waits = False  # until on_bus_gap, if it is async, is told of it
        self._gap_keys: frozenset[Key] | None = frozenset()  # of the gap that waits, None for all
        self._gap_told: asyncio.Task[None] | None = None  # the last one that calls it

    # What connections say

    def subscribe(self, topic: str, connection: Connection) -> None:
        """Send it what is published to a topic."""
        if self.subscribers.add(topic, connection):
            self._wanted_now(Key("topic", topic))

    def unsubscribe(self, topic: str, connection: Connection) -> None:
        """Send it no more of that."""
        if self.subscribers.discard(topic, connection):
            self._wanted_no_more(Key("topic", topic))

    def _wanted_now(self, key: Key) -> None:
        if key not in self._held:
            self.exchange.subscribe(key)

    def _wanted_no_more(self, key: Key) -> None:
        if key not in self._held:
            self.exchange.unsubscribe(key)

    # What a hand-over says

    def hold(self, keys: Iterable[Key]) -> None:
        """Have these keys come here though perhaps nobody wants them yet, until they are released as often."""
        for key in keys:
            if key not in self._held and not self._is_wanted(key):
                self.exchange.subscribe(key)
            self._held[key] = self._held.get(key, 0) + 1

    def release(self, keys: Iterable[Key]) -> None:
        """Hold these keys no more; who wants them here gets them still. You must have held them."""
        for key in keys:
            left = self._held.pop(key) - 1
            if left:
                self._held[key] = left
            elif not self._is_wanted(key):
                self.exchange.unsubscribe(key)

    def replay(self, connection: Connection, publisher: Origin, envelope: Envelope) -> None:
        """Deliver what came earlier to this connection alone, if it is open; not what its shadow has."""
        if connection.state != "open" or self._is_shadowed(connection, publisher, envelope):
            return
        # what breaks the rules was told when it came
        with suppress(ValueError, WireError):
            self._hand_out(envelope, (connection,))

    def shadow(self, connection: Connection, marks: Marks) -> None:
        """Leave out for this connection what is within these marks: another worker has delivered it. See unshadow."""
        self._shadows[connection] = marks

    def unshadow(self, connection: Connection) -> None:
        """Leave out nothing more. You must call it for each shadow, also of a connection that has ended meanwhile."""
        self._shadows.pop(connection, None)

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
        self.exchange.publish(key, body, binary=not isinstance(data, str))
        if receivers:
            self._deliver(data, receivers)

    def close_user(self, user: str, code: int, reason: str) -> None:
        """Close a user's connections, here and elsewhere. ValueError for a code that no Close carries."""
        if not is_close_code(code):
            raise ValueError(f"a Close carries 1000-1003, 1007-1014 or 3000-4999, not {code}")
        # first, as in publish
        self.exchange.publish(Key("user", user), encode_close(code, cut_reason(reason)), closes=True)
        self._close(user, code, reason)

    def _receivers(self, key: Key) -> Collection[Connection]:
        if key.kind == "topic":
            return self.subscribers.of(key.name)
        # who moves to another worker is open still: it keeps what it gets, or that is delivered there
        everybody = self.users.of(key.name) if key.kind == "user" else self._office.worker.connections.values()
        return [connection for connection in everybody if connection.state == "open"]

    def _deliver(self, data: Data, receivers: Collection[Connection]) -> None:
        """Send to connections here."""
        if self._delivers:
            # it has to wait: of what may be changed until then, copies
            data, receivers = data if isinstance(data, str) else bytes(data), tuple(receivers)
        self._in_order(partial(self._office.deliver, data, receivers))

    def _close(self, user: str, code: int, reason: str) -> None:
        self._close_all(self.users.of(user), code, reason)

    def _close_all(self, connections: Collection[Connection], code: int, reason: str) -> None:
        self._in_order(partial(_close_each, connections, code, reason))

    def _in_order(self, act: Callable[[], object]) -> None:
        """Do it at once; within a delivery, once that is over, so that all get everything in the same order."""
        if self._delivers:
            self._later.append(act)
            return
        self._delivers = True
        try:
            act()
            while self._later:
                self._later.popleft()()
        finally:
            self._delivers = False
            self._later.clear()

    # What the exchange says

    def _receive(self, envelope: Envelope, publisher: Origin) -> bool:
        """Deliver what another worker has published; False if it breaks the rules of names, texts and codes."""
        receivers = self.users.of(envelope.key.name) if envelope.closes else self._receivers(envelope.key)
        if self._shadows:
            receivers = [each for each in receivers if not self._is_shadowed(each, publisher, envelope)]
        try:
            self._hand_out(envelope, receivers)
        except (ValueError, WireError) as error:
            # whoever may write to a broker decides how often
            text = "a message from another worker, or from who can write to the broker, is dropped: %s"
            self._office.notices.tell("published", text, error, level=logging.WARNING)
            return False
        return True

    def _hand_out(self, envelope: Envelope, receivers: Collection[Connection]) -> None:
        """Do to these what an envelope says. Raises ValueError or WireError, see _receive."""
        if envelope.closes:
            self._close_all(receivers, *decode_close(envelope.body))
        elif receivers:
            self._deliver(_data(envelope), receivers)

    def _is_shadowed(self, connection: Connection, publisher: Origin, envelope: Envelope) -> bool:
        marks = self._shadows.get(connection)
        return marks is not None and marks.has(publisher, envelope.key, envelope.number)

    def _publish_for_others(self, envelope: Envelope) -> bool:
        try:
            self.publish(envelope.key, _data(envelope))
        except ValueError:
            return False
        return True

    def _is_wanted(self, key: Key) -> bool:
        """Return whether anybody here would get a message to this key, or will soon."""
        if key.kind == "broadcast" or key in self._held:
            return True
        return bool(self.subscribers.of(key.name) if key.kind == "topic" else self.users.of(key.name))

    def _tell_gap(self, keys: frozenset[Key] | None) -> None:
        """Call on_bus_gap; while an async call goes on, gaps are collected, and told as one when it is done."""
        office = self._office
        callback = office.app.on_bus_gap
        if callback is None:
            return
        if not callback.is_async:
            exception = self._context.copy().run(office.caller.run, callback, office.worker, self._wanted(keys))
            if exception is not None:
                office.caller.report(callback, exception)
            return
        self._gap_waits = True
        self._gap_keys = None if self._gap_keys is None or keys is None else self._gap_keys | keys
        if self._gap_told is None or self._gap_told.done():
            self._gap_told = office.loop.create_task(self._call_gap(callback), context=self._context.copy())

    async def _call_gap(self, callback: Callback) -> None:
        caller = self._office.caller
        while self._gap_waits:
            topics = self._wanted(self._gap_keys)
            self._gap_waits, self._gap_keys = False, frozenset()
            exception = await caller.wait(callback, self._office.worker, topics)
            if exception is not None:
                caller.report(callback, exception)

    def _wanted(self, keys: frozenset[Key] | None) -> frozenset[str]:
        """Return the topics of a gap that somebody here wants."""
        topics = frozenset(self.subscribers.keys())
        return topics if keys is None else topics.intersection(key.name for key in keys if key.kind == "topic")


def _close_each(connections: Iterable[Connection], code: int, reason: str) -> None:
    for connection in connections:
        connection.close(code, reason)


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
    if envelope.binary:
        return envelope.body
    try:
        return envelope.body.decode()
    except UnicodeDecodeError:
        raise ValueError("what should be text is not UTF-8") from None
