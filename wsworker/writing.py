"""Settings as a person would write them: the way back from the values of values.py.

What is shown of a setting (`wsworker check --print`, the schema, the reference) can be read again and means the same.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

from wsworker import values
from wsworker.values import ListenAddress, ProxiedAddress
from wsworker.yamlfile import meaning

Written: TypeAlias = bool | int | float | str | list["Written"] | None

# words that mean themselves in YAML, in a list as well
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:@=+~-]*(?<!:)")


def written(value: object, unit: str) -> Written:
    """Return a value of a Config as YAML has it. unit: of its Takes; only seconds, bytes and mode matter."""
    match value:
        case (ListenAddress() | ProxiedAddress() as alone,):
            return str(alone)
        case tuple():
            return [written(item, unit) for item in value]
        case bool() | None | str():
            return value
        case int() if unit == "mode":
            return f"{value:04o}"
        case int() if unit == "bytes":
            return _size(value)
        case float() if unit == "seconds":
            return _time(value)
        case int() | float():
            return value
        case _:
            return str(value)


def as_yaml(value: object, unit: str) -> str:
    """Return a value of a Config as it stands behind its key in config.yaml. unit: as for written."""
    return _yaml(written(value, unit))


def _yaml(value: Written) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and meaning(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _size(value: int) -> int | str:
    for suffix, factor in (("GiB", values.GIB), ("MiB", 1024**2), ("KiB", 1024)):
        if value and value % factor == 0:
            return f"{value // factor}{suffix}"
    return value


def _time(value: float) -> float | str:
    if not value:
        return 0
    if value % 3600 == 0:
        return f"{value / 3600:.0f}h"
    for text in (f"{value * 1000:.0f}ms" if value < 1 else "", f"{value:.9f}".rstrip("0").rstrip(".") + "s"):
        if text and values.seconds(text) == value:
            return text
    return value
