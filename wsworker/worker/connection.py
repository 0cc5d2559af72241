"""Connection: one client, from accept to the last byte. The asyncio protocol of its socket and the user's handle on it.

What a frame is, the session knows. When it is read and messages are handled, the intake; how writes are joined and what
waits for a slow client, the cork; whose callback is next, the delivery; who is let in, the door; whether the client is
alive, the pulse. Here they meet, and here is the order of things:

    head ──▶ answer ──▶ open ──▶ closing ──▶ linger ──▶ gone
      │         │         └──────────────────▲  ▲
      └─────────┴───────────────────────────────┘           and from everywhere to gone, when TCP ends

    head      the request is not complete              closing  our Close is out, the client's is awaited; after
    answer    on_handshake may run, nothing is read             a second the half-close goes out all the same
    open      101 is sent, on_connect is called        linger   half-closed; what comes is discarded, until the
    gone      TCP has ended                                     client closes as well or the time is up

Why linger: closing a socket with unread input makes the kernel send RST, which can destroy what was written before.

A connection has one deadline at any time, kept in the worker's wheel; the stage says what it means.

on_close comes once and last: `_ending` is set by whatever ends the connection first, and `_settle` calls on_close when
nothing runs or waits before it. Everything that a connection is stands in named fields, nothing in a closure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, cast

from wsworker.protocol.request import Address, Request
from wsworker.protocol.session import Closed, Event, Handshake, Refused, Session
from wsworker.worker.cork import Cork
from wsworker.worker.delivery import Delivery
from wsworker.worker.door import Door, busy
from wsworker.worker.home import Home
from wsworker.worker.intake import ANSWER_OWED, BROKEN, CHOKED, CUT, PAUSED, QUEUE_FULL, Intake
from wsworker.worker.pulse import Pulse
from wsworker.worker.wheel import ticks

Stage: TypeAlias = Literal["head", "answer", "open", "closing", "linger", "gone"]

_NEXT: Final[Mapping[Stage, tuple[Stage, ...]]] = {
    "head": ("answer", "linger", "gone"),
    "answer": ("open", "linger", "gone"),
    "open": ("closing", "linger", "gone"),
    "closing": ("linger", "gone"),
    "linger": ("gone",),
    "gone": (),
}

MESSAGES_WAITING: Final = 16

ECHO_SECONDS: Final = 1.0
"""So long a client may take to answer a Close before the half-close goes out; Chromium waits 2 s for that."""

DISCARD_SECONDS: Final = 1.0
DISCARD_BYTES: Final = 64 * 1024
"""What a client may still send after a refused handshake, so that it reads the answer before the RST."""


class Connection(asyncio.Protocol):
    """One client. You get it in on_connect and may keep it; all members may be used at any time, also after its end.

    id: unique over all workers and machines, never reused, to be taken as it is; request: what the client asked for;
    subprotocol: the one agreed on, or None; remote: the client's address; worker: the worker it is connected to;
    data: a dictionary of your own.
    """

    __slots__ = (
        "_active_at",
        "_cork",
        "_delivery",
        "_discarded",
        "_door",
        "_ending",
        "_home",
        "_intake",
        "_peer",
        "_pulse",
        "_session",
        "_stage",
        "_told",
        "_transport",
        "data",
        "id",
        "remote",
        "request",
        "subprotocol",
        "worker",
    )

    request: Request
    remote: Address
    _transport: asyncio.Transport
    _cork: Cork
    _intake: Intake

    def __init__(self, home: Home, peer: Any = None) -> None:
        self.id = ""
        self.subprotocol: str | None = None
        self.worker = home.worker
        self.data: dict[Any, Any] = {}
        self._home = home
        self._peer = peer
        self._session = Session(home.config.websocket.max_size)
        self._stage: Stage = "head"
        self._door: Door | None = None  # while the handshake is to be answered
        self._delivery = Delivery(self, home.caller, home.loop)
        self._pulse: Pulse | None = None
        self._ending: tuple[int, str] | None = None  # what on_close is given
        self._told = False  # on_close was called
        self._discarded = 0
        self._active_at = 0  # tick of the last message, either way

    def __repr__(self) -> str:
        return f"<Connection {self.id or 'without id'} from {self.remote}, {self.state}>"

    # What users call

    @property
    def state(self) -> Literal["open", "closing", "closed"]:
        """Where it stands: "open", "closing" once close() was called, "closed" once on_close is due."""
        if self._ending is not None or self._stage == "gone":
            return "closed"
        return "open" if self._stage == "open" else "closing"

    @property
    def buffered(self) -> int:
        """Bytes that were sent and that the kernel has not taken yet."""
        return self._cork.buffered

    def send(self, data: str | bytes | bytearray | memoryview) -> bool:
        """Send a message: text for a str, binary for the others. Never waits.

        True: accepted, it will be written in order. False: the connection is not open any more, or `buffered` has
        reached websocket.send_buffer; the message is dropped and the connection stays as it is. One message always goes
        in below the limit, however large it is.
        TypeError for other types; UnicodeEncodeError for a str with a lone surrogate.
        """
        if not isinstance(data, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"send takes str, bytes, bytearray or memoryview, not {type(data).__name__}")
        counters = self._home.counters
        if self._stage != "open" or not self._cork.has_room():
            counters.refused += 1
            return False
        size = self._session.send(data)
        counters.messages_out += 1
        counters.bytes_out += size
        self._active_at = self._home.tick
        self._cork.add(size)
        self._flush_soon()
        return True

    async def drain(self) -> None:
        """Wait until `buffered` is below half of websocket.send_buffer, or the connection is closed. Never raises."""
        if self.state == "closed":
            return
        waiter = self._cork.drained()
        if waiter is not None:
            await waiter

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection behind what was sent; on_close comes when the client has answered, or has not in time.

        code: 1000-1003, 1007-1014 or 3000-4999, else ValueError. reason: cut to 123 bytes of UTF-8.
        Messages that the client sends from now on are not delivered. After the first time it does nothing.
        """
        self._session.close(code, reason)
        if self._stage != "open":
            return
        self._enter("closing")
        self._home.schedule(self, ticks(ECHO_SECONDS))
        self._delivery.release()
        self._intake.let_go(PAUSED | QUEUE_FULL | BROKEN)
        self._flush_soon()

    def terminate(self) -> None:
        """Drop the TCP connection at once, with what was not written yet; on_close gets 1006. Never raises."""
        self._cut("terminate() was called")

    def pause(self) -> None:
        """Stop reading: no message is delivered until resume(), those that have come already neither.

        The client's pongs are not read either, so it is not dropped for silence meanwhile; nor is its Close. Does
        nothing unless open.
        """
        if self._stage == "open":
            self._hold(PAUSED)
            self._delivery.hold()

    def resume(self) -> None:
        """Read again after pause()."""
        if self._intake.holds & PAUSED:
            self._intake.let_go(PAUSED)
            self._delivery.release()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the deadline of the whole handshake runs from here."""
        settings = self._home.config.websocket
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._cork = Cork(self, self._session, self._transport, settings.send_buffer)
        self._intake = Intake(self, self._session, self._transport, self._home.loop)
        # a client that has reset the connection meanwhile has no address any more, so the one from accept counts
        self.remote = _address(transport.get_extra_info("peername") if self._peer is None else self._peer)
        self._home.arrived(self)
        self._home.schedule(self, ticks(settings.open_timeout))

    def data_received(self, data: bytes) -> None:
        """Handle what one read has brought."""
        if self._pulse is not None:
            self._pulse.asked_at = 0
        if self._stage == "linger":
            self._discard(len(data))
            return
        self._session.receive(data)
        self._intake.deliver()

    def eof_received(self) -> None:
        """Handle the client's half-close; that nothing is returned makes asyncio close behind what is written."""
        if self._stage != "linger":
            self._session.receive_eof()
            self._intake.deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish: the socket is gone, and on_close comes as soon as nothing waits before it."""
        self._enter("gone")
        self._home.cancel(self)
        self._shut_door()
        paused = self._intake.holds & PAUSED
        self._intake.hold(CUT)
        if paused:
            # what a paused connection had not delivered is not delivered any more
            self._delivery.drop()
        self._delivery.release()
        self._end(1006, f"the connection was lost: {exc}" if exc else "the connection was lost")
        self._settle()

    def resume_writing(self) -> None:
        """Look how much the client has taken."""
        self._cork.relieve()

    # What the intake says

    def _handle(self, event: Event) -> None:
        if isinstance(event, (str, bytes)):
            counters = self._home.counters
            counters.messages_in += 1
            counters.bytes_in += _payload_size(event)
            self._active_at = self._home.tick
            self._delivery.call(self._home.app.on_message, event)
            if self._delivery.waiting >= MESSAGES_WAITING:
                self._hold(QUEUE_FULL)
        elif isinstance(event, Handshake):
            self._enter("answer")
            self._intake.hold(ANSWER_OWED)
            self.request = Request(event.request, self.remote)
            self._door = Door(self._home, self, self.request)
            self._door.ask(event)
        elif isinstance(event, Refused):
            self._home.log.info("refused %s with %d: %s", self.remote, event.status, event.reason)
            self._refused()
        elif isinstance(event, Closed) and self.id:
            self._over(event)
        elif isinstance(event, Closed):
            # it gave up in the middle of its request
            self._linger(DISCARD_SECONDS)

    def _flush(self) -> None:
        self._cork.flush()

    def _reads_again(self) -> None:
        if self._pulse is not None:
            self._pulse.resumed(self._home.tick)

    # What the door says

    def _admit(self, subprotocol: str | None) -> None:
        if not self._session.accept(subprotocol):
            self._refused()
            return
        home = self._home
        self._enter("open")
        self._door = None
        self.subprotocol = subprotocol
        self.id = home.next_id()
        home.counters.accepted += 1
        home.opened(self)
        self._start_pulse()
        self._intake.let_go(ANSWER_OWED)
        self._flush_soon()
        self._delivery.call(home.app.on_connect)

    def _refuse(self, status: int, headers: Mapping[str, str] | None, body: str) -> None:
        self._session.reject(status, headers, body)
        self._refused()

    def _refused(self) -> None:
        self._home.counters.rejected += 1
        self._shut_door()
        self._linger(DISCARD_SECONDS)

    def _business(self) -> tuple[bool, bool, int]:
        """How busy it is, as a sort key: nothing under way and silent for long comes first."""
        return self._delivery.busy, self.buffered > 0, self._active_at

    def _turn_away(self) -> None:
        """Answer a handshake that is still open with 503, because the worker leaves."""
        if self._stage in ("head", "answer"):
            self._refuse(*busy(self._home))

    def _give_up(self) -> None:
        """Drop the socket and what runs for it: the worker ends. on_close still comes."""
        self._cut("the worker has ended")
        self._delivery.stop()

    def _shut_door(self) -> None:
        if self._door is not None:
            self._door.shut()
            self._door = None

    # What the delivery says

    def _turn_over(self) -> None:
        if self._delivery.waiting < MESSAGES_WAITING:
            self._intake.let_go(QUEUE_FULL)

    def _idle(self) -> None:
        self._settle()

    def _broke(self) -> None:
        self._hold(BROKEN)

    def _fail(self) -> None:
        self.close(1011, "internal error")

    # Deadlines

    def _expire(self) -> None:
        """Do what the stage demands when its time is up; called by the worker's wheel."""
        if self._stage == "open":
            self._check_pulse()
        elif self._stage == "closing" and not self._cork.finished:
            self._flush()
            self._cork.finish()
            self._home.schedule(self, ticks(self._home.config.websocket.close_timeout))
        elif self._stage == "closing":
            self._cut("the client did not answer our Close")
        elif self._stage in ("head", "answer") and self._session.head_started:
            self._refuse(408, None, "The handshake took too long.\n")
        else:
            self._transport.abort()

    def _start_pulse(self) -> None:
        home, settings = self._home, self._home.config.websocket
        if not settings.ping_interval:
            home.cancel(self)
            return
        interval, timeout = ticks(settings.ping_interval), ticks(settings.ping_timeout)
        self._pulse = Pulse(interval, timeout, home.tick, home.random.random())
        home.schedule(self, self._pulse.ticks_left(home.tick))

    def _check_pulse(self) -> None:
        home, pulse = self._home, self._pulse
        assert pulse is not None
        if self._cork.choked:
            if self._cork.stuck():
                self._cut(f"the client took nothing for {home.config.websocket.ping_timeout:g} s")
            else:
                home.schedule(self, ticks(home.config.websocket.ping_timeout))
            return
        if not self._intake.reading:
            pulse.resumed(home.tick)
        verdict = pulse.check(home.tick, home.random.random())
        if verdict == "silent":
            self._cut(f"nothing came for {home.config.websocket.ping_timeout:g} s after a ping")
            return
        if verdict == "ping":
            self._session.ping(pulse.payload())
            self._flush_soon()
        home.schedule(self, pulse.ticks_left(home.tick))

    # The end

    def _over(self, event: Closed) -> None:
        """Take the session's word that the connection has ended."""
        self._linger(DISCARD_SECONDS if event.failed else self._home.config.websocket.close_timeout)
        if event.failed:
            self._end(1006, f"we closed with {event.code}: {event.reason}")
        else:
            self._end(event.code, event.reason)
        self._settle()

    def _cut(self, reason: str) -> None:
        """Abort the socket; connection_lost follows."""
        if self._stage == "gone":
            return
        self._end(1006, reason)
        if self._stage != "linger":
            self._enter("linger")
        self._intake.hold(CUT)
        self._delivery.drop()
        self._transport.abort()

    def _end(self, code: int, reason: str) -> None:
        """Fix what on_close is given, if the client ever came in; the first cause is the one that counts."""
        if self.id and self._ending is None:
            self._ending = (code, reason)
            self._cork.release()

    def _settle(self) -> None:
        """Call on_close when nothing comes before it any more, and leave the worker when all is done."""
        if self._ending is not None and not self._told and not self._delivery.busy:
            self._told = True
            self._home.ended(self)
            self._delivery.call(self._home.app.on_close, *self._ending)
        # otherwise _idle comes back here, or connection_lost
        if self._stage == "gone" and not self._delivery.busy:
            self._home.closed(self)

    def _linger(self, seconds: float) -> None:
        """Write what is left, half-close behind it, and discard what still comes."""
        self._enter("linger")
        self._home.schedule(self, ticks(seconds))
        self._flush()
        self._cork.finish()
        self._intake.let_all_go()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if not self.id and self._discarded > DISCARD_BYTES:
            self._transport.abort()

    # The way out, and what stops the way in

    def _flush_soon(self) -> None:
        if not self._intake.handling:
            self._home.flush_later(self)

    def _choked(self) -> None:
        self._hold(CHOKED)

    def _eased(self) -> None:
        self._intake.let_go(CHOKED)

    def _filled(self) -> None:
        if self.state == "open":
            self._delivery.signal(self._home.app.on_buffer_full)

    def _emptied(self) -> None:
        if self.state == "open":
            self._delivery.signal(self._home.app.on_buffer_drain)

    def _hold(self, reason: int) -> None:
        # only while open: once we close, the client's answer has to be read
        if self._stage == "open":
            self._intake.hold(reason)

    def _enter(self, stage: Stage) -> None:
        assert stage in _NEXT[self._stage], f"{self._stage} to {stage}"
        self._stage = stage


def _address(peer: Any) -> Address:
    """peer: (host, port, ...) of TCP; anything else belongs to a unix socket."""
    return Address(peer[0], peer[1]) if isinstance(peer, tuple) else Address("unix", 0)


def _payload_size(message: str | bytes) -> int:
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())
