"""`wsworker rebalance`: level the workers, by moving connections from those that have most to those that have fewest.

New connections go to the emptiest workers by themselves, but those that are there stay where they are: after a crash or
more workers it may take hours until all have their share. Nobody is told to reconnect: what cannot move stays.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import click

from wsworker.cli import ask
from wsworker.cli.failures import BAD_CONFIG, FAILED, NOTHING_RUNNING, OK, SCHEMA, Interrupted, failure
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import counted, span
from wsworker.counters import by_reason
from wsworker.wire import Command

EXITS: Final[Mapping[int, str]] = {
    OK: "done, or level before",
    FAILED: "refused, or a worker did not say what has moved",
    NOTHING_RUNNING: "nothing running",
    BAD_CONFIG: "no config",
}


@click.command(epilog=epilog(EXITS, "wsworker rebalance && wsworker status"))
@global_options
@click.pass_obj
def rebalance(settings: Settings) -> int:
    """Move connections from the fullest workers to the emptiest."""
    service = ask.locate(settings.config_path(), os.environ)
    try:
        for reply in ask.replies(service, Command("rebalance")):
            if reply.final:
                return show(settings, service.name, reply.body)
    except KeyboardInterrupt:
        raise Interrupted(f"the rebalance of {service.name} goes on; the log says how") from None
    raise AssertionError("the last reply is final")


def show(settings: Settings, name: str, body: Mapping[str, Any]) -> int:
    """Print the result and return the exit code."""
    document = {"schema": SCHEMA, "name": name, **body}
    if body["result"] == "ok":
        settings.result(result_line(name, body), document)
        return OK
    if settings.json:
        settings.result("", document)
    else:
        if body["result"] == "partial":
            settings.progress(result_line(name, body))
        settings.failure(failure(FAILED, body["error"]["code"], body["error"]["message"]))
    return FAILED


def result_line(name: str, body: Mapping[str, Any]) -> str:
    """Return what has come of it."""
    if not any(row["before"] != row["wanted"] for row in body["workers"]):
        return f"{name} is level: nothing to move"
    stayed = f", {sum(body['unmoved'].values())} stayed: {by_reason(body['unmoved'])}" if body["unmoved"] else ""
    pause = f"longest pause {body['longest_pause'] * 1000:.0f} ms, " if body["moved"] else ""
    moved = f"{counted(body['moved'], 'connection')} moved{stayed}"
    return f"rebalanced {name}: {moved}{';' if stayed else ','} {pause}{span(body['seconds'])}"
