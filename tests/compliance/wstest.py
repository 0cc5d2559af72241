"""One run of wstest, the program of the Autobahn test suite, against a daemon that is started for it.

The daemon is a real one, with two workers, in a folder of its own, and ends with the run however the run ends. The
suite reports at its very end, so a run that comes to no end is a failure without results; the last case that it has
begun is named then.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.compliance.python2 import clean
from tests.compliance.results import Selection, Verdict, read_report
from tests.system.daemon import Daemon

ECHO: Final = """
def on_message(connection, data):
    connection.send(data)
"""

PROGRESS_SECONDS: Final = 5.0

_BEGUN: Final = re.compile(r"Running test case ID ([\d.]+) for agent")


class RunError(Exception):
    """wstest has reported nothing that could be compared."""


def run(
    wstest: Path, compression: str, selected: Mapping[int, Selection], reports: Path, seconds: float
) -> dict[str, Verdict]:
    """Run the selected sections and return the verdicts.

    compression: the setting of the daemon, none or deflate. reports: the folder for the reports, emptied before.
    seconds: when the run is given up. Raises RunError.
    """
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    # cases 9.3.1 and 9.4.1 send 65,537 fragments, and a message of 16 MiB may have 65,536
    websocket = {"max_size": "32MiB"} | ({} if compression == "none" else {"compression": compression})
    with Daemon(ECHO, workers=2, websocket=websocket) as daemon:
        daemon.start()
        workers = daemon.workers
        patterns = [pattern for selection in selected.values() for pattern in selection.patterns]
        spec = reports / "fuzzingclient.json"
        spec.write_text(json.dumps(specification(patterns, daemon.port, reports)))
        cases = sum(selection.cases for selection in selected.values())
        fuzz([str(wstest), "-m", "fuzzingclient", "-s", str(spec)], cases, reports / "wstest.log", seconds)
        if daemon.workers != workers:
            raise RunError("a worker was replaced during the run; its log is above")
    try:
        return read_report((reports / "index.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"no report was written; see {reports / 'wstest.log'}") from error


def specification(patterns: Iterable[str], port: int, reports: Path) -> dict[str, object]:
    """Return what wstest reads: whom to test with what."""
    return {
        "outdir": str(reports),
        "servers": [{"agent": "wsworker", "url": f"ws://127.0.0.1:{port}"}],
        "cases": [*patterns],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }


def fuzz(command: list[str], cases: int, log: Path, seconds: float) -> None:
    """Run wstest to its end and print how far it is; RunError if it fails or takes too long."""
    begun = ""
    with running(command, seconds) as process, log.open("w") as copy:
        assert process.stdout is not None
        number, told_at = 0, time.monotonic()
        for line in process.stdout:
            copy.write(line)
            match = _BEGUN.match(line)
            if match:
                begun, number = match[1], number + 1
                if time.monotonic() - told_at > PROGRESS_SECONDS:
                    print(f"  {number} of {cases}, now {begun}", flush=True)
                    told_at = time.monotonic()
    if process.returncode == -signal.SIGKILL:
        raise RunError(f"wstest was not done after {seconds:.0f} s; the last case that it began is {begun or 'none'}")
    if process.returncode != 0:
        raise RunError(f"wstest has failed; see {log}")


@contextmanager
def running(command: list[str], seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Start a program whose output is read as it comes; it is killed when the time is over or the reader leaves."""
    environ = clean(os.environ) | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        deadline = threading.Timer(seconds, process.kill)
        deadline.start()
        try:
            yield process
            process.wait()
        finally:
            deadline.cancel()
            process.kill()
