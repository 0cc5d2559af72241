"""The ledger: who has had which message, while connections move from one worker to another. Pure: bytes and numbers.

A connection is in one worker, the giver, and then in another, the taker. Both hear the same publishers, each over a way
of its own, and none of these ways waits for another. So at the moment in which a connection leaves, one of the two may
have received what the other has not. Each publisher counts its messages; the count says which of the two is to deliver.

    exactly once    a connection gets each message of each publisher to its keys, in the order of that publisher. The
                    giver delivers those up to the mark, the taker those above
    the mark        of a publisher and a key: the highest number that the giver had received when the connection froze

This holds because of four things, each of which the model in tests/bus/test_ledger.py finds to be needed:

    1   the giver marks what it receives and what it publishes, from before it tells the taker of its keys. It wants
        each key that it has told until all is over, whoever unsubscribes from it meanwhile
    2   the taker subscribes to these keys and settles (bus.py): it then hears all that is published to them, and has
        received all that was published before. Only from then on they are covered: it logs what comes to them. So
        whatever is in the log, the giver has received after it had begun to mark, or not yet
    3   the giver settles, once they are covered: then it has received, and delivered, all that is not in the log. Only
        now may a connection freeze, and only if each of its keys has been through this. A key that comes later goes
        through it by itself
    4   of what the taker receives after a connection has come, it leaves out what is within the marks of that
        connection: its own way was the slower one. It settles once more before it forgets them

At the moment in which a connection comes, the taker replays to it what is in its log above the marks. Everything that
was published to its keys is then within the marks, or was replayed, or is on its way to the taker.

Marks only grow; so what is within the marks of one connection is within those of all that freeze later, and goes from
the log: forget. A taker that dies takes with it what it has said that it has; the giver keeps the rest, has kept for
each what came since it froze, and begins anew with another taker, with new marks and a new log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, get_args

from wsworker.bus.losses import Gap, Losses
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Kind, Origin, check_name
from wsworker.errors import WireError

Changes: TypeAlias = Mapping[tuple[Origin, Key], int]
"""The highest numbers of some publishers and keys."""

ENTRY_BYTES: Final = 256
"""An entry of a log counts as so much, beside the body."""

_KINDS: Final = get_args(Kind)
_MOST_NUMBER: Final = 2**64 - 1
_MOST_WORKER: Final = 2**32 - 1
_MOST_NODE_BYTES: Final = 255


class Marks:
    """The highest number of each publisher and key that was noted; or of those that another worker has noted."""

    def __init__(self) -> None:
        self._highest: dict[Key, dict[Origin, int]] = {}
        self._changes: dict[tuple[Origin, Key], int] = {}

    def __bool__(self) -> bool:
        """Whether there is any: else nothing is within them."""
        return bool(self._highest)

    def note(self, publisher: Origin, envelope: Envelope) -> None:
        """Know that a message was received, or published. One without a number leaves no mark: it may come twice."""
        if envelope.number:
            self._raise(publisher, envelope.key, envelope.number)

    def take_changes(self) -> Changes:
        """Return what was noted or applied since the last time."""
        changes, self._changes = self._changes, {}
        return changes

    def apply(self, changes: Changes) -> None:
        """Know of the changes of other marks. In any order, and more than once, they come to the same."""
        for (publisher, key), number in changes.items():
            self._raise(publisher, key, number)

    def has(self, publisher: Origin, key: Key, number: int) -> bool:
        """Return whether a message is within the marks."""
        highest = self._highest.get(key)
        return highest is not None and number <= highest.get(publisher, -1)

    def of(self, keys: Iterable[Key]) -> Marks:
        """Return the marks of these keys as they are now; they do not change. There may be very many others."""
        taken = Marks()
        taken._highest = {key: dict(self._highest[key]) for key in keys if key in self._highest}
        return taken

    def _raise(self, publisher: Origin, key: Key, number: int) -> None:
        highest = self._highest.setdefault(key, {})
        if number > highest.get(publisher, -1):
            highest[publisher] = self._changes[publisher, key] = number


class _Entry(NamedTuple):
    place: int
    publisher: Origin
    envelope: Envelope


class Log:
    """What has come to the keys that are covered, in its order. limit: bytes; over it the oldest are given up."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_key: dict[Key, deque[_Entry]] = {}
        self._order: deque[Key] = deque()  # of all entries, so the oldest is known
        self._next_place = 0
        self._losses = Losses()
        self.size = 0

    @property
    def overflowed(self) -> bool:
        """Whether something was given up, and not told yet: see take_gap."""
        return bool(self._losses)

    def cover(self, keys: Iterable[Key]) -> None:
        """Log what comes to these keys from now on, and to everybody. You must have settled since they are held."""
        for key in (EVERYBODY, *keys):
            self._by_key.setdefault(key, deque())

    def note(self, publisher: Origin, envelope: Envelope) -> None:
        """Know that a message was received, or published."""
        if envelope.key not in self._by_key:
            return
        self._keep(publisher, envelope)
        while self.size > self._limit:
            key = self._order.popleft()
            self.size -= _size(self._by_key[key].popleft())
            self._losses.add(key)

    def missed(self, marks: Marks, keys: Iterable[Key]) -> list[tuple[Origin, Envelope]]:
        """Return what is beyond the marks of a connection with these keys, in its order. keys: none of them twice.

        It is not known whether EVERYBODY is among them: you must say so.
        """
        # by the place alone: no two are in one
        found = sorted(entry for key in keys for entry in self._by_key.get(key, ()) if not _is_in(marks, entry))
        return [(publisher, envelope) for _, publisher, envelope in found]

    def forget(self, marks: Marks) -> None:
        """Forget what is within these marks: those of a connection which all have come that froze before it."""
        kept = sorted(entry for entries in self._by_key.values() for entry in entries if not _is_in(marks, entry))
        self._by_key = {key: deque() for key in self._by_key}
        self._order.clear()
        self.size = 0
        for _, publisher, envelope in kept:
            self._keep(publisher, envelope)

    def take_gap(self) -> Gap:
        """Return what was given up since the last time; connections that have come since then may miss it."""
        return self._losses.take()

    def _keep(self, publisher: Origin, envelope: Envelope) -> None:
        entry = _Entry(self._next_place, publisher, envelope)
        self._next_place += 1
        self._by_key[envelope.key].append(entry)
        self._order.append(envelope.key)
        self.size += _size(entry)


def _is_in(marks: Marks, entry: _Entry) -> bool:
    return marks.has(entry.publisher, entry.envelope.key, entry.envelope.number)


def _size(entry: _Entry) -> int:
    return ENTRY_BYTES + len(entry.envelope.body)


def encode(changes: Changes) -> list[Any]:
    """Return changes as values for JSON: for each publisher [node, worker, [[kind, name, number], ...]]."""
    by_publisher: dict[Origin, list[list[Any]]] = {}
    for (publisher, key), number in changes.items():
        by_publisher.setdefault(publisher, []).append([*key, number])
    return [[*publisher, marks] for publisher, marks in by_publisher.items()]


def decode(values: object) -> Changes:
    """Return the changes that encode has made these values of. Raises WireError for anything else."""
    return {
        (publisher, _key(kind, name)): _number(number, _MOST_NUMBER)
        for node, worker, marks in _rows(values)
        for publisher in (_origin(node, worker),)
        for kind, name, number in _rows(marks)
    }


def _rows(values: object) -> list[list[Any]]:
    if not isinstance(values, list) or not all(isinstance(row, list) and len(row) == 3 for row in values):
        raise WireError("marks are lists of three")
    return values


def _origin(node: object, worker: object) -> Origin:
    if not isinstance(node, str) or len(node.encode(errors="replace")) > _MOST_NODE_BYTES:
        raise WireError("a node is no name")
    return Origin(node, _number(worker, _MOST_WORKER))


def _key(kind: Any, name: Any) -> Key:
    if kind == "broadcast" and name == "":
        return EVERYBODY
    try:
        check_name(name)
    except (TypeError, ValueError) as error:
        raise WireError(str(error)) from None
    if kind not in _KINDS or kind == "broadcast":
        raise WireError("there is no such kind of key")
    return Key(kind, name)


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"a number is from 0 to {most}")
    return value
