"""Judging: raw values by key to a Config, or to every mistake in one sentence each.

Each refusal has one shape: "KEY must be WORDS, not VALUE; HINT". The words are the field's (kinds.Takes), the hint is
that of the reader that refused (values.py). Pydantic's own wording is never shown: it speaks of types and of branches
of unions, and the reader thinks of lines in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from wsworker import values as read
from wsworker.config import KEYS, Config, takes


@dataclass(frozen=True)
class Mistake:
    """One refused value: its key, its position in a list (else None) and the whole sentence about it."""

    key: str
    item: int | None
    message: str


def validate(values: Mapping[str, object], folder: str) -> Config | list[Mistake]:
    """Judge raw values by key and return the Config, or every mistake in the order of KEYS.

    values: from KEYS to what the YAML reader made of them, lists as tuples; a missing key takes its default.
    folder: absolute; where relative paths start. Never raises for a bad value.
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        if dot:
            nested.setdefault(section, {})[name] = value
        else:
            nested[key] = value
    try:
        return Config.model_validate(nested, context={"folder": folder})
    except ValidationError as error:
        return _mistakes(error.errors(), values)


def _mistakes(errors: list[ErrorDetails], values: Mapping[str, object]) -> list[Mistake]:
    by_key: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_key(error), []).append(error)
    found = []
    for key in sorted(by_key, key=list(KEYS).index):
        # A union reports once for each of its branches. The branch that got as far as an item of a list is the one
        # that was meant, or else a branch of ours; without such a branch, one report is enough.
        of_items = {_item(error): error for error in by_key[key] if _item(error) is not None}
        ours = (error for error in by_key[key] if error["type"] == "value_error")
        for item, error in (of_items or {None: next(ours, by_key[key][0])}).items():
            found.append(Mistake(key, item, _message(key, item, error, values.get(key))))
    return found


def _key(error: ErrorDetails) -> str:
    first, *rest = error["loc"]
    if first in KEYS:
        return str(first)
    # of a whole section only the address of admin is judged, beside those of `listen`
    return f"{first}.{rest[0]}" if rest else f"{first}.listen"


def _item(error: ErrorDetails) -> int | None:
    return next((part for part in error["loc"] if isinstance(part, int)), None)


def _message(key: str, item: int | None, error: ErrorDetails, value: object) -> str:
    if error["type"] == "missing":
        return f"{key} is missing; add `{key}: module`, the module with your on_message"
    # what our own checks of a value raise has the type value_error; all others are pydantic's, whose text is dropped
    refusal = error["ctx"]["error"] if error["type"] == "value_error" else ValueError()
    if isinstance(refusal, read.Sentence):
        return f"{key} {refusal}"
    if item is not None and isinstance(value, list | tuple):
        value = value[item]
    hint = str(refusal)
    if error["type"] == "string_type" and type(value) in (int, float):
        hint = "text made of digits needs quotes"
    if error["type"] == "int_type" and isinstance(value, str) and value.isdecimal() and len(value) < 10:
        hint = "a number has no quotes"
    kind = takes(key)
    return f"{key} must be {kind.words}, not {kind.shown(value)}" + (f"; {hint}" if hint else "")
