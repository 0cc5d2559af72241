"""`wsworker unit`: a systemd unit for this service, as it would be started here.

It is the unit of systemd/wsworker.service with other paths, and both come from one template. The program is that of
this virtual environment, the config file the one that is used here. What that asks of the sandbox is granted, and no
more: a home directory to be read, a folder to be written, a port below 1024.

systemd reads a path in two ways. Where words are split it takes quotes and backslashes (systemd.syntax(7)), and in a
command line dollars mean variables too (systemd.service(5)); elsewhere the rest of the line is the path. A percent sign
begins a specifier everywhere (systemd.unit(5)).
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from wsworker import configfile
from wsworker.cli.failures import BAD_CONFIG, FAILED, OK, SCHEMA, Failed
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.reach import obstacles
from wsworker.cli.rights import Worker
from wsworker.cli.text import visible
from wsworker.surroundings import file_of

if TYPE_CHECKING:
    from wsworker.config import Config
    from wsworker.values import ListenAddress

TEMPLATE: Final = "wsworker.service"
UNITS: Final = "/etc/systemd/system"
FALLBACK_USER: Final = "wsworker"
HOMES: Final = ("/home", "/root", "/run/user")
TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - what PrivateTmp= hides, nothing is written
SHARED: Final[Mapping[str, str]] = {
    "runtime": "/run/wsworker",
    "state": "/var/lib/wsworker",
    "logs": "/var/log/wsworker",
}
"""Here each unit has a folder of its own, by the name of its service. systemd makes it, and these too where asked."""

EXITS: Final[Mapping[int, str]] = {OK: "printed", FAILED: "no unit can do that", BAD_CONFIG: "bad config"}

MARGIN_SECONDS: Final = 15
"""What a stop may take beyond graceful_timeout: 5 s of the master, and some for a busy machine."""

PACKAGED: Final[Mapping[str, str | None]] = {
    "description": "wsworker WebSocket daemon",
    "user": "wsworker",
    "group": "wsworker",
    "folder": None,
    "environment": "wsworker",
    "program": "/usr/bin/wsworker",
    "config": "/etc/wsworker/config.yaml",
    "start_seconds": "180",
    "stop_seconds": "45",
    "runtime": "wsworker",
    "preserve": None,
    "state": "wsworker",
    "logs": "wsworker",
    "capabilities": "",
    "ambient": None,
    "writes": None,
    "home": "yes",
    "home_needs": "read-only",
    "tmp": "yes",
    "users": "yes",
}
"""The values of systemd/wsworker.service, as a distribution would install it; None leaves the line out."""


@dataclass(frozen=True)
class Here:
    """Where the command runs.

    program: the words of the command line that starts wsworker; interpreter: its folders; python: its file, links
    followed, which may lie far from a virtual environment.
    """

    program: tuple[str, ...]
    interpreter: tuple[str, ...]
    user: str
    python: str = ""


@click.command(epilog=epilog(EXITS, "wsworker unit | sudo tee /etc/systemd/system/hello.service"))
@global_options
@click.pass_obj
def unit(settings: Settings) -> int:
    """Print a systemd unit for this service and virtualenv."""
    loaded = configfile.load(settings.config_path(), os.environ, {})
    config = loaded.config
    where = here()
    text = render(values(config, os.path.abspath(loaded.path), where))
    path = f"{UNITS}/{config.name}.service"
    for note in notes(config, os.environ, FALLBACK_USER if os.geteuid() == 0 else ""):
        settings.progress(f"note: {note}")
    for note in hindrances(config, read_by(config, str(loaded.path), where), account(config, where), where.python):
        settings.progress(f"note: {note}")
    settings.result(text.rstrip("\n"), {"schema": SCHEMA, "name": config.name, "path": path, "unit": text})
    return OK


def here() -> Here:
    """Find out who calls, and by which program."""
    script = Path(sys.executable).absolute().with_name("wsworker")
    # -P: the folder of the service is no part of the path
    program = (str(script),) if script.is_file() else (os.path.abspath(sys.executable), "-P", "-m", "wsworker")
    user = FALLBACK_USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    return Here(program, (sys.prefix, sys.base_prefix), user, os.path.realpath(sys.executable))


def notes(config: Config, environ: Mapping[str, str], needed: str) -> Iterable[str]:
    """Say what the unit does not bring along. needed: a user that was made up here, or ""."""
    names = [name for name in environ if name.startswith("WSWORKER_") and not name.startswith("WSWORKER_TEST_")]
    for name in sorted(set(names) - {"WSWORKER_CONFIG"}):
        yield f"{visible(name)} is set here and not in the unit; write it into /etc/default/wsworker-{config.name}"
    if needed and not config.user and _entry(needed) is None:
        yield f"there is no user {needed} yet; create it with: useradd --system {needed}"


def hindrances(config: Config, paths: Iterable[str], user: Worker, python: str = "") -> Iterable[str]:
    """Say what the user of the unit cannot get at, of these absolute paths. python: as in Here."""
    paths = list(paths)
    # to move the service is no cure where it lies elsewhere already
    others = {each.path for each in obstacles((path for path in paths if not _holds(path, python)), user)}
    for each in obstacles(paths, user):
        told = f"user {user.name} cannot read {visible(each.path)}"
        if not stat.S_ISDIR(each.mode):
            yield f"{told}; give {user.name} the right to, or set User="
        elif each.path in others:
            yield f"{told}; move the service to /opt/{config.name}, or set User="
        else:
            cure = "make the virtual environment with a system Python, such as /usr/bin/python3"
            yield f"{told}, and the interpreter {visible(python)} is below it; {cure}"


def account(config: Config, where: Here) -> Worker:
    """Return whom the service will run as; one who is not here yet is a stranger to every file."""
    name = config.user or where.user
    found = _entry(name)
    if found is None:
        return Worker(name, -1, frozenset())
    return Worker(name, found.pw_uid, frozenset(os.getgrouplist(name, found.pw_gid)))


def read_by(config: Config, path: str, where: Here) -> list[str]:
    """Return what the service reads, as absolute paths. path: of the config file."""
    app = file_of(config.app, config.app_dir)
    return [*where.program[:1], *where.interpreter, path, config.app_dir, app, *_files(config)]


def values(config: Config, path: str, where: Here) -> dict[str, str | None]:
    """Return what stands in the unit of a service. path: of the config file, absolute. Raises Failed."""
    user = config.user or where.user
    read = read_by(config, path, where)
    written = _written(config)
    at_home = _any_below(read + written, HOMES)
    low_port = any(0 < address.port < 1024 for address in _addresses(config))
    capability = "CAP_NET_BIND_SERVICE" if low_port else ""
    program, *arguments = where.program
    if re.search(r"""["'\\]""", program):
        # systemd takes no quotes in the name of a program, in whatever way they are written
        raise Failed("failed", f"{program!r} cannot be started by systemd; move the virtual environment")
    return {
        "description": f"wsworker {config.name}",
        "user": user,
        "group": config.group or _group_of(user),
        "folder": plain(os.path.dirname(path)),
        "environment": f"wsworker-{config.name}",
        # the name of the program is no place for variables
        "program": " ".join([word(program), *(argument(each) for each in arguments)]),
        "config": argument(path),
        "start_seconds": str(max(180, int(2 * config.boot_timeout) + MARGIN_SECONDS)),
        "stop_seconds": str(max(45, int(config.graceful_timeout) + MARGIN_SECONDS)),
        **_folders(config.name, written),
        "capabilities": capability,
        "ambient": capability or None,
        "home": "read-only" if at_home else "yes",
        "home_needs": None if at_home else "read-only",
        "tmp": "no" if _any_below(read + written, TEMPORARY) else "yes",
        "users": "no" if low_port else "yes",
    }


def render(given: Mapping[str, str | None]) -> str:
    """Return the unit with these values; a line whose value is None is left out."""
    template = (resources.files("wsworker") / "templates" / TEMPLATE).read_text(encoding="utf-8")
    lines = []
    for line in template.splitlines():
        names = re.findall("@([a-z_]+)@", line)
        if all(given[name] is not None for name in names):
            lines.append(re.sub("@([a-z_]+)@", lambda found: given[found[1]] or "", line))
    return "\n".join(lines) + "\n"


def word(text: str) -> str:
    """Return a text as one word of a list: systemd.syntax(7), Quoting. Raises Failed for what no unit can hold."""
    quoted = plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return quoted if re.fullmatch("[-A-Za-z0-9_./+:@%,=]+", quoted) else f'"{quoted}"'


def argument(text: str) -> str:
    """Return a text as one argument of a command line: a dollar is doubled, as it would begin a variable."""
    return word(text).replace("$", "$$")


def plain(path: str) -> str:
    """Return a path as the rest of a line: systemd.unit(5), Specifiers. Raises Failed for what no unit can hold."""
    if not path.isprintable() or path != path.strip() or path.endswith("\\"):
        raise Failed("failed", f"{path!r} cannot be written in a systemd unit; rename it")
    return path.replace("%", "%%")


def _files(config: Config) -> list[str]:
    tls, url = config.tls, config.bus.url
    files = [config.http.static, tls.certfile, tls.keyfile, tls.ca_certs, *((url.path, *url.files) if url else ())]
    return [path for path in files if path]


def _written(config: Config) -> list[str]:
    """Return the folders in which the service makes files; "auto" puts its control socket where systemd says."""
    files = [
        "" if config.log.file == "-" else config.log.file,
        config.pidfile or "",
        "" if config.control_socket == "auto" else config.control_socket,
        *(address.path for address in _addresses(config)),
    ]
    return [*dict.fromkeys(os.path.dirname(file) for file in files if file)]


def _folders(name: str, written: Iterable[str]) -> dict[str, str | None]:
    """Return by which lines a service may write into these folders: those that systemd makes, and the others."""
    shared = {kind: folder for kind, folder in SHARED.items() if any(folder in _both(path) for path in written)}
    own = [f"{folder}/{name}" for folder in SHARED.values()]
    others = [path for path in written if not _any_below([path], [*own, *shared.values()])]
    return {
        **{kind: f"wsworker wsworker/{name}" if kind in shared else f"wsworker/{name}" for kind in SHARED},
        # else systemd would remove the sockets of other services when this one stops
        "preserve": "yes" if "runtime" in shared else None,
        # "-": it may not be there yet
        "writes": " ".join(word(f"-{path}") for path in others) or None,
    }


def _addresses(config: Config) -> list[ListenAddress]:
    return [*config.listen, *filter(None, [config.admin.listen])]


def _both(path: str) -> tuple[str, str]:
    """Return a path as written and as it really is: either may be hidden from the service."""
    return path, os.path.realpath(path)


def _holds(path: str, file: str) -> bool:
    """Whether a path really is this file, or a folder above it."""
    return f"{file}/".startswith(f"{os.path.realpath(path)}/")


def _any_below(paths: Iterable[str], folders: Iterable[str]) -> bool:
    places = [place for path in paths for place in _both(path)]
    return any(f"{place}/".startswith(f"{folder}/") for place in places for folder in folders)


def _entry(user: str) -> pwd.struct_passwd | None:
    """Return what the account database has of a user, None of one that is not here yet."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return None


def _group_of(user: str) -> str:
    """Return the group of a user; where it has no name or the user is not here yet, the group named as the user is."""
    found = _entry(user)
    if found is None:
        return user
    try:
        return grp.getgrgid(found.pw_gid).gr_name
    except KeyError:
        return user
