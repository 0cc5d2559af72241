"""`connections` of a real service: filters, a worker that does not answer, a thousand clients, callers that give up."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.system.clients import UPGRADE, await_upgrade, raw
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from wsworker.query import Query
from wsworker.wire import Command, encode

APP = """
import os, time

def on_connect(connection):
    connection.user = connection.request.query.get("user")
    if "topic" in connection.request.query:
        connection.subscribe(connection.request.query["topic"])

def on_message(connection, data):
    while data == "block" and not os.path.exists("go on"):
        time.sleep(0.01)
    connection.send(f"{os.getpid()} {data}")
"""


def dial(daemon: Daemon, target: str) -> socket.socket:
    """Return a TCP connection on which the handshake for a target is done."""
    sock = raw(daemon)
    sock.sendall(UPGRADE.replace(b"GET / ", f"GET {target} ".encode()))
    await_upgrade(sock)
    return sock


def listed(daemon: Daemon, *options: str) -> dict[str, Any]:
    """Return the document of `connections`."""
    outcome = daemon.cli("connections", "--json", *options)
    assert (0, "") == (outcome.code, outcome.err)
    return outcome.document()


def listed_whole(daemon: Daemon, *options: str) -> dict[str, Any]:
    """Return it once all workers have answered: the master waits for two seconds, which a busy machine may need."""
    return eventually(lambda: {} if (found := listed(daemon, *options))["missing"] else found, "all workers to answer")


def test_who_is_there(make_daemon: MakeDaemon) -> None:
    """Every connection of every worker, and those alone that a filter lets through."""
    daemon = make_daemon(APP, workers=3).start()
    with ExitStack() as stack:
        for target in ("/chat/1?user=tom", "/chat/2?user=ann&topic=news", "/?user=tom", "/feed?topic=news"):
            stack.enter_context(dial(daemon, target))
        client = stack.enter_context(daemon.connect("/loud?user=max"))
        client.send("hello")
        assert isinstance(client.recv(10), str)
        everything = listed_whole(daemon)
        rows = everything["connections"]
        assert {"schema": 1, "name": daemon.name, "total": 5, "shown": 5, "missing": []} == {
            key: everything[key] for key in everything if key != "connections"
        }
        assert 5 == len({row["id"] for row in rows})
        assert {row["pid"] for row in rows} <= {*daemon.workers}
        assert [row["slot"] for row in rows] == sorted(row["slot"] for row in rows)
        for options, paths in {
            ("--user", "tom"): {"/", "/chat/1"},
            ("--path", "/chat"): {"/chat/1", "/chat/2"},
            ("--topic", "news"): {"/chat/2", "/feed"},
            ("--ip", "127.0.0.0/8"): {"/", "/chat/1", "/chat/2", "/feed", "/loud"},
            ("--ip", "192.0.2.1"): set(),
            ("--sort", "in", "--limit", "1"): {"/loud"},
        }.items():
            assert paths == {row["path"] for row in listed_whole(daemon, *options)["connections"]}, options
        slots = [listed_whole(daemon, "--worker", str(slot))["total"] for slot in (1, 2, 3)]
        assert 5 == sum(slots)
        table = daemon.cli("connections")
        assert (0, "", 6) == (table.code, table.err, len(table.out.splitlines()))


@pytest.mark.parametrize("how", ["stopped", "blocked"])
def test_a_worker_that_does_not_answer_is_named(make_daemon: MakeDaemon, how: str) -> None:
    """And not waited for; the others answer, and it does too when it goes on."""
    daemon = make_daemon(APP, workers=3).start()
    with ExitStack() as stack:
        # until each has one
        while {row["pid"] for row in listed(daemon)["connections"]} != {*daemon.workers}:
            client = stack.enter_context(daemon.connect())
        client.send("who")
        pid = int(str(client.recv(10)).split()[0])
        slot = daemon.workers.index(pid) + 1
        if how == "stopped":
            os.kill(pid, signal.SIGSTOP)
        else:
            client.send("block")
            eventually(lambda: listed(daemon)["missing"], "a worker that is blocked")
        # another one may be late, once or twice
        document = eventually(
            lambda: found if (found := listed(daemon))["missing"] == [slot] else {}, "that worker alone is missing"
        )
        assert {1, 2, 3} - {slot} == {row["slot"] for row in document["connections"]}
        shown = daemon.cli("connections", "--worker", str(slot))
        assert 0 == shown.code
        warning = f"warning: worker {slot} gave no complete answer: connections of it are missing here"
        assert shown.err.startswith(warning)
        (daemon.folder / "go on").touch()
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: not listed(daemon)["missing"], "all workers to answer")


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have more than a thousand sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_clients(make_daemon: MakeDaemon, many_files: None) -> None:
    """All are listed, for several callers at once; some of them leave without waiting, and nobody minds."""
    daemon = make_daemon(APP, workers=3, websocket={"rate_handshakes": 0, "max_per_address": 0}).start()
    with ExitStack() as stack:
        for number in range(1000):
            stack.enter_context(dial(daemon, f"/{'x' * 400}/{number}"))
        control = next(daemon.run_dir.glob("*.sock"))
        # with the three below, fewer than the master takes at once
        for _ in range(8):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(control))
                caller.sendall(encode(Command("connections", query=Query(limit=1000))))
        with ThreadPoolExecutor(4) as pool:
            statuses = [pool.submit(daemon.status) for _ in range(20)]
            lists = [pool.submit(listed_whole, daemon, "--limit", "1000", "--sort", "path") for _ in range(3)]
            assert {"running"} == {status.result()["state"] for status in statuses}
            for document in [one.result() for one in lists]:
                assert (1000, 1000, []) == (document["total"], document["shown"], document["missing"])
                paths = [row["path"] for row in document["connections"]]
                assert paths == sorted(paths)
                assert 1000 == len({*paths})
