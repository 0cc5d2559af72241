"""What travels between workers: every record comes back as it went, however its bytes are cut."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus import records
from wsworker.bus.losses import Gap
from wsworker.bus.records import (
    BINARY,
    EXTRA_BYTES,
    FIRST_BYTES,
    LAST,
    PART_BYTES,
    Hello,
    Reader,
    Record,
    Type,
    encode,
)
from wsworker.bus.topics import EVERYBODY, Envelope, Key
from wsworker.errors import WireError

MOST = 4096
HELLO = encode(Type.HELLO)

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
keys = st.builds(Key, st.sampled_from(["topic", "user"]), names)
numbers = st.integers(0, 2**64 - 1)
envelopes = st.one_of(
    st.builds(Envelope, keys, st.binary(max_size=300), st.booleans(), st.booleans(), numbers),
    st.builds(Envelope, st.just(EVERYBODY), st.binary(max_size=300), st.booleans(), number=numbers),
)


def read(data: bytes, most: int = MOST) -> tuple[list[Record], str]:
    """Return the records behind a first one, and the fault."""
    reader = Reader(most)
    _, *found = reader.feed(HELLO + data)
    return found, reader.fault


@given(st.lists(envelopes, max_size=4), st.data())
def test_envelopes_come_back_at_every_split(several: list[Envelope], data: Any) -> None:
    """What was put in comes out, in its order, in however many pieces it came."""
    stream = HELLO + b"".join(map(records.encode_envelope, several))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = Reader(MOST)
    found: list[Record] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[begin:end])
    assert several == [record.envelope for record in found[1:]]
    assert "" == reader.fault


def test_every_byte_by_itself() -> None:
    """One record, a byte at a time: it is there with its last byte and not before."""
    stream = HELLO + records.encode_envelope(Envelope(Key("topic", "é"), b"body", True))
    reader = Reader(MOST)
    found = [len(reader.feed(stream[at : at + 1])) for at in range(len(stream))]
    assert [len(HELLO) - 1, len(stream) - 1] == [at for at, count in enumerate(found) if count]


@given(st.binary(max_size=200), st.data())
def test_any_bytes_mean_the_same_at_every_split(junk: bytes, data: Any) -> None:
    """Records before a fault count, however the bytes were cut; nothing is raised, and nothing is read after it."""
    stream = HELLO + records.encode_envelope(Envelope(EVERYBODY, b"x")) + junk
    whole = Reader(MOST)
    expected = whole.feed(stream)
    cut = data.draw(st.integers(0, len(stream)))
    parts = Reader(MOST)
    assert expected == parts.feed(stream[:cut]) + parts.feed(stream[cut:])
    assert whole.fault == parts.fault
    if whole.fault:
        assert [] == whole.feed(HELLO)


@pytest.mark.parametrize("length", [0, 3, MOST + 1, 2**31, 2**32 - 1])
def test_a_declared_length_is_judged_before_anything_is_kept(length: int) -> None:
    """Four bytes are enough."""
    reader = Reader(MOST)
    reader.feed(HELLO)
    assert [] == reader.feed(struct.pack("!I", length))
    assert f"a record of {length} bytes, and not 4 to {MOST}" == reader.fault
    assert b"" == bytes(reader._buffer)


def test_the_first_record_is_trusted_with_less() -> None:
    """A stranger cannot have us keep a megabyte; behind the first record the limit is the real one."""
    reader = Reader(10**6)
    reader.feed(struct.pack("!I", FIRST_BYTES + 1))
    assert f"a record of {FIRST_BYTES + 1} bytes, and not 4 to {FIRST_BYTES}" == reader.fault
    assert 1 == len(read(encode(Type.MESSAGE, bytes(5000), name="a"), 10**6)[0])


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (b"\0\0\0\4\x0b\0\0\0", "there is no type 11"),
        (b"\0\0\0\4\0\0\0\0", "there is no type 0"),
        (b"\0\0\0\4\4\x10\0\0", "unknown flags 0x10"),
        (b"\0\0\0\4\4\x80\0\0", "unknown flags 0x80"),
        (b"\0\0\0\4\4\0\0\1", "a name is longer than its record"),
        (b"\0\0\0\x0c\4\0\0\1a1234567", "a message without a number"),
        (b"\0\0\0\4\5\0\0\0", "a message without a number"),
        (b"\0\0\0\5\6\0\0\1\xff", "what should be text is not UTF-8"),
    ],
)
def test_what_is_no_record(record: bytes, fault: str) -> None:
    """It is named, and what came before it counts."""
    good = records.encode_envelope(Envelope(EVERYBODY, b"x"))
    found, why = read(good + record + good)
    assert (1, fault) == (len(found), why)


@pytest.mark.parametrize(
    ("flags", "name", "reason"),
    [
        (0, "", "a topic has 1 to 255 bytes"),
        (0, "a" * 256, "a topic has 1 to 255 bytes"),
        (2, "a\nb", "no control characters"),
        (4, "a", "a broadcast has a name"),
        (6, "a", "there is no kind 3"),
    ],
)
def test_a_key_that_is_none(flags: int, name: str, reason: str) -> None:
    """The rules of names hold between workers as well."""
    with pytest.raises(WireError, match=reason):
        _ = Record(Type.MESSAGE, flags, name, b"").key


@given(st.sets(keys, max_size=8), st.sets(keys, max_size=8))
def test_lists_of_keys(wanted: set[Key], dropped: set[Key]) -> None:
    """What is wanted and what is no more, each in its list."""
    (part,) = records.join_keys(
        [*map(records.encode_key, wanted), *(records.encode_key(key, dropped=True) for key in dropped)]
    )
    found = records.decode_keys(part)
    assert (wanted, dropped) == (set(found[0]), set(found[1]))


def test_long_lists_go_in_parts() -> None:
    """Each fits into the smallest record that a peer may take; the last one of a snapshot is marked."""
    many = [Key("topic", f"{number:0255}") for number in range(1000)]
    stream = b"".join(records.encode_snapshot(map(records.encode_key, many)))
    found, fault = read(stream, EXTRA_BYTES)
    assert "" == fault
    assert len(found) > 4
    assert [0] * (len(found) - 1) + [LAST] == [record.flags for record in found]
    assert all(len(record.body) <= PART_BYTES for record in found)
    assert many == [key for record in found for key in records.decode_keys(record.body)[0]]
    (empty,), _ = read(b"".join(records.encode_snapshot([])))
    assert (LAST, b"") == (empty.flags, empty.body)


def test_a_change_of_interest() -> None:
    """One record for a tick."""
    (record,), _ = read(b"".join(records.encode_interest({Key("topic", "a"): True, Key("user", "a"): False})))
    assert (Type.INTEREST, ([Key("topic", "a")], [Key("user", "a")])) == (record.type, records.decode_keys(record.body))


@pytest.mark.parametrize("body", [b"\0", b"\0\0\2a", b"\3\0\1a", b"\2\0\1a", b"\0\0\0", b"\0\0\1\xff", b"\0\0\1\n"])
def test_a_list_of_keys_that_is_broken(body: bytes) -> None:
    """Cut, of no kind, or with names that are none."""
    with pytest.raises(WireError):
        records.decode_keys(body)


@pytest.mark.parametrize("gap", [Gap(3, frozenset({Key("topic", "a"), EVERYBODY})), Gap(7, None)])
def test_gaps(gap: Gap) -> None:
    """How many, and whose."""
    (record,), _ = read(records.encode_gap(gap))
    assert gap == records.decode_gap(record.body)


def test_a_gap_of_too_many_keys_concerns_any() -> None:
    """Never more than a part; a count that is too large is the largest one."""
    many = frozenset(Key("topic", f"{number:0255}") for number in range(500))
    (record,), _ = read(records.encode_gap(Gap(2**40, many)), EXTRA_BYTES)
    assert Gap(2**32 - 1, None) == records.decode_gap(record.body)


@pytest.mark.parametrize(
    ("record", "decoded", "decode"),
    [
        (records.encode_hello(Hello(b"s" * 16, 7, 2, 999, "né")), Hello(b"s" * 16, 7, 2, 999, "né"), "decode_hello"),
        (encode(Type.CLOSE, records.encode_close(4000, "é")), (4000, "é"), "decode_close"),
        (records.encode_probe(2**60), (2**60, False), "decode_probe"),
        (records.encode_probe(1, answer=True), (1, True), "decode_probe"),
        (records.encode_accepted(5), 5, "decode_accepted"),
    ],
)
def test_bodies(record: bytes, decoded: object, decode: str) -> None:
    """Each comes back as it went, and a body that is cut is none."""
    (found,), _ = read(record)
    decoder: Callable[[bytes], object] = getattr(records, decode)
    assert decoded == decoder(found.body)
    with pytest.raises(WireError, match="is too short"):
        decoder(found.body[:1])


def test_a_greeting_shows_no_secret() -> None:
    """Wherever one may be printed, such as in a traceback."""
    hello = Hello(b"0123456789abcdef", 7, 2, 999, "node")
    assert "<Hello of worker 7 in slot 2 of node>" == repr(hello) == str(hello)


def test_binary_is_marked() -> None:
    """Text and bytes are told apart by a flag."""
    for binary in (False, True):
        (record,), _ = read(records.encode_envelope(Envelope(Key("topic", "a"), b"x", binary)))
        assert (BINARY if binary else 0) == record.flags


def test_a_gap_of_unknown_size() -> None:
    """Nobody knows what a worker had that has died."""
    for gap in (Gap(0, None), Gap(0, frozenset({EVERYBODY}))):
        (record,), _ = read(records.encode_gap(gap))
        assert gap == records.decode_gap(record.body)


def test_a_gap_in_which_nothing_is_missing() -> None:
    """There would be nothing to say of it, neither in the log nor to the app."""
    with pytest.raises(WireError, match="a gap in which nothing is missing"):
        records.decode_gap(struct.pack("!IB", 3, False))
