"""Link: the life of one connection in stages, from accept to the last byte. A layer of it, above the intake.

    head ──▶ answer ──▶ open ──▶ closing ──▶ linger ──▶ gone
      │       │ └─▶ page ─┼────────────────────▲  ▲
      └───────┴───────────┴─────────────────────┘           and from everywhere to gone, when TCP ends
                          │
                          └─▶ moving ─▶ gone, or back to open

    head      the request is not complete              closing  our Close is out, the client's is awaited; after
    answer    on_handshake may run, nothing is read             a second the half-close goes out all the same
    page      an answer to plain HTTP is being sent    linger   half-closed; what comes is discarded, until the
    open      101 is sent, on_connect is called                 client closes as well or the time is up
    gone      TCP has ended, or another worker has it
    moving    another worker is to take it, and this one has not let go: freezing.py, limbo.py

Why linger: closing a socket with unread input makes the kernel send RST, which can destroy what was written before.

A connection has one deadline at any time, kept in the worker's wheel; the stage says what it means.

on_close comes once and last: `_ending` is set by whatever ends the connection first, and `_settle` calls on_close when
nothing runs or waits before it. Everything that a connection is stands in named fields, nothing in a closure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, cast

from wsworker.protocol.events import Closed, Event
from wsworker.protocol.request import Address
from wsworker.worker.access import Farewell, Side
from wsworker.worker.app import Callback
from wsworker.worker.arrival import Arrival
from wsworker.worker.cork import Cork
from wsworker.worker.delivery import MESSAGES_WAITING, Delivery
from wsworker.worker.gone import GONE
from wsworker.worker.home import Home
from wsworker.worker.intake import BROKEN, CHOKED, CUT, FRAMES_PER_TURN, PAUSED, QUEUE_FULL, Intake
from wsworker.worker.site import Download
from wsworker.worker.wheel import ticks

Stage: TypeAlias = Literal["head", "answer", "page", "open", "moving", "closing", "linger", "gone"]

_NEXT: Final[Mapping[Stage, tuple[Stage, ...]]] = {
    "head": ("answer", "linger", "gone"),
    "answer": ("page", "open", "linger", "gone"),
    "page": ("linger", "gone"),
    "open": ("moving", "closing", "linger", "gone"),
    "moving": ("open", "gone"),
    "closing": ("linger", "gone"),
    "linger": ("gone",),
    "gone": (),
}
HANDSHAKE: Final = ("head", "answer")

ECHO_SECONDS: Final = 1.0
"""So long a client may take to answer a Close before the half-close goes out; Chromium waits 2 s for that."""

DISCARD_SECONDS: Final = 1.0
DISCARD_BYTES: Final = 64 * 1024
"""What a client may still send after a refused handshake, so that it reads the answer before the RST."""


class Link(Intake):
    """The stages of one connection, and its end. id: "" before the 101; remote: the client's address."""

    __slots__ = (
        "_arrival",
        "_discarded",
        "_download",
        "_ending",
        "_farewell",
        "_stage",
        "_told",
        "_user",
        "id",
        "remote",
    )

    remote: Address

    def __init__(self, home: Home, arrival: Arrival) -> None:
        super().__init__(home)
        self.id = ""
        self._arrival: Arrival | None = arrival  # until the handshake is answered
        self._stage: Stage = "head"
        self._delivery = Delivery(self, home.caller, home.loop)
        self._download: Download | None = None  # in stage page
        self._user: str | None = None
        self._ending: tuple[int, str] | None = None  # what on_close is given
        self._farewell: Farewell | None = None  # what it has ended by; other than _ending, if we have closed
        self._told = False  # on_close was called
        self._discarded = 0

    # What the layers above add

    def _shut_door(self) -> None:
        """Ask nobody any more whether the client may come in."""
        raise NotImplementedError

    def _stalled(self) -> None:
        """Know that the client does not take what waits for it."""
        raise NotImplementedError

    def _fail(self) -> None:
        """Close because a callback has raised."""
        raise NotImplementedError

    def _not_resumed(self) -> None:
        """Close because on_resume has raised."""
        raise NotImplementedError

    def _land(self, transport: asyncio.Transport) -> None:
        """Go on with the transport that it has now: it has come from another worker, or back from its way to one."""
        raise NotImplementedError

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the deadline of the whole handshake runs since the client was accepted."""
        # uvloop's transports are no subclasses of asyncio's
        transport = cast(asyncio.Transport, transport)
        if self.id:
            self._land(transport)
            return
        self._transport = transport
        home, settings, arrival = self._home, self._home.config.websocket, self._arrival
        assert arrival is not None, "its handshake is to come"
        self._cork = Cork(self, self._session, self._transport, settings.send_buffer, home.counters)
        self.remote = arrival.source or _address(arrival.peer)
        home.arrived(self)
        home.schedule(self, ticks(settings.open_timeout - (home.loop.time() - arrival.came_at)))

    def eof_received(self) -> bool:
        """Handle the client's half-close; unless a page is being sent, asyncio closes behind what is written."""
        if self._stage == "page":
            return self._transport.can_write_eof()  # with TLS there is no half-close
        if self._stage != "linger":
            self._session.receive_eof()
            self._deliver()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish: the socket is gone, and on_close comes as soon as nothing waits before it."""
        # asyncio calls this in the context of whoever has dropped the socket, often another connection's callback
        self._home.context.copy().run(self._lose, exc)

    def _lose(self, exc: Exception | None) -> None:
        self._enter("gone")
        self._transport = GONE
        self._cork.lose(GONE)
        self._home.cancel(self)
        self._shut_door()
        if self._download is not None:
            self._download.close()
        if self.id:
            self._home.visitors.leave(self.remote.host)
        if self.id and not self._holds & (PAUSED | BROKEN | CUT):
            self._deliver_rest()
        self._cork.forget()
        self._session.lose()
        paused = self._holds & PAUSED
        self._hold(CUT)
        if paused:
            # what a paused connection had not delivered is not delivered any more
            self._delivery.drop()
        self._delivery.release()
        cause = str(exc or "")
        reason = f"the connection was lost: {cause}" if cause else "the connection was lost"
        self._blame(Farewell("nobody", 1006, reason))
        self._end(1006, reason)
        self._settle()

    def pause_writing(self) -> None:
        """Know that the transport has enough for now."""
        self._cork.pause()
        self._stalled()

    def resume_writing(self) -> None:
        """Look how much the client has taken."""
        if self._download is not None:
            self._download.pump()
        else:
            self._cork.resume()

    # What the hub says

    def _flush(self) -> None:
        self._cork.flush()

    def _business(self) -> tuple[bool, bool, int]:
        """How busy it is, as a sort key: nothing under way and silent for long comes first."""
        return self._delivery.busy, self._cork.buffered > 0, self._active_at

    def _give_up(self) -> None:
        """Drop the socket and what runs for it: the worker ends. on_close still comes."""
        self._cut("the worker has ended")
        self._delivery.stop()

    def _deliver_rest(self) -> None:
        """Deliver what was read before the socket was lost, as if there were no turns: it came before the end.

        That the client has gone does not unsay what it said: its messages, and its Close.
        """
        self._stopped = False
        event: Event | None = None
        while not self._stopped and not isinstance(event, Closed):
            run = self._session.next_run(FRAMES_PER_TURN)
            if not run:
                event = self._session.next_event()
                if event is None:
                    return
                run = [event] if isinstance(event, (str, bytes)) else []
            handled = self._delivery.deliver(run, self)
            self._counters.messages_in += handled
            self._messages_in += handled
        if isinstance(event, Closed) and event.clean:
            self._blame(Farewell("client", event.code, event.reason))
            self._end(event.code, event.reason)

    # What the delivery says

    def _crowded(self) -> None:
        self._hold_open(QUEUE_FULL)

    def _turn_over(self) -> None:
        # not as soon as there is one place: each time costs a pass through the intake
        if self._delivery.waiting <= MESSAGES_WAITING // 2:
            self._let_go(QUEUE_FULL)

    def _idle(self) -> None:
        self._settle()

    def _broke(self) -> None:
        self._stopped = True
        self._hold_open(BROKEN)

    # What the cork says

    def _choked(self) -> None:
        # also while closing, since pings are answered until the client's Close; what takes them lets it be read again
        if self._stage in ("open", "closing"):
            self._hold(CHOKED)

    def _eased(self) -> None:
        self._let_go(CHOKED)

    def _filled(self) -> None:
        if self._stage == "open":
            self._signal(self._home.app.on_buffer_full)

    def _emptied(self) -> None:
        if self._stage == "open":
            self._signal(self._home.app.on_buffer_drain)

    def _signal(self, callback: Callback | None) -> None:
        # often another connection's callback has led here, by a message to many, and its context is its own affair
        self._home.context.copy().run(self._delivery.signal, callback)

    def _hold_open(self, reason: int) -> None:
        # only while open: once we close, the client's answer has to be read
        if self._stage == "open":
            self._hold(reason)

    # The end

    def _discard(self, size: int) -> bool:
        if self._stage not in ("linger", "page"):
            return False
        self._discarded += size
        if not self.id and self._discarded > DISCARD_BYTES:
            self._transport.abort()
        return True

    def _over(self, event: Closed) -> None:
        """Take the session's word that the connection has ended."""
        self._linger(DISCARD_SECONDS if event.failed else self._home.config.websocket.close_timeout)
        self._blame(Farewell(_side(event), event.code, event.reason))
        if event.failed:
            text, facts = "%s closed with %d: %s", (self.remote, event.code, event.reason)
            self._home.notices.tell(f"closed with {event.code}", text, *facts, connection=self.id)
            self._end(1006, f"we closed with {event.code}: {event.reason}", counted=event.code)
        else:
            self._end(event.code, event.reason)
        self._settle()

    def _cut(self, reason: str) -> None:
        """Abort the socket; connection_lost follows."""
        if self._stage == "gone":
            return
        self._blame(Farewell("server", 1006, reason))
        self._end(1006, reason)
        if self._stage != "linger":
            self._enter("linger")
        self._hold(CUT)
        self._delivery.drop()
        self._transport.abort()

    def _end(self, code: int, reason: str, counted: int = 0) -> None:
        """Fix what on_close is given, if the client ever came in; the first cause is the one that counts.

        counted: the code of a Close that was sent, where on_close gets another one.
        """
        if self.id and self._ending is None:
            self._ending = (code, reason)
            self._counters.close(counted or code)
            self._cork.release()
            if self._user is not None:
                self._home.users.leave(self._user, self)

    def _blame(self, farewell: Farewell) -> None:
        """Remember what it has ended by: the first cause, as for _end, but a Close of ours is one already."""
        if self._farewell is None:
            self._farewell = farewell

    def _settle(self) -> None:
        """Call on_close when nothing comes before it any more, and leave the worker when all is done."""
        if self._ending is not None and not self._told and not self._delivery.busy:
            self._told = True
            home = self._home
            home.ended(self)
            if home.access is not None and self._farewell is not None:
                home.access.closed(self, self._farewell)
            self._delivery.call(self._home.app.on_close, *self._ending)
        # otherwise _idle comes back here, or connection_lost
        if self._stage == "gone" and not self._delivery.busy:
            self._home.closed(self)

    def _linger(self, seconds: float) -> None:
        """Write what is left, half-close behind it, and discard what still comes."""
        self._enter("linger")
        self._home.schedule(self, ticks(seconds))
        self._cork.flush()
        self._cork.finish()
        self._let_all_go()

    def _enter(self, stage: Stage) -> None:
        assert stage in _NEXT[self._stage], f"{self._stage} to {stage}"
        if self._stage in HANDSHAKE and stage not in HANDSHAKE:
            self._arrival = None
            self._home.answered(self)
        if stage != "open":
            self._stopped = True
        self._stage = stage


def _side(event: Closed) -> Side:
    if event.failed:
        return "server"
    return "client" if event.clean else "nobody"


def _address(peer: Any) -> Address:
    """peer: (host, port, ...) of TCP; anything else belongs to a unix socket."""
    return Address(peer[0], peer[1]) if isinstance(peer, tuple) else Address("unix", 0)
