"""`wsworker restart`; that the new service comes up is seen by the tests of the whole daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Place, Result, Script
from wsworker.cli import ask
from wsworker.cli.failures import Failed
from wsworker.cli.restart import master_pid, refuse_if_managed
from wsworker.wire import Command

SCRIPT: Script = {"status": [STATUS], "stop": [{"result": "stopped"}]}


def located(place: Place) -> ask.Service:
    """Return the service of the test's config file."""
    return ask.locate(place.config, os.environ)


def unit(proc: Path, parent: int) -> Path:
    """Write the process files of pid 4242, the main process of hello.service."""
    (proc / "4242").mkdir()
    (proc / "4242" / "stat").write_text(f"4242 (python) S {parent} 4242 4242 0\n")
    (proc / "4242" / "cgroup").write_text("0::/system.slice/hello.service\n")
    (proc / str(parent)).mkdir()
    (proc / str(parent) / "comm").write_text("systemd\n")
    return proc


@pytest.mark.parametrize(("parent", "command"), [(1, "systemctl"), (900, "systemctl --user")])
def test_a_service_of_systemd(
    place: Place, tmp_path: Path, running: Callable[[Script], Answering], parent: int, command: str
) -> None:
    """It is left to systemd, and the command for that is named."""
    running(SCRIPT)
    proc = tmp_path / "proc"
    proc.mkdir()
    with pytest.raises(Failed) as caught:
        refuse_if_managed(located(place), unit(proc, parent))
    assert ("managed", 1) == (caught.value.code, caught.value.exits_with)
    assert f"managed by hello.service: use {command} restart hello.service" == caught.value.message


def test_a_service_of_our_own(place: Place, tmp_path: Path, running: Callable[[Script], Answering]) -> None:
    """Nothing is refused if systemd has no part in it, or nothing runs."""
    refuse_if_managed(located(place), tmp_path)
    running(SCRIPT)
    refuse_if_managed(located(place), tmp_path)


def test_whose_pid(place: Place, running: Callable[[Script], Answering]) -> None:
    """The master says who it is."""
    assert master_pid(located(place)) is None
    running(SCRIPT)
    assert 4242 == master_pid(located(place))


def test_the_pid_of_a_deaf_master(place: Place, deaf: Callable[[str], subprocess.Popen[str]]) -> None:
    """Its pid file says who it is."""
    assert deaf("pid").pid == master_pid(located(place))


def test_a_service_of_another_file(
    place: Place, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """It is neither stopped nor taken for ours, whoever looks after it."""
    other = place.folder / "other.yaml"
    other.touch()
    master = running({**SCRIPT, "status": [STATUS | {"config": str(other)}]})
    expected = f"error: {NAME} runs with {other}; give this one its own `name`, or name that file with -c\n"
    assert Result(1, "", expected) == wsworker("restart")
    assert [Command("status")] == master.heard


def test_a_mistake_costs_nothing(
    place: Place, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """With a wrong config file, or wrong options, the old service is not even asked."""
    master = running(SCRIPT)
    place.config.write_text(place.config.read_text() + "wrokers: 4\n")
    assert 78 == wsworker("restart").code
    place.config.write_text("name: cli-test\napp: app\n")
    assert 78 == wsworker("restart", "-w", "0").code
    assert 78 == wsworker("restart", "-d").code
    assert [] == master.heard


def test_stop_then_start(place: Place, program: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The old service is stopped before the new one starts, whose failure is then that of `start`."""
    (place.folder / "app.py").write_text("def on_worker_start(worker):\n    1 / 0\n")
    master = running(SCRIPT)
    result = program("restart")
    assert 1 == result.code
    assert "stop" == master.heard[-1].name
    assert "stopping cli-test (pid 4242): 1 connection closed (1001), stopped in " in result.err.splitlines()[0]
    assert "ZeroDivisionError" in result.err


def test_ctrl_c_while_the_old_service_stops(place: Place, running: Callable[[Script], Answering]) -> None:
    """The stop goes on, and one sentence says that nothing follows it."""
    running({"status": [STATUS]})
    command = [sys.executable, "-m", "wsworker", "restart"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "draining" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (130, True) == (process.returncode, err.endswith(" how far it is; nothing is started after it\n"))


def test_what_runs_is_not_stopped_for_what_does_not_import(
    place: Place, program: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """Broken code is found before the stop; the caller gets the traceback."""
    (place.folder / "app.py").write_text("1 / 0\n")
    master = running(SCRIPT)
    result = program("restart")
    assert 78 == result.code
    assert "stop" not in [command.name for command in master.heard]
    assert "error: the new code does not start; cli-test keeps running: " in result.err
    assert "ZeroDivisionError" in result.err


def test_nothing_to_stop(place: Place, program: Callable[..., Result]) -> None:
    """It starts also when nothing ran."""
    (place.folder / "app.py").write_text("1 / 0\n")
    result = program("restart")
    assert 78 == result.code
    assert "stopping" not in result.err
