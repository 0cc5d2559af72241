"""Clients that do what good clients do all the time, and clients that do what they must not.

ConnectLoop connects, sends, checks the echo and closes, again and again, while a test does something to the daemon; it
then tells how many were refused, reset or answered wrongly. Raw clients speak to the socket themselves, as no client
library would send what they send.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Final, Literal, Self

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event, State
from websockets.uri import parse_uri

from tests import frames
from tests.frames import FIN
from tests.system.daemon import Daemon

PAUSE_SECONDS: Final = 0.002
MAX_ATTEMPTS: Final = 20_000

UPGRADE: Final = (
    b"GET / HTTP/1.1\r\n"
    b"Host: 127.0.0.1\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"\r\n"
)


class ConnectLoop:
    """Threads that each run one client after another, from `with` to its end.

    echoed: clients that got the right answer; told_to_go: closed by 1001 or 1012, or turned away with 503, all of which
    ask a client to connect again; refused, reset: what must not be, in words; wrong: any other surprise.
    """

    def __init__(self, daemon: Daemon, threads: int = 2) -> None:
        self.echoed = 0
        self.told_to_go = 0
        self.refused: list[str] = []
        self.reset: list[str] = []
        self.wrong: list[str] = []
        self._daemon = daemon
        self._end = threading.Event()
        self._counting = threading.Lock()
        self._attempts = [threading.Lock() for _ in range(threads)]
        self._threads = [threading.Thread(target=self._run, args=(lock,)) for lock in self._attempts]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    @contextmanager
    def between_clients(self) -> Iterator[None]:
        """Hold the loop while no client is connected: a worker that is killed cannot but lose those it has."""
        with ExitStack() as stack:
            for attempt in self._attempts:
                stack.enter_context(attempt)
            yield

    def check(self) -> None:
        """Fail unless every client was served, or asked politely to come again."""
        faults = {"refused": self.refused, "reset": self.reset, "wrong": self.wrong}
        assert not any(faults.values()), faults
        assert self.echoed > 0

    def _run(self, attempt: threading.Lock) -> None:
        for number in range(MAX_ATTEMPTS):
            with attempt:
                self._connect(f"client {number}")
            if self._end.wait(PAUSE_SECONDS):
                return

    def _connect(self, text: str) -> None:
        try:
            client = OneMessage(self._daemon, text)
            client.run()
        except ConnectionRefusedError as error:
            self.refused.append(repr(error))
        except OSError as error:
            self.reset.append(repr(error))
        except Exception as error:
            # a thread that raises would end silently, and the loop with it
            self.wrong.append(repr(error))
        else:
            if client.answer is not None and client.answer.endswith(text):
                self._count("echoed")
            elif client.told_to_go:
                self._count("told_to_go")
            else:
                self.wrong.append(f"{text!r} was answered with {client.answer!r}, status {client.status}")

    def _count(self, what: Literal["echoed", "told_to_go"]) -> None:
        with self._counting:
            setattr(self, what, getattr(self, what) + 1)


class OneMessage:
    """A client that connects, sends one text, waits for the answer and closes.

    The protocol is that of the websockets package, the socket a plain one. The package's own clients read in a thread
    or a task; when the server closes at the very moment at which they send or close, they lose track of who closed,
    and count as reset what was not.
    """

    def __init__(self, daemon: Daemon, text: str) -> None:
        self.answer: str | None = None
        self.status = 0
        self._daemon = daemon
        self._text = text
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{daemon.port}/"))

    @property
    def told_to_go(self) -> bool:
        """Whether the server has asked it to connect again."""
        closed = self._protocol.close_rcvd
        return self.status == 503 or (closed is not None and closed.code in (1001, 1012))

    def run(self) -> None:
        """Do it all. Raises OSError for what the network says, ConnectionResetError for an end without a goodbye."""
        with raw(self._daemon) as sock:
            self._protocol.send_request(self._protocol.connect())
            ended = False
            while not ended:
                self._write(sock)
                data = sock.recv(65536)
                ended = not data
                if data:
                    self._protocol.receive_data(data)
                else:
                    self._protocol.receive_eof()
                for event in self._protocol.events_received():
                    self._take(event)
        if self.answer is None and not self.told_to_go and self.status in (0, 101):
            raise ConnectionResetError(f"ended without a Close, after {self.status}")

    def _write(self, sock: socket.socket) -> None:
        for data in self._protocol.data_to_send():
            if data:
                sock.sendall(data)
            else:
                sock.shutdown(socket.SHUT_WR)

    def _take(self, event: Event) -> None:
        if isinstance(event, Response):
            self.status = event.status_code
            # a Close may have come along with the 101
            if self.status == 101 and self._protocol.state is State.OPEN:
                self._protocol.send_text(self._text.encode())
        elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
            self.answer = bytes(event.data).decode()
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)


def raw(daemon: Daemon) -> socket.socket:
    """Return a plain TCP connection, on which every wait ends after 10 s."""
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=10)


def raw_open(daemon: Daemon) -> socket.socket:
    """Return a TCP connection on which the handshake is done, and nothing more has come."""
    sock = raw(daemon)
    sock.sendall(UPGRADE)
    await_upgrade(sock)
    return sock


def await_upgrade(sock: socket.socket) -> None:
    """Read the answer to a handshake, and nothing of what comes behind it; fail unless it is 101."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"closed instead of opened: {answer!r}"
        answer += byte
    assert answer.startswith(b"HTTP/1.1 101 "), answer


def read_to_end(sock: socket.socket) -> bytes:
    """Return all that comes until the server closes; a reset counts as closed."""
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def ask_raw(daemon: Daemon, request: bytes) -> bytes:
    """Return what the server answers to some bytes until it closes the connection."""
    with raw(daemon) as sock:
        sock.sendall(request)
        return read_to_end(sock)


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a final frame of a client."""
    return frames.frame(FIN | opcode, payload)


def close_code(received: bytes) -> int:
    """Return the code of a Close frame that stands alone."""
    assert received[:1] == b"\x88", f"no Close: {received!r}"
    return int.from_bytes(received[2:4], "big")
