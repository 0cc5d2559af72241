"""granian on uvloop, with the ASGI application and without lifespan; it has no compression and sends no pings.

One worker, as everywhere. The single-threaded runtime was the faster one here, and HTTP/1 alone spares it looking for
HTTP/2. Each connection counts as a request in progress, so backpressure has to be raised for 10,000 of them.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.server import HOST, Server

OPTIONS = {
    "host": HOST,
    "interface": "asginl",
    "http": "1",
    "workers": "1",
    "runtime-mode": "st",
    "loop": "uvloop",
    "backlog": "2048",
    "backpressure": "20000",
    "log-level": "warning",
}


def arguments(port: int, folder: Path) -> list[str]:
    """Run its command line."""
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    return ["-m", "granian", *options, f"--port={port}", "benchmarks.peers.asgi:app"]


SERVER = Server("granian", ("granian", "uvloop"), arguments)
