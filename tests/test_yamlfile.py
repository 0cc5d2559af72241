"""The YAML reader: scalars of YAML 1.2, places, and what it refuses."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wsworker import yamlfile
from wsworker.yamlfile import Document, Entry, Fault, Items, Scalar, Spot, Table, Unreadable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("false", False),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("True", "True"),
        ("0", 0),
        ("-12", -12),
        ("022", 22),
        ("0o22", 18),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("22:22", "22:22"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-01-01", "2026-01-01"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_meaning(text: str, expected: object) -> None:
    """A word means what the core schema of YAML 1.2 says, and what no setting takes stays text."""
    meaning = yamlfile.meaning(text)
    assert expected == meaning
    assert type(expected) is type(meaning)


def test_tree() -> None:
    """Each node has its place; lines and columns count from 1, columns in characters."""
    expected = Table(
        Spot(1, 1),
        {
            "on": Entry(Spot(1, 1, 2), Items(Spot(1, 5), (Scalar(Spot(1, 6, 2), "éé", "éé"),))),
            "b": Entry(Spot(3, 1), Table(Spot(4, 3), {"1": Entry(Spot(4, 3), Scalar(Spot(4, 6, 5), "022", "022"))})),
        },
    )
    assert Document(expected, ()) == yamlfile.read('on: [éé]\n# comment\nb:\n  1: "022"\n')


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_nothing(text: str) -> None:
    """An empty text has no root and no fault."""
    assert Document(None, ()) == yamlfile.read(text)


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ("a: *x\n", Spot(1, 4, 2)),
        ("a: !x b\n", Spot(1, 4, 4)),
        ("a: !x [b]\n", Spot(1, 4, 4)),
        ('a: "\\e"\n', Spot(1, 4, 4)),
        ("a: |\n  b\n", Spot(1, 4)),
    ],
)
def test_spoilt_value(text: str, spot: Spot) -> None:
    """A value with a fault is left out and the rest is read."""
    document = yamlfile.read(f"{text}c: 1\n")
    assert isinstance(document.root, Table)
    assert ["a", "c"] == list(document.root.entries)
    assert [spot] == [fault.spot for fault in document.faults]
    if "[" not in text:
        assert Unreadable(spot) == document.root.entries["a"].node


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "duplicate key 'a' (first on line 1)"),
        ("b: {a: 1, a: 2}\n", "duplicate key 'b.a' (first on line 1)"),
        ("b: [{a: 1, a: 2}]\n", "duplicate key 'b.a' (first on line 1)"),
        ("redis://:hunter2@h: 1\nredis://:hunter2@h: 2\n", "duplicate key 'redis://**********' (first on line 1)"),
        ("<<: {a: 1}\n", "merging with << is not supported; write the keys out"),
        ("? {a: 1}\n: 2\n", "a key is one word; quote it if it starts with [ or {"),
        ("*x : 2\n", "an alias (*) is not supported; write the value, or quote the *"),
        ("a: &x 2\n", "an anchor (&) is not supported; remove it, or quote a value that starts with &"),
    ],
)
def test_fault(text: str, message: str) -> None:
    """What YAML allows and a configuration does not need is a fault."""
    assert [message] == [fault.message for fault in yamlfile.read(text).faults]


def test_the_first_of_two_equal_keys_stays() -> None:
    """A duplicate is told, and does not win."""
    root = yamlfile.read("a: 1\na: 2\n").root
    assert isinstance(root, Table)
    assert Scalar(Spot(1, 4), "1", 1) == root.entries["a"].node


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 50_000, "? " * 100_000])
def test_depth(text: str) -> None:
    """Depth costs nothing: reading stops at the limit."""
    (fault,) = yamlfile.read(text).faults
    assert fault.message.startswith("nested more than 8 levels deep")


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x80", "\ufeff", "\ufffe", "\udc80"])
def test_forbidden_character(character: str) -> None:
    """A character that YAML forbids is found with its line and column, also where libyaml would give an offset."""
    message = f"the character U+{ord(character):04X} is not allowed in YAML; remove it"
    assert Document(None, (Fault(Spot(2, 4), message),)) == yamlfile.read(f"a: 1\nb: {character}\n")


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yamlfile.LOADER])
@pytest.mark.parametrize(
    ("text", "spot", "message"),
    [
        ("a:\n\tb: 1", Spot(2, 1), "a tab cannot indent"),
        ("a: [::]:80", Spot(1, 5), "an IPv6 address needs quotes"),
        ("a: *", Spot(1, 5), "a * needs quotes"),
        ("a: -", Spot(1, 4), "a - that starts no list needs quotes"),
        ("a: b: c", Spot(1, 5), "either this line is indented too far"),
        ("a: @b", Spot(1, 4), "a value cannot start with @"),
        ("a: !h!x b", Spot(1, 4), "a tag (!) is not supported"),
        ("a: 'b\nc: d", Spot(1, 4), "this quote is never closed"),
        ("a: [1\nb: 2", Spot(2, 2), "not valid YAML: "),
        ("a: {b: ", Spot(1, 8), "not valid YAML: "),
        ("{a: 1}}", Spot(1, 7), "not valid YAML: "),
        ("a: 1\n---\nb: 2", Spot(2, 1, 3), "a second document starts here"),
    ],
)
def test_syntax(monkeypatch: pytest.MonkeyPatch, loader: object, text: str, spot: Spot, message: str) -> None:
    """Broken syntax is one fault at its place, with libyaml and without it."""
    monkeypatch.setattr(yamlfile, "LOADER", loader)
    document = yamlfile.read(text)
    assert document.root is None
    (fault,) = document.faults
    assert spot == fault.spot
    assert fault.message.startswith(message)


def test_lines() -> None:
    """Lines end where YAML ends them, so that a fault's line is the line that is shown."""
    assert ["a", "b", "c", "d", "e\x0cf", ""] == yamlfile.lines("a\nb\r\nc\rd\u2028e\x0cf\n")


@given(st.text(alphabet="ab:-[]{}#&*!|>'\"%@?, \n\t\\é0.~<", max_size=40))
def test_any_text(text: str) -> None:
    """Any text gives a document, whose faults stand inside the text."""
    document = yamlfile.read(text)
    lines = yamlfile.lines(text)
    for fault in document.faults:
        assert 1 <= fault.spot.line <= len(lines)
        assert 1 <= fault.spot.column <= len(lines[fault.spot.line - 1]) + 1
        assert fault.spot.width >= 1
