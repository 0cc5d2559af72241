"""Row 11 of the fault matrix: a worker that grows too large."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection

from tests.system.clients import ConnectLoop
from tests.system.conftest import MakeDaemon
from tests.system.daemon import eventually
from tests.system.faults.world import ORDERS, check_untouched, clients_of, pid_of, replaced, slot, starting

LIMIT_MIB = 80
"""Twice what a worker has that has done nothing yet; the tests add to that."""

STARTS_SLOWLY = ORDERS + "\nasync def on_worker_start(worker):\n    await asyncio.sleep(0.3)\n"
"""Slowly enough for everybody to see if two start at once."""


def grow(client: ClientConnection, mib: int) -> None:
    """Let the client's worker grow by so many MiB, which it answers when it is done."""
    client.send(f"grow {mib}")
    assert str(client.recv(10)).endswith(f"grow {mib}")


def answering(client: ClientConnection) -> int:
    """Return the pid of the worker that answers."""
    client.send("who")
    return pid_of(client.recv(10))


def test_row_11_over_the_limit(make_daemon: MakeDaemon) -> None:
    """Two workers over max_worker_rss: each is replaced, the new one first, one after the other, and clients move."""
    daemon = make_daemon(STARTS_SLOWLY, workers=2, max_worker_rss=f"{LIMIT_MIB}MiB").start()
    old = daemon.workers
    at_once, fewest_ready = 0, 2

    def both_replaced(status: Mapping[str, Any]) -> bool:
        nonlocal at_once, fewest_ready
        at_once = max(at_once, starting(status))
        fewest_ready = min(fewest_ready, status["workers_ready"])
        return all(replaced(number, pid)(status) for number, pid in enumerate(old, 1))

    with ExitStack() as stack:
        clients = clients_of(daemon, stack, *old, each=1)
        loop = stack.enter_context(ConnectLoop(daemon))
        for client in clients:
            grow(client, LIMIT_MIB * 3 // 4)
        status = daemon.wait_status(both_replaced, seconds=40)
        successors = [slot(status, number)["pid"] for number in (1, 2)]
        # the last of them may be ready, and about to take its client
        eventually(lambda: successors == [answering(client) for client in clients], "they have moved")
    loop.check()
    assert (1, 2) == (at_once, fewest_ready)
    # they were asked to go, so nobody has died
    assert 0 == status["totals"]["restarts"]


def test_row_11_over_twice_the_limit(make_daemon: MakeDaemon) -> None:
    """A worker over twice max_worker_rss: KILL, as there may be no time left for manners; the others are untouched."""
    daemon = make_daemon(ORDERS, workers=2, max_worker_rss=f"{LIMIT_MIB}MiB").start()
    other, victim = daemon.workers
    with ExitStack() as stack:
        safe = clients_of(daemon, stack, other)
        (doomed,) = clients_of(daemon, stack, victim, each=1)
        grow(doomed, LIMIT_MIB * 3)
        status = daemon.wait_status(replaced(2, victim), seconds=40)
        with pytest.raises(ConnectionClosedError) as closed:
            doomed.recv(10)
        assert closed.value.rcvd is None
        check_untouched(safe)
    row = slot(status, 2)
    assert ("memory", "SIGKILL", 1) == (row["last_exit"]["class"], row["last_exit"]["signal"], row["restarts"])
    assert other == slot(status, 1)["pid"]
    eventually(lambda: "max_worker_rss" in daemon.log, "the reason in the log")
