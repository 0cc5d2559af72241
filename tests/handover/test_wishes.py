"""Wishes: what they are as bytes, and that nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.errors import WireError
from wsworker.handover.wishes import Wish, decode, encode

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=50).map(str.encode)
wishes = st.one_of(
    st.builds(Wish, st.sampled_from(["text", "subscribe", "unsubscribe", "user"]), words, st.just(0)),
    st.builds(Wish, st.just("binary"), st.binary(max_size=50), st.just(0)),
    st.builds(Wish, st.just("close"), words, st.integers(0, 2**16 - 1)),
    st.builds(Wish, st.sampled_from(["terminate", "pause", "resume"]), st.just(b""), st.just(0)),
)


@given(wishes)
def test_each_comes_back(wish: Wish) -> None:
    """As it was."""
    assert wish == decode(encode(wish))


@given(st.binary(max_size=30))
def test_bytes_from_anywhere(data: bytes) -> None:
    """A wish, or a WireError and nothing else."""
    try:
        wish = decode(data)
    except WireError:
        return
    assert data == encode(wish)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "nothing is no wish"),
        (b"\x09", "09 is no wish"),
        (b"\x02\x03", "a close without a code"),
        (b"\x00\xff", "a text that is not UTF-8"),
        (b"\x02\x03\xe8\xff", "a close that is not UTF-8"),
        (b"\x04\xff", "a subscribe that is not UTF-8"),
    ],
)
def test_what_is_none(data: bytes, sentence: str) -> None:
    """It says what is wrong."""
    with pytest.raises(WireError, match=f": {sentence}$"):
        decode(data)


def test_what_it_looks_like() -> None:
    """The bytes of some, as workers of another version read them."""
    assert b"\0h\xc3\xa4" == encode(Wish("text", "hä".encode()))
    assert b"\1\xff" == encode(Wish("binary", b"\xff"))
    assert b"\2\x03\xe8bye" == encode(Wish("close", b"bye", 1000))
    assert [b"\3", b"\7", b"\10"] == [encode(Wish(kind)) for kind in ("terminate", "pause", "resume")]
    assert [b"\4x", b"\5x", b"\6x"] == [encode(Wish(kind, b"x")) for kind in ("subscribe", "unsubscribe", "user")]


def test_what_it_is() -> None:
    """Messages have bytes, others a text."""
    assert [True, True, False] == [Wish(kind).is_message for kind in ("text", "binary", "close")]
    assert "hä" == Wish("subscribe", "hä".encode()).text
