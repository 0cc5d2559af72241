"""Templates: a page by hand, with a line {{name}} wherever something generated goes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

_PLACE = re.compile(r"^\{\{([a-z ]+)\}\}$", re.MULTILINE)
_FOLDER = Path(__file__).parent


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Return a page. template: the name of a file beside this one; parts: the text of every place in it, and no other.

    Raises ValueError if a place has no part, or a part no place.
    """
    text = (_FOLDER / template).read_text(encoding="utf-8")
    places = _PLACE.findall(text)
    if sorted(places) != sorted(parts):
        raise ValueError(f"{template} has the places {sorted(places)}, and the parts are {sorted(parts)}")
    return _PLACE.sub(lambda place: parts[place[1]].strip("\n"), text)


def folded(text: str) -> str:
    """Return paragraphs, an empty line between them, in lines of the usual length."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(textwrap.fill(paragraph, 120, break_on_hyphens=False) for paragraph in paragraphs)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown. A | within a cell is made safe, also within code."""
    lines = [[*head], *([*row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
