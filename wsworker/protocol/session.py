"""One connection's protocol: bytes in, events out. No file descriptor, no clock, no await.

ServerProtocol of websockets owns the rules and the connection's state: control frames, the order of fragments,
closing. The session stands in front of it and decides what it gets, and when: nothing before the 101 is in the output,
then one frame at a time, only whole, and only after the caller has dealt with every event before. Fed freely, it would
answer a ping that came with the handshake before the handshake itself; fed frame by frame, the answer to a good message
leaves before the Close that a bad frame behind it causes. Unfinished frames wait in the session's inbox. ServerProtocol
is never owed a byte, so the inbox always starts at a frame boundary.

What ServerProtocol is looser about is judged here: a header that is wrong by itself (frames.defect), the size of a
message, UTF-8. The verdict is carried out by its own fail(), so state and Close keep one owner.

All that a connection is at a frame boundary stands in the fields of Session and in state and current_size of its
ServerProtocol: plain values, nothing in closures, so that another process could go on from them.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, TypeAlias

from websockets import http11
from websockets.frames import Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from wsworker.protocol import frames
from wsworker.protocol.handshake import SILENT, Opening

StateName: TypeAlias = Literal["connecting", "open", "closing", "closed"]

# head: it is being collected. held: the caller owes accept or reject. frames: after the 101. discard: Closed has been
# given, what still comes is thrown away. refused: answered with something other than 101, or gone before any answer.
_Phase: TypeAlias = Literal["head", "held", "frames", "discard", "refused"]

_STATE_NAMES: dict[State, StateName] = {State.OPEN: "open", State.CLOSING: "closing", State.CLOSED: "closed"}


@dataclass(frozen=True, slots=True)
class Handshake:
    """The head is complete. You must answer with accept or reject; until then no further byte is read."""

    request: http11.Request


@dataclass(frozen=True, slots=True)
class Refused:
    """The head was malformed or over a limit. The answer and the half-close are in the output; nothing follows.

    reason: the sentence in the body of that answer.
    """

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping came; the pong is in the output."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong came, asked for or not."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The end; comes at most once, and nothing follows.

    clean: the client sent a Close; code and reason are its own, 1005 if it was empty. failed: the connection was failed
    on our side; code and reason are our verdict; Close and half-close are in the output. Neither: the stream ended
    without a Close; code is 1006 and reason says how.
    """

    code: int
    reason: str
    failed: bool = False
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Handled:
    """A frame was handled and there is nothing to do about it: a message goes on, or data came after our Close.

    It is an event so that who counts events counts frames: no flood of empty fragments passes for one event.
    """


Event: TypeAlias = str | bytes | Handshake | Refused | Ping | Pong | Closed | Handled

_HANDLED = Handled()


class Session:
    """The protocol half of a connection.

    max_size: bytes of the largest message, whole or in fragments.

    After receive, receive_eof and accept you must call next_event until it returns None. After each of these calls, and
    after each call that sends, take_output and write what it returns.
    """

    __slots__ = (
        "_checked",
        "_eof",
        "_inbox",
        "_is_text",
        "_max_size",
        "_opening",
        "_output",
        "_partial",
        "_phase",
        "_protocol",
        "_wanted",
    )

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._phase: _Phase = "head"
        self._opening: Opening | None = Opening()  # in phase head and held
        self._protocol: _Protocol | None = None  # in phase frames and discard
        self._inbox = bytearray()  # received, not yet handed over
        self._output: list[bytes] = []
        self._eof = False
        self._wanted = 0  # bytes that complete the frame at the start of the inbox, 0 if not known
        self._partial = bytearray()  # payload of the fragmented message that is open
        self._is_text = False  # what kind that message is
        self._checked = 0  # bytes of it that are known to be UTF-8

    @property
    def state(self) -> StateName:
        """Where the connection is: closing begins with the first Close sent or received, closed with the end of TCP."""
        if self._protocol is not None:
            return _STATE_NAMES[self._protocol.state]
        return "closed" if self._opening is None else "connecting"

    @property
    def head_started(self) -> bool:
        """Whether any byte of a head has come; a client that sent none when its time is up gets no answer either."""
        return self._opening is None or self._opening.started or len(self._inbox) > 0

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the network; they are copied."""
        assert not self._eof, "bytes after the end of the stream"
        if self._phase not in ("discard", "refused"):
            self._inbox += data

    def receive_eof(self) -> None:
        """Take the end of the stream."""
        self._eof = True
        if self._phase == "discard":
            self._rules.receive_eof()

    def next_event(self) -> Event | None:
        """Return the next event, or None if more bytes, or the answer to a Handshake, are needed first.

        A message is a str or bytes by itself. A call handles at most one frame, so you may answer it before the next
        one is looked at, and may stop whenever you like. Never raises over what a client sends.
        """
        if self._phase == "head":
            return self._next_of_head()
        if self._phase == "frames":
            return self._next_of_frames()
        return None

    def take_output(self) -> list[bytes]:
        """Return what must be written, in order; b"" means: half-close after what stands before it."""
        output, self._output = self._output, []
        return output

    def accept(self, subprotocol: str | None, headers: Mapping[str, str] | None = None) -> bool:
        """Answer a Handshake with 101. False: ServerProtocol found a fault, its refusal and half-close are the output.

        Arguments and errors as for Opening.accept; after an error you still owe the answer.
        """
        assert self._phase == "held", "accept answers a Handshake"
        assert self._opening is not None
        response = self._opening.accept(subprotocol, headers or {})
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse(response)
            return False
        self._output.append(response.serialize())
        self._phase = "frames"
        self._opening = None
        # ServerProtocol counts a control frame against the message it interrupts, so it gets room for one on top of the
        # limit; the limit itself is kept in _next_frame.
        self._protocol = _Protocol(self._max_size + frames.MAX_CONTROL_BYTES)
        return True

    def reject(self, status: int, headers: Mapping[str, str] | None, body: str) -> None:
        """Answer with an HTTP response instead of a 101, and half-close. Also allowed before a Handshake, for 408.

        Arguments and errors as for Opening.reject; after an error you still owe the answer.
        """
        assert self._opening is not None, "reject comes instead of accept"
        self._refuse(self._opening.reject(status, headers or {}, body))

    def send(self, data: str | bytes | bytearray | memoryview) -> int:
        """Put a message into the output and return its payload bytes; only in state open.

        Raises TypeError for other types and UnicodeEncodeError for a lone surrogate; nothing is sent then.
        """
        assert self.state == "open", "send needs an open connection"
        frame = frames.build(data)
        self._output.append(frame)
        return frames.payload_size(frame)

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
        _check_close_code(code)
        if self.state == "open":
            self._rules.send_close(code, frames.cut_reason(reason))
            self._collect()

    def fail(self, code: int, reason: str) -> None:
        """Put Close and half-close into the output and read no further; next_event gives Closed with failed set.

        Does nothing before the 101 and if the connection has failed or ended already. code and reason as for close.
        """
        _check_close_code(code)
        if self._phase == "frames" and self._rules.verdict is None:
            self._fail(code, frames.cut_reason(reason))

    @property
    def _rules(self) -> _Protocol:
        assert self._protocol is not None
        return self._protocol

    def _next_of_head(self) -> Handshake | Refused | Closed | None:
        assert self._opening is not None
        defect = self._opening.take(self._inbox)
        if defect is not None:
            status, reason = defect
            self.reject(status, None, reason + "\n")
            return Refused(status, reason)
        if self._opening.request is not None:
            self._phase = "held"
            return Handshake(self._opening.request)
        if self._eof:
            self._output.append(SEND_EOF)
            self._end("refused")
            return Closed(1006, "the client left before its handshake was complete")
        return None

    def _refuse(self, response: http11.Response) -> None:
        self._output += [response.serialize(), SEND_EOF]
        self._end("refused")

    def _next_of_frames(self) -> str | bytes | Ping | Pong | Closed | Handled | None:
        # A fast lane belongs here: while there is no verdict, state is OPEN and current_size is None, it may take a run
        # of plain frames off the inbox and decode them without ServerProtocol.
        event = self._handle_frame() if self._rules.verdict is None else None
        verdict = self._rules.verdict
        if verdict is not None:
            code, reason = verdict
            self._end("discard")
            return Closed(code, reason, failed=True)
        if event is None and self._eof:
            where = "in the middle of a frame" if self._inbox else "without a Close"
            self._end("discard")
            return Closed(1006, f"the client ended the stream {where}")
        return event

    def _handle_frame(self) -> str | bytes | Ping | Pong | Closed | Handled | None:
        """Return the event of the next frame; None if it is not whole, or if there is a verdict now."""
        frame = self._next_frame()
        return None if frame is None else self._event_of(frame)

    def _next_frame(self) -> Frame | None:
        """Hand the frame at the start of the inbox over; None if it is not whole, or if there is a verdict now."""
        if len(self._inbox) < self._wanted:
            return None
        header = frames.read_header(self._inbox)
        if header is None:
            return None
        broken = frames.defect(header, self._max_size - (self._rules.current_size or 0))
        if broken is not None:
            self._fail(*broken)
            return None
        if header.length is None:
            return None
        self._wanted = header.size + header.length
        if len(self._inbox) < self._wanted:
            return None
        data = self._inbox[: self._wanted]
        del self._inbox[: self._wanted]
        self._wanted = 0
        self._rules.receive_data(data)
        self._collect()
        events = self._rules.events_received()
        if not events:
            return None
        frame = events[0]
        assert isinstance(frame, Frame)
        return frame

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
            self._partial.clear()
            return _HANDLED
        if not frame.fin or frame.opcode is Opcode.CONT:
            return self._join(frame.opcode, payload, frame.fin)
        return self._decode(payload) if frame.opcode is Opcode.TEXT else payload

    def _decode(self, payload: bytes) -> str | None:
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            self._fail_text(error.start)
            return None

    def _join(self, opcode: Opcode, payload: bytes, fin: bool) -> str | bytes | Handled | None:
        """Add a fragment to the open message; return the message if this completes it, None if it is not UTF-8.

        The fragments are kept in one buffer and not in a list: a flood of tiny ones must not cost an object each.
        Text is checked as it comes, so that a bad byte fails the connection before the rest has been sent.
        """
        if opcode is not Opcode.CONT:
            self._is_text = opcode is Opcode.TEXT
            self._checked = 0
        self._partial += payload
        assert len(self._partial) <= self._max_size
        if self._is_text:
            try:
                self._checked += codecs.utf_8_decode(self._partial[self._checked :], "strict", fin)[1]
            except UnicodeDecodeError as error:
                self._fail_text(self._checked + error.start)
                return None
        if not fin:
            return _HANDLED
        message = self._partial.decode() if self._is_text else bytes(self._partial)
        self._partial.clear()
        return message

    def _fail_text(self, position: int) -> None:
        self._fail(1007, f"the text is not UTF-8 at byte {position}")

    def _fail(self, code: int, reason: str) -> None:
        self._rules.fail(code, reason)
        self._collect()

    def _collect(self) -> None:
        self._output += self._rules.data_to_send()

    def _end(self, phase: _Phase) -> None:
        """Enter one of the two last phases; nothing that was received matters any more."""
        self._phase = phase
        self._opening = None
        self._inbox.clear()
        self._partial.clear()
        if self._protocol is not None and self._eof:
            self._protocol.receive_eof()
            self._collect()


class _Protocol(ServerProtocol):
    """ServerProtocol behind the 101 that remembers the verdict, ours or its own; None while there is none."""

    def __init__(self, max_size: int) -> None:
        self.verdict: tuple[int, str] | None = None
        super().__init__(state=State.OPEN, max_size=max_size, logger=SILENT)

    def fail(self, code: int, reason: str = "") -> None:
        self.verdict = (int(code), reason)
        super().fail(code, reason)


def _check_close_code(code: int) -> None:
    if not frames.is_close_code(code):
        raise ValueError(f"a Close carries 1000-1003, 1007-1014 or 3000-4999, not {code}")
