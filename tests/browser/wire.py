"""What goes over the wire between a browser and a server, recorded or made up.

RawServer is a loopback port whose connections are each given to a script: a function that reads and writes what it
likes, also what no server may. Relay is such a server that passes all bytes on to another port and keeps them.

A script runs in a thread of its own. It must not wait for a fixed time: reading until the browser closes is how it
keeps a connection open. Every read gives up after 30 s, and ends with the server. What a script raises is raised in
wait(), or where the server ends.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self

from tests.frames import CLOSE, FIN, Frame, frame, parse

PATIENCE_SECONDS: Final = 30.0


def build(opcode: int, payload: bytes = b"", flags: int = FIN) -> bytes:
    """Return a frame of a server; flags: FIN and RSV bits. It may break every rule but those of the length."""
    return frame(flags | opcode, payload, key=None)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a Close of a server."""
    return build(CLOSE, code.to_bytes(2, "big") + reason.encode())


class Peer:
    """One connection of a browser, in the hands of a script. head: the request, up to its empty line."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""
        self._frames: list[Frame] = []
        self._inbox = b""

    def read_head(self) -> str:
        """Read the request and return it."""
        while not self.head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                raise EOFError
            self.head += byte
        return self.head.decode("latin-1")

    @property
    def path(self) -> str:
        """The target of the request, which has been read."""
        return self.head.decode("latin-1").split(" ")[1]

    def accept_value(self) -> str:
        """Return the Sec-WebSocket-Accept that the request asks for (RFC 6455, section 4.2.2)."""
        lines = self.head.decode("latin-1").split("\r\n")
        key = next(line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-key:"))
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        return base64.b64encode(digest).decode()

    def accept(self, *headers: str) -> None:
        """Read the request and answer 101, with some more headers."""
        self.read_head()
        self.respond(
            "101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {self.accept_value()}",
            *headers,
        )

    def respond(self, status: str, *headers: str, version: str = "1.1") -> None:
        """Answer the request with any status line and headers."""
        self.send("\r\n".join([f"HTTP/{version} {status}", *headers, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.sock.sendall(data)

    def finish(self) -> None:
        """Half-close: what the browser still sends can be read, so that it meets no RST."""
        self.sock.shutdown(socket.SHUT_WR)

    def read_frame(self) -> Frame | None:
        """Return the next frame of the browser, or None if it has closed."""
        while not self._frames:
            data = self._receive()
            if not data:
                return None
            self._frames, self._inbox = parse(self._inbox + data)
        return self._frames.pop(0)

    def read_rest(self) -> list[Frame]:
        """Return all further frames, until the browser closes."""
        frames = []
        while frame := self.read_frame():
            frames.append(frame)
        return frames

    def reset(self) -> None:
        """Close the connection with RST instead of FIN; the script can do nothing more."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionResetError:
            return b""


class RawServer:
    """A loopback port that gives each connection to a script; use it in a `with`, whose end closes all."""

    def __init__(self, script: Callable[[Peer], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._peers: list[socket.socket] = []
        self._errors: list[Exception] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # wakes the thread that accepts; close() alone would not
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for sock in self._peers:
            _shut(sock)
        for thread in self._threads[1:]:
            thread.join()
        if error is None and self._errors:
            raise self._errors[0]

    def wait(self) -> None:
        """Wait until the scripts of all connections so far have ended by themselves, and raise what they raised."""
        for thread in self._threads[1:]:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), "the script still runs"
        if self._errors:
            raise self._errors[0]

    @property
    def authority(self) -> str:
        """Host and port, as they stand in a URL."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def url(self, path: str = "/") -> str:
        """Return the URL of a path."""
        return f"ws://{self.authority}{path}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._peers.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_SECONDS)
        with sock:
            try:
                self._script(Peer(sock))
            except Exception as error:
                # a thread that raises would end unseen
                self._errors.append(error)


class Wire:
    """What one connection through a Relay has carried, both ways, and who closed first."""

    def __init__(self) -> None:
        self.requests = bytearray()
        self.answers = bytearray()
        self.reads: list[bytes] = []  # from the server, read by read
        self.ends: list[Literal["browser", "server"]] = []

    @property
    def head(self) -> str:
        """The browser's request, up to its empty line."""
        return self.requests.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def response(self) -> str:
        """The server's answer to it, up to the empty line."""
        return self.answers.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def from_browser(self) -> list[Frame]:
        """The browser's frames so far."""
        return parse(bytes(self.requests).partition(b"\r\n\r\n")[2])[0]

    @property
    def from_server(self) -> list[Frame]:
        """The server's frames so far."""
        return parse(bytes(self.answers).partition(b"\r\n\r\n")[2])[0]


class Relay(RawServer):
    """A port of its own for a server on another one; each connection leaves a Wire, in the order of connecting.

    A server that compares the Origin with the Host sees the Host of the relay, as it would see a proxy's.
    """

    def __init__(self, port: int) -> None:
        super().__init__(self._relay)
        self.wires: list[Wire] = []
        self._port = port

    def _relay(self, peer: Peer) -> None:
        wire = Wire()
        self.wires.append(wire)
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_SECONDS) as server:
            upwards = threading.Thread(target=self._pump_up, args=(peer.sock, server, wire))
            upwards.start()
            while data := _read(server):
                wire.answers += data
                wire.reads.append(data)
                _write(peer.sock, data)
            wire.ends.append("server")
            _shut(peer.sock, socket.SHUT_WR)
            upwards.join()

    def _pump_up(self, browser: socket.socket, server: socket.socket, wire: Wire) -> None:
        while data := _read(browser):
            wire.requests += data
            _write(server, data)
        wire.ends.append("browser")
        _shut(server, socket.SHUT_WR)


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(262144)
    except OSError:
        return b""


def _write(sock: socket.socket, data: bytes) -> None:
    # a side that has gone does not end what the other one still says
    with suppress(OSError):
        sock.sendall(data)


def _shut(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    # whoever has gone already needs no goodbye
    with suppress(OSError):
        sock.shutdown(how)
