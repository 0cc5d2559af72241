"""`wsworker status`: one look at the service.

The master's document is all it needs; with --json it is printed as it came. Exit codes are those of an init script
(LSB, "status"), and one of the range they leave to applications:

    0 running, starting, reloading, stopping   1 dead, but socket or pid file left   3 not running
    4 unknown: no permission, or no answer in 2 s   150 degraded

Messages and bytes are totals since the start of the service: a rate would need two looks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from wsworker.cli import ask, managed
from wsworker.cli.failures import SCHEMA
from wsworker.cli.options import Settings, global_options
from wsworker.cli.text import Align, age, columns, counted, size, visible
from wsworker.errors import ControlError, NotRunning

DEAD: Final = 1
STOPPED: Final = 3
UNKNOWN: Final = 4
DEGRADED: Final = 150

HEADINGS: Final = ("#", "PID", "STATE", "UP", "CONN", "IN", "OUT", "RSS", "CPU%", "LAG", "RESTARTS", "")
ALIGNS: Final[tuple[Align, ...]] = (">", ">", "<", ">", ">", ">", ">", ">", ">", ">", ">", "<")
STATE_COLUMN: Final = HEADINGS.index("STATE")

COLORS: Final[Mapping[str, str]] = {
    "running": "green",
    "ready": "green",
    "degraded": "yellow",
    "starting": "yellow",
    "reloading": "yellow",
    "draining": "yellow",
    "full": "yellow",
    "waiting": "yellow",
    "stopping": "yellow",
    "hung": "red",
    "killed": "red",
    "parked": "red",
    "dead": "red",
    "unknown": "red",
}


@click.command()
@global_options
@click.pass_obj
def status(settings: Settings) -> int:
    """Show the service and its workers."""
    service = ask.locate(settings.config_path(), os.environ)
    try:
        document = ask.status(service)
    except NotRunning as error:
        state, code = ("dead", DEAD) if error.leftovers else ("stopped", STOPPED)
        what = f"its master died; `wsworker start` removes {' and '.join(error.leftovers)}"
        reason = what if error.leftovers else f"no socket at {error.socket}; start it with `wsworker start`"
        return _without_master(settings, service.name, state, reason, code)
    except ControlError as error:
        return _without_master(settings, service.name, "unknown", error.message, UNKNOWN)
    settings.result(draw(document, managed.log_place(document["log"], document["pid"])), document)
    return DEGRADED if document["state"] == "degraded" else 0


def draw(document: Mapping[str, Any], logs: str) -> str:
    """Return the document as text, with colour. logs: where the log can be read."""
    totals = document["totals"]
    service = [
        visible(document["name"]),
        _colored(document["state"], document["state"]),
        f"pid {document['pid']}",
        f"up {age(document['uptime'])}",
        f"reloads {document['reloads']}",
        *(visible(address) for address in document["listen"]),
        f"config {visible(document['config'])}",
    ]
    summary = [
        f"{document['workers_ready']}/{counted(document['workers_configured'], 'worker')}",
        counted(totals["connections"], "connection"),
        f"in {totals['messages_in']} msg",
        f"out {totals['messages_out']} msg",
        f"restarts {totals['restarts']}",
        f"logs: {visible(logs)}",
    ]
    return "\n".join(["  ".join(service), "  ".join(summary), *_last_reload(document), "", *_table(document)])


def _last_reload(document: Mapping[str, Any]) -> list[str]:
    last = document["last_reload"]
    if not last or not last["error"]:
        return []
    return [f"last reload {last['result']}: {visible(last['error']['cause'] or last['error']['message'])}"]


def _table(document: Mapping[str, Any]) -> list[str]:
    rows = [cells(worker) for worker in document["workers"]]
    lines = []
    padded = columns([HEADINGS, *rows], ALIGNS)
    for cells_, row in zip(padded, [HEADINGS, *rows], strict=True):
        cells_[STATE_COLUMN] = _colored(cells_[STATE_COLUMN], row[STATE_COLUMN])
        lines.append("".join(cells_).rstrip())
    return lines


def cells(worker: Mapping[str, Any]) -> Sequence[str]:
    """Return the row of one worker, or of a slot without one, which shows why there is none."""
    slot, state = str(worker["slot"]), visible(worker["state"])
    counters = [str(worker["messages_in"]), str(worker["messages_out"])]
    if worker["pid"] is None:
        return [slot, "-", state, "-", "-", *counters, "-", "-", "-", str(worker["restarts"]), _why(worker)]
    return [
        slot,
        str(worker["pid"]),
        state,
        age(worker["uptime"]),
        str(worker["connections"]),
        *counters,
        size(worker["rss"]),
        f"{worker['cpu'] * 100:.1f}",
        f"{worker['loop_lag'] * 1000:.0f} ms",
        str(worker["restarts"]),
        "",
    ]


def _why(worker: Mapping[str, Any]) -> str:
    """Say why a slot has no worker, and when it gets its next one."""
    parts = []
    if worker["last_exit"]:
        parts.append(visible(worker["last_exit"]["reason"]))
    if worker.get("retry_in") is not None:
        parts.append(f"next start in {age(worker['retry_in'])}")
    return "; ".join(parts)


def _colored(text: str, state: str) -> str:
    return click.style(text, fg=COLORS[state]) if state in COLORS else text


def _without_master(settings: Settings, name: str, state: str, reason: str, code: int) -> int:
    """Show what a client alone can tell."""
    document = {"schema": SCHEMA, "name": name, "state": state, "reason": reason}
    settings.result(f"{visible(name)}  {_colored(state, state)}  {visible(reason)}", document)
    return code
