"""Succession: rehearsals by real programs that say what a test wants, and programs that are executed in our place."""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import Child, in_child, proc_status, readable, until
from tests.master.heirs import inheritable
from tests.master.test_estate import made
from wsworker.master import succession
from wsworker.master.estate import Estate, Unfit, decode, encode
from wsworker.master.events import UpgradeRehearsed
from wsworker.master.inventory import SHARED
from wsworker.master.process import reap_strangers
from wsworker.master.succession import REHEARSAL_SECONDS, Rehearsal, execute, read
from wsworker.memory import open_memory

PYTHON = sys.executable
STARTS = "#!{python}\nimport json, os, signal, sys, time\nsys.path.insert(0, {root!r})\n"
ROOT = str(Path(__file__).parents[2])
VERSION = 'print(json.dumps({"version": "2.0.0"}))\n'

Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Give a function: have this process be one that was started by a script, with these lines in it now."""
    path = tmp_path / "wsworker"
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, str(path), "start", "-w", "2"])
    monkeypatch.setattr(sys, "argv", [str(path), "start", "-w", "2"])

    def write(lines: str) -> Path:
        path.write_text(STARTS.format(python=PYTHON, root=ROOT) + lines)
        path.chmod(0o755)
        return path

    return write


class Stage:
    """A rehearsal in its loop, the outcomes that it told, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.selector = selectors.DefaultSelector()
        self.told: list[UpgradeRehearsed] = []
        self.rehearsal = Rehearsal(self.selector, self.told.append, lambda: self.now)

    def start(self, reply: int | None = 7, estate: Estate | None = None, **environ: str) -> UpgradeRehearsed | None:
        """Begin one."""
        return self.rehearsal.start(reply, estate or made(), os.environ | environ)

    def turn(self) -> None:
        """Handle what is ready; waits for nothing."""
        for key, _ in self.selector.select(0):
            key.data()

    def outcome(self) -> UpgradeRehearsed:
        """Wait for the outcome; the process is reaped as the master does it."""

        def told() -> bool:
            self.turn()
            return bool(self.told)

        until(told)
        self.reap()
        (outcome,) = self.told
        self.told.clear()
        return outcome

    def reap(self) -> None:
        """Wait until the process is gone."""
        until(lambda: reap_strangers(()) == 1)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Give one; at the end nothing of it is watched, and no process is left."""
    # what tests before this one have left to the collector closes its descriptors now, and not in the middle
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    staged = Stage()
    yield staged
    assert {} == dict(staged.selector.get_map())
    staged.selector.close()
    assert before == sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# --- rehearsed ----------------------------------------------------------------------------------------------------


def test_it_says_its_version(stage: Stage, program: Program) -> None:
    """The last line counts; what warnings come before it are nobody's business."""
    program(f"print('warning: old', file=sys.stderr, flush=True)\n{VERSION}")
    assert stage.start() is None
    assert UpgradeRehearsed(7, version="2.0.0") == stage.outcome()
    assert stage.start(None) is None
    assert UpgradeRehearsed(None, version="2.0.0") == stage.outcome()


@pytest.mark.parametrize("behind", ["ResourceWarning: unclosed", "{}", "7", '{"version": ""}', "[1]", "{"])
def test_what_an_interpreter_says_behind_it_is_passed_over(stage: Stage, program: Program, behind: str) -> None:
    """As with PYTHONDEVMODE: the last line that is an outcome counts."""
    program(f"print(json.dumps({{'error': 'first'}}))\n{VERSION}print({behind!r})\n")
    stage.start()
    assert UpgradeRehearsed(7, version="2.0.0") == stage.outcome()


def test_it_says_why_it_cannot(stage: Stage, program: Program) -> None:
    """In words of its own."""
    program('print(json.dumps({"error": "it has no setting \'turbo\'"}))\nsys.exit(1)\n')
    stage.start()
    assert UpgradeRehearsed(7, error="it has no setting 'turbo'") == stage.outcome()


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        ("raise ImportError('no yaml')\n", 'ImportError: no yaml (File "{path}", line 4, in <module>)'),
        ("print('hello')\n", "hello"),
        ("print(7)\n", "7"),
        ("print('[]')\n", "[]"),
        ("print('{}')\n", "{}"),
        ('print(\'{"level": "info"}\')\n', '{"level": "info"}'),
        ('print(\'{"version": ""}\')\n', '{"version": ""}'),
        ("print('{\"version\": null}')\n", '{"version": null}'),
        (r"sys.stdout.buffer.write(b'\xff\n')" + "\n", "\ufffd"),
        ("print('x' * 200_000 + '\\nthe end')\n", "the end"),
        ("print('[' * 9000)\n", "[" * 9000),
        ("", "it said nothing"),
        ("os.kill(os.getpid(), 9)\n", "it said nothing"),
        ("broken syntax\n", 'SyntaxError: invalid syntax (File "{path}", line 4)'),
    ],
)
def test_what_says_neither_does_not_start(stage: Stage, program: Program, lines: str, last: str) -> None:
    """Whatever it says instead is told, of a traceback the last line and the last place."""
    path = program(lines)
    stage.start()
    told = last.replace("{path}", str(path))
    assert UpgradeRehearsed(7, error=f"the new program does not start: {told}") == stage.outcome()


def test_it_is_given_the_estate_and_nothing_else(stage: Stage, program: Program, tmp_path: Path) -> None:
    """By its number; no other descriptor of the master, no signal that it blocks; and the words of our start."""
    program(
        "with open(os.environ['TOLD'], 'w') as told:\n"
        "    fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd'))\n"
        "    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "    estate = open(3, 'rb', closefd=False)\n"
        "    estate.seek(0)\n"
        "    listed = told.fileno()\n"
        "    json.dump([sys.argv[1:], estate.read().decode(), blocked, fds, listed, sys.stdin.read()], told)\n"
        + VERSION
    )
    # what the test run itself was given stays open in all that it starts
    given = set(inheritable()) | {0, 1, 2, 3}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    stage.start(TOLD=str(tmp_path / "told"))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert UpgradeRehearsed(7, version="2.0.0") == stage.outcome()
    arguments, estate, blocked, fds, told, stdin = json.loads((tmp_path / "told").read_text())
    assert ["takeover", "3", "--rehearse"] == arguments
    assert made() == decode(estate.encode(), SHARED)
    assert [] == blocked
    # the file that it tells by, and the folder that lists them
    assert given <= set(fds)
    assert 2 == len(set(fds) - given)
    assert told in set(fds) - given
    assert "" == stdin


def test_a_start_by_another_program_cannot_be_repeated(
    stage: Stage, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither rehearsed nor executed: its words would be a guess."""
    path = program(VERSION)
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, str(path)])
    assert UpgradeRehearsed(7, error=succession.UNKNOWN_START) == stage.start()

    def master() -> list[str]:
        with pytest.raises(OSError, match="restart it instead") as caught:
            execute(made(), os.environ)
        return [str(caught.value)]

    assert [succession.UNKNOWN_START] == in_child(master)


def test_one_at_a_time(stage: Stage, program: Program) -> None:
    """Who comes second is told so at once, and the first is not disturbed."""
    program(f"sys.stdin = None\n{VERSION}")
    assert stage.start(7) is None
    assert UpgradeRehearsed(8, error="an upgrade is under way") == stage.start(8)
    assert UpgradeRehearsed(7, version="2.0.0") == stage.outcome()


def test_what_hangs_is_killed(stage: Stage, program: Program, tmp_path: Path) -> None:
    """After its time, and not before; the next one may begin then."""
    program(
        "with open(os.environ['TOLD'] + '~', 'w') as told:\n    told.write(str(os.getpid()))\n"
        "os.rename(told.name, os.environ['TOLD'])\ntime.sleep(60)\n"
    )
    stage.start(TOLD=str(tmp_path / "told"))
    until((tmp_path / "told").exists)
    pidfd = os.pidfd_open(int((tmp_path / "told").read_text()))
    stage.now += REHEARSAL_SECONDS - 0.1
    stage.rehearsal.expire()
    stage.turn()
    assert [] == stage.told
    stage.now += 0.1
    stage.rehearsal.expire()
    assert [UpgradeRehearsed(7, error="the new program did not answer within 30 s")] == stage.told
    assert readable(pidfd)
    os.close(pidfd)
    stage.reap()
    stage.told.clear()
    stage.rehearsal.expire()
    assert [] == stage.told
    program(VERSION)
    assert stage.start() is None
    assert UpgradeRehearsed(7, version="2.0.0") == stage.outcome()


def test_what_has_ended_and_not_been_heard_is_no_trouble(stage: Stage, program: Program) -> None:
    """It may be dead, and reaped, when its time is up."""
    program(VERSION)
    stage.start()
    stage.reap()
    stage.now += REHEARSAL_SECONDS
    stage.rehearsal.expire()
    assert [UpgradeRehearsed(7, error="the new program did not answer within 30 s")] == stage.told


def test_what_is_ended_early_is_killed(stage: Stage, program: Program) -> None:
    """At the end of the master: who waits for it hears why. Where there is none, nothing happens."""
    stage.rehearsal.finish("the service stops")
    assert [] == stage.told
    program("time.sleep(60)\n")
    stage.start()
    stage.rehearsal.finish("the service stops")
    assert [UpgradeRehearsed(7, error="the service stops")] == stage.told
    stage.reap()


def test_a_program_that_is_not_there(
    stage: Stage, program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was removed, with its interpreter: told at once, and nothing is left of the try."""
    gone = tmp_path / "gone"
    monkeypatch.setattr(sys, "executable", str(gone))
    monkeypatch.setattr(succession, "BY_SCRIPT", False)
    assert UpgradeRehearsed(7, error=f"{gone} cannot be executed: No such file or directory") == stage.start()
    monkeypatch.setattr(succession, "BY_SCRIPT", True)
    script = program(VERSION)
    script.chmod(0o644)
    assert UpgradeRehearsed(7, error=f"{script} cannot be executed: Permission denied") == stage.start()
    script.chmod(0o755)
    assert stage.start() is None
    assert UpgradeRehearsed(7, version="2.0.0") == stage.outcome()


def test_without_the_script_its_interpreter_says_so(
    stage: Stage, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any other word of a program that does not start."""
    monkeypatch.setattr(succession, "BY_SCRIPT", False)
    script = program(VERSION)
    script.unlink()
    stage.start()
    error = stage.outcome().error
    assert error.startswith("the new program does not start: ")
    assert f"can't open file '{script}'" in error


def test_what_the_loop_has_still_at_hand_is_passed_over(stage: Stage, program: Program) -> None:
    """It was found readable, and was then ended; or another one has begun, of which there is nothing to read."""
    program("print('noise', flush=True)\ntime.sleep(60)\n")
    stage.start()
    until(lambda: bool(stage.selector.select(0)))
    ((key, _),) = stage.selector.select(0)
    stage.rehearsal.finish("the service stops")
    key.data()
    assert [UpgradeRehearsed(7, error="the service stops")] == stage.told
    stage.reap()
    stage.told.clear()
    program("time.sleep(60)\n")
    stage.start()
    key.data()
    assert [] == stage.told
    stage.rehearsal.finish("the service stops")
    stage.told.clear()
    stage.reap()


def test_a_rehearsal_that_cannot_be_held_is_killed(program: Program) -> None:
    """Without a pidfd nobody could end it later."""

    def master() -> list[Any]:
        stage = Stage()
        estate = made()
        encode(estate)
        free = [fd for fd in range(1000) if not Path(f"/proc/self/fd/{fd}").exists()]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[3], hard))
        outcome = stage.start(estate=estate)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _, status = os.waitpid(-1, 0)
        return [outcome.error if outcome else "none", os.waitstatus_to_exitcode(status)]

    program("time.sleep(60)\n")
    assert ["no descriptor for it: Too many open files", -signal.SIGKILL] == in_child(master)


@pytest.mark.parametrize("room", range(4), ids=["nothing", "no pipe", "half a pipe", "no pidfd"])
def test_without_descriptors_nothing_is_rehearsed(program: Program, room: int) -> None:
    """Whatever comes to be missing: the caller hears of it, and nothing is left of the try but a process that ends."""

    def master() -> list[Any]:
        stage = Stage()
        estate = made()
        encode(estate)  # what that loads needs descriptors of its own
        before = sorted(os.listdir("/proc/self/fd"))
        free = [fd for fd in range(1000) if not Path(f"/proc/self/fd/{fd}").exists()]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
        outcome = stage.start(estate=estate)
        error = outcome.error if outcome else "none"
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return [error, before == sorted(os.listdir("/proc/self/fd")), len(stage.selector.get_map())]

    program(VERSION)
    error, same, watched = in_child(master)
    assert error.endswith(": Too many open files")
    assert (True, 0) == (same, watched)


def test_a_fork_lets_go_of_it(stage: Stage, program: Program) -> None:
    """A worker that is started meanwhile does not hold the master's end of the pipe; nor is it disturbed by that."""
    program(VERSION)
    stage.start()

    def worker() -> list[int]:
        held = len(os.listdir("/proc/self/fd"))
        stage.rehearsal.close()
        stage.rehearsal.close()
        return [held - len(os.listdir("/proc/self/fd"))]

    with Child(worker) as child:
        assert [2] == child.result()
        assert 0 == child.exit_code()
    assert UpgradeRehearsed(7, version="2.0.0") == stage.outcome()


# --- executed -----------------------------------------------------------------------------------------------------

HEIR = """
fds = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        fds[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        pass
with open("/proc/self/status") as status:
    blocked = next(line.split()[1] for line in status if line.startswith("SigBlk"))
with open(int(sys.argv[2]), "rb") as file:
    file.seek(0)
    estate = file.read().decode()
with open(os.environ["TOLD"], "w") as told:
    json.dump({"pid": os.getpid(), "argv": sys.argv[1:], "fds": fds, "blocked": blocked, "estate": estate,
               "left": os.environ.get("LEFT")}, told)
"""


def living_estate(*descriptors: int) -> Estate:
    """Return an estate that names these descriptors and no other."""
    estate = made(showing=None, ports=[], living=[], table=descriptors[0], lock=descriptors[1])
    listener, folder = descriptors[2:]
    estate = replace(estate, commanding=replace(estate.commanding, listener=listener, callers=[]))
    return replace(estate, meeting=replace(estate.meeting, folder=folder, listeners={}))


def test_another_program_takes_the_process_over(program: Program, tmp_path: Path) -> None:
    """Same process, the descriptors of the estate and no other; signals stay blocked."""
    program(HEIR)

    def master() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        kept = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for name in "abcd"]
        os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        (tmp_path / "kept").write_text(json.dumps(kept))
        execute(living_estate(*kept), {"TOLD": str(tmp_path / "told"), "LEFT": "caf\udce9"})

    with Child(master) as child:
        assert 0 == child.exit_code()
        pid = child.pid
    told = json.loads((tmp_path / "told").read_text())
    kept = json.loads((tmp_path / "kept").read_text())
    assert pid == told["pid"]
    command, file = told["argv"]
    assert "takeover" == command
    names = {int(fd): name for fd, name in told["fds"].items()}
    assert [str(tmp_path / name) for name in "abcd"] == [names[fd] for fd in kept]
    assert names[int(file)].startswith("/memfd:wsworker-estate")
    assert str(tmp_path / "other") not in names.values()
    assert living_estate(*kept) == decode(told["estate"].encode(), SHARED)
    assert "caf\udce9" == told["left"]
    mask = int(told["blocked"], 16)
    assert {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2} == {
        number for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2) if mask >> (number - 1) & 1
    }


def test_a_program_that_cannot_be_executed(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says why, and all is as before: no descriptor would be inherited, none is left."""
    program(HEIR)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    monkeypatch.setattr(succession, "BY_SCRIPT", False)

    def master() -> list[Any]:
        kept = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for name in "abcd"]
        estate = living_estate(*kept)
        encode(estate)
        before, blocked = sorted(os.listdir("/proc/self/fd")), proc_status("self", "SigBlk")
        with pytest.raises(FileNotFoundError):
            execute(estate, os.environ)
        same = before == sorted(os.listdir("/proc/self/fd"))
        return [same, [os.get_inheritable(fd) for fd in kept], blocked == proc_status("self", "SigBlk")]

    assert [True, [False] * 4, True] == in_child(master)


def test_a_script_that_is_gone_is_not_executed(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its interpreter would be, and would end; a module or code is nothing that can be looked at."""
    script = program(HEIR)
    script.unlink()
    monkeypatch.setattr(succession, "BY_SCRIPT", False)

    def master() -> list[str]:
        with pytest.raises(OSError, match="cannot be read") as caught:
            execute(made(), os.environ)
        return [str(caught.value)]

    assert [f"{script} cannot be read any more; install it again"] == in_child(master)
    for words in (["-m", "wsworker"], ["-Im", "wsworker"], ["-mwsworker"], ["-c", "main()"], ["-"]):
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, *words, "start", "-w", "2"])
        succession._check_program()
    for words in (["-I", "gone.py"], ["-X", "dev", "gone.py"]):
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, *words, "start", "-w", "2"])
        with pytest.raises(OSError, match=r"gone\.py cannot be read"):
            succession._check_program()


def test_a_descriptor_that_is_not_open(program: Program, tmp_path: Path) -> None:
    """Nothing is executed, and nothing is left of the try: neither the file of the estate, nor what is inheritable."""
    program(HEIR)

    def master() -> list[Any]:
        kept = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for name in "abc"]
        estate = living_estate(*kept, 999)
        encode(estate)
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="Bad file descriptor"):
            execute(estate, os.environ | {"TOLD": str(tmp_path / "told")})
        return [before == sorted(os.listdir("/proc/self/fd")), [os.get_inheritable(fd) for fd in kept]]

    assert [True, [False] * 3] == in_child(master)
    assert not (tmp_path / "told").exists()


def test_an_estate_for_which_there_is_no_room(program: Program) -> None:
    """A file in memory that cannot be written is closed again."""

    def master() -> list[Any]:
        encode(made())
        before = sorted(os.listdir("/proc/self/fd"))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        with pytest.raises(OSError, match="File too large"):
            execute(made(), os.environ)
        return [before == sorted(os.listdir("/proc/self/fd"))]

    program(HEIR)
    assert [True] == in_child(master)


def test_without_a_descriptor_nothing_is_executed(program: Program, tmp_path: Path) -> None:
    """There is no file for the estate then."""
    program(HEIR)

    def master() -> list[Any]:
        kept = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC) for name in "abcd"]
        estate = living_estate(*kept)
        encode(estate)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(OSError, match="Too many open files"):
            execute(estate, os.environ | {"TOLD": str(tmp_path / "told")})
        return [os.get_inheritable(fd) for fd in kept]

    assert [False] * 4 == in_child(master)
    assert not (tmp_path / "told").exists()


# --- read ---------------------------------------------------------------------------------------------------------


def test_the_estate_is_read_from_its_beginning() -> None:
    """Whoever wrote it stands at its end; it is closed then."""
    file = open_memory("estate")
    os.write(file, encode(made()))
    assert made() == decode(read(file), SHARED)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


@pytest.mark.parametrize("descriptor", [-1, 999, 2**40], ids=["negative", "closed", "too big"])
def test_no_descriptor_of_a_file(descriptor: int) -> None:
    """Somebody has called the command by hand."""
    with pytest.raises(Unfit, match="`takeover` is what a master calls, and nobody else; use `wsworker upgrade`"):
        read(descriptor)


def test_a_pipe_is_no_estate() -> None:
    """Nor is a terminal: nothing is waited for."""
    reader, writer = os.pipe()
    with pytest.raises(Unfit, match="what a master calls"):
        read(reader)
    os.close(writer)


# --- which program ------------------------------------------------------------------------------------------------


def words(orig: list[str], monkeypatch: pytest.MonkeyPatch, arguments: int, executable: str) -> list[str]:
    """Return the words of the program on disk, for one that was started by these, so many of them its arguments."""
    monkeypatch.setattr(sys, "orig_argv", orig)
    monkeypatch.setattr(sys, "argv", ["", *orig[len(orig) - arguments :]])
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(succession, "BY_SCRIPT", succession._names_interpreter())
    return succession._program()


def test_the_words_are_those_of_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An interpreter, its options, the module or script; as a path where only a name was typed."""
    python = sys.executable
    for before in (["-m", "wsworker"], ["-X", "dev", "-m", "wsworker"], ["run.py"]):
        found = words(["python3", *before, "-c", "x.yaml", "start"], monkeypatch, 3, python)
        assert [python, *before] == found
    assert [python, "-m", "wsworker"] == words(["python3", "-m", "wsworker"], monkeypatch, 0, python)


@pytest.mark.parametrize(
    ("head", "before"),
    [
        ("#!/venv/bin/python", ["/venv/bin/python"]),
        ("#! /venv/bin/python ", ["/venv/bin/python"]),
        ("#!/venv/bin/python -P", ["/venv/bin/python", "-P"]),
        ("#!/usr/bin/env python", ["python"]),
        ("#!/usr/bin/env -S python -P -s", ["python", "-P", "-s"]),
        ("#!/usr/bin/env sh", [str(shutil.which("sh"))]),
        ("#!/bin/sh\n'''exec' /venv/bin/python \"$0\" \"$@\"\n' '''", ["/venv/bin/python"]),
        ("#!/bin/sh\n'''exec' \"/my venv/bin/python\" \"$0\" \"$@\"\n' '''", ["/my venv/bin/python"]),
        (f"#!/bin/sh\n'''exec' /{'x' * 4000}/python \"$0\" \"$@\"\n' '''", [f"/{'x' * 4000}/python"]),
    ],
)
def test_a_script_that_names_its_interpreter_is_executed_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: str, before: list[str]
) -> None:
    """As a link may lead to one of another environment by then; also if its first lines are pip's for a long path."""
    script = tmp_path / "wsworker"
    script.write_text(f"{head}\nimport sys\n")
    script.chmod(0o755)
    assert [str(script)] == words([*before, str(script), "start"], monkeypatch, 1, "/venv/bin/python")
    # unless the system would not: then somebody has named the interpreter
    script.chmod(0o644)
    found = words([*before, str(script), "start"], monkeypatch, 1, "/venv/bin/python")
    assert ["/venv/bin/python", *before[1:], str(script)] == found


@pytest.mark.parametrize(
    "head",
    [
        "#!/other/bin/python",
        "import sys  # /venv/bin/python",
        "#!/venv/bin/python3",
        "#!/venv/bin/python -P",
        "#!/my/venv/bin/python",
        "#!/other/bin/python\n# /venv/bin/python",
        "#!/usr/bin/env python",
        "#!/usr/bin/env -S",
        "#!/usr/bin/env",
        '#!/bin/sh\nexec python "$0" # /venv/bin/python',
        '#!/bin/sh\nexec /venv/bin/python3 "$0" "$@"',
        "#!/bin/sh\n'''exec' \"/venv/bin/python",
        "#!/bin/sh",
        "#!",
        "",
    ],
)
def test_a_script_that_names_another_interpreter_is_given_to_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: str
) -> None:
    """Somebody has chosen the interpreter."""
    script = tmp_path / "wsworker"
    script.write_text(head)
    script.chmod(0o755)
    found = words(["/venv/bin/python", str(script), "start"], monkeypatch, 1, "/venv/bin/python")
    assert ["/venv/bin/python", str(script)] == found
