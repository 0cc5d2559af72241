"""Connections on wires that can be frozen, one after the other, without a pair between the workers."""

from __future__ import annotations

import socket
from typing import Any

from tests.worker.clock import Wire
from tests.worker.service import connect, head
from wsworker.handover import state as states
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.freezing import Frozen
from wsworker.worker.hub import Hub


class Line(Wire):
    """A wire with a socket, as freezing asks for its descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._sock if name == "socket" else default

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


def thawed(hub: Hub, frozen: Frozen) -> Connection:
    """Return a frozen connection as it is in another hub, over all that it travels by."""
    state = states.decode(states.encode(frozen.state))
    assert state == frozen.state
    sock = socket.socket(fileno=frozen.descriptor)
    sock.close()
    connection = freezing.thaw(hub, state, sock)
    assert hub.resumed(connection)
    freezing.forget(frozen.connection)
    return connection


async def on_a_line(hub: Hub, sock: socket.socket, more: str = "") -> tuple[Connection, Line]:
    """Return an open connection and its line, the 101 taken out."""
    line = Line(sock)
    connection = line.protocol = connect(hub, line, head(more=more))
    assert line.writes.pop().startswith(b"HTTP/1.1 101 ")
    return connection, line
