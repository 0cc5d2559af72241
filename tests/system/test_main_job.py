"""The main job: a daemon, its workers on one port, on_message, and the commands that run it all."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect, unix_connect

from tests.ports import free_port
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, WHO, Daemon, eventually

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "hello" / "app.py"

CALLBACKS = """
import asyncio

told = []

def on_worker_start(worker):
    told.append(f"start {worker.slot}")

async def on_handshake(request):
    await asyncio.sleep(0)
    tell(request, "handshake")

def on_connect(connection):
    tell(connection.request, "connect")

async def on_message(connection, data):
    if data == "report":
        connection.send("\\n".join(told))
        return
    tell(connection.request, f"begin {data}")
    await asyncio.sleep(0.001)
    tell(connection.request, f"end {data}")

def on_close(connection, code, reason):
    tell(connection.request, f"close {code}")

def tell(request, what):
    if request.path == "/watched":
        told.append(what)
"""


@pytest.fixture(scope="module")
def four() -> Iterator[Daemon]:
    """Four workers that answer with their pid; shared by tests that leave them as they are."""
    with Daemon(WHO, workers=4) as daemon:
        yield daemon.start()


def test_the_first_five_minutes(make_daemon: MakeDaemon) -> None:
    """start, "tom", status, an edit and reload, stop: as in the README, with the example that comes with it."""
    daemon = make_daemon(EXAMPLE.read_text(), workers=2).start()
    assert daemon.echo("tom") == "hello tom"

    daemon.write_app(EXAMPLE.read_text().replace("hello ", "welcome "))
    reloaded = daemon.cli("reload")
    assert (0, "") == (reloaded.code, re.sub(r"reloaded .*: 2 workers, 0 connections .*\n", "", reloaded.out))
    told = [line for line in reloaded.err.splitlines() if re.match(r"  worker \d  \d+ -> \d+  ready in ", line)]
    assert 2 == len(told), reloaded.err
    assert daemon.echo("tom") == "welcome tom"

    master = daemon.master
    stopped = daemon.cli("stop")
    assert 0 == stopped.code
    assert stopped.out.startswith(f"stopping {daemon.name} (pid {master}): 0 connections closed (1001), stopped in ")
    assert 0 == daemon.wait_exit()
    daemon.wait_gone()


def test_status_for_people(four: Daemon) -> None:
    """`status`: one line for the service, one a worker with slot, pid, state, counters, rss, restarts."""
    shown = four.cli("status")
    assert (0, "") == (shown.code, shown.err)
    first, second, _, headings, *rows = shown.out.splitlines()
    assert first.startswith(f"{four.name}  running  pid {four.master}  up ")
    assert first.endswith(f"  reloads 0  ws://127.0.0.1:{four.port}  config {four.config}")
    assert second.startswith("4/4 workers  0 connections  in ")
    assert headings.split() == [
        *("#", "PID", "STATE", "UP", "CONN", "IN/s", "OUT/s", "SENDQ", "CPU%", "RSS", "LAG", "RESTARTS")
    ]
    assert [[str(slot), str(pid), "ready"] for slot, pid in enumerate(four.workers, 1)] == [
        row.split()[:3] for row in rows
    ]
    assert ["0"] * 4 == [row.split()[-1] for row in rows]


def test_status_for_machines(four: Daemon) -> None:
    """`status --json`: one document with raw numbers, behind or before the command's name."""
    shown = four.cli("status", "--json")
    document = shown.document()
    assert (0, "") == (shown.code, shown.err)
    assert (1, four.name, "running") == (document["schema"], document["name"], document["state"])
    assert [f"ws://127.0.0.1:{four.port}"] == document["listen"]
    assert (4, 4) == (document["workers_configured"], document["workers_ready"])
    assert [1, 2, 3, 4] == [row["slot"] for row in document["workers"]]
    for row in document["workers"]:
        assert psutil.Process(row["pid"]).ppid() == document["pid"]
        assert row["rss"] > 5_000_000
        assert row["uptime"] > 0
        assert (0, None) == (row["restarts"], row["last_exit"])


def test_check_of_a_service_that_runs(four: Daemon) -> None:
    """`check` looks at config, app and limits, touches nothing that runs, and exits 0."""
    before = four.workers
    checked = four.cli("check")
    assert 0 == checked.code, checked.err
    assert re.search(r"^app +ok +on_message ", checked.out, re.MULTILINE)
    assert before == four.workers


def test_400_clients_at_once(four: Daemon) -> None:
    """400 clients at once: every worker gets some, and each client gets its own echo."""

    async def run() -> Counter[str]:
        async def client(number: int) -> str:
            url = f"ws://127.0.0.1:{four.port}/"
            async with gate, connect_async(url, proxy=None, open_timeout=30) as connection:
                await all_in.wait()
                await connection.send(f"client {number}")
                pid, echo = str(await connection.recv()).split(maxsplit=1)
                assert f"client {number}" == echo
                return pid

        async def watch() -> None:
            while sum(row["connections"] for row in (await asyncio.to_thread(four.status))["workers"]) < 400:
                await asyncio.sleep(0.1)
            all_in.set()

        # more clients that open at the same moment than the backlog of a small machine would only test the kernel
        gate, all_in = asyncio.Semaphore(400), asyncio.Event()
        _, *pids = await asyncio.wait_for(
            asyncio.gather(watch(), *(client(number) for number in range(400))), timeout=60
        )
        return Counter(str(pid) for pid in pids)

    counted = asyncio.run(run())
    assert 400 == counted.total()
    assert {str(pid) for pid in four.workers} == counted.keys(), counted


def test_the_status_counts(four: Daemon) -> None:
    """The status knows who is connected to which worker, and what was said."""
    before = four.status()["totals"]
    worker = four.workers[2]
    with four.connect_to(worker) as client:
        client.send("1234567")
        client.recv(10)
        four.wait_status(lambda status: status["workers"][2]["connections"] == 1)
        # both: late bytes of those who have left may come first, as their Close is no message
        four.wait_status(lambda status: status["totals"]["bytes_in"] >= before["bytes_in"] + 10)
        four.wait_status(lambda status: status["totals"]["messages_in"] >= before["messages_in"] + 2)
    four.wait_status(lambda status: status["totals"]["connections"] == 0)


def test_the_titles_of_the_processes(four: Daemon) -> None:
    """`ps` shows who is who: the master with the service's name, a worker with slot and generation."""
    titles = four.processes()
    workers = {pid: f"wsworker: worker {slot} [{four.name}] gen 1" for slot, pid in enumerate(four.workers, 1)}
    assert {four.master: f"wsworker: master [{four.name}]", **workers} == titles


def test_text_stays_text_and_binary_stays_binary(make_daemon: MakeDaemon) -> None:
    """A str arrives as str and is sent as text, bytes as bytes; also empty ones, and up to max_size."""
    daemon = make_daemon("def on_message(connection, data):\n    connection.send(data)\n", loop="asyncio").start()
    with daemon.connect() as client:
        for message in ("", "ä€😀", b"", b"\x00\xff", "x" * 1024 * 1024, bytes(1024 * 1024)):
            client.send(message)
            assert message == client.recv(10)


def test_async_callbacks_run_one_after_another(make_daemon: MakeDaemon) -> None:
    """The callbacks of a connection, sync or async, never overlap, and come in the order of what happened."""
    daemon = make_daemon(CALLBACKS).start()
    with daemon.connect("/watched") as client:
        for message in ("a", "b"):
            client.send(message)
    expected = ["start 1", "handshake", "connect", "begin a", "end a", "begin b", "end b", "close 1000"]
    # the client has gone when on_close is still to come
    eventually(lambda: daemon.echo("report").splitlines()[len(expected) - 1 :], "the end of the watched connection")
    assert expected == daemon.echo("report").splitlines()


def test_several_addresses(make_daemon: MakeDaemon) -> None:
    """One service listens on two TCP ports and a unix socket, and every worker serves all of them."""
    second = free_port()
    daemon = make_daemon(WHO, workers=2)
    path = daemon.folder / "ws.sock"
    daemon.write_config(listen=[f"127.0.0.1:{daemon.port}", f"127.0.0.1:{second}", f"unix:{path}"])
    daemon.start()
    workers = {str(pid) for pid in daemon.workers}

    first_seen, second_seen = set(), set()
    for _ in range(100):
        first_seen.add(daemon.echo("x").split()[0])
        with connect(f"ws://127.0.0.1:{second}/", proxy=None) as client:
            client.send("x")
            second_seen.add(str(client.recv(10)).split()[0])
        if first_seen == second_seen == workers:
            break
    assert (workers, workers) == (first_seen, second_seen)

    with unix_connect(str(path), uri="ws://localhost/") as client:
        client.send("x")
        assert str(client.recv(10)).split()[0] in workers
    assert 0 == daemon.cli("stop").code
    assert not path.exists()


def test_ipv6(make_daemon: MakeDaemon) -> None:
    """[::1]:port listens on IPv6 alone: the same port of IPv4 stays free."""
    try:
        port = free_port("::1")
    except OSError:
        pytest.skip("this machine has no ::1")
    make_daemon(HELLO, listen=f"[::1]:{port}").start()
    with connect(f"ws://[::1]:{port}/", proxy=None) as client:
        client.send("tom")
        assert "hello tom" == client.recv(10)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_two_services_side_by_side(make_daemon: MakeDaemon) -> None:
    """Two services share a run directory, and commands reach the one whose config they are given."""
    one, two = make_daemon(HELLO).start(), make_daemon(HELLO.replace("hello", "good day"))
    two.environ["XDG_RUNTIME_DIR"] = one.environ["XDG_RUNTIME_DIR"]
    two.start()
    assert 0 == one.cli("stop").code
    assert 0 == one.wait_exit()
    assert "good day tom" == two.echo("tom")


def test_in_the_background(make_daemon: MakeDaemon) -> None:
    """`start -d` returns with one line when every worker is ready; the daemon has no terminal and logs to its file."""
    daemon = make_daemon(WHO, workers=2, log={"file": "log.txt"})
    started = daemon.cli("start", "-d")
    # asked at once: who waits for the end of this command must not have to wait for anything else
    status = daemon.status()
    assert (0, f"{daemon.name} is ready: 2 workers, pid {status['pid']}\n", "") == started
    assert ("running", 2) == (status["state"], status["workers_ready"])
    assert daemon.echo("tom").endswith(" tom")
    assert "/dev/null" == os.readlink(f"/proc/{status['pid']}/fd/0")
    assert psutil.Process(status["pid"]).terminal() is None
    assert "ready, pid " in (daemon.folder / "log.txt").read_text()
    assert 0 == daemon.cli("stop").code
    daemon.wait_gone()


FAILS_IN_SLOT_2 = """
def on_worker_start(worker):
    if worker.slot == 2:
        raise OSError("no room in slot 2")

def on_message(connection, data):
    connection.send(data)
"""


def test_the_background_fails_when_a_worker_is_not_ready(make_daemon: MakeDaemon) -> None:
    """`start -d` exits 1 with the slot and the reason; the others serve on, and `status` says degraded."""
    daemon = make_daemon(FAILS_IN_SLOT_2, workers=2, log={"file": "log.txt"})
    started = daemon.cli("start", "-d")
    assert (1, "") == (started.code, started.out)
    assert started.err.startswith(f"error: {daemon.name} runs degraded: 1 of 2 workers are ready; worker 2: on_worker_")
    assert "tom" == daemon.echo("tom")
    assert 150 == daemon.cli("status").code
    assert 0 == daemon.cli("stop").code
    daemon.wait_gone()


def test_the_background_fails_with_the_reason_of_the_first_worker(make_daemon: MakeDaemon) -> None:
    """`start -d` with an app that does not import: exit 78, the user's traceback, and nothing runs."""
    daemon = make_daemon("import nowhere_to_be_found", log={"file": "log.txt"})
    started = daemon.cli("start", "-d")
    assert (78, "") == (started.code, started.out)
    assert "nowhere_to_be_found" in started.err
    assert 3 == daemon.cli("status").code
    daemon.wait_gone()


def test_the_background_needs_a_log_file(make_daemon: MakeDaemon) -> None:
    """`start -d` without log.file says that there would be no terminal to log to."""
    started = make_daemon().cli("start", "-d")
    assert (78, "") == (started.code, started.out)
    assert "error: -d needs `log.file`: there will be no terminal to log to\n" == started.err


def test_flags_win_over_the_file(make_daemon: MakeDaemon) -> None:
    """-w and -b replace workers and listen, also in later reloads."""
    port = free_port()
    daemon = make_daemon(WHO).start("-w", "2", "-b", f"127.0.0.1:{port}")
    assert ([f"ws://127.0.0.1:{port}"], 2) == (daemon.status()["listen"], daemon.status()["workers_ready"])
    assert 0 == daemon.cli("reload").code
    assert 2 == daemon.status()["workers_configured"]
    with connect(f"ws://127.0.0.1:{port}/", proxy=None) as client:
        client.send("tom")
        assert str(client.recv(10)).endswith(" tom")
