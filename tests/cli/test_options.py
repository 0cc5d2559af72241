"""The global options and the two voices."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from tests.cli.conftest import Place, Result
from wsworker.cli.failures import failure
from wsworker.cli.options import Settings, epilog


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "other.yaml", "status"),
        ("status", "-c", "other.yaml"),
        ("-c", "config.yaml", "status", "-c", "other.yaml"),
    ],
)
def test_before_and_behind_the_command(
    place: Place, wsworker: Callable[..., Result], arguments: tuple[str, ...]
) -> None:
    """A global option means the same in both positions; the last one counts."""
    (place.folder / "other.yaml").write_text("name: other-cli-test\n")
    result = wsworker(*arguments)
    assert (3, "other-cli-test") == (result.code, result.out.split()[0])


def test_silence_undoes_nothing(wsworker: Callable[..., Result]) -> None:
    """--json before the command holds although the command has the option too."""
    assert "stopped" == json.loads(wsworker("--json", "status").out)["state"]


def test_the_environment_names_the_file(
    place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """WSWORKER_CONFIG comes before the file of the current folder, and -c before it."""
    (place.folder / "other.yaml").write_text("name: other-cli-test\n")
    monkeypatch.setenv("WSWORKER_CONFIG", "other.yaml")
    assert wsworker("status").out.startswith("other-cli-test  ")
    assert wsworker("status", "-c", "config.yaml").out.startswith("cli-test  ")


@pytest.mark.parametrize("arguments", [("-c", "", "status"), ("status", "-c", ""), ("-c", "", "stop", "-c", "x.yaml")])
def test_an_empty_name_of_a_file(wsworker: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """It is a mistake, such as a variable that is not set, and no word for the file of this folder."""
    result = wsworker(*arguments)
    assert (2, "") == (result.code, result.out)
    assert result.err.startswith("error: FILE of -c is empty; name a file, or leave -c out (see `wsworker")


@pytest.mark.parametrize("arguments", [("--version",), ("status", "--version")])
def test_version(wsworker: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """--version needs no config file and runs no command."""
    result = wsworker(*arguments)
    assert (0, "wsworker") == (result.code, result.out.split()[0])


def test_results_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Results go to standard output, progress to standard error, colour to neither while they are no terminals."""
    settings = Settings()
    settings.progress("on the way")
    settings.result(click.style("done", fg="green"), {"schema": 1})
    assert ("done\n", "on the way\n") == tuple(capsys.readouterr())


def test_what_cannot_be_written_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no reason to end half-way, nor to end with another exit code than the failure's."""
    with open("/dev/full", "wb", buffering=0) as full:
        stream = io.TextIOWrapper(full, write_through=True)
        monkeypatch.setattr(sys, "stderr", stream)
        Settings().progress("on the way")
        Settings().failure(failure(1, "timeout", "too late"))
        # it would try once more at its end
        stream.detach()


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json nothing but the document is said."""
    settings = Settings(json=True)
    settings.progress("on the way")
    settings.result("done", {"schema": 1})
    assert ('{"schema": 1}\n', "") == tuple(capsys.readouterr())


def test_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a line on standard error, or a document on standard output."""
    failed = failure(1, "timeout", "too late")
    Settings().failure(failed)
    assert ("", "error: too late\n") == tuple(capsys.readouterr())
    Settings(json=True).failure(failed)
    out, err = capsys.readouterr()
    assert ({"schema": 1, "error": {"code": "timeout", "message": "too late"}}, "") == (json.loads(out), err)


def test_colour_by_force(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--color always colours a pipe too, even against NO_COLOR; only the word error is red."""
    monkeypatch.setenv("NO_COLOR", "1")
    Settings(color="always").failure(failure(1, "timeout", "too late"))
    assert "\x1b[31merror:\x1b[0m too late\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("color", "no_color", "expected"),
    [("auto", "", None), ("auto", "1", False), ("never", "", False), ("always", "1", True)],
)
def test_who_decides_on_colour(
    color: str, no_color: str, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--color, else NO_COLOR if it holds anything, else the terminal, which is asked by click."""
    monkeypatch.setenv("NO_COLOR", no_color)
    assert expected is Settings(color=color).colored()


def test_a_dumb_terminal_has_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would show the bytes; whoever wants them all the same says so."""
    monkeypatch.setenv("TERM", "dumb")
    assert (False, True) == (Settings().colored(), Settings(color="always").colored())


def test_the_end_of_help() -> None:
    """Codes in their order, with that of a wrong usage; the example keeps its line."""
    expected = "Exit codes: 0 done; 2 wrong usage; 7 nothing running.\n\n\b\nExample: wsworker reopen"
    assert expected == epilog({7: "nothing running", 0: "done"}, "wsworker reopen")


def complete(words: str, shell: str = "bash") -> list[str]:
    """Return what the shell is told when Tab is pressed behind these words."""
    environ = os.environ | {"_WSWORKER_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
    environ["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    command = [sys.executable, "-m", "wsworker"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=30).stdout.split()


def test_completion_of_commands_and_options(place: Place) -> None:
    """Click does it, in the program that the line in the start file of the shell calls."""
    assert ["plain,status"] == complete("wsworker stat")
    assert ["plain,--quick"] == complete("wsworker stop --q")
    assert {"plain,auto", "plain,always", "plain,never"} == {*complete("wsworker --color ")}


def test_completion_of_config_files(place: Place) -> None:
    """The YAML files of the folder, also below a path; where there is none the shell looks for folders."""
    (place.folder / "conf").mkdir()
    for name in ("conf/a.yml", "conf/b.yaml", "conf/.hidden.yaml", "notes.txt"):
        (place.folder / name).touch()
    assert ["plain,config.yaml"] == complete("wsworker -c ")
    assert ["plain,conf/a.yml", "plain,conf/b.yaml"] == complete("wsworker status -c conf/")
    assert ["plain,conf/.hidden.yaml"] == complete("wsworker -c conf/.")
    assert ["dir,no"] == complete("wsworker -c no")
    assert ["dir,nosuch/x"] == complete("wsworker -c nosuch/x")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(place: Place) -> None:
    """The line for ~/.bashrc works: bash takes the function, and the function finds the command."""
    script = """
    eval "$(_WSWORKER_COMPLETE=bash_source wsworker)"
    complete -p wsworker
    COMP_WORDS=(wsworker stat) COMP_CWORD=1
    _wsworker_completion wsworker
    echo "${COMPREPLY[@]}"
    """
    program = place.folder / "wsworker"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsworker "$@"\n')
    program.chmod(0o755)
    environ = os.environ | {"PATH": f"{place.folder}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=True, timeout=30)
    assert ["complete -o nosort -F _wsworker_completion wsworker", "status"] == ended.stdout.splitlines()
