"""`wsworker reopen`: let every process of the service write to a new log file, after the old one was moved away.

The master opens the file again and hands it to its workers; USR1 to the master does the same. For logrotate, that is a
`postrotate` script without `copytruncate`, which would lose lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import click

from wsworker.cli import ask
from wsworker.cli.failures import BAD_CONFIG, FAILED, NOTHING_RUNNING, OK, SCHEMA, failure
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.wire import Command

EXITS: Final[Mapping[int, str]] = {
    OK: "reopened, or nothing to reopen",
    FAILED: "the file cannot be opened",
    NOTHING_RUNNING: "nothing running",
    BAD_CONFIG: "no config",
}


@click.command(epilog=epilog(EXITS, "mv chat.log chat.log.1 && wsworker reopen"))
@global_options
@click.pass_obj
def reopen(settings: Settings) -> int:
    """Reopen the log file, after it was moved away."""
    service = ask.locate(settings.config_path(), os.environ)
    for reply in ask.replies(service, Command("reopen")):
        if reply.final:
            return show(settings, service.name, reply.body)
    raise AssertionError("the last reply is final")


def show(settings: Settings, name: str, body: Mapping[str, Any]) -> int:
    """Print the result and return the exit code. That there is nothing to reopen is no failure."""
    document = {"schema": SCHEMA, "name": name, **body}
    if body["result"] == "ok":
        nothing = f"nothing to reopen: {name} logs to standard error"
        settings.result(nothing if body["file"] == "-" else f"reopened {body['file']}", document)
        return OK
    if settings.json:
        settings.result("", document)
    else:
        settings.failure(failure(FAILED, body["error"]["code"], body["error"]["message"]))
    return FAILED
