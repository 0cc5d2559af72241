"""Tables for people, drawn by rich: the columns that fit a terminal, and all of them where nothing is narrow.

rich would fold or cut what is wider than its console, and outside a terminal it believes in 80 columns. A cut value is
a lost one, so the width is never its business here: lines are as long as they need to be, and where that is too long,
whole columns are left out. A column has a rank for that. Those of rank 0 always stay; the others are taken in the order
of their ranks if there is room, and a line below the table names what is missing. But the texts of strangers are
shortened before they cost a column, as one long path would cost all others; what is left over is theirs again. A pipe
has no width, so it gets everything.

Cells are padded here too, and rich only styles the lines: its own table takes a millisecond for a row.

Values come from other processes and from clients, so no markup is read out of them and control characters are shown as
text. Colour is put in unless the user has forbidden it: click takes it out again of what goes to no terminal.

rich is imported in the functions: it costs as much as the rest of a command, and --json does without it.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from wsworker.cli.options import Settings
from wsworker.cli.text import Align
from wsworker.visible import escape

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

GAP: Final = 2
ENDLESS: Final = 1_000_000
"""A width that nothing reaches: rich neither folds nor cuts below it."""


@dataclass(frozen=True)
class Column:
    """One column of a table. align: "<" for words, ">" for figures; rank: 0 stays, the highest goes first when narrow.

    least: a width it has at any rate; fewest: so many places at least are left of longer cells where the table is too
    wide with the whole of them, None if they are never shortened; colors: from a value to a style of rich, such as
    "green" or "bold red".
    """

    heading: str
    align: Align = ">"
    rank: int = 0
    least: int = 0
    fewest: int | None = None
    colors: Mapping[str, str] = field(default_factory=dict)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> RenderableType:
    """Return a table without borders, with the columns that fit.

    rows: each with a cell for every column, as plain text. width: characters of the terminal, None for no limit; give
    it terminal_width().
    """
    from rich.console import Group

    shown = [[escape(cell, ENDLESS) for cell in row] for row in rows]
    natural = natural_widths(columns, shown)
    narrowest = narrowest_widths(columns, natural)
    kept = fitting(columns, narrowest, width)
    widths = shared_widths(natural, narrowest, kept, width)
    lines = [_line((columns[index], widths[index], columns[index].heading, "bold") for index in kept)]
    for row in shown:
        styles = [column.colors.get(cell, "") for column, cell in zip(columns, row, strict=True)]
        cells = {index: shortened(row[index], widths[index]) for index in kept}
        lines.append(_line((columns[index], widths[index], cells[index], styles[index]) for index in kept))
    if missing := [column.heading for index, column in enumerate(columns) if index not in kept]:
        lines.append(painted(f"too narrow for: {', '.join(missing)}", "dim"))
    return Group(*lines)


def _line(cells: Iterable[tuple[Column, int, str, str]]) -> Text:
    """Return one line of a table. cells: column, width, escaped text and style of each.

    A console that is too narrow cuts it: folded, its figures would stand below those of other columns.
    """
    from rich.cells import cell_len
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    gap = ""
    for column, width, cell, style in cells:
        blanks = " " * (width - cell_len(cell))
        before, behind = (blanks, "") if column.align == ">" else ("", blanks)
        line.append(gap + before)
        line.append(cell, style or None)
        line.append(behind)
        gap = " " * GAP
    return line


def shortened(cell: str, most: int) -> str:
    """Return a cell no wider than most places of a terminal; what is missing is marked."""
    from rich.cells import cell_len, set_cell_size

    return cell if cell_len(cell) <= most else set_cell_size(cell, most - 1) + "…"


def painted(text: object, style: str = "") -> Text:
    """Return a text that rich does not look into for markup. style: of rich, "" for none."""
    from rich.text import Text

    shown = Text(escape(str(text), ENDLESS))
    if style:
        # on the characters alone: a style of the whole would colour the padding of its cell too
        shown.stylize(style)
    return shown


def natural_widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return how wide each column is. rows as for table."""
    from rich.cells import cell_len

    return [
        max(cell_len(column.heading), column.least, *(cell_len(row[index]) for row in rows), 0)
        for index, column in enumerate(columns)
    ]


def narrowest_widths(columns: Sequence[Column], natural: Sequence[int]) -> list[int]:
    """Return how wide each column is with its texts as short as they may be. natural: as from natural_widths."""
    from rich.cells import cell_len

    return [
        width if column.fewest is None else min(width, max(cell_len(column.heading), column.least, column.fewest))
        for column, width in zip(columns, natural, strict=True)
    ]


def fitting(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> list[int]:
    """Return which columns to show, in their order. Those of rank 0 stay even if they alone are too wide.

    A narrow one may stay where a wide one of a lower rank had no room. widths: as from narrowest_widths; width as for
    table.
    """
    if width is None:
        return list(range(len(columns)))
    kept = []
    left = width + GAP
    # of two with the same rank the right one goes
    for index in sorted(range(len(columns)), key=lambda index: (columns[index].rank, index)):
        if columns[index].rank == 0 or widths[index] + GAP <= left:
            kept.append(index)
            left -= widths[index] + GAP
    return sorted(kept)


def shared_widths(
    natural: Sequence[int], narrowest: Sequence[int], kept: Sequence[int], width: int | None
) -> list[int]:
    """Return how wide to draw each column: those with shortened cells share what is left, the narrowest first.

    natural, narrowest and kept: as from natural_widths, narrowest_widths and fitting; width as for table.
    """
    if width is None:
        return list(natural)
    widths = list(narrowest)
    for _ in range(width - sum(widths[index] + GAP for index in kept) + GAP):
        cut = [index for index in kept if widths[index] < natural[index]]
        if not cut:
            break
        widths[min(cut, key=lambda index: widths[index])] += 1
    return widths


def render(settings: Settings, *renderables: RenderableType) -> str:
    """Return what is to be printed by Settings.result: lines of any length, coloured unless the user forbids it.

    What came from another process must be a table or painted(): a bare str is printed as it is.
    """
    console = paper(settings)
    for renderable in renderables:
        console.print(renderable)
    written = console.file
    assert isinstance(written, io.StringIO)
    # the last column is padded like the others; splitlines() would also split at what a text may contain
    return "\n".join(line.rstrip() for line in written.getvalue().removesuffix("\n").split("\n"))


def paper(settings: Settings) -> Console:
    """Return a console that writes into memory and has no edge."""
    from rich.console import Console

    colored = settings.colored() is not False
    return Console(
        file=io.StringIO(),
        width=ENDLESS,
        color_system="standard" if colored else None,
        force_terminal=colored,
        # the user's --color has been weighed against NO_COLOR already
        no_color=not colored,
        highlight=False,
        markup=False,
        emoji=False,
    )


def terminal_width() -> int | None:
    """Return how many characters a line of the terminal has that results go to; None if they go elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
