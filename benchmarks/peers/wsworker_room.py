"""wsworker as a room: the whole daemon, with one worker or several, or two daemons that share a broker.

Two daemons are two nodes, as on two machines: each has a worker of its own, and they meet nowhere but at the broker.
They have the same port on two addresses of the loopback. This module, run as a program, starts the broker and both of
them, so that a pair is one process tree like any other server.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.peers.server import HOST, Server, accepts, free_port, start, stop

SECOND_HOST: Final = "127.0.0.2"

APP = """
from benchmarks.peers.room import MESSAGE


def on_connect(connection):
    connection.subscribe("room")


def on_message(connection, data):
    for _ in range(int(data)):
        connection.worker.publish("room", MESSAGE)
"""

CONFIG = """
name: {name}
app: room_app
listen: {host}:{port}
workers: {workers}
worker_connections: 20000
loop: uvloop
websocket: {{ping_interval: 0}}
bus: {{{bus}}}
log: {{level: warning}}
"""


def write(folder: Path, app: str, host: str, port: int, workers: int, bus: str) -> list[str]:
    """Write app and config into a folder, and return the arguments that start the daemon. bus: its settings."""
    folder.mkdir(exist_ok=True)
    (folder / "room_app.py").write_text(app)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(name=f"room-{folder.name}", host=host, port=port, workers=workers, bus=bus))
    return ["-m", "wsworker", "start", "-c", str(config)]


def daemon(name: str, workers: int, app: str = APP) -> Server:
    """Return one daemon."""
    return Server(name, (), lambda port, folder: write(folder, app, HOST, port, workers, ""))
