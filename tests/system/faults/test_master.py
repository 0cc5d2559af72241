"""Rows 25 and 26 of the fault matrix: the master is killed, by itself and under systemd."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.frames import TEXT
from tests.system.clients import ConnectLoop, frame, raw_open
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, Daemon, eventually
from tests.system.faults.world import NOISE_SECONDS, ORDERS, Systemd, Unit


def check_port_and_lock_are_free(daemon: Daemon) -> None:
    """Fail if anybody still has one of them."""
    with socket.socket() as sock:
        # connections that have just ended are nobody's any more
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", daemon.port))
    with (daemon.run_dir / f"{daemon.name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_row_25_the_master_is_killed(make_daemon: MakeDaemon) -> None:
    """SIGKILL of the master: no worker outlives it, be it stopped or blocked in C; port and lock are free at once."""
    daemon = make_daemon(ORDERS, workers=3).start()
    with raw_open(daemon) as sock:
        sock.sendall(frame(TEXT, b"match"))
        eventually(lambda: "blocked" in daemon.out, "a blocked loop")
    os.kill(daemon.workers[0], signal.SIGSTOP)
    daemon.signal(signal.SIGKILL)
    assert -9 == daemon.wait_exit()
    daemon.wait_gone(1 + NOISE_SECONDS)
    check_port_and_lock_are_free(daemon)
    assert 1 == daemon.cli("status").code
    assert "tom" == daemon.start().echo("tom").split()[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_row_26_systemd_keeps_the_listeners(tmp_path: Path, number: signal.Signals) -> None:
    """The master dies, or is stopped, and systemd starts it again with the sockets it kept: nobody is refused."""
    with Systemd(tmp_path / "notify") as systemd, Unit(systemd, WHO, workers=2) as unit:
        unit.start()
        eventually(lambda: {"ws-1-1", "ws-1-2"} == {*systemd.kept}, "the listener of each slot")
        before = systemd.states()
        with ConnectLoop(unit) as loop:
            eventually(lambda: loop.echoed > 30, "clients before the end")
            for _ in range(2):
                unit.signal(number)
                assert (-9 if number == signal.SIGKILL else 0) == unit.wait_exit()
                unit.wait_gone()
                status = unit.start().status()
                served = loop.echoed
                eventually(lambda served=served: loop.echoed > served + 30, "clients of the next")  # type: ignore[misc]
                assert ("weights", 2) == (status["steering"], status["workers_ready"])
        assert [] == loop.refused
        assert {"ws-1-1", "ws-1-2"} == {*systemd.kept}
        assert before == ["READY"]
        unit.close_master()
