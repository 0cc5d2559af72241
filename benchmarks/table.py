"""Tables for a terminal and for a document; the first column is text, the others are figures."""

from __future__ import annotations

from collections.abc import Sequence


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Return a table with its title and an empty line behind it. rows: as many cells each as there are columns."""
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    head, *lines = [_padded(row, widths) for row in (columns, *rows)]
    if not markdown:
        return "\n".join([title, *("  ".join(cells).rstrip() for cells in (head, *lines)), ""])
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines)), ""])


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
