"""Rows 12 to 14 of the fault matrix: a worker that does not start, at the first start and later."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, WHO, eventually
from tests.system.faults.world import NOISE_SECONDS, Systemd, knock, pid_of, slot

ONLY_ONCE = (
    """
import os

try:
    os.close(os.open("taken", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    raise ImportError("somebody else has it") from None
"""
    + WHO
)
"""Whoever imports it first can; slot 1 does, as it starts alone."""

HANGS_IN_SLOT_2 = (
    WHO
    + """
import time

def on_worker_start(worker):
    if worker.slot == 2:
        time.sleep(600)
"""
)


def test_row_12_an_import_error_at_the_start(make_daemon: MakeDaemon) -> None:
    """Code that cannot be imported: exit 78 within 2 s, the traceback once, a port that never listened, nobody left."""
    daemon = make_daemon("import no_such_module\n", workers=3)
    starting = daemon.launch()
    answers = set()

    def ended() -> bool:
        answers.add(knock(daemon))
        return starting.poll() is not None

    eventually(ended, "the end of the start", 2 + NOISE_SECONDS)
    assert 78 == daemon.wait_exit()
    assert {errno.ECONNREFUSED} == answers
    assert 1 == daemon.log.count("Traceback")
    assert 1 == daemon.log.count("ModuleNotFoundError: No module named 'no_such_module'\n")
    assert not daemon.processes()


def test_row_13_one_worker_cannot_import(make_daemon: MakeDaemon) -> None:
    """An import error in one worker only: its slot is tried ever later, the others serve, the service is READY.

    Each delay is longer than the one before. Mended code gets the slot back without anybody's doing.
    """
    daemon = make_daemon(ONLY_ONCE, workers=2)
    with Systemd(daemon.folder / "notify") as systemd:
        daemon.environ["NOTIFY_SOCKET"] = str(systemd.path)
        daemon.launch()
        assert systemd.wait_for("READY")["STATUS"].startswith("degraded: 1/2 workers")
        status = daemon.wait_status(
            lambda status: slot(status, 2)["state"] == "waiting" and slot(status, 2)["restarts"] >= 3
        )
        row = slot(status, 2)
        assert ("app", 78) == (row["last_exit"]["class"], row["last_exit"]["code"])
        assert "ImportError: somebody else has it" in row["last_exit"]["error"]
        assert (0, True) == (row["weight"], row["retry_in"] > 0)
        assert ("degraded", "ready") == (status["state"], slot(status, 1)["state"])
        assert 150 == daemon.cli("status").code
        delays = [float(seconds) for seconds in re.findall(r"worker 2 starts again in ([\d.]+) s", daemon.log)]
        assert len(delays) >= 3
        assert all(earlier < later for earlier, later in pairwise(delays)), delays
        assert {slot(status, 1)["pid"]} == {pid_of(daemon.echo("tom")) for _ in range(10)}
        assert ["READY"] == systemd.states()

        daemon.write_app(WHO)
        mended = daemon.wait_status(lambda status: status["state"] == "running")
        assert slot(status, 1)["pid"] == slot(mended, 1)["pid"]
        daemon.close_master()


def test_row_14_a_start_that_hangs(make_daemon: MakeDaemon) -> None:
    """A first worker that never becomes ready: killed at boot_timeout, exit 1, and the reason names boot_timeout."""
    hangs = HELLO + "import time\ndef on_worker_start(worker):\n    time.sleep(600)\n"
    daemon = make_daemon(hangs, workers=2, boot_timeout="1s")
    daemon.launch()
    assert 1 == daemon.wait_exit()
    assert "was not ready within 1 s; see `boot_timeout`" in daemon.log
    assert not daemon.processes()


def test_row_14_a_worker_that_hangs_later(make_daemon: MakeDaemon) -> None:
    """Another worker that never becomes ready: KILL at boot_timeout, class boot, again and again; the others serve."""
    # enough for the first one, on a slow machine too
    daemon = make_daemon(HANGS_IN_SLOT_2, workers=2, boot_timeout="4s")
    daemon.launch()

    def failed_twice(status: Mapping[str, Any]) -> bool:
        return slot(status, 2)["last_exit"] is not None and slot(status, 2)["restarts"] >= 2

    status = daemon.wait_status(failed_twice, 30)
    last_exit = slot(status, 2)["last_exit"]
    assert ("boot", "SIGKILL") == (last_exit["class"], last_exit["signal"])
    assert "boot_timeout" in last_exit["reason"]
    assert {slot(status, 1)["pid"]} == {pid_of(daemon.echo("tom")) for _ in range(10)}
    assert "degraded" == status["state"]
