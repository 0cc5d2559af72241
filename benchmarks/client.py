"""What all clients share: one connection opened by hand, on a raw socket, without a WebSocket library.

A client has to cost less than the server, or it would measure itself; and 10,000 of them have to fit into one process.
So a connection is a blocking socket with the kernel's own timeouts. Python's timeouts would add a poll(2) before each
call. All connections are dropped with a reset, which leaves no port in TIME_WAIT.
"""

from __future__ import annotations

import base64
import hashlib
import resource
import socket
import struct
from collections.abc import Iterable

from benchmarks.peers.server import HOST

TIMEOUT_SECONDS = 10
KEY = base64.b64encode(b"benchmark client")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
# handshakes under way at once: far below what a server allows, and the length of its queue
BURST = 64
# room for the longest head that a server sends, and for what must not follow it
HEAD_BYTES = 4096


def upgrade_request(port: int) -> bytes:
    """Return the head of a handshake, RFC 6455 section 4.1."""
    return (
        f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY.decode()}\r\n\r\n"
    ).encode()


def connect(port: int, host: str = HOST) -> socket.socket:
    """Connect, and send nothing yet; raises OSError."""
    connection = socket.socket()
    timeout = struct.pack("ll", TIMEOUT_SECONDS, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # a close sends RST
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        connection.connect((host, port))
    except OSError:
        connection.close()
        raise
    return connection


def read_answer(connection: socket.socket) -> None:
    """Read the server's head; raises RuntimeError unless it is the 101 and nothing follows it."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        try:
            data = connection.recv(HEAD_BYTES)
        except OSError as exc:
            raise RuntimeError(f"no answer to a handshake: {exc}") from None
        if not data:
            break
        answer += data
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 ") or ACCEPT not in head or rest:
        raise RuntimeError(f"the server refused the handshake: {answer[:200]!r}")


def open_connections(port: int, count: int, host: str = HOST) -> list[socket.socket]:
    """Open connections in bursts: all of a burst connect, then all ask, then each reads its answer.

    You must drop them. Raises RuntimeError when one of them does not open; then all are dropped.
    """
    request = upgrade_request(port)
    connections: list[socket.socket] = []
    try:
        while len(connections) < count:
            opened = len(connections)
            for _ in range(min(BURST, count - opened)):
                connections.append(connect(port, host))
            for connection in connections[opened:]:
                connection.sendall(request)
            for connection in connections[opened:]:
                read_answer(connection)
    except (OSError, RuntimeError) as exc:
        drop(connections)
        raise RuntimeError(f"could not open {count} connections: {exc}") from None
    return connections


def drop(connections: Iterable[socket.socket]) -> None:
    """Close connections with a reset."""
    for connection in connections:
        connection.close()


def allow_files(count: int) -> None:
    """Let this process, and servers that it starts, have so many files; raises RuntimeError if they may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
        except (OSError, ValueError):
            raise RuntimeError(f"needs {count} open files, and may have {hard}: see ulimit -Hn") from None
