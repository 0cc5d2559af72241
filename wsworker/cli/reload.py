"""`wsworker reload`: new code and configuration without a gap, and how it went.

The master answers with a line for each worker it has replaced and then with the result, so this command shows what
happens while it happens. It ends with 0 only if every worker runs the new code; systemd's ExecReload relies on that.

The answer comes when the last new worker is ready, while old ones still say goodbye to their clients. That is followed
too, by looking at `status` until they have gone: only then is it known how many connections have moved to the new
workers, how many could not and were told to reconnect, and how many were dropped, which is to say cut at
graceful_timeout. As ExecReload it is not followed: systemd gives that command a time of its own, which need not
be longer than graceful_timeout, and would take a patient drain for a failed reload.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from wsworker.cli import ask
from wsworker.cli.bar import Draining, bar, draining
from wsworker.cli.failures import BAD_CONFIG, FAILED, NOTHING_RUNNING, OK, SCHEMA, Failure, Interrupted
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import counted, span
from wsworker.counters import by_reason
from wsworker.errors import ControlError, NotRunning
from wsworker.wire import Command, CommandName

FIRST_LOOK_SECONDS: Final = 0.01
LOOK_SECONDS: Final = 0.2
MARGIN_SECONDS: Final = 6.0
"""A worker that does not leave by itself is killed five seconds after its time."""

MOVING_SECONDS: Final = 1.0
COUNTS: Final = ("asked", "moved", "drained", "longest_pause", "dropped")
"""Of a result, what goes on counting while old workers leave."""

EXITS: Final[Mapping[int, str]] = {
    OK: "every worker runs the new code",
    FAILED: "refused or partial",
    NOTHING_RUNNING: "nothing running",
    BAD_CONFIG: "no config",
}


@click.command(epilog=epilog(EXITS, "wsworker reload && wsworker status"))
@click.option("--no-wait", is_flag=True, help="Only ask for the reload; its result is in the log and in `status`.")
@global_options
@click.pass_obj
def reload(settings: Settings, no_wait: bool) -> int:
    """Load new code and configuration, worker by worker."""
    service = ask.locate(settings.config_path(), os.environ)
    document = ask.status(service)
    # the master judges this too, but --no-wait does not wait for its word
    ask.check_is_ours(service, document)
    if no_wait:
        with contextlib.closing(ask.Call(service, Command("reload"), time.monotonic() + ask.ANSWER_SECONDS)):
            asked = {"schema": SCHEMA, "result": "asked", "name": service.name}
            settings.result(f"reload of {service.name} asked for; see `wsworker status` and the log", asked)
        return OK
    workers = counted(document["workers_configured"], "worker")
    settings.progress(f"reloading {service.name}: {workers}, one at a time")
    return load_anew(settings, service, "reload")


def load_anew(settings: Settings, service: ask.Service, name: CommandName) -> int:
    """Ask for a reload, or for an upgrade that ends with one; show how it goes and return the exit code."""
    try:
        body = _answer(settings, service, name)
    except KeyboardInterrupt:
        raise Interrupted(f"the {name} of {service.name} goes on; `wsworker status` and the log say how") from None
    # systemd.exec(5): ExecReload= gets MAINPID
    gone = False
    if body["result"] == "ok" and "MAINPID" not in os.environ:
        body, gone = _follow(settings, service, body)
    return show(settings, service.name, body, gone)


def _answer(settings: Settings, service: ask.Service, name: CommandName) -> Mapping[str, Any]:
    """Ask, show what happens, and return the result."""
    for reply in ask.replies(service, Command(name)):
        if reply.final:
            return reply.body
        if line := progress_line(reply.body):
            settings.progress(line)
    raise AssertionError("the last reply is final")


def _follow(settings: Settings, service: ask.Service, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return the result as it is when the old workers have gone, and whether they have."""
    began_at = time.monotonic()
    give_up_at: float | None = None
    generation, most = body["generation"], 1
    left: Draining | None = None
    pause = FIRST_LOOK_SECONDS
    try:
        with bar(settings) as draw:
            while left := draining(document := ask.status(service), generation):
                now = time.monotonic()
                give_up_at = give_up_at or now + left.seconds + MARGIN_SECONDS
                if now > give_up_at:
                    settings.progress(f"note: old workers do not leave: pid {', '.join(map(str, left.workers))}")
                    break
                asked = (document["last_reload"] or body).get("asked", 0)
                # until somebody is asked to go they are about to move, which takes no time unless they are busy
                if left.connections and (asked or now - began_at > MOVING_SECONDS):
                    most = max(most, left.connections)
                    draw(left.line, 1 - left.connections / most)
                time.sleep(pause)
                # workers without clients have gone in no time
                pause = min(LOOK_SECONDS, pause * 2)
    except KeyboardInterrupt:
        still = counted(left.connections if left else 0, "connection")
        raise Interrupted(f"{service.name} is reloaded; {still} of old workers go on leaving") from None
    except (NotRunning, ControlError) as error:
        settings.progress(f"note: {service.name} is reloaded, and then: {error}")
        return body, False
    last = document["last_reload"] or {}
    followed = {"seconds": body["seconds"] + time.monotonic() - began_at}
    if last.get("generation") == generation:
        followed |= {key: last[key] for key in COUNTS if key in last}
    return {**body, **followed}, left is None


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


def show(settings: Settings, name: str, body: Mapping[str, Any], gone: bool) -> int:
    """Print the result of a reload and return the exit code. gone: whether the old workers have gone."""
    document = {"schema": SCHEMA, "name": name, **body}
    if body["result"] == "ok":
        applied = body.get("applied")  # a master of an earlier version has none
        above = f"applied: {', '.join(applied)}\n" if applied else ""
        settings.result(above + result_line(name, body, gone), document)
        return OK
    if settings.json:
        settings.result("", document)
    else:
        settings.failure(refusal(body["error"]))
    return FAILED


def result_line(name: str, body: Mapping[str, Any], gone: bool) -> str:
    """Return the result of a reload that went well. gone: as for show."""
    workers = counted(len(body["workers"]), "worker")
    # a master of an earlier version does not count them
    dropped = f", {body['dropped']} dropped{'' if gone else ' so far'}" if "dropped" in body else ""
    return f"reloaded {name}: {workers}, {moved_words(body)}{dropped}, {span(body['seconds'])}"


def moved_words(body: Mapping[str, Any]) -> str:
    """Return what has become of the connections: how many have moved, and how many were told to reconnect and why."""
    asked, drained = body["asked"], body.get("drained")
    told = "asked to reconnect (1012)" + (f": {by_reason(drained)}" if drained else "")
    if not body.get("moved"):
        return f"{counted(asked, 'connection')} {told}"
    pause = f"longest pause {body['longest_pause'] * 1000:.0f} ms"
    return f"{counted(body['moved'], 'connection')} moved, {asked} {told}{';' if drained else ','} {pause}"


def refusal(error: Mapping[str, Any]) -> Failure:
    """Return the failure of a reload that was refused, stopped half-way or overtaken by a stop.

    A config error comes as the block of its problems, which is shown as it is. The user's own traceback says more than
    our sentence about it, so the sentence (cause) is shown only where there is no traceback.
    """
    if error["code"] == "config_invalid":
        return Failure(FAILED, error["message"], error)
    below = error["trace"] or f"  {error['cause']}"
    return Failure(FAILED, f"error: {error['message']}\n{below}".rstrip(), error)
