"""uvicorn on uvloop; without compression and pings, as at the other servers."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.asgi import app
from benchmarks.peers.server import HOST, Server


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
