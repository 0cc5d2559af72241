"""Faults 50 to 52: orphans of strangers, and user code that forks, starts threads and takes signal handlers away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.conftest import lacking
from tests.frames import TEXT
from tests.system.clients import frame, raw_open
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, WHO, Daemon, eventually
from tests.system.faults.mischief import ended, launch, serving

LEAVES_ORPHANS = """
import subprocess

def on_message(connection, data):
    # the shell between ends at once, so its child goes to the nearest that reaps: pid 1
    subprocess.run(["sh", "-c", "(while ! [ -e gate ]; do sleep 0.05; done; exit 7) >/dev/null 2>&1 &"], check=True)
    connection.send("orphaned")
"""

LOOKS_AROUND = """
import json
import os
import socket
import sys
import time

MASTER = os.getppid()

def on_message(connection, data):
    if data == "look":
        connection.send(json.dumps(look()))
    if data == "fork":
        pid = os.fork()
        if pid == 0:
            # closed by now, or never
            with open("child.new", "w") as file:
                json.dump(look() | {"pid": os.getpid()}, file)
            os.rename("child.new", "child.json")
            time.sleep(600)
        connection.send(str(pid))

def look():
    found = {"listeners": 0, "channels": 0, "links": 0}
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with sock:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found["listeners"] += 1
            elif sock.family == socket.AF_UNIX and (sock.getsockname() or sock.getpeername()):
                found["links"] += 1
            elif sock.family == socket.AF_UNIX and peer(sock) == MASTER:
                found["channels"] += 1
    return found

def peer(sock):
    # of a pair: who has made it
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
"""
"""Counts, in a worker and in a child that it forks, listeners, channels to the master, and links to other workers."""

STARTS_THREADS = """
import threading
import time

def on_worker_start(worker):
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(600,), daemon=daemon).start()

def on_message(connection, data):
    connection.send(f"{threading.active_count()} {data}")
"""

TAKES_HANDLERS = (
    WHO
    + """
import signal

def on_worker_start(worker):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
"""
)

SLEEPS_IN_A_CHILD = """
import os
import subprocess
import time

def on_message(connection, data):
    program = subprocess.Popen(["sleep", "600"], close_fds=False)
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print(program.pid, child, flush=True)
    connection.send("started")
"""
"""Leaves two behind: a program that was given all descriptors it can be given, and a fork."""


def namespace(require: Callable[[str], str]) -> list[str]:
    """Return the command by which a program becomes pid 1 of a namespace of its own, or skip the test."""
    as_root = [require("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    as_user = [*as_root, "--user", "--map-root-user"]
    for command in (as_root, as_user):
        if 0 == subprocess.run([*command, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            break
    else:
        lacking("this machine gives us no PID namespace")
    return command


def outer_master(daemon: Daemon) -> psutil.Process:
    """Return the master as it is seen from outside of its namespace."""
    titled = [pid for pid, title in daemon.processes().items() if title.startswith("wsworker: master")]
    assert 1 == len(titled)
    return psutil.Process(titled[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_row_50_pid_1(make_daemon: MakeDaemon, require: Callable[[str], str], number: signal.Signals) -> None:
    """As pid 1 of a container it reaps orphans that are none of its own, in silence, and TERM or INT stops it."""
    daemon = make_daemon(LEAVES_ORPHANS, workers=2)
    process = launch(daemon, namespace(require))
    status = daemon.wait_status(lambda status: status["state"] == "running")
    # it is pid 1 there; its workers have small numbers too
    assert 1 == status["pid"]
    before = serving(status)
    for _ in range(5):
        assert "orphaned" == daemon.echo("leave")
    master = outer_master(daemon)
    eventually(lambda: len(master.children()) == 2 + 5, "the orphans are the master's")
    (daemon.folder / "gate").touch()
    # a dead one that nobody reaps would still be a child
    eventually(lambda: len(master.children()) == 2, "the orphans are reaped")
    status = daemon.status()
    assert before == serving(status)
    assert ("running", 0) == (status["state"], status["totals"]["restarts"])
    assert "exit 7" not in daemon.log

    master.send_signal(number)
    assert 0 == process.wait(15)
    daemon.wait_gone()


def test_row_50_a_worker_dies_under_pid_1(make_daemon: MakeDaemon, require: Callable[[str], str]) -> None:
    """As pid 1 it tells its workers' deaths from those of strangers: a killed worker is replaced."""
    daemon = make_daemon(WHO, workers=2)
    launch(daemon, namespace(require))
    before = serving(daemon.wait_status(lambda status: status["state"] == "running"))
    workers = sorted(outer_master(daemon).children(), key=lambda child: child.pid)
    workers[0].kill()
    status = daemon.wait_status(lambda status: status["totals"]["restarts"] == 1 and status["workers_ready"] == 2)
    assert {1} == {slot for slot in before if before[slot] != serving(status)[slot]}
    assert "SIGKILL" == status["workers"][0]["last_exit"]["signal"]


def test_row_51_user_code_forks(make_daemon: MakeDaemon) -> None:
    """A child that user code forks holds neither a listener nor the channel, nor the link to another worker.

    Its worker holds all of them, one listener being that of the bus, and serves on.
    """
    daemon = make_daemon(LOOKS_AROUND, workers=2).start()
    with daemon.connect() as client:
        client.send("look")
        assert {"listeners": 2, "channels": 1, "links": 1} == json.loads(client.recv(10))
        client.send("fork")
        child = int(client.recv(10))
        try:
            file = daemon.folder / "child.json"
            eventually(file.exists, "what the child has seen")
            assert {"listeners": 0, "channels": 0, "links": 0, "pid": child} == json.loads(file.read_text())
            client.send("look")
            assert {"listeners": 2, "channels": 1, "links": 1} == json.loads(client.recv(10))
            assert 0 == daemon.cli("reload").code
            assert '"listeners": 2' in daemon.echo("look")
        finally:
            os.kill(child, signal.SIGKILL)


def test_row_51_user_code_starts_threads(make_daemon: MakeDaemon) -> None:
    """Threads that never end hold up neither a reload nor a stop."""
    daemon = make_daemon(STARTS_THREADS, workers=2).start()
    before = daemon.workers
    assert daemon.echo("on").endswith(" on")
    assert int(daemon.echo("").split()[0]) >= 3
    assert 0 == daemon.cli("reload").code
    eventually(lambda: all(ended(pid) for pid in before), "the old workers have left")
    assert 0 == daemon.cli("stop").code
    assert 0 == daemon.wait_exit()
    assert " killed" not in daemon.log


def test_row_51_user_code_takes_signal_handlers(make_daemon: MakeDaemon) -> None:
    """Workers that have become deaf to signals are replaced and stopped all the same: their orders come by channel."""
    daemon = make_daemon(TAKES_HANDLERS, workers=2).start()
    before = daemon.workers
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
        os.kill(before[0], number)
    assert daemon.echo("on").endswith(" on")
    assert 0 == daemon.cli("reload").code
    eventually(lambda: all(ended(pid) for pid in before), "the old workers have left")
    # its death is seen although it wanted to know nothing of children
    victim = daemon.workers[0]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_status(lambda status: victim not in serving(dict(status)).values() and status["workers_ready"] == 2)
    assert 0 == daemon.cli("stop").code
    assert 0 == daemon.wait_exit()


def test_row_51_a_dead_heartbeat_shows(make_daemon: MakeDaemon) -> None:
    """User code that keeps the event loop for itself is seen by its silence, long before anything is killed."""
    app = "import threading\ndef on_message(connection, data):\n    threading.Event().wait()\n"
    daemon = make_daemon(app, workers=2, worker_timeout="1h").start()
    with raw_open(daemon) as sock:
        sock.sendall(frame(TEXT, b"wait"))
        status = daemon.wait_status(lambda status: "hung" in [row["state"] for row in status["workers"]])
        (hung,) = [row for row in status["workers"] if row["state"] == "hung"]
        assert 0 == hung["weight"]
        shown = daemon.cli("status")
        assert "hung" in shown.out
        os.kill(hung["pid"], signal.SIGKILL)


@pytest.mark.parametrize("killed", ["worker", "everybody"])
def test_row_52_grandchildren_are_left(make_daemon: MakeDaemon, killed: str) -> None:
    """What a killed worker's programs and forks keep is none of ours: port, lock and control socket are free at once.

    Nobody but a container or systemd can end them, as they may be meant to live on.
    """
    daemon = make_daemon(SLEEPS_IN_A_CHILD).start()
    assert "started" == daemon.echo("start")
    left = [int(pid) for pid in daemon.out.split()]
    (worker,) = daemon.workers
    try:
        if killed == "worker":
            os.kill(worker, signal.SIGKILL)
            daemon.wait_status(lambda status: worker not in serving(dict(status)).values() and status["workers_ready"])
            assert 0 == daemon.cli("stop").code
        else:
            daemon.signal(signal.SIGKILL)
        daemon.wait_exit()
        eventually(lambda: {*daemon.processes()} == {*left}, "only the grandchildren live")
        # without SO_REUSEPORT this fails while anybody listens there
        with closing(socket.socket()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", daemon.port))
        daemon.write_app(HELLO)
        daemon.start()
        assert "hello tom" == daemon.echo("tom")
        assert [True, True] == [Path(f"/proc/{pid}").exists() for pid in left]
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
