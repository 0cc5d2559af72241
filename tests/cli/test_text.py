"""Words for people."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.cli import text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0s"),
        (-0.5, "0s"),
        (59.9, "59s"),
        (60, "1m0s"),
        (130.2, "2m10s"),
        (3599, "59m59s"),
        (3600, "1h0m"),
        (86399, "23h59m"),
        (86400, "1d0h"),
        (4 * 86400 + 7.5 * 3600, "4d7h"),
    ],
)
def test_ages(seconds: float, expected: str) -> None:
    """An age has its two largest units, and is never more than what has passed."""
    assert expected == text.age(seconds)


@pytest.mark.parametrize(("seconds", "expected"), [(0.042, "0.04 s"), (4.23, "4.2 s"), (31.4, "31 s"), (0, "0.00 s")])
def test_spans(seconds: float, expected: str) -> None:
    """A span has two digits that mean something."""
    assert expected == text.span(seconds)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (273, "273 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 * 1024, "10 KiB"),
        (28311552, "27 MiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**3, "1.0 GiB"),
        (3 * 1024**4, "3.0 TiB"),
    ],
)
def test_sizes(count: int, expected: str) -> None:
    """A size is shown in the largest unit that it fills."""
    assert expected == text.size(count)


@given(st.integers(0, 2**60))
def test_a_size_is_short(count: int) -> None:
    """No size below the largest unit's end needs more than four digits."""
    assert re.fullmatch(r"\d{1,4}(\.\d)? (B|[KMG]iB)|\d+(\.\d)? TiB", text.size(count))


def test_counts() -> None:
    """One thing has no s."""
    assert ["0 workers", "1 worker", "2 workers"] == [text.counted(count, "worker") for count in range(3)]


def test_what_could_steer_a_terminal_is_shown() -> None:
    """A text of another process stays on its line and moves no cursor."""
    assert r"a\x1b[2J\x0ab" == text.visible("a\x1b[2J\nb")


def test_rates() -> None:
    """A tenth is shown where it is worth something; what is not known is a dash."""
    rates = [None, 0.0, 0.46, 99.94, 99.95, 1234.5]
    assert ["-", "0.0", "0.5", "99.9", "100", "1234"] == [text.rate(value) for value in rates]


def test_columns() -> None:
    """Columns stand under each other, are never cut, and no line ends in blanks."""
    rows = [("#", "STATE", ""), ("10", "ready", "x" * 300), ("2", "hung", "")]
    expected = [" #  STATE", "10  ready  " + "x" * 300, " 2  hung"]
    assert expected == text.lines(rows, (">", "<", "<"))


def test_the_last_column_may_be_aligned_right() -> None:
    """Then it is padded like the others."""
    assert ["a   1", "b  10"] == text.lines([("a", "1"), ("b", "10")], ("<", ">"))


def test_no_rows() -> None:
    """Nothing is laid out as nothing."""
    assert [] == text.lines([], ("<", ">"))
