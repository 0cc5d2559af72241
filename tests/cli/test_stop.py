"""`wsworker stop`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Place, Result, Script, Turns
from wsworker.cli import ask
from wsworker.cli.failures import Failed
from wsworker.cli.options import Settings
from wsworker.cli.stop import Stopped, ask_to_stop, patience, wait_until_gone
from wsworker.master.rundir import start_ticks
from wsworker.wire import Command

SCRIPT: Script = {"status": [STATUS], "stop": [{"result": "stopped", "cut": 0, "killed": 0}]}


def test_the_line() -> None:
    """How many connections were closed, and how long it took."""
    assert (
        "stopping hello (pid 4242): 1 connection closed (1001), stopped in 0.3 s"
        == Stopped("hello", 4242, 1, 0.3).line()
    )
    text = "stopping hello (pid 4242): 2 connections closed (1001), 3 cut, 1 worker killed, stopped in 7.1 s"
    assert text == Stopped("hello", 4242, 2, 7.1, cut=3, killed=1).line()
    assert "stopping hello (pid 4242): stopped in 2.1 s" == Stopped("hello", 4242, None, 2.1).line()


@pytest.mark.parametrize(("option", "quick"), [((), False), (("--quick",), True)])
def test_stop(
    place: Place,
    wsworker: Callable[..., Result],
    running: Callable[[Script], Answering],
    option: tuple[str, ...],
    quick: bool,
) -> None:
    """It returns when the lock is free, and tells what has happened."""
    master = running(SCRIPT)
    result = wsworker("stop", *option)
    assert (0, "") == (result.code, result.err)
    assert result.out.startswith(f"stopping {NAME} (pid 4242): 1 connection closed (1001), stopped in ")
    assert [Command("status"), Command("stop", quick)] == master.heard
    assert not place.paths.socket.exists()
    assert 7 == wsworker("stop").code


def test_json(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The document has the same facts."""
    running(SCRIPT)
    document = json.loads(wsworker("stop", "--json").out)
    assert document.pop("seconds") >= 0
    facts = {"connections": 1, "cut": 0, "killed": 0}
    assert {"schema": 1, "result": "stopped", "name": NAME, "pid": 4242, **facts} == document


def test_who_got_no_goodbye(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """They do not count as closed, however many there were in the beginning."""
    running({"status": [STATUS], "stop": [{"result": "stopped", "cut": 2, "killed": 1}]})
    result = wsworker("stop")
    assert (0, True) == (result.code, ": 0 connections closed (1001), 2 cut, 1 worker killed, " in result.out)


def test_a_master_of_an_earlier_version(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """It does not say who was cut."""
    running({"status": [STATUS], "stop": [{"result": "stopped"}]})
    assert ": 1 connection closed (1001), stopped in " in wsworker("stop").out


def test_a_master_that_hangs_up_and_ends(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """If it was killed meanwhile, it has stopped all the same: the lock decides. Its clients are unknown."""
    running({"status": [STATUS], "stop": []})
    result = wsworker("stop")
    assert (0, True) == (result.code, result.out.startswith(f"stopping {NAME} (pid 4242): stopped in "))


def test_nothing_runs(place: Place, wsworker: Callable[..., Result]) -> None:
    """Then the exit code is 7, and the line names the socket and the next step."""
    result = wsworker("stop")
    expected = f"error: {NAME} is not running (no socket at {place.paths.socket}); start it with `wsworker start`\n"
    assert (7, "", expected) == (result.code, result.out, result.err)
    assert "not_running" == json.loads(wsworker("stop", "--json").out)["error"]["code"]


@pytest.mark.parametrize(("option", "name"), [((), "SIGTERM"), (("--quick",), "SIGQUIT")])
def test_a_deaf_master(
    wsworker: Callable[..., Result],
    deaf: Callable[[str], subprocess.Popen[str]],
    option: tuple[str, ...],
    name: str,
) -> None:
    """Who does not answer is signalled by the pid file, and waited for."""
    process = deaf("pid")
    result = wsworker("stop", *option)
    assert 0 == result.code
    assert result.out.startswith(f"stopping {NAME} (pid {process.pid}): stopped in ")
    assert f"{NAME} (pid {process.pid}) does not answer; sent it {name.removeprefix('SIG')} and CONT\n" == result.err
    assert process.stdout is not None
    assert f"{name}\n" == process.stdout.readline()


def test_a_deaf_master_without_a_pid_file(
    wsworker: Callable[..., Result], deaf: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Nobody is signalled then, and it is no success."""
    process = deaf("")
    result = wsworker("stop")
    assert (1, None) == (result.code, process.poll())
    assert "no pid file says which process it is" in result.err


def test_a_master_that_does_not_understand(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """One of another version is ended by a signal as well, so that a service can be stopped after an upgrade."""
    running({"status": [{"error": {"code": "usage", "message": "unknown command"}}]})
    result = wsworker("stop")
    assert (1, True) == (result.code, "no pid file says which process it is" in result.err)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a process somebody else's")
def test_a_pid_file_that_aims_at_somebody_else(
    place: Place, wsworker: Callable[..., Result], deaf: Callable[[str], subprocess.Popen[str]]
) -> None:
    """A process that is not of the owner of the run directory is never signalled."""
    process = deaf("")
    victim = subprocess.Popen(["sleep", "60"], user=65534)
    try:
        place.paths.pid.write_text(f"{victim.pid} {start_ticks(victim.pid)}\n")
        assert (1, None, None) == (wsworker("stop").code, victim.poll(), process.poll())
    finally:
        victim.kill()
        victim.wait()


def test_ctrl_c(running: Callable[[Script], Answering]) -> None:
    """Nobody takes the stop back: one sentence says that it goes on. What it waits for is shown meanwhile."""
    running({"status": [STATUS]})
    command = [sys.executable, "-m", "wsworker", "stop"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "  draining  1 connection, 0 s left\n" == process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    expected = f"{NAME} (pid 4242) goes on stopping; `wsworker status` shows how far it is\n"
    assert (130, expected) == (process.returncode, err)


def test_a_stop_that_takes_too_long(place: Place, running: Callable[[Script], Answering]) -> None:
    """When the time is over it fails and names the next steps."""
    running(SCRIPT)
    with pytest.raises(Failed) as caught:
        wait_until_gone(ask.locate(place.config, os.environ), 4242, time.monotonic() - 1)
    assert (1, "timeout") == (caught.value.exits_with, caught.value.code)
    assert "kill -KILL 4242" in caught.value.message


def test_patience(place: Place) -> None:
    """A stop may take as long as the master gives it, and 10 s; a broken file means the default."""
    assert 40 == patience(place.config, quick=False)
    assert 13 == patience(place.config, quick=True)
    place.config.write_text("graceful_timeout: 2m\napp: app\n")
    assert 130 == patience(place.config, quick=False)
    place.config.write_text("nonsense: 1\n")
    assert 40 == patience(place.config, quick=False)


def test_a_service_with_more_time_than_its_file_says(place: Place, running: Callable[[Script], Answering]) -> None:
    """A variable may have given it that; it tells how long its workers still have."""
    leaving = STATUS | {"workers": [{**STATUS["workers"][0], "drain_seconds": 40.0}]}
    running({"status": Turns(STATUS, leaving, None)})
    began_at = time.monotonic()
    service = ask.locate(place.config, os.environ)
    answer, give_up_at = ask_to_stop(Settings(), service, quick=False, give_up_at=began_at + 20)
    assert ({}, True) == (answer, began_at + 50 <= give_up_at <= time.monotonic() + 50)


def test_a_file_that_is_no_yaml_any_more(
    place: Place, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """It keeps no service from being stopped whose name stands above the mistake."""
    running(SCRIPT)
    place.config.write_text(f"name: {NAME}\napp: 'hello\n")
    assert 0 == wsworker("stop").code


def test_a_file_without_a_name_any_more(place: Place, wsworker: Callable[..., Result]) -> None:
    """Beside the mistake stands how to do without the file."""
    place.config.write_text(f"app: 'hello\nname: {NAME}\n")
    result = wsworker("stop")
    assert 78 == result.code
    note, error, *_ = result.err.splitlines()
    assert note.startswith("note: a service can be stopped without its file: `kill -TERM PID`")
    assert error.startswith("config.yaml:1:6: error: this quote is never closed")


def test_a_service_of_another_file(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The master refuses, and nobody waits for its end: 1."""
    refused = {"error": {"code": "other_config", "message": "chat runs with /other"}}
    running({"status": [STATUS], "stop": [refused]})
    assert Result(1, "", "error: chat runs with /other\n") == wsworker("stop")
