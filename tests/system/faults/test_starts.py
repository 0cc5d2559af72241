"""Faults 33 to 35: what a start finds in its place: a pid file that lies, a master that runs, a port that is taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import ExitStack, closing

import psutil
import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, Daemon, eventually
from tests.system.faults.world import NOISE_SECONDS


def test_row_33_a_pid_file_that_names_a_stranger(make_daemon: MakeDaemon) -> None:
    """Pid files of a service long dead, whose pid somebody else has now: it starts, and they name the new master.

    The stranger is neither asked nor signalled, by start or by stop.
    """
    daemon = make_daemon(HELLO, pidfile="service.pid")
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            daemon.run_dir.mkdir(mode=0o700)
            files = [daemon.run_dir / f"{daemon.name}.pid", daemon.folder / "service.pid"]
            for file in files:
                file.write_text(f"{stranger.pid} 1\n")
            assert 7 == daemon.cli("stop").code
            daemon.start()
            assert [str(daemon.master)] * 2 == [file.read_text().split()[0] for file in files]
            assert "hello tom" == daemon.echo("tom")
            assert 0 == daemon.cli("stop").code
            assert not [file for file in files if file.exists()]
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_row_33_a_master_that_was_killed(make_daemon: MakeDaemon) -> None:
    """The pid file that a killed master leaves behind keeps nobody from starting, and is replaced."""
    daemon = make_daemon(HELLO, pidfile="service.pid").start()
    old = daemon.master
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.wait_gone()
    assert str(old) == (daemon.folder / "service.pid").read_text().strip()
    daemon.start()
    assert old != daemon.master
    assert str(daemon.master) == (daemon.folder / "service.pid").read_text().strip()


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_row_34_a_second_start(make_daemon: MakeDaemon, state: str) -> None:
    """A second start of the same configuration names the master that runs and exits 1; the first one serves on.

    Even a master that stands still is known by its lock.
    """
    daemon = make_daemon(HELLO, log={"file": "log.txt"}).start()
    master = daemon.master
    if state == "stopped":
        os.kill(master, signal.SIGSTOP)
        eventually(lambda: psutil.Process(master).status() == psutil.STATUS_STOPPED, "the master stands still")
    try:
        for flags in ((), ("-d",)):
            second = daemon.cli("start", *flags)
            second.check_tone()
            assert (1, "") == (second.code, second.out)
            assert second.err.startswith(f"error: {daemon.name} is already running (pid {master}); ")
            assert "hello tom" == daemon.echo("tom")
    finally:
        os.kill(master, signal.SIGCONT)
    assert master == daemon.master


@pytest.mark.parametrize("reuse_port", [False, True], ids=["plain", "SO_REUSEPORT"])
def test_row_35_a_port_in_use(make_daemon: MakeDaemon, reuse_port: bool) -> None:
    """A port that another program has, even one that would share it: exit 1, with its pid, after a single try."""
    daemon = make_daemon(HELLO)
    with closing(socket.socket()) as other:
        if reuse_port:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", daemon.port))
        other.listen()
        # it must give up by itself
        outcome = daemon.cli("start", seconds=1 + NOISE_SECONDS)
        # nobody has joined the group, where it would have got a share of the other program's clients
        assert served_by(other, daemon)
    outcome.check_tone()
    assert (1, "") == (outcome.code, outcome.out)
    said = f"cannot listen on 127.0.0.1:{daemon.port}: address in use by pid {os.getpid()} ("
    assert 1 == outcome.err.count(said), outcome.err
    assert not daemon.processes()
    assert "hello tom" == daemon.start().echo("tom")


def served_by(other: socket.socket, daemon: Daemon) -> bool:
    """Whether ten clients in a row come to one listener."""
    other.settimeout(10)
    for _ in range(10):
        with ExitStack() as stack:
            client = socket.create_connection(("127.0.0.1", daemon.port), timeout=10)
            accepted, address = other.accept()
            # the client closes first, or the server's port would stay in TIME_WAIT
            stack.enter_context(accepted)
            stack.enter_context(client)
            if address != client.getsockname():
                return False
    return True


def test_row_35_a_port_taken_while_it_starts(make_daemon: MakeDaemon) -> None:
    """A program that takes the port while the app is still imported is noticed before the first client is accepted."""
    gate = "import os, time\nprint('importing', flush=True)\nwhile not os.path.exists('gate'):\n    time.sleep(0.01)\n"
    daemon = make_daemon(gate + HELLO)
    process = daemon.launch()
    eventually(lambda: "importing" in daemon.out, "the import has begun")
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", daemon.port))
        other.listen()
        (daemon.folder / "gate").touch()
        assert 1 == process.wait(1 + NOISE_SECONDS)
    assert f"cannot listen on 127.0.0.1:{daemon.port}: address in use" in daemon.log
    daemon.wait_gone()
