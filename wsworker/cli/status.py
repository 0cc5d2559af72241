"""`wsworker status`: one look at the service.

The master's document is all it needs; with --json it is printed as it came. Exit codes are those of an init script
(LSB, "status"), and one of the range they leave to applications:

    0 running, starting, reloading, stopping   1 dead, but socket or pid file left   3 not running
    4 unknown: no permission, or no answer in 2 s   150 degraded

Messages and bytes are totals since the start of the service: a rate would need two looks. WGT is a slot's share of new
connections beside the others', QUEUE how many clients wait to be accepted there. Behind the row of a slot stands why it
has no worker, or what its last one died of if that was lately, and who accepts in its place. Nothing is cut to the
width of the terminal.
"""

from __future__ import annotations

import os
import time
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

HEADINGS: Final = (
    *("#", "PID", "STATE", "UP", "CONN", "WGT", "QUEUE"),
    *("IN", "OUT", "RSS", "CPU%", "LAG", "RESTARTS", ""),
)
ALIGNS: Final[tuple[Align, ...]] = (">", ">", "<", *(">",) * 10, "<")
STATE_COLUMN: Final = HEADINGS.index("STATE")
LATELY_SECONDS: Final = 3600.0

# a service that is stopped is as it should be; a worker that is stopped, by SIGSTOP, is not
SERVICE_COLORS: Final[Mapping[str, str]] = {
    "running": "green",
    "degraded": "yellow",
    "starting": "yellow",
    "reloading": "yellow",
    "stopping": "yellow",
    "dead": "red",
    "unknown": "red",
}
WORKER_COLORS: Final[Mapping[str, str]] = {
    "ready": "green",
    "starting": "yellow",
    "draining": "yellow",
    "full": "yellow",
    "waiting": "yellow",
    "closing": "yellow",
    "hung": "red",
    "stopped": "red",
    "killed": "red",
    "parked": "red",
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
    text = draw(document, managed.log_place(document["log"], document["pid"]), time.time())
    settings.result(text, document)
    return DEGRADED if document["state"] == "degraded" else 0


def draw(document: Mapping[str, Any], logs: str, now: float) -> str:
    """Return the document as text, with colour. logs: where the log can be read; now: seconds of the wall clock."""
    totals = document["totals"]
    service = [
        visible(document["name"]),
        _colored(document["state"], SERVICE_COLORS.get(document["state"])),
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
    return "\n".join(["  ".join(service), "  ".join(summary), *_warnings(document), "", *_table(document, now)])


def _warnings(document: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that is not as it should be with the service as a whole."""
    lines = []
    last = document["last_reload"]
    if last and last["error"]:
        # a wrong configuration has a line for each mistake
        why, _, _ = (last["error"]["cause"] or last["error"]["message"]).partition("\n")
        lines.append(f"last reload {last['result']}: {visible(why)}")
    if document["over_budget"]:
        lines.append(
            "crash budget exceeded: too many workers died within a minute, so at most one a second is started; "
            "the log says what they died of"
        )
    if document["steering"] == "hash":
        lines.append("the kernel spreads connections by hash: weights could not be set")
    if dropped := document["totals"]["log_dropped"]:
        lines.append(f"{counted(dropped, 'log line')} dropped: the log could not take more (full disk, stuck pipe)")
    return lines


def _table(document: Mapping[str, Any], now: float) -> list[str]:
    weighted = document["steering"] == "weights"
    rows = [cells(worker, weighted, now) for worker in document["workers"]]
    lines = []
    padded = columns([HEADINGS, *rows], ALIGNS)
    for cells_, row in zip(padded, [HEADINGS, *rows], strict=True):
        cells_[STATE_COLUMN] = _colored(cells_[STATE_COLUMN], WORKER_COLORS.get(row[STATE_COLUMN]))
        lines.append("".join(cells_).rstrip())
    return lines


def cells(worker: Mapping[str, Any], weighted: bool, now: float) -> Sequence[str]:
    """Return the row of one worker, or of a slot without one, which shows why there is none.

    weighted: whether weights steer new connections; now: seconds of the wall clock, by which deaths are dated.
    """
    slot, state = str(worker["slot"]), visible(worker["state"])
    weight = str(worker["weight"]) if weighted else "-"
    queue = "-" if worker["queue"] is None else str(worker["queue"])
    counters = [str(worker["messages_in"]), str(worker["messages_out"])]
    if worker["pid"] is None:
        restarts = str(worker["restarts"])
        return [slot, "-", state, "-", "-", weight, queue, *counters, "-", "-", "-", restarts, _remarks(worker, now)]
    return [
        slot,
        str(worker["pid"]),
        state,
        age(worker["uptime"]),
        str(worker["connections"]),
        weight,
        queue,
        *counters,
        size(worker["rss"]),
        f"{worker['cpu'] * 100:.1f}",
        f"{worker['loop_lag'] * 1000:.0f} ms",
        str(worker["restarts"]),
        _remarks(worker, now),
    ]


def _remarks(worker: Mapping[str, Any], now: float) -> str:
    """Say why a slot has no worker, and when it gets its next one; or what its last one died of lately; who helps."""
    # what its successor or the empty slot says is not said twice
    if worker["state"] == "draining":
        return ""
    last = worker["last_exit"]
    parts = []
    if worker["pid"] is None and last:
        parts.append(_death(last))
    elif last and last["class"] != "asked" and now - last["time"] < LATELY_SECONDS:
        parts.append(f"{age(now - last['time'])} ago {_death(last)}")
    if worker.get("retry_in") is not None:
        parts.append(f"next start in {age(worker['retry_in'])}")
    if worker["lent_to"] is not None:
        parts.append(f"worker {worker['lent_to']} accepts for it")
    return "; ".join(parts)


def _death(last_exit: Mapping[str, Any]) -> str:
    """Return class and reason of an exit, and the last line of its traceback unless the reason quotes that."""
    reason, error = visible(last_exit["reason"]), visible(last_exit["error"])
    words = f"{last_exit['class']}: {reason}"
    return words if error in reason else f"{words} ({error})"


def _colored(text: str, color: str | None) -> str:
    return click.style(text, fg=color) if color else text


def _without_master(settings: Settings, name: str, state: str, reason: str, code: int) -> int:
    """Show what a client alone can tell."""
    document = {"schema": SCHEMA, "name": name, "state": state, "reason": reason}
    shown = _colored(state, SERVICE_COLORS.get(state))
    settings.result(f"{visible(name)}  {shown}  {visible(reason)}", document)
    return code
