"""How a command fails: from an exception to an exit code, an error code for --json and what a person reads.

This is the only place that knows which class means which exit code. cli/main.py uses it for every command; `start -d`
needs it too, in the daemon, which has to tell the process that waits for it how the start went.

    0 done   1 failed   2 usage   7 nothing running   70 every slot parked   78 bad config or app   130 Ctrl+C
    141 who read the output has gone
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import click

from wsworker.errors import (
    EX_CONFIG,
    ActivationError,
    AlreadyRunning,
    AppError,
    BindError,
    ConfigError,
    ControlError,
    NotRunning,
    PlatformError,
    PrivilegeError,
    PublishError,
    RunDirError,
    WsworkerError,
)

SCHEMA: Final = 1
OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOTHING_RUNNING: Final = 7
PARKED: Final = 70
BAD_CONFIG: Final = EX_CONFIG
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: how a shell tells of every program in a pipe whose reader has gone."""

TABLE: Final[Mapping[type[WsworkerError], tuple[int, str]]] = {
    ConfigError: (BAD_CONFIG, "config_invalid"),
    AppError: (BAD_CONFIG, "app_invalid"),
    PlatformError: (FAILED, "platform"),
    AlreadyRunning: (FAILED, "already_running"),
    RunDirError: (FAILED, "run_dir"),
    ActivationError: (FAILED, "bind_failed"),
    BindError: (FAILED, "bind_failed"),
    PrivilegeError: (FAILED, "privileges"),
    NotRunning: (NOTHING_RUNNING, "not_running"),
    ControlError: (FAILED, ""),
    PublishError: (FAILED, ""),
}
"""Class to exit code and error code; a ControlError or PublishError carries its own error code."""

EXIT_CODES: Final[Mapping[int, str]] = {FAILED: "failed", PARKED: "parked", BAD_CONFIG: "app_invalid"}
"""Exit code of a master that ended by itself, to error code."""


class Failed(click.ClickException):
    """A command failed for a reason that only the command line knows. code: the error code of --json."""

    def __init__(self, code: str, message: str, exits_with: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
        self.exits_with = exits_with


class Interrupted(Failed):
    """Ctrl+C has ended the wait for something that goes on; message: one sentence that says so. No error, but 130."""

    def __init__(self, message: str) -> None:
        super().__init__("interrupted", message, INTERRUPTED)


@dataclass(frozen=True)
class Failure:
    """A failure in all its forms. text: what a person reads on standard error; details: `error` of the document."""

    exit_code: int
    text: str
    details: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """The document that --json prints."""
        return {"schema": SCHEMA, "error": dict(self.details)}


def describe(error: Exception) -> Failure | None:
    """Return the failure that an exception stands for, or None for a fault: a bug, whose traceback is to be seen."""
    match error:
        case ConfigError():
            return _bad_config(error)
        case ControlError() | PublishError():
            return failure(TABLE[type(error)][0], error.code, error.message)
        case WsworkerError() if type(error) in TABLE:
            exit_code, code = TABLE[type(error)]
            return failure(exit_code, code, str(error))
        case Interrupted():
            return replace(failure(error.exits_with, error.code, error.message), text=error.message)
        case Failed():
            return failure(error.exits_with, error.code, error.message)
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "wsworker"
            return failure(USAGE, "usage", f"{_wrong_use(error)} (see `{command} --help`)")
        case _:
            return None


def failure(exit_code: int, code: str, message: str) -> Failure:
    """Return a failure that one sentence describes; a user's traceback may stand below it."""
    details: dict[str, Any] = {"code": code, "message": message}
    # "app.py:9: on_message takes ..." is the place of a mistake in the app
    if code == "app_invalid" and (place := re.match(r"(.+?):(\d+): ", message)):
        details |= {"file": place[1], "line": int(place[2]), "column": None}
    return Failure(exit_code, f"error: {message}", details)


def _wrong_use(error: click.UsageError) -> str:
    """Return what click says, but for a number out of range: that in words."""
    match error:
        case click.BadParameter(param=click.Parameter(type=click.IntRange() | click.FloatRange() as kind)):
            upwards = f"of at least {kind.min}" if kind.max is None else f"from {kind.min} to {kind.max}"
            error = click.BadParameter(f"must be a number {upwards}", error.ctx, error.param)
    return error.format_message().rstrip(".")


def _bad_config(error: ConfigError) -> Failure:
    """Show every problem with its line. An editor makes a link of "file:line:column", so nothing stands before it."""
    exit_code, code = TABLE[ConfigError]
    first = error.problems[0]
    details = {
        "code": code,
        "message": first.message,
        "file": first.place,
        "line": first.line or None,
        "column": first.column or None,
        "problems": [
            {**asdict(problem), "line": problem.line or None, "column": problem.column or None}
            for problem in error.problems
        ],
    }
    return Failure(exit_code, str(error), details)
