"""`wsworker restart`: stop what runs, then start, with the options of `start`.

The new configuration is read first, and the app is imported in a child process: a mistake in either must not cost the
service that runs. Under systemd it refuses, because systemd would see its service end, and start another one beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsworker.cli import ask, managed
from wsworker.cli.failures import BAD_CONFIG, Failed, Interrupted
from wsworker.cli.findings import app_finding
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.start import EXITS, prepare, start_options
from wsworker.cli.stop import stop_service
from wsworker.errors import ControlError, NotRunning
from wsworker.master.rundir import read_pid

if TYPE_CHECKING:
    from wsworker.configfile import Loaded


@click.command(epilog=epilog(EXITS, "wsworker restart -d"))
@start_options
@global_options
@click.pass_obj
def restart(
    settings: Settings, daemon: bool, workers: str | None, bind: tuple[str, ...], follow: bool, log_level: str | None
) -> int:
    """Stop the service if it runs, then start it."""
    prepared = prepare(settings, daemon, workers, bind, follow, log_level)
    service = ask.locate(prepared.path, os.environ)
    refuse_if_managed(service)
    if master_pid(service):
        refuse_broken_app(prepared.loaded)
    try:
        settings.progress(stop_service(settings, prepared.path, quick=False).line())
    except NotRunning:
        pass
    except Interrupted as error:
        raise Interrupted(f"{error.message}; nothing is started after it") from None
    return prepared.run()


def refuse_broken_app(loaded: Loaded) -> None:
    """Raise Failed if the app does not import: what runs is worth more than what would not start."""
    finding = app_finding(loaded)
    if finding.verdict == "failed":
        text = f"the new code does not start; {loaded.config.name} keeps running: {finding.facts}"
        raise Failed("app_invalid", text, BAD_CONFIG)


def refuse_if_managed(service: ask.Service, proc: Path = managed.PROC) -> None:
    """Raise Failed if systemd looks after the master. Nothing to refuse if none runs."""
    pid = master_pid(service)
    unit = managed.unit_of(pid, proc) if pid else None
    if unit:
        raise Failed("managed", f"managed by {unit.name}: use {unit.systemctl} restart {unit.name}")


def master_pid(service: ask.Service) -> int | None:
    """Return the pid of the master, from itself or, if it does not answer, from its pid file; None if none is found.

    Raises ControlError (other_config) if it is that of another service.
    """
    try:
        document = ask.status(service)
    except NotRunning:
        return None
    except ControlError:
        at = ask.holder(service)
        return read_pid(at.pid) if at else None
    ask.check_is_ours(service, document)
    return int(document["pid"])
