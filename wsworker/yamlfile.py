"""YAML 1.2 text -> a tree that knows where each word stands, and everything wrong with the text as YAML.

PyYAML finds the words (with libyaml where it is there); what they mean is decided here, because its own rules are those
of YAML 1.1, where `umask: 022` is 18, `22:22` is 1342, `on` is true and the last of two equal keys wins in silence.
Here the core schema of YAML 1.2.2 section 10.3 holds, less infinities and not-a-number, which no setting takes.

We read events, not the nodes of compose(): nodes have lost anchors and aliases, and compose() recurses as deep as the
text says. A configuration needs no anchor, alias, tag, merge key, second document or depth, so each of them is a fault.
A fault that spoils one value leaves Unreadable in its place and reading goes on, so that all faults are told at once;
after a fault in the syntax nothing can be read, and there is no root.

Lines and columns count from 1, columns in characters. Messages are one sentence each, with the next step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from wsworker.brokers import hide_secrets

MAX_DEPTH: Final = 8  # two levels of keys and a list are three; libyaml's time grows with the square of the depth
NO_TAG: Final = "a tag (!) is not supported; remove it, or quote a value that starts with !"
LOADER: Final[Any] = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

Plain: TypeAlias = bool | int | float | str | None

# YAML 1.2.2 section 5.1, less U+FEFF, which libyaml takes at the start of a file only
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# at most 18 digits: Python refuses to convert thousands of them, and no setting is that large
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_OCTAL = re.compile(r"0o[0-7]{1,18}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_BARE_IPV6 = re.compile(r"\[[0-9a-fA-F:]*\]:[0-9]")


@dataclass(frozen=True)
class Spot:
    """Where something stands; width is how many characters of that line it takes, at least 1."""

    line: int
    column: int
    width: int = 1


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the text as YAML."""

    spot: Spot
    message: str


@dataclass(frozen=True)
class Scalar:
    """One word: its text without quotes, and what it means."""

    spot: Spot
    text: str
    value: Plain


@dataclass(frozen=True)
class Unreadable:
    """The place of a value that a fault has spoilt."""

    spot: Spot


@dataclass(frozen=True)
class Items:
    """A list."""

    spot: Spot
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Entry:
    """A key and its value."""

    spot: Spot
    node: Node


@dataclass(frozen=True)
class Table:
    """A mapping; keys are the text of their scalars, so `on` is "on" and `1` is "1"."""

    spot: Spot
    entries: Mapping[str, Entry]


Node: TypeAlias = Scalar | Unreadable | Items | Table


@dataclass(frozen=True)
class Document:
    """What was read. root is None when the text is empty or its syntax is broken; faults stand in reading order."""

    root: Node | None
    faults: tuple[Fault, ...]


def read(text: str) -> Document:
    """Read one YAML document; a wrong text gives faults, never an exception."""
    if match := _FORBIDDEN.search(text):
        spot = _spot_at(text, match.start())
        return Document(None, (Fault(spot, f"the character U+{ord(match[0]):04X} is not allowed in YAML; remove it"),))
    reader = _Reader(yaml.parse(text, Loader=LOADER))
    try:
        root = reader.document()
    except yaml.MarkedYAMLError as error:
        return Document(None, (_syntax_fault(error, lines(text)),))
    except _Stop as stop:
        return Document(None, (stop.fault,))
    return Document(root, tuple(reader.faults))


def lines(text: str) -> list[str]:
    """Return the lines of a text as YAML counts them, without their ends."""
    return _LINE_END.split(text)


def meaning(text: str) -> Plain:
    """Return what a word without quotes means in the core schema of YAML 1.2.2, section 10.3.2."""
    # the schema has Null, NULL, True and TRUE too; one spelling is enough, and the others show up as a slip
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


class _Stop(Exception):
    """A fault behind which reading makes no sense."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass
class _Reader:
    """Builds the tree from PyYAML's events; each method takes what its name says off the stream."""

    events: Iterator[Event]
    faults: list[Fault] = field(default_factory=list)

    def document(self) -> Node | None:
        root: Node | None = None
        starts = (event for event in self.events if isinstance(event, DocumentStartEvent))
        for number, start in enumerate(starts):
            if number:
                message = "a second document starts here; put everything into one and remove the `---`"
                raise _Stop(Fault(_spot(start), message))
            root = self.node(next(self.events), ())
            assert isinstance(next(self.events), DocumentEndEvent)
        return root

    def node(self, event: Event, path: tuple[str, ...]) -> Node:
        """Read the node that begins with this event; path: the keys above it."""
        spot = _spot(event)
        if len(path) > MAX_DEPTH:
            raise _Stop(Fault(spot, f"nested more than {MAX_DEPTH} levels deep; settings need three"))
        if isinstance(event, AliasEvent):
            # its name may be a password that begins with *
            return self.spoilt(spot, "an alias (*) is not supported; write the value, or quote the *")
        assert isinstance(event, ScalarEvent | SequenceStartEvent | MappingStartEvent)
        if event.anchor is not None:
            self.fault(spot, "an anchor (&) is not supported; remove it, or quote a value that starts with &")
        node = self.untagged(event, spot, path)
        if event.tag is not None:
            return self.spoilt(spot, NO_TAG)
        return node

    def untagged(self, event: Event, spot: Spot, path: tuple[str, ...]) -> Node:
        match event:
            case ScalarEvent():
                return self.scalar(event, spot)
            case SequenceStartEvent():
                return self.items(spot, path)
            case _:
                return self.table(spot, path)

    def scalar(self, event: ScalarEvent, spot: Spot) -> Scalar | Unreadable:
        text = event.value
        if "\n" in text:
            return self.spoilt(spot, "the value has several lines; write it on one")
        # a character that prints nothing hides something from the reader, and could steer the terminal
        if odd := next((char for char in text if not char.isprintable()), None):
            return self.spoilt(spot, f"the value holds U+{ord(odd):04X}, which cannot be printed; remove it")
        plain = event.style is None or event.style == ""
        return Scalar(spot, text, meaning(text) if plain else text)

    def items(self, spot: Spot, path: tuple[str, ...]) -> Items:
        nodes = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            nodes.append(self.node(event, (*path, "")))
        return Items(spot, tuple(nodes))

    def table(self, spot: Spot, path: tuple[str, ...]) -> Table:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.node(event, (*path, ""))
            if not isinstance(key, Scalar):
                if not isinstance(key, Unreadable):
                    self.fault(key.spot, "a key is one word; quote it if it starts with [ or {")
                self.node(next(self.events), (*path, ""))
                continue
            node = self.node(next(self.events), (*path, key.text))
            self.add(entries, key, node, path)
        return Table(spot, entries)

    def add(self, entries: dict[str, Entry], key: Scalar, node: Node, path: tuple[str, ...]) -> None:
        if key.text == "<<":
            self.fault(key.spot, "merging with << is not supported; write the keys out")
        elif key.text in entries:
            name = ".".join(filter(None, (*path, key.text)))
            self.fault(key.spot, f"duplicate key {hide_secrets(name)!r} (first on line {entries[key.text].spot.line})")
        else:
            entries[key.text] = Entry(key.spot, node)

    def spoilt(self, spot: Spot, message: str) -> Unreadable:
        self.fault(spot, message)
        return Unreadable(spot)

    def fault(self, spot: Spot, message: str) -> None:
        self.faults.append(Fault(spot, message))


def _spot(event: Event) -> Spot:
    start, end = event.start_mark, event.end_mark
    assert start is not None
    assert end is not None
    # of a value over several lines the first character is shown
    width = end.column - start.column if end.line == start.line else 1
    return Spot(start.line + 1, start.column + 1, max(1, width))


def _spot_at(text: str, index: int) -> Spot:
    before = lines(text[:index])
    return Spot(len(before), len(before[-1]) + 1)


def _syntax_fault(error: yaml.MarkedYAMLError, source: list[str]) -> Fault:
    """Say where PyYAML lost its way and, for the slips that everybody makes once, what to write instead."""
    unclosed = error.context == "while scanning a quoted scalar" and "end of stream" in str(error.problem)
    mark = error.context_mark if unclosed else error.problem_mark
    assert mark is not None
    # libyaml puts the end of the file on a line of its own
    number, column = (mark.line, mark.column) if mark.line < len(source) else (len(source) - 1, len(source[-1]))
    line = source[number]
    spot = Spot(number + 1, column + 1)
    if unclosed:
        return Fault(spot, "this quote is never closed; close it, or quote the whole value with the other kind")
    if line[column : column + 1] == "\t":
        return Fault(spot, "a tab cannot indent in YAML; use spaces")
    if _BARE_IPV6.search(line):
        return Fault(spot, 'an IPv6 address needs quotes in YAML: "[::]:2346"')
    if error.context == "while scanning an alias":
        return Fault(spot, 'a * needs quotes in YAML: "*"')
    if "undefined tag handle" in str(error.problem):
        return Fault(spot, NO_TAG)
    if "sequence entries are not allowed" in str(error.problem):
        return Fault(spot, 'a - that starts no list needs quotes in YAML: "-"')
    if "mapping values are not allowed" in str(error.problem):
        return Fault(spot, "either this line is indented too far, or a value that holds `: ` lacks its quotes")
    if "cannot start any token" in str(error.problem):
        return Fault(spot, f"a value cannot start with {line[column : column + 1]} in YAML; quote it")
    since = f", {error.context} from line {error.context_mark.line + 1}" if error.context_mark else ""
    return Fault(spot, f"not valid YAML: {error.problem}{since}")
