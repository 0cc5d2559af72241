"""uvicorn with a minimal ASGI application, on uvloop; without compression and pings, as at the other servers."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.server import HOST, Server


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Send back what comes; scope is always a websocket, as lifespan is off."""
    while True:
        event = await receive()
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif event["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            return


def run(port: int) -> None:
    """Serve until TERM, with the newer of the two WebSocket implementations that build on websockets."""
    # here, and not above, because the list of servers imports this module where uvicorn is not installed
    import uvicorn
    from uvicorn.config import WS_PROTOCOLS

    uvicorn.run(
        app,
        host=HOST,
        port=port,
        loop="uvloop",
        ws="websockets-sansio" if "websockets-sansio" in WS_PROTOCOLS else "websockets",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        ws_ping_timeout=None,
        lifespan="off",
        log_level="warning",
    )


def arguments(port: int, folder: Path) -> list[str]:
    """Run this module."""
    return ["-m", "benchmarks.peers.uvicorn_asgi", str(port)]


SERVER = Server("uvicorn", ("uvicorn", "uvloop"), arguments)

if __name__ == "__main__":
    run(int(sys.argv[1]))
