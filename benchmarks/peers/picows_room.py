"""picows on uvloop as a room: a bare loop of sends, as it has nothing that sends to many.

It is handed bytes, and each send writes at once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from benchmarks.peers.room import MESSAGE
from benchmarks.peers.server import HOST, Server


async def run(port: int) -> None:
    """Serve until TERM; it has no compression, and pings are off by default."""
    # here, and not above, because the list of servers imports this module where picows is not installed
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

    text, close = WSMsgType.TEXT, WSMsgType.CLOSE
    message = MESSAGE.encode()
    present: set[WSTransport] = set()

    class Member(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            present.add(transport)

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            present.discard(transport)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == close:
                transport.disconnect()
                return
            for _ in range(int(frame.get_payload_as_bytes())):
                for member in present:
                    member.send(text, message)

    def listener(request: WSUpgradeRequest) -> WSListener:
        return Member()

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await ws_create_server(listener, HOST, port)
    await stopped.wait()


def arguments(port: int, folder: Path) -> list[str]:
    """Run this module."""
    return ["-m", "benchmarks.peers.picows_room", str(port)]


SERVER = Server("picows", ("picows", "uvloop"), arguments)

if __name__ == "__main__":
    import uvloop

    uvloop.run(run(int(sys.argv[1])))
