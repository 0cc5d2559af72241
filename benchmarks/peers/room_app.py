"""The room as an app of wsworker."""

from __future__ import annotations

from benchmarks.peers.room import MESSAGE
from wsworker import Connection


def on_connect(connection: Connection) -> None:
    """Let everybody in."""
    connection.subscribe("room")


def on_message(connection: Connection, data: str) -> None:
    """Send the message so many times, or tell who this is."""
    if data == "where":
        connection.send(str(connection.worker.slot))
        return
    for _ in range(int(data)):
        connection.worker.publish("room", MESSAGE)
