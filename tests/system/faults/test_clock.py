"""Fault 42: somebody sets the wall clock. Nothing but a date for people may depend on it.

A test cannot set the clock of the machine, so there are two halves. One puts a clock of its own into a real daemon,
before anything is imported, and lets it jump. It reaches what asks in Python; code that asks the kernel in C, which is
what the other half is for, has nowhere to do so: it finds every place of the package where the wall clock is read, and
there may be only those that make a date.
"""

from __future__ import annotations

import ast
import signal
import sys
from typing import Final

from tests.system.conftest import MakeDaemon
from tests.system.daemon import PACKAGE, WHO, eventually
from tests.system.faults.mischief import launch

HOUR: Final = 3600

CLOCK: Final = """
import runpy, sys, time
from pathlib import Path

file, real, real_ns = Path("clock.txt"), time.time, time.time_ns
time.time = lambda: real() + int(file.read_text())
time.time_ns = lambda: real_ns() + int(file.read_text()) * 10**9
# as `python -m wsworker` with what follows; the first is the interpreter that it would be
sys.argv = sys.argv[3:]
runpy.run_module("wsworker", run_name="__main__", alter_sys=True)
"""
"""Runs wsworker with a wall clock that is as many seconds off as clock.txt says, at any moment."""

DATES: Final = {
    ("worker/door.py", "_serve"): "the Date of an answer to plain HTTP, and how old its file is",
    ("lines.py", "format"): "the time of a log line on a terminal",
    ("lines.py", "_local"): "the date of a log line",
    ("master/main.py", "_look"): "the date of a worker's last exit, for people",
    ("master/admin.py", "__init__"): "the metric wsworker_start_time_seconds",
    ("worker/admin.py", "answer"): "the Date of an answer to an operator",
    ("worker/admin.py", "data_received"): "the Date of such an answer that is an error",
}
"""Where the wall clock may be read, and what for."""

WALL_CLOCK: Final = frozenset({"time", "time_ns", "ctime", "localtime", "gmtime", "now", "today", "utcnow"})
"""Functions of time and datetime that read it, unless they are given a time."""


def test_row_42_the_wall_clock_jumps(make_daemon: MakeDaemon) -> None:
    """An hour forward, then two back: no worker is killed or recycled, no deadline comes early, reloads work."""
    daemon = make_daemon(WHO, workers=2, worker_timeout="8s", boot_timeout="20s", max_worker_age="30m")
    clock = daemon.folder / "clock.txt"
    clock.write_text("0")
    launch(daemon, [sys.executable, "-c", CLOCK])
    daemon.wait_status(lambda status: status["state"] == "running")
    before = daemon.workers
    with daemon.connect() as client:
        for number, offset in enumerate((HOUR, -HOUR)):
            new = daemon.folder / "new.txt"
            new.write_text(str(offset))
            new.replace(clock)
            until = daemon.status()["uptime"] + 5
            status = daemon.wait_status(lambda status, until=until: status["uptime"] >= until)  # type: ignore[misc]
            assert before == [row["pid"] for row in status["workers"]]
            assert ["ready", "ready"] == [row["state"] for row in status["workers"]]
            # two turns of at least five seconds each, and not an hour
            assert 5 * (number + 1) <= status["uptime"] < HOUR / 2
            client.send("on")
            assert str(client.recv(10)).endswith(" on")
    assert " died" not in daemon.log
    assert "replaced" not in daemon.log
    # the daemon did see the jump: its lines are dated by that clock
    daemon.signal(signal.SIGUSR1)
    daemon.wait_log("SIGUSR1")
    dates = [line.split()[0] for line in daemon.log.splitlines()]
    assert dates[-1] < dates[0]
    assert 0 == daemon.cli("reload").code
    eventually(lambda: not {*before} & {*daemon.workers}, "new workers")


def wall_clock_readers(source: str) -> set[str]:
    """Return the names of the functions in which a source text reads the wall clock; "" stands for the module."""
    found = set()

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        match node:
            case ast.Attribute(value=ast.Name(id="time" | "datetime" | "date"), attr=name) if name in WALL_CLOCK:
                found.add(function)
            case ast.Attribute(attr="CLOCK_REALTIME" | "fromtimestamp" | "create_time"):
                found.add(function)
            case ast.ImportFrom(module="time", names=names) if WALL_CLOCK & {name.name for name in names}:
                found.add(function)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(source), "")
    return found


def test_row_42_who_reads_the_wall_clock() -> None:
    """In all that runs in a master or a worker only the log and `status` read the wall clock, only to show a date.

    The commands are left out: one runs for a moment, serves nobody, and may show people how long ago something was.
    """
    files = [file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE / "cli"]
    assert len(files) > 20
    found = {
        (file.relative_to(PACKAGE).as_posix(), function)
        for file in files
        for function in wall_clock_readers(file.read_text())
    }
    assert DATES.keys() == found


def test_row_42_a_reader_is_found() -> None:
    """The search finds every way to read the wall clock, and takes no reader of another clock for one."""
    assert {"f"} == wall_clock_readers("import time\ndef f():\n    return time.time()\n")
    assert {"f"} == wall_clock_readers("def f():\n    return datetime.now()\n")
    assert {"f"} == wall_clock_readers("def f():\n    return time.clock_gettime(time.CLOCK_REALTIME)\n")
    assert {""} == wall_clock_readers("from time import time_ns\n")
    assert set() == wall_clock_readers("import time\ndef f():\n    return time.monotonic() + loop.time()\n")
