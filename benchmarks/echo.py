"""Echo of text messages: wsworker, websockets' asyncio server and uvicorn in the same run, one after the other.

Absolute figures differ from machine to machine and from hour to hour. What counts is the ratio to a peer in the same
run, and the figure to compare is messages per second of server CPU, of all processes of that server together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import Load, Result
from benchmarks.peers import uvicorn_asgi, websockets_asyncio, wsworker_daemon
from benchmarks.peers.server import CHECKOUT, Server, free_port, running

SERVERS = (wsworker_daemon.SERVER, websockets_asyncio.SERVER, uvicorn_asgi.SERVER)
OURS = wsworker_daemon.SERVER.name

LOADS = {
    "32 bytes, 64 connections, 1 in flight": Load(size=32, connections=64, depth=1),
    "32 bytes, 64 connections, 16 in flight": Load(size=32, connections=64, depth=16),
    "64 KiB, 64 connections, 1 in flight": Load(size=65536, connections=64, depth=1),
}

# above this share of a CPU the client, not the server, may have set the pace
BUSY = 0.95

Results = dict[tuple[str, str], Result]


def measure(server: Server, seconds: float) -> Results:
    """Run one server through every load; raises RuntimeError when it does not start, echo or stay."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="wsworker-bench-") as name:
        port = free_port()
        with running(server, port, Path(name)) as pid:
            for title, load in LOADS.items():
                print(f"{server.name}: {title} ...", file=sys.stderr)
                results[title, server.name] = drive(load, port, pid, seconds)
    return results


def drive(load: Load, port: int, pid: int, seconds: float) -> Result:
    """Run the load client in a process of its own, with a deadline."""
    options = {
        "port": port,
        "pid": pid,
        "size": load.size,
        "connections": load.connections,
        "depth": load.depth,
        "seconds": seconds,
    }
    command = [sys.executable, "-m", "benchmarks.load", *(f"--{name}={value}" for name, value in options.items())]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=seconds + 60, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError("the load client did not end") from None
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-1000:])
    return Result(**json.loads(done.stdout))


def table(results: Results) -> str:
    """Return the results as text; the last column is how many times as much wsworker gets out of a second of CPU."""
    row = "{:<12} {:>13} {:>11} {:>9} {:>9} {:>11} {:>11} {:>12}"
    titles = ("server", "msg/CPU-s", "msg/s", "p50 ms", "p99 ms", "server CPU", "client CPU", "wsworker is")
    lines = []
    for title in LOADS:
        measured = {server: result for (load, server), result in results.items() if load == title}
        if measured:
            lines += [title, row.format(*titles)]
            lines += [row.format(*cells(server, one, measured.get(OURS))) for server, one in measured.items()]
            lines.append("")
    return "\n".join(lines)


def cells(server: str, result: Result, ours: Result | None) -> tuple[str, ...]:
    """Return one row of the table."""
    client = result.client_cpu_seconds / result.seconds
    ratio = f"{ours.per_cpu_second / result.per_cpu_second:.2f} x" if ours and server != OURS else ""
    return (
        server,
        f"{result.per_cpu_second:,.0f}",
        f"{result.messages / result.seconds:,.0f}",
        f"{result.p50_ms:.2f}",
        f"{result.p99_ms:.2f}",
        f"{result.server_cpu_seconds / result.seconds:.0%}",
        f"{client:.0%}{' !' if client > BUSY else ''}",
        ratio,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a server that is installed failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo", description="Compare WebSocket echo servers.")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement, 0.1 to 60 (default 3)")
    parser.add_argument(
        "--server", action="append", choices=[server.name for server in SERVERS], help="only this one; may be repeated"
    )
    options = parser.parse_args(arguments)
    if not 0.1 <= options.seconds <= 60:
        parser.error("--seconds takes 0.1 to 60")
    results: Results = {}
    remarks = []
    failed = False
    for server in SERVERS:
        if options.server and server.name not in options.server:
            continue
        if missing := server.missing():
            remarks.append(f"{server.name}: skipped, {' and '.join(missing)} not installed")
            continue
        try:
            results |= measure(server, options.seconds)
        except RuntimeError as exc:
            failed = True
            remarks.append(f"{server.name}: failed: {exc}")
    print(table(results))
    if any(result.client_cpu_seconds / result.seconds > BUSY for result in results.values()):
        remarks.append("! the client was as busy as a client can be: the server could have done more per second")
    for remark in remarks:
        print(remark)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
