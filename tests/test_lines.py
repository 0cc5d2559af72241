"""Lines: one record in each format, and that no text in it can pretend to be another one."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.lines import Console, Journal, Json, Line
from wsworker.speaker import floor

AT = 1_738_284_053.25  # 2025-01-31T00:40:53.250 UTC
OURS = ["time", "level", "logger", "process", "slot", "pid", "connection", "message", "exception"]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let local time be an hour ahead of UTC."""
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def make(form: str, slot: int | None = 1) -> Line:
    """Return the line of a format."""
    match form:
        case "terminal":
            return Console(slot, dated=False)
        case "plain":
            return Console(slot, dated=True)
        case "journal":
            return Journal(slot)
        case _:
            return Json(slot)


def record(message: str, *args: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    """Return a record made at a known time and place."""
    made = logging.LogRecord("app", level, "/srv/app.py", 14, message, args, None)
    made.created = AT
    vars(made).update(extra)
    return made


def formatted(form: str, message: str, *args: object, slot: int | None = 1, **facts: Any) -> str:
    """Return the text of one record."""
    return make(form, slot).format(record(message, *args, **facts))


def read(message: str, *args: object, **facts: Any) -> dict[str, Any]:
    """Return one record as a reader of JSON gets it."""
    document = json.loads(formatted("json", message, *args, **facts))
    assert isinstance(document, dict)
    return document


def failed(error: Exception) -> logging.LogRecord:
    """Return a record with a traceback."""
    made = record("on_message failed", level=logging.ERROR)
    try:
        raise error
    except type(error):
        made.exc_info = sys.exc_info()
    return made


@pytest.mark.parametrize(
    ("form", "slot", "line"),
    [
        ("terminal", 1, "01:40:53 INFO  worker 1  ready, pid 4243"),
        ("terminal", None, "01:40:53 INFO  master    ready, pid 4243"),
        ("terminal", 12, "01:40:53 INFO  worker 12  ready, pid 4243"),
        ("plain", 1, "2025-01-31T01:40:53.250+01:00 INFO  worker 1  ready, pid 4243"),
        ("journal", 1, "<6>worker 1  ready, pid 4243"),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_formats_for_people(form: str, slot: int | None, line: str) -> None:
    """Each has its time, level and process in front of the message."""
    assert line == formatted(form, "ready, pid %d", 4243, slot=slot)


@pytest.mark.usefixtures("berlin")
def test_json() -> None:
    """The same nine keys in the same order, whatever the record; a worker has its slot, the master has none."""
    line = formatted("json", "ready, pid %d", 4243, slot=3)
    assert (
        '{"time": "2025-01-31T01:40:53.250+01:00", "level": "info", "logger": "app", "process": "worker", "slot": 3, '
        f'"pid": {os.getpid()}, "connection": null, "message": "ready, pid 4243", "exception": null}}'
    ) == line
    assert ("master", None) == (read("x", slot=None)["process"], read("x", slot=None)["slot"])


@pytest.mark.parametrize(
    ("level", "name", "priority", "color"),
    [
        (logging.DEBUG, "DEBUG", 7, "2"),
        (logging.INFO, "INFO ", 6, ""),
        (logging.WARNING, "WARN ", 4, "33"),
        (logging.ERROR, "ERROR", 3, "31"),
        (logging.CRITICAL, "CRIT ", 2, "1;31"),
    ],
)
def test_levels(level: int, name: str, priority: int, color: str) -> None:
    """Names are five characters wide, each has its priority in the journal, and what is not usual its colour."""
    assert f" {name} worker 1  hi" == formatted("terminal", "hi", level=level)[8:]
    assert f"<{priority}>worker 1  hi" == formatted("journal", "hi", level=level)
    assert logging.getLevelName(level).lower() == read("hi", level=level)["level"]
    colored = Console(1, dated=False, colored=True).format(record("hi", level=level))
    assert (f" \x1b[{color}m{name}\x1b[0m worker 1  hi" if color else f" {name} worker 1  hi") == colored[8:]


@pytest.mark.parametrize("told", [True, False])
def test_a_connection(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id stands before the message: the one that `extra` names, else the one that speaks."""

    class Somebody:
        id = "srv-1.12.1"

    extra: dict[str, Any] = {"connection": "srv-1.12.1"} if told else {}
    monkeypatch.setattr(floor, "holder", None if told else Somebody())
    assert "<6>worker 1  [srv-1.12.1] hi" == formatted("journal", "hi", **extra)
    assert "worker 1  [srv-1.12.1] hi" == formatted("terminal", "hi", **extra)[15:]
    assert "srv-1.12.1" == read("hi", **extra)["connection"]
    colored = Console(1, dated=False, colored=True).format(record("hi", **extra))
    assert "worker 1  \x1b[2m[srv-1.12.1] \x1b[0mhi" == colored[15:]


def test_a_record_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """`extra` can also say that it is about no connection, whoever speaks."""

    class Somebody:
        id = "srv-1.12.1"

    monkeypatch.setattr(floor, "holder", Somebody())
    assert "<6>worker 1  hi" == formatted("journal", "hi", connection=None)
    assert read("hi", connection=None)["connection"] is None


def test_a_traceback_is_indented() -> None:
    """A traceback follows its message, on lines that begin with two blanks."""
    first, *others = make("plain").format(failed(ValueError("one\ntwo"))).split("\n")
    assert first.endswith("on_message failed")
    assert "  Traceback (most recent call last):" == others[0]
    assert ["  ValueError: one", "  two"] == others[-2:]
    assert all(line.startswith("  ") for line in others)


def test_a_traceback_in_json() -> None:
    """It has a key of its own, and so has a stack that was asked for."""
    made = failed(ValueError("one"))
    made.stack_info = "Stack (most recent call last):\n  somewhere"
    document = json.loads(make("json").format(made))
    assert "on_message failed" == document["message"]
    assert document["exception"].startswith("Traceback (most recent call last):\n")
    assert document["exception"].endswith("\nValueError: one")
    assert "Stack (most recent call last):\n  somewhere" == document["stack"]


def test_the_journal_sees_the_priority_of_each_line() -> None:
    """Each line is an entry of its own there, so none may fall back to the default priority."""
    assert "<3>worker 1  one\n<3>  two" == formatted("journal", "one\ntwo", level=logging.ERROR)


def test_extra() -> None:
    """What a caller adds stands behind our keys and never in place of them; what JSON does not have is shown."""
    circle: list[object] = []
    circle.append(circle)
    added = {"room": "a", "sizes": [1, {"b": None}], "pid": 1, "rate": float("nan"), "self": circle, "at": {1, 2}}
    document = read("hi", **added)
    assert OURS == [*document][:9]
    del added["pid"]
    expected = {"room": "a", "sizes": [1, {"b": None}], "rate": "nan", "self": "[[...]]", "at": "{1, 2}"}
    assert expected.items() <= document.items()
    assert (1, os.getpid()) == (document["pid_"], document["pid"])


def test_what_cannot_be_shown() -> None:
    """A value that has neither JSON nor a text, and an exc_info that is none, cost themselves and not the record."""
    document = read("hi", n=10**5000, room="a", exc_info=("a", "b"))
    assert ("hi", "a") == (document["message"], document["room"])
    assert "cannot show a value of type int (ValueError)" == document["n"]
    assert "cannot format 'hi' of /srv/app.py:14 (IndexError)" == document["exception"]


class Mute:
    """What has no text at all."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


@pytest.mark.parametrize("form", ["plain", "journal", "json"])
def test_what_raises_for_every_text(form: str) -> None:
    """The line names its type and the place, so that nobody looks for a full disk."""
    made = record("hi")
    made.msg, made.exc_info = Mute(), None
    text = make(form).format(made)
    said = json.loads(text)["message"] if form == "json" else text
    assert said.endswith("cannot format a message of type Mute of /srv/app.py:14 (ValueError)")


@pytest.mark.parametrize("form", ["plain", "journal"])
def test_a_connection_without_a_text(form: str) -> None:
    """It costs itself and not the record."""
    assert "[cannot show a value of type Mute (ValueError)] hi" in formatted(form, "hi", connection=Mute())


def test_extra_without_a_text() -> None:
    """Nor does a key cost it, or the connection in JSON."""
    made = record("hi", connection=Mute())
    made.__dict__[Mute()] = 1  # type: ignore[index]
    document = json.loads(make("json").format(made))
    shown = "cannot show a value of type Mute (ValueError)"
    assert ("hi", shown, 1) == (document["message"], document["connection"], document[shown])


@pytest.mark.parametrize("form", ["plain", "journal", "json"])
@pytest.mark.parametrize(("message", "args"), [("%d clients", ("many",)), ("%s %s", ("one",))])
def test_arguments_that_do_not_fit(form: str, message: str, args: tuple[str, ...]) -> None:
    """The line names the message and its place instead of being lost."""
    text = formatted(form, message, *args)
    said = json.loads(text)["message"] if form == "json" else text
    assert said.endswith(f"cannot format {message!r} of /srv/app.py:14 (TypeError)")


HARMFUL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# what could begin a line of each format, and what ends a line or acts on a terminal
PIECES = [
    *("\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x00", "\x1b[2J", "\x9b31m", "\u202e"),
    *("\u2066", "\udc80", "\ud83d\ude00", '"', "\\", '"}\n{"', "<0>panic", "[srv-1.1.1] ", "  "),
    "01:40:54 INFO  master    stopped",
    "2030-01-01T00:00:00.000+00:00 INFO  master    stopped",
]
STRANGERS = st.lists(st.one_of(st.text(max_size=5), st.sampled_from(PIECES))).map("".join)


def shown(text: str) -> str:
    """Return a text as a reader of JSON gets it."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


@pytest.mark.parametrize("form", ["terminal", "plain", "journal", "json"])
@given(text=STRANGERS, user=STRANGERS)
def test_nothing_can_forge_a_line(form: str, text: str, user: str) -> None:
    """Whatever a client says: one line for a record, indented ones behind it, and no character that does harm."""
    made = record("%s is here", text, user=user, connection=user or None)
    made.exc_info = (ValueError, ValueError(text), None)
    lines = make(form).format(made).split("\n")
    assert [None] * len(lines) == [HARMFUL.search(line) for line in lines]
    first, *others = lines
    if form == "json":
        document = json.loads(first)
        assert ([], OURS) == (others, [*document][:9])
        assert (shown(f"{text} is here"), shown(user)) == (document["message"], document["user"])
    elif form == "journal":
        assert first.startswith("<6>worker 1  ")
        assert all(line.startswith("<6>  ") for line in others)
    else:
        assert re.match(r"\S+ INFO  worker 1  ", first)
        assert all(line.startswith("  ") for line in others)
