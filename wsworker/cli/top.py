"""`wsworker top`: status again and again, on the whole screen, with the rates of the last minute drawn as sparklines.

A key says what the workers are sorted by. They are shown as far as the screen reaches, so the column that somebody
cares for is the one to sort by. A service that ends, hangs or restarts does not end the view, which waits for it.

What is shown is decided by functions from documents and keys to text; the loop below only looks, listens and draws. It
leaves the terminal as it was, whatever ends it: q, Ctrl+C, a hangup or TERM. Ctrl+Z is switched off meanwhile, as a
shell would draw its prompt into our screen.

With --json it is a stream: the document of `status --json`, one line for each look, for as long as somebody reads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from wsworker.cli import ask, managed
from wsworker.cli.draw import GAP, Column, fitting, natural_widths, painted, table
from wsworker.cli.failures import BAD_CONFIG, INTERRUPTED, OK
from wsworker.cli.history import SAMPLES, History, sparkline
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.status import COLUMNS, cells, header, is_without_master, look
from wsworker.cli.text import rate

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

Document: TypeAlias = Mapping[str, Any]

DUMB: Final = ("dumb", "unknown")
LEAST_SPARKLINE: Final = 10
SPARKLINE: Final = Column("MSG/s", rank=1, least=LEAST_SPARKLINE)
SPARKLINE_AT: Final = [column.heading for column in COLUMNS].index("OUT/s") + 1
TABLE: Final = (*COLUMNS[:SPARKLINE_AT], SPARKLINE, *COLUMNS[SPARKLINE_AT:])
RESIZE_SECONDS: Final = 0.25

SORTS: Final[Mapping[str, tuple[str, str]]] = {
    "#": ("slot", "slot"),
    "c": ("connections", "connections"),
    "i": ("rate_in", "in"),
    "o": ("rate_out", "out"),
    "s": ("send_queue", "send queue"),
    "p": ("cpu", "cpu"),
    "m": ("rss", "memory"),
    "l": ("loop_lag", "lag"),
}
"""Key to field of a worker and name. The highest value stands on top, but slots stand in their order."""

EXITS: Final[Mapping[int, str]] = {OK: "left with q", BAD_CONFIG: "bad config", INTERRUPTED: "left with Ctrl+C"}


def _number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse what is not a number: it is neither above a limit nor below one, so FloatRange lets it pass."""
    if math.isnan(value):
        raise click.BadParameter("nan is no number", context, parameter)
    return value


@click.command(epilog=epilog(EXITS, "wsworker top --interval 5"))
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    callback=_number,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@global_options
@click.pass_obj
def top(settings: Settings, interval: float) -> int:
    """Watch the service and its workers."""
    service = ask.locate(settings.config_path(), os.environ)
    if settings.json:
        return _stream(service, interval)
    if not sys.stdout.isatty() or os.environ.get("TERM", "") in DUMB:
        raise click.UsageError("top draws on a terminal; use `wsworker status` or `wsworker top --json` here")
    return _watch(settings, service, interval)


# What is shown


@dataclass(frozen=True)
class View:
    """What the keys have made of the screen. sort: a key of SORTS; left: somebody wants to leave."""

    sort: str = "#"
    left: bool = False


def press(view: View, key: str) -> View:
    """Return the view behind a key; one that means nothing changes nothing."""
    if key in SORTS:
        return replace(view, sort=key)
    return replace(view, left=True) if key == "q" else view


def ordered(workers: Sequence[Document], sort: str) -> list[Document]:
    """Return the workers in the order of a key of SORTS; slots without a worker, and what is not known, come last."""
    if sort == "#":
        return list(workers)
    field, _ = SORTS[sort]

    def value(worker: Document) -> float:
        known = worker.get(field)
        return -1.0 if worker["pid"] is None or known is None else float(known)

    # sorted() leaves equals in the order of their slots, also when it is reversed
    return sorted(workers, key=value, reverse=True)


def rows(workers: Sequence[Document], history: History, weighted: bool, width: int) -> list[list[str]]:
    """Return a row of TABLE for each worker, its sparkline as long as the terminal is wide. width: of the terminal."""
    drawn = []
    for worker in workers:
        row = list(cells(worker, weighted)[: len(COLUMNS)])
        row.insert(SPARKLINE_AT, "")
        drawn.append(row)
    # no column of these is ever shortened
    widths = natural_widths(TABLE, drawn)
    needed = sum(widths[index] + GAP for index in fitting(TABLE, widths, width)) - GAP
    # the table reckons with the shortest sparkline, so all that is left over is for a longer one
    length = max(LEAST_SPARKLINE, min(SAMPLES, LEAST_SPARKLINE + width - needed))
    for row, worker in zip(drawn, workers, strict=True):
        line = sparkline(history.slots.get(worker["slot"], ()), history.busiest, length)
        # the newest rate keeps its place while there are few
        row[SPARKLINE_AT] = line.rjust(length)
    return drawn


def screen(document: Document, logs: str, history: History, view: View, console: Console) -> list[RenderableType]:
    """Return what fills the screen while the service answers. console: for its size, and how lines fold on it."""
    weighted = document["steering"] == "weights"
    above = [*header(document, logs), service_line(history, console.width), painted("")]
    below = [painted(""), keys_line(view)]
    all_rows = rows(ordered(document["workers"], view.sort), history, weighted, console.width)
    whole = table(TABLE, all_rows, console.width)
    overflow = _height(console, *above, whole, *below) - console.height
    if overflow <= 0:
        return [*above, whole, *below]
    # one row less again, for the line that says so
    shown = max(1, len(all_rows) - overflow - 1)
    hidden = painted(f"{len(all_rows) - shown} more; sort by what you look for", "dim")
    return [*above, table(TABLE, all_rows[:shown], console.width), hidden, *below]


def _height(console: Console, *parts: RenderableType) -> int:
    return sum(len(console.render_lines(part, pad=False)) for part in parts)


def waiting_screen(name: str, reason: str, view: View) -> list[RenderableType]:
    """Return what fills the screen while there is nobody to ask. reason: why."""
    return [painted(name, "bold"), painted(f"waiting: {reason}", "yellow"), painted(""), keys_line(view)]


def service_line(history: History, width: int) -> Text:
    """Return the sparkline of the whole service, on its own scale."""
    highest = max(history.service, default=0.0)
    now = history.service[-1] if history.service else None
    words = f"messages {rate(now)}/s, {rate(highest)} at most  "
    return painted(words + sparkline(history.service, highest, min(SAMPLES, width - len(words))))


def keys_line(view: View) -> Text:
    """Return what the keys do."""
    line = painted("sort by ", "dim")
    for key, (_, name) in SORTS.items():
        line.append_text(painted(f"{key} {name}", "bold" if key == view.sort else "dim"))
        line.append("  ")
    return line.append_text(painted("q quits", "dim"))


# The loop


def _stream(service: ask.Service, interval: float) -> int:
    """Print a document a line until Ctrl+C is pressed, or the reader has gone."""
    try:
        while True:
            began_at = time.monotonic()
            click.echo(json.dumps(look(service)))
            time.sleep(max(0.0, began_at + interval - time.monotonic()))
    except KeyboardInterrupt:
        return INTERRUPTED


def _watch(settings: Settings, service: ask.Service, interval: float) -> int:
    """Draw until somebody leaves; return the exit code."""
    from rich.console import Console
    from rich.live import Live

    colored = settings.colored() is not False
    console = Console(color_system="standard" if colored else None, no_color=not colored, highlight=False, markup=False)
    watch = Watch(service)
    try:
        with _ending_in_order(), _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            while not watch.view.left:
                next_look_at = time.monotonic() + interval
                watch.look()
                # before it is drawn for it, or a change in between would be missed
                size = console.size
                live.update(watch.picture(console), refresh=True)
                # a look at a master that hangs takes longer than any interval, and the keys have their turn even then
                while True:
                    left = next_look_at - time.monotonic()
                    keys = pressed(max(0.0, min(left, RESIZE_SECONDS)))
                    for key in keys:
                        watch.view = press(watch.view, key)
                    if keys or console.size != size:
                        size = console.size
                        live.update(watch.picture(console), refresh=True)
                    if watch.view.left or left <= 0:
                        break
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


class Watch:
    """What one `top` knows of its service."""

    def __init__(self, service: ask.Service) -> None:
        self.view = View()
        self._service = service
        self._history = History()
        self._document: Document = {}
        self._logs = ""

    def look(self) -> None:
        """Ask the service once."""
        self._document = look(self._service)
        if is_without_master(self._document):
            self._history.forget()
        else:
            self._logs = managed.log_place(self._document["log"], self._document["pid"])
            self._history.add(self._document)

    def picture(self, console: Console) -> RenderableType:
        """Return what fills the screen now."""
        from rich.console import Group

        if is_without_master(self._document):
            return Group(*waiting_screen(self._service.name, self._document["reason"], self.view))
        return Group(*screen(self._document, self._logs, self._history, self.view, console))


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Let the terminal hand over every key at once; yield a function that returns those pressed within some seconds."""
    # sys.stdin is None where it was closed
    keyboard = 0
    if not os.isatty(keyboard):
        yield _no_keys
        return

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([keyboard], [], [], seconds)
        if not ready:
            return ""
        # the end of input: nobody can press q any more
        return os.read(keyboard, 64).decode(errors="replace") or "q"

    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        mode = termios.tcgetattr(keyboard)
        mode[6][termios.VSUSP] = b"\0"  # _POSIX_VDISABLE, termios(3)
        termios.tcsetattr(keyboard, termios.TCSANOW, mode)
        yield pressed
    finally:
        # what was typed and not read is not for the shell
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)


def _no_keys(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Make TERM and HUP exceptions, so that all that must be put back is."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
