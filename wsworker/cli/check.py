"""`wsworker check`: says whether `start` would work, and what there is to be warned of.

It reads the configuration as `start` does and looks at everything that findings.py knows of. Nothing is started and no
running service is touched; one may run, and then its own addresses are of course in use.

Each finding is a row: what was looked at, ok, failed or warning, and the facts. One failed row makes the exit code 78.
A configuration that cannot be read ends the check with its list of problems, as there is nothing more to look at.
"""

from __future__ import annotations

import os
import resource
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from wsworker import configfile
from wsworker.cli import ask
from wsworker.cli.failures import BAD_CONFIG, OK, SCHEMA
from wsworker.cli.findings import (
    Finding,
    address_findings,
    app_findings,
    backlog_findings,
    broker_findings,
    caution_findings,
    config_finding,
    control_findings,
    files_findings,
    log_findings,
    pidfile_findings,
    root_findings,
    rundir_findings,
    secret_findings,
    tls_findings,
    user_findings,
)
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import lines
from wsworker.errors import ControlError
from wsworker.master.rundir import paths, read_pid
from wsworker.visible import escape_line

if TYPE_CHECKING:
    from wsworker.configfile import Loaded

SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
EXITS: Final = {OK: "nothing speaks against a start", BAD_CONFIG: "something does"}


@click.command(epilog=epilog(EXITS, "wsworker check --print"))
@click.option("--print", "show_values", is_flag=True, help="Show every setting with its value and where it was set.")
@global_options
@click.pass_obj
def check(settings: Settings, show_values: bool) -> int:
    """Check configuration, app and system; start nothing."""
    path = settings.config_path()
    loaded = configfile.load(path, os.environ, {})
    found = findings(loaded, _master(path))
    ok = all(finding.verdict != "failed" for finding in found)
    document: dict[str, Any] = {"schema": SCHEMA, "result": "ok" if ok else "failed"}
    document["findings"] = [asdict(finding) for finding in found]
    if show_values:
        document["settings"] = setting_rows(loaded)
    text = [*(value_lines(loaded) if show_values else []), *finding_lines(found)]
    settings.result("\n".join(text), document)
    return OK if ok else BAD_CONFIG


def findings(loaded: Loaded, master: int | None) -> list[Finding]:
    """Look at everything. master: as for address_findings."""
    config = loaded.config
    at = paths(config.name, config.control_socket, os.environ, os.geteuid())
    return [
        config_finding(loaded),
        *app_findings(loaded, by_root=os.geteuid() == 0),
        *tls_findings(loaded),
        *caution_findings(loaded),
        *secret_findings(loaded),
        *broker_findings(loaded, by_root=os.geteuid() == 0),
        *address_findings(loaded, master),
        *log_findings(loaded),
        *pidfile_findings(loaded),
        *rundir_findings(at),
        *control_findings(loaded, at),
        *user_findings(loaded),
        *root_findings(loaded, os.geteuid()),
        *files_findings(loaded, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        *backlog_findings(loaded, int(SOMAXCONN.read_text())),
    ]


def _master(path: Path) -> int | None:
    """Return the pid of the master if this service runs, 0 if only that is known."""
    try:
        at = ask.holder(ask.locate(path, os.environ))
    except ControlError:
        # somebody else's service, perhaps; its addresses are then told as in use
        return None
    return None if at is None else read_pid(at.pid) or 0


def finding_lines(findings: list[Finding]) -> list[str]:
    """Return the findings as text: what is ok in columns, then warnings and errors, a line each."""
    findings = [replace(one, what=_fit(one.what), facts=_fit(one.facts)) for one in findings]
    rows = [(one.what, one.verdict, one.facts) for one in findings if one.verdict == "ok"]
    others = sorted((one for one in findings if one.verdict != "ok"), key=lambda one: one.verdict == "failed")
    words = {"warning": click.style("warning:", fg="yellow"), "failed": click.style("error:", fg="red")}
    return [*lines(rows, ("<", "<", "<"), gap=3), *(f"{words[one.verdict]} {one.facts}" for one in others)]


def _fit(text: str) -> str:
    """Return lines fit for a terminal: a path need not be text, and the traceback of an app is not ours."""
    return "\n".join(escape_line(line) for line in text.split("\n"))


# The settings


def setting_rows(loaded: Loaded) -> list[dict[str, Any]]:
    """Return every key with its value, as JSON has it, and its origin."""
    from wsworker.config import KEYS, value_of

    values = loaded.config.model_dump(mode="json")
    rows = []
    for key in KEYS:
        section, dot, name = key.partition(".")
        value, real = values[section][name] if dot else values[key], value_of(loaded.config, key)
        if isinstance(value, list):
            # addresses as they are written
            value = [str(item) for item in real]
        elif isinstance(value, dict):
            value = str(real)
        rows.append({"key": key, "value": value, "origin": loaded.place(key)})
    return rows


def value_lines(loaded: Loaded) -> list[str]:
    """Return every key with its value, as config.yaml would have it, and its origin; an empty line below."""
    from wsworker.config import KEYS, takes, value_of
    from wsworker.writing import as_yaml

    rows = [
        (key, _fit(as_yaml(value_of(loaded.config, key), takes(key).unit)), _fit(loaded.place(key))) for key in KEYS
    ]
    return [*lines(rows, ("<", "<", "<")), ""]
