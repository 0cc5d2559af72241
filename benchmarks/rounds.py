"""Rounds: every server in turn, several times over, because a machine is not as fast in one minute as in the next.

A B C A B C spreads a slow minute over all servers, and the median leaves it out. A server is started anew for each of
its turns, so that no idle one takes CPU time from the one that is measured. What cannot run here is named once, and the
rest goes on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from benchmarks.peers.server import CLIENT_CPU, SERVER_CPU, Server

T = TypeVar("T")

PACKAGES = ("uvloop", "websockets", "uvicorn", "granian", "picows", "aiofastnet", "socketify")


@dataclass(frozen=True)
class Options:
    """What the command line says. servers: in the order of each round; seconds: length of one measurement.

    load_before: the machine's load average, before this run was a part of it.
    """

    servers: Sequence[Server]
    rounds: int
    seconds: float
    server_cpu: int
    markdown: bool
    load_before: float


@dataclass
class Outcome(Generic[T]):
    """What all rounds gave: by server, a result for each round that it came through, and why one gave up."""

    results: dict[str, list[T]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


def options(about: str, servers: Sequence[Server], rounds: int, arguments: Sequence[str] | None) -> Options:
    """Read the command line, and keep this process, which is the client, to its CPU. rounds: how many by default."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"1 to 50 (default {rounds})")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a measurement, 0.1 to 60 (default 2)")
    parser.add_argument(
        "--server", action="append", choices=[server.name for server in servers], help="only this one; may be repeated"
    )
    parser.add_argument("--one-cpu", action="store_true", help="client and server share a CPU, and never run at once")
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    given = parser.parse_args(arguments)
    if not 0.1 <= given.seconds <= 60:
        parser.error("--seconds takes 0.1 to 60")
    if not 1 <= given.rounds <= 50:
        parser.error("--rounds takes 1 to 50")
    os.sched_setaffinity(0, {CLIENT_CPU})
    chosen = [server for server in servers if not given.server or server.name in given.server]
    cpu = CLIENT_CPU if given.one_cpu else SERVER_CPU
    return Options(chosen, given.rounds, given.seconds, cpu, given.markdown, os.getloadavg()[0])


def interleave(servers: Sequence[Server], rounds: int, measure: Callable[[Server], T]) -> Outcome[T]:
    """Measure every server once in each round. measure: starts and stops it; a RuntimeError ends its part in this."""
    outcome: Outcome[T] = Outcome()
    for turn in range(rounds):
        for server in servers:
            if server.name in outcome.remarks:
                continue
            if missing := server.missing():
                outcome.remarks[server.name] = f"{server.name}: skipped, {' and '.join(missing)} not installed"
                continue
            print(f"round {turn + 1} of {rounds}: {server.name} ...", file=sys.stderr)
            try:
                result = measure(server)
                outcome.results.setdefault(server.name, []).append(result)
            except RuntimeError as exc:
                outcome.remarks[server.name] = f"{server.name}: failed: {exc}"
    return outcome


def median(results: Sequence[T], figure: Callable[[T], float]) -> T:
    """Return the result with the median figure; of two in the middle, the one with the lower figure."""
    return sorted(results, key=figure)[(len(results) - 1) // 2]


def spread(results: Sequence[T], figure: Callable[[T], float]) -> str:
    """Return how far apart the rounds were, as a part of the median figure."""
    figures = [figure(result) for result in results]
    return f"{(max(figures) - min(figures)) / figure(median(results, figure)):.0%}"


def machine(packages: Sequence[str] = PACKAGES) -> str:
    """Return the versions of what the figures were measured with."""
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"Linux {platform.release()}, Python {platform.python_version()}, {', '.join(versions)};"


def setting(chosen: Options) -> str:
    """Return what the figures were measured with, in one line."""
    cpus = "client and server on one CPU" if chosen.server_cpu == CLIENT_CPU else "client and server on a CPU each"
    # a run that was not alone is worth repeating
    return (
        f"{machine()} {cpus}, rounds: {chosen.rounds}, of which the median; "
        f"load average before the run: {chosen.load_before:.1f}."
    )
