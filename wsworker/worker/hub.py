"""Hub: all connections of one worker, and Worker, the handle on it that users get.

The hub knows every connection from accept to the end, turns the wheel of their deadlines, and writes what was sent
outside a read: connections with something corked are collected and flushed together in the next tick of the loop. A
message to ten thousand clients is ten thousand writes; every few milliseconds the rest gives way to the other work of
the loop, so that pings are answered and clients accepted meanwhile.

Who has subscribed to what, and what becomes of a message that is published, is the post's, see there.

It decides nothing about draining. Who does finds here what it takes: draining shuts the doors, idle_first gives the
connections in the order in which to close them, and empty is set when the last one has left.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from random import Random
from time import monotonic
from types import MappingProxyType
from typing import Any, Final

from wsworker import speaker
from wsworker.bus.topics import EVERYBODY, Key, check_name
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.notices import Notices
from wsworker.protocol.admission import Policy
from wsworker.protocol.forwarded import Trusted
from wsworker.protocol.frames import Shared
from wsworker.worker.access import Access
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.delivery import Caller
from wsworker.worker.post import Data, Post
from wsworker.worker.site import Site
from wsworker.worker.stalls import Stalls
from wsworker.worker.timers import Timer, Timers
from wsworker.worker.visitors import Visitors
from wsworker.worker.watch import Spans
from wsworker.worker.wheel import TICK_SECONDS, Wheel

FLUSH_SECONDS: Final = 0.005

LATE_TICKS: Final = 4
"""So late the wheel is turned only if the whole process has stood still, or its loop was blocked."""


class Worker:
    """The worker that your code runs in; you get it in on_worker_start and as connection.worker.

    id: number of this process, never reused; slot: its place, from 1 to the number of workers, kept by whoever
    replaces it: `worker.slot == 1` is true in one worker of the service (in two during a reload); connections: open
    ones of this worker by their id, read-only; log: the logger wsworker.app.
    """

    def __init__(self, worker_id: int, slot: int, connections: Mapping[str, Connection], hub: Hub) -> None:
        self.id = worker_id
        self.slot = slot
        self.connections = connections
        self.log = hub.timers.log
        self._hub = hub

    def __repr__(self) -> str:
        return f"<Worker {self.id} in slot {self.slot}, {len(self.connections)} connections>"

    def every(self, seconds: float, fn: Callable[[], Any]) -> Timer:
        """Call fn() every so many seconds, the first time in `seconds` from now; returns a handle with cancel().

        fn: sync or async, without arguments; an async run never overlaps itself. seconds: above 0, else ValueError.
        What it raises is logged, and the timer goes on. Timers end with the worker.
        """
        return self._hub.timers.every(seconds, fn)

    def after(self, seconds: float, fn: Callable[[], Any]) -> Timer:
        """Call fn() once, in `seconds` from now; otherwise as every()."""
        return self._hub.timers.after(seconds, fn)

    def publish(self, topic: str, data: Data, exclude: Connection | None = None) -> None:
        """Send a message to all connections that have subscribed to a topic, in this worker and all others.

        topic, data: as for connection.subscribe and send, with their errors; ValueError as well for more than
        bus.max_message. exclude: a connection of this worker that does not get it, unless it moves to another just now.
        Never waits, and does not tell who got it: at most once, in the order of this worker's calls; what may have been
        lost is told by on_bus_gap.
        """
        check_name(topic)
        self._hub.post.publish(Key("topic", topic), data, exclude)

    def broadcast(self, data: Data) -> None:
        """Send a message to all connections of all workers; otherwise as publish()."""
        self._hub.post.publish(EVERYBODY, data)

    def send_to(self, user: str, data: Data) -> None:
        """Send a message to all connections of a user, see connection.user; otherwise as publish()."""
        check_name(user, "a user")
        self._hub.post.publish(Key("user", user), data)

    def close_user(self, user: str, code: int = 1000, reason: str = "") -> None:
        """Close all connections of a user, in all workers; code and reason as for connection.close, with its errors."""
        check_name(user, "a user")
        self._hub.post.close_user(user, code, reason)

    def count(self, topic: str) -> int:
        """Return how many connections of this worker have subscribed to a topic; no other worker is asked."""
        check_name(topic)
        return len(self._hub.post.subscribers.of(topic))


class Hub:
    """The home of a worker's connections. The entrance makes one for each client: Connection(hub, arrival).

    node, boot: the first two parts of every connection's id, unique to this machine and to this process's life on
    it; random: where jitter comes from; changed: called whenever a connection has opened, has ended, has its
    handshake behind it, or is gone with its socket, and in the next tick of the loop when some have moved; failed: is
    told what callbacks and timers raise, and what a bug of ours does, whatever becomes of the log. draining: set by
    drain(). expected: how many connections are about to come from another worker, whose places are kept for them.
    checks_data: connection.data is checked when it is set. unfinished: how many handshakes are not over. empty: set
    while there is no connection, not even one that is being accepted or closed. You must call timers.cancel_all() at
    the end.
    """

    def __init__(
        self,
        *,
        config: Config,
        app: App,
        worker_id: int,
        slot: int,
        node: str,
        boot: str,
        loop: asyncio.AbstractEventLoop,
        random: Random,
        counters: Counters,
        changed: Callable[[], None],
        failed: Callable[[BaseException], None] = lambda exc: None,
    ) -> None:
        self.config = config
        self.app = app
        self.policy = Policy(
            config.websocket.origins,
            config.websocket.subprotocols,
            config.http.allowed_hosts,
            config.http.health,
            has_site=config.http.static is not None,
        )
        self.visitors = Visitors(config.websocket.max_per_address, config.websocket.rate_handshakes)
        self.site = None if config.http.static is None else Site(config.http.static)
        self.trusted = Trusted.of(config.forwarded_allow_ips)
        self.spans = Spans.of(config.websocket)
        self.unfinished = 0
        self.counters = counters
        self._changed = changed
        self._failed = failed
        self.loop = loop
        self.random = random
        self.log = logging.getLogger("wsworker.worker")
        self.notices = Notices(self.log, loop.time)
        self.access = Access(loop.time) if config.log.access else None
        self.stalls = Stalls(slot, counters, self.log)
        self.caller = Caller(app, self.stalls, counters, self.log, failed)
        app_log, app_dir = logging.getLogger("wsworker.app"), os.path.abspath(config.app_dir)
        self.timers = Timers(loop, app_log, counters, self.stalls, app_dir, failed)
        self.draining = False
        self.expected = 0
        self.checks_data = config.log.level == "debug"
        self.tick = 0
        self.empty = asyncio.Event()
        self.empty.set()
        self._prefix = f"{node}.{boot}."
        self._last_number = 0
        self._present: set[Connection] = set()  # from accept until socket and callbacks are done
        self._open: dict[str, Connection] = {}  # from 101 until on_close
        self.worker = Worker(worker_id, slot, MappingProxyType(self._open), self)
        self._corked: dict[Connection, None] = {}
        self._flushes = False  # in the next tick
        self._wheel: Wheel[Connection] = Wheel()
        self._wheel_began_at = loop.time()
        self._wheel_turns = False
        self._stood_still = False  # at the turn before; then what is due is due, or it would be put off for ever
        self._recounts = False  # in the next tick of the loop
        self.context = speaker.aside()
        self.post = Post(self, self.context)
        self.users = self.post.users

    # What connections need: see Home

    @property
    def full(self) -> bool:
        """Whether as many connections are open as worker_connections allows."""
        return len(self._open) + self.expected >= self.config.worker_connections

    @property
    def buffered(self) -> int:
        """Bytes that were sent and that the kernel has not taken, of all connections; 10,000 idle ones take 1 ms."""
        # size is never too small, and zero for who has been sent nothing since it was last looked at
        return sum(connection._cork.buffered for connection in self._present if connection._cork.size)

    def next_id(self) -> str:
        """Return the next connection's id."""
        self._last_number += 1
        return f"{self._prefix}{self._last_number}"

    def arrived(self, connection: Connection) -> None:
        """Know a socket that was accepted."""
        self._present.add(connection)
        self.unfinished += 1
        self.empty.clear()

    def answered(self, connection: Connection) -> None:
        """Count one handshake less that is not over."""
        self.unfinished -= 1
        self._changed()

    def opened(self, connection: Connection) -> None:
        """Show it in worker.connections."""
        self._open[connection.id] = connection
        self._changed()

    def resumed(self, connection: Connection) -> bool:
        """Know a connection that comes from another worker; False if it has no place here, and then nothing is known.

        You must call freezing.discard if it does not land.
        """
        if len(self._open) >= self.config.worker_connections:
            return False
        if connection.user is not None and not self.users.join(connection.user, connection):
            return False
        self.visitors.return_to(connection.remote.host)
        self._present.add(connection)
        self.empty.clear()
        self._open[connection.id] = connection
        for topic in connection._topics or ():
            self.post.subscribe(topic, connection)
        self._count_soon()
        return True

    def moved(self, connection: Connection) -> None:
        """Forget a connection that another worker has."""
        # before empty is set: who waits for that is told afterwards
        self._count_soon()
        del self._open[connection.id]
        self._forget(connection)

    def ended(self, connection: Connection) -> None:
        """Show it no longer."""
        del self._open[connection.id]
        self._changed()

    def closed(self, connection: Connection) -> None:
        """Forget it."""
        self._forget(connection)
        self._changed()

    def wake_wheel(self) -> None:
        """Have tick count on, which stands still while no deadline is to come."""
        if not self._wheel_turns:
            self._wheel_turns = True
            self._wheel.advance(self._now())
            self._wait_for_tick()

    def schedule(self, connection: Connection, ticks: int) -> None:
        """Call the connection's _expire in so many ticks."""
        self.wake_wheel()
        self._wheel.schedule(connection, ticks)

    def cancel(self, connection: Connection) -> None:
        """Forget the connection's deadline."""
        self._wheel.cancel(connection)

    def flush_later(self, connection: Connection) -> None:
        """Write what the connection has corked in the next tick of the loop. It was active just now."""
        self._flush_soon()
        self._corked[connection] = None
        # here, as messages that are sent while one is handled need not be minded
        connection._active_at = self.tick

    def subscribe(self, topic: str, connection: Connection) -> None:
        """Send it what is published to a topic."""
        self.post.subscribe(topic, connection)

    def unsubscribe(self, topic: str, connection: Connection) -> None:
        """Send it no more of that."""
        self.post.unsubscribe(topic, connection)

    def deliver(self, data: Data, connections: Iterable[Connection]) -> int:
        """Send a message to many connections, its frame built once; return how many have accepted it.

        Written in the next tick of the loop. Errors as for Connection.send. connections may change meanwhile, which
        on_buffer_full is free to bring about.
        """
        message = Shared(data)
        frame, size, uniform = message.plain, len(message.plain), message.uniform
        accepted = 0
        self._flush_soon()
        corked, tick = self._corked, self.tick
        for connection in tuple(connections):
            # as _guarded does it, without a context for each: on_buffer_full, all that it can lead to, has its own
            try:
                if connection._stage == "open" and not connection._handling:
                    cork = connection._cork
                    filled = cork.size + size
                    if filled < cork.limit and (uniform or not connection._session.window_bits):
                        # what _send_shared() does, without the calls: nearly all connections are like this
                        cork.frames.append(frame)
                        cork.size = filled
                        corked[connection] = None
                        connection._active_at = tick
                        accepted += 1
                        continue
                accepted += connection._send_shared(message)
            except Exception as error:
                self._drop(connection, "deliver", error)
        return accepted

    # What a drain needs

    def drain(self) -> None:
        """Let nobody in any more: handshakes that are under way, and later ones, get 503."""
        self.draining = True
        for connection in tuple(self._present):
            self._guarded(connection, connection._turn_away)

    def idle_first(self) -> list[Connection]:
        """Return the open connections, those with nothing under way first and the busiest last."""
        return sorted(self._open.values(), key=Connection._business)

    def close_all(self, code: int, reason: str) -> None:
        """Close every open connection as close() does, but half-close at once and not when the client has answered.

        Browsers take a Close with the FIN behind it for a clean end, and a worker in a hurry waits for no answer.
        """
        for connection in self.idle_first():
            if connection.state == "open":
                connection.close(code, reason)
                # what is due once the wait for the answer is over
                self._guarded(connection, connection._expire)

    def terminate_all(self) -> None:
        """Drop every socket and cancel every callback at once; on_close still comes."""
        for connection in tuple(self._present):
            self._guarded(connection, connection._give_up)

    def _guarded(self, connection: Connection, act: Callable[[], None]) -> None:
        """Do what concerns many connections for one of them: a bug that it meets costs this one and not the others.

        Nor do they see what its callbacks set in the context.
        """
        try:
            self.context.copy().run(act)
        except Exception as error:
            self._drop(connection, act.__name__, error)

    def _drop(self, connection: Connection, act: str, error: Exception) -> None:
        self._failed(error)
        self.log.error("a bug in wsworker: %s of %r", act, connection, exc_info=error)
        connection.terminate()

    def _now(self) -> int:
        # a timer may fire up to the clock's resolution early, which must not count as the tick before
        self.tick = int((self.loop.time() - self._wheel_began_at) / TICK_SECONDS + 0.01)
        return self.tick

    def _wait_for_tick(self) -> None:
        due = self._wheel_began_at + (self.tick + 1) * TICK_SECONDS
        self.loop.call_at(due, self._turn_wheel, context=self.context)

    def _turn_wheel(self) -> None:
        before, stood_still_before = self.tick, self._stood_still
        self._stood_still = stood_still = self._now() - before > LATE_TICKS and not stood_still_before
        for connection in self._wheel.advance(self.tick):
            if stood_still:
                # uvloop runs timers before it reads, and what has come meanwhile may be what is waited for
                self._wheel.schedule(connection, 1)
            else:
                self._guarded(connection, connection._expire)
        self._wheel_turns = len(self._wheel) > 0
        if self._wheel_turns:
            self._wait_for_tick()

    def _forget(self, connection: Connection) -> None:
        self._present.discard(connection)
        if not self._present:
            self.empty.set()

    def _count_soon(self) -> None:
        # thousands come and go in a second when a worker is replaced, many of them in one turn
        if not self._recounts:
            self._recounts = True
            self.loop.call_soon(self._recount, context=self.context)

    def _recount(self) -> None:
        self._recounts = False
        self._changed()

    def _flush_soon(self) -> None:
        if not self._flushes:
            self._flushes = True
            self.loop.call_soon(self._flush_corked, context=self.context)

    def _flush_corked(self) -> None:
        self._flushes = False
        corked, self._corked = iter(self._corked), {}
        # not loop.time(), which uvloop has in whole milliseconds
        until = monotonic() + FLUSH_SECONDS
        for connection in corked:
            # as in deliver: all callbacks that it can lead to have a context of their own
            try:
                connection._flush()
            except Exception as error:
                self._drop(connection, "_flush", error)
            if monotonic() > until:
                break
        self._corked = dict.fromkeys(corked) | self._corked
        if self._corked:
            self._flush_soon()
