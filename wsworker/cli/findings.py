"""What `wsworker check` looks at: the app, the addresses, the files, the limits of the system.

Each function looks at one thing and yields what it found, a row or a sentence. Nothing is started, made or opened for
writing: the app is imported in a child process, as the user that workers would run as, and addresses are tried with a
bind that joins nobody. Rights are asked for as the user who runs the check, who is taken to be the one who runs
`start`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from wsworker.cli import importapp, rights
from wsworker.cli.reach import obstacles
from wsworker.cli.text import visible
from wsworker.errors import BindError, RunDirError, TlsError
from wsworker.master.rundir import FOLDER_CURE, MAX_SOCKET_PATH_BYTES, UNITS_FOLDER, Paths, check_folder
from wsworker.surroundings import file_of

if TYPE_CHECKING:
    from wsworker.config import Config
    from wsworker.configfile import Loaded
    from wsworker.values import ListenAddress

Verdict: TypeAlias = Literal["ok", "warning", "failed"]

SPARE_DESCRIPTORS: Final = 64
"""What a worker opens besides its connections: its loop, channel, listeners, log, and a little for the user."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. what: such as "app"; facts: a clause for people."""

    what: str
    verdict: Verdict
    facts: str


# The settings


def config_finding(loaded: Loaded) -> Finding:
    """Count the keys that are set, and those that are not set in the file."""
    places = [loaded.place(key) for key in loaded.origins]
    environment = sum(place.startswith("environment ") for place in places)
    facts = f"{len(places)} key{'' if len(places) == 1 else 's'}"
    return Finding(loaded.shown, "ok", f"{facts} ({environment} from environment)" if environment else facts)


def caution_findings(loaded: Loaded) -> Iterator[Finding]:
    """Tell what is right and yet may be a mistake."""
    from wsworker.cautions import advice, warnings

    for key, sentence in (warnings(loaded.config) | advice(loaded.config)).items():
        yield Finding("settings", "warning", f"{loaded.origins.get(key, loaded.shown)}: {sentence}")


def secret_findings(loaded: Loaded) -> Iterator[Finding]:
    """Tell of a password in a config file that everybody on this machine can read."""
    url, origin = loaded.config.bus.url, loaded.origins.get("bus.url")
    if url is None or origin is None or not (url.has_secret and origin.line):
        return
    mode = stat.S_IMODE(os.stat(loaded.path).st_mode)
    if mode & stat.S_IROTH:
        facts = f"a password stands in bus.url, and everybody may read this file ({mode:04o})"
        cure = "put it into the environment, WSWORKER_BUS__URL, or take that right away (chmod o-r)"
        yield Finding("settings", "warning", f"{origin}: {facts}; {cure}")


def broker_findings(loaded: Loaded, by_root: bool) -> Iterator[Finding]:
    """Tell of files of bus.url that workers cannot read: unlike those of `tls`, they are read after the change of user.

    by_root: as for app_findings.
    """
    url = loaded.config.bus.url
    if url is None:
        return
    own = rights.Worker(f"uid {os.geteuid()}", os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
    user = worker_of(loaded.config) if by_root else own
    for each in obstacles(url.files, user):
        facts = f"workers run as {user.name}, who cannot read {visible(each.path)}; give {user.name} the right to"
        yield Finding("bus", "warning", f"{loaded.place('bus.url')}: {facts}")


def root_findings(loaded: Loaded, uid: int) -> Iterator[Finding]:
    """Tell that workers would be root, as each start does. uid: of who asks."""
    from wsworker.cautions import of_root

    if sentence := of_root(loaded.config, uid, loaded.shown):
        yield Finding("user", "warning", sentence)


# The app


def app_findings(loaded: Loaded, by_root: bool) -> Iterator[Finding]:
    """See who can change the app, then import it in a child process. by_root: who asks is root.

    What others can change is told before it is run. As root without `user` it is run as root all the same: so would a
    start do.
    """
    config = loaded.config
    warned = [*rights_findings(loaded, by_root, file_of(config.app, config.app_dir))]
    yield from warned
    found = imported(loaded)
    yield _app_finding(found)
    if not warned:
        # it may have come from elsewhere
        yield from rights_findings(loaded, by_root, found.get("file", ""))


def app_finding(loaded: Loaded) -> Finding:
    """Import the app in a child process, and no more."""
    return _app_finding(imported(loaded))


def _app_finding(found: dict[str, Any]) -> Finding:
    if "error" in found:
        return Finding("app", "failed", f"{found['error']}\n{found['trace']}".rstrip())
    return Finding("app", "ok", f"{', '.join(found['callbacks'])}   {visible(found['file'])}")


def rights_findings(loaded: Loaded, by_root: bool, file: str) -> Iterator[Finding]:
    """See who can change an app. file: that it is imported from, or ""; by_root as for app_findings."""
    config = loaded.config
    worker = worker_of(config) if by_root else None
    for one in rights.look(rights.of_app(config.app, config.app_dir, file)):
        if sentence := rights.objection(one, worker):
            yield Finding("rights", "warning", f"{loaded.origins['app']}: {sentence}")
            # what is said of the folder holds for what is in it
            return


def imported(loaded: Loaded) -> dict[str, Any]:
    """Import the app in a child process, which root has become a worker's user before.

    Returns "callbacks" and "file", or "error" and "trace".
    """
    from wsworker.master.preconditions import CANNOT_END, can_end
    from wsworker.master.process import identity

    config = loaded.config
    who = identity(config)
    becomes = os.geteuid() == 0 and who.gid is not None
    if not can_end(who):
        # nor could we end a child that hangs
        return {"error": CANNOT_END, "trace": ""}
    asked: dict[str, Any] = {
        "path": sys.path,
        "app": config.app,
        "app_dir": config.app_dir,
        "set_at": loaded.place("app"),
    }
    asked["identity"] = asdict(who) if becomes else None
    # -P: the folder that we stand in is no part of the path unless ours has it
    command = [sys.executable, "-P", "-c", importapp.ENTRY, json.dumps(asked)]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=config.boot_timeout, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"app {config.app!r} was not imported within {config.boot_timeout:g} s; see `boot_timeout`"
        return {"error": text, "trace": ""}
    try:
        found = json.loads(child.stdout)
    except ValueError:
        text = f"app {config.app!r} ended the process that imported it (exit {child.returncode}); see its output above"
        return {"error": text, "trace": ""}
    assert isinstance(found, dict)
    return found


def worker_of(config: Config) -> rights.Worker:
    """Return whom root's workers run as. The accounts exist: a Config that was loaded has been asked for that."""
    from wsworker.master.process import identity

    if config.user is None:
        return rights.Worker("root", 0, frozenset({0}))
    who = identity(config)
    assert who.uid is not None, "there is a user"
    assert who.groups is not None, "a user has at least one"
    return rights.Worker(config.user, who.uid, frozenset(who.groups))


# Addresses and certificates


def address_findings(loaded: Loaded, master: int | None) -> Iterator[Finding]:
    """Probe each address. master: the pid of this service's master, 0 if that is not known, None if it does not run."""
    for address in loaded.config.listen:
        yield _address_finding(loaded, "listen", address, master)
    if (operators := loaded.config.admin.listen) is not None:
        yield _address_finding(loaded, "admin.listen", operators, master)


def _address_finding(loaded: Loaded, key: str, address: ListenAddress, master: int | None) -> Finding:
    from wsworker.listeners import Group

    what = key.partition(".")[0]
    try:
        Group(address, loaded.config.backlog, loaded.place(key), key).probe()
    except BindError as error:
        if master is not None and error.reason == "address in use":
            if error.owner.startswith(f"pid {master} "):
                return Finding(what, "ok", f"{address} is this service's, which runs")
            if not error.owner or not master:
                return Finding(what, "warning", f"{address} is in use, most probably by this service, which runs")
        return Finding(what, "failed", str(error))
    return Finding(what, "ok", f"{address} is free")


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


# Files


def log_findings(loaded: Loaded) -> Iterator[Finding]:
    """See whether the log file can be written or made; nothing to say of standard error."""
    file = loaded.config.log.file
    if file == "-":
        return
    if reason := unwritable(Path(file)):
        facts = f"cannot write the log file {visible(file)}: {reason}; change `log.file` or make it writable"
        yield Finding("log", "failed", f"{loaded.place('log.file')}: {facts}")
    else:
        yield Finding("log", "ok", f"{visible(file)} can be written")


def pidfile_findings(loaded: Loaded) -> Iterator[Finding]:
    """See whether the pid file can be made. It is replaced as a whole, so its folder matters; a start does without."""
    file = loaded.config.pidfile
    if file is not None and (reason := unwritable_folder(Path(file).parent)):
        facts = f"cannot write the pid file {visible(file)}: {reason}; the service would run without it"
        yield Finding("pidfile", "warning", f"{loaded.place('pidfile')}: {facts}")


def unwritable(file: Path) -> str | None:
    """Return why we could not append to a file, making it if it is not there; None if we could."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return unwritable_folder(file.parent)
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "it is a directory"
    return None if os.access(file, os.W_OK, effective_ids=True) else "no permission to write it"


def unwritable_folder(folder: Path) -> str | None:
    """Return why we could not make a file in a folder; None if we could."""
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return f"there is no directory {folder}"
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(mode):
        return f"{folder} is not a directory"
    allowed = os.access(folder, os.W_OK | os.X_OK, effective_ids=True)
    return None if allowed else f"no permission to write in {folder}"


def rundir_findings(at: Paths) -> Iterator[Finding]:
    """See whether the run directory can be had, and whether the path of the control socket fits (unix(7))."""
    try:
        check_folder(at.folder)
    except RunDirError as error:
        yield Finding("run directory", "failed", str(error))
    except FileNotFoundError:
        there = next(folder for folder in at.folder.parents if os.path.lexists(folder))
        if reason := unwritable_folder(there):
            yield Finding("run directory", "failed", str(RunDirError(str(at.folder), reason, FOLDER_CURE)))
    except OSError as error:
        reason = error.strerror or str(error)
        yield Finding("run directory", "failed", str(RunDirError(str(at.folder), reason, FOLDER_CURE)))
    length = len(os.fsencode(at.socket))
    if length > MAX_SOCKET_PATH_BYTES:
        facts = f"the path {visible(at.socket)} has {length} bytes, a socket may have {MAX_SOCKET_PATH_BYTES}"
        yield Finding("run directory", "failed", f"{facts}; set `control_socket` to a shorter one")


def control_findings(loaded: Loaded, at: Paths) -> Iterator[Finding]:
    """See whether the control socket can be made in its place, and whether a group that it is for would find it."""
    from wsworker.kinds import GROUP_MODE

    config, place = loaded.config, loaded.place("control_socket")
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(at.socket.lstat().st_mode):
            facts = f"{visible(at.socket)} is in the place of the control socket; remove it, or change `control_socket`"
            yield Finding("control socket", "failed", f"{place}: {facts}")
    own = at.socket.parent != at.folder
    if own and (reason := unwritable_folder(at.socket.parent)):
        facts = f"cannot make the control socket {visible(at.socket)}: {reason}; change `control_socket`"
        yield Finding("control socket", "failed", f"{place}: {facts}")
    if config.control_socket_mode == GROUP_MODE and not own and not at.folder.is_relative_to(UNITS_FOLDER):
        facts = (
            f"control_socket_mode 0660 has no effect: commands of other users do not look into {visible(at.folder)}; "
            f"set `control_socket`, or start it by a unit with its RuntimeDirectory below {UNITS_FOLDER}"
        )
        yield Finding("control socket", "warning", f"{loaded.place('control_socket_mode')}: {facts}")


# Rights


def user_findings(loaded: Loaded) -> Iterator[Finding]:
    """See whether workers can become who they are to be; nothing to say if they can. As root, the import tells."""
    from wsworker.master.preconditions import CANNOT_BECOME, can_become
    from wsworker.master.process import identity

    if not can_become(identity(loaded.config)):
        key = "user" if loaded.config.user else "group"
        yield Finding(key, "failed", f"{loaded.place(key)}: {CANNOT_BECOME}")


# Limits


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
