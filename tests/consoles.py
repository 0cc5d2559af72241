"""Documents that run: the marked blocks of a Markdown file, carried out in order as a reader would.

A block counts only with a mark in the line above it, which readers of the rendered page do not see:

    <!-- run -->             a console block: each line behind "$ " is run in a shell, and what it prints must be what
                             stands below it; the exit code must be 0, or that of the mark: <!-- run exit 1 -->
    <!-- run background -->  its last command goes on while the document goes on, and is interrupted as by Ctrl+C at the
                             end; what stands below it must appear in its lines, in this order
    <!-- file app.py -->     a block of any language is written to this file

The commands of one document share a folder and its shell's working directory. Lines "> text" below a command are typed
into it, "< text" is what it must print then. A line "..." stands for any lines.

Figures differ from run to run: numbers, sizes, ages and blanks are masked on both sides, and the document's port is
exchanged for a free one. "/srv" in a document is the folder in which it runs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

PORT: Final = "2346"
PATIENCE_SECONDS: Final = 30.0

_MARK: Final = re.compile(r"<!-- (run|file) ?(.*?) ?-->")
_FENCE: Final = re.compile(r"```(\w*)")
_ANSI: Final = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[78])")
_MASKS: Final = (
    (re.compile(r"\b\d[\d.]* ([KMG]iB|B)\b"), "SIZE"),
    (re.compile(r"\b(\d+[dhms])+(?![\w])"), "AGE"),
    (re.compile(r"\d+(\.\d+)*"), "0"),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True)
class Step:
    """A command of a console block, its place, what is typed into it and what it prints."""

    line: int
    command: str
    below: tuple[str, ...]

    @property
    def typed(self) -> tuple[str, ...]:
        """The lines to type."""
        return tuple(line.removeprefix("> ") for line in self.below if line.startswith("> "))

    @property
    def printed(self) -> tuple[str, ...]:
        """The lines to expect."""
        return tuple(line for line in self.below if not line.startswith("> "))


@dataclass(frozen=True)
class Block:
    """A marked block. mark: "run" or "file"; option: what stands behind that; line: of the mark, from 1."""

    line: int
    mark: str
    option: str
    lines: tuple[str, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The commands of a console block."""
        starts = [index for index, line in enumerate(self.lines) if line.startswith("$ ")]
        ends = [*starts[1:], len(self.lines)]
        return tuple(
            Step(self.line + 2 + start, self.lines[start].removeprefix("$ "), self.lines[start + 1 : end])
            for start, end in zip(starts, ends, strict=True)
        )


def blocks(text: str) -> Iterator[Block]:
    """Yield the marked blocks of a document; AssertionError for a mark without a block."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        mark = _MARK.fullmatch(line.strip())
        if mark is None:
            continue
        assert index + 1 < len(lines), f"line {index + 1}: nothing below the mark"
        assert _FENCE.fullmatch(lines[index + 1].strip()), f"line {index + 1}: no block below the mark"
        end = lines.index("```", index + 2)
        yield Block(index + 1, mark[1], mark[2], tuple(lines[index + 2 : end]))


def masked(text: str) -> str:
    """Return a line without what differs from run to run."""
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text.strip()


def fits(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Say whether the lines are those of the document, in which "..." stands for any number of lines."""
    if not expected:
        return not actual
    if expected[0] == "...":
        return any(fits(expected[1:], actual[start:]) for start in range(len(actual) + 1))
    return bool(actual) and masked(expected[0]) == masked(actual[0]) and fits(expected[1:], actual[1:])


def appear(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Say whether the texts stand in the actual lines, in their order."""
    rest = iter([masked(line) for line in actual])
    return all(any(masked(text) in line for line in rest) for text in expected if text != "...")


@dataclass
class Session:
    """A reader at work in a folder: what he typed goes on where he left it. A context manager; its end ends all.

    folder: empty, and his own; port: a free one; path: folders that are searched for commands first.
    """

    folder: Path
    port: int
    path: Sequence[str]
    _cwd: Path = field(init=False)
    _running: list[subprocess.Popen[bytes]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._cwd = self.folder
        (self.folder / ".run").mkdir(mode=0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        for process in self._running:
            try:
                process.wait(PATIENCE_SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    @property
    def environ(self) -> dict[str, str]:
        """The environment of what he runs: ours without settings of wsworker, and his own run directory and port."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("WSWORKER_", "PYTEST_"))}
        own = {"XDG_RUNTIME_DIR": str(self.folder / ".run"), "WSWORKER_LISTEN": f"127.0.0.1:{self.port}"}
        return kept | own | {"PATH": os.pathsep.join([*self.path, kept["PATH"]]), "NO_COLOR": "1", "COLUMNS": "200"}

    def perform(self, block: Block) -> None:
        """Do what a block says; AssertionError names the line and both texts if it is not what happens."""
        if block.mark == "file":
            file = self._cwd / block.option
            text = "\n".join(block.lines) + "\n"
            # Python takes compiled code for current if size and whole second of the source are the same
            while file.exists() and file.stat().st_size == len(text.encode()):
                text += "\n"
            file.write_text(text)
            return
        *others, last = block.steps
        for step in others:
            self._run(step, 0)
        if block.option == "background":
            self._run_in_background(last)
        else:
            self._run(last, int(block.option.removeprefix("exit ") or 0))

    def _run(self, step: Step, code: int) -> None:
        script = f"{self._ours(step.command)}\ncode=$?; pwd > '{self.folder}/.cwd'; exit $code"
        process = self._start(script, subprocess.PIPE)
        assert process.stdin is not None
        for line in step.typed:
            process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        expected = [line for line in step.printed if line]
        if step.typed:
            self._await(step, expected, process)
        process.stdin.close()
        process.wait(PATIENCE_SECONDS)
        actual = self._printed(process)
        if step.typed:
            return
        assert process.returncode == code, self._report(step, f"exit {code}", [f"exit {process.returncode}", *actual])
        assert fits(expected, actual), self._report(step, "\n".join(expected), actual)
        self._cwd = Path((self.folder / ".cwd").read_text().strip())

    def _run_in_background(self, step: Step) -> None:
        process = self._start(f"exec {self._ours(step.command)}", subprocess.DEVNULL)
        self._running.append(process)
        self._await(step, [line for line in step.printed if line], process)

    def _start(self, script: str, stdin: int) -> subprocess.Popen[bytes]:
        with (self.folder / ".output").open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self._cwd,
                env=self.environ,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # each process has a file of its own, though they follow each other under one name
        (self.folder / ".output").rename(self.folder / f".output-{process.pid}")
        return process

    def _await(self, step: Step, expected: Sequence[str], process: subprocess.Popen[bytes]) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not appear(expected, self._printed(process)):
            over = process.poll() is not None or time.monotonic() > give_up_at
            assert not over, self._report(step, "\n".join(expected), self._printed(process))
            time.sleep(0.02)

    def _printed(self, process: subprocess.Popen[bytes]) -> list[str]:
        text = (self.folder / f".output-{process.pid}").read_text(errors="replace")
        text = _ANSI.sub("", text).replace("\r", "").replace(str(self.folder), "/srv").replace(str(self.port), PORT)
        return [line for line in text.splitlines() if line.strip()]

    def _ours(self, command: str) -> str:
        return command.replace(PORT, str(self.port)).replace("/srv", str(self.folder))

    def _report(self, step: Step, expected: str, actual: Sequence[str]) -> str:
        return f"line {step.line}: {step.command}\nexpected:\n{expected}\nactual:\n" + "\n".join(actual)


def commands_of_this_python() -> list[str]:
    """Return where `wsworker`, `websockets` and `pytest` of the running interpreter are."""
    return [str(Path(sys.executable).parent)]
