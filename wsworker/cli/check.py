"""`wsworker check`: says whether `start` would work, and what there is to be warned of.

It reads the configuration as `start` does, imports the app in a child process, tries each address with a bind that
joins nobody, and compares limits of the system with what the configuration asks for. Nothing is started and no running
service is touched; one may run, and then its own addresses are of course in use.

Each finding is a row: what was looked at, ok, failed or warning, and the facts. One failed row makes the exit code 78.
A configuration that cannot be read ends the check with its list of problems, as there is nothing more to look at.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import click

from wsworker import configfile
from wsworker.cli import ask, importapp
from wsworker.cli.failures import BAD_CONFIG, OK, SCHEMA
from wsworker.cli.options import Settings, global_options
from wsworker.cli.text import lines, visible
from wsworker.errors import BindError, ControlError, TlsError

if TYPE_CHECKING:
    from wsworker.config import Config
    from wsworker.configfile import Loaded

Verdict: TypeAlias = Literal["ok", "warning", "failed"]

SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
SPARE_DESCRIPTORS: Final = 64
"""What a worker opens besides its connections: its loop, channel, listeners, log, and a little for the user."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. what: such as "app"; facts: a clause for people."""

    what: str
    verdict: Verdict
    facts: str


@click.command()
@click.option("--print", "show_values", is_flag=True, help="Show every setting with its value and where it was set.")
@global_options
@click.pass_obj
def check(settings: Settings, show_values: bool) -> int:
    """Check the configuration, the app and this system; start nothing."""
    path = settings.config_path()
    loaded = configfile.load(path, os.environ, {})
    findings = [
        config_finding(loaded),
        app_finding(loaded.config),
        *tls_findings(loaded),
        *caution_findings(loaded),
        *address_findings(loaded, _is_running(path)),
        *files_findings(loaded, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        *backlog_findings(loaded, int(SOMAXCONN.read_text())),
    ]
    text = [*(value_lines(loaded) if show_values else []), *finding_lines(findings)]
    ok = all(finding.verdict != "failed" for finding in findings)
    document: dict[str, Any] = {"schema": SCHEMA, "result": "ok" if ok else "failed"}
    document["findings"] = [asdict(finding) for finding in findings]
    if show_values:
        document["settings"] = setting_rows(loaded)
    settings.result("\n".join(text), document)
    return OK if ok else BAD_CONFIG


def finding_lines(findings: list[Finding]) -> list[str]:
    """Return the findings as text: what is ok in columns, then warnings and errors, a line each."""
    rows = [(one.what, one.verdict, one.facts) for one in findings if one.verdict == "ok"]
    others = sorted((one for one in findings if one.verdict != "ok"), key=lambda one: one.verdict == "failed")
    words = {"warning": click.style("warning:", fg="yellow"), "failed": click.style("error:", fg="red")}
    return [*lines(rows, ("<", "<", "<"), gap=3), *(f"{words[one.verdict]} {one.facts}" for one in others)]


# The settings


def config_finding(loaded: Loaded) -> Finding:
    """Count the keys that are set, and those that are not set in the file."""
    places = [loaded.place(key) for key in loaded.origins]
    environment = sum(place.startswith("environment ") for place in places)
    facts = f"{len(places)} key{'' if len(places) == 1 else 's'}"
    return Finding(loaded.shown, "ok", f"{facts} ({environment} from environment)" if environment else facts)


def setting_rows(loaded: Loaded) -> list[dict[str, Any]]:
    """Return every key with its value, as JSON has it, and its origin."""
    from wsworker.config import KEYS, value_of

    values = loaded.config.model_dump(mode="json")
    rows = []
    for key in KEYS:
        section, dot, name = key.partition(".")
        value = values[section][name] if dot else values[key]
        if isinstance(value, list):
            # addresses as they are written
            value = [str(item) for item in value_of(loaded.config, key)]
        rows.append({"key": key, "value": value, "origin": loaded.place(key)})
    return rows


def value_lines(loaded: Loaded) -> list[str]:
    """Return every key with its value, as config.yaml would have it, and its origin; an empty line below."""
    from wsworker.config import KEYS, takes, value_of

    rows = []
    for key in KEYS:
        written = as_written(value_of(loaded.config, key), "mode" if key == "umask" else takes(key).unit)
        rows.append((key, written, loaded.place(key)))
    return [*lines(rows, ("<", "<", "<")), ""]


def as_written(value: object, unit: str) -> str:
    """Return a value of a Config as a person would write it. unit: seconds, bytes, mode, or any other."""
    if unit == "mode" and isinstance(value, int):
        return f'"{value:04o}"'
    if unit == "seconds" and isinstance(value, float):
        return f"{value:g}s" if value else "0"
    if unit == "bytes" and isinstance(value, int):
        factor, suffix = next(
            (pair for pair in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")) if value % pair[0] == 0), (1, "")
        )
        return f"{value // factor}{suffix}"
    if isinstance(value, tuple):
        items = [json.dumps(str(item)) for item in value]
        return items[0] if len(items) == 1 else f"[{', '.join(items)}]"
    if value is None or isinstance(value, int):
        return json.dumps(value)
    # "-" and "*" mean something else in YAML without their quotes
    return json.dumps(value) if value in ("-", "*", "") else str(value)


# The app


def app_finding(config: Config) -> Finding:
    """Import the app in a child process."""
    asked = {"path": sys.path, "app": config.app, "app_dir": config.app_dir}
    # -P: the folder that we stand in is no part of the path unless ours has it
    command = [sys.executable, "-P", "-c", importapp.ENTRY, json.dumps(asked)]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=config.boot_timeout, check=False
        )
    except subprocess.TimeoutExpired:
        facts = f"app {config.app!r} was not imported within {config.boot_timeout:g} s; see `boot_timeout`"
        return Finding("app", "failed", facts)
    try:
        found = json.loads(child.stdout)
    except ValueError:
        facts = f"app {config.app!r} ended the process that imported it (exit {child.returncode}); see its output above"
        return Finding("app", "failed", facts)
    if "error" in found:
        return Finding("app", "failed", f"{found['error']}\n{found['trace']}".rstrip())
    return Finding("app", "ok", f"{', '.join(found['callbacks'])}   {visible(found['file'])}")


# The system


def _is_running(path: Path) -> bool:
    try:
        return ask.holder(ask.locate(path, os.environ)) is not None
    except ControlError:
        # somebody else's service, perhaps; its addresses are then told as in use
        return False


def address_findings(loaded: Loaded, running: bool) -> Iterator[Finding]:
    """Probe each address. running: this service runs, so that an address in use is most probably its own."""
    from wsworker.listeners import Group

    for address in loaded.config.listen:
        try:
            Group(address, loaded.config.backlog, loaded.place("listen")).probe()
        except BindError as error:
            if running and error.reason == "address in use":
                yield Finding("listen", "warning", f"{address} is in use, as this service runs; nothing more to check")
            else:
                yield Finding("listen", "failed", str(error))
        else:
            yield Finding("listen", "ok", f"{address} is free")


def tls_findings(loaded: Loaded) -> Iterator[Finding]:
    """Load certificate, key and authorities as a worker would, as the user who asks; nothing to say without them."""
    config = loaded.config.tls
    if config.certfile is None:
        return
    from wsworker import tls

    try:
        tls.context(config)
        objection = tls.objection(config)
    except TlsError as error:
        yield Finding("tls", "failed", f"{loaded.place(error.key)}: {error}")
        return
    if objection:
        yield Finding("tls", "warning", f"{loaded.place('tls.certfile')}: {objection}")
    else:
        yield Finding("tls", "ok", f"{visible(config.certfile)}, TLS {config.min_version} or newer")


def caution_findings(loaded: Loaded) -> Iterator[Finding]:
    """Tell what is right and yet may be a mistake."""
    from wsworker.cautions import advice, warnings

    for key, sentence in (warnings(loaded.config) | advice(loaded.config)).items():
        yield Finding("settings", "warning", f"{loaded.origins.get(key, loaded.shown)}: {sentence}")


def files_findings(loaded: Loaded, limit: int) -> Iterator[Finding]:
    """Compare the limit of open files with what a full worker needs. limit: RLIMIT_NOFILE, negative for none."""
    connections = loaded.config.worker_connections
    if limit == resource.RLIM_INFINITY or limit >= connections + SPARE_DESCRIPTORS:
        shown = "none" if limit == resource.RLIM_INFINITY else limit
        facts = f"open-file limit {shown} >= {connections} connections + {SPARE_DESCRIPTORS} in each worker"
        yield Finding("files", "ok", facts)
        return
    facts = (
        f"{_front(loaded, 'worker_connections')}open-file limit {limit} is below {connections} connections + "
        f"{SPARE_DESCRIPTORS} in each worker; raise it (ulimit -n, LimitNOFILE=) or lower worker_connections"
    )
    yield Finding("files", "warning", facts)


def backlog_findings(loaded: Loaded, somaxconn: int) -> Iterator[Finding]:
    """Compare the backlog with what the kernel allows (listen(2)); nothing to say if it fits."""
    backlog = loaded.config.backlog
    if backlog > somaxconn:
        facts = f"backlog {backlog} is above net.core.somaxconn {somaxconn}; the kernel will use {somaxconn}"
        yield Finding("backlog", "warning", f"{_front(loaded, 'backlog')}{facts}")


def _front(loaded: Loaded, key: str) -> str:
    """Return the place of a key to put before a warning; nothing for a default."""
    return f"{loaded.place(key)}: " if key in loaded.origins else ""
