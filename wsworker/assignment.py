"""What the master hands to a worker at its fork: one record, because the two share no other memory of each other.

Everything here is inherited and not sent: descriptors and shared memory survive a fork as they are.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from wsworker.board import Board
from wsworker.bus.mesh.berth import Berth
from wsworker.config import Config
from wsworker.stats import Seat, Table


@dataclass(frozen=True, slots=True)
class Desk:
    """Where admin requests are answered: a listener that all workers share, and all that is to be known."""

    listener: socket.socket
    board: Board
    table: Table


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who a worker is and what it works with.

    worker: its id; slot: its place, from 1; generation: of code and configuration; node: first part of every
    connection's id, unique to this run of the service. sockets: the slot's listeners, borrowed; shared: those of
    them that are one queue for all workers; channel: our end of the socketpair to the master; seat: ours in the shared
    table; others: tells whether any other slot has a worker now; words: a descriptor that takes the stacks which
    faulthandler writes, and that the master reads. tls: holds the certificate, as it was loaded before the change of
    user; None for plain TCP. desk: None without admin.listen. app_set_at: where `app` is set, for errors.
    berth: its place in the mesh of workers; None for a worker without others.
    """

    config: Config
    worker: int
    slot: int
    generation: int
    node: str
    sockets: list[socket.socket]
    shared: list[socket.socket]
    channel: socket.socket
    seat: Seat
    others: Callable[[], bool]
    words: int
    tls: ssl.SSLContext | None
    desk: Desk | None = None
    app_set_at: str = ""
    berth: Berth | None = None
