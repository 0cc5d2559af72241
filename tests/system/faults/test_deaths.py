"""Rows 1 to 4 and 10 of the fault matrix: a worker dies, or a callback fails, and the others go on."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection

from tests.conftest import lacking
from tests.system.clients import ConnectLoop
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, Daemon, eventually
from tests.system.faults.world import (
    ORDERS,
    STARTS_AT_THE_GATE,
    Gate,
    Wrapped,
    begin_handshakes,
    check_untouched,
    clients_of,
    end_handshake,
    listeners_of,
    replaced,
    slot,
    stand_still,
    waiting_at,
    weights,
)

RAISES = """
import os

def on_message(connection, data):
    if data == "raise":
        raise ValueError("the user's own mistake")
    connection.send(f"{os.getpid()} {data}")

def on_error(connection, exc):
    print(f"on_error: {exc!r}", flush=True)
"""


def kill_by_order(client: ClientConnection, order: str) -> None:
    """Send an order that ends the worker; its client hears no goodbye, at most an answer that was on its way."""
    client.send(order)
    with pytest.raises(ConnectionClosedError) as closed:
        recv_twice(client)
    assert closed.value.rcvd is None


def recv_twice(client: ClientConnection) -> None:
    """Receive two messages."""
    client.recv(10)
    client.recv(10)


def test_row_01_a_worker_is_killed(make_daemon: MakeDaemon) -> None:
    """SIGKILL of a worker: it gets no new clients at once, those in its queue are served, and nobody else notices.

    The replacement is held up at its start, so that the time without a worker can be looked at: weight 0, nobody new in
    the queue, the queue lent to a healthy worker. Then the slot has a worker, its weight and its counters again, and
    the borrower has given its listener back.
    """
    daemon = make_daemon(STARTS_AT_THE_GATE, workers=3).start()
    gate = Gate(daemon)
    victim, *others = daemon.workers
    with ExitStack() as stack:
        (doomed,) = clients_of(daemon, stack, victim, each=1)
        safe = clients_of(daemon, stack, *others)
        before = daemon.wait_status(lambda status: slot(status, 1)["messages_in"] > 0)
        gate.close()
        for _ in range(5):
            stand_still(victim)
            # so many that some come there, whatever chance makes of it
            begun = begin_handshakes(daemon, stack, 50)
            if waiting := waiting_at(daemon, 1):
                break
            # this took over three seconds, and so they were lent to others
            os.kill(victim, signal.SIGCONT)
            daemon.wait_status(lambda status: all(weights(status)) and not slot(status, 1)["lent_to"])
        assert waiting > 0

        os.kill(victim, signal.SIGKILL)
        empty = daemon.wait_status(lambda status: slot(status, 1)["pid"] != victim)
        assert slot(empty, 1)["state"] in ("waiting", "starting")
        assert (0, True) == (weights(empty)[0], all(weights(empty)[1:]))
        new = begin_handshakes(daemon, stack)
        # it is lent a second after the death, and then only gets shorter
        assert waiting_at(daemon, 1) <= waiting
        assert {end_handshake(sock) for sock in begun + new} <= {*others}
        lent = daemon.wait_status(lambda status: slot(status, 1)["lent_to"])
        assert slot(lent, 1)["lent_to"] in [row["slot"] for row in lent["workers"] if row["pid"] in others]
        eventually(lambda: [1, 2] == sorted(listeners_of(daemon, pid) for pid in others), "a lent listener")

        gate.open()
        status = daemon.wait_status(lambda status: replaced(1, victim)(status) and all(weights(status)))
        eventually(lambda: [1, 1] == [listeners_of(daemon, pid) for pid in others], "the listener is given back")
        check_untouched(safe)
        with pytest.raises(ConnectionClosedError):
            doomed.recv(10)
    row = slot(status, 1)
    assert (None, 1) == (row["lent_to"], row["restarts"])
    assert ("crash", "SIGKILL") == (row["last_exit"]["class"], row["last_exit"]["signal"])
    assert row["messages_in"] >= slot(before, 1)["messages_in"]
    assert others == [slot(status, 2)["pid"], slot(status, 3)["pid"]]
    assert (0, "running") == (daemon.cli("status").code, status["state"])


def test_row_01_under_constant_connects(make_daemon: MakeDaemon) -> None:
    """SIGKILL of one worker after the other: of the clients that come meanwhile none is refused and none is reset."""
    daemon = make_daemon(WHO, workers=2).start()
    with ConnectLoop(daemon) as loop:
        for number, victim in enumerate(daemon.workers, 1):
            with loop.between_clients():
                os.kill(victim, signal.SIGKILL)
            daemon.wait_status(replaced(number, victim))
            served = loop.echoed
            eventually(lambda served=served: loop.echoed > served + 30, "clients after the death")  # type: ignore[misc]
    loop.check()
    assert 0 == loop.told_to_go


def die_by_order(daemon: Daemon, order: str) -> dict[str, Any]:
    """Let a client end the second of two workers; return the status once it is replaced, and the others untouched."""
    other, victim = daemon.workers
    with ExitStack() as stack:
        safe = clients_of(daemon, stack, other)
        (doomed,) = clients_of(daemon, stack, victim, each=1)
        kill_by_order(doomed, order)
        status = daemon.wait_status(replaced(2, victim))
        check_untouched(safe)
    return status


@pytest.mark.parametrize(("order", "name"), [("segv", "SIGSEGV"), ("abort", "SIGABRT")])
def test_row_02_a_crash_in_c(make_daemon: MakeDaemon, order: str, name: str) -> None:
    """A crash in C: the signal's name in status and log, the stack below that line, the others untouched."""
    daemon = make_daemon(ORDERS, workers=2).start()
    other, victim = daemon.workers
    status = die_by_order(daemon, order)
    last_exit = slot(status, 2)["last_exit"]
    assert ("crash", name, None) == (last_exit["class"], last_exit["signal"], last_exit["code"])
    assert other == slot(status, 1)["pid"]
    stack_below = rf'worker 2 \(pid {victim}\) died: killed by {name}(?s:.*)app\.py", line \d+ in {order}\n'
    eventually(lambda: re.search(stack_below, daemon.log), "the death, and the stack below it")


@pytest.mark.parametrize(
    ("order", "code", "shown"),
    [
        pytest.param("leave", 3, "SystemExit: 3", id="sys.exit"),
        pytest.param("stop_the_loop", 1, "RuntimeError: Event loop stopped before Future completed", id="loop"),
    ],
)
def test_row_03_the_process_ends_by_itself(make_daemon: MakeDaemon, order: str, code: int, shown: str) -> None:
    """sys.exit() and an error that ends the loop: exit code and last error in status, the others untouched."""
    daemon = make_daemon(ORDERS, workers=2).start()
    other, victim = daemon.workers
    status = die_by_order(daemon, order)
    last_exit = slot(status, 2)["last_exit"]
    assert ("crash", code, None) == (last_exit["class"], last_exit["code"], last_exit["signal"])
    assert shown in f"{last_exit['reason']}\n{last_exit['error']}"
    daemon.wait_log(f"worker 2 (pid {victim}) died: exit {code}")
    assert other == slot(status, 1)["pid"]


def test_row_04_a_callback_raises(make_daemon: MakeDaemon) -> None:
    """An exception in a callback: on_error is called, that connection gets 1011, the worker lives, it is counted."""
    daemon = make_daemon(RAISES).start()
    (worker,) = daemon.workers
    with ExitStack() as stack:
        safe = clients_of(daemon, stack, worker)
        (faulty,) = clients_of(daemon, stack, worker, each=1)
        faulty.send("raise")
        with pytest.raises(ConnectionClosedError) as closed:
            faulty.recv(10)
        assert closed.value.rcvd is not None
        assert 1011 == closed.value.rcvd.code
        check_untouched(safe)
        status = daemon.wait_status(lambda status: slot(status, 1)["errors"] > 0)
    assert (worker, 1, 0) == tuple(slot(status, 1)[key] for key in ("pid", "errors", "restarts"))
    assert 'on_error: ValueError("the user\'s own mistake")\n' == daemon.out


# Row 10. The kernel's own killer needs a cgroup of version 2 with a limit, which not every machine gives. What the
# master makes of the kernel's count is shown everywhere where root may mount a folder over /sys/fs/cgroup.

LIMIT_MIB = 250


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A cgroup of version 2 whose processes may use LIMIT_MIB together."""
    root = Path("/sys/fs/cgroup")
    controllers = root / "cgroup.subtree_control"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        lacking("there is no cgroup of version 2 with the memory controller")
    group = root / f"wsworker-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        lacking(f"this user may not make a cgroup: {error.strerror}")
    (group / "memory.max").write_text(f"{LIMIT_MIB << 20}")
    swap = group / "memory.swap.max"
    if swap.exists():
        swap.write_text("0")
    yield group
    eventually(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
    group.rmdir()


def test_row_10_a_worker_uses_up_the_memory(limited_group: Path) -> None:
    """The kernel kills a worker for want of memory: log and status name that, it is replaced, the others serve on."""
    wrapper = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(limited_group)]
    with Wrapped(wrapper, ORDERS, workers=2) as daemon, ExitStack() as stack:
        daemon.start()
        other, victim = daemon.workers
        safe = clients_of(daemon, stack, other)
        (doomed,) = clients_of(daemon, stack, victim, each=1)
        kill_by_order(doomed, f"grow {2 * LIMIT_MIB}")
        check_out_of_memory(daemon, victim, daemon.wait_status(replaced(2, victim)))
        check_untouched(safe)


def test_row_10_the_kernel_counts_a_kill(tmp_path: Path) -> None:
    """A SIGKILL that comes with a kill more in memory.events is out of memory; one that comes without is none."""
    if os.geteuid() != 0:
        lacking("only root can mount a folder over /sys/fs/cgroup")
    membership = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line[3:] for line in membership if line.startswith("0::"))
    count = tmp_path / own.lstrip("/") / "memory.events"
    count.parent.mkdir(parents=True, exist_ok=True)

    def write(kills: int) -> None:
        # at once: the master reads it when it likes
        new = count.with_suffix(".new")
        new.write_text(f"low 0\nhigh 0\nmax 9\noom {kills}\noom_kill {kills}\noom_group_kill 0\n")
        new.rename(count)

    write(3)
    wrapper = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /sys/fs/cgroup && exec "$@"', str(tmp_path)]
    with Wrapped(wrapper, WHO, workers=2) as daemon:
        daemon.start()
        other, victim = daemon.workers
        os.kill(other, signal.SIGKILL)
        status = daemon.wait_status(replaced(1, other))
        assert "out of memory" not in daemon.log + slot(status, 1)["last_exit"]["reason"]
        write(4)
        os.kill(victim, signal.SIGKILL)
        check_out_of_memory(daemon, victim, daemon.wait_status(replaced(2, victim)))


def check_out_of_memory(daemon: Daemon, victim: int, status: dict[str, Any]) -> None:
    """Fail unless status and log say why slot 2 has another worker, and the service runs on."""
    last_exit = slot(status, 2)["last_exit"]
    assert ("SIGKILL", 1) == (last_exit["signal"], slot(status, 2)["restarts"])
    assert "out of memory" in last_exit["reason"]
    died = next(line for line in daemon.log.splitlines() if f"worker 2 (pid {victim}) died" in line)
    assert "out of memory" in died
    assert (0, "running") == (daemon.cli("status").code, daemon.status()["state"])
