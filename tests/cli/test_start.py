"""`wsworker start`, as far as it goes without a service that runs; the tests of the whole daemon do the rest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.cli.conftest import NAME, STATUS, Answering, Place, Result, Script
from wsworker import configfile
from wsworker.cli.start import flags, load, need_linux, ready_line, status_command, told, warn
from wsworker.errors import ConfigError, PlatformError, Problem

SCRIPT: Script = {"status": [STATUS]}


def test_flags() -> None:
    """Only what was given becomes a flag; an address is a string in YAML, whatever it looks like."""
    assert {} == flags(None, (), None)
    assert {"workers": ("-w", "auto"), "log.level": ("--log-level", "debug")} == flags("auto", (), "debug")
    assert {
        "drain_window": ("--reload", "0"),
        "graceful_timeout": ("--reload", "2s"),
        "handover_timeout": ("--reload", "1s"),
    } == flags(None, (), None, follow=True)
    assert {"listen": ("-b", '"[::]:2346"')} == flags(None, ("[::]:2346",), None)
    assert {"listen": ("-b", '["a:1", "b:2"]')} == flags(None, ("a:1", "b:2"), None)


def test_flags_come_before_the_file(place: Place) -> None:
    """A loaded configuration has the values of the flags, and knows where they are from."""
    given = flags("3", ("[::1]:2346", "127.0.0.1:2346"), "debug")
    loaded = configfile.load(place.config, {}, given)
    assert (3, "debug") == (loaded.config.workers, loaded.config.log.level)
    assert ["[::1]:2346", "127.0.0.1:2346"] == [str(address) for address in loaded.config.listen]
    assert ["flag -w", "flag -b"] == [loaded.place("workers"), loaded.place("listen")]


def test_files_of_tls_are_looked_at(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong with one is a problem of the configuration, at the setting; bad dates are a warning."""
    pair = Authority(place.folder).issue("one")
    place.config.write_text("app: app\ntls:\n  certfile: one.crt\n  keyfile: one.key\n")
    path = Path("config.yaml")
    warn(load(path, {}, {}))
    assert [] == caplog.messages
    Authority(place.folder).expired("one")
    warn(load(path, {}, {}))
    text = f"clients will not take the certificate in {pair.certfile}: certificate has expired; replace it and reload"
    assert [f"config.yaml:3:13: {text}"] == caplog.messages
    pair.keyfile.unlink()
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    message = f"tls.keyfile: there is no file {pair.keyfile}; create it, or correct the path"
    problem = Problem("config.yaml", 4, 12, message, "  keyfile: one.key", 7)
    assert ("config.yaml", (problem,)) == (caught.value.file, caught.value.problems)
    pair.keyfile.write_text("nothing")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    message = f"tls.keyfile: {pair.keyfile} holds no private key in PEM form; name one that does"
    assert (Problem("config.yaml", 4, 12, message),) == caught.value.problems


@pytest.mark.parametrize(
    ("program", "config", "expected"),
    [
        ("bin/wsworker", None, "wsworker status"),
        ("bin/wsworker", "my hello.yaml", "wsworker status -c 'my hello.yaml'"),
        ("venv/wsworker", None, "venv/wsworker status"),
        ("/opt/venv/wsworker", "hello.yaml", "/opt/venv/wsworker status -c hello.yaml"),
        ("wsworker/__main__.py", None, f"{sys.executable} -m wsworker status"),
    ],
)
def test_how_to_ask_for_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, config: str | None, expected: str
) -> None:
    """The line can be typed in another terminal: it has -c, and a program that the shell does not find its path."""
    monkeypatch.chdir(tmp_path)
    Path("bin").mkdir()
    Path("bin/wsworker").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "argv", [program])
    assert expected == status_command(config)


def test_other_systems() -> None:
    """On another system the start ends in one sentence."""
    need_linux("linux")
    with pytest.raises(PlatformError, match="runs on Linux only, this is darwin"):
        need_linux("darwin")


def test_the_ready_line() -> None:
    """What `start -d` prints: a service that lacks a worker does not call itself ready."""
    outcome = {"name": "hello", "pid": 4242, "workers": 4}
    assert "hello is ready: 4 workers, pid 4242" == ready_line(outcome)
    assert "hello is ready: 1 worker, pid 4242" == ready_line(outcome | {"workers": 1})


def test_what_came_through_the_pipe() -> None:
    """A failure of the daemon keeps its error code; a sentence of detach has none."""
    text = json.dumps({"error": {"code": "bind_failed", "message": "cannot listen"}})
    failure = told(1, text)
    assert (1, "error: cannot listen", "bind_failed") == (failure.exit_code, failure.text, failure.details["code"])
    failure = told(1, "the service ended without a word")
    assert (1, "error: the service ended without a word") == (failure.exit_code, failure.text)
    assert "failed" == failure.details["code"]


def test_background_needs_a_log(wsworker: Callable[..., Result]) -> None:
    """Without a terminal there must be a file: 78, as it is the configuration that lacks it."""
    result = wsworker("start", "-d")
    expected = "error: -d needs `log.file`: there will be no terminal to log to\n"
    assert (78, "", expected) == (result.code, result.out, result.err)


def test_background_under_systemd(wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Systemd wants the foreground: -d is a wrong use there."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    assert 2 == wsworker("start", "-d").code


def test_following_is_for_a_terminal(wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """--reload is a wrong use in the background and under systemd, and says what to use there."""
    text = (
        "--reload is for development in a terminal and not with -d; use `wsworker reload` (see `wsworker start --help`)"
    )
    assert Result(2, "", f"error: {text}\n") == wsworker("start", "--reload", "-d")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    assert Result(2, "", f"error: {text}\n".replace("with -d", "under systemd")) == wsworker("start", "--reload")


def test_following_makes_goodbyes_short(place: Place) -> None:
    """Whatever the file says, a saved change is served soon."""
    place.config.write_text("app: app\ngraceful_timeout: 5m\n")
    loaded = configfile.load(place.config, {}, flags(None, (), None, follow=True))
    assert (0.0, 2.0) == (loaded.config.drain_window, loaded.config.graceful_timeout)
    assert "flag --reload" == loaded.place("graceful_timeout")


@pytest.mark.parametrize("strategy", ["handover", "drain"])
def test_in_development_connections_move_unless_the_file_says_otherwise(place: Place, strategy: str) -> None:
    """Who is busy is told to reconnect while there is time for that."""
    place.config.write_text(f"app: app\nreload_strategy: {strategy}\n")
    config = configfile.load(place.config, {}, flags(None, (), None, follow=True)).config
    assert strategy == config.reload_strategy
    assert config.handover_timeout < config.graceful_timeout


def test_a_wrong_config(place: Place, wsworker: Callable[..., Result]) -> None:
    """All problems are shown, flags included: 78."""
    place.config.write_text("app: app\nwrokers: 4\n")
    result = wsworker("start", "-w", "0")
    assert 78 == result.code
    assert ["config.yaml:2:1: error:", "flag -w: error:"] == [
        line.partition("error:")[0] + "error:" for line in result.err.splitlines() if " error: " in line
    ]


def test_already_running(place: Place, program: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """A second start fails with one line, in the foreground as in the background."""
    running(SCRIPT)
    place.paths.pid.write_text(f"{os.getpid()} 0\n")
    expected = f"error: {NAME} is already running; use `wsworker reload` or `wsworker restart`\n"
    assert Result(1, "", expected) == program("start")
    place.config.write_text(place.config.read_text() + "log: {file: test.log}\n")
    assert Result(1, "", expected) == program("start", "-d")
    result = program("start", "-d", "--json")
    assert (1, "", "already_running") == (result.code, result.err, json.loads(result.out)["error"]["code"])
    # the log is that of the service that runs
    assert "" == (place.folder / "test.log").read_text()


def test_another_of_that_name_runs(
    place: Place, program: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """It is not ours to reload: its config file is named, in the foreground as in the background."""
    other = place.folder / "other.yaml"
    other.touch()
    running({"status": [STATUS | {"config": str(other)}]})
    expected = f"error: another {NAME} runs with {other}; give this one its own `name` and `listen`\n"
    assert Result(1, "", expected) == program("start")
    place.config.write_text(place.config.read_text() + "log: {file: test.log}\n")
    assert Result(1, "", expected) == program("start", "-d")


@pytest.mark.parametrize("option", [(), ("-d",)], ids=["foreground", "background"])
def test_a_broken_app(place: Place, program: Callable[..., Result], option: tuple[str, ...]) -> None:
    """The user sees their own traceback, once: 78. In the background the log has it too."""
    (place.folder / "app.py").write_text("x = 1 / 0\n")
    place.config.write_text(place.config.read_text() + "log: {file: test.log}\n")
    result = program("start", *option)
    assert (78, "") == (result.code, result.out)
    assert result.err.startswith("error: ")
    assert 1 == result.err.count("ZeroDivisionError: division by zero")
    assert ("ZeroDivisionError" in (place.folder / "test.log").read_text()) is bool(option)
    assert not place.paths.socket.exists()


def test_a_log_that_cannot_be_written(place: Place, program: Callable[..., Result]) -> None:
    """The daemon's first failure reaches the terminal as well."""
    place.config.write_text(place.config.read_text() + "log: {file: /nowhere/test.log}\n")
    result = program("start", "-d")
    assert (1, True) == (result.code, result.err.startswith("error: cannot open the log file /nowhere/test.log: "))


def test_there_and_back(place: Place, program: Callable[..., Result]) -> None:
    """A service that was started with -d is ready, and can be seen and stopped."""
    place.config.write_text(place.config.read_text() + "log: {file: test.log}\n")
    started = program("start", "-d", "--json")
    try:
        document = json.loads(started.out)
        pid = document.pop("pid")
        assert {"schema": 1, "name": NAME, "workers": 1} == document
        assert pid == json.loads(program("status", "--json").out)["pid"]
    finally:
        stopped = program("stop")
    assert (0, 0, "") == (started.code, stopped.code, stopped.err)
