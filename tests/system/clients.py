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
from typing import Final, Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.system.daemon import Daemon

PAUSE_SECONDS: Final = 0.002
MAX_ATTEMPTS: Final = 20_000

TEXT: Final = 1
CLOSE: Final = 8
"""Opcodes of RFC 6455, section 5.2."""

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
    ask a client to connect again; refused, reset: what must not be; wrong: any other surprise, in words.
    """

    def __init__(self, daemon: Daemon, threads: int = 2) -> None:
        self.echoed = 0
        self.told_to_go = 0
        self.refused = 0
        self.reset = 0
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
        assert (0, 0, []) == (self.refused, self.reset, self.wrong[:3])
        assert self.echoed > 0

    def _run(self, attempt: threading.Lock) -> None:
        for number in range(MAX_ATTEMPTS):
            with attempt:
                self._connect(f"client {number}")
            if self._end.wait(PAUSE_SECONDS):
                return

    def _connect(self, text: str) -> None:
        try:
            with self._daemon.connect() as client:
                client.send(text)
                answer = str(client.recv(10))
        except ConnectionRefusedError:
            self._count("refused")
        except ConnectionClosed as error:
            polite = error.rcvd is not None and error.rcvd.code in (1001, 1012)
            self._count("told_to_go" if polite else "reset")
        except InvalidStatus as error:
            if error.response.status_code == 503:
                self._count("told_to_go")
            else:
                self.wrong.append(repr(error))
        except (ConnectionResetError, BrokenPipeError, InvalidHandshake, EOFError):
            self._count("reset")
        except Exception as error:
            self.wrong.append(repr(error))
        else:
            if answer.endswith(text):
                self._count("echoed")
            else:
                self.wrong.append(f"{text!r} was answered with {answer!r}")

    def _count(self, what: str) -> None:
        with self._counting:
            setattr(self, what, getattr(self, what) + 1)


def raw(daemon: Daemon) -> socket.socket:
    """Return a plain TCP connection, on which every wait ends after 10 s."""
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=10)


def raw_open(daemon: Daemon) -> socket.socket:
    """Return a TCP connection on which the handshake is done, and nothing more has come."""
    sock = raw(daemon)
    sock.sendall(UPGRADE)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"closed instead of opened: {answer!r}"
        answer += byte
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return sock


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
    """Return a frame of a client: final, masked (with zeros, which leave the payload as it is), below 126 bytes."""
    assert len(payload) < 126
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def close_code(received: bytes) -> int:
    """Return the code of a Close frame that stands alone."""
    assert received[:1] == b"\x88", f"no Close: {received!r}"
    return int.from_bytes(received[2:4], "big")
