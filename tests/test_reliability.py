"""docs/reliability.md promises what becomes of each fault and names the tests for it. The two must agree."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "reliability.md"
FAULTS: Final = Path(__file__).parent / "system" / "faults"
HANDOVER: Final = Path(__file__).parent / "system" / "handover"
UPGRADE: Final = Path(__file__).parent / "system" / "upgrade"
ROWS: Final = range(1, 53)

_ROW: Final = re.compile(r"^\| *(\d+) *\|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)
_MOVE: Final = re.compile(r"^\| *H(\d+) *\|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)
_UPGRADE: Final = re.compile(r"^\| *U(\d+) *\|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)
_NAME: Final = re.compile(r"`([^`]*)`")
_FUNCTION: Final = re.compile(r"test_row_(\d\d)_\w+")


class Row(NamedTuple):
    """One line of the table. tests: the names in its last column."""

    fault: str
    promise: str
    tests: tuple[str, ...]


def table(text: str, row: re.Pattern[str] = _ROW) -> list[tuple[int, Row]]:
    """Return the lines of a table in a document, with their numbers, in their order. row: one of them."""
    return [
        (int(number), Row(fault.strip(), promise.strip(), tuple(_NAME.findall(tests))))
        for number, fault, promise, tests in row.findall(text)
    ]


def functions(folder: Path) -> list[str]:
    """Return the names of all test functions in a folder, as written in the files."""
    return [
        node.name
        for file in sorted(folder.glob("test_*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def disagreements(rows: Mapping[int, Row], tests: list[str]) -> list[str]:
    """Return a sentence for each way in which a table and the tests differ."""
    found = [f"{test} is there twice" for test in sorted({test for test in tests if tests.count(test) > 1})]
    found += [f"row {number} is missing" for number in ROWS if number not in rows]
    found += [f"row {number} is none" for number in rows if number not in ROWS]
    by_row: dict[int, set[str]] = {number: set() for number in rows}
    for test in sorted({*tests}):
        match = _FUNCTION.fullmatch(test)
        if match and int(match[1]) in rows:
            by_row[int(match[1])].add(test)
        else:
            found.append(f"{test} names no row")
    for number, row in rows.items():
        there, named = by_row[number], {*row.tests}
        if not there:
            found.append(f"row {number} has no test")
        found += [f"row {number} names {test}, which is not there" for test in sorted(named - there)]
        found += [f"row {number} does not name {test}" for test in sorted(there - named)]
    return found


def test_the_table_and_the_tests_agree() -> None:
    """Every row is there once, in order, and names exactly the tests that are called after it."""
    rows = table(DOCUMENT.read_text())
    assert [*ROWS] == [number for number, _ in rows]
    found = disagreements(dict(rows), functions(FAULTS))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("row", "folder"), [(_MOVE, HANDOVER), (_UPGRADE, UPGRADE)])
def test_the_later_tables_and_their_tests_agree(row: re.Pattern[str], folder: Path) -> None:
    """The faults during a hand-over, or an upgrade, are numbered in order, and name all of its tests, each once."""
    rows = table(DOCUMENT.read_text(), row)
    assert [*range(1, len(rows) + 1)] == [number for number, _ in rows]
    named = [test for _, found in rows for test in found.tests]
    assert sorted(functions(folder)) == sorted(named)
    assert rows
    assert all(found.tests for _, found in rows)


def test_every_row_says_something() -> None:
    """A row has a fault and a promise."""
    text = DOCUMENT.read_text()
    for number, row in table(text) + table(text, _MOVE) + table(text, _UPGRADE):
        assert row.fault, number
        assert row.promise, number


def test_the_table_is_found() -> None:
    """A row is a line with four cells, of which the first is a number; names stand between backticks."""
    text = "| row | fault | promise | test |\n|---|---|---|---|\n| 1 | a | b `c` | `test_row_01_x`, `test_row_01_y` |\n"
    assert [(1, Row("a", "b `c`", ("test_row_01_x", "test_row_01_y")))] == table(text)


def complete() -> tuple[dict[int, Row], list[str]]:
    """Return a table and tests that agree."""
    tests = {number: f"test_row_{number:02}_what" for number in ROWS}
    rows = {number: Row("a fault", "a promise", (tests[number],)) for number in ROWS}
    return rows, [*tests.values()]


def test_what_agrees_is_let_pass() -> None:
    """A complete table has no faults, so a sentence below has one cause."""
    assert [] == disagreements(*complete())


def test_a_renamed_test_is_noticed() -> None:
    """A test that is renamed, removed, added or written twice, or that has no row, gives a sentence each."""
    rows, tests = complete()
    assert ["row 7 names test_row_07_what, which is not there", "row 7 does not name test_row_07_new"] == disagreements(
        rows, [test.replace("07_what", "07_new") for test in tests]
    )
    assert ["row 7 has no test", "row 7 names test_row_07_what, which is not there"] == disagreements(
        rows, [test for test in tests if "07" not in test]
    )
    assert ["row 7 does not name test_row_07_more"] == disagreements(rows, [*tests, "test_row_07_more"])
    assert ["test_row_07_what is there twice"] == disagreements(rows, [*tests, "test_row_07_what"])
    assert ["test_what names no row", "test_row_99_what names no row"] == sorted(
        disagreements(rows, [*tests, "test_what", "test_row_99_what"]), reverse=True
    )


def test_a_missing_row_is_noticed() -> None:
    """A row that is not there, and one too many, give a sentence each."""
    rows, tests = complete()
    without = {number: row for number, row in rows.items() if number != 7}
    assert ["row 7 is missing", "test_row_07_what names no row"] == disagreements(without, tests)
    assert ["row 53 is none", "row 53 has no test"] == disagreements(rows | {53: Row("a", "b", ())}, tests)


def test_only_functions_count(tmp_path: Path) -> None:
    """Names are taken from the files as they are written: a comment, a call or another function is no test."""
    (tmp_path / "test_one.py").write_text(
        "# test_row_01_a\ndef test_row_02_b():\n    test_row_03_c()\ndef make(): ...\n"
    )
    (tmp_path / "world.py").write_text("def test_row_04_d(): ...\n")
    assert ["test_row_02_b"] == functions(tmp_path)
