"""A connection as bytes: all that it is comes back, and bytes that are none raise WireError and nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.errors import WireError
from wsworker.handover.packets import VersionError
from wsworker.handover.state import LARGEST, VERSION, ConnectionState, decode, encode
from wsworker.protocol.frozen import SessionState, Windows
from wsworker.protocol.rates import BucketState
from wsworker.worker.pulse import PulseState
from wsworker.worker.quota import QuotaState
from wsworker.worker.watch import WatchState

START = struct.Struct("!HI")

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
ints = st.integers(1 - LARGEST, LARGEST - 1)
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
    frames = draw(st.lists(st.binary(max_size=20), max_size=4))
    return ConnectionState(
        id=draw(texts),
        head=draw(st.binary(max_size=40)),
        remote=draw(st.tuples(texts, st.integers(0, 65535))),
        subprotocol=draw(st.none() | texts),
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
    quota=QuotaState(0.5, -1.5, 9.0, None, 10, 0, 1014),
    control_bucket=BucketState(999.0, 0.25),
    bytes_in=1,
    messages_in=2,
    bytes_out=3,
    messages_out=4,
    frozen_at=1234.5,
)


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a state, and its sections."""
    _, size = START.unpack_from(data)
    return json.loads(data[START.size : START.size + size]), data[START.size + size :]


def joined(header: object, sections: bytes, version: int = VERSION) -> bytes:
    """Return a state of these."""
    text = json.dumps(header).encode()
    return START.pack(version, len(text)) + text + sections


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return PLAIN as bytes, after a change of its header."""
    header, sections = parted(encode(PLAIN))
    change(header)
    return joined(header, sections)


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


@given(st.binary(max_size=100), st.integers(0, 120))
def test_any_bytes_behind_a_start(data: bytes, size: int) -> None:
    """Nor if the version is right."""
    with pytest.raises(WireError):
        decode(START.pack(VERSION, size) + data)


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


@given(states, st.data())
def test_a_value_that_is_another(state: ConnectionState, data: st.DataObject) -> None:
    """In any field of the header, whatever JSON has: a state, or WireError."""
    header, sections = parted(encode(state))
    place: Any = header
    while True:
        step = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not place[step] or not isinstance(place[step], (dict, list)) or data.draw(st.booleans()):
            break
        place = place[step]
    place[step] = data.draw(values)
    with contextlib.suppress(WireError):
        decode(joined(header, sections))


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
        decode(START.pack(version, 2**32 - 1))
    assert f"version {version} of a connection's state, and not {VERSION}" == caught.value.reason


def test_a_newer_one_may_say_more() -> None:
    """In any object of the header."""

    def add(header: dict[str, Any]) -> None:
        for place in (header, header["watch"], header["watch"]["pulse"], header["quota"], header["windows"]):
            place["new"] = [{"x": 1}]

    assert PLAIN == decode(changed(add))


# what is wrong is named


def test_every_field_is_needed() -> None:
    """One that is missing is named, in the records of the header too."""
    header, sections = parted(encode(PLAIN))
    for path in [[], ["watch"], ["watch", "pulse"], ["quota"], ["control_bucket"], ["windows"]]:
        whole = header
        for step in path:
            whole = whole[step]
        for name in list(whole):
            value = whole.pop(name)
            with pytest.raises(WireError) as caught:
                decode(joined(header, sections))
            assert f"{name} is missing" == caught.value.reason
            whole[name] = value
    assert PLAIN == decode(joined(header, sections))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda header: header.update(id=3), "id is not a str"),
        (lambda header: header.update(subprotocol=3), "subprotocol is not a str or NoneType"),
        (lambda header: header.update(control=True), "control is not a int"),
        (lambda header: header.update(control=1.0), "control is not a int"),
        (lambda header: header.update(control=3), "more control frames than frames"),
        (lambda header: header.update(control=-1), "more control frames than frames"),
        (lambda header: header.update(paused=1), "paused is not a bool"),
        (lambda header: header.update(opened_age="1"), "opened_age is not a float"),
        (lambda header: header.update(opened_age=True), "opened_age is not a float"),
        (lambda header: header.update(opened_age=math.inf), "opened_age is not a float"),
        (lambda header: header.update(opened_age=10**400), "opened_age is out of range"),
        (lambda header: header.update(frozen_at=math.nan), "frozen_at is not a float"),
        (lambda header: header.update(bytes_in=LARGEST), "bytes_in is out of range"),
        (lambda header: header.update(active_age=-LARGEST), "active_age is out of range"),
        (lambda header: header.update(data=[]), "data is not a dict"),
        (lambda header: header.update(hook=0), "hook is not a dict or NoneType"),
        (lambda header: header.update(watch=None), "watch is not a dict"),
        (lambda header: header["watch"].update(pulse=[]), "pulse is not a dict or NoneType"),
        (lambda header: header["watch"]["pulse"].update(left=0.5), "left is not a int"),
        (lambda header: header["quota"].update(emptied=math.inf), "emptied is not a float or NoneType"),
        (lambda header: header.update(quota=[1]), "quota is not a dict or NoneType"),
        (lambda header: header.update(remote=["a"]), "remote is not a host and a port"),
        (lambda header: header.update(remote=[1, 1]), "remote is not a host and a port"),
        (lambda header: header.update(remote=["a", True]), "remote is not a host and a port"),
        (lambda header: header.update(remote=["a", -1]), "remote is not a host and a port"),
        (lambda header: header.update(remote=["a", 65536]), "remote is not a host and a port"),
        (lambda header: header.update(topics=[1]), "topics is not a list of str"),
        (lambda header: header.update(topics="a"), "topics is not a list"),
        (lambda header: header.update(topics=[""]), "a topic has 1 to 255 bytes of UTF-8, not 0: ''"),
        (lambda header: header.update(user="a\nb"), "a user has no control characters: 'a\\nb'"),
        (lambda header: header["windows"].update(local=8), "windows that nobody can have agreed on"),
        (lambda header: header["windows"].update(remote=16), "windows that nobody can have agreed on"),
        (lambda header: header.update(texts=[True]), "of some messages nobody knows whether they are text"),
        (lambda header: header.update(texts=[1, 0]), "texts is not a list of bool"),
        (lambda header: header.update(frames=[5, True]), "frames is not a list of int"),
        (lambda header: header.update(head=header["head"] + 1), "sections that are not as long as the header says"),
        (
            lambda header: header.update(head=-1, tail=header["tail"] + header["head"] + 1),
            "sections that are not as long as the header says",
        ),
        (lambda header: header.update(behind=[1, 2]), "a text that is not UTF-8"),
    ],
)
def test_what_is_wrong(change: Callable[[dict[str, Any]], object], why: str) -> None:
    """Each by its name."""
    with pytest.raises(WireError) as caught:
        decode(changed(change))
    assert why == caught.value.reason


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "a state of 0 bytes"),
        (START.pack(VERSION, 0)[:-1], "a state of 5 bytes"),
        (START.pack(VERSION, 3) + b"{}", "a header that is longer than the state"),
        (START.pack(VERSION, 1) + b"{", "a header that is not JSON"),
        (START.pack(VERSION, 1) + b"\xff", "a header that is not JSON"),
        (START.pack(VERSION, 10**5) + b"[" * 10**5, "a header that is not JSON"),
        (START.pack(VERSION, 5000) + b"1" * 5000, "a header that is not JSON"),
        (joined([], b""), "a header that is no object"),
    ],
)
def test_what_is_no_state(data: bytes, why: str) -> None:
    """Before any field is looked at."""
    with pytest.raises(WireError) as caught:
        decode(data)
    assert why == caught.value.reason


def test_an_int_does_for_a_float() -> None:
    """JSON has numbers: another writer may leave out what is behind the point."""
    state = decode(changed(lambda header: header.update(opened_age=3)))
    assert (3.0, float) == (state.opened_age, type(state.opened_age))
