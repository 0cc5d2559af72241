"""Rows 15 to 18 and 20 to 22 of the fault matrix: reloads that fail, meet each other or a stop, or come in crowds."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.frames import CLOSE
from tests.ports import free_port
from tests.system.clients import ConnectLoop, frame
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, WHO, Daemon, eventually, finish
from tests.system.faults.world import (
    GATED,
    Gate,
    Systemd,
    begin_handshakes,
    check_untouched,
    clients_of,
    end_handshake,
    knock,
    slot,
)

NEW_HELLO = HELLO.replace("hello ", "welcome ")
FAILS_IN_SLOT_3 = (
    NEW_HELLO
    + """
def on_worker_start(worker):
    if worker.slot == 3:
        raise OSError("no third database")
"""
)

LEAVES_AT_THE_GATE = (
    WHO
    + GATED
    + """
async def on_worker_start(worker):
    if worker.slot == 2:
        await pass_gate()

async def on_worker_reload(worker):
    await pass_gate()

def on_worker_stop(worker):
    print(f"{os.getpid()} has left", flush=True)
"""
)
"""While the gate is closed, worker 2 does not get ready and nobody gets out of a reload."""

RELOADS = 200
WARM_UP = 100
"""Reloads after which the master has allocated what it needs."""
GROWTH_BYTES = 512 << 10
LATE_CLIENTS = 4


def ids(daemon: Daemon) -> list[int]:
    """Return the ids of the workers; that of a new worker is a new one, its pid need not be."""
    return [row["id"] for row in daemon.status()["workers"]]


def close_code(client: ClientConnection) -> int:
    """Wait until the server closes, and return its code."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def largest_message(daemon: Daemon, size: int) -> bool:
    """Whether the service takes messages of this size, and none that is larger."""
    with daemon.connect() as client:
        client.send("x" * size)
        assert client.recv(10)
        client.send("x" * (size + 1))
        return 1009 == close_code(client)


def test_row_15_new_code_cannot_be_imported(make_daemon: MakeDaemon) -> None:
    """Broken code at a reload: exit 1 with its traceback, READY again, and no old worker notices anything."""
    daemon = make_daemon(WHO, workers=3)
    with Systemd(daemon.folder / "notify") as systemd:
        daemon.environ["NOTIFY_SOCKET"] = str(systemd.path)
        daemon.start()
        before, pids = ids(daemon), daemon.workers
        with ExitStack() as stack:
            clients = clients_of(daemon, stack, *pids)
            loop = stack.enter_context(ConnectLoop(daemon))
            daemon.write_app("import no_such_module\n")
            for number in range(1, 4):
                refused = daemon.cli("reload")
                assert 1 == refused.code
                assert "the new code does not start; the 3 old workers keep serving" in refused.err
                assert 'app.py", line 1' in refused.err
                assert 1 == refused.err.count("ModuleNotFoundError: No module named 'no_such_module'\n")
                systemd.wait_for("READY", times=1 + number)
            check_untouched(clients)
        loop.check()
        assert 0 == loop.told_to_go
        status = daemon.status()
        assert (before, pids) == ([row["id"] for row in status["workers"]], daemon.workers)
        assert ("running", 0, 1) == (status["state"], status["reloads"], status["generation"])
        assert ["READY", *["RELOADING", "READY"] * 3] == systemd.states()
        daemon.close_master()


def test_row_16_a_later_worker_cannot_start(make_daemon: MakeDaemon) -> None:
    """The canary starts and the third worker does not: the roll stops, exit 1, "partial", status 150.

    The first two slots run the new code, the others the old one, and nobody mends that but the next reload.
    """
    daemon = make_daemon(HELLO, workers=4).start()
    before = ids(daemon)
    with ConnectLoop(daemon) as loop:
        daemon.write_app(FAILS_IN_SLOT_3)
        outcome = daemon.cli("reload", "--json")
        assert 1 == outcome.code
        partial = outcome.document()
        assert ("partial", [1, 2]) == (partial["result"], [row["slot"] for row in partial["workers"]])
        assert "OSError: no third database" in partial["error"]["trace"]
        status = daemon.wait_status(lambda status: len(status["workers"]) == 4)
        assert [2, 2, 1, 1] == [row["generation"] for row in status["workers"]]
        assert before[2:] == [row["id"] for row in status["workers"]][2:]
        assert ("degraded", 150) == (status["state"], daemon.cli("status").code)

        daemon.write_app(NEW_HELLO)
        assert 0 == daemon.cli("reload").code
        status = daemon.wait_status(lambda status: status["state"] == "running" and len(status["workers"]) == 4)
        assert [3] * 4 == [row["generation"] for row in status["workers"]]
    loop.check()


def test_row_17_the_new_config_is_wrong(make_daemon: MakeDaemon) -> None:
    """A mistake in the config: refused with file, line and column; what is right in the file does not apply either."""
    daemon = make_daemon(HELLO, workers=2, websocket={"max_size": 10}).start()
    before = ids(daemon)
    daemon.write_config(websocket={"max_size": 20}, workers="many")
    refused = daemon.cli("reload")
    assert (1, "") == (refused.code, refused.out)
    assert f"{daemon.place('workers')}: error: workers must be " in refused.err
    refused.check_tone()
    # HUP tells nobody but the log
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.log.count(f"{daemon.place('workers')}: error: ") == 2, "the mistake in the log, twice")
    assert (before, 1) == (ids(daemon), daemon.status()["generation"])
    assert largest_message(daemon, 10)


def test_row_18_a_reload_changes_listen(make_daemon: MakeDaemon) -> None:
    """A changed listen: the reload succeeds and says that it needs a restart; only the old address serves."""
    daemon = make_daemon(HELLO).start()
    old_port, new_port = daemon.port, free_port()
    daemon.write_app(NEW_HELLO)
    daemon.write_config(listen=f"127.0.0.1:{new_port}")
    reloaded = daemon.cli("reload")
    assert 0 == reloaded.code
    assert f"note: listen changed ({daemon.place('listen')}): needs a restart\n" in reloaded.err
    again = daemon.cli("reload", "--json")
    assert (0, ["listen"]) == (again.code, again.document()["restart_needed"])
    assert "welcome tom" == daemon.echo("tom")
    daemon.port = new_port
    assert errno.ECONNREFUSED == knock(daemon)

    assert 0 == daemon.cli("stop").code
    assert 0 == daemon.wait_exit()
    assert "welcome tom" == daemon.start().echo("tom")
    daemon.port = old_port
    assert errno.ECONNREFUSED == knock(daemon)


def test_row_20_reloads_during_a_reload(make_daemon: MakeDaemon) -> None:
    """Reloads asked for during a reload become one, with the newest code and config; every caller is answered once."""
    waits = f"import os, time\nwhile os.path.exists('gate'):\n    time.sleep(0.01)\n{HELLO}"
    daemon = make_daemon(HELLO, workers=2).start()
    gate = Gate(daemon)
    gate.close()
    daemon.write_app(waits)
    commands = [daemon.cli_begin("reload", "--json")]
    daemon.wait_status(lambda status: status["state"] == "reloading")
    for asked, size in enumerate((8, 9, 10), 2):
        daemon.write_config(websocket={"max_size": size})
        commands.append(daemon.cli_begin("reload", "--json"))
        eventually(lambda asked=asked: daemon.log.count("`reload` asked") == asked, "it is heard")  # type: ignore[misc]
    daemon.write_app(NEW_HELLO)
    gate.open()
    outcomes = [finish(command) for command in commands]
    assert [0] * 4 == [outcome.code for outcome in outcomes], outcomes
    # document() takes exactly one answer
    assert [2, 3, 3, 3] == [outcome.document()["generation"] for outcome in outcomes]
    status = daemon.wait_status(lambda status: len(status["workers"]) == 2)
    assert (2, [3, 3]) == (status["reloads"], [row["generation"] for row in status["workers"]])
    assert "welcome tom" == daemon.echo("tom")
    assert largest_message(daemon, 10)


def test_row_21_a_stop_during_a_reload(make_daemon: MakeDaemon) -> None:
    """A stop wins over a reload: new workers and old ones drain, clients are told, exit 0; the reload has failed."""
    daemon = make_daemon(LEAVES_AT_THE_GATE, workers=2).start()
    gate = Gate(daemon)
    with ExitStack() as stack:
        old = daemon.workers
        leaving, staying = clients_of(daemon, stack, *old, each=1)
        gate.close()
        reload = daemon.cli_begin("reload")
        rolling = daemon.wait_status(
            lambda status: slot(status, 1)["generation"] == 2 and slot(status, 2)["state"] == "starting"
        )
        new = slot(rolling, 1)["pid"]
        (arrived,) = clients_of(daemon, stack, new, each=1)
        stop = daemon.cli_begin("stop")
        assert [1001, 1001] == [close_code(client) for client in (staying, arrived)]
        # it hears its goodbye behind the gate
        gate.open()
        assert 1001 == close_code(leaving)
    refused, stopped = finish(reload), finish(stop)
    assert (0, 1) == (stopped.code, refused.code), (stopped, refused)
    assert "error: the service is stopping" in refused.err
    assert 0 == daemon.wait_exit()
    assert {f"{pid} has left" for pid in (*old, new)} == {*daemon.out.splitlines()}
    assert not daemon.processes()


def descriptors_and_threads(pid: int) -> tuple[int, int]:
    """Return how many of each a process has."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def late_clients(daemon: Daemon, stack: ExitStack) -> dict[socket.socket, int]:
    """Return some clients that answer a Close only when say_goodbye does it, and the pid of the worker of each."""
    return {sock: end_handshake(sock) for sock in begin_handshakes(daemon, stack, LATE_CLIENTS)}


def hear_goodbye(client: socket.socket) -> bytes:
    """Wait until the server closes, and return the payload of its Close. A worker that says so accepts nobody more."""
    header, size = client.recv(2, socket.MSG_WAITALL)
    assert 0x80 | CLOSE == header
    return client.recv(size, socket.MSG_WAITALL)


def say_goodbye(client: socket.socket, payload: bytes) -> None:
    """Answer a Close, and leave."""
    client.sendall(frame(CLOSE, payload))
    client.close()


@pytest.mark.timeout(240)
def test_row_22_200_reloads_in_a_row(make_daemon: MakeDaemon) -> None:
    """Two hundred reloads under constant connects: descriptors, threads and memory of the master are flat.

    Each is asked for while the old workers of the one before still wait for the goodbyes of some clients, and begins
    when they have left: no slot ever has two draining workers. Nobody is refused or reset.
    """
    daemon = make_daemon(WHO, workers=2, reload_strategy="drain").start()
    master = daemon.master
    most_draining = 0

    def draining(status: Mapping[str, Any]) -> dict[int, int]:
        nonlocal most_draining
        rows = [row for row in status["workers"] if row["state"] == "draining"]
        most_draining = max(most_draining, *Counter(row["slot"] for row in rows).values(), 0)
        return {row["pid"]: row["slot"] for row in rows}

    def over(status: Mapping[str, Any], number: int) -> bool:
        draining(status)
        return bool(status["reloads"] == number and status["state"] == "running")

    with ConnectLoop(daemon) as loop, ExitStack() as stack:
        late = late_clients(daemon, stack)
        os.kill(master, signal.SIGHUP)
        for number in range(1, RELOADS + 1):
            daemon.wait_status(lambda status, number=number: over(status, number))  # type: ignore[misc]
            payloads = {client: hear_goodbye(client) for client in late}
            if number == WARM_UP:
                warm, warm_rss = descriptors_and_threads(master), rss_bytes(master)
            # an old worker that they are no clients of may still accept, until it has left
            status = daemon.wait_status(lambda status, late=late: draining(status).keys() == {*late.values()})  # type: ignore[misc]
            late = late_clients(daemon, stack)
            if number < RELOADS:
                os.kill(master, signal.SIGHUP)
                eventually(lambda number=number: daemon.log.count("SIGHUP") > number, "it is heard")  # type: ignore[misc]
                assert over(daemon.status(), number), "it has not waited for the old workers"
            for client, payload in payloads.items():
                say_goodbye(client, payload)
    daemon.wait_status(lambda status: len(status["workers"]) == 2)
    loop.check()
    assert 1 == most_draining
    assert (RELOADS + 1, 0) == (status["generation"], status["totals"]["restarts"])
    # descriptors of commands and of workers that leave come and go
    eventually(lambda: descriptors_and_threads(master) <= warm, f"no more than {warm}")
    assert 1 == descriptors_and_threads(master)[1]
    assert rss_bytes(master) - warm_rss < GROWTH_BYTES
