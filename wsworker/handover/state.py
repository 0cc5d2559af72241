"""State: all that a connection is, as one value and as bytes, so that another process can go on from it.

    u16 version | numbers | records | lengths | sections

    numbers     the fields of a connection that are some, each at its own place; two words of bits, and lengths
    records     those of pulse, quota, control bucket and windows that are there, which the bits say
    lengths     u32 of each message behind and of each frame; u8 of each message: 1 if it is text
    sections    id | host | subprotocol | user | head | rest | unread | tail | messages behind | frames

All is big-endian; ints and floats have 64 bits. None is, where there may be one, the least of ints, NaN among floats
and the empty text. One JSON object for all of it was rejected: to write and to read that takes three times as long, and
thousands of connections move in a second.

The rest is what has no such form: topics, data and hook, those that are not empty, as one JSON object. JSON, because
nothing in it can run code on arrival, as pickle would, and because a field that is not known can be passed over: a
newer version may add some there. One that changes anything else counts VERSION up, and then connections are not moved
but drained. Lone surrogates, which a str of Python may hold, stand in its UTF-8 as they are: two of them that happen to
make a pair would come back as one character if they were written as escapes.

No clock of this process is one of the other's, so all times are ages: now, less the moment, in seconds or in ticks of
wheel.py. But for two moments on CLOCK_MONOTONIC, which all processes of a machine share: frozen_at, and the last ping.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from math import inf, isfinite, isnan, nan
from typing import Any, Final, NamedTuple, get_args, get_type_hints

from wsworker.bus.topics import check_name
from wsworker.errors import WireError
from wsworker.handover.packets import VersionError
from wsworker.protocol.frozen import SessionState, Windows
from wsworker.protocol.rates import BucketState
from wsworker.worker.pulse import PulseState
from wsworker.worker.quota import QuotaState
from wsworker.worker.watch import WatchState

VERSION: Final = 1

NO_INT: Final = -(2**63)
"""Stands for None among ints, all of which have to be above it, and below 2**63."""


class ConnectionState(NamedTuple):
    """A connection that stands still.

    head: that of its request, as it came; remote: host and port of the client, as trusted proxies say.
    tail: of a frame that the kernel has taken in part, the rest, which must go out first, whatever becomes of it;
    frames: whole ones behind that, in order; control: how many of them are no messages; full: on_buffer_full was called
    and on_buffer_drain was not; paused: by the user.
    data: JSON values, which jsonable.check must have passed; so is hook, what on_handover returned, None without it.
    opened_age: seconds; active_age: ticks since the last message, either way; quota: None if messages and bytes have no
    rate; control_bucket: of pings and pongs, None if there were none. bytes_in and so on: the counters of the
    connection. frozen_at: seconds on CLOCK_MONOTONIC.
    """

    id: str
    head: bytes
    remote: tuple[str, int]
    subprotocol: str | None
    session: SessionState
    tail: bytes
    frames: tuple[bytes, ...]
    control: int
    user: str | None
    topics: tuple[str, ...]
    data: dict[str, Any]
    hook: dict[str, Any] | None
    paused: bool
    full: bool
    opened_age: float
    active_age: int
    watch: WatchState
    quota: QuotaState | None
    control_bucket: BucketState | None
    bytes_in: int
    messages_in: int
    bytes_out: int
    messages_out: int
    frozen_at: float


class _Numbers(NamedTuple):
    """What always stands there. records: which there are; behind, frames: how many."""

    records: int
    flags: int
    port: int
    control: int
    behind: int
    frames: int
    opened_age: float
    frozen_at: float
    active_age: int
    bytes_in: int
    messages_in: int
    bytes_out: int
    messages_out: int
    checked: int
    unsigned: int
    message: int
    stuck: int


_START: Final = struct.Struct("!H")
_NUMBERS: Final = struct.Struct("!BBHIIIdd9q")
_LENGTHS: Final = struct.Struct("!8I")
_LEAST_FRAME_BYTES: Final = 2  # RFC 6455 section 5.2
_PAUSED: Final = 1
_FULL: Final = 2
_CODES: Final = {int: "q", float: "d"}
_NONES: Final = {int: NO_INT, float: nan}
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


class _Form:
    """How a record of nothing but ints and floats stands in bytes; fields of it may be None."""

    def __init__(self, kind: type[Any]) -> None:
        hints = get_type_hints(kind)
        types = [(get_args(hint) or (hint,))[0] for hint in hints.values()]
        self._kind = kind
        self._nones = [_NONES[each] for each in types]
        self._needed = [(place, name) for place, (name, hint) in enumerate(hints.items()) if not get_args(hint)]
        self._struct = struct.Struct("!" + "".join(_CODES[each] for each in types))
        self.size = self._struct.size

    def pack(self, record: Any) -> bytes:
        """Return a record as bytes."""
        pairs = zip(record, self._nones, strict=True)
        return self._struct.pack(*[none if value is None else value for value, none in pairs])

    def unpack(self, data: bytes, begin: int) -> Any:
        """Return the record that stands in data from begin on. Raises WireError."""
        values = self._struct.unpack_from(data, begin)
        if inf in values or -inf in values:
            raise WireError(f"an infinite number in a {self._kind.__name__}")
        # the float that equals NO_INT is a number as any other
        found = [None if isnan(value) or (value == NO_INT and type(value) is int) else value for value in values]
        for place, name in self._needed:
            if found[place] is None:
                raise WireError(f"{name} is no number")
        return self._kind._make(found)


_FORMS: Final = [_Form(kind) for kind in (PulseState, QuotaState, BucketState, Windows)]
"""Of the records, in the order in which they stand there, which is that of their bits from the lowest on."""


def encode(state: ConnectionState) -> bytes:
    """Return the state as bytes.

    '' as user or subprotocol comes back as None. Raises UnicodeEncodeError for a lone surrogate in id, host,
    subprotocol or user, struct.error for a number that does not fit its place, and what the JSON encoder does for data
    or hook that jsonable.check has not passed: TypeError, ValueError, RecursionError.
    """
    session = state.session
    bits, records = _packed((state.watch.pulse, state.quota, state.control_bucket, session.windows))
    sections = [
        state.id.encode(),
        state.remote[0].encode(),
        (state.subprotocol or "").encode(),
        (state.user or "").encode(),
        state.head,
        _rest(state),
        session.unread,
        state.tail,
    ]
    lengths = _LENGTHS.pack(*map(len, sections))
    if session.behind or state.frames:
        several = [*map(_binary, session.behind), *state.frames]
        lengths += struct.pack(f"!{len(several)}I", *map(len, several))
        lengths += bytes([isinstance(message, str) for message in session.behind])
        sections += several
    return b"".join([_START.pack(VERSION), _numbers(state, bits), records, lengths, *sections])


def decode(data: bytes) -> ConnectionState:
    """Return the state in these bytes. WireError for anything else, VersionError for another version."""
    if len(data) < _START.size:
        raise WireError(f"a state of {len(data)} bytes")
    (version,) = _START.unpack_from(data)
    if version != VERSION:
        raise VersionError(f"version {version} of a connection's state, and not {VERSION}")
    try:
        numbers = _Numbers._make(_NUMBERS.unpack_from(data, _START.size))
        (pulse, quota, bucket, windows), begin = _unpacked(numbers.records, data)
        texts, sections = _sections(data, begin, numbers)
        id_, host, subprotocol, user = [each.decode() for each in sections[:4]]
        behind = tuple([each.decode() if is_text else each for is_text, each in zip(texts, sections[8:], strict=False)])
    except struct.error:
        raise WireError("a state that ends too early") from None
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None
    if not (isfinite(numbers.opened_age) and isfinite(numbers.frozen_at)):
        raise WireError("a time that is no number")
    if numbers.flags & ~(_PAUSED | _FULL):
        raise WireError("flags that nobody knows")
    if numbers.control > numbers.frames:
        raise WireError("more control frames than frames")
    if windows is not None and not windows.right:
        raise WireError("windows that nobody can have agreed on")
    topics, values, hook = _read_rest(sections[5])
    # by place and not by name: see freezing.py
    return ConnectionState(
        id_,
        sections[4],
        (host, numbers.port),
        subprotocol or None,
        SessionState(sections[6], behind, windows),
        sections[7],
        tuple(sections[8 + len(texts) :]),
        numbers.control,
        _name(user, "a user") if user else None,
        topics,
        values,
        hook,
        numbers.flags & _PAUSED > 0,
        numbers.flags & _FULL > 0,
        numbers.opened_age,
        numbers.active_age,
        _watch(numbers, pulse),
        quota,
        bucket,
        numbers.bytes_in,
        numbers.messages_in,
        numbers.bytes_out,
        numbers.messages_out,
        numbers.frozen_at,
    )


def _binary(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _packed(records: Iterable[Any]) -> tuple[int, bytes]:
    """Return the records that are there as bytes, and the bits that say which."""
    bits, parts = 0, b""
    for place, record in enumerate(records):
        if record is not None:
            bits |= 1 << place
            parts += _FORMS[place].pack(record)
    return bits, parts


def _unpacked(bits: int, data: bytes) -> tuple[list[Any], int]:
    """Return the records, None for those that are not there, and where they end."""
    if bits >> len(_FORMS):
        raise WireError("records that nobody knows")
    begin, found = _START.size + _NUMBERS.size, []
    for place, form in enumerate(_FORMS):
        if bits & 1 << place:
            found.append(form.unpack(data, begin))
            begin += form.size
        else:
            found.append(None)
    return found, begin


def _sections(data: bytes, begin: int, numbers: _Numbers) -> tuple[bytes, list[bytes]]:
    """Return which of the messages are text, and the sections, behind which nothing stands."""
    lengths: tuple[int, ...] = _LENGTHS.unpack_from(data, begin)
    begin += _LENGTHS.size
    texts = b""
    if numbers.behind or numbers.frames:
        more = struct.Struct(f"!{numbers.behind + numbers.frames}I")
        lengths += more.unpack_from(data, begin)
        begin += more.size
        texts = data[begin : begin + numbers.behind]
        begin += numbers.behind
    if begin + sum(lengths) != len(data):
        raise WireError("sections that are not as long as the lengths say")
    if texts and max(texts) > 1:
        raise WireError("a message that is neither text nor binary")
    # lengths alone, with nothing behind them, would else be millions of frames to go through
    if numbers.frames and min(lengths[-numbers.frames :]) < _LEAST_FRAME_BYTES:
        raise WireError(f"a frame of less than {_LEAST_FRAME_BYTES} bytes")
    sections = []
    for length in lengths:
        sections.append(data[begin : begin + length])
        begin += length
    return texts, sections


def _watch(numbers: _Numbers, pulse: PulseState | None) -> WatchState:
    unsigned, message, stuck = numbers.unsigned, numbers.message, numbers.stuck
    return WatchState(
        checked=numbers.checked,
        unsigned=None if unsigned == NO_INT else unsigned,
        message=None if message == NO_INT else message,
        stuck=None if stuck == NO_INT else stuck,
        pulse=pulse,
    )


def _rest(state: ConnectionState) -> bytes:
    """Return what is no number and no text, if there is any, as bytes."""
    rest: dict[str, Any] = {}
    if state.topics:
        rest["topics"] = state.topics
    if state.data:
        rest["data"] = state.data
    if state.hook is not None:
        rest["hook"] = state.hook
    return _JSON.encode(rest).encode(errors="surrogatepass") if rest else b""


def _read_rest(text: bytes) -> tuple[tuple[str, ...], dict[str, Any], dict[str, Any] | None]:
    """Return topics, data and hook."""
    if not text:
        return (), {}, None
    try:
        rest = json.loads(text.decode(errors="surrogatepass"))
    except (ValueError, RecursionError):
        raise WireError("a rest that is not JSON") from None
    if type(rest) is not dict:
        raise WireError("a rest that is no object")
    topics = _one(rest, "topics", list, [])
    for topic in topics:
        if type(topic) is not str:
            raise WireError("a topic that is no text")
        _name(topic, "a topic")
    hook = _one(rest, "hook", dict, None)
    return tuple(topics), _one(rest, "data", dict, {}), hook


def _one(rest: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """Return one value, if it is of this type, or the default if there is none."""
    if name not in rest:
        return default
    if type(rest[name]) is not kind:
        raise WireError(f"{name} is not a {kind.__name__}")
    return rest[name]


def _numbers(state: ConnectionState, bits: int) -> bytes:
    watch = state.watch
    return _NUMBERS.pack(
        bits,
        (_PAUSED if state.paused else 0) | (_FULL if state.full else 0),
        state.remote[1],
        state.control,
        len(state.session.behind),
        len(state.frames),
        state.opened_age,
        state.frozen_at,
        state.active_age,
        state.bytes_in,
        state.messages_in,
        state.bytes_out,
        state.messages_out,
        watch.checked,
        NO_INT if watch.unsigned is None else watch.unsigned,
        NO_INT if watch.message is None else watch.message,
        NO_INT if watch.stuck is None else watch.stuck,
    )


def _name(name: str, what: str) -> str:
    try:
        check_name(name, what)
    except ValueError as error:
        raise WireError(str(error)) from None
    return name
