"""The asyncio server of websockets, on uvloop; without compression and pings, as at the other servers."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.peers.server import HOST, Server


async def echo(connection: ServerConnection) -> None:
    """Send back what comes."""
    async for message in connection:
        await connection.send(message)


async def run(port: int) -> None:
    """Serve until TERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with serve(echo, HOST, port, compression=None, ping_interval=None):
        await stopped.wait()


def arguments(port: int, folder: Path) -> list[str]:
    """Run this module."""
    return ["-m", "benchmarks.peers.websockets_asyncio", str(port)]


SERVER = Server("websockets", ("websockets", "uvloop"), arguments)

if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1])))
