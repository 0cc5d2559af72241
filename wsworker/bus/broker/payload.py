"""Payload: what stands in a message on a broker, as bytes. Where it goes to is said by the channel, see channels.py.

    u8 version | u8 type | u8 flags | u8 length of the node | u32 worker | u64 number | node | body

All numbers are big-endian. The version is 1.

    4 MESSAGE    a message; text unless the flag 0x01 is set
    5 CLOSE      u16 code | reason: the connections of the user are to be closed
    6 GAP        u32 how many messages are missing, 0 if nobody knows | u8 1 if any key may be concerned | the keys
    7 PROBE      u64 clock of the worker that hears itself

MESSAGE and CLOSE stand in channels of keys, GAP and PROBE in those of the service. Lists of keys are as in records.py.

node is the run of the service that has published, worker one of its workers. A worker drops what its own node has
published: it has come by the mesh, or was delivered before. number counts the messages of that worker, in the order in
which it has published them; GAP and PROBE have 0.

A program outside has an empty node, and in place of the worker a random number from 1 that it draws when it begins; so
it and number say together which message this is, and one that is met twice while connections move from one worker to
another is known again (ledger.py). Who counts nothing may leave both 0: of such messages some may be lost then.

A broker carries for whoever may write to it. So nothing of this is trusted: what is wrong raises WireError, is dropped
and counted.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from wsworker.bus.losses import Gap
from wsworker.bus.records import BINARY, PART_BYTES, Type, decode_gap, encode_gap_body
from wsworker.bus.topics import Envelope, Key, Origin
from wsworker.errors import WireError

VERSION: Final = 1
_HEAD: Final = struct.Struct("!BBBBIQ")
_CLOCK: Final = struct.Struct("!Q")
EXTRA_BYTES: Final = _HEAD.size + 255
"""A payload may be so much longer than the body in it."""

_MOST_GAP_BYTES: Final = PART_BYTES + 64
"""No worker makes a longer GAP; a list of millions of keys would stop the loop of each that reads it."""

_TYPES: Final = frozenset(map(int, (Type.MESSAGE, Type.CLOSE, Type.GAP, Type.PROBE)))


OUTSIDE: Final = Origin("", 0)
"""A program that is no worker, and counts nothing."""


class Payload(NamedTuple):
    """What was read. type: one of MESSAGE, CLOSE, GAP and PROBE."""

    type: int
    binary: bool
    body: bytes
    origin: Origin = OUTSIDE
    number: int = 0

    def envelope(self, key: Key) -> Envelope:
        """Return what a MESSAGE or a CLOSE carries to the key of its channel. Raises WireError for others."""
        if self.type not in (Type.MESSAGE, Type.CLOSE) or (self.type == Type.CLOSE and key.kind != "user"):
            raise WireError(f"{Type(self.type).name} in the channel of a {key.kind}")
        return Envelope(key, self.body, self.binary, self.type == Type.CLOSE, self.number)

    def gap(self) -> Gap:
        """Return what a GAP says. Raises WireError, also for what is none."""
        if self.type != Type.GAP or len(self.body) > _MOST_GAP_BYTES:
            raise WireError(f"{Type(self.type).name} of {len(self.body)} bytes in the channel of the service")
        return decode_gap(self.body)

    def clock_ns(self) -> int:
        """Return the clock in a PROBE. Raises WireError, also for what is none."""
        if self.type != Type.PROBE or len(self.body) != _CLOCK.size:
            raise WireError(f"{Type(self.type).name} of {len(self.body)} bytes in the channel of a worker")
        return int(_CLOCK.unpack(self.body)[0])


class Writer:
    """Makes payloads of one origin."""

    def __init__(self, origin: Origin) -> None:
        self._node = origin.node.encode()
        self._worker = origin.worker

    def envelope(self, envelope: Envelope) -> bytes:
        """Return the MESSAGE or CLOSE that carries it."""
        number = Type.CLOSE if envelope.closes else Type.MESSAGE
        return self._payload(number, envelope.body, envelope.binary, envelope.number)

    def gap(self, gap: Gap) -> bytes:
        """Return a GAP."""
        return self._payload(Type.GAP, encode_gap_body(gap))

    def probe(self, clock_ns: int) -> bytes:
        """Return a PROBE."""
        return self._payload(Type.PROBE, _CLOCK.pack(clock_ns))

    def _payload(self, number: Type, body: bytes, binary: bool = False, count: int = 0) -> bytes:
        head = _HEAD.pack(VERSION, number, BINARY if binary else 0, len(self._node), self._worker, count)
        return b"".join((head, self._node, body))


def is_from(node: bytes, data: bytes) -> bool:
    """Return whether this node has published it; most of what comes is such a copy, and looked at no further."""
    return len(data) >= _HEAD.size and data[3] == len(node) and data.startswith(node, _HEAD.size)


def decode(data: bytes) -> Payload:
    """Return what stands in a payload. Raises WireError."""
    if len(data) < _HEAD.size:
        raise WireError(f"a payload of {len(data)} bytes is too short")
    version, number, flags, size, worker, count = _HEAD.unpack_from(data)
    if version != VERSION:
        raise WireError(f"a payload of version {version} and not {VERSION}")
    if number not in _TYPES:
        raise WireError(f"there is no type {number}")
    if flags & ~BINARY:
        raise WireError(f"unknown flags {flags:#x}")
    begin = _HEAD.size + size
    if len(data) < begin:
        raise WireError("the name of a node is longer than its payload")
    try:
        origin = Origin(data[_HEAD.size : begin].decode(), worker)
    except UnicodeDecodeError:
        raise WireError("the name of a node is not UTF-8") from None
    return Payload(number, bool(flags & BINARY), data[begin:], origin, count)
