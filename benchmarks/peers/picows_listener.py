"""picows, the fastest of the peers: a protocol engine in C, here on uvloop, with the listener of its own echo example.

That listener echoes the bytes of a text message; nobody decodes or checks them. aiofastnet, which replaces uvloop's
transports, comes with picows and is used.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from benchmarks.peers.server import HOST, Server


async def run(port: int) -> None:
    """Serve until TERM; it has no compression, and pings are off by default."""
    # here, and not above, because the list of servers imports this module where picows is not installed
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

    class Echo(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())
            if frame.msg_type == WSMsgType.CLOSE:
                transport.disconnect()

    def listener(request: WSUpgradeRequest) -> WSListener:
        return Echo()

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await ws_create_server(listener, HOST, port)
    await stopped.wait()


def arguments(port: int, folder: Path) -> list[str]:
    """Run this module."""
    return ["-m", "benchmarks.peers.picows_listener", str(port)]


SERVER = Server("picows", ("picows", "uvloop"), arguments)

if __name__ == "__main__":
    import uvloop

    uvloop.run(run(int(sys.argv[1])))
