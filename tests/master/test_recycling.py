"""Limits of a worker: drawn once, off when 0, judged with the memory first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.config import Config
from wsworker.master.events import Reading
from wsworker.master.recycling import Kill, Limits, Replace, draw_limits, judge

MIB = 1024**2
OFF = Limits(0.0, 0.0, 0)
UNIT = st.floats(0, 1)


def draws(*numbers: float) -> Callable[[], float]:
    """Return a draw that gives these numbers and fails when asked for more."""
    left: Iterator[float] = iter(numbers)
    return lambda: next(left)


def config(**changes: object) -> Config:
    """Return a Config with these limits."""
    return Config.model_validate({"app": "hello"} | changes)


def test_messages_and_age_are_raised_each_by_its_own_draw() -> None:
    """0 leaves a limit as it is, 1 raises it by a tenth; memory stays."""
    made = draw_limits(config(max_messages=1000, max_worker_age=3600.0, max_worker_rss=512 * MIB), draws(0.0, 1.0))
    assert (1000.0, 3960.0, 512 * MIB) == (made.messages, round(made.age_seconds, 6), made.rss_bytes)
    made = draw_limits(config(max_messages=1000, max_worker_age=3600.0), draws(1.0, 0.5))
    assert (1100.0, 3780.0, 0) == (round(made.messages, 6), round(made.age_seconds, 6), made.rss_bytes)


def test_off_stays_off() -> None:
    """Whatever the dice say: jitter is a part of the limit."""
    assert OFF == draw_limits(config(), draws(1.0, 1.0))


@given(st.integers(0, 10**15), st.floats(0, 1e7), UNIT, UNIT)
def test_limits_are_raised_by_a_tenth_at_most_with_two_draws(
    messages: int, age: float, first: float, second: float
) -> None:
    """Never lowered, never raised further, and off exactly when they were; the draws are always two."""
    numbers = iter((first, second, -1.0))
    limits = draw_limits(config(max_messages=messages, max_worker_age=age), lambda: next(numbers))
    assert messages <= limits.messages <= messages * 1.1000001
    assert age <= limits.age_seconds <= age * 1.1000001
    assert (messages > 0, age > 0) == (limits.messages > 0, limits.age_seconds > 0)
    assert -1.0 == next(numbers)


@pytest.mark.parametrize(
    ("limits", "reading", "age", "expected"),
    [
        (Limits(1000.5, 0, 0), Reading(1.0, messages=1000), 9.0, None),
        (Limits(1000.5, 0, 0), Reading(1.0, messages=1001), 9.0, Replace("received 1001 messages (max_messages)")),
        (Limits(1000.0, 0, 0), Reading(1.0, messages=1000), 9.0, Replace("received 1000 messages (max_messages)")),
        (Limits(0, 90.5, 0), Reading(1.0), 90.0, None),
        (Limits(0, 90.5, 0), Reading(1.0), 91.0, Replace("is 91 s old (max_worker_age)")),
        (Limits(0, 90.5, 0), Reading(1.0), 7100.0, Replace("is 118 min old (max_worker_age)")),
        (Limits(0, 90.5, 0), Reading(1.0), 86_760.0, Replace("is 24.1 h old (max_worker_age)")),
        (Limits(0, 0, 512 * MIB), Reading(1.0), 9.0, None),
        (Limits(0, 0, 512 * MIB), Reading(1.0, rss_bytes=512 * MIB), 9.0, None),
        (Limits(0, 0, 512 * MIB), Reading(1.0, rss_bytes=600 * MIB), 9.0, Replace("holds 600 MiB (max_worker_rss)")),
        (Limits(0, 0, 512 * MIB), Reading(1.0, rss_bytes=1024 * MIB), 9.0, Replace("holds 1.0 GiB (max_worker_rss)")),
        (
            Limits(0, 0, 512 * MIB),
            Reading(1.0, rss_bytes=1127 * MIB),
            9.0,
            Kill("holds 1.1 GiB, over twice max_worker_rss"),
        ),
    ],
)
def test_verdicts(limits: Limits, reading: Reading, age: float, expected: Replace | Kill | None) -> None:
    """Reached messages and age and exceeded memory replace, twice the memory kills; the reason has the figure."""
    assert expected == judge(limits, reading, age)


def test_memory_is_judged_first() -> None:
    """It is the most urgent of several reasons."""
    limits = Limits(1.0, 1.0, 512 * MIB)
    assert Replace("holds 600 MiB (max_worker_rss)") == judge(
        limits, Reading(1.0, messages=5, rss_bytes=600 * MIB), 5.0
    )
    assert Replace("received 5 messages (max_messages)") == judge(limits, Reading(1.0, messages=5), 5.0)


@given(st.integers(0, 10**15), st.integers(0, 2**50), st.floats(0, 1e9))
def test_without_limits_nothing_is_too_much(messages: int, rss: int, age: float) -> None:
    """Off is off for any worker."""
    assert judge(OFF, Reading(1.0, messages=messages, rss_bytes=rss), age) is None


@given(st.integers(1, 10**15), st.floats(1, 1e7), UNIT, UNIT)
def test_a_worker_below_what_was_configured_goes_on(messages: int, age: float, first: float, second: float) -> None:
    """Jitter only ever gives a worker more."""
    limits = draw_limits(config(max_messages=messages, max_worker_age=age), draws(first, second))
    assert judge(limits, Reading(1.0, messages=messages - 1), age * 0.999) is None
