"""Text of strangers in lines of the log: escaped for people, and in JSON."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.visible import escape, escape_json, escape_line, is_colorless

HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/chat?room=1", "/chat?room=1"),
        ("Grüße 🐍", "Grüße 🐍"),
        ("a\r\nb\tc", r"a\x0d\x0ab\x09c"),
        ("\x1b[2J\x00\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("\u2028\u202e\u2066\udc80", r"\u2028\u202e\u2066\udc80"),
        (r"C:\x1b", r"C:\x1b"),
        ("", ""),
    ],
)
def test_escape(text: str, shown: str) -> None:
    """Control characters, line ends, marks that reorder text and surrogates become visible; the rest stays."""
    assert shown == escape(text)


def test_escape_cuts() -> None:
    """Up to the limit nothing is cut; behind it the number of missing characters stands."""
    assert "x" * 200 == escape("x" * 200)
    assert "x" * 200 + "... (1 more)" == escape("x" * 201)
    assert r"\x00\x00... (1 more)" == escape("\x00\x00\x00", limit=2)


def test_a_tab_stays_in_a_line() -> None:
    """It is harmless and frequent in tracebacks; a line is never cut."""
    assert "\t" + "x" * 300 + r"\x0a" == escape_line("\t" + "x" * 300 + "\n")


@given(st.text())
def test_json_says_what_was_said(text: str) -> None:
    """A reader of the escaped JSON gets the text, a lone surrogate as visible text, and no character does harm."""
    document = escape_json(json.dumps(text, ensure_ascii=False))
    assert HARMFUL.search(document) is None
    assert re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) == json.loads(document)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True),
        ({"TERM": "dumb"}, True),
    ],
)
def test_who_wants_no_colour(environ: dict[str, str], expected: bool) -> None:
    """NO_COLOR if it holds anything, and a dumb terminal."""
    assert expected is is_colorless(environ)
