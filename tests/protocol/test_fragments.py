"""Fragments: whatever the pieces, the message is their sum, and a bad byte is found as early and at the same place."""

from __future__ import annotations

import codecs
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.protocol.fragments import BYTES_PER_FRAGMENT, LEAST_FRAGMENTS, Ahead, Fragments, most_fragments

KEY = b"\x01\x80\xfe\xff"

# text, good and bad, and bytes that make trouble where they are cut
contents = st.lists(
    st.one_of(
        st.text(max_size=4).map(str.encode),
        st.sampled_from(
            [b"\xff", b"\xc0\xaf", b"\xc3", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90", b"\xf0\x80", b"\x80"]
        ),
        st.binary(max_size=3),
    ),
    max_size=5,
).map(b"".join)
cuts = st.lists(st.integers(0, 40), max_size=6)


def split(data: bytes, places: list[int]) -> list[bytes]:
    """Return data cut at these places, which may lie behind its end."""
    ends = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def defect(data: bytes, final: bool = True) -> int | None:
    """Return where data is not UTF-8, None if it is; unless it is final, its end may be the start of a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final)
    except UnicodeDecodeError as error:
        return error.start
    return None


def joined(is_text: bool, pieces: list[bytes]) -> str | bytes:
    """Return the message of which these are the pieces."""
    fragments = Fragments(is_text)
    for number, piece in enumerate(pieces, 1):
        fragments.add(piece, number == len(pieces))
        assert (number, len(b"".join(pieces[:number]))) == (fragments.count, fragments.size)
    return fragments.message()


def masked(data: bytes) -> bytes:
    """Return data as it travels under KEY."""
    return bytes(byte ^ KEY[place % 4] for place, byte in enumerate(data))


@given(contents, cuts)
def test_message(data: bytes, cuts: list[int]) -> None:
    """Binary pieces are joined as they are; text is the same as if it had come whole, and so is its first bad byte."""
    pieces = split(data, cuts)
    assert data == joined(False, pieces)
    place = defect(data)
    if place is None:
        assert data.decode() == joined(True, pieces)
    else:
        with pytest.raises(UnicodeDecodeError) as caught:
            joined(True, pieces)
        assert place == caught.value.start


def test_bad_text_is_found_at_once() -> None:
    """The piece that makes the text bad is refused, not the last one; what only begins a character is not bad yet."""
    fragments = Fragments(is_text=True)
    fragments.add(b"ab\xf4", fin=False)
    with pytest.raises(UnicodeDecodeError) as caught:
        fragments.add(b"\x90", fin=False)
    assert caught.value.start == 2


def test_text_must_not_end_in_a_character() -> None:
    """The start of a character is refused with the last piece, even with an empty one, and not only by message."""
    for last in (b"", b"\x82"):
        fragments = Fragments(is_text=True)
        fragments.add(b"ab\xe2", fin=False)
        with pytest.raises(UnicodeDecodeError) as caught:
            fragments.add(last, fin=True)
        assert caught.value.start == 2


@pytest.mark.parametrize(
    ("max_size", "count"),
    [(1, LEAST_FRAGMENTS), (LEAST_FRAGMENTS * BYTES_PER_FRAGMENT, LEAST_FRAGMENTS), (2**20, 4096), (2**24, 65536)],
)
def test_most_fragments(max_size: int, count: int) -> None:
    """A large limit allows many pieces, a small one always some."""
    assert count == most_fragments(max_size)


def test_memory_of_tiny_pieces() -> None:
    """Pieces of one byte cost a byte and not an object each."""
    tracemalloc.start()
    try:
        fragments = Fragments(is_text=True)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20_000):
            fragments.add(b"a", fin=False)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert (20_000, 20_000) == (fragments.count, fragments.size)
    assert held < 40_000


@given(contents, cuts, st.integers(2, 14))
def test_ahead(data: bytes, cuts: list[int], begin: int) -> None:
    """The text of a frame is refused with its first bad byte, at the place where that stands, however it comes."""
    travelling, inbox = masked(data), bytearray(begin)
    ahead, found = Ahead(begin, KEY), None
    for piece in split(travelling, cuts):
        inbox += piece
        try:
            ahead.check(inbox)
        except UnicodeDecodeError as error:
            found = error.start
            break
    assert defect(data, final=False) == found


def test_ahead_at_every_byte() -> None:
    """It is the byte that makes the text bad, in a read of its own, that is refused, and none before it.

    Only half a surrogate, ED A0, is not bad to Python before its third byte.
    """
    for text, bad in [(b"ok", 0xFF), (b"\xf4", 0x90), (b"\xed\xa0", 0x80), (b"\xe2\x82", 0x41), (b"\xc3", 0xC3)]:
        travelling = masked(text + bytes([bad]))
        ahead, inbox = Ahead(0, KEY), bytearray()
        for place in range(len(text)):
            inbox += travelling[place : place + 1]
            ahead.check(inbox)
        inbox += travelling[len(text) :]
        with pytest.raises(UnicodeDecodeError) as caught:
            ahead.check(inbox)
        assert defect(text + bytes([bad])) == caught.value.start


class Watched(bytearray):
    """An inbox that counts how many bytes are taken out of it."""

    taken = 0

    def __getitem__(self, key: object) -> object:  # type: ignore[override]
        part = super().__getitem__(key)  # type: ignore[call-overload]
        self.taken += len(part)
        return part


def test_ahead_is_linear() -> None:
    """Each byte is looked at once, although the frame comes a byte at a time and is kept whole."""
    inbox, ahead = Watched(6), Ahead(6, KEY)
    travelling = masked("é".encode() * 5000)
    for place in range(len(travelling)):
        inbox += travelling[place : place + 1]
        ahead.check(inbox)
    assert len(travelling) == inbox.taken
