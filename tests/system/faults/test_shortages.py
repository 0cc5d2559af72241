"""Faults 36 to 40: shortages, of descriptors, processes, room on the disk, and of somebody who reads the output.

Each is made on a service that runs, by lowering a limit of its processes from outside, and is over when the limit is
lifted: what ran must run on, what is short must be said, and all must be as before without a restart.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.system.clients import UPGRADE, ConnectLoop, raw
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, Daemon, eventually
from tests.system.faults.mischief import bare_status, call, callers, descriptors, launch, lift, limit, serving
from tests.system.faults.world import check_avoided, waiting_at
from tests.system.test_systemd_notify import NotifySocket

NO_MORE = 3
"""As a limit of descriptors: all numbers below it are taken by the standard streams, so not one more is to be had."""

TALKS = (
    WHO
    + """
import logging
logger = logging.getLogger(__name__)

def on_connect(connection):
    logger.info("x" * 1000)
"""
)

TALKS_AND_PRINTS = TALKS + '    print("y" * 1000, flush=True)\n'

FULL_DISK = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1)); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Becomes the program it is given, which cannot write a byte to any file."""


def wait_uptime(daemon: Daemon, seconds: float) -> None:
    """Wait until the service has run on for a while."""
    enough = daemon.status()["uptime"] + seconds
    daemon.wait_status(lambda status: status["uptime"] >= enough)


# Descriptors


def test_row_36_a_worker_has_no_descriptors(make_daemon: MakeDaemon) -> None:
    """A worker that cannot accept gets no new clients; its own stay, the others serve, and it recovers by itself.

    Who was in its queue already is served in the end, or told to come again (503). The log says it once a minute.
    """
    daemon = make_daemon(WHO, workers=2).start()
    short, other = daemon.workers
    with ExitStack() as stack:
        clients = {pid: stack.enter_context(daemon.connect_to(pid)) for pid in (short, other)}
        limit(short, resource.RLIMIT_NOFILE, descriptors(short)[-1] + 1)
        queued: list[socket.socket] = []
        # one after the other, each to a worker that chance chooses
        while "out of file descriptors or memory" not in daemon.log:
            assert len(queued) < 1000, "nobody came to the worker"
            queued.append(stack.enter_context(raw(daemon)))
            queued[-1].sendall(UPGRADE)
        daemon.wait_status(lambda status: status["workers"][0]["weight"] == 0)
        # as the queue is lent
        eventually(lambda: 0 == waiting_at(daemon, 1), "nobody waits any more")
        check_avoided(daemon, stack, 1, other)
        with ConnectLoop(daemon) as loop:
            eventually(lambda: loop.echoed > 100, "clients of the other worker")
        loop.check()
        assert 0 == loop.told_to_go
        # it has tried again by then, and has not said so
        wait_uptime(daemon, 3)
        assert 1 == daemon.log.count("out of file descriptors or memory")
        for pid, client in clients.items():
            client.send("still")
            assert f"{pid} still" == client.recv(10)

        lift(short, resource.RLIMIT_NOFILE)
        for sock in queued:
            assert sock.recv(65536).startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 503 "))
        daemon.wait_status(lambda status: status["workers"][0]["weight"] > 0)
        with daemon.connect_to(short) as client:
            client.send("again")
            assert f"{short} again" == client.recv(10)
    assert [short, other] == daemon.workers
    assert " died" not in daemon.log


def test_row_37_the_master_has_no_descriptor_left(make_daemon: MakeDaemon) -> None:
    """With every descriptor of the master in use, `status` is answered all the same, again and again."""
    daemon = make_daemon(WHO, workers=2).start()
    master = daemon.master
    eventually(lambda: 0 == callers(daemon), "the master has no caller any more")
    numbers = descriptors(master)[-1] + 1
    limit(master, resource.RLIMIT_NOFILE, numbers)
    with ExitStack() as stack:
        # callers that say nothing take the numbers that are free below the limit; each is cut off after five seconds
        free = numbers - len(descriptors(master))
        assert free < 16, "more numbers are free than the master takes callers"
        for _ in range(free):
            stack.enter_context(call(daemon))
        eventually(lambda: len(descriptors(master)) == numbers, "the last descriptor is taken")
        for _ in range(3):
            assert 2 == daemon.status()["workers_ready"]
        assert daemon.echo("on").endswith(" on")
    lift(master, resource.RLIMIT_NOFILE)
    assert 0 == daemon.cli("reload").code


def test_row_37_the_master_cannot_start_a_worker(make_daemon: MakeDaemon) -> None:
    """Without descriptors a dead worker's place stays empty, the others serve; each try is later than the last.

    When there are descriptors again, the worker is started without anybody's help.
    """
    daemon = make_daemon(WHO, workers=2).start()
    master = daemon.master
    victim, other = daemon.workers
    limit(master, resource.RLIMIT_NOFILE, NO_MORE)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: daemon.log.count("cannot fork worker 1: ") >= 3, "several tries")
    with ConnectLoop(daemon) as loop:
        eventually(lambda: loop.echoed > 50, "clients of the other worker")
    loop.check()
    # tries without a back-off would be thousands by now
    assert daemon.log.count("cannot fork worker 1: ") < 10
    lift(master, resource.RLIMIT_NOFILE)
    status = daemon.wait_status(lambda status: status["workers_ready"] == 2)
    assert other == serving(status)[2]
    assert victim != serving(status)[1]
    assert master == status["pid"]


# Processes


def test_row_38_fork_fails(make_daemon: MakeDaemon, require: Callable[[str], str]) -> None:
    """A master that may not fork backs off and tells systemd that it is degraded; the others serve meanwhile.

    Root is exempt from the limit of processes, so a test that is run by root starts the service as a user that has no
    other process, with the one privilege to read a checkout in root's home.
    """
    daemon = make_daemon(WHO, workers=2)
    before: list[str] = []
    uid = None
    with closing(NotifySocket(daemon.folder / "notify")) as notify:
        daemon.environ["NOTIFY_SOCKET"] = str(notify.path)
        if os.geteuid() == 0:
            uid = 64000 + os.getpid() % 1000
            before = [require("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            before += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
            before += ["--bounding-set=-all,+dac_read_search"]
            for path in (daemon.folder, *daemon.folder.rglob("*")):
                os.chown(path, uid, uid)
        launch(daemon, before)
        assert "2/2 workers" in notify.wait_for("READY")["STATUS"]
        first = bare_status(daemon)
        master, victim = first["pid"], serving(first)[1]

        def allow(processes: int) -> None:
            """Set the master's limit, as its user: to set that of another one takes a privilege."""
            command = [
                require("prlimit"),
                f"--pid={master}",
                f"--nproc={processes if processes >= 0 else 'unlimited'}:",
            ]
            subprocess.run(command, user=uid, group=uid, extra_groups=[], check=True)

        # inherited from here
        most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        allow(1)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: daemon.log.count("cannot fork worker 1: ") >= 3, "several tries")
        short = bare_status(daemon)
        assert ("degraded", {2: serving(first)[2]}) == (short["state"], serving(short))
        while "1/2 workers" not in notify.wait_for("STATUS")["STATUS"]:
            pass
        with ConnectLoop(daemon) as loop:
            eventually(lambda: loop.echoed > 50, "clients of the other worker")
        loop.check()
        allow(most)
        eventually(lambda: bare_status(daemon)["workers_ready"] == 2, "the worker is back")
        assert daemon.log.count("cannot fork worker 1: ") < 10
        daemon.close_master()


# The disk


def test_row_39_the_disk_is_full(make_daemon: MakeDaemon) -> None:
    """A log that cannot be written stops nobody: records are dropped and counted, and later ones are written again.

    A limit of the size of files stands for the full disk: a write fails at once, as it does there.
    """
    daemon = make_daemon(TALKS, workers=2, log={"file": "log.txt"}).start()
    before = daemon.workers
    processes = [daemon.master, *before]
    dropped = daemon.status()["totals"]["log_dropped"]
    for pid in processes:
        limit(pid, resource.RLIMIT_FSIZE, 0)
    size = (daemon.folder / "log.txt").stat().st_size
    with daemon.connect() as client, ConnectLoop(daemon) as loop:
        eventually(lambda: loop.echoed > 50, "clients while the disk is full")
        daemon.signal(signal.SIGUSR1)
        client.send("on")
        assert str(client.recv(10)).endswith(" on")
    loop.check()
    status = daemon.wait_status(lambda status: status["totals"]["log_dropped"] >= dropped + 50)
    assert size == (daemon.folder / "log.txt").stat().st_size
    assert before == [row["pid"] for row in status["workers"]]

    for pid in processes:
        lift(pid, resource.RLIMIT_FSIZE)
    assert daemon.echo("on").endswith(" on")
    daemon.wait_log("x" * 1000)
    daemon.signal(signal.SIGUSR1)
    eventually(lambda: "master" in (daemon.folder / "log.txt").read_bytes()[size:].decode(), "a line of the master")


def test_row_39_workers_start_and_go_while_the_disk_is_full(make_daemon: MakeDaemon) -> None:
    """On a full disk a dead worker is replaced, a reload works, and so does a stop."""
    daemon = make_daemon(TALKS, workers=2, log={"file": "log.txt"}).start()
    for pid in daemon.processes():
        limit(pid, resource.RLIMIT_FSIZE, 0)
    victim = daemon.workers[0]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_status(lambda status: victim not in serving(dict(status)).values() and status["workers_ready"] == 2)
    assert 0 == daemon.cli("reload").code
    assert daemon.echo("on").endswith(" on")
    assert 0 == daemon.cli("stop").code
    assert 0 == daemon.wait_exit()


def test_row_39_a_start_on_a_full_disk(make_daemon: MakeDaemon) -> None:
    """Neither the log nor a pid file keeps a service from starting: the lock decides, and needs no room."""
    daemon = make_daemon(WHO, pidfile="service.pid")
    launch(daemon, [sys.executable, "-c", FULL_DISK])
    daemon.wait_status(lambda status: status["state"] == "running")
    assert daemon.echo("on").endswith(" on")
    assert "" == daemon.log
    assert f"{daemon.name} is already running" in daemon.cli("start").err
    assert 0 == daemon.cli("stop").code
    assert 0 == daemon.wait_exit()


# Nobody reads


@pytest.mark.parametrize("app", [TALKS, TALKS_AND_PRINTS], ids=["log", "log and print"])
def test_row_40_nobody_reads_the_output(make_daemon: MakeDaemon, app: str) -> None:
    """A full pipe on stdout and stderr blocks neither the master nor a worker: what does not fit is counted.

    Once somebody reads again, the log goes on.
    """
    daemon = make_daemon(app, workers=2, worker_timeout="4s")
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as output:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        with open(writer, "wb", buffering=0) as full:
            launch(daemon, stdout=full, stderr=full)
        daemon.wait_status(lambda status: status["state"] == "running")
        before = daemon.workers
        with daemon.connect() as client, ConnectLoop(daemon) as loop:
            eventually(lambda: loop.echoed > 50, "clients while nobody reads")
            status = daemon.wait_status(lambda status: status["totals"]["log_dropped"] > 10)
            daemon.signal(signal.SIGUSR1)
            # a blocked worker would have been noticed by now
            wait_uptime(daemon, 4)
            client.send("on")
            assert str(client.recv(10)).endswith(" on")
        loop.check()
        status = daemon.status()
        assert (before, "running") == ([row["pid"] for row in status["workers"]], status["state"])
        assert 0 == daemon.cli("reload").code

        os.set_blocking(output.fileno(), False)
        seen = read_all(output)
        assert "ready, pid" in seen
        daemon.signal(signal.SIGUSR1)
        eventually(lambda: "SIGUSR1" in read_all(output), "a line behind the dropped ones")


def read_all(output: Any) -> str:
    """Return what is in a pipe now."""
    seen = b""
    while data := output.read(65536):
        seen += data
    return seen.decode(errors="replace")
