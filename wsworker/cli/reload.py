"""`wsworker reload`: new code and configuration without a gap, and how it went.

The master answers with a line for each worker it has replaced and then with the result, so this command shows what
happens while it happens. It ends with 0 only if every worker runs the new code; systemd's ExecReload relies on that.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

import click

from wsworker.cli import ask
from wsworker.cli.failures import FAILED, OK, SCHEMA, Failure
from wsworker.cli.options import Settings, global_options
from wsworker.cli.text import counted, span
from wsworker.wire import Command


@click.command()
@click.option("--no-wait", is_flag=True, help="Only ask for the reload; its result is in the log and in `status`.")
@global_options
@click.pass_obj
def reload(settings: Settings, no_wait: bool) -> int:
    """Load new code and configuration, one worker after the other."""
    service = ask.locate(settings.config_path(), os.environ)
    document = ask.status(service)
    if no_wait:
        with contextlib.closing(ask.Call(service, Command("reload"), time.monotonic() + ask.ANSWER_SECONDS)):
            asked = {"schema": SCHEMA, "result": "asked", "name": service.name}
            settings.result(f"reload of {service.name} asked for; see `wsworker status` and the log", asked)
        return OK
    settings.progress(f"reloading {service.name}: {counted(document['workers_configured'], 'worker')}, one at a time")
    for reply in ask.replies(service, Command("reload")):
        if reply.final:
            return show(settings, service.name, reply.body)
        if line := progress_line(reply.body):
            settings.progress(line)
    raise AssertionError("the last reply is final")


def progress_line(body: Mapping[str, Any]) -> str:
    """Return a progress body as a line, or "" for an event that this version does not know."""
    match body["event"]:
        case "replaced":
            old = body["old_pid"] or "none"
            canary = " (canary)" if body["canary"] else ""
            return f"  worker {body['slot']}  {old} -> {body['new_pid']}  ready in {span(body['seconds'])}{canary}"
        case "note":
            return f"note: {body['text']}"
        case _:
            return ""


def show(settings: Settings, name: str, body: Mapping[str, Any]) -> int:
    """Print the result of a reload and return the exit code."""
    document = {"schema": SCHEMA, "name": name, **body}
    if body["result"] == "ok":
        applied = body.get("applied")  # a master of an earlier version has none
        above = f"applied: {', '.join(applied)}\n" if applied else ""
        settings.result(above + result_line(name, body), document)
        return OK
    if settings.json:
        settings.result("", document)
    else:
        settings.failure(refusal(body["error"]))
    return FAILED


def result_line(name: str, body: Mapping[str, Any]) -> str:
    """Return the result of a reload that went well."""
    workers, asked = counted(len(body["workers"]), "worker"), counted(body["asked"], "connection")
    return f"reloaded {name}: {workers}, {asked} asked to reconnect (1012), {span(body['seconds'])}"


def refusal(error: Mapping[str, Any]) -> Failure:
    """Return the failure of a reload that was refused, stopped half-way or overtaken by a stop.

    A config error comes as the block of its problems, which is shown as it is. The user's own traceback says more than
    our sentence about it, so the sentence (cause) is shown only where there is no traceback.
    """
    if error["code"] == "config_invalid":
        return Failure(FAILED, error["message"], error)
    below = error["trace"] or f"  {error['cause']}"
    return Failure(FAILED, f"error: {error['message']}\n{below}".rstrip(), error)
