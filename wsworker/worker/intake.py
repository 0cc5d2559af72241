"""Intake: what comes in from one client, and the reasons for which it is stopped. The lowest layer of a connection.

A connection is built in layers, a class each, every one knowing those beneath it: intake (bytes in), link (stages, and
the end), entry (the handshake), vigil (what takes too long or is too much), connection (what users call). They are one
object and not five that point at each other, because a worker has ten thousand of them.

Messages come in runs. Nearly always a read brings whole plain frames and nothing speaks against handling them: then
they are decoded, delivered and their answers written without a detour, in data_received. All else takes the way through
the session, in `_deliver`.

Reading and delivery stop for several reasons that come and go independently, so the reasons are bits of one number:
while any is set, nothing is handled and the socket is not read. Stopping the socket alone would not do: the session
may hold a thousand messages that came with one read. A run that is stopped in the middle goes back to the session.
Reading goes on only when the session has nothing left to give. Were the socket read as soon as the last reason is gone,
a client that is handled slower than it sends would fill the session with every turn.

No client has the loop for itself: after FRAMES_PER_TURN frames the others have their turn.
"""

from __future__ import annotations

import asyncio
from typing import Final

from wsworker.protocol.events import Event
from wsworker.protocol.frames import decode_run
from wsworker.protocol.session import Session
from wsworker.worker.cork import Cork
from wsworker.worker.delivery import Delivery
from wsworker.worker.home import Home
from wsworker.worker.quota import Quota

# why nothing is read or delivered
ANSWER_OWED: Final = 1  # the handshake is not answered yet
PAUSED: Final = 2  # by the user
QUEUE_FULL: Final = 4  # too many messages wait for async callbacks
CHOKED: Final = 8  # the client does not take what we send
BROKEN: Final = 16  # a callback raised, and on_error has not had its turn
CUT: Final = 32  # the socket is aborted; never taken back
MOVING: Final = 64  # it is about to go to another worker, or has come from one and has no transport yet

FRAMES_PER_TURN: Final = 256
LARGE_READ_BYTES: Final = 128 * 1024
"""uvloop reads a client that fills its buffer of 256,000 bytes again and again in one tick, unless it is stopped."""

BYTES_PER_FRAME: Final = 4096
"""A message counts for more frames if it is larger: what comes in one read may be inflated a thousand times."""


class Intake(asyncio.Protocol):
    """The way in of one connection.

    _handling: messages or events are being handled, and what is sent now is written behind them; _reading: the socket
    is read; _holds: the reasons; _held: there was one when that was last looked at; _stopped: the run that is being
    handled must end, for a reason or because the connection is not open any more; _heard: something has come since this
    was last set to False; _scheduled: _deliver is due in the next tick. _bytes_in, _messages_in: what _counters count,
    of this client alone.
    """

    __slots__ = (
        "_active_at",
        "_bytes_in",
        "_cork",
        "_counters",
        "_delivery",
        "_handling",
        "_heard",
        "_held",
        "_holds",
        "_home",
        "_idles_on",
        "_messages_in",
        "_quota",
        "_reading",
        "_scheduled",
        "_session",
        "_stopped",
        "_transport",
    )

    _transport: asyncio.Transport
    _cork: Cork
    _delivery: Delivery

    def __init__(self, home: Home) -> None:
        settings = home.config.websocket
        self._home = home
        self._counters = home.counters
        self._session = Session(settings.max_size, deflate=settings.compression == "deflate")
        self._quota: Quota | None = None  # if messages or bytes have a rate
        self._handling = False
        self._reading = True
        self._scheduled = False
        self._holds = 0
        self._held = False
        self._stopped = False
        self._heard = False
        self._idles_on = False
        self._active_at = 0  # tick of the last message, either way
        self._bytes_in = 0
        self._messages_in = 0

    # What the layers above add

    def _handle(self, event: Event) -> None:
        """Handle one event; the reasons may change meanwhile."""
        raise NotImplementedError

    def _discard(self, size: int) -> bool:
        """Return whether what comes is not wanted any more, after counting it."""
        raise NotImplementedError

    def _rested(self, completed: bool) -> None:
        """Know that a turn of handling is over, and whether any message was completed in it."""
        raise NotImplementedError

    def _reads_again(self) -> None:
        """Know that the socket is read again after a while in which there was a reason not to."""
        raise NotImplementedError

    # What asyncio calls

    def data_received(self, data: bytes) -> None:
        """Handle what one read has brought."""
        self._heard = True
        size = len(data)
        self._counters.bytes_in += size
        self._bytes_in += size
        session = self._session
        if not session.lane or session.unread or session.behind or self._holds or self._handling or self._quota:
            self._receive(data)
        else:
            run, end = decode_run(data, 0, session.max_size, FRAMES_PER_TURN)
            if end < size:
                session.receive(data, end)
            if run:
                self._stopped = False
                self._handling = True
                try:
                    handled = self._delivery.deliver(run, self)
                finally:
                    self._handling = False
                self._counters.messages_in += handled
                self._messages_in += handled
                self._active_at = self._home.tick
                if handled < len(run):
                    session.give_back(run[handled:])
            if session.unread or session.behind or self._holds:
                self._deliver(FRAMES_PER_TURN - len(run) + len(session.behind))
            else:
                self._cork.flush()
        if size >= LARGE_READ_BYTES:
            self._give_way()

    def _give_way(self) -> None:
        """Read on in the next tick: the loop may have more of this client at hand, and others wait."""
        self._read(False)
        if not self._holds:
            self._deliver_soon()

    def _receive(self, data: bytes) -> None:
        if self._discard(len(data)):
            return
        if self._quota is not None:
            self._obey(self._quota.take_bytes(len(data), self._home.loop.time()))
        self._session.receive(data)
        self._deliver()

    def _deliver(self, left: int = FRAMES_PER_TURN) -> None:
        """Have what was received handled, until there is nothing or a reason against it; then write the answers.

        What is left comes in a later tick: after _let_go, or of itself if only the turn was over.
        """
        if self._handling:
            return
        session = self._session
        empty, completed = False, left < FRAMES_PER_TURN
        while left > 0 and not self._holds and not empty:
            run = session.next_run(left)
            if run:
                left -= self._take(run)
                completed = True
                continue
            event = session.next_event()
            if event is None:
                empty = True
            else:
                left -= 1 + (len(event) // BYTES_PER_FRAME if isinstance(event, (str, bytes)) else 0)
                completed = completed or isinstance(event, (str, bytes))
                self._handling = True
                try:
                    self._handle(event)
                finally:
                    self._handling = False
        self._rested(completed)
        self._cork.flush()
        self._read(empty and not self._holds)
        if left <= 0 and not self._holds:
            self._deliver_soon()

    def _deliver_soon(self) -> None:
        # once: two of them side by side would be two turns in each tick
        if not self._scheduled:
            self._scheduled = True
            # not in the context of whose callback asks for it: asyncio would have it in all later reads as well
            self._home.loop.call_soon(self._deliver_now, context=self._home.context.copy())

    def _deliver_now(self) -> None:
        self._scheduled = False
        self._deliver()

    def _take(self, run: list[str | bytes]) -> int:
        """Have messages handled, give back to the session what is not wanted now, and return how many were handled."""
        most, over, quota = len(run), None, self._quota
        if quota is not None:
            most, over = quota.take_messages(most, self._home.loop.time())
        self._stopped = False
        self._handling = True
        try:
            handled = self._delivery.deliver(run[:most], self)
        finally:
            self._handling = False
        self._counters.messages_in += handled
        self._messages_in += handled
        self._active_at = self._home.tick
        if handled < most:
            self._session.give_back(run[handled:])
            if quota is not None:
                quota.give_back(most - handled)
        else:
            self._obey(over)
        return handled

    def _obey(self, over: str | None) -> None:
        """Close with 1008 if the quota says so, for the reason given."""
        if over is not None and self._session.state == "open":
            self._session.fail(1008, over)

    # The reasons

    def _hold(self, reason: int) -> None:
        """Stop reading and delivering for a reason."""
        self._holds |= reason
        self._stopped = True
        if reason != MOVING:
            self._idles_on = False
        if not self._handling:
            self._read(False)

    def _let_go(self, reasons: int) -> None:
        """Take reasons back; when none is left, delivery goes on in the next tick, and reading after it."""
        if self._holds & reasons:
            self._holds &= ~reasons
            if not self._holds and not self._handling:
                self._deliver_soon()

    def _let_all_go(self) -> None:
        """Take all reasons back but the one that is final, and read on at once: what comes is thrown away."""
        self._holds &= CUT
        self._read(not self._holds)

    def _read(self, wanted: bool) -> None:
        if self._transport.is_closing():
            return
        if self._holds and not self._held:
            self._mind_hold(True)
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
        if wanted and self._held:
            self._mind_hold(False)

    def _mind_hold(self, held: bool) -> None:
        """Know that from now on there is, or is no more, a reason not to read: the client cannot help what is late."""
        self._held = held
        if self._quota is not None:
            self._quota.mind_reading(not held, self._home.loop.time())
        if held:
            # nobody has kept the client from being read: it only changes its worker
            self._idles_on = self._holds == MOVING
        else:
            self._reads_again()
