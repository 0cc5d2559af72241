"""The pulse: pings, signs of life, silence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsworker.worker.pulse import Pulse

MIDDLE = 0.5  # no jitter


def test_pings_come_at_the_interval_and_are_numbered() -> None:
    """It says ping when the interval has passed, wait before; the payload counts."""
    pulse = Pulse(10, 5, 100, MIDDLE)
    assert 10 == pulse.ticks_left(100)
    assert "wait" == pulse.check(109, MIDDLE)
    assert "ping" == pulse.check(110, MIDDLE)
    assert b"1" == pulse.payload()
    pulse.asked_at = 0  # any byte
    assert 10 == pulse.ticks_left(110)
    assert "ping" == pulse.check(120, MIDDLE)
    assert b"2" == pulse.payload()


def test_silence_counts_from_the_first_ping_without_an_answer() -> None:
    """A timeout longer than the interval lets several pings go out, and still runs from the first of them."""
    pulse = Pulse(10, 25, 0, MIDDLE)
    assert "ping" == pulse.check(10, MIDDLE)
    assert "ping" == pulse.check(20, MIDDLE)
    assert "ping" == pulse.check(30, MIDDLE)
    assert 5 == pulse.ticks_left(30)
    assert "wait" == pulse.check(34, MIDDLE)
    assert "silent" == pulse.check(35, MIDDLE)


def test_the_wait_begins_anew_when_reading_goes_on() -> None:
    """resumed() moves the end of the wait, but only if one is running."""
    pulse = Pulse(10, 5, 0, MIDDLE)
    pulse.resumed(3)
    assert 0 == pulse.asked_at
    assert "ping" == pulse.check(10, MIDDLE)
    pulse.resumed(14)
    assert "wait" == pulse.check(15, MIDDLE)
    assert "silent" == pulse.check(19, MIDDLE)


def test_a_late_check_is_due_at_once() -> None:
    """ticks_left is one at least, however late it is."""
    pulse = Pulse(10, 5, 0, MIDDLE)
    assert 1 == pulse.ticks_left(500)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_intervals_vary_by_a_tenth(interval: int, chance: float) -> None:
    """The first ping comes between 90 % and 110 % of the interval, and never at once."""
    left = Pulse(interval, 1, 0, chance).ticks_left(0)
    assert max(1, round(interval * 0.9)) <= left <= max(1, round(interval * 1.1))


@given(
    interval=st.integers(1, 100),
    timeout=st.integers(1, 100),
    begin=st.integers(0, 50),
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_checked_only_when_it_is_due_it_misses_nothing(
    interval: int, timeout: int, begin: int, chances: list[float]
) -> None:
    """Each check at the end of ticks_left says ping or silent; silence lasts exactly the timeout."""
    pulse, now = Pulse(interval, timeout, begin, chances[0]), begin
    first_at = 0
    for chance in chances:
        now += pulse.ticks_left(now)
        verdict = pulse.check(now, chance)
        if verdict == "silent":
            assert first_at + timeout == now
            return
        assert "ping" == verdict
        first_at = first_at or now
    assert now < first_at + timeout


def test_silence_goes_before_a_ping() -> None:
    """When both are due at the same tick there is no ping any more."""
    pulse = Pulse(10, 10, 0, MIDDLE)
    assert "ping" == pulse.check(10, MIDDLE)
    assert "silent" == pulse.check(20, MIDDLE)
    assert 1 == pulse.count


def test_the_round_trip_is_that_of_the_last_ping() -> None:
    """From its sending to its pong; other pongs, and a second one, say nothing; a ping without a pong leaves it."""
    pulse = Pulse(10, 50, 0, MIDDLE)

    def last() -> float | None:
        return pulse.round_trip

    pulse.answered(b"0", 1.0)
    pulse.check(10, MIDDLE)
    pulse.sent(2.0)
    pulse.answered(b"7", 2.1)
    assert last() is None
    pulse.answered(pulse.payload(), 2.25)
    assert 0.25 == last()
    pulse.answered(pulse.payload(), 9.0)
    assert 0.25 == last()
    late = pulse.payload()
    pulse.check(20, MIDDLE)
    pulse.sent(4.0)
    pulse.answered(late, 4.1)
    assert 0.25 == last()
    pulse.answered(pulse.payload(), 4.5)
    assert 0.5 == last()
