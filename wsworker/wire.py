"""Messages between processes: Command and Reply (CLI and master), Order and Report (master and worker).

Both channels are local stream sockets and carry one JSON object a line, with the version of this format in each. JSON,
because a person can read it with nc, and because nothing in it can run code on arrival, as pickle would. A channel's
reader gives what it read to Lines.feed and each line to the decode function of the class it expects; a line that is
not exactly such a message raises WireError, upon which the reader closes that channel and lives on.

Client bytes and published messages never pass through here.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from wsworker.errors import WireError
from wsworker.query import Query, query_of

VERSION = 1
MAX_LINE_BYTES = 64 * 1024
GIVE_TIMEOUTS = 3
"""A worker that is told `give` ends after so many times handover_timeout, however many connections have moved."""
ERROR_CHARACTERS = 1000
"""As much of an exception's own text as a report carries; it may say anything."""

CommandName: TypeAlias = Literal["status", "reload", "rebalance", "upgrade", "stop", "reopen", "connections", "bus"]
OrderName: TypeAlias = Literal["go", "drain", "take", "give", "lend", "recall", "reopen", "list"]
ReportName: TypeAlias = Literal["ready", "failed", "leaving", "rows", "changed", "moved"]
DrainReason: TypeAlias = Literal["", "reload", "replace", "scale", "stop", "quick"]
FailureKind: TypeAlias = Literal["", "app", "boot", "crash"]
Body: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Command:
    """What the CLI asks of the master; quick belongs to stop, query to connections.

    config: the real path of the config file that the caller has read, or "" if it knows the socket alone.
    """

    name: CommandName
    quick: bool = False
    query: Query | None = None
    config: str = ""


@dataclass(frozen=True)
class Reply:
    """What the master answers: progress (final is False) any number of times, then one result.

    body: JSON values only; its keys are those of `--json` in docs/json.md.
    """

    final: bool
    body: Body = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What the master tells a worker.

    go: the listeners listen, accept from now on. drain: leave; why says which close code and pace clients get:
    reload, replace and scale 1012 spread, stop 1001 spread, quick 1001 at once; scale also empties the queue first,
    as nobody follows; its connections move by the pairs that come along. take: connections come by the pair that comes
    along. give: hand connections over by the pairs that come along, and serve on. lend: accept from the listeners of
    another slot too, until recall names that slot. reopen: write the log to the file that comes along. list: report the
    connections that query asks for.
    slot: whose listeners are lent or recalled. fds: how many descriptors come along, by SCM_RIGHTS (unix(7)).
    shares: of each pair, in the order of its descriptors: for drain how much of all it gets, for give how many
    connections, for take about how many come. token: names the list; until: when nobody waits for it any more, seconds
    on CLOCK_MONOTONIC.
    """

    name: OrderName
    why: DrainReason = ""
    slot: int = 0
    fds: int = 0
    token: int = 0
    until: float = 0.0
    query: Query | None = None
    shares: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a worker tells the master.

    ready: it could accept. failed: it exits now; kind is app (import or callback names), boot (anything else before
    ready) or crash (a fault of its loop later on), error one sentence, trace the user's trimmed traceback or "".
    leaving: it was asked to go by a signal from outside and wants a replacement first. rows: some of what the list
    named by token asked for, in its order; total: how many connections fit, shown or not; last: these were the last.
    changed: files of the app or the config are others than it has loaded; error names them, mark is the same in every
    worker that sees them like this. Without names: this is what it is about to load.
    moved: a hand-over is over, see handover.md: total: how many connections have moved; left: those that have not, by
    reason; pause: the longest time that one of them was not read, in seconds; waits: how many could move, if there was
    another taker, as this one has died.
    """

    name: ReportName
    kind: FailureKind = ""
    error: str = ""
    trace: str = ""
    token: int = 0
    total: int = 0
    rows: tuple[Body, ...] = ()
    last: bool = False
    mark: str = ""
    left: Mapping[str, int] = field(default_factory=dict)
    pause: float = 0.0
    waits: int = 0


Message: TypeAlias = Command | Reply | Order | Report

_WORDS = ([(each.name, each.type) for each in (*fields(Order), *fields(Report))], OrderName, ReportName, DrainReason)
CHANNEL = f"{VERSION} {zlib.crc32(repr(_WORDS).encode())}"
"""Tells one vocabulary of orders and reports from another: a master and its workers must have the same."""


class Lines:
    """Cuts a byte stream into lines. limit: the longest line in bytes, so that a peer cannot make us hold more."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """What was fed and is not a whole line yet."""
        return self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that data completes, without newlines; raises WireError once a line is too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._limit or any(len(line) > self._limit for line in lines):
            raise WireError(f"a line is longer than {self._limit} bytes")
        return lines


def encode(message: Message) -> bytes:
    """Return the message as one line, newline included."""
    fields = {"v": VERSION, "type": type(message).__name__.lower()} | vars(message)
    # no \\u escapes for plain text: they would make a long traceback in Cyrillic too long for a line. A lone surrogate
    # has no UTF-8; what backslashreplace makes of it is JSON's escape for it
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False, default=vars)
    return text.encode(errors="backslashreplace") + b"\n"


def decode_command(line: bytes) -> Command:
    """Return the Command in a line; raises WireError for anything else."""
    fields = _fields(line, "command", {"name": str, "quick": bool, "query": object, "config": str})
    name = _one_of(CommandName, fields["name"])
    return Command(name, fields["quick"], _query(fields["query"], name == "connections"), fields["config"])


def decode_reply(line: bytes) -> Reply:
    """Return the Reply in a line; raises WireError for anything else."""
    fields = _fields(line, "reply", {"final": bool, "body": dict})
    return Reply(fields["final"], fields["body"])


def decode_order(line: bytes) -> Order:
    """Return the Order in a line; raises WireError for anything else."""
    shape = {"name": str, "why": str, "slot": int, "fds": int, "token": int, "until": float, "query": object}
    fields = _fields(line, "order", shape | {"shares": list})
    for number in ("slot", "fds"):
        if fields[number] < 0:
            raise WireError(f"{number} is negative")
    if any(type(share) is not int or share < 0 for share in fields["shares"]):
        raise WireError("a share is not a number from 0")
    name, why = _one_of(OrderName, fields["name"]), _one_of(DrainReason, fields["why"])
    query = _query(fields["query"], name == "list")
    shares = tuple(fields["shares"])
    return Order(name, why, fields["slot"], fields["fds"], fields["token"], fields["until"], query, shares)


def decode_report(line: bytes) -> Report:
    """Return the Report in a line; raises WireError for anything else."""
    words: dict[str, type] = {"name": str, "kind": str, "error": str, "trace": str}
    words |= {"token": int, "total": int, "rows": list, "last": bool, "mark": str}
    fields = _fields(line, "report", words | {"left": dict, "pause": float, "waits": int})
    fields["name"] = _one_of(ReportName, fields["name"])
    fields["kind"] = _one_of(FailureKind, fields["kind"])
    fields["rows"] = tuple(fields["rows"])
    if any(type(row) is not dict for row in fields["rows"]):
        raise WireError("a row is not an object")
    if any(type(count) is not int or count < 0 for count in [*fields["left"].values(), fields["waits"]]):
        raise WireError("a count is not a number from 0")
    if not 0 <= fields["pause"] < math.inf:
        raise WireError("a pause is not a number from 0")
    return Report(**fields)


def _query(values: object, wanted: bool) -> Query | None:
    """Return the query in these values, None if none is wanted and none there. Raises WireError for anything else."""
    if values is None and not wanted:
        return None
    if not wanted or not isinstance(values, dict):
        raise WireError("a query is an object, and only to ask for connections")
    try:
        return query_of(values)
    except ValueError as error:
        raise WireError(str(error)) from None


def _fields(line: bytes, kind: str, shape: Mapping[str, type]) -> dict[str, Any]:
    """Return the fields of a message. shape: the type of each; object is any, which you must check."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None
    if not isinstance(fields, dict):
        raise WireError("not an object")
    version = fields.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise WireError(f"version is not {VERSION}")
    if fields.pop("type", None) != kind:
        raise WireError(f"not a {kind}")
    if fields.keys() != shape.keys():
        raise WireError(f"a {kind} has the fields {', '.join(shape)}")
    for name, wanted in shape.items():
        # type() and not isinstance(): a bool is an int to Python, and no field may be both
        if wanted is not object and type(fields[name]) is not wanted:
            raise WireError(f"{name} is not a {wanted.__name__}")
    return fields


def _one_of(names: Any, value: str) -> Any:
    if value not in get_args(names):
        raise WireError(f"{value!r} is none of {', '.join(filter(None, get_args(names)))}")
    return value
