"""Words for people: ages, spans, sizes, rates and counts, as every command writes them.

Machines get raw numbers (seconds, bytes) by --json; nothing here is meant to be parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from wsworker.visible import escape

Align: TypeAlias = Literal["<", ">"]

MAX_CHARS: Final = 500
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def age(seconds: float) -> str:
    """Return how long something has lasted, in its two largest units: "59s", "2m10s", "3h0m", "4d7h"."""
    whole = int(max(0.0, seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR}h"


def span(seconds: float) -> str:
    """Return how long something took: "0.04 s", "4.2 s", "31 s"."""
    digits = 2 if seconds < 1 else 1 if seconds < 10 else 0
    return f"{seconds:.{digits}f} s"


def size(count: float) -> str:
    """Return a number of bytes: "273 B", "1.5 KiB", "27 MiB"."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        # what would round to 1024 of a unit is 1 of the next
        if count < 1023.5:
            break
        count, unit = count / 1024, larger
    return f"{count:.1f} {unit}" if unit != "B" and count < 9.95 else f"{count:.0f} {unit}"


def rate(per_second: float | None) -> str:
    """Return how many in a second: "0.5", "12.0", "1234"; "-" for None, which is not known."""
    if per_second is None:
        return "-"
    return f"{per_second:.1f}" if per_second < 99.95 else f"{per_second:.0f}"


def counted(count: int, noun: str) -> str:
    """Return "1 worker" or "4 workers"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def visible(value: object) -> str:
    r"""Return a text from another process fit for a terminal: one line, control characters as \x1b."""
    return escape(str(value), MAX_CHARS)


def lines(rows: Sequence[Sequence[str]], aligns: Sequence[Align], gap: int = 2) -> list[str]:
    """Return the rows as lines whose cells stand under each other; no line ends in blanks.

    rows: each with as many cells as aligns. For a few words behind each other; a table of figures is draw.table.
    """
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(len(aligns))]
    padded = []
    for row in rows:
        cells = [f"{cell:{align}{width}}" for cell, align, width in zip(row, aligns, widths, strict=True)]
        padded.append((" " * gap).join(cells).rstrip())
    return padded
