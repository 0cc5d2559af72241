"""Writing: settings as a person would write them, which can be read again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker import values
from wsworker.values import ListenAddress, ProxiedAddress
from wsworker.writing import as_yaml, written
from wsworker.yamlfile import Scalar, read


@pytest.mark.parametrize(
    ("value", "unit", "expected", "yaml"),
    [
        (30.0, "seconds", "30s", "30s"),
        (60.0, "seconds", "60s", "60s"),
        (0.25, "seconds", "250ms", "250ms"),
        (1.5, "seconds", "1.5s", "1.5s"),
        (0.0005, "seconds", "0.0005s", "0.0005s"),
        (1e-12, "seconds", 1e-12, "1e-12"),
        (86400.0, "seconds", "24h", "24h"),
        (0.0, "seconds", 0, "0"),
        (1024**2, "bytes", "1MiB", "1MiB"),
        (3 * 1024**3, "bytes", "3GiB", "3GiB"),
        (65536, "bytes", "64KiB", "64KiB"),
        (1000, "bytes", 1000, "1000"),
        (0, "bytes", 0, "0"),
        (0o27, "mode", "0027", '"0027"'),
        (4, "processes", 4, "4"),
        (None, "", None, "null"),
        (True, "", True, "true"),
        ("auto", "processes", "auto", "auto"),
        ("-", "", "-", '"-"'),
        ("*", "", "*", '"*"'),
        ("", "", "", '""'),
        ("null", "", "null", '"null"'),
        ("1.2", "", "1.2", '"1.2"'),
        ("a: b", "", "a: b", '"a: b"'),
        ("a:", "", "a:", '"a:"'),
        ("über", "", "über", '"über"'),
        ("/srv/hello", "", "/srv/hello", "/srv/hello"),
        ((), "", [], "[]"),
        (("a", "*"), "", ["a", "*"], '[a, "*"]'),
        (("a",), "", ["a"], "[a]"),
        ((ListenAddress("127.0.0.1", 80),), "", "127.0.0.1:80", "127.0.0.1:80"),
        ((ListenAddress("::", 80),), "", "[::]:80", '"[::]:80"'),
        ((ListenAddress("127.0.0.1", 80), ListenAddress("", 0, "/x")), "", ["127.0.0.1:80", "unix:/x"], None),
        ((ProxiedAddress(ListenAddress("127.0.0.1", 80), "v2"),), "", "127.0.0.1:80=v2", "127.0.0.1:80=v2"),
        (ListenAddress("127.0.0.1", 80), "", "127.0.0.1:80", "127.0.0.1:80"),
    ],
)
def test_written(value: object, unit: str, expected: Any, yaml: str | None) -> None:
    """A value has the unit that fits, and quotes where YAML wants them; an address alone needs no list."""
    made = written(value, unit)
    assert expected == made
    assert type(expected) is type(made)
    assert yaml in (None, as_yaml(value, unit))


def read_again(text: str) -> object:
    """Return what YAML makes of a text."""
    root = read(text).root
    assert isinstance(root, Scalar)
    return root.value


@given(st.floats(0, 365 * 86400.0))
def test_any_time(value: float) -> None:
    """What is written for a time means that time."""
    assert value == values.seconds(read_again(as_yaml(value, "seconds")))


@given(st.integers(0, 2**40))
def test_any_size(value: int) -> None:
    """What is written for a size means that size."""
    assert value == values.size(read_again(as_yaml(value, "bytes")))


@given(st.integers(1, 0o777))
def test_any_mode(value: int) -> None:
    """What is written for a mode means that mode."""
    assert value == values.mode(read_again(as_yaml(value, "mode")))


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="\xa0"), max_size=12))
def test_any_text(value: str) -> None:
    """What is written for a text is that text to YAML."""
    found = read(as_yaml(value, ""))
    if not found.faults:  # a character that YAML has no place for cannot have come from it
        assert isinstance(found.root, Scalar)
        assert value == found.root.value
