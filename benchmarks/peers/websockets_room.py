"""websockets on uvloop as a room, with its own broadcast(), which builds the frame once for all."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers.room import MESSAGE
from benchmarks.peers.server import HOST, Server


async def run(port: int) -> None:
    """Serve until TERM."""
    present: set[ServerConnection] = set()

    async def member(connection: ServerConnection) -> None:
        present.add(connection)
        try:
            async for asked in connection:
                for _ in range(int(asked)):
                    broadcast(present, MESSAGE)
        finally:
            present.discard(connection)

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with serve(member, HOST, port, compression=None, ping_interval=None):
        await stopped.wait()


def arguments(port: int, folder: Path) -> list[str]:
    """Run this module."""
    return ["-m", "benchmarks.peers.websockets_room", str(port)]


SERVER = Server("websockets", ("websockets", "uvloop"), arguments)

if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1])))
