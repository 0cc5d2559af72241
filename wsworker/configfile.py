"""From config.yaml, the environment and flags to a Config, or to every problem with its place.

Precedence: flag, environment, file, default. Each source is read as YAML, each key is matched with config.KEYS, the
winner of each key is judged by judging.validate, and what only the system can say (does that user exist, is the folder
there) is asked last. All of these collect problems and go on, so that one start shows all that has to be put right.

A problem of the file has a line, a column and the line itself; one of a variable or a flag has its name only.

Clients such as `wsworker status` need no more than the path of a socket. They call peek, which reads the file but loads
neither the models nor pydantic: that would be half of the time such a command may take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from wsworker import spelling, surroundings, values, yamlfile
from wsworker.errors import ConfigError, Problem
from wsworker.source import Origin, Source, read_file
from wsworker.yamlfile import Items, Node, Scalar, Spot, Table, Unreadable

if TYPE_CHECKING:
    from wsworker.config import Config
    from wsworker.judging import Mistake

Value = TypeVar("Value")

MAX_ADVICE: Final = 100
WORKING_FILE: Final = Path("config.yaml")
SYSTEM_FILE: Final = Path("/etc/wsworker/config.yaml")
PREFIX: Final = "WSWORKER_"
# 022, 0o022 and "0022" are one mode to people, but 22, 18 and a text to YAML: the model gets what was written
AS_WRITTEN: Final = ("umask", "control_socket_mode", "tls.min_version")
# a password may be in it
SECRETIVE: Final = ("bus.url",)
# in a variable chat: needs no quotes, though it is a mapping to YAML
ENDS_AS_A_KEY: Final = ("bus.prefix",)


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


@dataclass(frozen=True)
class PeekedBus:
    """What a program needs to publish at the broker of a service: bus.url, bus.prefix and bus.max_message."""

    url: str
    prefix: str
    max_message: int


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """Return the config file to use: -c, else $WSWORKER_CONFIG, else ./config.yaml, else the system's.

    The first two are not looked at here. Raises ConfigError when neither is given and neither of the last two is there.
    """
    if explicit is not None:
        return Path(explicit)
    if named := environ.get("WSWORKER_CONFIG"):
        return Path(named)
    for path in (WORKING_FILE, SYSTEM_FILE):
        if _is_there(path):
            return path
    message = f"no such file, and no {SYSTEM_FILE}; name your config file with -c FILE or in WSWORKER_CONFIG"
    raise ConfigError(str(WORKING_FILE), (Problem(str(WORKING_FILE), 0, 0, message),))


def objection(asked: str, runs_with: str, name: str) -> str:
    """Return why a service does not do what the user of a config file asks, as it is another one of that name, or "".

    asked: the real path of that file, or "" if nobody has read one; runs_with: the path of the file of the service. A
    file of its own that was moved must not keep anybody from stopping it. A file that is not there for the one who
    judges was read in another container, and may well be the same.
    """
    if not asked or not os.path.isfile(runs_with):
        return ""
    try:
        # samefile for links, realpath for a file in a folder that is closed to us
        is_other = os.path.realpath(runs_with) != asked and not os.path.samefile(runs_with, asked)
    except FileNotFoundError:
        is_other = False
    except (OSError, ValueError):
        is_other = True
    cure = "give this one its own `name`, or name that file with -c"
    return f"{name} runs with {runs_with}; {cure}" if is_other else ""


def load(path: Path, environ: Mapping[str, str], flags: Mapping[str, tuple[str, str]]) -> Loaded:
    """Read all sources and return the Config with its origins.

    flags: from a key of config.KEYS to the flag as typed, such as "-w", and its value as YAML.
    Raises ConfigError with every problem, those of the file first and in the order of its lines.
    """
    # here and not above: peek shares this module and must not load pydantic
    from wsworker.config import KEYS

    gathering = _Gathering(read_file(path), tuple(KEYS))
    gathering.take_file()
    gathering.take_environment(environ)
    gathering.take_flags(flags)
    loaded = gathering.judge(_absolute(path))
    if loaded is None:
        problems = sorted(gathering.problems, key=lambda problem: (not problem.line, problem.line, problem.column))
        raise ConfigError(str(path), tuple(problems))
    return loaded


def peek(path: Path, environ: Mapping[str, str]) -> Peek:
    """Return name and control socket as load would, without judging anything else.

    A name that load refuses is returned all the same: no master runs under it. A file that is no YAML counts as far as
    it is. Raises ConfigError if it cannot be read, or no name is given so far.
    """
    source = read_file(path)
    document = yamlfile.read(source.text)
    entries = _entries(document)
    if document.root is None and document.faults:
        broken = document.faults[0]
        entries = _entries(yamlfile.read("\n".join(yamlfile.lines(source.text)[: broken.spot.line - 1])))
        # that of the folder is none, as another may stand below; if only control_socket does, the lock still tells
        if "name" not in entries and _variable("name") not in environ:
            raise ConfigError(str(path), tuple(source.problem(fault.spot, fault.message) for fault in document.faults))

    def text_of(key: str) -> str:
        variable = _variable(key)
        if variable in environ:
            node = yamlfile.read(environ[variable]).root
        else:
            node = entries[key].node if key in entries else None
        return node.text if isinstance(node, Scalar) and node.value is not None else ""

    folder = _absolute(path).parent
    socket = text_of("control_socket") or "auto"
    return Peek(
        name=text_of("name") or folder.name,
        control_socket=socket if socket == "auto" else values.path(socket, str(folder)),
    )


def peek_bus(path: Path | None, environ: Mapping[str, str]) -> PeekedBus:
    """Return where the broker of a service is, without judging anything else.

    path: None if there is no file, and the environment has it all. Raises ConfigError if the file cannot be read, or
    one of these values is missing or wrong.
    """
    file = read_file(path) if path else Source("environment WSWORKER_BUS__URL", "")
    section = _entries(_document(file)).get("bus")
    entries = section.node.entries if section and isinstance(section.node, Table) else {}

    def value_of(key: str, default: str, reader: Callable[[str], Value]) -> Value:
        variable = _variable(f"bus.{key}")
        source, node = file, entries[key].node if key in entries else None
        if variable in environ:
            source = Source(f"environment {variable}", environ[variable])
            node = _node(f"bus.{key}", _document(source).root, source)
        message = f"bus.{key} is a single value"
        try:
            match node:
                case None | Scalar(value=None):
                    return reader(default)
                case Scalar(text=text):
                    return reader(text)
        except ValueError as error:
            message = values.refusal(f"bus.{key}", error)
        is_secret = f"bus.{key}" in SECRETIVE
        problem = source.problem(node.spot, message, is_secret) if node else Problem(source.place, 0, 0, message)
        raise ConfigError(source.place, (problem,))

    return PeekedBus(
        url=value_of("url", "", _broker),
        prefix=value_of("prefix", "wsworker:", values.prefix),
        max_message=value_of("max_message", "1MiB", _size),
    )


@dataclass(frozen=True)
class _Given:
    """A value that some source gives for a key."""

    key: str
    source: Source
    node: Node

    def problem(self, message: str, item: int | None = None) -> Problem:
        node = self.node
        if item is not None and isinstance(node, Items):
            node = node.nodes[item]
        return self.source.problem(node.spot, message, is_secret=self.key in SECRETIVE)


class _Gathering:
    """Collects what is given for each key, later sources over earlier ones, and all problems."""

    def __init__(self, file: Source, keys: tuple[str, ...]) -> None:
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
                if section in spelling.SYNONYMS:
                    message += f", or did you mean {spelling.SYNONYMS[section]!r}?"
                self.problems.append(self.file.problem(node.spot, message))

    def take_entry(self, key: str, entry: yamlfile.Entry, known: bool) -> None:
        if known:
            self.given[key] = _Given(key, self.file, entry.node)
        else:
            # a file of many thousand such lines is none of ours, and a master that reloads must not ponder over it
            advice = spelling.advice(key, self.keys) if len(self.problems) < MAX_ADVICE else "remove it"
            self.problems.append(self.file.problem(entry.spot, f"unknown key {values.shown(key)}; {advice}"))

    def take_environment(self, environ: Mapping[str, str]) -> None:
        ours = [variable for variable in sorted(environ) if variable.startswith(PREFIX) and not _reserved(variable)]
        links = [variable for variable in ours if spelling.is_service_link(variable, environ[variable])]
        if links:
            more = f", and {len(links) - 1} more" if len(links) > 1 else ""
            message = (
                f"set by Kubernetes{more}, because a Service is called wsworker; "
                "write `enableServiceLinks: false` into the spec of the pod"
            )
            self.problems.append(Problem(f"environment {links[0]}", 0, 0, message))
        for variable in ours:
            if variable in links:
                continue
            key = variable.removeprefix(PREFIX).lower().replace("__", ".")
            source = Source(f"environment {variable}", environ[variable])
            if key not in self.keys:
                message = f"unknown variable; {spelling.advice(key, self.keys, written=_variable)}"
                self.problems.append(Problem(source.place, 0, 0, message))
            elif variable != _variable(key):
                self.problems.append(Problem(source.place, 0, 0, f"unknown variable; did you mean {_variable(key)}?"))
            else:
                self.take_text(key, source)
        if "workers" not in self.given and environ.get("WEB_CONCURRENCY"):
            self.take_text("workers", Source("environment WEB_CONCURRENCY", environ["WEB_CONCURRENCY"]))

    def take_flags(self, flags: Mapping[str, tuple[str, str]]) -> None:
        for key, (flag, text) in flags.items():
            self.take_text(key, Source(f"flag {flag}", text))

    def take_text(self, key: str, source: Source) -> None:
        document = yamlfile.read(source.text)
        self.problems += (source.problem(fault.spot, fault.message) for fault in document.faults)
        nothing = Unreadable(Spot(1, 1)) if document.faults else Scalar(Spot(1, 1), "", None)
        self.given[key] = _Given(key, source, _node(key, document.root, source) or nothing)

    def judge(self, path: Path) -> Loaded | None:
        """Judge what was gathered; returns None if there is any problem, and then problems is complete."""
        # here for the same reason as in load
        from wsworker.config import Config
        from wsworker.judging import validate

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
        for key, message in surroundings.objections({key: raw[key] for key in raw.keys() - wrong}, path):
            self.problems.append(self.given[key].problem(message))
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


def _document(source: Source) -> yamlfile.Document:
    """Read a text. Raises ConfigError with all that is wrong with it as YAML."""
    document = yamlfile.read(source.text)
    if document.faults:
        raise ConfigError(source.place, tuple(source.problem(fault.spot, fault.message) for fault in document.faults))
    return document


def _node(key: str, root: Node | None, source: Source) -> Node | None:
    """Return what a variable or a flag gives for a key. root: of its text as YAML."""
    if key in ENDS_AS_A_KEY and isinstance(root, Table):
        return Scalar(Spot(1, 1), source.text, source.text)
    return root


def _broker(url: str) -> str:
    """Return the URL as it was written. Raises ValueError."""
    if not url:
        raise ValueError("no broker is set, so there is none to publish at; name it with --url, or set this")
    values.broker_url(url)
    return url


def _size(text: str) -> int:
    size = values.size(text)
    assert isinstance(size, int), "it is text that was read"
    return size


def _is_there(path: Path) -> bool:
    """Whether a file is there, or might be: of one in a folder that is closed to us, reading it says why."""
    try:
        return path.exists()
    except OSError:
        return True


def _absolute(path: Path) -> Path:
    """Return the path from the root on and without "..", which would be the name of a folder, and so of a service."""
    return Path(os.path.normpath(path.absolute()))


def _reserved(variable: str) -> bool:
    return variable == "WSWORKER_CONFIG" or variable.startswith("WSWORKER_TEST_")


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def _entries(document: yamlfile.Document) -> Mapping[str, yamlfile.Entry]:
    return document.root.entries if isinstance(document.root, Table) else {}


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
