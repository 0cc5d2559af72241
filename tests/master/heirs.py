"""What a part of the master has left, as the next program in its process finds it."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

Record = TypeVar("Record")


def left(record: Record) -> Record:
    """Return a record on the other side of an execve: what went through JSON, and open descriptors.

    These are copies, so whoever has left them can be closed as if it had never been; each would be inherited by any
    program, as at the moment after the execve.
    """
    adapter = TypeAdapter(type(record))
    made: Record = _copied(adapter.validate_json(adapter.dump_json(record)))
    return made


def _copied(record: Any) -> Any:
    if isinstance(record, list):
        return [_copied(each) for each in record]
    if not is_dataclass(record) or isinstance(record, type):
        return record
    changes = {}
    for each in fields(record):
        value = getattr(record, each.name)
        if "Fd" not in str(each.type):
            changes[each.name] = _copied(value)
        elif isinstance(value, dict):
            changes[each.name] = {key: copy_of(descriptor) for key, descriptor in value.items()}
        elif value is not None:
            changes[each.name] = copy_of(value)
    return replace(record, **changes)


def copy_of(descriptor: int) -> int:
    """Return a copy that a program would inherit."""
    copy = os.dup(descriptor)
    os.set_inheritable(copy, True)
    return copy


def inheritable() -> list[int]:
    """Return which descriptors of this process a program would inherit, but for the three that each has."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:  # the one that listed them
            continue
    return found
