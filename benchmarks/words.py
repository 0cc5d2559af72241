"""Short texts to and fro on one connection, for what is said before and after a load; and who has got a connection."""

from __future__ import annotations

import socket
import struct
import time

from benchmarks import client
from benchmarks.load import request_frame

SPREAD_SECONDS = 10.0


def say(connection: socket.socket, text: str) -> None:
    """Send a short text."""
    connection.sendall(request_frame(text.encode()))


def hear(connection: socket.socket) -> str:
    """Read a short text; raises RuntimeError if nothing comes."""
    try:
        _, size = struct.unpack("!BB", _exactly(connection, 2))
        return _exactly(connection, size).decode()
    except OSError as exc:
        raise RuntimeError(f"no answer: {exc}") from None


def ask(connection: socket.socket, text: str) -> str:
    """Send a short text and return the answer."""
    say(connection, text)
    return hear(connection)


def open_spread(port: int, workers: int, each: int) -> list[socket.socket]:
    """Open so many connections to each worker of a daemon, whose app must answer "where"; you must drop them.

    The kernel decides which worker gets one; those that one has too many of are dropped again, and so it goes on until
    the last worker is up and has its share. Raises RuntimeError if that takes too long.
    """
    by_slot: dict[str, list[socket.socket]] = {}
    give_up_at = time.monotonic() + SPREAD_SECONDS
    while len(by_slot) < workers or any(len(some) < each for some in by_slot.values()):
        if time.monotonic() > give_up_at:
            client.drop(connection for some in by_slot.values() for connection in some)
            raise RuntimeError(f"{workers} workers have not got {each} connections each within {SPREAD_SECONDS:g} s")
        surplus: list[socket.socket] = []
        for connection in client.open_connections(port, client.BURST):
            some = by_slot.setdefault(ask(connection, "where"), [])
            (some if len(some) < each else surplus).append(connection)
        client.drop(surplus)
    return [connection for turn in zip(*by_slot.values(), strict=True) for connection in turn]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise RuntimeError("the server has closed a connection")
    return data
