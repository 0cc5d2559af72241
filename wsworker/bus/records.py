"""Records: what travels between workers, as bytes. Keeps no socket and no clock.

    u32 length | u8 type | u8 flags | u16 length of the name | name | body

All numbers are big-endian; the first length counts what follows it.

    1 HELLO      who the sender is, see Hello; the first record both ways
    2 SNAPSHOT   keys that the sender wants; the parts up to the one with the flag LAST replace all it wanted before
    3 INTEREST   keys that it wants from now on, and keys that it wants no more
    4 MESSAGE    u64 number | a message for the key that flags and name are, text unless BINARY
    5 CLOSE      u64 number | u16 code | reason: the connections of the user of that name are to be closed
    6 GAP        u32 how many messages were dropped, 0 if nobody knows | u8 1 if any key may be concerned | the keys
    7 PROBE      u8 1 if it is an answer | u64 clock of who has asked
    8 GOODBYE    nothing follows: the sender leaves in good order
    9 ACCEPTED   u64 how many messages of a program outside were accepted so far
    10 DEBT      nothing follows: other machines are to be told that they have missed something; the sender cannot

A list of keys is, for each of them, u8 kind, plus 0x80 if it is wanted no more | u16 length | name. A number counts
what the sender has published, see ledger.py; that of a program outside means nothing.

A peer is another worker of this machine, which has shown the secret; so what it sends is most likely right, and a fault
ends the link. A record's declared length is judged before its bytes are kept. Records before a fault count, however the
bytes were cut, so the same bytes always mean the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum, unique
from typing import Any, Final, NamedTuple

from wsworker.bus.losses import Gap
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Kind, check_name
from wsworker.errors import WireError

VERSION: Final = 1
EXTRA_BYTES: Final = 64 * 1024
"""A record may be so much longer than the longest message: for its head, its name, and lists of keys."""

FIRST_BYTES: Final = 1024
"""The largest length of the first record, a HELLO: nobody is trusted with more before that."""

PART_BYTES: Final = 48 * 1024
"""Of a list of keys; longer ones go in parts, so that they fit into the smallest limit of a receiver."""

BINARY: Final = 0x01
LAST: Final = 0x08
_KINDS: Final[tuple[Kind, ...]] = ("topic", "user", "broadcast")
_KIND_SHIFT: Final = 1
_KIND_BITS: Final = 0x03
_KNOWN_FLAGS: Final = BINARY | LAST | _KIND_BITS << _KIND_SHIFT
_DROPPED: Final = 0x80

_LENGTH: Final = struct.Struct("!I")
_HEAD: Final = struct.Struct("!IBBH")
_HEAD_REST_BYTES: Final = _HEAD.size - _LENGTH.size
_HELLO: Final = struct.Struct("!H16sQHI")
_NAME: Final = struct.Struct("!BH")
_CLOSE: Final = struct.Struct("!H")
_GAP: Final = struct.Struct("!IB")
_PROBE: Final = struct.Struct("!BQ")
_ACCEPTED: Final = struct.Struct("!Q")
_NUMBER: Final = struct.Struct("!Q")


@unique
class Type(IntEnum):
    """What a record is."""

    HELLO = 1
    SNAPSHOT = 2
    INTEREST = 3
    MESSAGE = 4
    CLOSE = 5
    GAP = 6
    PROBE = 7
    GOODBYE = 8
    ACCEPTED = 9
    DEBT = 10


_TYPES: Final = frozenset(map(int, Type))
_NUMBERED: Final = frozenset(map(int, (Type.MESSAGE, Type.CLOSE)))


class Record(NamedTuple):
    """One record. type: one of Type. name: "" where none belongs. serial: the number of a MESSAGE or a CLOSE."""

    type: int
    flags: int
    name: str
    body: bytes
    serial: int = 0

    @property
    def key(self) -> Key:
        """The key that a MESSAGE or a CLOSE goes to. Raises WireError if there is no such key."""
        number = self.flags >> _KIND_SHIFT & _KIND_BITS
        if number >= len(_KINDS):
            raise WireError(f"there is no kind {number}")
        return _key(_KINDS[number], self.name)

    @property
    def envelope(self) -> Envelope:
        """What a MESSAGE or a CLOSE carries. Raises WireError as key."""
        return Envelope(self.key, self.body, bool(self.flags & BINARY), self.type == Type.CLOSE, self.serial)


class Hello(NamedTuple):
    """Who greets.

    secret: 16 bytes that the master has made for its workers; worker, slot: both 0 for a program outside that only
    publishes; most: the longest record that it takes; node: names this run of the service.
    """

    secret: bytes
    worker: int
    slot: int
    most: int
    node: str
    version: int = VERSION

    def __repr__(self) -> str:
        # without the secret, wherever it may be shown
        return f"<Hello of worker {self.worker} in slot {self.slot} of {self.node}>"


class Reader:
    """Makes records of bytes. most: the largest length that a record may declare; the first one may less.

    fault: why nothing is read any more, or "". You must look at it after each feed, behind the records that it gave.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun = False
        self._buffer = bytearray()
        self.fault = ""

    def feed(self, data: bytes) -> list[Record]:
        """Return the records that data completes."""
        records: list[Record] = []
        if self.fault:
            return records
        buffer = self._buffer
        buffer += data
        begin = 0
        try:
            while len(buffer) - begin >= _LENGTH.size:
                end = begin + _LENGTH.size + self._length(begin)
                if end > len(buffer):
                    break
                records.append(_record(buffer, begin, end))
                begin = end
                self._begun = True
        except WireError as error:
            self.fault = error.reason
            buffer.clear()
        del buffer[:begin]
        return records

    def _length(self, begin: int) -> int:
        (length,) = _LENGTH.unpack_from(self._buffer, begin)
        most = self._most if self._begun else FIRST_BYTES
        if not _HEAD_REST_BYTES <= length <= most:
            raise WireError(f"a record of {length} bytes, and not {_HEAD_REST_BYTES} to {most}")
        return int(length)


def _record(buffer: bytearray, begin: int, end: int) -> Record:
    _, number, flags, name_size = _HEAD.unpack_from(buffer, begin)
    body = begin + _HEAD.size + name_size
    if number not in _TYPES:
        raise WireError(f"there is no type {number}")
    if flags & ~_KNOWN_FLAGS:
        raise WireError(f"unknown flags {flags:#x}")
    if body > end:
        raise WireError("a name is longer than its record")
    name = _text(buffer[begin + _HEAD.size : body])
    if number not in _NUMBERED:
        return Record(number, flags, name, bytes(buffer[body:end]))
    if body + _NUMBER.size > end:
        raise WireError("a message without a number")
    (serial,) = _NUMBER.unpack_from(buffer, body)
    return Record(number, flags, name, bytes(buffer[body + _NUMBER.size : end]), serial)


def encode(number: Type, body: bytes = b"", flags: int = 0, name: str = "", serial: int = 0) -> bytes:
    """Return a record. serial: the number of a MESSAGE or a CLOSE."""
    name_bytes = name.encode()
    if number in _NUMBERED:
        body = _NUMBER.pack(serial) + body
    length = _HEAD_REST_BYTES + len(name_bytes) + len(body)
    return _HEAD.pack(length, number, flags, len(name_bytes)) + name_bytes + body


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the MESSAGE or CLOSE that carries it."""
    key, body, binary, closes, serial = envelope
    flags = _KINDS.index(key.kind) << _KIND_SHIFT | binary
    return encode(Type.CLOSE if closes else Type.MESSAGE, body, flags, key.name, serial)


def encode_hello(hello: Hello) -> bytes:
    """Return a HELLO."""
    fixed = _HELLO.pack(hello.version, hello.secret, hello.worker, hello.slot, hello.most)
    return encode(Type.HELLO, fixed + hello.node.encode())


def decode_hello(body: bytes) -> Hello:
    """Return what a HELLO says; of one of another version nothing but that may be right. Raises WireError."""
    version, secret, worker, slot, most = _unpack(_HELLO, body)
    return Hello(secret, worker, slot, most, _text(body[_HELLO.size :]), version)


def encode_key(key: Key, dropped: bool = False) -> bytes:
    """Return a key as it stands in a list."""
    name = key.name.encode()
    return _NAME.pack(_KINDS.index(key.kind) | (_DROPPED if dropped else 0), len(name)) + name


def join_keys(encoded: Iterable[bytes]) -> list[bytes]:
    """Return bodies that list keys, each at most PART_BYTES long; one at least. encoded: what encode_key has given."""
    parts: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for entry in encoded:
        size += len(entry)
        if size > PART_BYTES:
            parts.append(b"".join(part))
            part.clear()
            size = len(entry)
        part.append(entry)
    return [*parts, b"".join(part)]


def decode_keys(body: bytes) -> tuple[list[Key], list[Key]]:
    """Return the keys of a list: those that are wanted, and those that are no more. Raises WireError."""
    wanted: list[Key] = []
    dropped: list[Key] = []
    begin = 0
    while begin < len(body):
        mark, size = _unpack(_NAME, body[begin : begin + _NAME.size])
        name = body[begin + _NAME.size : begin + _NAME.size + size]
        number = mark & ~_DROPPED
        if len(name) < size or number >= len(_KINDS):
            raise WireError("a list of keys is broken")
        (dropped if mark & _DROPPED else wanted).append(_key(_KINDS[number], _text(name)))
        begin += _NAME.size + size
    return wanted, dropped


def encode_interest(changes: Mapping[Key, bool]) -> list[bytes]:
    """Return the INTERESTs that tell of a change; changes: True for what is wanted from now on."""
    encoded = (encode_key(key, dropped=not is_wanted) for key, is_wanted in changes.items())
    return [encode(Type.INTEREST, part) for part in join_keys(encoded)]


def encode_snapshot(encoded: Iterable[bytes]) -> list[bytes]:
    """Return the SNAPSHOTs that say what is wanted, the last one marked. encoded: each key by encode_key."""
    *parts, last = join_keys(encoded)
    return [*(encode(Type.SNAPSHOT, part) for part in parts), encode(Type.SNAPSHOT, last, LAST)]


def encode_gap(gap: Gap) -> bytes:
    """Return a GAP; one with more keys than fit into a part concerns any key."""
    return encode(Type.GAP, encode_gap_body(gap))


def encode_gap_body(gap: Gap) -> bytes:
    """Return the body of a GAP."""
    parts = [] if gap.keys is None else join_keys(map(encode_key, gap.keys))
    listed = parts[0] if len(parts) == 1 else b""
    return _GAP.pack(min(gap.lost, 2**32 - 1), len(parts) != 1) + listed


def decode_gap(body: bytes) -> Gap:
    """Return what a GAP says. Raises WireError."""
    count, any_key = _unpack(_GAP, body)
    keys, _ = decode_keys(body[_GAP.size :])
    if not (keys or any_key):
        raise WireError("a gap in which nothing is missing")
    return Gap(count, None if any_key else frozenset(keys))


def encode_close(code: int, reason: str) -> bytes:
    """Return the body of a CLOSE."""
    return _CLOSE.pack(code) + reason.encode()


def decode_close(body: bytes) -> tuple[int, str]:
    """Return code and reason of a CLOSE; any number may stand there. Raises WireError."""
    return int(_unpack(_CLOSE, body)[0]), _text(body[_CLOSE.size :])


def encode_probe(clock_ns: int, answer: bool = False) -> bytes:
    """Return a PROBE."""
    return encode(Type.PROBE, _PROBE.pack(answer, clock_ns))


def decode_probe(body: bytes) -> tuple[int, bool]:
    """Return the clock in a PROBE, and whether it is an answer. Raises WireError."""
    answer, clock_ns = _unpack(_PROBE, body)
    return clock_ns, bool(answer)


def encode_accepted(count: int) -> bytes:
    """Return an ACCEPTED."""
    return encode(Type.ACCEPTED, _ACCEPTED.pack(count))


def decode_accepted(body: bytes) -> int:
    """Return the number in an ACCEPTED. Raises WireError."""
    return int(_unpack(_ACCEPTED, body)[0])


def _unpack(fixed: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) < fixed.size:
        raise WireError(f"a body of {len(body)} bytes is too short")
    return fixed.unpack_from(body)


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WireError("what should be text is not UTF-8") from None


def _key(kind: Kind, name: str) -> Key:
    if kind == "broadcast":
        if name:
            raise WireError("a broadcast has a name")
        return EVERYBODY
    try:
        check_name(name)
    except ValueError as error:
        raise WireError(str(error)) from None
    return Key(kind, name)
