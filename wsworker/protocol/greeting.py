"""Greeting: the first half of a session, from the first byte to the answer to the handshake.

The head is collected and parsed (handshake.py), and then everything waits for the caller's answer: what came behind the
head stays unread, so that nothing can be answered before the handshake itself. After a 101 the session takes over; any
other answer is the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal, TypeAlias

from websockets import http11
from websockets.extensions import Extension

from wsworker.protocol.events import Closed, Handshake, Refused
from wsworker.protocol.handshake import Opening

# head: it is being collected. held: the caller owes accept or reject. frames: after the 101. discard: Closed has been
# given, what still comes is thrown away. refused: answered with something other than 101, or gone before any answer.
Phase: TypeAlias = Literal["head", "held", "frames", "discard", "refused"]


class Greeting:
    """What a session is before the 101, and what it keeps of that.

    deflate: agree on permessage-deflate with whoever offers it.

    output: what must be written, in order; control: how much of it is no message, which is yours to set back; finished:
    half-close behind the output. unread: received and not taken; eof: the stream has ended. extensions, window_bits:
    the compression that was agreed on; none and 0 without.
    """

    __slots__ = (
        "_opening",
        "_phase",
        "_position",
        "control",
        "eof",
        "extensions",
        "finished",
        "output",
        "unread",
        "window_bits",
    )

    def __init__(self, deflate: bool) -> None:
        self._phase: Phase = "head"
        self._opening: Opening | None = Opening(deflate)  # in phase head and held
        self.unread: bytes | bytearray = b""  # what stands before the position is done
        self._position = 0
        self.eof = False
        self.output: list[bytes] = []
        self.control = 0
        self.finished = False
        self.extensions: Sequence[Extension] = ()
        self.window_bits = 0

    @property
    def head_started(self) -> bool:
        """Whether any byte of a head has come; a client that sent none when its time is up gets no answer either."""
        if self._phase != "head":
            return True
        assert self._opening is not None
        return self._opening.started or len(self.unread) > 0

    def receive(self, data: bytes, position: int = 0) -> None:
        """Take bytes from the network, from position on; what stands before it is done with."""
        assert not self.eof, "bytes after the end of the stream"
        if not self.unread:
            if self._phase not in ("discard", "refused"):
                self.unread = data
                self._position = position
            return
        self._copy_out()
        self.unread += data[position:]

    def accept(self, subprotocol: str | None) -> bool:
        """Answer a Handshake with 101. False: ServerProtocol found a fault; its refusal is in the output.

        subprotocol: one that the client has offered, or None.
        """
        assert self._phase == "held", "accept answers a Handshake"
        assert self._opening is not None
        response = self._opening.accept(subprotocol)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse(response)
            return False
        self.output.append(response.serialize())
        self.control += 1
        self.extensions = self._opening.extensions
        self.window_bits = self._opening.window_bits
        self._phase = "frames"
        self._opening = None
        return True

    def reject(self, status: int, headers: Mapping[str, str] | None, body: str) -> None:
        """Answer with an HTTP response instead of a 101, and finish. Also allowed before a Handshake, for 408.

        Arguments and errors as for Opening.reject; after an error you still owe the answer.
        """
        assert self._opening is not None, "reject comes instead of accept"
        self._refuse(self._opening.reject(status, headers or {}, body))

    def step_aside(self) -> None:
        """Take part no longer: the caller answers the Handshake itself, with plain HTTP, and closes behind it."""
        assert self._phase == "held", "to step aside is one of the answers to a Handshake"
        self._end("refused")

    def _next_of_head(self) -> Handshake | Refused | Closed | None:
        assert self._opening is not None
        inbox = self._copy_out()
        defect = self._opening.take(inbox)
        if defect is not None:
            status, reason = defect
            self.reject(status, None, reason + "\n")
            return Refused(status, reason)
        if self._opening.request is not None:
            self._phase = "held"
            return Handshake(self._opening.request, self._opening.head)
        if self.eof:
            self._end("refused")
            self.finished = True
            return Closed(1006, "the client left before its handshake was complete")
        return None

    def _refuse(self, response: http11.Response) -> None:
        self.output.append(response.serialize())
        self.control += 1
        self._end("refused")
        self.finished = True

    def _copy_out(self) -> bytearray:
        """Make what is unread one that can grow, without what is done: a large read is not kept for its end."""
        if isinstance(self.unread, bytes):
            self.unread = bytearray(memoryview(self.unread)[self._position :])
        elif self._position:
            del self.unread[: self._position]
        self._position = 0
        return self.unread

    def _end(self, phase: Phase) -> None:
        """Enter one of the two last phases; nothing that was received matters any more."""
        self._phase = phase
        self._opening = None
        self.unread = b""
        self._position = 0
