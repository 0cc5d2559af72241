"""Payloads: what goes into a broker's message comes out of it, and nothing else does."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bus.test_records import envelopes, keys
from wsworker.bus.broker.payload import EXTRA_BYTES, OUTSIDE, Payload, Writer, decode, is_from
from wsworker.bus.losses import Gap
from wsworker.bus.records import PART_BYTES, Type, encode_close
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin
from wsworker.errors import WireError

NEWS, ADA = Key("topic", "news"), Key("user", "ada")
ME = Writer(Origin("srv.1", 7))

nodes = st.text(st.characters(codec="utf-8"), max_size=60)
origins = st.builds(Origin, nodes, st.integers(0, 2**32 - 1))


@given(origins, envelopes)
def test_envelopes_come_back(origin: Origin, envelope: Envelope) -> None:
    """Body, mark and kind, for everybody who may publish; only a user's connections can be closed."""
    data = Writer(origin).envelope(envelope)
    assert len(data) <= len(envelope.body) + EXTRA_BYTES
    if envelope.closes and envelope.key.kind != "user":
        with pytest.raises(WireError, match=f"CLOSE in the channel of a {envelope.key.kind}"):
            decode(data).envelope(envelope.key)
    else:
        assert envelope == decode(data).envelope(envelope.key)
        assert origin == decode(data).origin


@given(origins, st.integers(1, 2**32 - 1), st.none() | st.frozensets(keys, min_size=1, max_size=5))
def test_gaps_come_back(origin: Origin, lost: int, several: frozenset[Key] | None) -> None:
    """With the keys that have lost something, or with none for all."""
    assert Gap(lost, several) == decode(Writer(origin).gap(Gap(lost, several))).gap()


def test_a_gap_of_many_keys() -> None:
    """One that would be too long concerns any key."""
    many = frozenset(Key("topic", f"{number:0255}") for number in range(PART_BYTES // 255))
    data = ME.gap(Gap(5, many))
    assert Gap(5, None) == decode(data).gap()


@given(origins, st.integers(0, 2**64 - 1))
def test_probes_come_back(origin: Origin, clock_ns: int) -> None:
    """With their clock."""
    assert clock_ns == decode(Writer(origin).probe(clock_ns)).clock_ns()


@given(origins, origins)
def test_own_copies_are_known(origin: Origin, other: Origin) -> None:
    """By the node, whichever worker it was."""
    data = Writer(origin).envelope(Envelope(NEWS, b"x"))
    assert is_from(origin.node.encode(), data)
    assert (origin.node == other.node) == is_from(other.node.encode(), data)


def test_the_bytes_of_the_documentation() -> None:
    """A program in another language needs sixteen bytes and the body."""
    assert b"\x01\x04" + bytes(14) + b"hello" == Writer(OUTSIDE).envelope(Envelope(NEWS, b"hello"))
    program = Writer(Origin("", 0xA1B2C3D4))
    assert b"\x01\x04\x01\x00\xa1\xb2\xc3\xd4" + bytes(7) + b"\x02\xff" == program.envelope(
        Envelope(NEWS, b"\xff", binary=True, number=2)
    )
    assert b"\x01\x05\x00\x05\x00\x00\x00\x07" + bytes(6) + b"\x01\x00srv.1\x0f\xa1bye" == ME.envelope(
        Envelope(ADA, encode_close(4001, "bye"), closes=True, number=256)
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes is too short"),
        (b"\x01\x04" + bytes(13), "15 bytes is too short"),
        (b"\x02\x04" + bytes(14) + b"x", "version 2 and not 1"),
        (b'{"data": "123456"}', "version 123"),
        (b"\x01\x01" + bytes(14) + b"x", "no type 1"),
        (b"\x01\xff" + bytes(14) + b"x", "no type 255"),
        (b"\x01\x04\x02" + bytes(13) + b"x", "flags 0x2"),
        (b"\x01\x04\x00\x02" + bytes(12) + b"x", "node is longer"),
        (b"\x01\x04\x00\x01" + bytes(12) + b"\xff", "node is not UTF-8"),
    ],
)
def test_what_is_no_payload(data: bytes, words: str) -> None:
    """Each part is judged."""
    with pytest.raises(WireError, match=words):
        decode(data)


@pytest.mark.parametrize(
    ("payload", "read", "words"),
    [
        (Payload(Type.GAP, False, b""), lambda one: one.envelope(NEWS), "GAP in the channel of a topic"),
        (Payload(Type.PROBE, False, b""), lambda one: one.envelope(ADA), "PROBE in the channel of a user"),
        (Payload(Type.CLOSE, False, b""), lambda one: one.envelope(EVERYBODY), "CLOSE in the channel of a broadcast"),
        (Payload(Type.MESSAGE, False, b""), Payload.gap, "MESSAGE of 0 bytes in the channel of the service"),
        (Payload(Type.GAP, False, b""), Payload.gap, "too short"),
        (Payload(Type.GAP, False, b"\0\0\0\x01\0"), Payload.gap, "nothing is missing"),
        (Payload(Type.GAP, False, b"\0" * (PART_BYTES + 65)), Payload.gap, "GAP of 49217 bytes"),
        (Payload(Type.CLOSE, False, b"\0" * 8), Payload.clock_ns, "CLOSE of 8 bytes in the channel of a worker"),
        (Payload(Type.PROBE, False, b"\0" * 7), Payload.clock_ns, "PROBE of 7 bytes"),
        (Payload(Type.PROBE, False, b"\0" * 9), Payload.clock_ns, "PROBE of 9 bytes"),
    ],
)
def test_what_is_in_the_wrong_place(payload: Payload, read: Callable[[Payload], object], words: str) -> None:
    """Each type belongs into channels of its own, and has its own form."""
    with pytest.raises(WireError, match=words):
        read(payload)


heads = st.builds(
    struct.Struct("!BBBBIQ").pack,
    st.sampled_from([0, 1, 1, 1, 2]),
    st.integers(0, 9),
    st.sampled_from([0, 0, 1, 2]),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
)


@given(st.binary(max_size=60) | st.builds(bytes.__add__, heads, st.binary(max_size=40)))
def test_any_bytes(data: bytes) -> None:
    """Whatever somebody sends is read or refused."""
    is_from(b"srv.1", data)
    for read in (lambda one: one.envelope(ADA), lambda one: one.envelope(NEWS), Payload.gap, Payload.clock_ns):
        with contextlib.suppress(WireError):
            read(decode(data))
