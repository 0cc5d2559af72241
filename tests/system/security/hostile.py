"""What the tests of the security checklist share: a client that sends whatever it is told to, and looks at a worker.

Each test of this folder is named after its row of docs/security.md: test_row_8_... is about row 8. The service always
runs for real, and every test ends by asking it for an answer, or by looking at its worker: whatever one client does,
others are served, and no worker dies (see steadfast).
"""

from __future__ import annotations

import re
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

import psutil

from tests import frames
from tests.frames import BINARY, CLOSE, FIN, TEXT
from tests.system.clients import UPGRADE, read_to_end
from tests.system.daemon import Daemon

RSV1: Final = 4
MIB: Final = 1024**2

ECHO: Final = """
import json

closed = []

def on_message(connection, data):
    if data == "closed?":
        connection.send(json.dumps(closed))
    else:
        connection.send(data)

def on_close(connection, code, reason):
    closed.append([code, reason])
"""
"""Sends back what comes; "closed?" is answered with the code and reason of every on_close so far."""


def header(opcode: int, length: int, *, fin: bool = True, rsv: int = 0, key: bytes = bytes(4)) -> bytes:
    """Return the header of a masked frame that says it has so many bytes."""
    return frames.header((FIN if fin else 0) | rsv << 4 | opcode, length, key)


def framed(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a frame of a client, masked with zeros, which leave the payload as it is."""
    return header(opcode, len(payload), fin=fin, rsv=rsv) + payload


class Frame(NamedTuple):
    """A frame of the server, inflated if it was compressed."""

    opcode: int
    payload: bytes


class Client:
    """A client on a plain socket that is through its handshake; lines: further header lines of it.

    extensions: what the server has agreed on, b"" if nothing. Every wait ends after 10 s.
    """

    def __init__(self, daemon: Daemon, *lines: str, path: str = "/", receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(10)
        self.sock.connect(("127.0.0.1", daemon.port))
        self._received = bytearray()
        upgrade = UPGRADE.replace(b" / ", f" {path} ".encode())
        self.send(upgrade[:-2] + b"".join(f"{line}\r\n".encode() for line in lines) + b"\r\n")
        head = self._until_blank_line()
        if not head.startswith(b"HTTP/1.1 101 "):
            self.sock.close()
            raise AssertionError(head)
        self.extensions = b"".join(
            line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Extensions")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *data: bytes) -> None:
        """Send bytes, each piece in a write of its own."""
        for piece in data:
            self.sock.sendall(piece)

    def pour(self, data: bytes) -> int:
        """Send as much as goes in at once, without waiting; return how much that was."""
        self.sock.setblocking(False)
        sent = 0
        try:
            while sent < len(data):
                sent += self.sock.send(data[sent : sent + MIB])
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(10)
        return sent

    def frame(self) -> Frame:
        """Return the next frame of the server, which must not be masked."""
        first, second = self._take(2)
        assert second < 128, "a server masks nothing"
        length = second
        if length >= 126:
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
        payload = bytes(self._take(length))
        if first & 0x40:
            payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        return Frame(first & 0x0F, payload)

    def message(self) -> bytes:
        """Return the next message of the server; what is not one must not come."""
        frame = self.frame()
        assert frame.opcode in (TEXT, BINARY), frame
        return frame.payload

    def closed(self) -> bytes:
        """Return the body of the Close that must come next, with the end of the stream behind our answer to it."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, (opcode, payload)
        # else it waits a second for the answer; it may have closed for good already
        with suppress(OSError):
            self.send(framed(CLOSE, payload[:2]))
        assert b"" == self.rest()
        return payload

    def close_code(self) -> int:
        """Return the code of the Close that must come next; 1005: none."""
        payload = self.closed()
        return int.from_bytes(payload[:2], "big") if payload else 1005

    def rest(self) -> bytes:
        """Return all that comes until the server closes."""
        received = bytes(self._received) + read_to_end(self.sock)
        self._received.clear()
        return received

    def is_cut(self) -> bool:
        """Read what has come, without waiting; return whether the stream has ended."""
        self.sock.setblocking(False)
        try:
            while data := self.sock.recv(65536):
                self._received += data
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        finally:
            self.sock.settimeout(10)
        return True

    def reset(self) -> None:
        """Close the socket so that the server gets a reset and no end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _until_blank_line(self) -> bytes:
        while b"\r\n\r\n" not in self._received:
            self._receive()
        return bytes(self._take(self._received.index(b"\r\n\r\n") + 4))

    def _take(self, count: int) -> bytearray:
        while len(self._received) < count:
            self._receive()
        taken = self._received[:count]
        del self._received[:count]
        return taken

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        assert data, f"closed behind {bytes(self._received)!r}"
        self._received += data


def rss(daemon: Daemon) -> int:
    """Return how many bytes of memory the one worker holds."""
    (worker,) = daemon.workers
    return int(psutil.Process(worker).memory_info().rss)


def open_sockets(daemon: Daemon) -> int:
    """Return how many connections the one worker has with clients, as the kernel knows them."""
    (worker,) = daemon.workers
    connections = psutil.Process(worker).net_connections("tcp")
    return sum(connection.status != psutil.CONN_LISTEN for connection in connections)


@contextmanager
def steadfast(daemon: Daemon) -> Iterator[Daemon]:
    """Start a daemon; at the end it must have the workers it began with, and no traceback that begins in our code."""
    before = daemon.start().workers
    yield daemon
    assert before == daemon.workers
    assert 0 == daemon.status()["totals"]["restarts"]
    assert "a bug in wsworker" not in daemon.log
    # what user code has raised is shown from its own line on
    users_file = f'File "{daemon.folder}/app.py", '
    begins = re.findall(r"Traceback .*\n +(.*)", daemon.log)
    assert [] == [line for line in begins if not line.startswith(users_file)]
