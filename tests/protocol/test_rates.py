"""The token bucket: what passes, what does not, and what a clock does to it."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from wsworker.protocol.rates import Bucket, BucketState

# eighths and quarters are exact in binary, so the properties need no tolerance
EIGHTHS = st.integers(0, 8 * 3600).map(lambda eighths: eighths / 8)
AMOUNTS = st.integers(0, 400).map(lambda quarters: quarters / 4)
TAKES = st.lists(st.tuples(EIGHTHS, AMOUNTS), max_size=40)
RATES = st.sampled_from([0.25, 0.5, 1.0, 8.0, 100.0])
BURSTS = st.sampled_from([1.0, 2.0, 10.0, 50.0])


def test_the_burst_passes_at_once_and_no_more() -> None:
    """A new bucket is full; when it is empty nothing passes until time does."""
    bucket = Bucket(1.0, 3.0, 100.0)
    assert [True, True, True, False, False] == [bucket.take(1, 100.0) for _ in range(5)]


def test_tokens_come_back_at_the_rate() -> None:
    """After half a second at two a second one more passes."""
    bucket = Bucket(2.0, 2.0, 0.0)
    assert bucket.take(2, 0.0)
    assert not bucket.take(1, 0.25)
    assert bucket.take(1, 0.5)
    assert not bucket.take(1, 0.5)


def test_a_refused_amount_is_not_taken() -> None:
    """What is too much leaves the tokens for what is not."""
    bucket = Bucket(1.0, 10.0, 0.0)
    assert not bucket.take(11, 0.0)
    assert bucket.take(10, 0.0)


def test_more_than_the_burst_never_passes() -> None:
    """However long the bucket has been waiting, it holds its burst and no more."""
    bucket = Bucket(5.0, 10.0, 0.0)
    assert not bucket.take(10.5, 1e9)
    assert bucket.take(10, 1e9)
    assert not bucket.take(0.5, 1e9)


def test_nothing_always_passes() -> None:
    """An amount of 0 passes an empty bucket."""
    bucket = Bucket(1.0, 1.0, 0.0)
    assert bucket.take(1, 0.0)
    assert bucket.take(0, 0.0)


def test_a_clock_that_goes_back_is_no_time() -> None:
    """It neither gives nor takes tokens, and the way back to where it was gives none either."""
    bucket = Bucket(1.0, 1.0, 10.0)
    assert bucket.take(1, 10.0)
    assert not bucket.take(1, 5.0)
    assert not bucket.take(1, 10.0)
    assert bucket.take(1, 11.0)


@given(RATES, BURSTS, TAKES)
def test_it_agrees_with_exact_arithmetic(rate: float, burst: float, takes: list[tuple[float, float]]) -> None:
    """Every verdict is that of a bucket in fractions, also for times in any order."""
    bucket = Bucket(rate, burst, 0.0)
    left, last = Fraction(burst), Fraction(0)
    for now, amount in takes:
        passed = max(Fraction(0), Fraction(now) - last)
        last += passed
        left = min(Fraction(burst), left + passed * Fraction(rate))
        expected = Fraction(amount) <= left
        left -= Fraction(amount) if expected else 0
        assert expected == bucket.take(amount, now)


@given(RATES, BURSTS, TAKES)
def test_any_span_lets_through_its_burst_and_its_rate(
    rate: float, burst: float, takes: list[tuple[float, float]]
) -> None:
    """Between any two moments at most burst + rate * seconds passes."""
    bucket = Bucket(rate, burst, 0.0)
    passed = [(now, amount) for now, amount in sorted(takes) if bucket.take(amount, now)]
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            total = sum(amount for _, amount in passed[first : last + 1])
            assert total <= burst + rate * (passed[last][0] - passed[first][0])


# --- moved to another clock ---

SHIFTS = st.integers(-8 * 10**6, 8 * 10**6).map(lambda eighths: eighths / 8)


@given(RATES, BURSTS, st.lists(st.tuples(EIGHTHS, AMOUNTS, st.none() | SHIFTS), max_size=30))
def test_moved_it_gives_the_same_verdicts(
    rate: float, burst: float, takes: list[tuple[float, float, float | None]]
) -> None:
    """However often, to whatever clock, and with times in any order."""
    stays, moves, shift = Bucket(rate, burst, 0.0), Bucket(rate, burst, 0.0), 0.0
    for now, amount, move in takes:
        if move is not None:
            moves = Bucket.thaw(moves.freeze(now + shift), rate, burst, now + move)
            shift = move
        assert stays.take(amount, now) == moves.take(amount, now + shift)


def test_a_move_does_not_fill_it() -> None:
    """It has what it had, and gains what the time between was worth at the new rate."""
    bucket = Bucket(1.0, 10.0, 100.0)
    assert bucket.take(8, 100.0)
    moved = Bucket.thaw(bucket.freeze(101.0), 2.0, 10.0, 5.0)
    assert moved.take(4, 5.0)
    assert not moved.take(0.5, 5.0)


def test_a_smaller_bucket_keeps_what_it_holds() -> None:
    """No more than the burst of now comes at once, and one that had less has that; a larger one is not full at once."""
    full, low = Bucket(1.0, 50.0, 0.0), Bucket(1.0, 50.0, 0.0)
    assert low.take(48, 0.0)
    assert BucketState(50.0, 0.0) == full.freeze(0.0)
    assert not Bucket.thaw(full.freeze(0.0), 1.0, 10.0, 7.0).take(11, 7.0)
    assert Bucket.thaw(full.freeze(0.0), 1.0, 10.0, 7.0).take(10, 7.0)
    for burst in (10.0, 100.0):
        assert not Bucket.thaw(low.freeze(0.0), 1.0, burst, 7.0).take(3, 7.0)
        assert Bucket.thaw(low.freeze(0.0), 1.0, burst, 7.0).take(2, 7.0)
