"""docs/json.md says what every document of --json holds. Real documents of a real service must be just that."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.system.daemon import Daemon, Outcome
from wsworker.cli import failures
from wsworker.cli.main import COMMANDS

ROOT: Final = Path(__file__).parent.parent
TEXT: Final = (ROOT / "docs" / "json.md").read_text()

_ROW: Final = re.compile(r"^\| `([^`]+)` \| ([^|]+?) \|(.*)\|$", re.MULTILINE)

TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
}


class Key(NamedTuple):
    """One line of a table."""

    path: str
    type: str
    optional: bool


def tables() -> dict[str, list[Key]]:
    """Return the tables of keys, by the heading above them."""
    found: dict[str, list[Key]] = {}
    for section in TEXT.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        for path, kind, _ in _ROW.findall(text):
            if not kind.isdigit():
                key = Key(path, kind.removesuffix(", optional"), kind.endswith(", optional"))
                found.setdefault(heading, []).append(key)
    return found


TABLES: Final = tables()


def fits(value: object, kind: str) -> bool:
    """Whether a value is of a type, in the words of the tables."""
    if kind == "any":
        return True
    if kind.endswith(" or null"):
        return value is None or fits(value, kind.removesuffix(" or null"))
    if kind.startswith("list of "):
        return isinstance(value, list) and all(fits(item, kind.removeprefix("list of ")) for item in value)
    # type() and not isinstance(): a bool is an int to Python
    return type(value) in TYPES[kind]


def faults(document: Mapping[str, Any], keys: list[Key], prefix: str = "") -> Iterator[str]:
    """Yield what is wrong with a document: a key that is not documented, not there, or of another type."""
    here = {key.path.removeprefix(prefix): key for key in keys if key.path.startswith(prefix)}
    direct = {name: key for name, key in here.items() if "." not in name}
    for name in document.keys() - direct.keys():
        yield f"{prefix}{name} is not documented"
    for name, key in direct.items():
        if name not in document:
            if not key.optional:
                yield f"{prefix}{name} is missing"
            continue
        value = document[name]
        if not fits(value, key.type):
            yield f"{prefix}{name} is no {key.type}: {value!r}"
        elif "object" in key.type and value is not None:
            below = f"{prefix}{name}[]." if isinstance(value, list) else f"{prefix}{name}."
            if any(other.path.startswith(below) for other in keys):
                for item in value if isinstance(value, list) else [value]:
                    yield from faults(item, keys, below)


def check(outcome: Outcome, heading: str, code: int = 0) -> dict[str, Any]:
    """Fail unless a command has printed what is documented under a heading; return the document."""
    assert (code, "") == (outcome.code, outcome.err)
    document = outcome.document()
    assert [] == [*faults(document, TABLES[heading])], heading
    return document


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Give a service that runs in the background."""
    with Daemon(workers=2, log={"file": "log.txt"}) as made:
        check(made.cli("start", "-d", "--json"), "start -d")
        yield made


def test_documents_of_a_service_that_runs(daemon: Daemon) -> None:
    """Status, connections, reloads of every kind, upgrades, rebalance, reopen, publish, stop."""
    os.kill(daemon.workers[1], signal.SIGKILL)
    status = daemon.wait_status(lambda status: status["totals"]["restarts"] == 1)
    assert status["workers"][1]["last_exit"]["signal"] == "SIGKILL"
    with daemon.connect("/chat") as client:
        client.send("tom")
        client.recv(10)
        check(daemon.cli("status", "--json"), "status")
        assert check(daemon.cli("connections", "--json"), "connections")["shown"] == 1
    reload = check(daemon.cli("reload", "--json"), "reload")
    assert 2 == len(reload["workers"])
    status = check(daemon.cli("status", "--json"), "status")
    keys = [key for key in TABLES["reload"] if key.path not in ("schema", "name")]
    assert [] == [*faults(status["last_reload"], keys)]
    assert "ok" == check(daemon.cli("rebalance", "--json"), "rebalance")["result"]
    assert 2 == len(check(daemon.cli("upgrade", "--json"), "reload")["workers"])
    check(daemon.cli("reopen", "--json"), "reopen")
    check(daemon.cli("publish", "news", "hello", "--json"), "publish")
    check(daemon.cli("check", "--json"), "check")
    daemon.write_app("def on_message(connection):\n    pass")
    refused = check(daemon.cli("reload", "--json"), "reload", code=1)
    assert ("refused", "reload_refused") == (refused["result"], refused["error"]["code"])
    check(daemon.cli("reload", "--no-wait", "--json"), "reload --no-wait")
    daemon.write_config(workers="many")
    refused = check(daemon.cli("upgrade", "--json"), "reload", code=1)
    assert ("refused", "upgrade_refused") == (refused["result"], refused["error"]["code"])
    check(daemon.cli("stop", "--json"), "stop")


def test_documents_without_a_service() -> None:
    """What needs none, what a client alone can tell, and errors."""
    with Daemon() as daemon:
        check(daemon.cli("status", "--json"), "status without a master", code=3)
        check(daemon.cli("check", "--print", "--json"), "check")
        check(daemon.cli("unit", "--json"), "unit")
        check(daemon.cli("stop", "--json"), "Errors", code=7)
        check(daemon.cli("connections", "--sort", "size", "--json"), "Errors", code=2)
        daemon.write_config(workers="many", umask="x")
        assert 2 == len(check(daemon.cli("check", "--json"), "Errors", code=78)["error"]["problems"])


def test_the_document_of_init(tmp_path: Path) -> None:
    """It takes no config file, so it is run by itself."""
    command = [sys.executable, "-m", "wsworker", "init", "hello", "--json"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30, check=False)
    check(Outcome(done.returncode, done.stdout, done.stderr), "init")


def test_every_command_has_a_document() -> None:
    """Each is told of; `schema` prints a schema, `restart`, `top` and `upgrade` what others print."""
    told = {word for heading in TABLES for word in heading.split()}
    assert COMMANDS.keys() - told == {"schema", "restart", "top", "upgrade"}
    for name in ("schema", "restart -d", "top --json"):
        assert f"`{name}`" in TEXT
    assert "\n## upgrade\n" in TEXT


def test_the_check_finds_what_is_wrong() -> None:
    """A key too many, one too few, a wrong type, in an object and in a list of them."""
    keys = [
        Key("a", "integer", False),
        Key("b", "list of object", False),
        Key("b[].c", "string or null", False),
        Key("b[].d", "number", True),
        Key("e", "object", False),
    ]
    assert [] == [*faults({"a": 1, "b": [{"c": None}, {"c": "x", "d": 1.5}], "e": {"any": 1}}, keys)]
    assert ["a is no integer: True", "b[].c is missing", "e is missing", "x is not documented"] == sorted(
        faults({"a": True, "b": [{"d": 1}], "x": 0}, keys)
    )
    assert ["b[].c is no string or null: 1"] == [*faults({"a": 1, "b": [{"c": 1}], "e": {}}, keys)]


# Error codes


def documented_codes() -> dict[str, int]:
    """Return the error codes with their exit codes."""
    return {code: int(exit_code) for code, exit_code, _ in _ROW.findall(TEXT) if exit_code.isdigit()}


PLACES: Final = {"Failed": 0, "ControlError": 0, "PublishError": 0, "_error": 0, "failure": 1, "nothing_done": 1}
"""Which argument of a call is an error code."""


def codes_of(source: str) -> Iterator[str]:
    """Yield the error codes in a source: of exceptions, of answers, and of failures."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            yield from (
                str(value.value)
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "code" and isinstance(value, ast.Constant)
            )
        elif isinstance(node, ast.Call):
            place = PLACES.get(ast.unparse(node.func).removeprefix("roll."))
            argument = node.args[place] if place is not None and len(node.args) > place else None
            if isinstance(argument, ast.Constant):
                yield str(argument.value)


def test_error_codes() -> None:
    """Those that the program knows are those of the page."""
    files = [*(ROOT / "wsworker").rglob("*.py")]
    found = {code for file in files for code in codes_of(file.read_text())}
    found |= {code for _, code in failures.TABLE.values() if code} | {*failures.EXIT_CODES.values()}
    # the master says busy, and the client that it has no answer
    assert (found | {"interrupted"}) - {"busy"} == documented_codes().keys()


def test_exit_codes() -> None:
    """Each error code has the exit code that the command ends with."""
    documented = documented_codes()
    known = {code: exit_code for exit_code, code in failures.TABLE.values() if code}
    known |= {code: exit_code for exit_code, code in failures.EXIT_CODES.items()}
    known |= {"usage": failures.USAGE, "interrupted": failures.INTERRUPTED}
    assert known == {code: documented[code] for code in known}
