"""Arrival: a client that was accepted, as its protocol is told of it."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

from wsworker.protocol.request import Address


class Arrival(NamedTuple):
    """One client, from the moment of accept(2).

    peer: the address that accept gave, which is gone from the socket once the client resets it; source: the client's
    address as a trusted proxy has told it by the PROXY protocol, None: nobody did, so the peer counts; secure: it
    speaks TLS; came_at: when it was accepted, on the loop's clock, which the deadline of the handshake is counted from;
    accepted_at: the same on time.monotonic(), as uvloop's clock has whole milliseconds and a handshake may take less;
    sock: its socket, which is the transport's: set options on it, and neither read, write nor close it.
    """

    peer: Any
    source: Address | None
    secure: bool
    came_at: float
    accepted_at: float
    sock: socket.socket
