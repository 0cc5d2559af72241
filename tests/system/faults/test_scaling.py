"""Fault 49: more workers and fewer, one signal each, while clients come without a pause."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final

from tests.system.clients import ConnectLoop
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, Daemon, eventually
from tests.system.faults.mischief import serving
from tests.system.faults.test_signals import talk

MOST_WORKERS: Final = 64


def scaled_to(slots: int) -> Any:
    """Return a fact for wait_status: slots 1 to a number have a worker that serves, and nobody else lives."""

    def fact(status: Mapping[str, Any]) -> bool:
        ready = [row["slot"] for row in status["workers"] if row["state"] == "ready"]
        return ready == [*range(1, slots + 1)] and len(status["workers"]) == slots and status["state"] == "running"

    return fact


def scale(daemon: Daemon, number: signal.Signals, slots: int) -> dict[int, int]:
    """Send TTIN or TTOU, wait until there are so many slots, and return their workers."""
    daemon.signal(number)
    status = daemon.wait_status(scaled_to(slots), 30)
    assert slots == status["workers_configured"]
    return serving(status)


def test_row_49_up_and_down_under_clients(make_daemon: MakeDaemon) -> None:
    """TTIN adds a worker, TTOU takes the last one away, never the last of all; nobody is refused or reset by it.

    Who sits on a slot that goes moves to another one, who sits on another one does not notice either.
    """
    daemon = make_daemon(WHO, workers=1).start()
    (first,) = daemon.workers
    with ExitStack() as stack:
        staying = stack.enter_context(daemon.connect_to(first))
        loop = stack.enter_context(ConnectLoop(daemon))
        for slots in range(2, MOST_WORKERS + 1):
            scale(daemon, signal.SIGTTIN, slots)
        workers = serving(daemon.status())
        leaving = stack.enter_context(daemon.connect_to(workers[MOST_WORKERS]))
        for slots in range(MOST_WORKERS - 1, 0, -1):
            daemon.signal(signal.SIGTTOU)
            status = daemon.wait_status(lambda status, slots=slots: status["workers_configured"] == slots)  # type: ignore[misc]
            check_order(status, workers, slots)
        check_order(daemon.wait_status(scaled_to(1), 30), workers, 1)
        daemon.signal(signal.SIGTTOU)
        daemon.signal(signal.SIGTTOU)
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 50, "clients of the last worker")
        daemon.wait_status(scaled_to(1))
        assert [f"{first} on"] * 2 == [talk(client, "on") for client in (staying, leaving)]
    loop.check()
    assert [first] == daemon.workers
    assert 0 == daemon.status()["totals"]["restarts"]


def check_order(status: Mapping[str, Any], workers: Mapping[int, int], wanted: int) -> None:
    """Fail unless only slots behind the wanted ones are going, from the last one on; the others keep their workers."""
    slots = sorted({row["slot"] for row in status["workers"]})
    assert [*range(1, len(slots) + 1)] == slots
    serve = serving(dict(status))
    assert {slot: workers[slot] for slot in range(1, wanted + 1)} == {
        slot: pid for slot, pid in serve.items() if slot <= wanted
    }


def test_row_49_many_signals_at_once(make_daemon: MakeDaemon) -> None:
    """Signals that come together may become one, as signals do; what comes of them is whole all the same."""
    daemon = make_daemon(WHO, workers=4).start()
    with ConnectLoop(daemon) as loop:
        for number in (signal.SIGTTOU, signal.SIGTTOU, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTIN):
            daemon.signal(number)
        status = daemon.wait_status(
            lambda status: 2 <= status["workers_configured"] <= 5 and scaled_to(status["workers_configured"])(status),
            30,
        )
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 50, "clients after that")
    loop.check()
    assert "running" == status["state"]


def test_row_49_the_number_in_the_file(make_daemon: MakeDaemon) -> None:
    """A reload keeps the number that signals have made, unless `workers` has changed in the file; then that counts."""
    daemon = make_daemon(WHO, workers=2).start()
    with ConnectLoop(daemon) as loop:
        scale(daemon, signal.SIGTTIN, 3)
        assert 0 == daemon.cli("reload").code
        daemon.wait_status(scaled_to(3), 30)
        daemon.write_config(workers=1)
        assert 0 == daemon.cli("reload").code
        daemon.wait_status(scaled_to(1), 30)
        daemon.write_config(workers=2)
        assert 0 == daemon.cli("reload").code
        daemon.wait_status(scaled_to(2), 30)
    loop.check()
