"""Mutation: byte strings that are nearly right, and ways to split them.

Bytes at random hardly get behind the first check of a parser. What finds defects is something valid with a small thing
wrong: so a target says what valid pieces look like, several of them are put together, and a few mutations follow. Bytes
at random are made as well, one time in eight.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from hypothesis import strategies as st

from tests import frames

Kind: TypeAlias = Literal["flip", "set", "delete", "double", "insert", "repeat", "cut"]

KINDS: Final[tuple[Kind, ...]] = ("flip", "set", "delete", "double", "insert", "repeat", "cut")
MOST_PLACES: Final = 2**16
MOST_TIMES: Final = 24
MOST_BYTES: Final = 96 * 1024
"""No mutation makes a string longer than this."""

Mutation: TypeAlias = tuple[Kind, int, int]
"""What to do, where (taken modulo the length), and a number whose meaning depends on the kind."""

places: Final = st.integers(0, MOST_PLACES - 1)
mutations: Final[st.SearchStrategy[Mutation]] = st.tuples(st.sampled_from(KINDS), places, st.integers(0, 255))


def mutate(data: bytes, mutation: Mutation) -> bytes:
    """Return data with one thing wrong."""
    kind, place, number = mutation
    at = place % (len(data) + 1)
    before, after = data[:at], data[at:]
    if kind == "flip":
        changed = bytes([after[0] ^ (1 << number % 8)]) + after[1:] if after else after
        return before + changed
    if kind == "set":
        return before + bytes([number]) + after[1:]
    if kind == "delete":
        return before + after[1 + number % 32 :]
    if kind == "double":
        return before + after[: 1 + number] + after
    if kind == "insert":
        return before + bytes([number]) + after
    if kind == "repeat":
        again = after[: 1 + number]
        return before + again * (number % MOST_TIMES) + after
    return before


@st.composite
def nearly(draw: st.DrawFn, pieces: st.SearchStrategy[bytes], most: int = 8) -> bytes:
    """Return up to so many pieces in a row, with up to four mutations, or anything."""
    if draw(st.integers(0, 7)) == 7:
        return draw(st.binary(max_size=200))
    several = draw(st.lists(pieces, max_size=most))
    # a whole piece again and again is what floods are made of
    if several and draw(st.integers(0, 7)) == 7:
        place = draw(places) % len(several)
        several[place:place] = [several[place]] * draw(st.integers(1, MOST_TIMES))
    data = b"".join(several)
    for mutation in draw(st.lists(mutations, max_size=4) if draw(st.booleans()) else st.just([])):
        data = mutate(data, mutation)[:MOST_BYTES]
    return data


cuts: Final = st.lists(places, max_size=8).map(tuple)
"""Where to split, modulo the length; see split()."""


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return data cut at these places, without empty pieces, as no read brings any."""
    return [piece for piece in frames.split(data, cuts) if piece]
