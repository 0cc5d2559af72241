"""From config.yaml, the environment and flags to a Config, or to every problem with its place.

Precedence: flag, environment, file, default. Each source is read as YAML, each key is matched with config.KEYS, the
winner of each key is judged by config.validate, and what only the system can say (does that user exist, is the folder
there) is asked last. All of these collect problems and go on, so that one start shows all that has to be put right.

A problem of the file has a line, a column and the line itself; one of a variable or a flag has its name only.

Clients such as `wsworker status` need no more than the path of a socket. They call peek, which reads the file but loads
neither the models nor pydantic: that would be half of the time such a command may take.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from wsworker import spelling, values, yamlfile
from wsworker.errors import ConfigError, Problem
from wsworker.yamlfile import Items, Node, Scalar, Spot, Table, Unreadable

if TYPE_CHECKING:
    from wsworker.config import Config, Mistake

MAX_FILE_BYTES: Final = 256 * 1024
"""A master that reloads reads it in one go."""
MAX_EXCERPT_CHARS: Final = 200
MAX_ADVICE: Final = 100
WORKING_FILE: Final = Path("config.yaml")
SYSTEM_FILE: Final = Path("/etc/wsworker/config.yaml")
PREFIX: Final = "WSWORKER_"
# 022, 0o022 and "0022" are one mode to people, but 22, 18 and a text to YAML: the model gets what was written
AS_WRITTEN: Final = ("umask", "tls.min_version")


@dataclass(frozen=True)
class Origin:
    """Where a value was set: a file, a variable or a flag; line and column count from 1, or are 0."""

    place: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.place}:{self.line}:{self.column}" if self.line else self.place


@dataclass(frozen=True)
class Loaded:
    """A Config and where it came from.

    path: absolute; shown: the path as the user gave it; origins: a key that is missing here has its default.
    """

    config: Config
    path: Path
    shown: str
    origins: Mapping[str, Origin]

    def place(self, key: str) -> str:
        """Return "config.yaml:3:9", "environment WSWORKER_LISTEN", "flag -b" or "default"; key: one of config.KEYS."""
        return str(self.origins.get(key, "default"))


@dataclass(frozen=True)
class Peek:
    """What a client needs to find the master; control_socket is "auto" or an absolute path."""

    name: str
    control_socket: str


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """Return the config file to use: -c, else $WSWORKER_CONFIG, else ./config.yaml, else the system's.

    The first two are not looked at here. Raises ConfigError when neither is given and neither of the last two is there.
    """
    if named := explicit or environ.get("WSWORKER_CONFIG"):
        return Path(named)
    for path in (WORKING_FILE, SYSTEM_FILE):
        if path.exists():
            return path
    message = f"no such file, and no {SYSTEM_FILE}; name your config file with -c FILE or in WSWORKER_CONFIG"
    raise ConfigError(str(WORKING_FILE), (Problem(str(WORKING_FILE), 0, 0, message),))


def load(path: Path, environ: Mapping[str, str], flags: Mapping[str, tuple[str, str]]) -> Loaded:
    """Read all sources and return the Config with its origins.

    flags: from a key of config.KEYS to the flag as typed, such as "-w", and its value as YAML.
    Raises ConfigError with every problem, those of the file first and in the order of its lines.
    """
    # here and not above: peek shares this module and must not load pydantic
    from wsworker.config import KEYS

    gathering = _Gathering(_read_file(path), tuple(KEYS))
    gathering.take_file()
    gathering.take_environment(environ)
    gathering.take_flags(flags)
    loaded = gathering.judge(path.absolute())
    if loaded is None:
        problems = sorted(gathering.problems, key=lambda problem: (not problem.line, problem.line, problem.column))
        raise ConfigError(str(path), tuple(problems))
    return loaded


def peek(path: Path, environ: Mapping[str, str]) -> Peek:
    """Return name and control socket as load would, without judging anything else.

    A name that load refuses is returned all the same: no master runs under it. Raises ConfigError if the file cannot be
    read or is no YAML.
    """
    source = _read_file(path)
    document = yamlfile.read(source.text)
    if document.root is None and document.faults:
        raise ConfigError(str(path), tuple(source.problem(fault.spot, fault.message) for fault in document.faults))
    entries = document.root.entries if isinstance(document.root, Table) else {}

    def text_of(key: str) -> str:
        variable = _variable(key)
        if variable in environ:
            node = yamlfile.read(environ[variable]).root
        else:
            node = entries[key].node if key in entries else None
        return node.text if isinstance(node, Scalar) and node.value is not None else ""

    folder = path.absolute().parent
    socket = text_of("control_socket") or "auto"
    return Peek(
        name=text_of("name") or folder.name,
        control_socket=socket if socket == "auto" else values.path(socket, str(folder)),
    )


@dataclass(frozen=True)
class _Source:
    """One text that settings come from; a variable or a flag has no lines to point at."""

    place: str
    text: str
    has_lines: bool = False

    def problem(self, spot: Spot, message: str) -> Problem:
        if not self.has_lines:
            return Problem(self.place, 0, 0, message)
        line = self._lines[spot.line - 1]
        width = max(1, min(spot.width, len(line) - spot.column + 1))
        # a line that could steer the terminal or fill the screen is not worth it
        shown = line if len(line) <= MAX_EXCERPT_CHARS else ""
        excerpt = "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in shown)
        return Problem(self.place, spot.line, spot.column, message, excerpt, width)

    @cached_property
    def _lines(self) -> list[str]:
        return yamlfile.lines(self.text)

    def origin(self, spot: Spot) -> Origin:
        return Origin(self.place, spot.line, spot.column) if self.has_lines else Origin(self.place)


@dataclass(frozen=True)
class _Given:
    """A value that some source gives for a key."""

    source: _Source
    node: Node

    def problem(self, message: str, item: int | None = None) -> Problem:
        node = self.node
        if item is not None and isinstance(node, Items):
            node = node.nodes[item]
        return self.source.problem(node.spot, message)


class _Gathering:
    """Collects what is given for each key, later sources over earlier ones, and all problems."""

    def __init__(self, file: _Source, keys: tuple[str, ...]) -> None:
        self.file = file
        self.keys = keys
        self.sections = {key.partition(".")[0] for key in keys if "." in key}
        self.given: dict[str, _Given] = {}
        self.problems: list[Problem] = []
        self.file_is_lost = False

    def take_file(self) -> None:
        document = yamlfile.read(self.file.text)
        self.problems += (self.file.problem(fault.spot, fault.message) for fault in document.faults)
        match document.root:
            case Table() as table:
                self.take_table(table)
            case None | Unreadable():
                self.file_is_lost = bool(document.faults)
            case Scalar(value=None):  # a lone `---`
                pass
            case other:
                self.file_is_lost = True
                self.problems.append(self.file.problem(other.spot, "a config file holds lines such as `app: hello`"))

    def take_table(self, table: Table) -> None:
        for name, entry in table.entries.items():
            if name in self.sections:
                self.take_section(name, entry.node)
            else:
                self.take_entry(name, entry, known=name in self.keys and "." not in name)

    def take_section(self, section: str, node: Node) -> None:
        match node:
            case Table():
                for name, entry in node.entries.items():
                    self.take_entry(f"{section}.{name}", entry, known=f"{section}.{name}" in self.keys)
            case Scalar(value=None) | Unreadable():  # a section whose keys are all commented out is empty
                pass
            case _:
                message = f"{section} is a section; put its keys on lines of their own below it, indented"
                self.problems.append(self.file.problem(node.spot, message))

    def take_entry(self, key: str, entry: yamlfile.Entry, known: bool) -> None:
        if known:
            self.given[key] = _Given(self.file, entry.node)
        else:
            # a file of many thousand such lines is none of ours, and a master that reloads must not ponder over it
            advice = spelling.advice(key, self.keys) if len(self.problems) < MAX_ADVICE else "remove it"
            self.problems.append(self.file.problem(entry.spot, f"unknown key {values.shown(key)}; {advice}"))

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for variable in sorted(environ):
            if (
                not variable.startswith(PREFIX)
                or variable == "WSWORKER_CONFIG"
                or variable.startswith("WSWORKER_TEST_")
            ):
                continue
            key = variable.removeprefix(PREFIX).lower().replace("__", ".")
            source = _Source(f"environment {variable}", environ[variable])
            if key not in self.keys:
                message = f"unknown variable; {spelling.advice(key, self.keys, written=_variable)}"
                self.problems.append(Problem(source.place, 0, 0, message))
            elif variable != _variable(key):
                self.problems.append(Problem(source.place, 0, 0, f"unknown variable; did you mean {_variable(key)}?"))
            else:
                self.take_text(key, source)
        if "workers" not in self.given and environ.get("WEB_CONCURRENCY"):
            self.take_text("workers", _Source("environment WEB_CONCURRENCY", environ["WEB_CONCURRENCY"]))

    def take_flags(self, flags: Mapping[str, tuple[str, str]]) -> None:
        for key, (flag, text) in flags.items():
            self.take_text(key, _Source(f"flag {flag}", text))

    def take_text(self, key: str, source: _Source) -> None:
        document = yamlfile.read(source.text)
        self.problems += (source.problem(fault.spot, fault.message) for fault in document.faults)
        nothing = Unreadable(Spot(1, 1)) if document.faults else Scalar(Spot(1, 1), "", None)
        self.given[key] = _Given(source, document.root or nothing)

    def judge(self, path: Path) -> Loaded | None:
        """Judge what was gathered; returns None if there is any problem, and then problems is complete."""
        # here for the same reason as in load
        from wsworker.config import Config, validate

        if self.file_is_lost:
            return None
        spoilt = {key for key, given in self.given.items() if not _readable(given.node)}
        raw = {key: _raw(key, given.node) for key, given in self.given.items() if key not in spoilt}
        name_is_default = not raw.get("name") and "name" not in spoilt
        if name_is_default:
            raw["name"] = path.parent.name
        judged = validate(raw, str(path.parent))
        wrong = set(spoilt)
        for mistake in [] if isinstance(judged, Config) else judged:
            if mistake.key not in spoilt:
                self.take_mistake(mistake, name_is_default)
                wrong.add(mistake.key)
        self.ask_system({key: value for key, value in raw.items() if key not in wrong}, path)
        if self.problems:
            return None
        assert isinstance(judged, Config)
        origins = {key: given.source.origin(given.node.spot) for key, given in self.given.items()}
        return Loaded(judged, path, self.file.place, MappingProxyType(origins))

    def take_mistake(self, mistake: Mistake, name_is_default: bool) -> None:
        if mistake.key == "name" and name_is_default:
            message = f"{mistake.message}, the name of this folder; set `name`"
            self.problems.append(Problem(self.file.place, 1, 1, message))
        elif mistake.key in self.given:
            self.problems.append(self.given[mistake.key].problem(mistake.message, mistake.item))
        else:
            self.problems.append(Problem(self.file.place, 1, 1, mistake.message))

    def ask_system(self, raw: Mapping[str, object], file: Path) -> None:
        """Check what no look at the text can tell. raw: values that are right as text; file: the config file."""
        for key, lookup in _ACCOUNTS.items():
            name = raw.get(key)
            if isinstance(name, str) and not _exists(lookup, name):
                message = f"unknown {key} {values.shown(name)}; create it, or remove `{key}`"
                self.problems.append(self.given[key].problem(message))
        for key in ("app_dir", "http.static"):
            folder = raw.get(key)
            if isinstance(folder, str) and not os.path.isdir(full := values.path(folder, str(file.parent))):
                self.problems.append(self.given[key].problem(f"no directory {full}; create it or correct {key}"))
            elif key == "http.static" and isinstance(folder, str):
                self.look_into_site(raw, full, file)

    def look_into_site(self, raw: Mapping[str, object], site: str, file: Path) -> None:
        """Refuse a folder of files for everybody that holds files which are for nobody. site: absolute."""
        for what, path in _private_files(raw, file):
            if _is_below(path, site):
                message = f"{site} holds {what}, {path}, which must not be served; give the files a folder of their own"
                self.problems.append(self.given["http.static"].problem(message))
                return


def _private_files(raw: Mapping[str, object], file: Path) -> Iterator[tuple[str, str]]:
    """Yield what a client must never be sent, in words and as an absolute path that need not exist."""
    folder = str(file.parent)
    yield "this config file", str(file)
    app_dir = values.path(str(raw.get("app_dir", ".")), folder)
    yield "app_dir", app_dir
    module = os.path.join(app_dir, *str(raw.get("app", "")).partition(":")[0].split("."))
    package = os.path.join(module, "__init__.py")
    # as Python looks for them
    yield "the app", package if os.path.exists(package) else f"{module}.py"
    for key in ("tls.keyfile", "tls.certfile", "log.file"):
        if isinstance(path := raw.get(key), str):
            yield key, values.path(path, folder)


def _is_below(path: str, folder: str) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath((real, root)) == root


_ACCOUNTS: Final[Mapping[str, Callable[[str], object]]] = {"user": pwd.getpwnam, "group": grp.getgrnam}


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
    except KeyError:
        return False
    return True


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def _readable(node: Node) -> bool:
    match node:
        case Items():
            return all(map(_readable, node.nodes))
        case Table():
            return all(_readable(entry.node) for entry in node.entries.values())
        case _:
            return isinstance(node, Scalar)


def _raw(key: str, node: Node) -> object:
    """Return a readable node as plain Python; lists become tuples, as validate wants them."""
    match node:
        case Scalar():
            return node.text if key in AS_WRITTEN else node.value
        case Items():
            return tuple(_raw(key, item) for item in node.nodes)
        case Table():
            return {name: _raw(key, entry.node) for name, entry in node.entries.items()}
        case Unreadable():
            raise AssertionError("judge leaves out what is unreadable")


def _read_file(path: Path) -> _Source:
    """Return the text of the file; raises ConfigError with the one reason why there is none."""
    place = str(path)
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                message = "this is no regular file, so a reload could not read it again; name another with -c FILE"
                raise ConfigError(place, (Problem(place, 0, 0, message),))
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(place, (Problem(place, 0, 0, _reason(error)),)) from None
    if len(data) > MAX_FILE_BYTES:
        message = "larger than 256 KiB, so it is no config file; name another with -c FILE"
        raise ConfigError(place, (Problem(place, 0, 0, message),))
    try:
        # utf-8-sig: some editors put a byte order mark first, and columns are to count without it
        return _Source(place, data.decode("utf-8-sig"), has_lines=True)
    except UnicodeDecodeError as error:
        # error.object, and not data, is what error.start counts in: it has no byte order mark
        before = yamlfile.lines(error.object[: error.start].decode())
        spot = Spot(len(before), len(before[-1]) + 1)
        message = f"the byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(place, (Problem(place, spot.line, spot.column, message),)) from None


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe must not keep the master waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _reason(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "no such file; create it, or name another with -c FILE"
        case IsADirectoryError():
            return "this is a directory; name the file in it with -c FILE"
        case PermissionError():
            return "no permission to read it; change its rights, or run as a user who may"
        case _:
            return f"cannot be read ({error.strerror}); name another file with -c FILE"
