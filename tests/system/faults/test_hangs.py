"""Rows 5 to 9 of the fault matrix: loops that are silent or slow, and pauses that are nobody's fault."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

import psutil
import pytest
from websockets.exceptions import ConnectionClosedError

from tests.system.clients import ConnectLoop
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, Daemon, eventually
from tests.system.faults.world import (
    ORDERS,
    begin_handshakes,
    check_avoided,
    check_times,
    check_untouched,
    clients_of,
    end_handshake,
    last_beat,
    listeners_of,
    replaced,
    slot,
    stand_still,
    weights,
)

TIMEOUT = "10s"
HANG = {"workers": 2, "worker_timeout": "8s", "log": {"level": "debug"}}

SLOW_IN_SLOT_1 = (
    WHO
    + """
import time

def block():
    time.sleep(2.1)
    print("blocked", flush=True)

def on_worker_start(worker):
    if worker.slot == 1:
        worker.every(2.2, block)
"""
)
"""The loop of worker 1 is free for a moment between two blocks, so that each beat of a second comes a second late."""


def test_row_05_a_worker_is_stopped(make_daemon: MakeDaemon) -> None:
    """SIGSTOP of a worker: no new clients, its queue is lent; KILL at worker_timeout; the log says it was stopped.

    Who has borrowed its listener gives it back to its successor.
    """
    daemon = make_daemon(WHO, workers=2, worker_timeout=TIMEOUT, log={"level": "debug"}).start()
    worker = slot(daemon.status(), 1)["id"]
    victim, other = daemon.workers
    with ExitStack() as stack:
        safe = clients_of(daemon, stack, other)
        stand_still(victim)
        begun = begin_handshakes(daemon, stack)

        hung = daemon.wait_status(lambda status: slot(status, 1)["lent_to"])
        assert ("stopped", victim) == (slot(hung, 1)["state"], slot(hung, 1)["pid"])
        assert 2 == slot(hung, 1)["lent_to"]
        assert (0, True) == (weights(hung)[0], weights(hung)[1] > 0)
        # all of them, also those that came to the stopped worker
        assert {other} == {end_handshake(sock) for sock in begun}
        assert 2 == listeners_of(daemon, other)
        check_avoided(daemon, stack, 1, other)

        status = daemon.wait_status(lambda status: replaced(1, victim)(status) and all(weights(status)), 25)
        eventually(lambda: 1 == listeners_of(daemon, other), "the listener is given back")
        check_untouched(safe)
    row = slot(status, 1)
    assert ("hung", "SIGKILL", None) == (row["last_exit"]["class"], row["last_exit"]["signal"], row["lent_to"])
    # whatever the words around it
    assert "SIGSTOP or a debugger" in daemon.log
    assert "running" == status["state"]
    promised = {"it gets no new clients": 3.0, "and is killed": 10.0, f"worker 1 (pid {victim}) died": 10.0}
    check_times(daemon, last_beat(daemon, worker), promised)


def hang(daemon: Daemon, order: str, function: str, ended_by: str) -> None:
    """Block the loop of worker 1 by an order, and check all that must happen, and when.

    daemon: with a worker_timeout of 8 s, half of which is more than the 3 s of a worker that is called hung.
    """
    daemon.start()
    worker = slot(daemon.status(), 1)["id"]
    victim, other = daemon.workers
    with ExitStack() as stack:
        safe = clients_of(daemon, stack, other)
        (doomed,) = clients_of(daemon, stack, victim, each=1)
        doomed.send(order)
        eventually(lambda: "blocked" in daemon.out, "a blocked loop")
        # the clients that come to the blocked worker are served when its queue is lent
        loop = stack.enter_context(ConnectLoop(daemon))
        hung = daemon.wait_status(lambda status: slot(status, 1)["state"] == "hung")
        assert (0, True) == (weights(hung)[0], weights(hung)[1] > 0)
        assert victim == slot(hung, 1)["pid"]
        status = daemon.wait_status(lambda status: replaced(1, victim)(status) and all(weights(status)))
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 30, "clients after the hang")
        check_untouched(safe)
        with pytest.raises(ConnectionClosedError):
            doomed.recv(10)
    loop.check()
    last_exit = slot(status, 1)["last_exit"]
    assert ("hung", ended_by) == (last_exit["class"], last_exit["signal"])
    before_abort = daemon.log.partition("Fatal Python error: Aborted")[0]
    silent, stacks = before_abort.find("silent for "), before_abort.find(f" in {function}\n")
    died = f"worker 1 (pid {victim}) died"
    assert -1 < silent < stacks < daemon.log.find(died), daemon.log
    promised = {
        "it gets no new clients": 3.0,
        # the wish for its stacks, and the stacks, which are looked for once a second
        f"Signal(worker={worker}, name='SIGUSR2')": 4.0,
        f"worker 1 (pid {victim}): its stacks": 4.0,
        "and is replaced": 8.0,
        died: 10.0 if ended_by == "SIGKILL" else 8.0,
    }
    check_times(daemon, last_beat(daemon, worker), promised)


@pytest.mark.parametrize(("order", "ended_by"), [("spin", "SIGABRT"), ("spin_and_block_abort", "SIGKILL")])
def test_row_06_a_loop_blocked_in_python(make_daemon: MakeDaemon, order: str, ended_by: str) -> None:
    """A loop that is blocked in Python: no new clients, its stacks in the log, then ABRT, and KILL if that is blocked.

    The others serve on, also those who came to the blocked worker.
    """
    hang(make_daemon(ORDERS, **HANG), order, "spin", ended_by)


def test_row_07_a_loop_blocked_in_c(make_daemon: MakeDaemon) -> None:
    """A regular expression without end, which holds the GIL: the same as in Python, the stack too."""
    hang(make_daemon(ORDERS, **HANG), "match", "match", "SIGABRT")


def test_row_08_a_slow_loop(make_daemon: MakeDaemon) -> None:
    """A loop that is late by more than a second again and again: the lag shows, few clients come, nobody is killed."""
    daemon = make_daemon(SLOW_IN_SLOT_1, workers=2, worker_timeout=TIMEOUT).start()
    before = daemon.workers
    with ExitStack() as stack:
        slow = daemon.wait_status(lambda status: 1 == weights(status)[0] < weights(status)[1])
        assert slot(slow, 1)["loop_lag"] > 1
        served_by = [end_handshake(sock) for sock in begin_handshakes(daemon, stack, 100)]
        assert served_by.count(before[0]) < 10
    # together longer than worker_timeout
    eventually(lambda: daemon.out.count("blocked") >= 5, "five times late")
    status = daemon.wait_status(lambda status: slot(status, 1)["state"] == "ready")
    assert (before, 0) == (daemon.workers, status["totals"]["restarts"])


def test_row_09_the_whole_machine_pauses(make_daemon: MakeDaemon) -> None:
    """Master and workers stand still for longer than worker_timeout: nobody is blamed, every client is still served."""
    daemon = make_daemon(WHO, workers=2, worker_timeout="4s").start()
    master, before = daemon.master, daemon.workers
    with ExitStack() as stack:
        clients = clients_of(daemon, stack, *before)
        os.killpg(master, signal.SIGSTOP)
        try:
            everybody = [psutil.Process(pid) for pid in (master, *before)]
            eventually(lambda: all(one.status() == psutil.STATUS_STOPPED for one in everybody), "all stand still")
            # the span is the fault itself
            time.sleep(5)
            # the master first: it must not judge the others by what they did before
            os.kill(master, signal.SIGCONT)
            daemon.status()
        finally:
            os.killpg(master, signal.SIGCONT)
        woken = daemon.status()["uptime"]
        # as long as it takes to be found silent
        status = daemon.wait_status(lambda status: status["uptime"] > woken + 4)
        check_untouched(clients)
    assert ("running", 0) == (status["state"], status["totals"]["restarts"])
    assert before == daemon.workers
    assert "silent" not in daemon.log
