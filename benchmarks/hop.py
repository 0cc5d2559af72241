"""Hops: how long a message takes from one worker to another, and what a publish costs the worker that does it.

The time runs from publish(), where the message gets the clock's reading, until the client has it; all processes of a
machine have the same clock. So what the kernel and the client take is a part of it: the first row, where publisher and
subscriber are in the same worker, says how much. There is one message at a time, and nothing else to do.
"""

from __future__ import annotations

import random
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import client, rounds, wanted
from benchmarks.peers.server import HOST, Server, running
from benchmarks.peers.wsworker_room import SECOND_HOST, daemon, pair
from benchmarks.table import table
from benchmarks.words import ask, hear, open_spread, say

# at this pace a worker sleeps between two messages
PAUSE_SECONDS = 0.002
SETTLE_SECONDS = 0.5
WARM_UP = 100
NOBODY = 20_000
STORM = 100_000

SAME = daemon("same worker", 1, "hop_app")
MESH = daemon("another worker", 2, "hop_app")
VALKEY = pair("another node, Valkey", "valkey", "hop_app")
NATS = pair("another node, NATS", "nats", "hop_app")
SERVERS = (SAME, MESH, VALKEY, NATS)
# that have a broker, and what its publishes have to reach
STORMS = {VALKEY.name: wanted.VALKEY_PUBLISHES, NATS.name: 0.0}

HOP_COLUMNS = ("from publish() to a client of", "p50 ms", "p99 ms", "longest ms", "messages", "wanted")
PUBLISH_COLUMNS = ("publish() of what nobody else wants", "CPU us each", "publishes/s", "dropped", "wanted")
PUBLISHES = {
    SAME.name: "one worker",
    MESH.name: "two workers",
    VALKEY.name: "one worker, to Valkey",
    NATS.name: "one worker, to NATS",
}


@dataclass(frozen=True)
class Storm:
    """What a burst of publishes over a broker has taken."""

    per_second: float
    microseconds: float
    dropped: int


@dataclass(frozen=True)
class Result:
    """What one turn gave. hops: seconds of each message, sorted; nobody: CPU microseconds of a publish to nobody."""

    hops: list[float]
    nobody: float
    storm: Storm | None

    def percentile(self, percent: float) -> float:
        """Return the milliseconds that so many percent of the messages did not exceed."""
        return self.hops[min(len(self.hops) - 1, int(len(self.hops) * percent / 100))] * 1000


def couple(server: Server, port: int) -> list[socket.socket]:
    """Open two connections, to where the row says; you must drop them."""
    if server.name in STORMS:
        return [client.open_connections(port, 1, host)[0] for host in (HOST, SECOND_HOST)]
    return open_spread(port, 1, 2) if server is SAME else open_spread(port, 2, 1)


def hop(publisher: socket.socket, subscriber: socket.socket, seconds: float) -> list[float]:
    """Send one message after the other for some seconds; return how long each took, in seconds, sorted."""
    took: list[float] = []
    until = time.monotonic() + seconds
    while len(took) < WARM_UP + 1 or time.monotonic() < until:
        # not in step with anything that happens in the workers
        time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))
        say(publisher, "tell")
        told = int(hear(subscriber))
        took.append((time.monotonic_ns() - told) / 1e9)
    return sorted(took[WARM_UP:])


def storm(publisher: socket.socket) -> Storm:
    """Have a worker publish as fast as it can."""
    seconds, cpu_seconds, dropped = ask(publisher, f"storm {STORM}").split()
    return Storm(STORM / float(seconds), float(cpu_seconds) * 1e6 / STORM, int(dropped))


def turn(server: Server, cpu: int, seconds: float) -> Result:
    """Start a server and measure it."""
    with running(server, cpu) as (port, _):
        publisher, subscriber = connections = couple(server, port)
        try:
            ask(subscriber, "listen")
            time.sleep(SETTLE_SECONDS)
            hops = hop(publisher, subscriber, seconds)
            has_broker = server.name in STORMS
            nobody = 0.0 if has_broker else float(ask(publisher, f"nobody {NOBODY}")) * 1e6 / NOBODY
            return Result(hops, nobody, storm(publisher) if has_broker else None)
        finally:
            client.drop(connections)


def report(outcome: rounds.Outcome[Result], markdown: bool) -> str:
    """Return a table of hops and one of publishes; a row of the first has the messages of all rounds."""
    hops = []
    publishes = []
    for server, results in outcome.results.items():
        every = Result(sorted(second for result in results for second in result.hops), 0.0, None)
        p99 = every.percentile(99)
        verdict = wanted.at_most(wanted.HOP_MS, p99) if server == MESH.name else ""
        cells = (f"{every.percentile(percent):.2f}" for percent in (50, 99, 100))
        hops.append((server, *cells, f"{len(every.hops):,}", verdict))
        publishes.append((PUBLISHES[server], *costs(server, results)))
    return "\n".join(
        [table("Hops", HOP_COLUMNS, hops, markdown), table("Publishes", PUBLISH_COLUMNS, publishes, markdown)]
    )


def costs(server: str, results: Sequence[Result]) -> tuple[str, ...]:
    """Return the cells that say what a publish takes."""
    storms = [result.storm for result in results if result.storm is not None]
    if not storms:
        each = statistics.median(result.nobody for result in results)
        return f"{each:.2f}", f"{1e6 / each:,.0f}", "0", wanted.at_most(wanted.NOBODY_MICROSECONDS, each)
    one = rounds.median(storms, lambda each: each.per_second)
    least = STORMS[server]
    verdict = wanted.at_least(least, one.per_second) if least else ""
    return f"{one.microseconds:.2f}", f"{one.per_second:,.0f}", f"{one.dropped:,}", verdict


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when wsworker without a broker failed."""
    chosen = rounds.options("Measure how long a message takes between workers.", SERVERS, 3, arguments)
    outcome = rounds.interleave(
        chosen.servers, chosen.rounds, lambda server: turn(server, chosen.server_cpu, chosen.seconds)
    )
    print(report(outcome, chosen.markdown))
    for remark in outcome.remarks.values():
        print(remark)
    print(rounds.setting(chosen))
    return 1 if SAME.name in outcome.remarks or MESH.name in outcome.remarks else 0


if __name__ == "__main__":
    sys.exit(main())
