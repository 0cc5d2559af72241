"""What takes long in `stop` and `reload`: clients that are asked to leave. How many are left, and a progress bar.

The bar is drawn on standard error, by rich, and gone when it ends. Where nobody watches (no terminal, --json) and where
no colour is wanted, the first line of it is printed plainly instead, and no more: a log has no use for a countdown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from wsworker.cli.options import Settings
from wsworker.cli.text import counted

BAR_WIDTH: Final = 40


@dataclass(frozen=True)
class Draining:
    """What workers (pids) that leave still hold. connections: how many; seconds: until the last of them is cut."""

    connections: int
    seconds: float
    workers: tuple[int, ...]

    @property
    def line(self) -> str:
        """How it is shown."""
        return f"  draining  {counted(self.connections, 'connection')}, {self.seconds:.0f} s left"


def draining(document: Mapping[str, Any], generation: int | None = None) -> Draining | None:
    """Return what is left of the workers before a generation, or of all, or None if they have gone.

    document: that of `status`.
    """
    rows = [row for row in document["workers"] if row["pid"] is not None]
    if generation is not None:
        rows = [row for row in rows if row["generation"] < generation]
    if not rows:
        return None
    seconds = max(row.get("drain_seconds") or 0.0 for row in rows)
    return Draining(sum(row["connections"] for row in rows), seconds, tuple(row["pid"] for row in rows))


@contextmanager
def bar(settings: Settings) -> Iterator[Callable[[str, float], None]]:
    """Yield a function that shows how far something is: a line of text, and the share of it that is done, 0 to 1."""
    if settings.json or settings.colored() is False or not sys.stderr.isatty():
        yield _plain(settings)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    # the user's --color has been weighed against NO_COLOR already
    console = Console(stderr=True, color_system="standard", no_color=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(BAR_WIDTH), TaskProgressColumn())
    # without a thread of its own: the caller looks often enough
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=1.0, visible=False)

        def show(line: str, share: float) -> None:
            progress.update(task, description=line, completed=share, visible=True, refresh=True)

        yield show


def _plain(settings: Settings) -> Callable[[str, float], None]:
    told: list[str] = []

    def show(line: str, share: float) -> None:
        if not told:
            told.append(line)
            settings.progress(line)

    return show
