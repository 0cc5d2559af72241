"""What clients send, and a peer that drives a session as a worker does."""

from __future__ import annotations

from collections.abc import Callable

from websockets.frames import Frame, Opcode
from websockets.protocol import SEND_EOF

from tests.frames import FIN, frame
from wsworker.protocol.events import Event, Handled, Handshake
from wsworker.protocol.frames import build, decode_run, is_message
from wsworker.protocol.session import Session

HEAD = (
    b"GET /chat HTTP/1.1\r\n"
    b"Host: localhost\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"\r\n"
)
LIMIT = 1000


def offering(extension: str = "permessage-deflate") -> bytes:
    """Return a head that offers this extension."""
    return HEAD[:-2] + f"Sec-WebSocket-Extensions: {extension}\r\n\r\n".encode()


def masked(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    """Return the frame as a client sends it."""
    return Frame(opcode, data, fin).serialize(mask=True)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a client's Close with any code and any bytes as reason."""
    return masked(Opcode.CLOSE, code.to_bytes(2, "big") + reason)


def in_fragments(first: int, *pieces: bytes) -> list[bytes]:
    """Return the frames of a message in these pieces; first: opcode and reserved bits of the first one."""
    last = len(pieces) - 1
    return [
        frame((0 if number else first) | (FIN if number == last else 0), piece) for number, piece in enumerate(pieces)
    ]


class Peer:
    """Answers the handshake, echoes each message, and collects events and output, in which b"" is the half-close.

    most: messages of a run; patience: so many of them are handled at a time, and the rest is given back; on_message:
    called with the session and each message before its echo, and may close the connection.
    """

    def __init__(
        self,
        max_size: int = LIMIT,
        *,
        deflate: bool = False,
        fast: bool = True,
        most: int = 256,
        patience: int = 1000,
        on_message: Callable[[Session, str | bytes], None] | None = None,
    ) -> None:
        self.session = Session(max_size, deflate=deflate, fast=fast)
        self.events: list[Event] = []
        self.output: list[bytes] = []
        self._most = most
        self._patience = patience
        self._on_message = on_message

    @property
    def last(self) -> Event:
        """The newest event."""
        return self.events[-1]

    def feed(self, *pieces: bytes) -> None:
        """Let the pieces arrive, each in a read of its own; the fast lane takes them where it may."""
        session = self.session
        for piece in pieces:
            if not session.lane or session.unread or session.behind:
                session.receive(piece)
                self.pump()
                continue
            run, end = decode_run(piece, 0, session.max_size, self._most)
            if end < len(piece):
                session.receive(piece, end)
            self._take(run)
            self.pump()

    def eof(self) -> None:
        """Let the stream end."""
        self.session.receive_eof()
        self.pump()

    def pump(self) -> None:
        """Handle every event that there is."""
        session = self.session
        while True:
            run = session.next_run(self._most)
            if run:
                self._take(run)
                continue
            event = session.next_event()
            if event is None:
                break
            if isinstance(event, (str, bytes)):
                self._message(event)
            elif not isinstance(event, Handled):
                self.events.append(event)
            if isinstance(event, Handshake):
                session.accept(None)
                event.request._exception = None  # a refusal leaves it there, and no two exceptions are equal
            self.take_output()
        self.take_output()

    def take_output(self) -> None:
        """Write what there is; nothing may come behind the half-close."""
        session = self.session
        assert not (session.output and self.output[-1:] == [SEND_EOF])
        assert session.control == sum(not is_message(item) for item in session.output)
        self.output += session.output
        session.output.clear()
        session.control = 0
        if session.finished and self.output[-1:] != [SEND_EOF]:
            self.output.append(SEND_EOF)

    def _take(self, run: list[str | bytes]) -> None:
        for number, message in enumerate(run, 1):
            self._message(message)
            if number < len(run) and (number >= self._patience or self.session.state != "open"):
                self.session.give_back(run[number:])
                break
        self.take_output()

    def _message(self, message: str | bytes) -> None:
        self.events.append(message)
        if self._on_message is not None:
            self._on_message(self.session, message)
        if self.session.state == "open":
            self.session.output.append(build(message))


def opened(
    max_size: int = LIMIT,
    *,
    deflate: bool = False,
    fast: bool = True,
    most: int = 256,
    patience: int = 1000,
    on_message: Callable[[Session, str | bytes], None] | None = None,
) -> Peer:
    """Return a peer behind its handshake, with nothing noted yet; with deflate, compression was agreed on."""
    peer = Peer(max_size, deflate=deflate, fast=fast, most=most, patience=patience, on_message=on_message)
    peer.feed(offering() if deflate else HEAD)
    assert isinstance(peer.events.pop(), Handshake)
    assert peer.output.pop().startswith(b"HTTP/1.1 101 ")
    assert (peer.session.lane, peer.session.window_bits) == (fast, 15 if deflate else 0)
    return peer


def both_lanes(max_size: int = LIMIT, *, deflate: bool = False) -> list[Peer]:
    """Return two open peers, one with the fast lane and one without."""
    return [opened(max_size, deflate=deflate, fast=fast) for fast in (True, False)]
