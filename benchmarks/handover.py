"""The hand-over: what a reload costs that moves all connections to new workers, and how long a client waits meanwhile.

One daemon with some workers is reloaded again and again, each time with new code: with nobody connected, which is what
the hand-over takes by itself; with 5,000 idle connections; and with 500 busy ones beside them, which send a numbered
message every 20 ms. Every connection has to move, no echo may be lost, doubled or out of order, and in the end every
idle one must still answer.

CPU is what the clocks of the processes say, clock_getcpuclockid(3): of an old worker from on_worker_reload to
on_worker_stop, which are right before and right behind the hand-over, and of a new one from on_worker_start until the
reload is over. So the import of the app is not in it, and with busy clients their echoes are. Connections moved in
a second are those of one worker after the other, each from on_worker_reload to on_worker_stop. A pause is the
longest time of a client from a message to its echo while a reload runs; for comparison, the same without one.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import client, rounds, wanted
from benchmarks.paced import Crowd
from benchmarks.peers.server import HOST, Server, environ, running
from benchmarks.table import table
from benchmarks.words import ask

APP = """
import os
import time

def note(event):
    with open({times!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{event}} {{time.monotonic()}} {{time.process_time()}}\\n")

def on_worker_start(worker):
    note("start")

def on_worker_reload(worker):
    note("reload")

def on_worker_stop(worker):
    note("stop")

def on_message(connection, data):
    connection.send(data)
"""

CONFIG = """
name: benchmark
app: echo_app
listen: {host}:{port}
workers: {workers}
websocket: {{ping_interval: 1h}}
log: {{level: warning}}
"""

OTHER_FILES = 200
RELOAD_SECONDS = 60.0
STILL_SECONDS = 3.0
ALL_MS = (50, 99, 100)

COST_COLUMNS = ("reload with", "moved", "CPU s", "spread", "CPU us each", "moved/s", "pause ms, told", "wanted")
PAUSE_COLUMNS = ("longest wait of a busy client", "p50 ms", "p99 ms", "longest ms", "clients", "wanted")


@dataclass(frozen=True)
class Move:
    """One reload. pause_seconds: what `wsworker reload --json` says; hand_over_seconds: of all workers, added up."""

    moved: int
    cpu_seconds: float
    hand_over_seconds: float
    pause_seconds: float


class Daemon:
    """The daemon that is reloaded; pid: of its master."""

    def __init__(self, pid: int) -> None:
        self.folder = Path(psutil.Process(pid).cwd())
        self._reload: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Begin a reload, with new code."""
        (self.folder / "times").write_text("")
        with (self.folder / "echo_app.py").open("a") as file:
            file.write("# changed\n")
        command = [sys.executable, "-m", "wsworker", "reload", "--json", "-c", str(self.folder / "config.yaml")]
        pipe = subprocess.PIPE
        self._reload = subprocess.Popen(
            command, cwd=self.folder, env=environ(self.folder), stdout=pipe, stderr=pipe, text=True
        )

    @property
    def reloads(self) -> bool:
        """Whether the reload goes on."""
        return self._reload is not None and self._reload.poll() is None

    def finish(self, connections: int) -> Move:
        """Wait until it is over, and return how it went; raises RuntimeError unless so many connections have moved."""
        assert self._reload is not None, "begun"
        out, err = self._reload.communicate(timeout=RELOAD_SECONDS)
        told = json.loads(out or "{}")
        if self._reload.returncode or (told.get("moved"), told.get("asked")) != (connections, 0):
            raise RuntimeError(f"not all {connections} connections have moved: {out.strip()} {err.strip()}")
        began: dict[int, tuple[float, float]] = {}
        cpu_seconds = hand_over_seconds = 0.0
        for line in (self.folder / "times").read_text().splitlines():
            pid, event, at, spent = line.split()
            if event == "stop":
                began_at, before = began.pop(int(pid))
                cpu_seconds += float(spent) - before
                hand_over_seconds += float(at) - began_at
            else:
                began[int(pid)] = float(at), float(spent)
        # the new ones
        cpu_seconds += sum(_cpu_clock(pid) - before for pid, (_, before) in began.items())
        return Move(connections, cpu_seconds, hand_over_seconds, told["longest_pause"])


@dataclass(frozen=True)
class Result:
    """What all reloads gave. moves: by what was connected; waits: of busy clients, by what went on, in seconds."""

    moves: dict[str, list[Move]]
    waits: dict[str, list[float]]


def daemon(workers: int) -> Server:
    """Return the daemon."""

    def arguments(port: int, folder: Path) -> list[str]:
        (folder / "echo_app.py").write_text(APP.format(times=str(folder / "times")))
        (folder / "config.yaml").write_text(CONFIG.format(host=HOST, port=port, workers=workers))
        return ["-m", "wsworker", "start", "-c", str(folder / "config.yaml")]

    return Server("wsworker", (), arguments)


def measure(daemon: Daemon, port: int, given: argparse.Namespace) -> Result:
    """Reload, with more and more clients; raises RuntimeError if one of them notices."""
    result = Result({}, {})

    def moves(title: str, connections: int, meanwhile: Callable[[], object]) -> None:
        for _ in range(given.rounds):
            daemon.begin()
            meanwhile()
            result.moves.setdefault(title, []).append(daemon.finish(connections))

    def nothing() -> None:
        pass

    moves("nobody", 0, nothing)
    idle = client.open_connections(port, given.idle)
    try:
        moves(f"{given.idle:,} idle", given.idle, nothing)
        busy = client.open_connections(port, given.busy)
        crowd = Crowd(busy, given.every_ms / 1000)
        # a client that stops to look for garbage would wait for itself
        gc.collect()
        gc.disable()
        try:
            until = time.monotonic() + STILL_SECONDS
            result.waits["no reload"] = crowd.run(lambda: time.monotonic() < until)
            waits = result.waits["a reload"] = []
            moves(
                f"{given.idle:,} idle, {given.busy:,} busy",
                given.idle + given.busy,
                lambda: waits.extend(crowd.run(lambda: daemon.reloads)),
            )
            waits.sort()
        finally:
            gc.enable()
            crowd.close()
            client.drop(busy)
        for connection in idle:
            if ask(connection, "there?") != "there?":
                raise RuntimeError("an idle connection does not answer any more")
    finally:
        client.drop(idle)
    return result


def report(result: Result, given: argparse.Namespace) -> str:
    """Return the tables; a row of the first is the reload with the median figure, one of the second is all reloads."""
    costs = []
    for title, moves in result.moves.items():
        one = rounds.median(moves, _cpu_seconds)
        cells = (title, f"{one.moved:,}", f"{one.cpu_seconds:.3f}", rounds.spread(moves, _cpu_seconds))
        costs.append((*cells, *_each(one), _pause(moves), _verdict(one, given)))
    pauses = []
    for title, waits in result.waits.items():
        marks = [waits[min(len(waits) - 1, int(len(waits) * percent / 100))] * 1000 for percent in ALL_MS]
        verdict = wanted.at_most(wanted.HANDOVER_PAUSE_MS, marks[1]) if title == "a reload" else ""
        pauses.append((title, *(f"{mark:.1f}" for mark in marks), f"{len(waits):,}", verdict))
    return "\n".join(
        [
            table(f"Hand-over, {given.workers} workers", COST_COLUMNS, costs, given.markdown),
            table(f"Pauses, a message every {given.every_ms:g} ms", PAUSE_COLUMNS, pauses, given.markdown),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when it failed."""
    parser = argparse.ArgumentParser(description="Measure reloads that move all connections to new workers.")
    parser.add_argument("--workers", type=int, default=2, help="1 to 64 (default 2)")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections (default 5000)")
    parser.add_argument("--busy", type=int, default=500, help="busy connections (default 500)")
    parser.add_argument("--every-ms", type=float, default=20.0, help="pace of a busy one, 5 to 1000 (default 20)")
    parser.add_argument("--rounds", type=int, default=3, help="reloads of each kind, 1 to 20 (default 3)")
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    given = parser.parse_args(arguments)
    for name, least, most in (("workers", 1, 64), ("idle", 1, 20_000), ("busy", 1, 2000), ("rounds", 1, 20)):
        if not least <= getattr(given, name) <= most:
            parser.error(f"--{name} takes {least} to {most}")
    if not 5 <= given.every_ms <= 1000:
        parser.error("--every-ms takes 5 to 1000")
    load_before = os.getloadavg()[0]
    try:
        client.allow_files(given.idle + given.busy + OTHER_FILES)
        with running(daemon(given.workers), None) as (port, pid):
            result = measure(Daemon(pid), port, given)
    except RuntimeError as exc:
        print(f"benchmarks.handover: {exc}", file=sys.stderr)
        return 1
    print(report(result, given))
    print(
        rounds.machine(("uvloop", "websockets")),
        f"{len(os.sched_getaffinity(0))} CPUs; load average before the run: {load_before:.1f}.",
    )
    return 0


def _each(move: Move) -> tuple[str, str]:
    """Return the cells for what one connection takes, and how many move in a second."""
    if not move.moved:
        return "", ""
    return f"{move.cpu_seconds * 1e6 / move.moved:.0f}", f"{move.moved / move.hand_over_seconds:,.0f}"


def _pause(moves: Sequence[Move]) -> str:
    return f"{max(move.pause_seconds for move in moves) * 1000:.0f}" if moves[0].moved else ""


def _verdict(move: Move, given: argparse.Namespace) -> str:
    """Return the cell for what has to be reached, which is said of 5,000 idle connections."""
    if not move.moved == given.idle == 5000:
        return ""
    return wanted.at_most(wanted.HANDOVER_CPU_SECONDS, move.cpu_seconds)


def _cpu_seconds(move: Move) -> float:
    return move.cpu_seconds


def _cpu_clock(pid: int) -> float:
    """Return the CPU seconds of a process of ours that runs: its clock has this number, clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


if __name__ == "__main__":
    sys.exit(main())
