"""docs/security.md says what strangers may try, and names the settings and tests for each. All three must agree."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from wsworker.config import KEYS, value_of
from wsworker.configfile import load

TESTS: Final = Path(__file__).parent
DOCUMENT: Final = TESTS.parent / "docs" / "security.md"
FOLDER: Final = "system/security"
"""Where the tests are that are named after a row; in the table these have no file before their name."""

ROWS: Final = range(1, 37)
COMING: Final[Mapping[int, str]] = {}
"""Rows about what does not exist yet. They promise nothing and name no test; whoever builds it takes them out here."""

_ROW: Final = re.compile(r"^\| *(\d+) *\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)
_QUOTED: Final = re.compile(r"`([^`]*)`")
_NAMED_AFTER: Final = re.compile(r"test_row_([1-9]\d*)_\w+")


class Row(NamedTuple):
    """One line of the table. settings: such as "websocket.max_size: 1MiB"; tests: FILE::NAME, FILE below tests."""

    threat: str
    answer: str
    settings: tuple[str, ...]
    tests: tuple[str, ...]


def table(text: str) -> list[tuple[int, Row]]:
    """Return the lines of the table in a document, with their numbers, in their order."""
    return [
        (
            int(number),
            Row(threat.strip(), answer.strip(), tuple(_QUOTED.findall(settings)), tuple(_QUOTED.findall(tests))),
        )
        for number, threat, answer, settings, tests in _ROW.findall(text)
    ]


def functions(folder: Path) -> list[str]:
    """Return FILE::NAME of all test functions below a folder, and NAME alone of those in FOLDER."""
    found = []
    for file in sorted(folder.rglob("test_*.py")):
        place = file.relative_to(folder).as_posix()
        prefix = "" if place.startswith(f"{FOLDER}/") else f"{place}::"
        found += [
            f"{prefix}{node.name}"
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        ]
    return found


def disagreements(rows: Mapping[int, Row], tests: Sequence[str], coming: Collection[int] = COMING) -> list[str]:
    """Return a sentence for each way in which a table and the tests differ. tests: as functions() returns them."""
    own = [test for test in tests if "::" not in test]
    found = [f"{test} is there twice" for test in sorted({test for test in own if own.count(test) > 1})]
    found += [f"row {number} is missing" for number in ROWS if number not in rows]
    found += [f"row {number} is none" for number in rows if number not in ROWS]
    for test in sorted({*own}):
        match = _NAMED_AFTER.fullmatch(test)
        if match is None or int(match[1]) not in rows:
            found.append(f"{test} names no row")
        elif test not in rows[int(match[1])].tests:
            found.append(f"row {match[1]} does not name {test}")
    for number, row in rows.items():
        found += [f"row {number} names {test}, which is not there" for test in row.tests if test not in tests]
        found += [f"row {number} names {test} twice" for test in sorted({*row.tests}) if row.tests.count(test) > 1]
        if number in coming and row.tests:
            found.append(f"row {number} has a test, but is said to be about what is still to come")
        if number not in coming and not row.tests:
            found.append(f"row {number} has no test")
        if (number in coming) != row.answer.startswith("comes with "):
            found.append(f"row {number} must say what it comes with, if it is still to come and only then")
    return found


def wrong_defaults(settings: Sequence[str], folder: Path) -> list[str]:
    """Return a sentence for each "key: value" that is not a setting with its default. folder: to write files into."""
    found = []
    (folder / "bare.yaml").write_text("app: app\n")
    default = load(folder / "bare.yaml", {}, {}).config
    for setting in settings:
        key, _, value = setting.partition(": ")
        if key not in KEYS:
            found.append(f"{key} is no setting")
            continue
        section, dot, name = key.rpartition(".")
        text = f"{section}:\n  {name}: {value}\n" if dot else f"{name}: {value}\n"
        (folder / "one.yaml").write_text(f"app: app\n{text}")
        if value_of(load(folder / "one.yaml", {}, {}).config, key) != value_of(default, key):
            found.append(f"{key} is not {value} by default")
    return found


# The document


def test_the_table_and_the_tests_agree() -> None:
    """Every row is there once, in order, names tests that exist, and names all that are called after it."""
    rows = table(DOCUMENT.read_text())
    assert [*ROWS] == [number for number, _ in rows]
    found = disagreements(dict(rows), functions(TESTS))
    assert not found, "\n".join(found)


def test_the_table_and_the_settings_agree(tmp_path: Path) -> None:
    """Every setting exists and has the default that is written beside it."""
    settings = [setting for _, row in table(DOCUMENT.read_text()) for setting in row.settings]
    assert len(settings) > 20
    found = wrong_defaults(settings, tmp_path)
    assert not found, "\n".join(found)


def test_settings_in_the_text_exist() -> None:
    """A word between backticks that looks like a setting is one, also outside the table."""
    keys = {*KEYS} | {key.rpartition(".")[2] for key in KEYS}
    text = DOCUMENT.read_text()
    for word in re.findall(r"`([a-z]+\.[a-z_]+|[a-z]+(?:_[a-z]+)+)`", text):
        assert word in keys or word in ("on_handshake", "on_error", "connection.user"), word


def test_every_row_says_something() -> None:
    """A row has a threat and an answer."""
    for number, row in table(DOCUMENT.read_text()):
        assert row.threat, number
        assert row.answer, number


# The checks themselves

LATER: Final = frozenset({20})
"""What is taken here for a row about what is still to come."""


def test_the_table_is_found() -> None:
    """A row is a line with five cells, of which the first is a number; names stand between backticks."""
    text = (
        "| row | threat | what | settings | tests |\n|---|---|---|---|---|\n"
        "| 1 | a | b `c` | `x.y: 5s`, `z: 1` | `test_row_1_x`, `test_log.py::test_y` |\n"
    )
    row = Row("a", "b `c`", ("x.y: 5s", "z: 1"), ("test_row_1_x", "test_log.py::test_y"))
    assert [(1, row)] == table(text)


def test_only_functions_count(tmp_path: Path) -> None:
    """Names are taken from the files as they are written, those of one folder without it."""
    text = "# def test_a(): ...\ndef test_b():\n    test_c()\nasync def test_d(): ...\ndef make(): ...\n"
    for place in ("test_log.py", f"{FOLDER}/test_log.py", "worker/test_app.py", "worker/world.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    expected = ["test_b", "test_d", "test_log.py::test_b", "test_log.py::test_d"]
    assert sorted([*expected, "worker/test_app.py::test_b", "worker/test_app.py::test_d"]) == sorted(
        functions(tmp_path)
    )


def complete() -> tuple[dict[int, Row], list[str]]:
    """Return a table and tests that agree."""
    tests = {number: () if number in LATER else (f"test_row_{number}_what", "test_log.py::test_x") for number in ROWS}
    answers = {number: "comes with more" if number in LATER else "an answer" for number in ROWS}
    rows = {number: Row("a threat", answers[number], (), tests[number]) for number in ROWS}
    return rows, [f"test_row_{number}_what" for number in ROWS if number not in LATER] + ["test_log.py::test_x"]


def test_what_agrees_is_let_pass() -> None:
    """A complete table has no faults, so a sentence below has one cause."""
    assert [] == disagreements(*complete(), LATER)


def test_a_changed_test_is_noticed() -> None:
    """A test that is renamed, removed, added or written twice, or that has no row, gives a sentence each."""
    rows, tests = complete()
    assert ["row 7 does not name test_row_7_new", "row 7 names test_row_7_what, which is not there"] == disagreements(
        rows, [test.replace("7_what", "7_new") if test == "test_row_7_what" else test for test in tests], LATER
    )
    assert ["test_row_7_what is there twice"] == disagreements(rows, [*tests, "test_row_7_what"], LATER)
    assert ["test_row_99_what names no row", "test_what names no row"] == disagreements(
        rows, [*tests, "test_what", "test_row_99_what"], LATER
    )
    missing = disagreements(rows, tests[:-1], LATER)
    assert f"row {ROWS[-1]} names test_log.py::test_x, which is not there" == missing[-1]
    assert len(ROWS) - len(LATER) == len(missing)


@pytest.mark.parametrize(
    ("number", "row", "sentence"),
    [
        (7, None, "row 7 is missing"),
        (37, Row("a", "b", (), ("test_log.py::test_x",)), "row 37 is none"),
        (7, Row("a", "b", (), ("test_row_7_what",) * 2), "row 7 names test_row_7_what twice"),
        (20, Row("a", "comes with more", (), ("test_log.py::test_x",)), "row 20 has a test, but is said to be about"),
        (20, Row("a", "b", (), ()), "row 20 must say what it comes with"),
        (7, Row("a", "comes with more", (), ("test_row_7_what",)), "row 7 must say what it comes with"),
    ],
)
def test_a_changed_row_is_noticed(number: int, row: Row | None, sentence: str) -> None:
    """A row that is missing, surplus, says a thing twice, or comes too early or too late, gives a sentence."""
    rows, tests = complete()
    if row is None:
        del rows[number]
    else:
        rows[number] = row
    found = disagreements(rows, tests, LATER)
    assert any(one.startswith(sentence) for one in found), found


def test_a_row_without_a_test_is_noticed() -> None:
    """A row about what exists must name a test, of whatever file."""
    rows, tests = complete()
    rows[7] = Row("a", "b", (), ())
    tests.remove("test_row_7_what")
    assert ["row 7 has no test"] == disagreements(rows, tests, LATER)


def test_a_wrong_default_is_noticed(tmp_path: Path) -> None:
    """A setting that does not exist, and a value that is no default, give a sentence each; spelling does not matter."""
    right = ["websocket.max_size: 1048576", "websocket.max_size: 1MiB", "backlog: 2048", 'umask: "0027"']
    assert [] == wrong_defaults(right, tmp_path)
    assert ["websocket.max_sice is no setting", "websocket.max_size is not 2MiB by default"] == wrong_defaults(
        ["websocket.max_sice: 1MiB", "websocket.max_size: 2MiB"], tmp_path
    )
