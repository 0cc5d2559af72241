"""Stop: gracefully, quickly, too early, and with clients or user code that do not want to."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import ClientConnection

from tests.system.clients import close_code, raw_open, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, Daemon, eventually, finish

BUSY = """
import asyncio

async def on_message(connection, data):
    connection.send("busy now")
    await asyncio.sleep(600)
"""

SLOW_TO_IMPORT = f"import time\nprint('importing', flush=True)\ntime.sleep(600)\n{HELLO}"


def ended(client: ClientConnection) -> int:
    """Return the code with which the server has closed."""
    with pytest.raises(ConnectionClosedOK) as closed:
        client.recv(10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def begin(daemon: Daemon, stack: ExitStack, clients: int) -> list[ClientConnection]:
    """Return clients that each had an answer."""
    connected = [stack.enter_context(daemon.connect()) for _ in range(clients)]
    for client in connected:
        client.send("tom")
        client.recv(10)
    return connected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_that_stop(make_daemon: MakeDaemon, number: signal.Signals) -> None:
    """TERM and INT stop gracefully, QUIT quickly: clients get 1001, the exit code is 0, the lock file alone stays."""
    daemon = make_daemon(HELLO, workers=2, pidfile="pid.txt").start()
    assert f"{daemon.master}\n" == (daemon.folder / "pid.txt").read_text()
    with ExitStack() as stack:
        clients = begin(daemon, stack, 5)
        daemon.signal(number)
        assert [1001] * 5 == [ended(client) for client in clients]
    assert 0 == daemon.wait_exit()
    daemon.wait_gone()
    assert [f"{daemon.name}.lock"] == os.listdir(daemon.run_dir)
    assert 3 == daemon.cli("status").code


@pytest.mark.parametrize("arguments", [(), ("--quick",)], ids=["graceful", "quick"])
def test_the_command(make_daemon: MakeDaemon, arguments: tuple[str, ...]) -> None:
    """`stop` and `stop --quick` return when nothing is left, and say how many clients they sent away."""
    daemon = make_daemon(HELLO, workers=2).start()
    with ExitStack() as stack:
        clients = begin(daemon, stack, 5)
        daemon.wait_status(lambda status: status["totals"]["connections"] == 5)
        stopped = daemon.cli("stop", *arguments)
        assert [1001] * 5 == [ended(client) for client in clients]
    assert (0, "") == (stopped.code, stopped.err)
    assert "5 connections closed (1001), stopped in " in stopped.out
    assert 0 == daemon.wait_exit()
    assert not daemon.processes()


def test_the_document_of_a_stop(make_daemon: MakeDaemon) -> None:
    """`stop --json` prints one document."""
    daemon = make_daemon().start()
    master = daemon.master
    document = daemon.cli("stop", "--json").document()
    assert (1, "stopped", daemon.name, master) == tuple(document[key] for key in ("schema", "result", "name", "pid"))


def test_a_second_signal_makes_it_quick(make_daemon: MakeDaemon) -> None:
    """Ctrl-C twice ends a stop that waits for a callback, long before graceful_timeout."""
    daemon = make_daemon(BUSY, graceful_timeout="1h").start()
    with daemon.connect() as client:
        client.send("work")
        client.recv(10)
        daemon.signal(signal.SIGINT)
        daemon.wait_status(lambda status: status["state"] == "stopping")
        daemon.signal(signal.SIGINT)
        assert 0 == daemon.wait_exit()


def test_a_callback_that_takes_longer_than_graceful_timeout(make_daemon: MakeDaemon) -> None:
    """A busy async callback is waited for, but no longer than graceful_timeout."""
    daemon = make_daemon(BUSY, graceful_timeout="300ms").start()
    with daemon.connect() as client:
        client.send("work")
        client.recv(10)
        assert 0 == daemon.cli("stop").code
        assert 0 == daemon.wait_exit()
    assert "1 cut" in daemon.log


def test_a_client_that_never_answers_the_close(make_daemon: MakeDaemon) -> None:
    """It gets 1001, and is cut when close_timeout is over; the stop waits no longer."""
    daemon = make_daemon(HELLO, websocket={"close_timeout": "300ms"}).start()
    with raw_open(daemon) as sock:
        daemon.signal(signal.SIGTERM)
        assert 1001 == close_code(read_to_end(sock))
        assert 0 == daemon.wait_exit()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_while_it_starts(make_daemon: MakeDaemon, number: signal.Signals) -> None:
    """An app that is still being imported does not hold up the stop."""
    daemon = make_daemon(SLOW_TO_IMPORT, workers=2)
    daemon.launch()
    eventually(lambda: "importing" in daemon.out, "the import has begun")
    assert "starting" == daemon.status()["state"]
    daemon.signal(number)
    assert 0 == daemon.wait_exit()
    assert not daemon.processes()
    assert "Traceback" not in daemon.log


def test_ctrl_c_while_it_starts_in_the_background(make_daemon: MakeDaemon) -> None:
    """Ctrl-C in the terminal of a `start -d` that has not returned yet stops the daemon again."""
    daemon = make_daemon(SLOW_TO_IMPORT, log={"file": "log.txt"})
    start = daemon.cli_begin("start", "-d")
    daemon.wait_status(lambda status: status["state"] == "starting")
    daemon.wait_log("importing")
    # the terminal sends it to the whole foreground group, which the daemon has left
    os.killpg(start.pid, signal.SIGINT)
    outcome = finish(start)
    assert 130 == outcome.code
    assert "interrupted; the service was stopped again\n" == outcome.err
    daemon.wait_gone()


def test_ctrl_c_reaches_the_whole_group(make_daemon: MakeDaemon) -> None:
    """Ctrl-C in the foreground reaches master and workers, and only the master obeys."""
    daemon = make_daemon(HELLO, workers=2)
    process = daemon.launch()
    daemon.wait_status(lambda status: status["state"] == "running")
    with ExitStack() as stack:
        clients = begin(daemon, stack, 4)
        os.killpg(process.pid, signal.SIGINT)
        assert [1001] * 4 == [ended(client) for client in clients]
    assert 0 == daemon.wait_exit()
    assert "Traceback" not in daemon.log
    assert " died" not in daemon.log


def test_a_master_that_stands_still_is_stopped(make_daemon: MakeDaemon) -> None:
    """A master under Ctrl-Z does not answer; `stop` wakes it and stops it by the pid file."""
    daemon = make_daemon().start()
    master = daemon.master
    daemon.signal(signal.SIGSTOP)
    try:
        assert 4 == daemon.cli("status").code
        stopped = daemon.cli("stop")
    finally:
        wake(master)
    assert 0 == stopped.code
    assert 0 == daemon.wait_exit()


def wake(pid: int) -> None:
    """Wake a process that may be gone."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


def test_restart(make_daemon: MakeDaemon) -> None:
    """`restart` stops what runs and starts anew, in the background with -d; it also starts where nothing ran."""
    daemon = make_daemon(HELLO, log={"file": "log.txt"})
    first = daemon.cli("restart", "-d")
    assert 0 == first.code, first.err
    old = daemon.master
    daemon.write_app(HELLO.replace("hello", "welcome"))
    second = daemon.cli("restart", "-d")
    assert 0 == second.code, second.err
    assert f"stopping {daemon.name} (pid {old}): " in second.err
    assert f"{daemon.name} is ready: 1 worker, pid {daemon.master}\n" == second.out
    assert old != daemon.master
    assert "welcome tom" == daemon.echo("tom")


def test_a_restart_with_a_bad_config_stops_nothing(make_daemon: MakeDaemon) -> None:
    """What would not start is told before anything is stopped."""
    daemon = make_daemon().start()
    before = daemon.master
    daemon.write_config(wrokers=1)
    restarted = daemon.cli("restart")
    assert 78 == restarted.code
    restarted.check_tone()
    assert before == daemon.master


def test_the_port_is_free_at_once(make_daemon: MakeDaemon) -> None:
    """After a stop the port is free at once: another start on it works without a pause."""
    daemon = make_daemon().start()
    assert "hello tom" == daemon.echo("tom")
    for _ in range(2):
        assert 0 == daemon.cli("stop").code
        with pytest.raises(ConnectionRefusedError):
            daemon.echo("tom")
        assert 0 == daemon.wait_exit()
        daemon.start()
    assert "hello tom" == daemon.echo("tom")


def test_a_program_of_the_user_does_not_keep_the_port(make_daemon: MakeDaemon) -> None:
    """A program that user code has started and that lives on holds no listener: the port is free after the stop."""
    app = "import subprocess\nprogram = subprocess.Popen(['sleep', '60'])\nprint(program.pid, flush=True)\n" + HELLO
    daemon = make_daemon(app).start()
    pid = int(eventually(lambda: daemon.out))
    try:
        assert 0 == daemon.cli("stop").code
        assert 0 == daemon.wait_exit()
        assert [pid] == [*daemon.processes()]
        daemon.write_app(HELLO)
        daemon.start()
        assert "hello tom" == daemon.echo("tom")
    finally:
        os.kill(pid, signal.SIGKILL)


def test_two_folders_with_one_name(make_daemon: MakeDaemon) -> None:
    """From the second folder nothing happens to the service of the first one, whose file every refusal names."""
    daemon = make_daemon(HELLO).start()
    master = daemon.master
    second = daemon.folder / "second"
    second.mkdir()
    (second / "app.py").write_text(HELLO)
    (second / "config.yaml").write_text(daemon.config.read_text())
    refusal = f"error: {daemon.name} runs with {daemon.config}; give this one its own `name`, or name that file with -c"
    for command in (["stop"], ["stop", "--quick"], ["reload"], ["reload", "--no-wait"], ["reopen"], ["restart"]):
        refused = daemon.cli(*command, "-c", "second/config.yaml")
        assert (1, "", [refusal]) == (refused.code, refused.out, refused.err.splitlines()[-1:]), command
    refused = daemon.cli("publish", "news", "hello", "-c", "second/config.yaml")
    assert (1, "", f"{refusal}\n") == (refused.code, refused.out, refused.err)
    started = daemon.cli("start", "-c", "second/config.yaml")
    advice = "give this one its own `name` and `listen`"
    assert f"error: another {daemon.name} runs with {daemon.config} (pid {master}); {advice}\n" == started.err
    assert str(daemon.config) in daemon.cli("status", "-c", "second/config.yaml").out
    assert (master, "hello tom") == (daemon.master, daemon.echo("tom"))
    # its own file commands it, by any path
    assert 0 == daemon.cli("stop", "-c", "second/../config.yaml").code
