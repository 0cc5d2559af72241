"""`wsworker connections`: the open connections, asked of the workers themselves.

Each worker sorts and cuts its own list, so the answer is quick however many connections there are, and the columns of
the largest interest are one --sort away. A worker that does not answer within 2 s is named and not waited for: it may
be busy in a callback, hung or just ending.

Names and paths come from clients and from the app; a terminal sees their control characters as text, and one that is
too narrow the first few of a long one: however long a path is, it takes no more than FEWEST places from other columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from wsworker.cli import ask
from wsworker.cli.draw import Column, render, table, terminal_width
from wsworker.cli.failures import BAD_CONFIG, FAILED, NOTHING_RUNNING, OK, SCHEMA, USAGE, Failed
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import age, counted, size
from wsworker.query import DEFAULT_LIMIT, MAX_LIMIT, SORTS, Query, check_text
from wsworker.wire import Command

FEWEST: Final = 8
COLUMNS: Final = (
    Column("WORKER"),
    Column("ID", "<"),
    Column("REMOTE", "<"),
    Column("PATH", "<", rank=2, fewest=FEWEST),
    Column("USER", "<", rank=1, fewest=FEWEST),
    Column("SINCE", rank=5),
    Column("IN", rank=4),
    Column("OUT", rank=4),
    Column("SENDQ", rank=3),
    Column("PING", rank=6),
    Column("TOPICS", "<", rank=7, fewest=FEWEST),
)
NOTHING: Final = "-"

EXITS: Final[Mapping[int, str]] = {
    OK: "done, also if a worker gave no answer",
    FAILED: "failed",
    NOTHING_RUNNING: "not running",
    BAD_CONFIG: "bad config",
}


def _checked(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        assert parameter.name is not None
        try:
            check_text(parameter.name, value)
        except ValueError as error:
            raise click.BadParameter(f"{error}.") from None
    return value


@click.command(epilog=epilog(EXITS, "wsworker connections --sort sendq --limit 10"))
@click.option("--worker", type=click.IntRange(min=1), metavar="N", help="Only those of worker N.")
@click.option("--ip", metavar="CIDR", callback=_checked, help="Only from this address or network.")
@click.option("--path", metavar="PREFIX", callback=_checked, help="Only those whose path begins like this.")
@click.option(
    "--user",
    metavar="NAME",
    callback=_checked,
    help="Only those of this user, as the app has set connection.user.",
)
@click.option("--topic", metavar="NAME", callback=_checked, help="Only those that have subscribed to this topic.")
@click.option(
    "--sort",
    type=click.Choice([*SORTS]),
    default=Query.sort,
    show_default=True,
    help="Column to sort by; of numbers, the largest comes first.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    metavar="N",
    default=DEFAULT_LIMIT,
    show_default=True,
    help=f"How many to show at most, up to {MAX_LIMIT}.",
)
@global_options
@click.pass_obj
def connections(
    settings: Settings,
    worker: int | None,
    ip: str | None,
    path: str | None,
    user: str | None,
    topic: str | None,
    sort: str,
    limit: int,
) -> int:
    """Show the open connections."""
    service = ask.locate(settings.config_path(), os.environ)
    document = fetch(service, Query(worker, ip, path, user, topic, sort, limit))
    text = ""
    if not settings.json:
        rows = [cells(row) for row in document["connections"]]
        text = render(settings, table(COLUMNS, rows, terminal_width()))
    settings.result(text, document)
    for note in notes(document):
        settings.progress(note)
    return OK


def fetch(service: ask.Service, query: Query) -> dict[str, Any]:
    """Return the document of the connections that fit. Raises as ask.replies, and Failed for a worker there is not."""
    rows: list[dict[str, Any]] = []
    for reply in ask.replies(service, Command("connections", query=query)):
        body = reply.body
        if not reply.final:
            rows += body.get("connections", [])
        elif body.get("result") == "failed":
            raise Failed(body["error"]["code"], body["error"]["message"], USAGE)
    facts = {key: body[key] for key in ("total", "shown", "missing")}
    return {"schema": SCHEMA, "name": service.name, **facts, "connections": rows}


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return the row of one connection, with all of COLUMNS."""
    return [
        str(row["slot"]),
        row["id"],
        row["remote"],
        row["path"],
        NOTHING if row["user"] is None else row["user"],
        age(row["uptime"]),
        size(row["bytes_in"]),
        size(row["bytes_out"]),
        size(row["send_queue"]),
        NOTHING if row["ping"] is None else f"{row['ping'] * 1000:.0f} ms",
        ",".join(row["topics"]) or NOTHING,
    ]


def notes(document: Mapping[str, Any]) -> list[str]:
    """Return what is to be said about a list: what it lacks."""
    lines = []
    if document["shown"] < document["total"]:
        shown, all_of_them = document["shown"], counted(document["total"], "connection")
        lines.append(f"{shown} of {all_of_them} shown; see --limit and --sort")
    if not document["total"] and not document["missing"]:
        lines.append("no connections")
    lines += [
        f"warning: worker {slot} gave no complete answer: connections of it are missing here; see `wsworker status`"
        for slot in document["missing"]
    ]
    return lines
