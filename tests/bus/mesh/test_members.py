"""Which of two workers dials, and how long it waits between tries."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.mesh.members import Member, Standing, dials, pause

STARTING, READY, DRAINING = Standing


@pytest.mark.parametrize(
    ("lower", "higher", "who"),
    [
        (READY, READY, ["lower"]),
        (READY, STARTING, ["higher"]),
        (STARTING, READY, ["lower"]),
        (DRAINING, READY, ["lower"]),
        (READY, DRAINING, ["higher"]),
        (STARTING, STARTING, []),
        (DRAINING, STARTING, []),
        (DRAINING, DRAINING, []),
    ],
)
def test_who_dials(lower: Standing, higher: Standing, who: list[str]) -> None:
    """Only who is READY is dialled; of two that are, the one with the lower id dials."""
    first, second = Member(1, 1, lower), Member(2, 2, higher)
    assert who == ["lower"] * dials(first, second) + ["higher"] * dials(second, first)


def test_never_both() -> None:
    """If both know where both stand, one of them dials at most."""
    for one, other in itertools.product(Standing, Standing):
        pair = Member(1, 1, one), Member(2, 1, other)
        assert not (dials(*pair) and dials(*reversed(pair)))


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_pause_doubles_up_to_a_second(tries: int, draw: float) -> None:
    """From 50 ms on; at least half of it, so that two do not meet again and again."""
    longest = min(1.0, 0.05 * 2 ** min(tries - 1, 20))
    assert longest / 2 <= pause(tries, draw) <= longest
