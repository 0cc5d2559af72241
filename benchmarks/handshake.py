"""Handshakes: the server CPU that a connection costs from accept to the 101, and to its end right behind it.

Clients come in bursts and are gone with a reset, all together, once the last of a burst has its 101. So the server has
always several to do, and the figure holds no time in which it waits.
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
from benchmarks.usage import cpu_seconds, processes

OURS = wsworker_daemon.SERVER.name
WARM_UP_SECONDS = 0.5

COLUMNS = (
    "server",
    "CPU us each",
    "spread",
    "handshakes/CPU-s",
    "handshakes/s",
    "server CPU s",
    "client CPU",
    "wsworker is",
    "wanted",
)


@dataclass(frozen=True)
class Result:
    """What was measured in one window; cpu_seconds are user and system time, of all server processes together."""

    handshakes: int
    seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float

    @property
    def microseconds(self) -> float:
        """Server CPU for each handshake."""
        return self.server_cpu_seconds * 1e6 / self.handshakes


def microseconds(result: Result) -> float:
    """Return the figure that servers are compared by."""
    return result.microseconds


def bursts(port: int, seconds: float) -> int:
    """Open and drop connections for some seconds; returns how many there were, at least one burst."""
    until = time.perf_counter() + seconds
    handshakes = 0
    while not handshakes or time.perf_counter() < until:
        client.drop(client.open_connections(port, client.BURST))
        handshakes += client.BURST
    return handshakes


def measure(port: int, pid: int, seconds: float) -> Result:
    """Measure a server for some seconds after a warm-up. pid: its top process."""
    bursts(port, WARM_UP_SECONDS)
    servers = processes(pid)
    started, server, own = time.perf_counter(), cpu_seconds(servers), time.process_time()
    handshakes = bursts(port, seconds)
    elapsed = time.perf_counter() - started
    return Result(handshakes, elapsed, cpu_seconds(servers) - server, time.process_time() - own)


def report(outcome: rounds.Outcome[Result], markdown: bool) -> str:
    """Return the table; its rows are the rounds with the median figure, each of them whole."""
    middle = {server: rounds.median(every, microseconds) for server, every in outcome.results.items()}
    ours = middle.get(OURS)
    rows = []
    for server, one in middle.items():
        ratio = f"{one.microseconds / ours.microseconds:.2f} x" if ours and server != OURS else ""
        row = (
            server,
            f"{one.microseconds:.1f}",
            rounds.spread(outcome.results[server], microseconds),
            f"{1e6 / one.microseconds:,.0f}",
            f"{one.handshakes / one.seconds:,.0f}",
            f"{one.server_cpu_seconds:.2f} of {one.seconds:.1f}",
            f"{one.client_cpu_seconds / one.seconds:.0%}",
            ratio,
            wanted.at_most(wanted.HANDSHAKE_MICROSECONDS, one.microseconds) if server == OURS else "",
        )
        rows.append(row)
    return table(f"Handshakes, {client.BURST} at a time", COLUMNS, rows, markdown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when wsworker itself failed."""
    servers = (wsworker_daemon.SERVER, *PEERS)
    chosen = rounds.options("Measure the server CPU of a WebSocket handshake.", servers, 3, arguments)

    def turn(server: Server) -> Result:
        with running(server, chosen.server_cpu) as (port, pid):
            return measure(port, pid, chosen.seconds)

    outcome = rounds.interleave(chosen.servers, chosen.rounds, turn)
    print(report(outcome, chosen.markdown))
    for remark in outcome.remarks.values():
        print(remark)
    print(rounds.setting(chosen))
    return 1 if OURS in outcome.remarks else 0


if __name__ == "__main__":
    sys.exit(main())
