"""Faults 27 to 32, 45 and 46: signals, to the master, to workers, to both, and from a terminal that goes away."""

from __future__ import annotations

import errno
import os
import pty
import signal
import sys
from contextlib import ExitStack, closing

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.frames import TEXT
from tests.system.clients import UPGRADE, ConnectLoop, frame, raw, raw_open, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, PACKAGE, WHO, Daemon, eventually
from tests.system.faults.mischief import launch, serving
from tests.system.faults.world import (
    GATED,
    NOISE_SECONDS,
    STARTS_AT_THE_GATE,
    Gate,
    begin_handshakes,
    check_times,
    knock,
    logged_at,
    stand_still,
    starting,
)
from tests.system.test_systemd_notify import NotifySocket
from wsworker.master.process import IGNORED_BY_WORKERS
from wsworker.master.signals import SILENT_SIGNALS

WATCHDOG_SECONDS = 0.3

SAYS_WHEN = (
    HELLO
    + "import os\n"
    + GATED
    + r"""
import time

def on_close(connection, code, reason):
    # one write, as two workers print at the same time
    print(f"{code} {time.monotonic()}\n", end="", flush=True)

async def on_worker_stop(worker):
    await pass_gate()
"""
)
"""Nobody gets to the end of a stop while the gate is closed."""

BUSY = r"""
import asyncio

def on_worker_stop(worker):
    print("stopped in order\n", end="", flush=True)

async def on_message(connection, data):
    connection.send("busy")
    if data == "work":
        await asyncio.sleep(600)
"""

BLOCKED = """
import time

def on_message(connection, data):
    print("blocked", flush=True)
    time.sleep(600)
"""

BLOCKS_AT_THE_GATE = (
    WHO
    + r"""
import time

def block():
    if os.path.exists("gate"):
        print("blocked\n", end="", flush=True)
    while os.path.exists("gate"):
        time.sleep(0.01)

def on_worker_start(worker):
    worker.every(0.05, block)
"""
)
"""The loop of every worker stands still while the gate is closed."""

TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes standard input the controlling terminal of a session that has none, and becomes the program it is given."""


def goodbye(client: ClientConnection) -> int:
    """Return the code with which the server has closed, whatever it sent before that."""
    try:
        while True:
            client.recv(10)
    except ConnectionClosed as closed:
        # 1006 where no Close came
        return closed.rcvd.code if closed.rcvd else 1006


def talk(client: ClientConnection, text: str = "tom") -> str:
    """Return what a client is answered."""
    client.send(text)
    return str(client.recv(10))


def signal_of_group(daemon: Daemon, number: signal.Signals) -> None:
    """Send a signal to the master and each of its workers at once."""
    os.killpg(os.getpgid(daemon.master), number)


@pytest.mark.parametrize("back", [True, False], ids=["continued", "killed"])
def test_row_27_the_master_stands_still(make_daemon: MakeDaemon, back: bool) -> None:
    """Workers serve on without their master, and its silence is what systemd's watchdog waits for.

    When it goes on, nobody is blamed for the time that it missed. When systemd kills it, the workers go with it, and
    the next start works at once.
    """
    daemon = make_daemon(WHO, workers=2, worker_timeout="4s")
    with closing(NotifySocket(daemon.folder / "notify")) as notify:
        watchdog = {"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
        daemon.environ |= watchdog
        daemon.start()
        master, workers = daemon.master, daemon.workers
        with daemon.connect() as client:
            notify.wait_for("WATCHDOG")
            os.kill(master, signal.SIGSTOP)
            eventually(lambda: psutil.Process(master).status() == psutil.STATUS_STOPPED, "the master stands still")
            notify.states()
            # longer than worker_timeout, and than many times the watchdog's
            assert notify.is_silent(5.0)
            assert talk(client).endswith(" tom")
            with ConnectLoop(daemon) as loop:
                eventually(lambda: loop.echoed > 50, "clients without a master")
            loop.check()
            if back:
                os.kill(master, signal.SIGCONT)
                notify.wait_for("WATCHDOG")
                status = daemon.wait_status(lambda status: status["workers_ready"] == 2)
                assert workers == [row["pid"] for row in status["workers"]]
                assert talk(client).endswith(" tom")
            else:
                os.kill(master, signal.SIGKILL)
                assert -9 == daemon.wait_exit()
                daemon.wait_gone()
        if not back:
            for name in watchdog:
                del daemon.environ[name]
            daemon.start()
            assert daemon.echo("tom").endswith(" tom")
        daemon.close_master()
    unit = (PACKAGE.parent / "systemd" / "wsworker.service").read_text()
    assert {"Type=notify", "WatchdogSec=30", "Restart=on-failure"} <= {*unit.splitlines()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_row_28_told_to_stop_once(make_daemon: MakeDaemon, number: signal.Signals) -> None:
    """One TERM or INT: each client gets 1001, spread over a while, nobody new is let in, and the exit code is 0.

    Nobody new: a handshake that was begun before is answered with 503, and from then on the port refuses.
    """
    clients_count = 60
    daemon = make_daemon(SAYS_WHEN, workers=2, graceful_timeout="20s").start()
    gate = Gate(daemon)
    gate.close()
    with ExitStack() as stack:
        half_open = [stack.enter_context(raw(daemon)) for _ in range(10)]
        # those are accepted once later clients of both workers are served
        clients = [stack.enter_context(daemon.connect()) for _ in range(clients_count)]
        assert {"hello tom"} == {talk(client) for client in clients}
        signal_of_group(daemon, number)
        assert [1001] * clients_count == [goodbye(client) for client in clients]
        eventually(lambda: errno.ECONNREFUSED == knock(daemon), "nobody listens any more")
        assert "stopping" == daemon.status()["state"]
        for sock in half_open:
            sock.sendall(UPGRADE)
        assert {b"HTTP/1.1 503 "} == {read_to_end(sock)[:13] for sock in half_open}
        gate.open()
        assert 0 == daemon.wait_exit(25)
    daemon.wait_gone()
    ends = [line.split() for line in daemon.out.splitlines()]
    assert ["1001"] * clients_count == [code for code, _ in ends]
    # about 30 clients a worker, 10 ms each; being late only makes it longer
    times = [float(at) for _, at in ends]
    assert max(times) - min(times) > 0.1


def test_row_28_who_waits_in_the_queue(make_daemon: MakeDaemon) -> None:
    """Who still waits to be accepted when the service is told to stop gets 503: not let in, and not reset either."""
    daemon = make_daemon(BLOCKS_AT_THE_GATE, workers=2).start()
    gate = Gate(daemon)
    gate.close()
    eventually(lambda: 2 == daemon.out.count("blocked"), "both loops are blocked")
    with ExitStack() as stack:
        # more than a worker accepts in one turn of its loop
        begun = begin_handshakes(daemon, stack, 100)
        daemon.signal(signal.SIGTERM)
        daemon.wait_status(lambda status: status["state"] == "stopping")
        gate.open()
        assert {b"HTTP/1.1 503 "} == {read_to_end(sock)[:13] for sock in begun}
        assert 0 == daemon.wait_exit()


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGQUIT,),
    ],
    ids=["TERM twice", "INT twice", "TERM and INT", "QUIT"],
)
def test_row_29_told_to_hurry(make_daemon: MakeDaemon, numbers: tuple[signal.Signals, ...]) -> None:
    """A second TERM or INT, or QUIT, waits for no callback: 1001 to all at once, on_worker_stop, and it is over."""
    daemon = make_daemon(BUSY, workers=2, graceful_timeout="1h", drain_window="1h").start()
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for _ in range(10)]
        assert {"busy"} == {talk(client, "work") for client in clients}
        daemon.signal(numbers[0])
        for number in numbers[1:]:
            daemon.wait_status(lambda status: status["state"] == "stopping")
            daemon.signal(number)
        assert 0 == daemon.wait_exit(3 + NOISE_SECONDS)
        assert [1001] * 10 == [goodbye(client) for client in clients]
    assert ["stopped in order"] * 2 == daemon.out.splitlines()


def test_row_29_a_blocked_worker_is_killed(make_daemon: MakeDaemon) -> None:
    """A quick stop gives a worker that cannot hear it 3 seconds; nothing is left behind it."""
    daemon = make_daemon(BLOCKED, graceful_timeout="1h").start()
    with raw_open(daemon) as sock:
        sock.sendall(frame(TEXT, b"block"))
        eventually(lambda: "blocked" in daemon.out, "a blocked loop")
        daemon.signal(signal.SIGQUIT)
        daemon.wait_exit(3 + NOISE_SECONDS)
    check_times(daemon, logged_at(daemon, "SIGQUIT: stopping"), {"is killed: its time is over": 3.0})
    daemon.wait_gone()


def test_row_30_term_to_a_worker(make_daemon: MakeDaemon) -> None:
    """TERM to a worker, from whoever: its replacement is ready first, then it hands its clients over and goes.

    As long as the replacement is held up at its start, the worker serves on as before. The log says that it was told
    from outside, and nothing counts as a death: no restart, no back-off.
    """
    daemon = make_daemon(STARTS_AT_THE_GATE, workers=2).start()
    gate = Gate(daemon)
    first, other = daemon.workers
    with ExitStack() as stack:
        loop = stack.enter_context(ConnectLoop(daemon))
        leaving = stack.enter_context(daemon.connect_to(first))
        staying = stack.enter_context(daemon.connect_to(other))
        gate.close()
        os.kill(first, signal.SIGTERM)
        # a second one changes nothing
        os.kill(first, signal.SIGTERM)
        held_up = daemon.wait_status(lambda status: starting(status) == 1)
        assert {1: first, 2: other} == serving(held_up)
        assert talk(leaving).startswith(f"{first} ")
        gate.open()
        status = daemon.wait_status(
            lambda status: len(status["workers"]) == 2 and first not in serving(dict(status)).values()
        )
        assert talk(leaving).startswith(f"{serving(dict(status))[1]} ")
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 30, "clients of the new worker")
        assert talk(staying).startswith(f"{other} ")
    loop.check()
    assert other == status["workers"][1]["pid"]
    assert 0 == status["totals"]["restarts"]
    assert " died" not in daemon.log
    assert 1 == daemon.log.count("worker 1 was told to go from outside")


def test_row_31_hup_to_every_process(make_daemon: MakeDaemon) -> None:
    """HUP to the whole group: the workers ignore it, the master reloads, once."""
    daemon = make_daemon(WHO, workers=2).start()
    before = daemon.workers
    signal_of_group(daemon, signal.SIGHUP)
    status = daemon.wait_status(lambda status: status["reloads"] == 1 and status["state"] == "running")
    assert [2, 2] == [row["generation"] for row in status["workers"] if row["state"] == "ready"]
    assert not {*before} & {*serving(status).values()}
    # a second reload would have joined this one, or come before it
    daemon.wait_status(lambda status: len(status["workers"]) == 2)
    assert 0 == daemon.cli("reload").code
    status = daemon.status()
    assert (2, 3, 0) == (status["reloads"], status["generation"], status["totals"]["restarts"])
    assert " died" not in daemon.log


def test_row_32_the_terminal_is_closed(make_daemon: MakeDaemon) -> None:
    """Closing the terminal of a foreground start stops it in good order; the HUP that comes with it is no reload."""
    daemon = make_daemon(HELLO, workers=2, log={"file": "log.txt"})
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal, open(theirs, "rb", buffering=0) as slave:
        process = launch(daemon, [sys.executable, "-c", TAKE_TERMINAL], slave, slave, slave)
        daemon.wait_status(lambda status: status["state"] == "running")
        slave.close()
        with daemon.connect() as client:
            assert "hello tom" == talk(client)
            terminal.close()
            assert 1001 == goodbye(client)
    assert 0 == process.wait(15)
    daemon.wait_gone()
    assert "the terminal is gone: stopping" in daemon.log
    assert "reload" not in daemon.log


def test_row_45_usr2(make_daemon: MakeDaemon) -> None:
    """USR2 to the master upgrades: the same pid, one reload, new workers, and a client that goes on."""
    daemon = make_daemon(WHO, workers=2).start()
    master, workers = daemon.master, daemon.workers
    with daemon.connect() as client:
        daemon.signal(signal.SIGUSR2)
        daemon.wait_log("has taken over from")
        status = daemon.wait_status(lambda status: status["reloads"] == 1 and status["state"] == "running")
        assert talk(client).endswith(" tom")
    assert (master, 2) == (status["pid"], status["generation"])
    daemon.wait_status(lambda status: not {*workers} & {worker["pid"] for worker in status["workers"]})


def test_row_46_usr2_with_a_thousand_clients(make_daemon: MakeDaemon) -> None:
    """A thousand clients do not notice a USR2: none is disconnected, and each is answered after it."""
    daemon = make_daemon(HELLO, workers=2).start()
    with ExitStack() as stack:
        clients = [stack.enter_context(raw_open(daemon)) for _ in range(1000)]
        daemon.signal(signal.SIGUSR2)
        daemon.wait_log("SIGUSR2")
        for client in clients:
            client.sendall(frame(TEXT, b"tom"))
        answer = b"\x81\x09hello tom"
        assert {answer} == {client.recv(len(answer)) for client in clients}
        daemon.wait_status(lambda status: status["totals"]["connections"] == 1000)


def test_row_46_usr2_to_every_process(make_daemon: MakeDaemon) -> None:
    """Workers that get USR2 write their stacks into the log, and the upgrade that the master makes of it goes well."""
    daemon = make_daemon(WHO, workers=2).start()
    master = daemon.master
    with daemon.connect() as client:
        signal_of_group(daemon, signal.SIGUSR2)
        daemon.wait_log("most recent call first")
        status = daemon.wait_status(lambda status: status["reloads"] == 1 and status["state"] == "running")
        assert talk(client).endswith(" tom")
    assert (master, 0) == (status["pid"], status["totals"]["restarts"])


def test_row_46_a_worker_meets_many_signals_at_once(make_daemon: MakeDaemon) -> None:
    """One that stood still while they came serves on: there is room for the frames of all of them."""
    daemon = make_daemon(WHO, workers=1).start()
    (worker,) = daemon.workers
    with daemon.connect() as client:
        stand_still(worker)
        for number in (*IGNORED_BY_WORKERS, signal.SIGUSR2, signal.SIGCHLD):
            os.kill(worker, number)
        os.kill(worker, signal.SIGCONT)
        assert talk(client).endswith(" tom")
        daemon.wait_log("most recent call first")
    assert [worker] == daemon.workers
    assert 0 == daemon.status()["totals"]["restarts"]


def test_row_46_the_master_meets_many_signals_at_once(make_daemon: MakeDaemon) -> None:
    """As a worker, also with faulthandler, which gives handlers a small stack; each signal does what it means."""
    daemon = make_daemon(WHO, workers=2)
    daemon.environ["PYTHONFAULTHANDLER"] = "1"
    daemon.start()
    # asked for before it stands still
    master = daemon.master
    stand_still(master)
    for number in (*SILENT_SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        os.kill(master, number)
    os.kill(master, signal.SIGCONT)
    status = daemon.wait_status(lambda status: status["reloads"] == 1 and status["state"] == "running")
    assert (2, 0) == (status["workers_ready"], status["totals"]["restarts"])
    daemon.wait_log("SIGUSR2")
    assert daemon.echo("on").endswith(" on")
