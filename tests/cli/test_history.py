"""From documents to rates and sparklines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wsworker.cli.history import BLOCKS, SAMPLES, History, sparkline


def document(uptime: float, slots: Mapping[int, int], pid: int = 42, **changes: Any) -> dict[str, Any]:
    """Return a status document. slots: from number to messages so far."""
    rows = [{"slot": slot, "messages_in": count, "messages_out": count} for slot, count in slots.items()]
    return {"pid": pid, "uptime": uptime, "workers": rows, **changes}


def test_rates_come_from_two_looks() -> None:
    """In and out together, over the master's own time between them; the service is the sum."""
    history = History()
    history.add(document(10.0, {1: 0, 2: 5}))
    assert ({}, []) == (history.slots, [*history.service])
    history.add(document(12.0, {1: 3, 2: 5}))
    assert ({1: [3.0], 2: [0.0]}, [3.0]) == (
        {slot: [*rates] for slot, rates in history.slots.items()},
        [*history.service],
    )
    assert 3.0 == history.busiest


def test_a_slot_that_drains_counts_once() -> None:
    """Both of its workers show the slot's counters."""
    history = History()
    history.add(document(1.0, {1: 0}))
    later = document(2.0, {1: 4})
    history.add(later | {"workers": later["workers"] * 2})
    assert [8.0] == [*history.service]


def test_another_master_begins_anew() -> None:
    """Its counters begin at 0."""
    history = History()
    for uptime, pid in ((1.0, 42), (2.0, 42), (0.5, 43)):
        history.add(document(uptime, {1: 7}, pid))
    assert ({}, []) == (history.slots, [*history.service])
    history.add(document(1.5, {1: 8}, 43))
    assert [2.0] == [*history.service]


def test_the_same_moment_twice() -> None:
    """It tells nothing new, and divides by nothing."""
    history = History()
    for uptime in (1.0, 1.0, 0.9):
        history.add(document(uptime, {1: 7}))
    assert [] == [*history.service]


def test_slots_come_and_go() -> None:
    """A new one has counted from 0; one that is closed is forgotten; a number that is used anew is not below 0."""
    history = History()
    history.add(document(1.0, {1: 9, 2: 9}))
    history.add(document(2.0, {1: 4, 3: 1}))
    history.add(document(3.0, {3: 2}))
    assert {3: [2.0, 2.0]} == {slot: [*rates] for slot, rates in history.slots.items()}
    assert [2.0, 2.0] == [*history.service]


def test_a_minute_is_kept() -> None:
    """The oldest goes when there are enough."""
    history = History()
    for second in range(SAMPLES + 5):
        history.add(document(float(second + 1), {1: second * second}))
    assert (SAMPLES, SAMPLES) == (len(history.service), len(history.slots[1]))
    assert history.busiest == history.service[-1]


def test_forgetting() -> None:
    """Nothing is left, and nothing is compared across the gap."""
    history = History()
    history.add(document(1.0, {1: 0}))
    history.add(document(2.0, {1: 1}))
    history.forget()
    history.add(document(9.0, {1: 900}))
    assert ([], 0.0) == ([*history.service], history.busiest)


def test_sparklines() -> None:
    """From nothing to the top of the scale; the newest at the end; nothing where there is nothing."""
    assert BLOCKS == sparkline(range(8), 7, 10)
    assert "▇█" == sparkline(range(8), 7, 2)
    assert "▁▁" == sparkline([0.0, 0.0], 0.0, 10)
    assert ["", "", ""] == [sparkline([], 1.0, 10), sparkline([1.0], 1.0, 0), sparkline([1.0], 1.0, -3)]


@given(st.lists(st.floats(0, 1e9)), st.floats(0, 1e9), st.integers(-5, 80))
def test_a_sparkline_is_never_too_long(rates: list[float], top: float, width: int) -> None:
    """And made of blocks alone, whatever the scale."""
    line = sparkline(rates, top, width)
    assert len(line) == min(len(rates), max(0, width))
    assert {*line} <= {*BLOCKS}
