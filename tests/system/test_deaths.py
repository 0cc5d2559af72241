"""Deaths: of a worker, by whatever means, and of the master. Who else notices, and how long a slot stays empty."""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosedError

from tests.frames import TEXT
from tests.system.clients import UPGRADE, ConnectLoop, frame, raw, raw_open
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, eventually

ORDERS = """
import faulthandler
import os
import sys
import time

def on_message(connection, data):
    if data == "exit":
        sys.exit(3)
    if data == "segv":
        faulthandler._sigsegv()
    if data == "spin":
        print("spinning", flush=True)
        while True:
            pass
    if data == "sleep":
        time.sleep(600)
    connection.send(f"{os.getpid()} {data}")
"""
"""Answers like WHO, and does harm when told to."""

CALLED_EXIT = "the app called sys.exit(); take that call out, as wsworker ends its workers itself"

DIES_IN_SLOT_2 = (
    WHO
    + """
def on_worker_start(worker):
    if worker.slot == 2:
        worker.after(0.02, lambda: os._exit(9))
"""
)


def replaced(slot: int, old_pid: int) -> Any:
    """Return a fact for wait_status: the slot has a new worker, which is ready, after one restart."""

    def fact(status: dict[str, Any]) -> bool:
        row = status["workers"][slot - 1]
        return bool(row["state"] == "ready" and row["pid"] != old_pid and row["restarts"] == 1)

    return fact


def test_a_killed_worker_is_replaced_and_nobody_else_notices(make_daemon: MakeDaemon) -> None:
    """SIGKILL of a worker: clients of the others stay, new ones meet no refusal and no reset, the counters go on."""
    daemon = make_daemon(WHO, workers=3).start()
    victim, *others = daemon.workers
    with ExitStack() as stack:
        doomed = stack.enter_context(daemon.connect_to(victim))
        safe = [stack.enter_context(daemon.connect_to(pid)) for pid in others for _ in range(5)]
        counted = daemon.wait_status(lambda status: status["workers"][0]["messages_in"] > 0)["workers"][0]
        loop = stack.enter_context(ConnectLoop(daemon))
        eventually(lambda: loop.echoed > 20, "clients before the death")

        with loop.between_clients():
            os.kill(victim, signal.SIGKILL)
        status = daemon.wait_status(replaced(1, victim))
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 50, "clients after the death")

        loop.check()
        with pytest.raises(ConnectionClosedError) as closed:
            doomed.recv(10)
        assert closed.value.rcvd is None
        for number, client in enumerate(safe):
            client.send(str(number))
            assert str(client.recv(10)).endswith(f" {number}")

    row = status["workers"][0]
    assert "SIGKILL" == row["last_exit"]["signal"]
    assert row["messages_in"] >= counted["messages_in"]
    assert others == [row["pid"] for row in status["workers"][1:]]
    assert (0, "running") == (daemon.cli("status").code, daemon.status()["state"])


def test_clients_in_the_queue_survive_the_worker(make_daemon: MakeDaemon) -> None:
    """Who is connected but not accepted yet when the only worker is killed is served by the next one."""
    daemon = make_daemon(WHO).start()
    (victim,) = daemon.workers
    os.kill(victim, signal.SIGSTOP)
    eventually(lambda: psutil.Process(victim).status() == psutil.STATUS_STOPPED, "the worker stands still")
    with ExitStack() as stack:
        queued = [stack.enter_context(raw(daemon)) for _ in range(20)]
        for sock in queued:
            sock.sendall(UPGRADE)
        os.kill(victim, signal.SIGKILL)
        for sock in queued:
            assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")
    assert victim not in daemon.workers


@pytest.mark.parametrize(
    ("order", "exit_row", "logged"),
    [
        pytest.param(
            "exit",
            {"reason": CALLED_EXIT, "code": 3, "signal": None, "error": "SystemExit: 3"},
            f"died: exit 3: {CALLED_EXIT}",
            id="sys.exit",
        ),
        pytest.param(
            "segv",
            {"reason": "killed by SIGSEGV", "code": None, "signal": "SIGSEGV"},
            'app.py", line 11 in on_message',
            id="segv",
        ),
    ],
)
def test_user_code_that_ends_the_process(
    make_daemon: MakeDaemon, order: str, exit_row: dict[str, Any], logged: str
) -> None:
    """sys.exit() and a crash in C end one worker; status and log say how, and the next one serves."""
    daemon = make_daemon(ORDERS, workers=2).start()
    victim = daemon.workers[1]
    with daemon.connect_to(victim) as client:
        client.send(order)
        with pytest.raises(ConnectionClosedError):
            client.recv(10)
    status = daemon.wait_status(replaced(2, victim))
    assert exit_row.items() <= status["workers"][1]["last_exit"].items()
    daemon.wait_log(logged)
    assert daemon.echo("on").endswith(" on")


def test_a_crash_loop_costs_one_slot(make_daemon: MakeDaemon) -> None:
    """A worker that dies again and again is started ever later; the others serve, and status says degraded, 150."""
    daemon = make_daemon(DIES_IN_SLOT_2, workers=2)
    daemon.launch()
    # for so long that it does not live again, and dies with clients, before we have done with it
    daemon.wait_status(
        lambda status: (
            status["workers"][-1]["restarts"] >= 3
            and status["workers"][-1]["state"] == "waiting"
            and status["workers"][-1]["retry_in"] > 4
        ),
        40,
    )
    shown = daemon.cli("status")
    assert 150 == shown.code
    assert shown.out.startswith(f"{daemon.name}  degraded  ")
    assert "\n1/2 workers  " in shown.out
    # on a busy machine it dies before it is ready, of which there is more to say
    assert re.search("exit 9; .*next start in ", shown.out)
    (healthy,) = [row["pid"] for row in daemon.status()["workers"] if row["slot"] == 1]
    with ConnectLoop(daemon) as loop:
        eventually(lambda: loop.echoed > 50, "clients of the healthy worker")
    loop.check()
    assert healthy == daemon.workers[0]


@pytest.mark.parametrize("blocked", [False, True], ids=["idle", "blocked"])
def test_the_master_is_killed(make_daemon: MakeDaemon, blocked: bool) -> None:
    """SIGKILL of the master takes every worker with it, also one whose loop is blocked; then start works at once."""
    daemon = make_daemon(ORDERS, workers=2).start()
    if blocked:
        with raw_open(daemon) as sock:
            sock.sendall(frame(TEXT, b"spin"))
            eventually(lambda: "spinning" in daemon.out, "a blocked loop")
    daemon.signal(signal.SIGKILL)
    assert -9 == daemon.wait_exit()
    daemon.wait_gone()

    shown = daemon.cli("status")
    assert (1, "dead") == (shown.code, shown.out.split()[1])
    daemon.start()
    assert daemon.echo("on").endswith(" on")


def test_term_to_a_worker_replaces_it_first(make_daemon: MakeDaemon) -> None:
    """TERM to a worker from outside: the new one is ready before the old one goes, and has its clients."""
    daemon = make_daemon(WHO).start()
    (old,) = daemon.workers
    with ConnectLoop(daemon) as loop, daemon.connect_to(old) as client:
        os.kill(old, signal.SIGTERM)
        status = daemon.wait_status(lambda status: len(status["workers"]) == 1 and status["workers"][0]["pid"] != old)
        client.send("on")
        assert f"{status['workers'][0]['pid']} on" == client.recv(10)
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 20, "clients of the new worker")
    loop.check()
    # nobody has died, so nothing counts as a restart
    assert 0 == status["totals"]["restarts"]


def test_a_hung_worker_is_replaced(make_daemon: MakeDaemon) -> None:
    """A loop that is silent for worker_timeout: its stack is in the log, and its slot gets a new worker."""
    # long enough for us to see it hang, from the third second on
    daemon = make_daemon(ORDERS, workers=2, worker_timeout="8s").start()
    hung = daemon.workers[0]
    with daemon.connect_to(hung) as client:
        client.send("sleep")
        daemon.wait_status(lambda status: status["workers"][0]["state"] == "hung")
        # the others take its share of the new clients
        with ConnectLoop(daemon) as loop:
            daemon.wait_status(replaced(1, hung))
        loop.check()
        with pytest.raises(ConnectionClosedError):
            client.recv(10)
    daemon.wait_log('app.py", line 17 in on_message')
    assert "8 s and is replaced" in daemon.log
