"""State: all that a connection is, as one value and as bytes, so that another process can go on from it.

    u16 version | u32 length of the header | header | sections

All numbers are big-endian. The header is one JSON object with the fields of ConnectionState. What is binary stands in
sections behind it, which in the header are replaced by their lengths: the head, what was not decoded, each message that
was decoded and not handled, the tail, each frame. JSON, because nothing in it can run code on arrival, as pickle would,
and because a field that is not known can be passed over: a newer version may add some. One that takes or changes a
field counts VERSION up, and then connections are not moved but drained.

Lone surrogates, which a str of Python may hold, stand in its UTF-8 as they are: two of them that happen to make a pair
would come back as one character if they were written as escapes.

No clock of this process is one of the other's, so all times are ages: now, less the moment, in seconds or in ticks of
wheel.py. But for two moments on CLOCK_MONOTONIC, which all processes of a machine share: frozen_at, and the last ping.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_type_hints

from wsworker.bus.topics import check_name
from wsworker.errors import WireError
from wsworker.handover.packets import VersionError
from wsworker.protocol.frozen import SessionState, Windows
from wsworker.protocol.rates import BucketState
from wsworker.worker.pulse import PulseState
from wsworker.worker.quota import QuotaState
from wsworker.worker.watch import WatchState

VERSION: Final = 1

LARGEST: Final = 2**63
"""Ints in the fields are nearer to 0: what is counted here is counted in 64 bits elsewhere."""

Record = TypeVar("Record")

_START: Final = struct.Struct("!HI")
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


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


def _shape(record: type) -> dict[str, tuple[type, ...]]:
    """Return the fields of a record, and which types each of them may have."""
    return {name: get_args(hint) or (hint,) for name, hint in get_type_hints(record).items()}


_SPECIAL: Final = frozenset(["head", "remote", "session", "tail", "frames", "topics", "data", "hook"])
_RECORDS: Final = (Windows, WatchState, PulseState, QuotaState, BucketState)
_SHAPES: Final[Mapping[type, Mapping[str, tuple[type, ...]]]] = {record: _shape(record) for record in _RECORDS}
_PLAIN: Final = {
    name: kinds
    for name, kinds in _shape(ConnectionState).items()
    if name not in _SPECIAL and not set(kinds) & set(_RECORDS)
}
"""The fields that stand in the header as they are, and their types."""

_DICT: Final = (dict,)
_DICT_OR_NONE: Final = (dict, type(None))
_INT: Final = (int,)
_NUMBERS: Final = (int, float)
_RIGHT: Final[set[tuple[type, ...]]] = set()
"""Types of the fields of records that were found to be right; there are few."""

_LIST: Final = (list,)


def encode(state: ConnectionState) -> bytes:
    """Return the state as bytes. Raises nothing if data and hook are what they must be."""
    behind = [(type(message) is str, _binary(message)) for message in state.session.behind]
    header = {name: getattr(state, name) for name in _PLAIN} | {
        "remote": state.remote,
        "topics": state.topics,
        "data": state.data,
        "hook": state.hook,
        "watch": state.watch._asdict() | {"pulse": _as_dict(state.watch.pulse)},
        "quota": _as_dict(state.quota),
        "control_bucket": _as_dict(state.control_bucket),
        "windows": _as_dict(state.session.windows),
        "texts": [is_text for is_text, _ in behind],
        "head": len(state.head),
        "unread": len(state.session.unread),
        "behind": [len(message) for _, message in behind],
        "tail": len(state.tail),
        "frames": [len(frame) for frame in state.frames],
    }
    text = _JSON.encode(header).encode(errors="surrogatepass")
    sections = [state.head, state.session.unread, *(message for _, message in behind), state.tail, *state.frames]
    return b"".join([_START.pack(VERSION, len(text)), text, *sections])


def decode(data: bytes) -> ConnectionState:
    """Return the state in these bytes. WireError for anything else, VersionError for another version."""
    if len(data) < _START.size:
        raise WireError(f"a state of {len(data)} bytes")
    version, size = _START.unpack_from(data)
    if version != VERSION:
        raise VersionError(f"version {version} of a connection's state, and not {VERSION}")
    begin = _START.size + size
    if begin > len(data):
        raise WireError("a header that is longer than the state")
    header = _header(data[_START.size : begin])
    texts, behind, frames = _list(header, "texts", bool), _list(header, "behind", int), _list(header, "frames", int)
    if len(texts) != len(behind):
        raise WireError("of some messages nobody knows whether they are text")
    lengths = [_one(header, "head", _INT), _one(header, "unread", _INT), *behind, _one(header, "tail", _INT), *frames]
    head, unread, *rest = _sections(data, begin, lengths)
    tail, messages, parts = rest[len(behind)], rest[: len(behind)], rest[len(behind) + 1 :]
    both = zip(messages, texts, strict=True)
    return ConnectionState(
        head=head,
        session=SessionState(unread, tuple(_message(part, is_text) for part, is_text in both), _windows(header)),
        tail=tail,
        frames=tuple(parts),
        remote=_remote(header),
        topics=tuple(_name(topic) for topic in _list(header, "topics", str)),
        data=_one(header, "data", _DICT),
        hook=_one(header, "hook", _DICT_OR_NONE),
        watch=_watch(header),
        quota=_optional(QuotaState, header, "quota"),
        control_bucket=_optional(BucketState, header, "control_bucket"),
        **_fields(header, len(parts)),
    )


def _binary(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _as_dict(record: Any) -> dict[str, Any] | None:
    return None if record is None else record._asdict()


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(errors="surrogatepass"))
    except (ValueError, RecursionError):
        raise WireError("a header that is not JSON") from None
    if type(header) is not dict:
        raise WireError("a header that is no object")
    return header


def _sections(data: bytes, begin: int, lengths: list[int]) -> list[bytes]:
    """Return what the lengths say, which must be all that there is."""
    if min(lengths) < 0 or sum(lengths) != len(data) - begin:
        raise WireError("sections that are not as long as the header says")
    found = []
    for length in lengths:
        found.append(data[begin : begin + length])
        begin += length
    return found


def _message(data: bytes, is_text: bool) -> str | bytes:
    try:
        return data.decode() if is_text else data
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None


def _fields(header: dict[str, Any], frames: int) -> dict[str, Any]:
    """Return the fields that stand in the header as they are."""
    values = dict(zip(_PLAIN, _values(ConnectionState, header, _PLAIN), strict=True))
    if not 0 <= values["control"] <= frames:
        raise WireError("more control frames than frames")
    if values["user"] is not None:
        _name(values["user"], "a user")
    return values


def _remote(header: dict[str, Any]) -> tuple[str, int]:
    pair = _one(header, "remote", _LIST)
    if len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not int or not 0 <= pair[1] < 2**16:
        raise WireError("remote is not a host and a port")
    return pair[0], pair[1]


def _windows(header: dict[str, Any]) -> Windows | None:
    windows = _optional(Windows, header, "windows")
    if windows is not None and not windows.right:
        raise WireError("windows that nobody can have agreed on")
    return windows


def _watch(header: dict[str, Any]) -> WatchState:
    values = _one(header, "watch", _DICT)
    return _record(WatchState, values | {"pulse": _optional(PulseState, values, "pulse")})


def _optional(kind: type[Record], header: dict[str, Any], name: str) -> Record | None:
    values = _one(header, name, _DICT_OR_NONE)
    return None if values is None else _record(kind, values)


def _record(kind: type[Record], values: dict[str, Any]) -> Record:
    """Return one of our records of plain values."""
    return kind(*_values(kind, values, _SHAPES[kind]))


def _values(owner: type, values: dict[str, Any], shape: Mapping[str, tuple[type, ...]]) -> list[Any]:
    """Return the values of the fields of a record, in its order; as for _one.

    Nearly all are of types that were right before, and then they are looked at together: there are forty of each
    connection.
    """
    try:
        found = [values[name] for name in shape]
        is_right = (owner, *map(type, found)) in _RIGHT
    except KeyError:
        is_right = False
    if is_right and all(-LARGEST < value < LARGEST for value in found if value.__class__ in _NUMBERS):
        return found
    found = [_one(values, name, kinds) for name, kinds in shape.items()]
    if all(type(value) is type(values[name]) for name, value in zip(shape, found, strict=True)):
        _RIGHT.add((owner, *map(type, found)))
    return found


def _list(header: dict[str, Any], name: str, kind: type[Record]) -> list[Record]:
    values = _one(header, name, _LIST)
    if any(type(value) is not kind for value in values):
        raise WireError(f"{name} is not a list of {kind.__name__}")
    return values  # type: ignore[no-any-return]


def _one(values: dict[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    """Return one value, if it is of this type; an int will do for a float, a bool for neither."""
    if name not in values:
        raise WireError(f"{name} is missing")
    value = values[name]
    if type(value) is int and not -LARGEST < value < LARGEST:
        raise WireError(f"{name} is out of range")
    if type(value) is int and int not in kinds and float in kinds:
        value = float(value)
    if type(value) not in kinds or (type(value) is float and not isfinite(value)):
        raise WireError(f"{name} is not a {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def _name(name: str, what: str = "a topic") -> str:
    try:
        check_name(name, what)
    except ValueError as error:
        raise WireError(str(error)) from None
    return name
