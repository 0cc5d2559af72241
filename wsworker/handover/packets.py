"""Packets: what the giver and the taker of connections tell each other, over a pair of SOCK_SEQPACKET (unix(7)).

    u8 type | u32 number | u16 part, from 0 | u16 of how many parts | body

All numbers are big-endian. Packets that are sent at once go together, see worker/pair.py. A message that is longer than
a packet goes in parts, all but the last one full, and nothing goes between them. JSON is UTF-8, in which lone
surrogates stand as they are, and fields that are not known are no fault, so that a newer version may add some.

    both     1 HELLO    the first one: JSON {"version": of this format, "wsworker": of the package}
    giver    2 KEYS     number is the round | u8 1 if these are the last of it | JSON [[kind, name], ...]
             3 MARKS    JSON list: how far it has come with what is published, see bus/ledger.py
             4 STATE    number is the connection | its state, see state.py; its descriptor comes with the last part
             5 TAIL     number is the connection, moved before | what its code asks of it since, see wishes.py
             11 GO      u32 each: these connections are yours now, and no more mine
             6 DONE     number is how many STATEs there were | u8 1 if the bus had settled; only TAILs may follow
    taker    7 READY    number is the round: the keys of it are subscribed to and in effect
             8 ACK      u32 each: these connections could be mine
             9 REFUSED  number is the connection: it stays yours | the reason, a word
            10 BYE      nothing follows: all that was sent is acknowledged or refused

A connection is the giver's until its GO is sent, and the taker's from then on. So there is one owner at each moment,
and one who decides: a giver that ends the pair has back what it has not said GO for, and the taker forgets that.

A giver may be older than its taker, or newer after a way back. So HELLO says the version of the format, its form is for
ever, as is the head of the bundle in which it comes (u32 length | u8 1 if with a descriptor, see worker/pair.py), and
nothing else is sent before that of the other side has come. Both are workers of one service: what is wrong is a bug,
and ends the pair. Nothing is kept that was not announced within bounds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from wsworker.bus.topics import EVERYBODY, Key, Kind, check_name
from wsworker.counters import UNMOVED, Unmoved
from wsworker.errors import WireError

VERSION: Final = 1

PACKET_BYTES: Final = 128 * 1024
"""The longest packet; the kernel takes one that is somewhat shorter than net.core.wmem_default, which is 208 KiB."""

MOST_BYTES: Final = 65 * 1024 * 1024
"""The longest message. A connection that has more at hand, by limits as large as that, is not moved."""

_HEAD: Final = struct.Struct("!BIHH")
_PART_BYTES: Final = PACKET_BYTES - _HEAD.size
_MOST_PARTS: Final = -(-MOST_BYTES // _PART_BYTES)
_NUMBER_BYTES: Final = 4
_KEYS_BYTES: Final = 60 * 1024  # of the names in one KEYS: a list that is decoded at once

Side: TypeAlias = Literal["giver", "taker"]


class VersionError(WireError):
    """The other side speaks another version of this format: nothing can be moved, and nothing is broken."""


@unique
class Type(IntEnum):
    """What a packet belongs to."""

    HELLO = 1
    KEYS = 2
    MARKS = 3
    STATE = 4
    TAIL = 5
    DONE = 6
    READY = 7
    ACK = 8
    REFUSED = 9
    BYE = 10
    GO = 11


_BODY: Final[Mapping[Side, frozenset[Type]]] = {
    "giver": frozenset([Type.KEYS, Type.MARKS, Type.STATE, Type.GO, Type.TAIL, Type.DONE]),
    "taker": frozenset([Type.READY, Type.ACK, Type.REFUSED, Type.BYE]),
}
"""What a side says behind its HELLO."""

_LAST: Final[Mapping[Type, frozenset[Type]]] = {Type.DONE: frozenset([Type.TAIL]), Type.BYE: frozenset()}
"""What may come behind the last words of a side."""

_TYPES: Final = {each.value: each for each in Type}
_IN_PARTS: Final = frozenset([Type.MARKS, Type.STATE, Type.TAIL])


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. wsworker: the version of the package, for the log."""

    wsworker: str


@dataclass(frozen=True, slots=True)
class Keys:
    """What connections that will come want to hear of. number: of the round; last: no more keys of it follow."""

    number: int
    keys: tuple[Key, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class Marks:
    """How far the giver has come since the last ones. changes: JSON values, which are the ledger's affair."""

    changes: list[Any]


class State(NamedTuple):
    """A connection. number: from 0 to 2**32 - 1, each once; state: as state.encode gives it."""

    number: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """What the giver's code has asked of a connection since its State. wish: as wishes.encode gives it."""

    number: int
    wish: bytes


@dataclass(frozen=True, slots=True)
class Go:
    """Connections, one at least, that were acknowledged are the taker's."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """All connections were sent. count: how many States there were.

    settled: the giver had all that was published to them before they left; if not, something may be missing.
    """

    count: int
    settled: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The keys of a round are subscribed to."""

    number: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Connections, one at least, are known to the taker, which has not touched their sockets."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A connection stays the giver's. reason: a word that this version does not know is read as "error"."""

    number: int
    reason: Unmoved


@dataclass(frozen=True, slots=True)
class Bye:
    """The taker has dealt with all that came."""


Message: TypeAlias = Hello | Keys | Marks | State | Go | Tail | Done | Ready | Ack | Refused | Bye


def key_messages(number: int, keys: Iterable[Key]) -> list[Keys]:
    """Return the messages that tell the keys of a round, in pieces that a loop can take; one at least."""
    pieces: list[list[Key]] = [[]]
    size = 0
    for key in keys:
        # in a list, and if all of it are quotes
        needed = 2 * len(key.name.encode()) + len(key.kind) + len('["",""],')
        if size + needed > _KEYS_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(key)
        size += needed
    last = len(pieces) - 1
    return [Keys(number, tuple(piece), place == last) for place, piece in enumerate(pieces)]


def encode(message: Message) -> list[bytes]:
    """Return the packets of a message, to be sent in this order and with nothing between them.

    ValueError if it has more than MOST_BYTES, as a State may have.
    """
    match message:
        case State(number, state):
            # nearly all
            return _packets(Type.STATE, number, state)
        case Hello(wsworker):
            return _packets(Type.HELLO, 0, _json({"version": VERSION, "wsworker": wsworker}))
        case Keys(number, keys, last):
            return _packets(Type.KEYS, number, bytes([last]) + _json(keys))
        case Marks(changes):
            return _packets(Type.MARKS, 0, _json(changes))
        case Tail(number, wish):
            return _packets(Type.TAIL, number, wish)
        case Done(count, settled):
            return _packets(Type.DONE, count, bytes([settled]))
        case Ready(number):
            return _packets(Type.READY, number)
        case Ack(numbers):
            return _packets(Type.ACK, 0, _packed(numbers))
        case Go(numbers):
            return _packets(Type.GO, 0, _packed(numbers))
        case Refused(number, reason):
            return _packets(Type.REFUSED, number, reason.encode())
    return _packets(Type.BYE, 0)


class Reader:
    """Makes messages of the packets of one side, and judges all of it: what it is, its order, its size. side: whose."""

    __slots__ = ("_expected", "_moved", "_number", "_parts", "_side", "_total", "_type")

    def __init__(self, side: Side) -> None:
        self._side = side
        self._expected = frozenset([Type.HELLO])
        self._moved: set[int] = set()  # numbers of the connections that have come
        # of the message that is not whole
        self._type = Type.HELLO
        self._number = 0
        self._total = 0
        self._parts: list[bytes] = []

    def feed(self, packet: bytes) -> Message | None:
        """Return the message that this packet completes, or None.

        WireError for what is no message of this side at this place, VersionError for a HELLO of another version. You
        must then close the pair, and feed no more. What was returned before counts.
        """
        if not _HEAD.size <= len(packet) <= PACKET_BYTES:
            raise WireError(f"a packet of {len(packet)} bytes, and not {_HEAD.size} to {PACKET_BYTES}")
        kind, number, part, total = _HEAD.unpack_from(packet)
        if not self._parts:
            self._begin(kind, number, total)
            if total == 1 and not part:
                # nearly all
                return self._message(self._type, number, packet[_HEAD.size :])
        if (kind, number, part, total) != (self._type, self._number, len(self._parts), self._total):
            expected = f"part {len(self._parts)} of {self._total} of {self._type.name} {self._number}"
            raise WireError(f"type {kind}, {number}, part {part} of {total}, and not {expected}")
        if part < total - 1 and len(packet) < PACKET_BYTES:
            raise WireError("a part that is not full, and not the last")
        self._parts.append(packet[_HEAD.size :])
        if part < total - 1:
            return None
        body = b"".join(self._parts)
        self._parts.clear()
        return self._message(self._type, number, body)

    def _begin(self, kind: int, number: int, total: int) -> None:
        if kind not in self._expected:
            wanted = ", ".join(expected.name for expected in sorted(self._expected)) or "nothing"
            raise WireError(f"type {kind} from the {self._side}, where {wanted} is expected")
        self._type = _TYPES[kind]
        if not 1 <= total <= (_MOST_PARTS if self._type in _IN_PARTS else 1):
            raise WireError(f"{self._type.name} in {total} parts")
        if self._type is Type.STATE and number in self._moved:
            raise WireError(f"connection {number} twice")
        if self._type is Type.TAIL:
            self._must_have(number)
        self._number, self._total = number, total

    def _message(self, kind: Type, number: int, body: bytes) -> Message:
        self._expected = _LAST.get(kind, self._expected)
        match kind:
            case Type.STATE:
                # nearly all
                self._moved.add(number)
                return State(number, body)
            case Type.HELLO:
                self._expected = _BODY[self._side]
                return _hello(body)
            case Type.KEYS:
                return Keys(number, _keys(body[1:]), _flag(body))
            case Type.MARKS:
                return Marks(_list(body))
            case Type.TAIL:
                return Tail(number, body)
            case Type.DONE:
                if number != len(self._moved):
                    raise WireError(f"{len(self._moved)} connections have come, and not {number}")
                if len(body) != 1:
                    raise WireError("a DONE has a flag")
                return Done(number, _flag(body))
            case Type.GO:
                numbers = _unpacked(body)
                for each in numbers:
                    self._must_have(each)
                return Go(numbers)
            case Type.ACK:
                return Ack(_unpacked(body))
            case Type.REFUSED:
                word = body.decode(errors="replace")
                return Refused(number, word if word in UNMOVED else "error")
        if body:
            raise WireError(f"{kind.name} with a body")
        return Ready(number) if kind is Type.READY else Bye()

    def _must_have(self, number: int) -> None:
        if number not in self._moved:
            raise WireError(f"{self._type.name} of connection {number}, which has not come")


def _packets(kind: Type, number: int, body: bytes = b"") -> list[bytes]:
    if len(body) > MOST_BYTES:
        raise ValueError(f"{kind.name} of {len(body)} bytes, and at most {MOST_BYTES} can be sent")
    if len(body) <= _PART_BYTES:
        # nearly all, in what is done for each connection
        return [_HEAD.pack(kind, number, 0, 1) + body]
    total = -(-len(body) // _PART_BYTES)
    return [
        _HEAD.pack(kind, number, part, total) + body[part * _PART_BYTES : (part + 1) * _PART_BYTES]
        for part in range(total)
    ]


def _packed(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(numbers)}I", *numbers)


def _unpacked(body: bytes) -> tuple[int, ...]:
    count, rest = divmod(len(body), _NUMBER_BYTES)
    if not count or rest:
        raise WireError(f"{len(body)} bytes are no list of numbers")
    return struct.unpack(f"!{count}I", body)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")


def _hello(body: bytes) -> Hello:
    values = _value(body)
    if type(values) is not dict or type(values.get("version")) is not int or type(values.get("wsworker")) is not str:
        raise WireError("a HELLO says which version it speaks")
    if values["version"] != VERSION:
        theirs = f"version {values['version']} of the hand-over, that of wsworker {values['wsworker']}"
        raise VersionError(f"{theirs}, and not {VERSION}")
    return Hello(values["wsworker"])


def _keys(body: bytes) -> tuple[Key, ...]:
    found: list[Key] = []
    for pair in _list(body):
        if type(pair) is not list or len(pair) != 2 or pair[0] not in get_args(Kind):
            raise WireError("a key is a kind and a name")
        key = Key(*pair)
        try:
            if key.kind != EVERYBODY.kind:
                check_name(key.name, f"a {key.kind}")
        except (TypeError, ValueError) as error:
            raise WireError(str(error)) from None
        if key.kind == EVERYBODY.kind and key != EVERYBODY:
            raise WireError("a broadcast has a name")
        found.append(key)
    return tuple(found)


def _flag(body: bytes) -> bool:
    if body[:1] not in (b"\0", b"\1"):
        raise WireError("a flag is 0 or 1")
    return body[0] == 1


def _list(body: bytes) -> list[Any]:
    values = _value(body)
    if type(values) is not list:
        raise WireError("not a list")
    return values


def _value(body: bytes) -> Any:
    try:
        return json.loads(body.decode(errors="surrogatepass"))
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None
