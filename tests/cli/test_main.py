"""The group of commands, and how a run ends."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

import click
import pytest

from tests.cli.conftest import Answering, Place, Result, Script
from tests.cli.test_imports import DOCUMENT
from wsworker.cli.main import COMMANDS, commands, main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_says(name: str) -> None:
    """The list of commands has the first sentence of each, which is whole in a list."""
    command = getattr(importlib.import_module(f"wsworker.cli.{name}"), name)
    assert COMMANDS[name] == command.help
    assert len(COMMANDS[name]) <= 63


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",)])
def test_help(wsworker: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """Help lists every command; no arguments at all ask for it too."""
    result = wsworker(*arguments)
    assert (0, "") == (result.code, result.err)
    listed = result.out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert list(COMMANDS) == [line.split()[0] for line in listed.splitlines()]
    assert 'eval "$(_WSWORKER_COMPLETE=bash_source wsworker)"' in result.out


def test_help_of_a_command(wsworker: Callable[..., Result]) -> None:
    """-h works there too."""
    assert wsworker("start", "-h").out.startswith("Usage: wsworker start [OPTIONS]")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_ends_with_exit_codes_and_an_example(wsworker: Callable[..., Result], name: str) -> None:
    """In every command alike; wrong usage is 2 everywhere, and the example is a call of that command."""
    codes, example = wsworker(name, "--help").out.rstrip().split("\n\n")[-2:]
    codes = " ".join(codes.split())
    assert codes.startswith("Exit codes: 0 ")
    assert "; 2 wrong usage" in codes
    assert example.startswith("  Example: ")
    assert f"wsworker {name}" in example


def test_names_of_commands() -> None:
    """Click knows them, for the completion of shells, and knows no other."""
    context = click.Context(commands)
    assert list(COMMANDS) == commands.list_commands(context)
    assert commands.get_command(context, "version") is None


@pytest.mark.parametrize("arguments", [("nosuch",), ("status", "--nosuch"), ("start", "--log-level", "loud")])
def test_wrong_use(wsworker: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """A wrong use is one line that names the help: 2. With --json it is a document, wherever that stands."""
    result = wsworker(*arguments)
    assert (2, "", 1) == (result.code, result.out, len(result.err.splitlines()))
    assert result.err.startswith("error: ")
    assert "--help`)" in result.err
    result = wsworker(*arguments, "--json")
    assert (2, "", "usage") == (result.code, result.err, json.loads(result.out)["error"]["code"])


@pytest.mark.parametrize(
    ("word", "expected"),
    [("statu", "No such command 'statu'; did you mean 'status'?"), ("xyz", "No such command 'xyz'")],
)
def test_a_command_that_does_not_exist(wsworker: Callable[..., Result], word: str, expected: str) -> None:
    """The one that was probably meant is named."""
    assert Result(2, "", f"error: {expected} (see `wsworker --help`)\n") == wsworker(word)


def test_an_option_without_its_value(wsworker: Callable[..., Result]) -> None:
    """The help that is named is that of the command."""
    assert Result(2, "", "error: Option '-w' requires an argument (see `wsworker start --help`)\n") == wsworker(
        "start", "-w"
    )


@pytest.mark.parametrize(
    ("arguments", "code"), [(("status",), 4), (("status", "--json"), 4), (("check",), 1), (("--help",), 1)]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk(place: Place, arguments: tuple[str, ...], code: int, unbuffered: str) -> None:
    """A result that cannot be written is one line on standard error; to `status` 1 would mean a dead service."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "wsworker", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            text=True,
            timeout=30,
            check=False,
        )
    text = "error: cannot write to standard output: No space left on device\n"
    assert (code, text) == (ended.returncode, ended.stderr)


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("status", "--json"), ("stop", "--json"), ("schema",), ("--help",), ("status", "--help")],
    ids=" ".join,
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_has_gone(place: Place, arguments: tuple[str, ...], unbuffered: str) -> None:
    """`wsworker status | true` ends silently, and as every program in a pipe: 1 would mean a dead service."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "wsworker", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        text=True,
        timeout=30,
        check=False,
    )
    os.close(writer)
    assert (141, "") == (ended.returncode, ended.stderr)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("stop",), 7), (("stop", "--debug"), 7), (("stop", "--json"), 7), (("nonsense",), 2), (("start", "-w"), 2)],
)
def test_nobody_reads_standard_error(place: Place, arguments: tuple[str, ...], code: int) -> None:
    """The exit code tells of the failure all the same, and standard output is still written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "wsworker", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, text=True, timeout=30, check=False)
    os.close(writer)
    assert (code, "--json" in arguments) == (ended.returncode, '"not_running"' in ended.stdout)


@pytest.mark.parametrize("command", ["status >&-", "status --json >&-", "reload 2>&-", "stop 2>&-", "stop >&- 2>&-"])
def test_closed_streams(running: Callable[[Script], Answering], command: str) -> None:
    """They change nothing in what is done, nor in the exit code."""
    reloaded = {"result": "ok", "generation": 1, "workers": [], "asked": 0, "seconds": 0.1}
    running({"status": [DOCUMENT], "reload": [reloaded], "stop": [{"result": "stopped"}]})
    script = f"exec {sys.executable} -m wsworker {command}"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (0, "") == (ended.returncode, ended.stderr)


def test_debug(wsworker: Callable[..., Result]) -> None:
    """The traceback of an error is shown only to whoever asks for it."""
    assert "Traceback" not in wsworker("stop").err
    result = wsworker("stop", "--debug")
    assert "Traceback" in result.err
    assert "error: " in result.err.splitlines()[-1]


def test_a_fault_is_not_hidden(place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no documented condition keeps its traceback."""
    monkeypatch.setattr(os, "geteuid", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        wsworker("status")


def test_a_fault_of_the_system_is_not_hidden(
    place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is an OSError that has nothing to do with the output."""

    def fail() -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "geteuid", fail)
    with pytest.raises(OSError, match="No space left"):
        wsworker("status")


def test_control_c(wsworker: Callable[..., Result], deaf: Callable[[str], subprocess.Popen[str]]) -> None:
    """Ctrl+C ends a command with 130, as a shell has it, and without a traceback."""
    deaf("")
    command = [sys.executable, "-c", INTERRUPTED]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (130, "", "") == (ended.returncode, ended.stdout, ended.stderr.strip())


def test_control_c_where_nobody_reads_standard_error(
    place: Place, deaf: Callable[[str], subprocess.Popen[str]]
) -> None:
    """It is 130 there too."""
    deaf("")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", INTERRUPTED]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, timeout=30, check=False)
    os.close(writer)
    assert (130, b"") == (ended.returncode, ended.stdout)


# The signal comes while the command waits for the lock: an alarm is the one clock that needs no second process.
INTERRUPTED = """
import signal, sys
from wsworker.cli.main import run
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
sys.exit(run(["status"]))
"""


def test_the_program(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code of the process is that of the command."""
    monkeypatch.setattr(sys, "argv", ["wsworker", "status"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert 3 == caught.value.code


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("main()", True),
        ("run(sys.argv[1:])", True),
        ("run(['status'])", False),
        ("sys.argv = ['wsworker', 'status']; main()", False),
    ],
    ids=["the script", "its arguments", "others", "put in place"],
)
def test_the_words_of_the_start_are_known(place: Place, code: str, known: bool) -> None:
    """A command knows by which words it was started, unless another program has said its arguments."""
    given = "status" if known else ""
    lines = f"""
        import sys
        from wsworker.cli.main import main, run
        from wsworker.cli import ask
        from wsworker.master import invocation
        def locate(*_):
            print(invocation.words() == [*sys.orig_argv[:2]])
            raise SystemExit
        ask.locate = locate
        {code}
    """
    script = place.folder / "run.py"
    script.write_text(textwrap.dedent(lines))
    ended = subprocess.run(
        [sys.executable, script, *given.split()], capture_output=True, text=True, timeout=30, check=False
    )
    assert (f"{known}\n", "") == (ended.stdout, ended.stderr)


def test_as_a_module(program: Callable[..., Result]) -> None:
    """The package can be run as a module: it is the same program."""
    assert 7 == program("stop").code


def test_help_imports_little() -> None:
    """Help pays neither for the commands nor for what they stand on."""
    code = "import sys; from wsworker.cli.main import run; run(['-h']); print('imported', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    imported = ended.stdout.splitlines()[-1].split()
    heavy = ["pydantic", "websockets", "uvloop", "psutil", "rich", "yaml", "asyncio", "wsworker.cli.status"]
    assert [] == [name for name in heavy if name in imported]
    assert "wsworker.cli.main" in imported
