"""Vigil: what takes one connection too long, or comes too often. A layer of the connection.

The watch says what is due (watch.py); here it gets the facts and its verdict is carried out. The times of the other
stages are few enough to stand here themselves. As the layer that knows all those beneath it, it also hands each event
to the one that the event concerns.
"""

from __future__ import annotations

from time import monotonic

from wsworker.protocol.events import Closed, Event, Handshake, Ping, Pong, Refused
from wsworker.protocol.rates import Bucket
from wsworker.worker.arrival import Arrival
from wsworker.worker.entry import Entry
from wsworker.worker.home import Home
from wsworker.worker.limbo import Limbo
from wsworker.worker.link import DISCARD_SECONDS, HANDSHAKE
from wsworker.worker.quota import Quota
from wsworker.worker.watch import Facts, Verdict, Watch
from wsworker.worker.wheel import ticks

NOT_SIGNED_IN = 3502
"""A code of ours: from 3500 on a client should not connect again by itself."""


class Vigil(Entry):
    """The deadlines and rates of one connection."""

    __slots__ = ("_control", "_watch")

    def __init__(self, home: Home, arrival: Arrival) -> None:
        super().__init__(home, arrival)
        self._watch: Watch | None = None  # since it is open
        self._control: Bucket | None = None  # since the first ping or pong

    @property
    def _round_trip(self) -> float | None:
        """Seconds of the last ping that was answered."""
        return None if self._watch is None or self._watch.pulse is None else self._watch.pulse.round_trip

    # What the layers above add

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it."""
        raise NotImplementedError

    # What the layers beneath say

    def _handle(self, event: Event) -> None:
        if isinstance(event, (str, bytes)):
            self._take([event])
        elif isinstance(event, (Ping, Pong)):
            self._mind_control(event)
        elif isinstance(event, Handshake):
            self._knock(event)
        elif isinstance(event, Refused):
            facts = self.remote, event.status, event.reason
            self._home.notices.tell("bad_request", "%s: refused a request with %d: %s", *facts)
            self._refused("bad_request", event.status)
        elif isinstance(event, Closed) and self.id:
            self._over(event)
        elif isinstance(event, Closed):
            # it gave up in the middle of its request
            self._linger(DISCARD_SECONDS)

    def _opened(self) -> None:
        home, settings = self._home, self._home.config.websocket
        self._watch = Watch(home.spans, home.tick, home.random.random())
        home.schedule(self, self._ticks_left())
        if settings.rate_messages or settings.rate_bytes:
            self._quota = Quota(settings, home.loop.time())

    def _rested(self, completed: bool) -> None:
        """See whether a message is under way, in fragments or in one frame: its time runs since it began."""
        watch, session = self._watch, self._session
        if watch is None or self._stage != "open":
            return
        under_way = session.in_message or len(session.unread) > 0
        if completed or not under_way:
            watch.message_ended()
        if under_way and watch.message_began(self._home.tick):
            self._home.schedule(self, self._ticks_left())

    def _reads_again(self) -> None:
        if self._watch is not None:
            self._watch.resumed(self._home.tick)
            if not self._idles_on:
                self._active_at = self._home.tick

    def _stalled(self) -> None:
        if self._stage == "open":
            # in a tick and not now, when some of it may still be taken: from there on its time is counted
            self._home.schedule(self, 1)

    # Deadlines

    def _expire(self) -> None:
        """Do what the stage demands when its time is up; called by the worker's wheel."""
        if isinstance(self._transport, Limbo):
            # on_resume has closed it: the time runs since it can be written to
            self._home.schedule(self, 1)
        elif self._stage == "open":
            self._check_watch()
        elif self._stage == "closing" and not self._cork.finished:
            self._cork.flush()
            self._cork.finish()
            self._home.schedule(self, ticks(self._home.config.websocket.close_timeout))
        elif self._stage == "closing":
            self._cut("the client did not answer our Close")
        elif self._download is not None and not self._download.stuck():
            self._home.schedule(self, ticks(self._home.config.websocket.write_timeout))
        elif self._stage in HANDSHAKE and self._session.head_started:
            self._refuse("timeout", 408, None, "The handshake took too long.\n")
        else:
            self._transport.abort()

    def _facts(self) -> Facts:
        self._cork.look()
        return Facts(
            reading=not self._held,
            heard=self._heard,
            # not what is in the cork: some of that may not have been offered yet
            waits=self._transport.get_write_buffer_size() > 0,
            progress=self._cork.progress,
            signed=self._user is not None,
            active_at=self._active_at,
        )

    def _ticks_left(self) -> int:
        assert self._watch is not None
        now = self._home.tick
        return self._watch.ticks_left(now, now if self._held else self._active_at)

    def _check_watch(self) -> None:
        home, watch, facts = self._home, self._watch, self._facts()
        assert watch is not None
        self._heard = self._cork.progress = False
        verdict = watch.check(home.tick, home.random.random(), facts)
        if verdict == "ping":
            assert watch.pulse is not None
            # not loop.time(), which uvloop has in whole milliseconds
            watch.pulse.sent(monotonic())
            self._session.ping(watch.pulse.payload())
            # not flush_later, which is for messages: a ping does not make a connection active
            self._cork.flush()
        elif verdict != "wait":
            self._end_for(verdict)
        if self._stage == "open":
            home.schedule(self, self._ticks_left())

    def _end_for(self, verdict: Verdict) -> None:
        """End an open connection because its time is up."""
        settings = self._home.config.websocket
        if verdict == "silent":
            self._cut(f"nothing came for {settings.ping_timeout:g} s after a ping")
        elif verdict == "stuck":
            self._cut(f"the client took nothing for {settings.write_timeout:g} s")
        elif verdict == "unfinished":
            limit = f"websocket.message_timeout = {settings.message_timeout:g} s"
            self._session.fail(1008, f"a message took longer than {limit}")
            self._deliver()
        elif verdict == "unsigned":
            self.close(NOT_SIGNED_IN, "not signed in in time")
        else:
            self.close(1000, f"no message for {settings.idle_timeout:g} s")

    # Rates

    def _mind_control(self, event: Ping | Pong) -> None:
        """Count a ping or a pong, and the answer to a ping, which no send has counted."""
        home, cork = self._home, self._cork
        now, rate = home.loop.time(), home.config.websocket.rate_control
        if isinstance(event, Pong) and self._watch is not None and self._watch.pulse is not None:
            self._watch.pulse.answered(event.payload, monotonic())
        if self._control is None and rate:
            self._control = Bucket(rate, rate, now)
        if self._control is not None and not self._control.take(1.0, now):
            self._obey(f"more than websocket.rate_control = {rate}")
        if isinstance(event, Ping) and cork.frames:
            cork.size += len(cork.frames[-1])
            if cork.size >= cork.limit:
                cork.press()
