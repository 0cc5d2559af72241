"""Upgrades under systemd, played by a socket: what it is told, what it keeps, and that its watchdog is fed."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.system.daemon import eventually
from tests.system.faults.world import Systemd, Unit
from tests.system.test_systemd_notify import NotifySocket
from tests.system.upgrade.conftest import MakeReleased
from tests.system.upgrade.releases import NEW, WHICH, Released, release_of

WATCHDOG_USEC = 2_000_000


class ReleasedUnit(Released, Unit):
    """A service that systemd runs, to be upgraded."""


def test_it_hears_of_a_reload_only(make_released: MakeReleased) -> None:
    """USR2: RELOADING and READY come, the main process stays, and the watchdog is fed all the time and afterwards."""
    daemon = make_released(WHICH, workers=2)
    notify = NotifySocket(daemon.folder / "notify")
    daemon.environ |= {"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": str(WATCHDOG_USEC)}
    try:
        daemon.start()
        notify.wait_for("READY")
        master = daemon.master
        for version in (NEW, "3.0.0"):
            daemon.install(version)
            begins = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            daemon.signal(signal.SIGUSR2)
            reloading = notify.wait_for("RELOADING")
            assert "MAINPID" not in reloading
            assert begins <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert "2/2 workers, 0 connections" == notify.wait_for("READY")["STATUS"]
            assert (version, master) == (daemon.status()["version"], daemon.master)
            # of the program that runs now
            for _ in range(3):
                notify.wait_for("WATCHDOG")
            daemon.wait_rested()
        assert [] == notify.states()
        assert "SIGUSR2: upgrading" in daemon.log
        daemon.signal(signal.SIGTERM)
        assert "1" == notify.wait_for("STOPPING")["STOPPING"]
        assert 0 == daemon.wait_exit()
    finally:
        daemon.close_master()
        notify.close()


def test_a_refused_one_is_no_reload(make_released: MakeReleased) -> None:
    """Systemd hears nothing of an upgrade that is refused, so it does not wait for a READY."""
    daemon = make_released(WHICH)
    notify = NotifySocket(daemon.folder / "notify")
    daemon.environ["NOTIFY_SOCKET"] = str(notify.path)
    try:
        daemon.start()
        notify.wait_for("READY")
        daemon.install(NEW, {"master/estate.py": ("FORMAT: Final = 1\n", "FORMAT: Final = 2\n")})
        daemon.signal(signal.SIGUSR2)
        daemon.wait_log("upgrade refused: ")
        assert [] == notify.states()
    finally:
        daemon.close_master()
        notify.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_keeps_the_listeners(tmp_path: Path, number: signal.Signals) -> None:
    """Each listener is kept once over an upgrade, also of a new slot; the next start gets them all back."""
    with Systemd(tmp_path / "notify") as systemd, ReleasedUnit(systemd, WHICH, workers=2) as unit:
        unit.start()
        eventually(lambda: {"ws-1-1", "ws-1-2"} == {*systemd.kept}, "the listener of each slot")
        unit.upgraded()
        unit.wait_rested()
        unit.signal(signal.SIGTTIN)
        eventually(lambda: {"ws-1-1", "ws-1-2", "ws-1-3"} == {*systemd.kept}, "the listener of the new slot")
        unit.wait_status(lambda status: status["workers_ready"] == 3)
        unit.upgraded("3.0.0")
        unit.signal(number)
        assert (-9 if number == signal.SIGKILL else 0) == unit.wait_exit()
        unit.wait_gone()
        status = unit.start().status()
        assert ("3.0.0", "weights", 2) == (status["version"], status["steering"], status["workers_ready"])
        assert "3.0.0" == unit.release()
        unit.close_master()


def test_it_has_opened_the_address(tmp_path: Path) -> None:
    """A listener of a .socket unit goes on, and clients that queue there meanwhile are served by the new release."""
    with Systemd(tmp_path / "notify") as systemd, ReleasedUnit(systemd, WHICH, workers=2) as unit:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", unit.port))
            sock.listen()
            systemd.kept["wsworker.socket"] = os.dup(sock.fileno())
        unit.start()
        assert "shared" == unit.status()["steering"]
        with unit.connect() as client:
            for version in (NEW, "3.0.0"):
                unit.upgraded(version)
                assert version == release_of(client)
                unit.wait_rested()
                assert version == unit.release()
        unit.close_master()
