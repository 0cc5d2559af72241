"""Stalls: what is logged, what is counted, and the longest."""

from __future__ import annotations

import logging

import pytest

from wsworker.counters import Counters
from wsworker.worker.stalls import Stalls


def test_the_slow_ones_are_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A tenth of a second is not yet slow."""
    counters = Counters()
    stalls = Stalls(7, counters, logging.getLogger("wsworker.worker"))
    stalls.tell("on_message", "app.py:9", 0.1)
    assert (0, []) == (counters.slow_callbacks, caplog.messages)
    stalls.tell("every(5, poll)", "app.py:20", 1.5)
    assert 1 == counters.slow_callbacks
    assert ["every(5, poll) blocked worker 7 for 1500 ms (app.py:20)"] == caplog.messages


def test_the_longest_is_taken_once() -> None:
    """And what follows is compared with what followed only."""
    stalls = Stalls(7, Counters(), logging.getLogger("wsworker.worker"))
    assert 0.0 == stalls.take_longest()
    for seconds in (0.02, 0.05, 0.03):
        stalls.tell("on_message", "app.py:9", seconds)
    assert [0.05, 0.0] == [stalls.take_longest(), stalls.take_longest()]
    stalls.tell("on_message", "app.py:9", 0.02)
    assert 0.02 == stalls.take_longest()
