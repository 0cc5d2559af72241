"""Broadcast: a message to 1,000 clients, by wsworker and its peers in the same run, in turns.

The figure to compare is deliveries per second of server CPU, as in the echo benchmark. wsworker is measured as one
worker, as four that are linked with each other, and as two nodes that share a broker; what the broker itself takes is
told apart.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence

from benchmarks import client, rounds, wanted
from benchmarks.audience import Audience, Result, measure
from benchmarks.peers import picows_room, websockets_room
from benchmarks.peers.server import HOST, Server, running
from benchmarks.peers.wsworker_room import SECOND_HOST, daemon, is_broker, pair
from benchmarks.report import Report
from benchmarks.usage import processes
from benchmarks.words import open_spread

CLIENTS = 1000
WORKERS = 4
FILES = 4096

OURS = daemon(wanted.ONE_WORKER, 1, "room_app")
MESH = daemon(wanted.FOUR_WORKERS, WORKERS, "room_app")
PAIRS = (pair("two nodes, Valkey", "valkey", "room_app"), pair("two nodes, NATS", "nats", "room_app"))
SERVERS = (OURS, MESH, *PAIRS, picows_room.SERVER, websockets_room.SERVER)

# messages published at once, that is in one tick of a server's loop
LOADS = {wanted.ONE_AT_ONCE: 1, wanted.TEN_AT_ONCE: 10}

COLUMNS = (
    "server",
    "deliveries/CPU-s",
    "spread",
    "CPU us each",
    "broker us each",
    "deliveries/s",
    "last ms",
    "server CPU s",
    "client CPU",
    "one worker is",
    "wanted",
)

Turn = Mapping[str, Result]


def turn(server: Server, cpu: int, seconds: float) -> Turn:
    """Start a server, fill its room, and measure all loads."""
    with running(server, cpu) as (port, pid):
        connections = fill(server, port)
        try:
            everything = processes(pid)
            brokers = [process for process in everything if is_broker(process)]
            servers = [process for process in everything if process not in brokers]
            with Audience(connections) as audience:
                audience.settle()
                return {
                    title: measure(audience, at_once, seconds, servers, brokers) for title, at_once in LOADS.items()
                }
        finally:
            client.drop(connections)


def fill(server: Server, port: int) -> list[socket.socket]:
    """Open the connections, as many to each worker as to the others; you must drop them."""
    if server is MESH:
        return open_spread(port, WORKERS, CLIENTS // WORKERS)
    connections = []
    for host in (HOST, SECOND_HOST) if server in PAIRS else (HOST,):
        connections += client.open_connections(port, CLIENTS // (2 if server in PAIRS else 1), host)
    return connections


def costs(result: Result) -> tuple[str, ...]:
    """Return the cells that say what a delivery takes, and how fast it went."""
    return (
        f"{1e6 / result.per_cpu_second:.2f}",
        f"{result.broker_cpu_seconds * 1e6 / result.deliveries:.2f}" if result.broker_cpu_seconds else "",
        f"{result.deliveries / result.seconds:,.0f}",
        f"{result.last_ms:.1f}",
        f"{result.server_cpu_seconds:.2f} of {result.seconds:.1f}",
        f"{result.client_cpu_seconds / result.seconds:.0%}",
    )


def comparison(title: str, server: str, result: Result, ours: Result | None) -> tuple[str, str]:
    """Return how many times as much one worker gets out of a second of CPU, and whether that is as it should be."""
    if ours is None or server == OURS.name:
        return "", ""
    ratio = ours.per_cpu_second / result.per_cpu_second
    if server == MESH.name:
        return f"{ratio:.2f} x", wanted.at_most(wanted.MESH_RATIO, ratio)
    least = wanted.BROADCAST_RATIOS.get((title, server))
    return f"{ratio:.2f} x", "" if least is None else wanted.at_least(least, ratio)


REPORT = Report([*LOADS], COLUMNS, costs, comparison, OURS.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when wsworker itself failed."""
    chosen = rounds.options("Compare what a message to 1,000 clients costs.", SERVERS, 3, arguments)
    client.allow_files(FILES)
    outcome = rounds.interleave(
        chosen.servers, chosen.rounds, lambda server: turn(server, chosen.server_cpu, chosen.seconds)
    )
    print(REPORT.text(outcome, chosen.markdown))
    for remark in outcome.remarks.values():
        print(remark)
    print(rounds.setting(chosen))
    return 1 if OURS.name in outcome.remarks else 0


if __name__ == "__main__":
    sys.exit(main())
