"""The back-off: at once, then doubling, then parked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.master.restarts import Park, Respawn, RestartPolicy, delay, over_budget, recent, verdict

POLICY = RestartPolicy()
TIMES = st.lists(st.floats(0, 1e6), max_size=12).map(lambda times: tuple(sorted(times)))


def test_the_first_exit_is_followed_at_once() -> None:
    """A single death costs no wait, whatever the dice say."""
    assert verdict((), 50.0, POLICY, 1.0) == Respawn(50.0, (50.0,))


def test_delays_double_up_to_the_longest() -> None:
    """From the second exit on: 0.1 s, doubled, at most 30 s."""
    assert [delay(exits, POLICY) for exits in range(1, 13)] == [
        0.0,
        *(0.1 * 2**doublings for doublings in range(9)),
        30.0,
        30.0,
    ]


def test_jitter_stays_within_a_fifth() -> None:
    """The draw places a delay between -20 % and +20 %."""
    assert verdict((1.0,), 10.0, POLICY, 0.0) == Respawn(10.08, (1.0, 10.0))
    assert verdict((1.0,), 10.0, POLICY, 0.5) == Respawn(10.1, (1.0, 10.0))
    assert verdict((1.0,), 10.0, POLICY, 1.0) == Respawn(10.12, (1.0, 10.0))


def test_the_tenth_exit_in_a_row_parks() -> None:
    """A parked slot is tried again after five minutes and parks again at its next exit."""
    history = tuple(float(n) for n in range(9))
    first = verdict(history, 9.0, POLICY, 0.5)
    assert first == Park(309.0, (*history, 9.0))
    assert verdict(first.history, 400.0, POLICY, 0.5) == Park(700.0, (*history[1:], 9.0, 400.0))


@given(history=TIMES, wait=st.floats(0, 1e3), draw=st.floats(0, 1))
def test_a_verdict_keeps_its_promises(history: tuple[float, ...], wait: float, draw: float) -> None:
    """The time is never in the past, the history never longer than the intensity, and it ends with now."""
    now = (history[-1] if history else 0.0) + wait
    result = verdict(history, now, POLICY, draw)
    assert result.at >= now
    assert len(result.history) <= POLICY.intensity
    assert result.history[-1] == now
    assert isinstance(result, Park) == (len(history) + 1 >= POLICY.intensity)


@given(exits=st.integers(1, 200), draws=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_back_off_is_monotone(exits: int, draws: tuple[float, float]) -> None:
    """More exits in a row never mean a shorter delay, until the longest one is reached and only jitter is left."""
    assert delay(exits, POLICY) <= delay(exits + 1, POLICY)
    if delay(exits + 1, POLICY) < POLICY.longest_delay:
        shorter, longer = (delay(exits + n, POLICY) * (0.8 + 0.4 * draw) for n, draw in enumerate(draws))
        assert shorter <= longer


def test_exits_count_for_a_minute() -> None:
    """What is older does not show that anything is wrong now."""
    assert (41.0, 100.0) == recent((39.0, 40.0, 41.0, 100.0), 100.0)


@pytest.mark.parametrize(("exits", "slots", "over"), [(10, 4, False), (11, 4, True), (64, 64, False), (65, 64, True)])
def test_the_budget_of_the_whole_service(exits: int, slots: int, over: bool) -> None:
    """More than ten exits, or more than there are slots if that is more."""
    assert over == over_budget((1.0,) * exits, slots)
