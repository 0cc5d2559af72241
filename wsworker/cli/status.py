"""`wsworker status`: one look at the service.

The master's document is all it needs; with --json it is printed as it came. Exit codes are those of an init script
(LSB, "status"), and one of the range they leave to applications:

    0 running, starting, reloading, stopping   1 dead, but socket or pid file left   3 not running
    4 unknown: no permission, or no answer in 2 s   150 degraded

Rates are the master's, over its last few seconds. Below the table stands what a row has no room for: why a slot has no
worker, or what its last one died of if that was lately; who waits at its door, and who accepts in its place. --wide
adds totals since the start of the service; WGT, a slot's share of new connections beside the others'; QUEUE, how many
clients wait to be accepted there; BUS, whether a worker reaches the broker; and BUSQ, what it has published and others
have still to get.

`top` shows the same header and table, again and again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from wsworker.cli import ask, managed
from wsworker.cli.draw import Column, painted, render, table, terminal_width
from wsworker.cli.failures import BAD_CONFIG, OK, SCHEMA
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import age, counted, rate, size, visible
from wsworker.errors import ControlError, NotRunning

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

DEAD: Final = 1
STOPPED: Final = 3
UNKNOWN: Final = 4
DEGRADED: Final = 150
LSB: Final[Mapping[str, int]] = {"dead": DEAD, "stopped": STOPPED, "unknown": UNKNOWN, "degraded": DEGRADED}
"""State to exit code; 0 for every other."""

UNKNOWN_CELL: Final = "-"
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


COLUMNS: Final = (
    Column("#", least=2),
    Column("PID"),
    Column("STATE", "<", colors=WORKER_COLORS),
    Column("UP", rank=5),
    Column("CONN"),
    Column("IN/s"),
    Column("OUT/s"),
    Column("SENDQ", rank=4),
    Column("CPU%", rank=1),
    Column("RSS", rank=2),
    Column("LAG", rank=3),
    Column("RESTARTS", rank=6),
)
WIDE_COLUMNS: Final = (
    *COLUMNS,
    Column("IN", rank=8),
    Column("OUT", rank=8),
    Column("WGT", rank=9),
    Column("QUEUE", rank=7),
    Column("BUS", "<", rank=10, colors={"up": "green", "down": "red"}),
    Column("BUSQ", rank=11),
)

EXITS: Final[Mapping[int, str]] = {
    OK: "running",
    DEAD: "dead, but its files are left",
    STOPPED: "not running",
    UNKNOWN: "unknown (no permission, no answer)",
    BAD_CONFIG: "bad config",
    DEGRADED: "degraded (fewer ready workers than configured)",
}


@click.command(epilog=epilog(EXITS, "wsworker status --json | jq .totals.connections"))
@click.option("--wide", is_flag=True, help="Also show totals, weights and queues of the workers, and the bus.")
@global_options
@click.pass_obj
def status(settings: Settings, wide: bool) -> int:
    """Show the service and its workers."""
    settings.lost = UNKNOWN
    document = look(ask.locate(settings.config_path(), os.environ))
    text = ""
    if is_without_master(document):
        text = line_without_master(document)
    elif not settings.json:
        logs = managed.log_place(document["log"], document["pid"])
        # --wide asks for every column, whatever the terminal makes of the lines
        width = None if wide else terminal_width()
        text = render(settings, *picture(document, logs, time.time(), width, wide))
    settings.result(text, document)
    return LSB.get(document["state"], OK)


def look(service: ask.Service) -> dict[str, Any]:
    """Return the master's document, or what a client alone can tell: name, state and reason."""
    try:
        return ask.status(service)
    except NotRunning as error:
        state, reason = ("dead" if error.leftovers else "stopped"), error.reason
    except ControlError as error:
        state, reason = "unknown", error.message
    return {"schema": SCHEMA, "name": service.name, "state": state, "reason": reason}


def is_without_master(document: Mapping[str, Any]) -> bool:
    """Whether a document of look is that of a client alone."""
    return "reason" in document


def line_without_master(document: Mapping[str, Any]) -> str:
    """Return what a client alone can tell, as people see it."""
    color = SERVICE_COLORS.get(document["state"])
    # by click alone: a look at a service that does not run need not load rich
    state = click.style(document["state"], fg=color) if color else document["state"]
    return f"{visible(document['name'])}  {state}  {visible(document['reason'])}"


def picture(
    document: Mapping[str, Any], logs: str, now: float, width: int | None, wide: bool = False
) -> list[RenderableType]:
    """Return the document as people see it.

    logs: where the log can be read; now: seconds of the wall clock; width: characters of the terminal, None for a pipe.
    """
    weighted = document["steering"] == "weights"
    columns = WIDE_COLUMNS if wide else COLUMNS
    rows = [cells(worker, weighted)[: len(columns)] for worker in document["workers"]]
    below = [painted(line) for line in remarks(document["workers"], now)]
    return [
        *header(document, logs),
        painted(""),
        table(columns, rows, width),
        *([painted(""), *below] if below else []),
    ]


def header(document: Mapping[str, Any], logs: str) -> list[Text]:
    """Return what stands above the table: two lines, one about the broker, and one for each thing that is wrong."""
    totals = document["totals"]
    state = document["state"]
    service = [
        painted(document["name"], "bold"),
        painted(state, SERVICE_COLORS.get(state, "")),
        painted(f"pid {document['pid']}"),
        painted(f"up {age(document['uptime'])}"),
        painted(f"reloads {document['reloads']}"),
        *(painted(address) for address in document["listen"]),
        painted(f"config {document['config']}"),
    ]
    summary = [
        f"{document['workers_ready']}/{counted(document['workers_configured'], 'worker')}",
        counted(totals["connections"], "connection"),
        *_moved(document),
        f"in {rate(total_rate(document, 'rate_in'))} msg/s",
        f"out {rate(total_rate(document, 'rate_out'))} msg/s",
        f"restarts {totals['restarts']}",
        f"logs: {logs}",
    ]
    return [
        painted("  ").join(service),
        painted("  ".join(summary)),
        *bus_line(document),
        *(painted(line, "yellow") for line in warnings(document)),
    ]


def _moved(document: Mapping[str, Any]) -> list[str]:
    """Return how many connections hand-overs have moved, if any; an older master does not tell."""
    moved = document.get("handover", {}).get("moved")
    return [f"moved {moved}"] if moved else []


def bus_line(document: Mapping[str, Any]) -> list[Text]:
    """Return the line about the broker, if there is one: who reaches it, and what has gone wrong on the bus."""
    bus, ready = document.get("bus"), document["workers_ready"]
    if not bus or not bus["url"]:
        return []
    connected = bus["connected"]
    color = "" if connected >= ready else "yellow" if connected else "red"
    reached = painted(f"reached by {connected} of {counted(ready, 'worker')}", color)
    parts = []
    if bus["lag"]:
        parts.append(f"lag {bus['lag'] * 1000:.1f} ms")
    totals = document["totals"]
    if totals["bus_gaps"]:
        parts.append(counted(totals["bus_gaps"], "gap"))
    if totals["bus_dropped"]:
        parts.append(f"{totals['bus_dropped']} dropped")
    return [painted("  ").join([painted(f"bus {bus['url']}"), reached, *map(painted, parts)])]


def total_rate(document: Mapping[str, Any], key: str) -> float | None:
    """Return a rate of the whole service. A slot counts once, though two of its workers live during a reload."""
    slots = {worker["slot"]: worker.get(key) for worker in document["workers"]}
    known = [value for value in slots.values() if value is not None]
    return sum(known) if known else None


def warnings(document: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that is not as it should be with the service as a whole."""
    lines = []
    last = document["last_reload"]
    if last and last["error"]:
        # a wrong configuration has a line for each mistake
        why, _, _ = (last["error"]["cause"] or last["error"]["message"]).partition("\n")
        lines.append(f"last reload {last['result']}: {why}")
    if last and last["restart_needed"]:
        lines.append(f"restart needed: {', '.join(last['restart_needed'])}")
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


def cells(worker: Mapping[str, Any], weighted: bool) -> Sequence[str]:
    """Return the row of one worker, or of a slot without one, with all of WIDE_COLUMNS.

    weighted: whether weights steer new connections.
    """
    messages = [str(worker["messages_in"]), str(worker["messages_out"])]
    weight = str(worker["weight"]) if weighted else UNKNOWN_CELL
    queue = UNKNOWN_CELL if worker["queue"] is None else str(worker["queue"])
    slot = [*messages, weight, queue, *_bus_cells(worker)]
    if worker["pid"] is None:
        nobody = [UNKNOWN_CELL] * 8
        return [str(worker["slot"]), UNKNOWN_CELL, worker["state"], *nobody, str(worker["restarts"]), *slot]
    send_queue = worker.get("send_queue")
    return [
        str(worker["slot"]),
        str(worker["pid"]),
        worker["state"],
        age(worker["uptime"]),
        str(worker["connections"]),
        rate(worker.get("rate_in")),
        rate(worker.get("rate_out")),
        UNKNOWN_CELL if send_queue is None else size(send_queue),
        f"{worker['cpu'] * 100:.1f}",
        size(worker["rss"]),
        f"{worker['loop_lag'] * 1000:.0f} ms",
        str(worker["restarts"]),
        *slot,
    ]


def _bus_cells(worker: Mapping[str, Any]) -> Sequence[str]:
    """Return whether the broker is reached, and what waits for others; an older master does not tell."""
    connected, queued = worker.get("bus_connected"), worker.get("bus_queued")
    return [
        UNKNOWN_CELL if connected is None else "up" if connected else "down",
        UNKNOWN_CELL if queued is None or worker["pid"] is None else size(queued),
    ]


def remarks(workers: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    """Return a line for each slot of which there is more to say than its row can. now: seconds of the wall clock."""
    said = ((worker["slot"], remark(worker, now)) for worker in workers)
    return [f"worker {slot}: {words}" for slot, words in said if words]


def remark(worker: Mapping[str, Any], now: float) -> str:
    """Say what there is to say of a slot, "" for nothing.

    Why it has no worker, and when it gets its next one; or what its last one died of lately; who waits, and who helps.
    """
    # what its successor or the empty slot says is not said twice
    if worker["state"] == "draining":
        return ""
    last = worker["last_exit"]
    parts = []
    if worker["pid"] is None and last and worker["state"] != "left":
        parts.append(_death(last))
    elif last and last["class"] != "asked" and now - last["time"] < LATELY_SECONDS:
        parts.append(f"{age(now - last['time'])} ago {_death(last)}")
    if worker.get("retry_in") is not None:
        parts.append(f"next start in {age(worker['retry_in'])}")
    if worker["queue"]:
        waiting = "client waits" if worker["queue"] == 1 else "clients wait"
        parts.append(f"{worker['queue']} {waiting} to be accepted")
    if worker["lent_to"] is not None:
        parts.append(f"worker {worker['lent_to']} accepts for it")
    return "; ".join(parts)


def _death(last_exit: Mapping[str, Any]) -> str:
    """Return class and reason of an exit, and the last line of its traceback unless the reason quotes that."""
    reason, error = visible(last_exit["reason"]), visible(last_exit["error"])
    words = f"{last_exit['class']}: {reason}"
    return words if error in reason else f"{words} ({error})"
