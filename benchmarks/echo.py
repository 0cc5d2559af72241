"""Echo of text messages: wsworker and its peers in the same run, in turns.

Absolute figures differ from machine to machine and from hour to hour. What counts is the ratio to a peer in the same
run, and the figure to compare is messages per second of server CPU, of all processes of that server together.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from benchmarks import rounds, wanted
from benchmarks.load import Load, Result, measure
from benchmarks.peers import wsworker_daemon
from benchmarks.peers.server import Server, running
from benchmarks.report import Report
from benchmarks.servers import PEERS

OURS = wsworker_daemon.SERVER.name

LOADS = {
    wanted.ONE_IN_FLIGHT: Load(size=32, connections=64, depth=1),
    wanted.SIXTEEN_IN_FLIGHT: Load(size=32, connections=64, depth=16),
    wanted.LARGE: Load(size=65536, connections=64, depth=1),
}

COLUMNS = (
    "server",
    "msg/CPU-s",
    "spread",
    "msg/s",
    "p50 ms",
    "p99 ms",
    "server CPU s",
    "client CPU",
    "wsworker is",
    "wanted",
)

# above this share of a CPU the client, not the server, may have set the pace
BUSY = 0.95

Turn = Mapping[str, Result]


def paces(result: Result) -> tuple[str, ...]:
    """Return the cells that say how fast it went, and what both sides had to do for it."""
    client = result.client_cpu_seconds / result.seconds
    return (
        f"{result.messages / result.seconds:,.0f}",
        f"{result.p50_ms:.2f}",
        f"{result.p99_ms:.2f}",
        f"{result.server_cpu_seconds:.2f} of {result.seconds:.1f}",
        f"{client:.0%}{' !' if client > BUSY else ''}",
    )


def comparison(title: str, server: str, result: Result, ours: Result | None) -> tuple[str, str]:
    """Return how many times as much wsworker gets out of a second of CPU, and whether that is enough."""
    if ours is None or server == OURS:
        return "", ""
    ratio = ours.per_cpu_second / result.per_cpu_second
    least = wanted.RATIOS.get((title, server))
    return f"{ratio:.2f} x", "" if least is None else wanted.at_least(least, ratio)


REPORT = Report([*LOADS], COLUMNS, paces, comparison, OURS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when wsworker itself failed."""
    chosen = rounds.options("Compare WebSocket echo servers.", (wsworker_daemon.SERVER, *PEERS), 3, arguments)

    def turn(server: Server) -> Turn:
        with running(server, chosen.server_cpu) as (port, pid):
            return {title: measure(load, port, pid, chosen.seconds) for title, load in LOADS.items()}

    outcome = rounds.interleave(chosen.servers, chosen.rounds, turn)
    print(REPORT.text(outcome, chosen.markdown))
    for remark in outcome.remarks.values():
        print(remark)
    print(rounds.setting(chosen))
    return 1 if OURS in outcome.remarks else 0


if __name__ == "__main__":
    sys.exit(main())
