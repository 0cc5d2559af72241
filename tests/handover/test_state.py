"""A connection as bytes: all that it is comes back, and bytes that are none raise WireError and nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.errors import WireError
from wsworker.handover import state as module
from wsworker.handover.packets import VersionError
from wsworker.handover.state import NO_INT, VERSION, ConnectionState, decode, encode
from wsworker.protocol.frozen import SessionState, Windows
from wsworker.protocol.rates import BucketState
from wsworker.worker.pulse import PulseState
from wsworker.worker.quota import QuotaState
from wsworker.worker.watch import WatchState

START, NUMBERS, LENGTHS = module._START, module._NUMBERS, module._LENGTHS

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    # surrogates too, alone or in what would be a pair
    | st.text(st.characters() | st.sampled_from("\ud83d\ude00")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(st.characters()), values, max_size=4)
ints = st.integers(NO_INT + 1, -NO_INT - 1)
counts = st.integers(0, 2**32 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
pulses = st.builds(PulseState, ints, st.none() | ints, ints, st.none() | floats, st.none() | floats)
watches = st.builds(WatchState, ints, st.none() | ints, st.none() | ints, st.none() | ints, st.none() | pulses)
quotas = st.builds(QuotaState, floats, floats, floats, st.none() | floats, ints, ints, ints)
windows = st.none() | st.builds(Windows, st.integers(8, 15), st.integers(9, 15))
sessions = st.builds(
    SessionState, st.binary(max_size=40), st.lists(texts | st.binary(max_size=20), max_size=4).map(tuple), windows
)


@st.composite
def drawn(draw: st.DrawFn) -> ConnectionState:
    """Return any state."""
    frames = draw(st.lists(st.binary(min_size=2, max_size=20), max_size=4))
    return ConnectionState(
        id=draw(texts),
        head=draw(st.binary(max_size=40)),
        remote=draw(st.tuples(texts, st.integers(0, 65535))),
        subprotocol=draw(st.none() | names),
        session=draw(sessions),
        tail=draw(st.binary(max_size=20)),
        frames=tuple(frames),
        control=draw(st.integers(0, len(frames))),
        user=draw(st.none() | names),
        topics=tuple(draw(st.lists(names, max_size=4))),
        data=draw(objects),
        hook=draw(st.none() | objects),
        paused=draw(st.booleans()),
        full=draw(st.booleans()),
        opened_age=draw(floats),
        active_age=draw(ints),
        watch=draw(watches),
        quota=draw(st.none() | quotas),
        control_bucket=draw(st.none() | st.builds(BucketState, floats, floats)),
        bytes_in=draw(ints),
        messages_in=draw(ints),
        bytes_out=draw(ints),
        messages_out=draw(ints),
        frozen_at=draw(floats),
    )


states = drawn()

QUOTA = QuotaState(0.5, -1.5, 9.0, None, 10, 0, 1014)
PLAIN = ConnectionState(
    id="w1-1",
    head=b"GET / HTTP/1.1\r\n\r\n",
    remote=("192.0.2.7", 5000),
    subprotocol=None,
    session=SessionState(b"\x81\x85ab", ("é", b"c"), Windows(15, 9)),
    tail=b"tail",
    frames=(b"frame", b"\x89\0"),
    control=1,
    user="ada",
    topics=("room:1",),
    data={"cart": [1, 2.5, None]},
    hook={"step": "é"},
    paused=False,
    full=False,
    opened_age=12.5,
    active_age=3,
    watch=WatchState(1, None, 4, None, PulseState(7, None, 2, None, 0.01)),
    quota=QUOTA,
    control_bucket=BucketState(999.0, 0.25),
    bytes_in=1,
    messages_in=2,
    bytes_out=3,
    messages_out=4,
    frozen_at=1234.5,
)


def joined(numbers: dict[str, Any], behind: bytes) -> bytes:
    """Return PLAIN as bytes, with other numbers; behind: what stands behind these."""
    found = module._Numbers._make(NUMBERS.unpack_from(encode(PLAIN), START.size))._replace(**numbers)
    return START.pack(VERSION) + NUMBERS.pack(*found) + behind


def behind_numbers(state: ConnectionState = PLAIN) -> bytes:
    """Return what stands behind the numbers of a state."""
    return encode(state)[START.size + NUMBERS.size :]


def with_rest(rest: bytes) -> bytes:
    """Return PLAIN as bytes, with another rest."""
    data, before = encode(PLAIN), encode(PLAIN._replace(topics=(), data={}, hook=None))
    # the same up to the length of the rest, and the same behind it
    lengths = before.index(LENGTHS.pack(4, 9, 0, 3, 18, 0, 4, 4))
    place = before.index(PLAIN.head) + len(PLAIN.head)
    assert len(data) > len(before)
    length = LENGTHS.pack(4, 9, 0, 3, 18, len(rest), 4, 4)
    return before[:lengths] + length + before[lengths + LENGTHS.size : place] + rest + before[place:]


def types(value: object) -> object:
    """Return the types of all that is in a value, which equality alone does not see."""
    if isinstance(value, dict):
        return {key: types(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [types(inner) for inner in value]
    return type(value)


@given(states)
def test_all_comes_back(state: ConnectionState) -> None:
    """Equal, and of the same types."""
    other = decode(encode(state))
    assert state == other
    assert [types(value) for value in state] == [types(value) for value in other]


def test_nan_comes_back() -> None:
    """In what is the user's; it is not equal to itself, hence by itself."""
    data = decode(encode(PLAIN._replace(data={"a": math.nan, "b": -math.inf}))).data
    assert (True, -math.inf) == (math.isnan(data["a"]), data["b"])


def test_surrogates_stay_two() -> None:
    """Two that could be one character, in a value and in a key, beside that character."""
    data = {"\ud83d\ude00": ["\ud83d\ude00", "\ud83d", "😀"], "😀": 1}
    assert data == decode(encode(PLAIN._replace(data=data))).data


def test_it_is_small() -> None:
    """What waits is not told in JSON, and costs its own size."""
    large = PLAIN._replace(tail=bytes(10**6), frames=(bytes(10**6),), control=0)
    assert len(encode(large)) - len(encode(PLAIN)) < 2 * 10**6 + 20


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Nothing but WireError is raised."""
    with pytest.raises(WireError):
        decode(data)


@given(st.binary(max_size=400))
def test_any_bytes_behind_a_version(data: bytes) -> None:
    """Nor if the version is right."""
    with contextlib.suppress(WireError):
        assert encode(decode(START.pack(VERSION) + data))


@given(states, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_that_are_wrong(state: ConnectionState, changes: list[tuple[int, int]]) -> None:
    """A state that is another one, or WireError."""
    data = bytearray(encode(state))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        other = decode(bytes(data))
    except WireError:
        return
    assert encode(other)


@given(states, st.dictionaries(st.sampled_from(["behind", "frames", "control"]), counts, min_size=1))
def test_counts_that_are_others(state: ConnectionState, numbers: dict[str, int]) -> None:
    """However large: a state, or WireError, and no memory is taken for what is not there."""
    with contextlib.suppress(WireError):
        assert encode(decode(joined(numbers, behind_numbers(state))))


@given(states, st.integers(0, 10**6))
def test_a_state_that_is_cut(state: ConnectionState, place: int) -> None:
    """It is none; and so is one with something behind it."""
    data = encode(state)
    for wrong in (data[: place % len(data)], data + b"x"):
        with pytest.raises(WireError):
            decode(wrong)


# versions


@pytest.mark.parametrize("version", [0, VERSION + 1, 65535])
def test_another_version(version: int) -> None:
    """It is told apart from a fault, and nothing of it is looked at."""
    with pytest.raises(VersionError) as caught:
        decode(START.pack(version))
    assert f"version {version} of a connection's state, and not {VERSION}" == caught.value.reason


def test_a_newer_one_may_say_more() -> None:
    """In the rest."""
    rest = {"topics": PLAIN.topics, "data": PLAIN.data, "hook": PLAIN.hook, "new": [{"x": 1}]}
    assert PLAIN == decode(with_rest(json.dumps(rest).encode()))


# what is wrong is named


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ({"control": 3}, "more control frames than frames"),
        ({"opened_age": math.inf}, "a time that is no number"),
        ({"frozen_at": math.nan}, "a time that is no number"),
        ({"records": 16 + 15}, "records that nobody knows"),
        ({"flags": 4}, "flags that nobody knows"),
        ({"flags": 128 + 1}, "flags that nobody knows"),
        ({"behind": 1}, "sections that are not as long as the lengths say"),
        ({"behind": 2**32 - 1}, "a state that ends too early"),
        ({"frames": 2**32 - 1}, "a state that ends too early"),
    ],
)
def test_numbers_that_are_wrong(numbers: dict[str, Any], why: str) -> None:
    """Those of which not all are possible."""
    with pytest.raises(WireError) as caught:
        decode(joined(numbers, behind_numbers()))
    assert why == caught.value.reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"quota": QUOTA._replace(messages=math.nan)}, "messages is no number"),
        ({"quota": QUOTA._replace(bytes=-math.inf)}, "an infinite number in a QuotaState"),
        ({"quota": QUOTA._replace(emptied=math.inf)}, "an infinite number in a QuotaState"),
        ({"quota": QUOTA._replace(rate_bytes=NO_INT)}, "rate_bytes is no number"),
        ({"control_bucket": BucketState(1.0, math.nan)}, "age is no number"),
        ({"frames": (b"frame", b"")}, "a frame of less than 2 bytes"),
        ({"frames": (b"x", b"frame"), "control": 0}, "a frame of less than 2 bytes"),
        ({"session": SessionState(windows=Windows(15, 8))}, "windows that nobody can have agreed on"),
        ({"session": SessionState(windows=Windows(16, 9))}, "windows that nobody can have agreed on"),
        ({"user": "a\nb"}, "a user has no control characters: 'a\\nb'"),
        ({"topics": ("",)}, "a topic has 1 to 255 bytes of UTF-8, not 0: ''"),
        ({"topics": (1,)}, "a topic that is no text"),
    ],
)
def test_fields_that_are_wrong(change: dict[str, Any], why: str) -> None:
    """Each by its name."""
    with pytest.raises(WireError) as caught:
        decode(encode(PLAIN._replace(**change)))
    assert why == caught.value.reason


def test_the_least_of_ints_is_none_among_ints_alone() -> None:
    """As a float it is a number."""
    state = PLAIN._replace(quota=QUOTA._replace(messages=float(NO_INT), emptied=float(NO_INT)))
    assert state == decode(encode(state))


def test_a_message_is_text_or_binary() -> None:
    """By a byte that is 0 or 1."""
    kinds, data = b"\1\0w1-1", encode(PLAIN)
    assert 1 == data.count(kinds)
    with pytest.raises(WireError) as caught:
        decode(data.replace(kinds, b"\1\2w1-1"))
    assert "a message that is neither text nor binary" == caught.value.reason


def test_what_cannot_be_said() -> None:
    """A text that is not UTF-8, and a number without a place; an empty name is none."""
    texts: list[dict[str, Any]] = [{name: "\ud800"} for name in ("id", "subprotocol", "user")]
    for change in (*texts, {"remote": ("\ud800", 1)}):
        with pytest.raises(UnicodeEncodeError):
            encode(PLAIN._replace(**change))
    large: list[dict[str, Any]] = [{"remote": ("h", 65536)}, {"bytes_in": 2**63}, {"control": -1}]
    for change in large:
        with pytest.raises(struct.error):
            encode(PLAIN._replace(**change))
    other = decode(encode(PLAIN._replace(user="", subprotocol="")))
    assert (None, None) == (other.user, other.subprotocol)


@pytest.mark.parametrize("place", [b"ada", "é".encode()])
def test_texts_that_are_none(place: bytes) -> None:
    """A name, and a message."""
    with pytest.raises(WireError) as caught:
        decode(encode(PLAIN._replace(hook=None)).replace(place, b"\xff" * len(place), 1))
    assert "a text that is not UTF-8" == caught.value.reason


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        (b"{", "a rest that is not JSON"),
        (b"\xff", "a rest that is not JSON"),
        (b"[" * 10**5, "a rest that is not JSON"),
        (b"1" * 5000, "a rest that is not JSON"),
        (b"[]", "a rest that is no object"),
        (b'{"topics":"a"}', "topics is not a list"),
        (b'{"data":[]}', "data is not a dict"),
        (b'{"hook":null}', "hook is not a dict"),
    ],
)
def test_a_rest_that_is_wrong(rest: bytes, why: str) -> None:
    """What nobody has written."""
    with pytest.raises(WireError) as caught:
        decode(with_rest(rest))
    assert why == caught.value.reason


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "a state of 0 bytes"),
        (b"\0", "a state of 1 bytes"),
        (START.pack(VERSION), "a state that ends too early"),
        (joined({}, b""), "a state that ends too early"),
        (joined({"records": 0}, b""), "a state that ends too early"),
    ],
)
def test_what_is_no_state(data: bytes, why: str) -> None:
    """However short it is."""
    with pytest.raises(WireError) as caught:
        decode(data)
    assert why == caught.value.reason
