"""`wsworker takeover`, as far as it goes without a service: what a rehearsal says, and what is no estate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.cli.conftest import Place, Result
from tests.master.forks import readable
from tests.master.test_estate import made
from wsworker import configfile
from wsworker.cli.main import COMMANDS, HIDDEN
from wsworker.cli.version import version
from wsworker.master.estate import Call, Estate, encode, settings_of
from wsworker.memory import open_memory

BY_HAND = "`takeover` is what a master calls, and nobody else; use `wsworker upgrade`"


def given(data: bytes, *arguments: str) -> Result:
    """Run it with what a master would leave, in a file in memory that stands at its end."""
    file = open_memory("estate")
    os.write(file, data)
    command = [sys.executable, "-m", "wsworker", "takeover", str(file), *arguments]
    ended = subprocess.run(command, pass_fds=(file,), capture_output=True, text=True, timeout=60, check=False)
    os.close(file)
    return Result(ended.returncode, ended.stdout, ended.stderr)


def rehearsed(data: bytes) -> tuple[int, Any]:
    """Have it rehearse; return the exit code and what it says in its only line."""
    ended = given(data, "--rehearse")
    assert "" == ended.err
    (line,) = ended.out.splitlines()
    return ended.code, json.loads(line)


@pytest.fixture
def estate(place: Place) -> Estate:
    """Give what a master of this place leaves."""
    loaded = configfile.load(place.config, {}, {})
    call = Call(str(place.config), "config.yaml")
    return made(call=call, settings=settings_of(loaded.config, loaded.origins))


def test_it_says_its_version(estate: Estate) -> None:
    """Nothing is taken over, and no descriptor of the estate is touched: there are none in that process."""
    assert (0, {"version": version()}) == rehearsed(encode(estate))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"format": 99},
            "it speaks otherwise with its workers than 0.1.0, which runs; restart the service instead",
        ),
        (
            {"layout": "of older code"},
            "it speaks otherwise with its workers than 0.1.0, which runs; restart the service instead",
        ),
        (
            {"lock": "none"},
            "it does not understand what 0.1.0, which runs, knows (lock); restart instead",
        ),
    ],
)
def test_what_it_cannot_go_on_with(estate: Estate, changes: dict[str, Any], error: str) -> None:
    """It says why, and 1."""
    document = json.loads(encode(estate)) | changes
    assert (1, {"error": error}) == rehearsed(json.dumps(document).encode())


def test_a_setting_that_it_does_not_know(estate: Estate) -> None:
    """It was accepted by the one that runs."""
    estate.settings.values["turbo"] = True
    error = "it has no setting 'turbo', with which the service runs; restart the service instead"
    assert (1, {"error": error}) == rehearsed(encode(estate))


def test_a_config_file_that_a_reload_would_refuse(place: Place, estate: Estate) -> None:
    """It is read as the reload behind the upgrade would read it, flags and all, before anything has happened."""
    place.config.write_text(f"{place.config.read_text()}workers: none\n")
    code, said = rehearsed(encode(estate))
    assert (1, ["error"]) == (code, [*said])
    assert said["error"].startswith("config.yaml:4:10: error: workers must be")
    flags = {"workers": ("-w", "2")}
    assert (0, {"version": version()}) == rehearsed(encode(replace(estate, call=replace(estate.call, flags=flags))))


def test_a_config_file_that_is_gone(place: Place, estate: Estate) -> None:
    """A reload would be refused, too."""
    place.config.unlink()
    code, said = rehearsed(encode(estate))
    assert 1 == code
    assert "config.yaml: error: no such file; create it" in said["error"]


def test_a_log_that_cannot_be_opened(place: Place, estate: Estate) -> None:
    """The new program could not go on without it: it says so before anything has happened."""
    file = place.folder / "logs" / "x.log"
    estate.settings.values["log.file"] = str(file)
    words = f"cannot open the log file {file}: No such file or directory; change `log.file` or make it writable"
    assert (1, {"error": words}) == rehearsed(encode(estate))
    file.parent.mkdir()
    assert (0, {"version": version()}) == rehearsed(encode(estate))


WAITS = """
import os, sys
from wsworker.cli import takeover
from wsworker.cli.main import run
# where the rehearsal reads the configuration
takeover.load = lambda *_: [print("there", flush=True), os.read(0, 1)]
sys.exit(run(sys.argv[1:]))
"""

PARENT = """
import os, subprocess, sys
started = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], pass_fds=[int(sys.argv[3])])
print(started.pid, flush=True)
started.wait()
"""


def test_a_rehearsal_ends_with_its_master(estate: Estate) -> None:
    """Nobody would hear what it says, whatever it waits for."""
    file = open_memory("estate")
    os.write(file, encode(estate))
    command = [sys.executable, "-c", PARENT, WAITS, "takeover", str(file), "--rehearse"]
    with subprocess.Popen(
        command, pass_fds=(file,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        os.close(file)
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert "there\n" == parent.stdout.readline()
        pidfd = os.pidfd_open(pid)
        parent.kill()
        parent.wait(30)
        # its input stays open, and the end of the output is its own
        died = readable(pidfd)
        os.close(pidfd)
        assert died


@pytest.mark.parametrize("data", [b"", b"garbage", b"[]", b"\xff\xfe"])
def test_garbage(place: Place, data: bytes) -> None:
    """One line, whether it rehearses or not, and no traceback."""
    words = "what it was given is no estate; restart the service instead"
    assert (1, {"error": words}) == rehearsed(data)
    assert Result(1, "", f"error: {words}\n") == given(data)


@pytest.mark.parametrize("number", ["999", "1099511627776"])
def test_by_hand(program: Callable[..., Result], number: str) -> None:
    """There is no estate behind a number that is no descriptor."""
    assert Result(1, "", f"error: {BY_HAND}\n") == program("takeover", number)


def test_what_cannot_be_gone_on_with_is_not_executed(estate: Estate) -> None:
    """Behind an exec there is nobody to tell but standard error."""
    document = json.loads(encode(estate)) | {"format": 99}
    ended = given(json.dumps(document).encode())
    assert (1, "") == (ended.code, ended.out)
    assert ended.err.startswith("error: it speaks otherwise with its workers than 0.1.0")


def test_it_is_hidden(wsworker: Callable[..., Result]) -> None:
    """No list of commands has it, and no mistyped word leads there."""
    assert ("takeover",) == HIDDEN
    assert not {*HIDDEN} & COMMANDS.keys()
    assert "takeover" not in wsworker("--help").out
    assert "takeover" not in wsworker("takeove").err


@pytest.mark.parametrize("arguments", [(), ("seven",), ("3", "4")])
def test_wrong_use(wsworker: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """As of any command."""
    assert 2 == wsworker("takeover", *arguments).code
