"""From an exception to an exit code."""

from __future__ import annotations

import click
import pytest

from wsworker import errors
from wsworker.cli.failures import Failed, Interrupted, describe
from wsworker.errors import (
    AlreadyRunning,
    AppError,
    BindError,
    ConfigError,
    ControlError,
    NotRunning,
    PlatformError,
    PrivilegeError,
    Problem,
    RunDirError,
)

EXAMPLES = [
    (AppError("no app", "Traceback"), 78, "app_invalid"),
    (PlatformError("not here"), 1, "platform"),
    (AlreadyRunning("hello", 4242), 1, "already_running"),
    (RunDirError("/run/x", "it is a link", "remove it"), 1, "run_dir"),
    (BindError("127.0.0.1:80", "address in use"), 1, "bind_failed"),
    (PrivilegeError("setresuid", "EPERM"), 1, "privileges"),
    (NotRunning("hello", "/run/hello.sock"), 7, "not_running"),
    (ControlError("timeout", "no answer"), 1, "timeout"),
    (Failed("managed", "managed by x"), 1, "managed"),
    (Failed("config_invalid", "no file", 78), 78, "config_invalid"),
]


@pytest.mark.parametrize(("error", "exit_code", "code"), EXAMPLES)
def test_conditions(error: Exception, exit_code: int, code: str) -> None:
    """A documented condition is one sentence behind "error: ", with its exit code and its error code."""
    found = describe(error)
    assert found is not None
    assert (exit_code, f"error: {error}") == (found.exit_code, found.text)
    assert {"schema": 1, "error": {"code": code, "message": str(error)}} == found.document


def test_a_config_error_shows_its_problems() -> None:
    """The block of problems stands alone; the document has the first problem's place, and all of them."""
    problem = Problem("config.yaml", 4, 1, "unknown key", "wrokers: 4", 7)
    found = describe(ConfigError("config.yaml", (problem, Problem("flag -w", 0, 0, "too many"))))
    assert found is not None
    assert found.exit_code == 78
    assert found.text.splitlines() == [
        "config.yaml:4:1: error: unknown key",
        "  wrokers: 4",
        "  ^^^^^^^",
        "flag -w: error: too many",
        "wsworker: 2 errors in config.yaml",
    ]
    details = found.document["error"]
    expected = ("config_invalid", "unknown key", "config.yaml", 4, 1)
    assert expected == tuple(details[key] for key in ("code", "message", "file", "line", "column"))
    assert ["unknown key", "too many"] == [one["message"] for one in details["problems"]]


def test_an_interrupted_wait() -> None:
    """It is no error of anybody's, and yet not done: 130, as a shell has it, and the sentence alone."""
    found = describe(Interrupted("it goes on"))
    assert found is not None
    assert (130, "it goes on", "interrupted") == (found.exit_code, found.text, found.details["code"])


def test_usage() -> None:
    """A wrong use names the help that is nearest."""
    context = click.Context(click.Command("stop"), info_name="stop", parent=click.Context(click.Group("wsworker")))
    found = describe(click.UsageError("No such thing.", context))
    assert found is not None
    assert (2, "usage") == (found.exit_code, found.details["code"])
    assert found.text.startswith("error: No such thing (see `")
    assert found.text.endswith("stop --help`)")


def test_usage_without_a_command() -> None:
    """Before a command is known, the help is the program's."""
    found = describe(click.UsageError("What?"))
    assert found is not None
    assert "error: What? (see `wsworker --help`)" == found.text


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (click.IntRange(1, 10), "must be a number from 1 to 10"),
        (click.FloatRange(0.1), "must be a number of at least 0.1"),
    ],
)
@pytest.mark.parametrize("value", ["x", "0"])
def test_a_number_out_of_range(kind: click.IntRange | click.FloatRange, expected: str, value: str) -> None:
    """The range is told in words, also to who wrote no number at all."""
    with pytest.raises(click.BadParameter) as caught:
        click.Command("top", params=[click.Option(["--limit"], type=kind)]).main(
            ["--limit", value], prog_name="top", standalone_mode=False
        )
    found = describe(caught.value)
    assert found is not None
    assert f"error: Invalid value for '--limit': {expected} (see `top --help`)" == found.text


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("app.py:9: on_message takes (connection)", {"file": "app.py", "line": 9, "column": None}),
        ("cannot import app 'hello' (config.yaml:2:6): no module", {}),
    ],
)
def test_the_place_of_a_mistake_in_the_app(message: str, expected: dict[str, object]) -> None:
    """Where the sentence begins with a file and a line, the document has them."""
    found = describe(AppError(message))
    assert found is not None
    assert {"code": "app_invalid", "message": message, **expected} == found.details


def test_a_config_error_without_a_line() -> None:
    """There are no lines in a file that is not there: null, as 0 would be a number."""
    found = describe(ConfigError("config.yaml", (Problem("config.yaml", 0, 0, "no such file"),)))
    assert found is not None
    (problem,) = found.details["problems"]
    for place in (found.details, problem):
        assert (None, None) == (place["line"], place["column"])


@pytest.mark.parametrize("error", [ValueError("x"), errors.InternalError("a bug"), errors.WireError("x")])
def test_faults(error: Exception) -> None:
    """Anything else is a fault, whose traceback is wanted."""
    assert describe(error) is None
