"""socketify: uWebSockets, in C++, called through cffi; without compression and pings, as at the other servers.

It polls while it is idle, so its CPU time says less than that of the others when there is little to do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.server import HOST, Server


def echo(connection: Any, message: str | bytes, opcode: Any) -> None:
    """Send back what comes."""
    connection.send(message, opcode)


def run(port: int) -> None:
    """Serve until TERM."""
    # here, and not above, because the list of servers imports this module where socketify is not installed
    from socketify import App, AppListenOptions

    app = App(lifespan=False)
    # its limits are lower than a message of the benchmark
    app.ws("/*", {"message": echo, "max_payload_length": 1 << 20, "max_backpressure": 1 << 20, "idle_timeout": 0})
    app.listen(AppListenOptions(port=port, host=HOST))
    app.run()


def arguments(port: int, folder: Path) -> list[str]:
    """Run this module."""
    return ["-m", "benchmarks.peers.socketify_app", str(port)]


SERVER = Server("socketify", ("socketify",), arguments)

if __name__ == "__main__":
    run(int(sys.argv[1]))
