"""The wheel: what comes due when, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsworker.worker.wheel import TICK_SECONDS, Wheel, ticks


def test_ticks_keep_a_deadline_early_rather_than_late() -> None:
    """A span is rounded down to whole ticks, and is one tick at least."""
    assert 4 == ticks(1.0)
    assert 3 == ticks(0.99)
    assert 1 == ticks(TICK_SECONDS / 10)
    assert 1 == ticks(0)


def test_an_item_comes_due_once() -> None:
    """It is given at its tick, not before, and not again."""
    wheel: Wheel[str] = Wheel()
    wheel.schedule("a", 2)
    assert [] == wheel.advance(1)
    assert ["a"] == wheel.advance(2)
    assert [] == wheel.advance(3)
    assert 0 == len(wheel)


def test_a_later_deadline_replaces_an_earlier_one() -> None:
    """Scheduling again moves the item, in both directions."""
    wheel: Wheel[str] = Wheel(10)
    wheel.schedule("a", 1)
    wheel.schedule("b", 1)
    wheel.schedule("a", 3)
    wheel.schedule("b", 9)
    wheel.schedule("b", 2)
    assert 2 == len(wheel)
    assert [] == wheel.advance(11)
    assert ["b"] == wheel.advance(12)
    assert ["a"] == wheel.advance(13)


def test_a_cancelled_item_does_not_come_due() -> None:
    """Cancelling forgets the deadline; without one it does nothing."""
    wheel: Wheel[str] = Wheel()
    wheel.schedule("a", 1)
    wheel.schedule("b", 1)
    wheel.cancel("a")
    wheel.cancel("a")
    assert ["b"] == wheel.advance(1)
    wheel.cancel("b")
    assert 0 == len(wheel)


def test_an_item_due_at_once_waits_for_the_next_tick() -> None:
    """No deadline lies in the tick that is being handled, so that a loop over what is due ends."""
    wheel: Wheel[str] = Wheel()
    wheel.schedule("a", 0)
    assert ["a"] == wheel.advance(1)


def test_a_late_clock_loses_nothing_and_a_backward_one_changes_nothing() -> None:
    """Many ticks at once give all that came due on the way, earliest first."""
    wheel: Wheel[int] = Wheel()
    for due in (5, 1, 3):
        wheel.schedule(due, due)
    assert [] == wheel.advance(-1)
    assert 0 == wheel.now
    assert [1, 3, 5] == wheel.advance(1000)
    assert [] == wheel.advance(10**12)
    assert 10**12 == wheel.now


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 3))))
def test_it_agrees_with_a_plain_dictionary(steps: list[tuple[int, int, int]]) -> None:
    """Whatever is scheduled and however time goes on, exactly the items with a passed deadline are given."""
    wheel: Wheel[int] = Wheel()
    due: dict[int, int] = {}
    for item, span, passing in steps:
        wheel.schedule(item, span)
        due[item] = wheel.now + max(1, span)
        given_now = wheel.advance(wheel.now + passing)
        assert sorted(item for item, at in due.items() if at <= wheel.now) == sorted(given_now)
        due = {item: at for item, at in due.items() if at > wheel.now}
        assert len(due) == len(wheel)
