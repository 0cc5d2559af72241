"""Kinds: the bounds of each kind of setting, the folder that paths start at, and what a section is."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from wsworker import kinds, values
from wsworker.kinds import OrAlone, Section, Takes, in_folder, setting, text_schema
from wsworker.values import ListenAddress

CONTEXT = {"folder": "/srv/hello"}


def taken(kind: Any, value: object) -> Any:
    """Return what a field of this kind makes of a value in a config file."""
    return TypeAdapter(kind).validate_python(value, strict=True, context=CONTEXT)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (kinds.Seconds, "1ms", 0.001),
        (kinds.Seconds, "24h", 86400.0),
        (kinds.Seconds, 5, 5.0),
        (kinds.SecondsOrZero, 0, 0.0),
        (kinds.SecondsOrZero, "24h", 86400.0),
        (kinds.BeatSeconds, 4, 4.0),
        (kinds.BeatSeconds, "24h", 86400.0),
        (kinds.AgeOrZero, 0, 0.0),
        (kinds.AgeOrZero, "8760h", 365 * 86400.0),
        (kinds.Bytes, 1, 1),
        (kinds.Bytes, "1GiB", 1024**3),
        (kinds.BytesPerSecond, 0, 0),
        (kinds.BytesPerSecond, "64k", 65536),
        (kinds.BytesPerSecond, "1GiB", 1024**3),
        (kinds.MemoryOrZero, 0, 0),
        (kinds.MemoryOrZero, "32MiB", 32 * 1024**2),
        (kinds.MemoryOrZero, "1024GiB", 1024**4),
        (kinds.PerSecond, 0, 0),
        (kinds.PerSecond, 10**6, 10**6),
        (kinds.Limit, 0, 0),
        (kinds.Limit, 10**6, 10**6),
        (kinds.FileOrNull, None, None),
        (kinds.FileOrNull, "x.pem", "/srv/hello/x.pem"),
        (kinds.Address, "127.0.0.1:80", ListenAddress("127.0.0.1", 80)),
        (kinds.Address, "unix:x", ListenAddress("", 0, "/srv/hello/x")),
        (kinds.Mode, "0001", 1),
        (kinds.Mode, "0o777", 0o777),
        (kinds.SocketMode, "0660", 0o660),
        (kinds.ForwardedHeader, "Forwarded", "forwarded"),
    ],
)
def test_taken(kind: Any, value: object, expected: object) -> None:
    """Values up to the bounds are normalised; a time is a float, a size or a number an int."""
    made = taken(kind, value)
    assert expected == made
    assert type(expected) is type(made)


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        (kinds.Seconds, [0, -1, 86400.1, "x", float("inf"), float("nan"), True, None]),
        (kinds.SecondsOrZero, [-0.1, 86400.1, "5d", float("nan")]),
        (kinds.BeatSeconds, [0, 3.9, 86400.1]),
        (kinds.AgeOrZero, [-1, "8761h"]),
        (kinds.Bytes, [0, 1024**3 + 1, "1MB", 1.5, True, None]),
        (kinds.BytesPerSecond, [-1, 1024**3 + 1, "1MB", 1.5, True, None]),
        (kinds.MemoryOrZero, [-1, 1, 32 * 1024**2 - 1, 1024**4 + 1]),
        (kinds.PerSecond, [-1, 10**6 + 1, "5", 0.5, True, None]),
        (kinds.Limit, [-1, 10**6 + 1, "5", 0.5, True, None]),
        (kinds.FileOrNull, ["", 5, True]),
        (kinds.Address, ["x", 5, None]),
        (kinds.Mode, ["0", "27", "01000", 0, True, None]),
        (kinds.SocketMode, ["0644", "660", 0o640, True, None]),
        (kinds.ForwardedHeader, ["x-real-ip", "", None, 5]),
    ],
)
def test_refused(kind: Any, refused: list[object]) -> None:
    """Values beyond the bounds, and those of another type, are refused."""
    for value in refused:
        with pytest.raises(ValidationError):
            taken(kind, value)


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        (kinds.Seconds, "seconds"),
        (kinds.SecondsOrZero, "seconds"),
        (kinds.BeatSeconds, "seconds"),
        (kinds.AgeOrZero, "seconds"),
        (kinds.Bytes, "bytes"),
        (kinds.BytesPerSecond, "bytes"),
        (kinds.MemoryOrZero, "bytes"),
        (kinds.PerSecond, "a second"),
        (kinds.Limit, "connections"),
        (kinds.FileOrNull, ""),
    ],
)
def test_words(kind: Any, unit: str) -> None:
    """Each kind has words for a refusal, and the unit that its values have when they are read."""
    (takes,) = (item for item in get_args(kind) if isinstance(item, Takes))
    assert takes.words
    assert unit == takes.unit


def test_paths_start_at_the_folder() -> None:
    """In a file a relative path starts at its folder; a word that is no path stays, and so does a path in code."""
    socket = Annotated[str, in_folder(values.socket_path, "auto")]
    assert taken(socket, "x.sock") == "/srv/hello/x.sock"
    assert taken(socket, "auto") == "auto"
    assert TypeAdapter(socket).validate_python("x.sock") == "x.sock"
    file = Annotated[str, in_folder(values.path)]
    assert taken(file, "auto") == "/srv/hello/auto"


class Tea(Section):
    """A section of a test."""

    minutes: kinds.Seconds = setting(180.0, "Time to draw.")
    pot: str = setting("china", "What it is made in.", reload=False, examples=("glass",))


def test_setting() -> None:
    """A field has its default, its sentence, and a reload applies it unless it says otherwise."""
    assert Tea() == Tea(minutes=180.0, pot="china")
    minutes, pot = Tea.model_fields.values()
    assert ("Time to draw.", {"reload": True}) == (minutes.description, minutes.json_schema_extra)
    assert ("What it is made in.", {"reload": False}) == (pot.description, pot.json_schema_extra)
    assert (None, ["glass"]) == (minutes.examples, pot.examples)


def test_section() -> None:
    """A section is closed, strict and never changes."""
    with pytest.raises(ValidationError, match="Extra"):
        Tea.model_validate({"milk": True})
    with pytest.raises(ValidationError, match="string"):
        Tea.model_validate({"pot": 5})
    with pytest.raises(ValidationError, match="frozen"):
        Tea().pot = "glass"


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a kind."""
    return TypeAdapter(kind).json_schema()


def test_text_beside_a_number() -> None:
    """A schema takes the bounds from the model, and text of a form beside it."""
    number = {"type": "number", "exclusiveMinimum": 0, "maximum": 86400.0}
    assert {"anyOf": [number, {"type": "string", "pattern": kinds.TIME_TEXT}]} == schema_of(kinds.Seconds)


def test_text_instead_of_an_object() -> None:
    """An address is text to a schema, whatever the model makes of it."""
    assert {"type": "string", "pattern": kinds.ADDRESS_TEXT} == schema_of(kinds.Address)


@pytest.mark.parametrize(("least", "bounds"), [(0, {}), (1, {"minItems": 1})])
def test_one_beside_a_list(least: int, bounds: dict[str, int]) -> None:
    """A schema takes an item alone, or a list without doubles and with its least length."""
    several = Annotated[tuple[Annotated[str, text_schema("^a$")], ...], OrAlone(least)]
    item = {"type": "string", "pattern": "^a$"}
    assert {"anyOf": [item, {"type": "array", "items": item, "uniqueItems": True} | bounds]} == schema_of(several)


@pytest.mark.parametrize(
    ("pattern", "fits", "fails"),
    [
        (kinds.TIME_TEXT, ["30", "30s", "1.5 h", "250MS", "5m"], ["", "s", "30d", "-1s", "30ss", ".5s", "30  s"]),
        (kinds.SIZE_TEXT, ["1", "64k", "64KiB", "1 MIB", "2g"], ["", "1MB", "1.5MiB", "k", "-1", "1t"]),
        (kinds.PATH_TEXT, ["x", "/x", "-"], [""]),
        (
            kinds.ADDRESS_TEXT,
            ["127.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:80", "unix:x", "unix:/x"],
            ["", "80", ":80", "localhost:80", "::1:80", "127.0.0.1", "127.0.0.1:x", "unix:@x", "tcp:80"],
        ),
    ],
)
def test_patterns(pattern: str, fits: list[str], fails: list[str]) -> None:
    """What a reader refuses for its form, a pattern refuses as well."""
    assert [] == [text for text in fits if not re.search(pattern, text)]
    assert [] == [text for text in fails if re.search(pattern, text)]
