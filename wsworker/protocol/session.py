"""One connection's protocol: bytes in, events out. No file descriptor, no clock, no await.

ServerProtocol of websockets owns the rules and the connection's state: control frames, the order of fragments,
closing. The session stands in front of it and decides what it gets, and when: nothing before the 101 is in the output,
then one frame at a time, only whole, and only after the caller has dealt with every event before. Fed freely, it would
answer a ping that came with the handshake before the handshake itself; fed frame by frame, the answer to a good message
leaves before the Close that a bad frame behind it causes.

Most frames never get there. While the state is open and no fragmented message is, plain frames take the fast lane
(frames.decode_run), a run of them at a time. What it leaves takes the slow one, for that one frame, and then the
conditions are tested again. Both lanes give the same events for the same bytes. Unfinished frames wait in the inbox:
ServerProtocol is never owed a byte, so the inbox always starts at a frame boundary. Many connections never need a
ServerProtocol behind the 101, so there is none before the first frame that does.

What ServerProtocol is looser about is judged here: a header that is wrong by itself (frames.defect), the size of a
message and the number of its fragments, UTF-8. The verdict is carried out by its own fail(), so state and Close keep
one owner. The size has to be right twice, as the message travels and as it is: compressed bytes may inflate to a
thousand times as many, and to nothing, which zlib keeps for the whole message if they stand behind its last block.

All that a connection is at a frame boundary stands in the fields of Session and in state and current_size of its
ServerProtocol: plain values, nothing in closures. While it is open, outside of a fragmented message, those of
ServerProtocol say nothing, and what is left is a SessionState (frozen.py), from which another process goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from wsworker.protocol import frames
from wsworker.protocol.events import Closed, Event, Handled, Ping, Pong
from wsworker.protocol.fragments import Ahead, Fragments, most_fragments
from wsworker.protocol.frozen import SessionState, Windows
from wsworker.protocol.greeting import Greeting, Phase
from wsworker.protocol.handshake import SILENT

StateName: TypeAlias = Literal["connecting", "open", "closing", "closed"]
Hindrance: TypeAlias = Literal["connecting", "closing", "closed", "fragment"]

_STATE_NAMES: dict[State, StateName] = {State.OPEN: "open", State.CLOSING: "closing", State.CLOSED: "closed"}

_HANDLED: Final = Handled()

TRAILING_BYTES: Final = 16
"""So many may stand behind the end of a compressed stream."""


class Session(Greeting):
    """The protocol half of a connection.

    max_size: bytes of the largest message, whole, in fragments or inflated; fast: whether there is a fast lane, which
    changes nothing but the time it takes; the rest as in Greeting.

    You must take out of output after receive_eof, after next_event and after each call that sends, and may put frames
    of messages in while the state is open. After receive, receive_eof and accept you must call next_run and next_event
    until neither gives anything.

    The way around is for the caller who has all day nothing but plain frames: while lane is open, and both unread (what
    was received and not decoded) and behind (what was decoded and given back) are empty, it may call decode_run on what
    the network brings, and hand over what that leaves, by receive with its position.
    """

    __slots__ = ("_ahead", "_fast", "_fragments", "_protocol", "_travelled", "_wanted", "behind", "lane", "max_size")

    def __init__(self, max_size: int, *, deflate: bool = False, fast: bool = True) -> None:
        super().__init__(deflate)
        self.max_size = max_size
        self._fast = fast
        self._protocol: _Protocol | None = None  # in phase frames and discard, as soon as it is needed
        self._wanted = 0  # bytes that complete the frame at the position, 0 if not known
        self._ahead: Ahead | None = None  # if that frame is text
        # of the message that is open: bytes as they travel; Fragments.size is its bytes inflated, as is current_size of
        # ServerProtocol, which goes on counting after our Close
        self._travelled = 0
        self.lane = False
        self.behind: list[str | bytes] = []
        self._fragments: Fragments | None = None  # of the message that is open

    @property
    def state(self) -> StateName:
        """Where the connection is: closing begins with the first Close sent or received, closed with the end of TCP."""
        if self._protocol is not None:
            return _STATE_NAMES[self._protocol.state]
        if self._phase == "frames":
            return "open"
        return "closed" if self._opening is None else "connecting"

    @property
    def in_message(self) -> bool:
        """Whether a fragmented message has begun and not ended."""
        return self._fragments is not None

    @property
    def hindrance(self) -> Hindrance | None:
        """Why it cannot be frozen now, None if it can: it is not open, or a fragmented message has not ended.

        A stream that has ended counts as closing. Only "fragment" may pass, with what the client sends next.
        """
        state = self.state
        if state != "open":
            return state
        if self.eof:
            return "closing"
        return "fragment" if self.in_message else None

    @property
    def rests(self) -> bool:
        """Whether next_run and next_event give nothing before something is received: nothing has come that waits."""
        return self.lane and not self.unread and not self.behind and not self.eof

    def freeze(self) -> SessionState:
        """Return all that thaw needs to go on from here; only without a hindrance.

        You must take what is in output along yourself. Bytes and messages that were not handled are part of the state,
        a frame that is not whole too, which will be looked at again from its begin. Nothing changes: this one may still
        go on, if no other does.
        """
        assert self.hindrance is None, f"a session is not frozen while there is a {self.hindrance}"
        unread = bytes(memoryview(self.unread)[self._position :]) if self.unread else b""
        return SessionState(unread, tuple(self.behind), Windows.agreed(self.extensions))

    @classmethod
    def thaw(cls, state: SessionState, max_size: int, *, fast: bool = True) -> Session:
        """Return a session that goes on where another was frozen, as behind accept. max_size, fast: as for a new one.

        You must call next_run and next_event as after receive. Messages that were decoded already are given whatever
        max_size is now; a frame that is not whole is not.
        """
        session = cls(max_size, fast=fast)
        session.go_on(state)
        return session

    def go_on(self, state: SessionState) -> None:
        """Go on where another session was frozen; only one that has received nothing yet. As for thaw."""
        self._phase = "frames"
        self._opening = None
        self.unread = state.unread
        self.behind = list(state.behind)
        if state.windows is not None:
            self.extensions = (state.windows.extension(),)
            self.window_bits = state.windows.local
        self.lane = self._fast

    def accept(self, subprotocol: str | None) -> bool:
        """Answer a Handshake with 101, as Greeting does, and open the fast lane."""
        self.lane = super().accept(subprotocol) and self._fast
        return self._phase == "frames"

    def receive_eof(self) -> None:
        """Take the end of the stream."""
        self.eof = True
        if self._phase == "discard":
            self._rules.receive_eof()

    def lose(self) -> None:
        """Know that the connection is gone without an end of the stream; what was received is dropped."""
        # a ServerProtocol that was never needed is not needed now either
        self.eof = self._protocol is not None
        self._end("discard" if self.eof else "refused")

    def next_run(self, most: int) -> list[str | bytes]:
        """Return the next messages, at most so many, as long as they take the fast lane; none if it is closed.

        Their order with what next_event gives is that of the bytes. You may answer them one by one.
        """
        if self.behind:
            run, self.behind = self.behind[:most], self.behind[most:]
            return run
        if not self.lane or len(self.unread) - self._position < self._wanted:
            return []
        messages, self._position = frames.decode_run(self.unread, self._position, self.max_size, most)
        if self._position == len(self.unread):
            self.unread = b""
            self._position = 0
        self._wanted = 0
        self._ahead = None
        return messages

    def give_back(self, messages: list[str | bytes]) -> None:
        """Take back the end of the run that next_run gave last; it comes again, unless the state is not open any more.

        You must do so with what you have not handled when you stop, before anything else.
        """
        if self.state == "open":
            self.behind = messages

    def next_event(self) -> Event | None:
        """Return the next event, or None if more bytes, or the answer to a Handshake, are needed first.

        A call handles at most one frame, so you may answer it before the next one is looked at, and may stop whenever
        you like. Never raises over what a client sends.
        """
        if self._phase == "head":
            return self._next_of_head()
        if self._phase == "frames":
            return self._next_of_frames()
        return None

    def ping(self, payload: bytes) -> None:
        """Put a ping into the output; does nothing unless open. ValueError if payload is over 125 bytes."""
        if len(payload) > frames.MAX_CONTROL_BYTES:
            raise ValueError(f"a ping carries at most {frames.MAX_CONTROL_BYTES} bytes, not {len(payload)}")
        if self.state == "open":
            self._rules.send_ping(payload)
            self._collect()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Put a Close into the output; does nothing unless open. Closed follows when the client has answered.

        code: 1000-1003, 1007-1014 or 3000-4999, else ValueError; reason is cut to 123 bytes.
        """
        frames.check_close_code(code)
        if self.state == "open":
            self.behind = []
            self._rules.send_close(code, frames.cut_reason(reason))
            self._collect()

    def fail(self, code: int, reason: str) -> None:
        """Put Close into the output, finish and read no further; next_event gives Closed with failed set.

        Does nothing before the 101 and if the connection has failed or ended already. code and reason as for close.
        """
        frames.check_close_code(code)
        if self._phase == "frames" and self._rules.verdict is None:
            self._fail(code, frames.cut_reason(reason))

    @property
    def _rules(self) -> _Protocol:
        if self._protocol is None:
            # ServerProtocol counts a control frame against the message it interrupts, so it gets room for one on top of
            # the limit; the limit itself is kept in _next_frame and _event_of. The room also keeps it above 0, which
            # means no limit to the decoder of permessage-deflate.
            self._protocol = _Protocol(self.max_size + frames.MAX_CONTROL_BYTES, self.extensions)
        return self._protocol

    def _next_of_frames(self) -> str | bytes | Ping | Pong | Closed | Handled | None:
        frame = self._next_frame() if self._verdict is None else None
        event = None if frame is None else self._event_of(frame)
        verdict = self._verdict
        if verdict is not None:
            code, reason = verdict
            self._end("discard")
            return Closed(code, reason, failed=True)
        if event is None and self.eof:
            where = "in the middle of a frame" if self.unread else "without a Close"
            self._end("discard")
            return Closed(1006, f"the client ended the stream {where}")
        return event

    @property
    def _verdict(self) -> tuple[int, str] | None:
        return None if self._protocol is None else self._protocol.verdict

    def _next_frame(self) -> Frame | None:
        """Hand the next frame over; None if it is not whole, or if there is a verdict now."""
        if not self.unread:
            return None
        inbox = self._copy_out()
        if len(inbox) < self._wanted:
            self._look_ahead(inbox)
            return None
        header = frames.read_header(inbox)
        if header is None:
            return None
        broken = frames.defect(header, self.max_size - self._travelled, self.window_bits > 0)
        if broken is not None:
            self._fail(*broken)
            return None
        if header.length is None or len(inbox) < header.size:
            return None
        self._wanted = header.size + header.length
        if len(inbox) < self._wanted:
            if header.opcode == Opcode.TEXT and not header.rsv and self._fragments is None:
                self._ahead = Ahead(header.size, inbox[header.size - frames.MASKING_KEY_BYTES : header.size])
                self._look_ahead(inbox)
            return None
        data = inbox[: self._wanted]
        del inbox[: self._wanted]
        self._wanted = 0
        self._ahead = None
        if header.opcode not in frames.CONTROL_OPCODES:
            self._travelled = 0 if header.fin else self._travelled + header.length
        return self._hand_over(data)

    def _look_ahead(self, inbox: bytearray) -> None:
        """Judge the text of the frame that is not whole; after our Close nobody minds it."""
        if self._ahead is not None and self.state == "open":
            try:
                self._ahead.check(inbox)
            except UnicodeDecodeError as error:
                self._fail_text(error)

    def _hand_over(self, data: bytearray) -> Frame | None:
        """Let ServerProtocol handle one whole frame; None if there is a verdict now."""
        self._rules.receive_data(data)
        # its traceback holds the data, inflated as far as it was
        self._rules.parser_exc = None
        self._collect()
        events = self._rules.events_received()
        if not events:
            return None
        if self._runs_on():
            self._fail(1002, "data behind the end of the compressed message")
            return None
        frame = events[0]
        assert isinstance(frame, Frame)
        return frame

    def _runs_on(self) -> bool:
        """Whether the open message is compressed and goes on behind the end of its stream.

        zlib keeps what stands there and copies it again with every fragment. RFC 7692 section 7.2.3.4 puts one byte
        there, behind a last block that says it is the last.
        """
        return any(
            isinstance(extension, PerMessageDeflate)
            and extension.decode_cont_data
            and len(extension.decoder.unused_data) > TRAILING_BYTES
            for extension in self.extensions
        )

    @property
    def _room(self) -> int:
        """Bytes by which the message that is open may grow, or that the next one may have."""
        return self.max_size - (0 if self._fragments is None else self._fragments.size)

    def _event_of(self, frame: Frame) -> str | bytes | Ping | Pong | Closed | Handled | None:
        payload = bytes(frame.data)
        if frame.opcode is Opcode.PING:
            return Ping(payload)
        if frame.opcode is Opcode.PONG:
            return Pong(payload)
        if frame.opcode is Opcode.CLOSE:
            close = self._rules.close_rcvd
            assert close is not None
            self._end("discard")
            return Closed(close.code, close.reason, clean=True)
        if self._rules.state is not State.OPEN:
            # after our Close nobody waits for a message any more; ServerProtocol still minds the order
            self._fragments = None
            return _HANDLED
        if len(payload) > self._room:
            # what was inflated; ServerProtocol lets it have the room of a control frame more
            self._fail(1009, frames.TOO_LARGE)
            return None
        if not frame.fin or frame.opcode is Opcode.CONT:
            return self._join(frame.opcode, payload, frame.fin)
        return self._decode(payload) if frame.opcode is Opcode.TEXT else payload

    def _decode(self, payload: bytes) -> str | None:
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            self._fail_text(error)
            return None

    def _join(self, opcode: Opcode, payload: bytes, fin: bool) -> str | bytes | Handled | None:
        """Add a fragment to the open message; return the message if this completes it, None if it breaks a rule."""
        if self._fragments is None:
            self._fragments = Fragments(opcode is Opcode.TEXT)
        fragments = self._fragments
        try:
            fragments.add(payload, fin)
        except UnicodeDecodeError as error:
            self._fail_text(error)
            return None
        if fragments.count > most_fragments(self.max_size):
            self._fail(1008, f"the message has more than {most_fragments(self.max_size)} fragments")
            return None
        if not fin:
            return _HANDLED
        self._fragments = None
        return fragments.message()

    def _fail_text(self, error: UnicodeDecodeError) -> None:
        self._fail(1007, f"the text is not UTF-8 at byte {error.start}")

    def _fail(self, code: int, reason: str) -> None:
        self.behind = []
        self._rules.fail(code, reason)
        self._collect()

    def _collect(self) -> None:
        """Take what ServerProtocol has to send, and see whether the fast lane is open again."""
        rules = self._rules
        for data in rules.data_to_send():
            if data == SEND_EOF:
                self.finished = True
            else:
                self.output.append(data)
                self.control += 1
        self.lane = self._fast and rules.state is State.OPEN and rules.current_size is None

    def _end(self, phase: Phase) -> None:
        super()._end(phase)
        self.lane = False
        self.behind = []
        self._fragments = None
        if phase == "discard" and self.eof:
            self._rules.receive_eof()
            self._collect()


class _Protocol(ServerProtocol):
    """ServerProtocol behind the 101 that remembers the verdict, ours or its own; None while there is none."""

    def __init__(self, max_size: int, extensions: Sequence[Extension]) -> None:
        self.verdict: tuple[int, str] | None = None
        super().__init__(state=State.OPEN, max_size=max_size, logger=SILENT)
        self.extensions = list(extensions)

    def fail(self, code: int, reason: str = "") -> None:
        if code == frames.CloseCode.MESSAGE_TOO_BIG:
            # its own reason names its own limit, which is not the one that was set
            reason = frames.TOO_LARGE
        self.verdict = (int(code), reason)
        super().fail(code, reason)
