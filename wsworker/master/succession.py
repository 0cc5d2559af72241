"""Succession: the program on disk is executed in place of this one, after it has shown beside it that it can.

Both are started by the words that this one was started by, up to the command: the same interpreter with its options,
the same script; so a virtual environment that was updated, or a link to one that now leads elsewhere, is what runs. A
script that names its interpreter is executed itself, as the one that a link leads to now may name another. The command
is `takeover`, with the descriptor of a file in memory that holds the estate.

    rehearse    in another process, which reads the estate, says {"version": ...} or {"error": ...} and ends
    execute     in this process: the descriptors of the estate stay open, all others are closed by the kernel

Signals are blocked from before the estate is made until the new program catches them: one that came in between would
find its default action, and end the service. Those that were caught before and not acted on stand in the estate.
execve(2), "the signal mask is preserved".
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from wsworker.master import invocation
from wsworker.master.estate import Estate, Unfit, descriptors, encode
from wsworker.master.events import Token, UpgradeRehearsed
from wsworker.memory import open_memory, without_limit

REHEARSAL_SECONDS: Final = 30.0
"""Of an interpreter that starts, and reads a configuration."""

MOST_BYTES: Final = 64 * 1024
"""As much as is kept of what a rehearsal says; a traceback may come before its last line."""

HEAD_BYTES: Final = 8192
"""Of a script; pip writes three lines of shell where a path, PATH_MAX at most, is too long for the first one."""

UNKNOWN_START: Final = "it was started by a program of its own and not by `wsworker`; restart it instead"

IN_CHILD: Final = 3
"""The number under which a rehearsal has the estate."""


class Rehearsal:
    """At most one rehearsal at a time.

    selector: the master's; a handler stands in the data of each key. told: takes the outcome. now: a clock.
    """

    def __init__(
        self, selector: selectors.BaseSelector, told: Callable[[UpgradeRehearsed], None], now: Callable[[], float]
    ) -> None:
        self._selector = selector
        self._told = told
        self._now = now
        self._reply: Token | None = None
        self._pipe = self._pidfd = -1
        self._said = b""
        self._give_up_at = 0.0

    def start(self, reply: Token | None, estate: Estate, environ: Mapping[str, str]) -> UpgradeRehearsed | None:
        """Begin; the outcome is told later, or returned if there is none to wait for. environ: of the new program."""
        if self._pipe >= 0:
            return UpgradeRehearsed(reply, error="an upgrade is under way")
        if not invocation.words():
            return UpgradeRehearsed(reply, error=UNKNOWN_START)
        try:
            file = _in_memory(estate)
        except OSError as error:
            return UpgradeRehearsed(reply, error=f"no memory for it: {error.strerror}")
        try:
            reader, writer = os.pipe()
        except OSError as error:
            os.close(file)
            return UpgradeRehearsed(reply, error=f"no pipe for it: {error.strerror}")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writer, 1),
            (os.POSIX_SPAWN_DUP2, writer, 2),
            (os.POSIX_SPAWN_DUP2, file, IN_CHILD),
        ]
        words = [*_program(), "takeover", str(IN_CHILD), "--rehearse"]
        try:
            pid = os.posix_spawn(words[0], words, dict(environ), file_actions=actions, setsigmask=())
            # it is reaped like any other stranger, and its end is seen by the end of the pipe
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError as error:
                os.kill(pid, signal.SIGKILL)
                os.close(reader)
                return UpgradeRehearsed(reply, error=f"no descriptor for it: {error.strerror}")
        except OSError as error:
            os.close(reader)
            return UpgradeRehearsed(reply, error=f"{words[0]} cannot be executed: {error.strerror}")
        finally:
            os.close(writer)
            os.close(file)
        os.set_blocking(reader, False)
        self._pipe, self._reply, self._said = reader, reply, b""
        self._give_up_at = self._now() + REHEARSAL_SECONDS
        self._selector.register(reader, selectors.EVENT_READ, self._read)
        return None

    def expire(self) -> None:
        """End one that takes too long; to be called about once a second."""
        if self._now() >= self._give_up_at:
            self.finish(f"the new program did not answer within {REHEARSAL_SECONDS:.0f} s")

    def finish(self, error: str) -> None:
        """End one that is under way; error: why, as is told to who waits for it."""
        if self._pipe >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._end(error)

    def close(self) -> None:
        """Close what is open, in a forked worker and at the end of the master."""
        for descriptor in (self._pipe, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._pipe = self._pidfd = -1

    def _read(self) -> None:
        # the loop may have found it readable before it was ended, and even before another one was begun
        if self._pipe < 0:
            return
        try:
            data = os.read(self._pipe, MOST_BYTES)
        except BlockingIOError:
            return
        self._said = (self._said + data)[-MOST_BYTES:]
        if not data:
            self._end("")

    def _end(self, error: str) -> None:
        self._selector.unregister(self._pipe)
        self.close()
        version = ""
        if not error:
            version, error = _outcome(self._said)
        self._told(UpgradeRehearsed(self._reply, version, error))


def execute(estate: Estate, environ: Mapping[str, str]) -> NoReturn:
    """Let the new program take this process over. Raises OSError if it cannot be executed; then all is as before.

    You must have blocked all signals.
    """
    _check_program()
    file = _in_memory(estate)
    kept = {*descriptors(estate), file}
    try:
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        words = [*_program(), "takeover", str(file)]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(words[0], words, dict(environ))  # noqa: S606 - these are the words that have started us
    finally:
        for descriptor in kept:
            # one that is not open has brought us here
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, False)
        os.close(file)


def read(descriptor: int) -> bytes:
    """Return what stands in the file of an estate, and close it. Raises Unfit if there is none."""
    try:
        with open(descriptor, "rb") as file:
            file.seek(0)
            return file.read()
    except (OSError, ValueError, TypeError, OverflowError):
        # open(2) takes no such number, or Python does not
        raise Unfit("`takeover` is what a master calls, and nobody else; use `wsworker upgrade`") from None


def _in_memory(estate: Estate) -> int:
    data = encode(estate)
    file = open_memory("wsworker-estate")
    try:
        with without_limit(), open(file, "wb", closefd=False) as output:
            output.write(data)
    except OSError:
        os.close(file)
        raise
    return file


def _names_interpreter() -> bool:
    """Say whether this program is a script that can be executed itself, by the very words that have started it."""
    *interpreter, script = invocation.words() or [""]
    try:
        with open(script, "rb") as file:
            head = os.fsdecode(file.read(HEAD_BYTES))
    except (OSError, ValueError):
        return False
    return interpreter in _interpreters(head) and os.access(script, os.X_OK)


def _interpreters(head: str) -> list[list[str]]:
    """Return by which words the interpreter may have been executed that a script names; none if it names none.

    execve(2), "Interpreter scripts": all that follows the first word is one argument.
    """
    first, second, *_ = [*head.splitlines(), "", ""]
    if not first.startswith("#!"):
        return []
    program, *argument = [word.rstrip() for word in first[2:].split(None, 1)] or [""]
    if program == "/bin/sh":
        # as pip writes it: '''exec' PYTHON "$0" "$@"
        with contextlib.suppress(ValueError):
            command, *named, script, arguments = shlex.split(second)
            return [named] if (command, script, arguments) == ("exec", "$0", "$@") else []
    if argument and os.path.basename(program) == "env":
        name, *options = argument[0].removeprefix("-S").split() or [""]
        # as env(1) hands it on, or as a program in between does that has looked it up
        return [[name, *options], [shutil.which(name) or name, *options]]
    return [[program, *argument]]


BY_SCRIPT: Final = _names_interpreter()
"""As of the start: later another script may stand there."""


def _program() -> list[str]:
    """Return the words that start the program on disk, without its arguments."""
    words = invocation.words()
    return words[-1:] if BY_SCRIPT else [sys.executable, *words[1:]]


def _check_program() -> None:
    """Raise OSError if the program on disk cannot be started, as far as can be told without starting it.

    An interpreter is executed in any case, and then ends if its script has gone since the rehearsal.
    """
    words = invocation.words()
    if not words:
        raise OSError(UNKNOWN_START)
    before, last = words[-2:]
    # `-m MODULE` and `-c CODE`, also behind other flags; `-` and what stands in one word with its flag
    named_otherwise = last.startswith("-") or (before[:1] == "-" and before[1:].isalpha() and before[-1] in "cm")
    if not named_otherwise and not os.access(last, os.R_OK):
        raise OSError(f"{last} cannot be read any more; install it again")


def _outcome(said: bytes) -> tuple[str, str]:
    """Return the version and the error that a rehearsal has told of; without an error there is a version.

    Its interpreter may be told to say something, too, as by PYTHONDEVMODE, even behind that.
    """
    lines = said.decode(errors="replace").rstrip().splitlines()
    for line in reversed(lines):
        try:
            outcome = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(outcome, dict) and (outcome.get("version") or outcome.get("error")):
            return str(outcome.get("version") or ""), str(outcome.get("error") or "")
    last = lines[-1] if lines else "it said nothing"
    places = [line.strip() for line in lines if line.startswith("  File ")]
    place = f" ({places[-1]})" if places else ""
    return "", f"the new program does not start: {last}{place}"
