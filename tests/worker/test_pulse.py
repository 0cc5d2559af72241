"""The pulse: pings, signs of life, silence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsworker.worker.pulse import Pulse, PulseState

MIDDLE = 0.5  # no jitter


def test_pings_come_at_the_interval_and_are_numbered() -> None:
    """It says ping when the interval has passed, wait before; the payload counts."""
    pulse = Pulse(10, 5, 100, MIDDLE)
    assert 10 == pulse.ticks_left(100)
    assert "wait" == pulse.check(109, MIDDLE)
    assert "ping" == pulse.check(110, MIDDLE)
    assert b"1" == pulse.payload()
    pulse.asked_at = None  # any byte
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
    assert pulse.asked_at is None
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


# moved to another worker


def thawed(state: PulseState, interval: int, timeout: int, now: int, chance: float) -> Pulse:
    """Return a pulse of another worker that goes on where one was frozen."""
    pulse = Pulse(interval, timeout, now, chance)
    pulse.go_on(state, now)
    return pulse


acts = st.lists(
    st.tuples(
        st.integers(0, 30),  # ticks until then
        st.sampled_from(["check", "check", "heard", "resumed", "pong", "moves"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(-100, 100),  # ticks that the other one is ahead
    ),
    max_size=40,
)


@given(st.integers(1, 40), st.integers(1, 40), acts)
def test_moved_it_says_the_same(interval: int, timeout: int, acts: list[tuple[int, str, float, int]]) -> None:
    """However often, and to ticks that begin with the worker: what was before has ticks from 0 downwards."""
    stays, moves = Pulse(interval, timeout, 50, MIDDLE), Pulse(interval, timeout, 50, MIDDLE)
    now, shift = 50, 0
    for ticks, act, chance, other in acts:
        now += ticks
        if act == "check":
            verdict = stays.check(now, chance)
            assert verdict == moves.check(now + shift, chance)
            if verdict == "ping":
                assert stays.payload() == moves.payload()
                stays.sent(now / 4)
                moves.sent(now / 4)
        elif act == "heard":
            stays.asked_at = moves.asked_at = None
        elif act == "resumed":
            stays.resumed(now)
            moves.resumed(now + shift)
        elif act == "pong":
            stays.answered(stays.payload(), now / 4)
            moves.answered(moves.payload(), now / 4)
        else:
            moves = thawed(moves.freeze(now + shift), interval, timeout, now + other, chance)
            shift = other
        assert stays.round_trip == moves.round_trip
        assert stays.ticks_left(now) == moves.ticks_left(now + shift)


def test_a_ping_without_an_answer_may_have_been_at_tick_0() -> None:
    """Which is a tick as any other, behind a move."""
    pulse = Pulse(10, 5, 0, MIDDLE)
    assert "ping" == pulse.check(10, MIDDLE)
    moved = thawed(pulse.freeze(12), 10, 5, 2, MIDDLE)
    assert 0 == moved.asked_at
    assert "wait" == moved.check(4, MIDDLE)
    assert "silent" == moved.check(5, MIDDLE)


def test_a_shorter_interval_counts_at_once() -> None:
    """What was further ahead than it is drawn anew, so that those who moved together are not pinged together."""
    state = Pulse(1000, 5, 0, MIDDLE).freeze(100)
    assert 900 == state.left
    assert [90, 100] == [thawed(state, 100, 5, 7, chance).ticks_left(7) for chance in (0.0, MIDDLE)]
    assert 900 == thawed(state, 10_000, 5, 7, MIDDLE).ticks_left(7)
