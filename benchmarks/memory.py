"""Memory of idle connections: what the worker takes for each of 10,000 that are open and silent.

The figure is the growth of the worker's PSS (a page that it shares with the master counts half) from before the first
handshake to after the last one. A few hundred connections come and go before that: what a server loads with its first
clients and keeps is its own cost, not that of a connection. The kernel's share is told beside it, for both ends of the
loopback; it is the growth of all of the machine's slab memory, so a busy machine makes it a rough figure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import client, rounds, wanted
from benchmarks.peers import wsworker_daemon
from benchmarks.peers.server import Server, running
from benchmarks.servers import PEERS
from benchmarks.table import table
from benchmarks.usage import processes, pss_bytes, slab_bytes

OURS = (wsworker_daemon.IDLE.name, wsworker_daemon.IDLE_ASYNCIO.name)
# as many as a worker takes by default
CONNECTIONS = 10_000
WARM_UP_CONNECTIONS = 300
# standard streams, listeners, the event loop's own, libraries being loaded
OTHER_FILES = 200

SETTLE_SECONDS = 10.0
READING_SECONDS = 0.3
STEADY_BYTES = 64 * 1024

COLUMNS = ("server", "KiB each", "before MiB", "after MiB", "kernel KiB/socket", "to wsworker", "wanted")


@dataclass(frozen=True)
class Result:
    """Memory of the worker before and after, and how the kernel's own grew meanwhile, all in bytes."""

    before: int
    after: int
    slab: int

    @property
    def kibibytes(self) -> float:
        """Memory of the worker for each connection."""
        return (self.after - self.before) / CONNECTIONS / 1024


def kibibytes(result: Result) -> float:
    """Return the figure that servers are compared by."""
    return result.kibibytes


def readings(pid: int) -> dict[int, int]:
    """Return the memory in bytes of each process of a server, as soon as it has become steady."""
    deadline = time.monotonic() + SETTLE_SECONDS
    latest: dict[int, int] = {}
    while time.monotonic() < deadline:
        time.sleep(READING_SECONDS)
        earlier, latest = latest, {process.pid: pss_bytes(process.pid) for process in processes(pid)}
        if earlier and abs(sum(latest.values()) - sum(earlier.values())) < STEADY_BYTES:
            break
    return latest


def measure(port: int, pid: int) -> Result:
    """Measure a server that has no connections yet. pid: its top process."""
    client.drop(client.open_connections(port, WARM_UP_CONNECTIONS))
    before, slab = readings(pid), slab_bytes()
    connections = client.open_connections(port, CONNECTIONS)
    try:
        after = readings(pid)
        slab = slab_bytes() - slab
    finally:
        client.drop(connections)
    # the process that has the connections is the one that has grown
    worker = max(before, key=lambda one: after.get(one, 0) - before[one])
    return Result(before[worker], after.get(worker, 0), slab)


def report(outcome: rounds.Outcome[Result], markdown: bool) -> str:
    """Return the table."""
    middle = {server: rounds.median(every, kibibytes) for server, every in outcome.results.items()}
    ours = middle.get(OURS[0])
    rows = []
    for server, one in middle.items():
        row = (
            server,
            f"{one.kibibytes:.2f}",
            f"{one.before / 2**20:.1f}",
            f"{one.after / 2**20:.1f}",
            f"{one.slab / CONNECTIONS / 2 / 1024:.1f}",
            f"{one.kibibytes / ours.kibibytes:.2f} x" if ours and server not in OURS else "",
            wanted.at_most(wanted.IDLE_KIB, one.kibibytes) if server in OURS else "",
        )
        rows.append(row)
    return table(f"{CONNECTIONS:,} idle connections", COLUMNS, rows, markdown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when wsworker itself failed."""
    servers = (wsworker_daemon.IDLE, wsworker_daemon.IDLE_ASYNCIO, *PEERS)
    chosen = rounds.options("Measure the memory of idle WebSocket connections.", servers, 1, arguments)
    try:
        client.allow_files(CONNECTIONS + OTHER_FILES)
    except RuntimeError as exc:
        raise SystemExit(f"benchmarks.memory: {exc}") from None

    def turn(server: Server) -> Result:
        with running(server, chosen.server_cpu) as (port, pid):
            return measure(port, pid)

    outcome = rounds.interleave(chosen.servers, chosen.rounds, turn)
    print(report(outcome, chosen.markdown))
    for remark in outcome.remarks.values():
        print(remark)
    print(rounds.setting(chosen))
    return 1 if outcome.remarks.keys() & set(OURS) else 0


if __name__ == "__main__":
    sys.exit(main())
