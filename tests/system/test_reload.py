"""Reload: new code and settings without a gap, and what is wrong with them changes nothing."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from tests.ports import free_port
from tests.system.clients import ConnectLoop
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, WHO, eventually, finish

NEW_HELLO = HELLO.replace("hello ", "welcome ")
NEW_WHO = WHO.replace("{data}", "new {data}")

BROKEN = {
    "syntax": ("def on_message(connection, data)\n    pass\n", "SyntaxError: expected ':'"),
    "import": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "callback": (HELLO.replace("on_message", "on_mesage"), "'on_mesage' is not a callback; did you mean 'on_message'?"),
    "start": (HELLO + "def on_worker_start(worker):\n    raise OSError('no database')\n", "OSError: no database"),
}

SLOW_TO_START = HELLO + "async def on_worker_start(worker):\n    import asyncio\n    await asyncio.sleep(600)\n"

TELLS_ITS_END = (
    HELLO
    + """
def on_close(connection, code, reason):
    print(f"close {code}", flush=True)

async def on_worker_reload(worker):
    print(f"reload, {len(worker.connections)} connected", flush=True)

def on_worker_stop(worker):
    print(f"stop, {len(worker.connections)} connected", flush=True)
"""
)


@pytest.mark.parametrize("by", ["HUP", "wsworker reload"])
def test_new_code_under_constant_connects(make_daemon: MakeDaemon, by: str) -> None:
    """A reload refuses, resets and closes nobody; old clients and new ones are answered by the new code."""
    daemon = make_daemon(WHO, workers=3).start()
    old = daemon.workers
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect_to(pid)) for pid in old for _ in range(3)]
        loop = stack.enter_context(ConnectLoop(daemon))
        daemon.write_app(NEW_WHO)
        if by == "HUP":
            daemon.signal(signal.SIGHUP)
        else:
            assert 0 == daemon.cli("reload").code
        status = daemon.wait_status(
            lambda status: (
                status["reloads"] == 1
                and status["state"] == "running"
                and not {row["pid"] for row in status["workers"]} & {*old}
            )
        )
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 50, "clients after the reload")
        for client, pid in zip(clients, (pid for pid in daemon.workers for _ in range(3)), strict=True):
            client.send("code?")
            assert f"{pid} new code?" == client.recv(10)
    loop.check()
    assert 0 == loop.told_to_go
    assert ("ok", 2) == (status["last_reload"]["result"], status["generation"])
    assert [2, 2, 2] == [row["generation"] for row in status["workers"]]
    assert 0 == status["totals"]["restarts"]
    for pid in daemon.workers:
        with daemon.connect_to(pid) as client:
            client.send("code?")
            assert f"{pid} new code?" == client.recv(10)


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_code_changes_nothing(make_daemon: MakeDaemon, kind: str) -> None:
    """Code that does not start is refused: exit 1, the user's own traceback, and the old workers as if nothing was."""
    daemon = make_daemon(HELLO, workers=2).start()
    before = daemon.workers
    with daemon.connect() as client, ConnectLoop(daemon) as loop:
        text, last_line = BROKEN[kind]
        daemon.write_app(text)
        refused = daemon.cli("reload")
        assert (1, "") == (refused.code, refused.out)
        assert "error: the new code does not start; the 2 old workers keep serving\n" in refused.err
        assert last_line in refused.err
        assert refused.err.count("Traceback") <= 1
        refused.check_tone()

        client.send("tom")
        assert "hello tom" == client.recv(10)
    loop.check()
    assert 0 == loop.told_to_go
    status = daemon.status()
    assert before == [row["pid"] for row in status["workers"]]
    assert ("running", 0, 1) == (status["state"], status["reloads"], status["generation"])
    assert "refused" == status["last_reload"]["result"]

    daemon.write_app(NEW_HELLO)
    assert 0 == daemon.cli("reload").code
    assert "welcome tom" == daemon.echo("tom")
    # nor was the app told that the bus has lost something
    assert "may be missing" not in daemon.log


def test_a_slot_that_fails_later_makes_it_partial(make_daemon: MakeDaemon) -> None:
    """If a worker behind the canary does not start, the roll stops: exit 1, "partial", the others keep the old code."""
    daemon = make_daemon(HELLO, workers=3).start()
    before = daemon.workers
    daemon.write_app(
        NEW_HELLO
        + "def on_worker_start(worker):\n    if worker.slot == 2:\n        raise OSError('no second database')\n"
    )
    partial = daemon.cli("reload", "--json")
    assert 1 == partial.code
    document = partial.document()
    assert ("partial", [1]) == (document["result"], [row["slot"] for row in document["workers"]])
    assert "OSError: no second database" in document["error"]["trace"]
    status = daemon.wait_status(lambda status: len(status["workers"]) == 3)
    assert [2, 1, 1] == [row["generation"] for row in status["workers"]]
    assert before[1:] == [row["pid"] for row in status["workers"][1:]]


def test_a_bad_config_is_refused(make_daemon: MakeDaemon) -> None:
    """A config with mistakes is refused with file:line:column and the source line; nothing changes."""
    daemon = make_daemon(HELLO).start()
    before = daemon.workers
    daemon.write_app(NEW_HELLO)
    daemon.write_config(wrokers=2)
    refused = daemon.cli("reload")
    assert (1, "") == (refused.code, refused.out)
    assert (
        "config.yaml:5:1: error: unknown key 'wrokers'; did you mean 'workers'?\n  wrokers: 2\n  ^^^^^^^\n"
        in refused.err
    )
    refused.check_tone()
    assert before == daemon.workers
    assert "hello tom" == daemon.echo("tom")


def test_what_needs_a_restart_is_said_and_the_rest_applies(make_daemon: MakeDaemon) -> None:
    """A changed listen stays as it was, with a note; max_size, changed in the same file, applies."""
    daemon = make_daemon(HELLO).start()
    daemon.write_config(listen=f"127.0.0.1:{free_port()}", websocket={"max_size": 5})
    reloaded = daemon.cli("reload")
    assert 0 == reloaded.code
    assert f"note: listen changed ({daemon.place('listen')}): needs a restart\n" in reloaded.err
    with daemon.connect() as client:
        client.send("12345")
        assert "hello 12345" == client.recv(10)
        client.send("123456")
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(10)
    assert closed.value.rcvd is not None
    assert 1009 == closed.value.rcvd.code


def test_another_number_of_workers_is_not_ignored(make_daemon: MakeDaemon) -> None:
    """A changed number of workers applies, or a note says that it needs a restart."""
    daemon = make_daemon(WHO, workers=1).start()
    daemon.write_config(workers=2)
    reloaded = daemon.cli("reload")
    assert 0 == reloaded.code, reloaded.err
    noted = f"note: workers changed ({daemon.place('workers')}): needs a restart\n" in reloaded.err
    assert noted or 2 == daemon.status()["workers_ready"]


def test_a_reload_counts_whom_it_asked_to_reconnect(make_daemon: MakeDaemon) -> None:
    """The result names as many connections as got 1012, also those that have come a moment ago."""
    daemon = make_daemon(HELLO, reload_strategy="drain").start()
    with daemon.connect() as client:
        client.send("tom")
        assert "hello tom" == client.recv(10)
        reloaded = daemon.cli("reload")
        with pytest.raises(ConnectionClosedError):
            client.recv(10)
    assert f"reloaded {daemon.name}: 1 worker, 1 connection asked to reconnect (1012), " in reloaded.out


def test_a_reload_counts_who_has_moved(make_daemon: MakeDaemon) -> None:
    """It names as many as have moved, and how long the longest of them was not served."""
    daemon = make_daemon(HELLO).start()
    with daemon.connect() as client:
        client.send("tom")
        assert "hello tom" == client.recv(10)
        reloaded = daemon.cli("reload")
        client.send("tom")
        assert "hello tom" == client.recv(10)
    line = (
        rf"reloaded {daemon.name}: 1 worker, 1 connection moved, 0 asked to reconnect \(1012\), longest pause \d+ ms, "
    )
    assert re.match(line, reloaded.out), reloaded.out


def test_the_document_of_a_reload(make_daemon: MakeDaemon) -> None:
    """`reload --json` prints one document, with a row for each slot, and nothing else; errors as well."""
    daemon = make_daemon(HELLO, workers=2).start()
    old = daemon.workers
    reloaded = daemon.cli("reload", "--json")
    assert (0, "") == (reloaded.code, reloaded.err)
    document = reloaded.document()
    assert (1, daemon.name, "ok", None) == tuple(document[key] for key in ("schema", "name", "result", "error"))
    assert (0, []) == (document["asked"], document["restart_needed"])
    assert [
        {"slot": slot, "old_pid": pid, "new_pid": new, "canary": slot == 1}
        for slot, pid, new in zip((1, 2), old, daemon.workers, strict=True)
    ] == [{key: value for key, value in row.items() if key != "seconds"} for row in document["workers"]]

    daemon.write_app(BROKEN["import"][0])
    refused = daemon.cli("reload", "--json")
    assert (1, "") == (refused.code, refused.err)
    assert "reload_refused" == refused.document()["error"]["code"]

    daemon.write_config(wrokers=2)
    refused = daemon.cli("reload", "--json")
    assert (1, "") == (refused.code, refused.err)
    assert "config_invalid" == refused.document()["error"]["code"]


def test_without_waiting(make_daemon: MakeDaemon) -> None:
    """`reload --no-wait` only asks; the reload happens all the same."""
    daemon = make_daemon(HELLO).start()
    daemon.write_app(NEW_HELLO)
    asked = daemon.cli("reload", "--no-wait")
    assert (0, "") == (asked.code, asked.err)
    daemon.wait_status(lambda status: status["reloads"] == 1 and status["state"] == "running")
    assert "welcome tom" == daemon.echo("tom")


def test_several_reloads_at_once(make_daemon: MakeDaemon) -> None:
    """Reloads asked for during a reload become one, every caller is answered, and the newest code wins."""
    # the canary of the first reload waits for a file, so that the others surely come in the middle of it
    gate = "import os, time\nwhile not os.path.exists('gate'):\n    time.sleep(0.01)\n"
    daemon = make_daemon(HELLO).start("--log-level", "debug")
    daemon.write_app(gate + HELLO)
    commands = [daemon.cli_begin("reload", "--json")]
    daemon.wait_status(lambda status: status["state"] == "reloading")
    commands += [daemon.cli_begin("reload", "--json") for _ in range(3)]
    eventually(lambda: daemon.log.count("event ReloadRequested") == 4, "the master has heard all of them")
    daemon.write_app(gate + NEW_HELLO)
    (daemon.folder / "gate").touch()
    outcomes = [finish(command) for command in commands]
    assert [0] * 4 == [outcome.code for outcome in outcomes], outcomes
    assert [2, 3, 3, 3] == [outcome.document()["generation"] for outcome in outcomes]
    assert (2, "welcome tom") == (daemon.status()["reloads"], daemon.echo("tom"))


def test_a_stop_during_a_reload(make_daemon: MakeDaemon) -> None:
    """Stop wins: the waiting reload is answered with exit 1, and nothing is left."""
    daemon = make_daemon(HELLO, workers=2).start()
    daemon.write_app(SLOW_TO_START)
    reload = daemon.cli_begin("reload")
    daemon.wait_status(lambda status: status["state"] == "reloading")
    # the canary is on its way before the command is stopped
    daemon.wait_log("worker 2")
    stopped = daemon.cli("stop")
    assert 0 == stopped.code, stopped.err
    outcome = finish(reload)
    assert 1 == outcome.code
    assert "error: the service is stopping" in outcome.err
    assert 0 == daemon.wait_exit()
    daemon.wait_gone()


def test_the_old_worker_says_goodbye_in_order(make_daemon: MakeDaemon) -> None:
    """A drain calls on_worker_reload, then on_close for each connection, on_worker_stop last; a stop only those."""
    daemon = make_daemon(TELLS_ITS_END, reload_strategy="drain").start()
    with daemon.connect() as client:
        client.send("tom")
        client.recv(10)
        assert 0 == daemon.cli("reload").code
        with pytest.raises(ConnectionClosedError):
            client.recv(10)
    eventually(lambda: "stop" in daemon.out, "the end of the old worker")
    assert ["reload, 1 connected", "close 1012", "stop, 0 connected"] == daemon.out.splitlines()

    with daemon.connect() as client:
        client.send("tom")
        client.recv(10)
        daemon.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosedOK):
            client.recv(10)
        assert 0 == daemon.wait_exit()
    assert ["close 1001", "stop, 0 connected"] == daemon.out.splitlines()[3:]


def test_the_old_worker_hands_over_in_order(make_daemon: MakeDaemon) -> None:
    """A reload calls on_worker_reload, and on_worker_stop when all have moved; on_close comes where they end."""
    daemon = make_daemon(TELLS_ITS_END).start()
    with daemon.connect() as client:
        client.send("tom")
        client.recv(10)
        assert 0 == daemon.cli("reload").code
        eventually(lambda: "stop" in daemon.out, "the end of the old worker")
        assert ["reload, 1 connected", "stop, 0 connected"] == daemon.out.splitlines()
    eventually(lambda: daemon.out.splitlines()[2:] == ["close 1000"], "the end of the connection")


def test_reloads_pile_up_nothing(make_daemon: MakeDaemon) -> None:
    """Twenty reloads leave the master with no more descriptors than before, and one worker a slot."""
    daemon = make_daemon(HELLO, workers=2).start()
    descriptors = f"/proc/{daemon.master}/fd"
    before = len(os.listdir(descriptors))
    for number in range(1, 21):
        daemon.signal(signal.SIGHUP)
        daemon.wait_status(over(number))
    daemon.wait_status(lambda status: len(status["workers"]) == 2)
    # less is possible: the question for the master's pid was a descriptor when they were counted
    eventually(lambda: len(os.listdir(descriptors)) <= before, "no more descriptors than before")


def over(reloads: int) -> Callable[[Mapping[str, Any]], bool]:
    """Return a fact for wait_status: so many reloads have been made, and the last one is over."""
    return lambda status: status["reloads"] == reloads and status["state"] == "running"
