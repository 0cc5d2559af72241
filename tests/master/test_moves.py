"""Whose connections go to whom, and what is counted of it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.master.test_roster import DRAINING, STARTING, roster, worker
from wsworker.master import moves
from wsworker.master.moves import MAX_TAKERS, Tally
from wsworker.master.roster import Roster, Slot, Worker
from wsworker.wire import DrainReason


def closing(slots: int, *workers: Worker) -> Roster:
    """Return a roster whose last slot is given up."""
    known = roster(*workers, slots=slots)
    known.slots[slots].closing_since = 1.0
    return known


@pytest.mark.parametrize("why", ["reload", "replace"])
def test_who_is_replaced_hands_over_to_its_successor(why: DrainReason) -> None:
    """To nobody else, whatever the others hold; without one that is READY, to nobody."""
    old, new, other = worker(1, 1, connections=9), worker(3, 1, generation=2), worker(2, 2)
    assert ((3, 1),) == moves.takers(roster(old, new, other), old, why)
    assert () == moves.takers(roster(old, other), old, why)
    assert () == moves.takers(roster(old, worker(3, 1, STARTING), other), old, why)
    assert () == moves.takers(roster(old, worker(3, 1, silence="hung"), other), old, why)


def test_who_drains_already_hands_over_to_who_came_later() -> None:
    """A successor may become READY while the old worker waits for one."""
    old = worker(1, 1, DRAINING)
    assert ((3, 1),) == moves.takers(roster(old, worker(3, 1)), old, "reload")


@pytest.mark.parametrize("why", ["scale", "reload"])
def test_of_a_slot_that_goes_the_others_share(why: DrainReason) -> None:
    """Who has fewest is filled up first; who gets nothing need not be told."""
    old = worker(4, 4, connections=30)
    known = closing(4, worker(1, 1, connections=10), worker(2, 2, connections=20), worker(3, 3, connections=90), old)
    assert ((1, 20), (2, 10)) == moves.takers(known, old, why)


def test_who_cannot_take_gets_none() -> None:
    """One that is full, hung or not accepting, one whose slot goes as well, and one of older code."""
    old = worker(6, 6, connections=3, generation=2)
    known = closing(
        6,
        worker(1, 1, generation=2, full=True),
        worker(2, 2, generation=2, silence="hung"),
        worker(3, 3, generation=2, accepting=False),
        worker(4, 4, generation=1),
        worker(5, 5, generation=2, connections=500),
        old,
    )
    assert ((5, 3),) == moves.takers(known, old, "scale")
    known.slots[5].closing_since = 1.0
    assert () == moves.takers(known, old, "scale")


def test_a_worker_that_shows_no_connections_may_have_got_some() -> None:
    """What it shows is a second old."""
    old = worker(3, 3)
    assert ((1, 1),) == moves.takers(closing(3, worker(1, 1), worker(2, 2), old), old, "scale")


def test_no_more_take_than_descriptors_can_be_sent() -> None:
    """Those that hold fewest."""
    known = Roster({number: Slot(number, open=True) for number in range(1, 102)})
    for number in range(1, 101):
        known.add(worker(number, number, connections=number))
    old = worker(101, 101, connections=1_000_000)
    known.add(old)
    known.slots[101].closing_since = 1.0
    takers = moves.takers(known, old, "scale")
    assert [*range(1, MAX_TAKERS + 1)] == [number for number, _ in takers]
    assert 1_000_000 == sum(share for _, share in takers)


@pytest.mark.parametrize("why", ["stop", "quick"])
def test_at_a_stop_nobody_takes(why: DrainReason) -> None:
    """Nobody serves on."""
    old = worker(1, 1)
    assert () == moves.takers(roster(old, worker(3, 1)), old, why)


def test_who_may_give() -> None:
    """One that has served and answers, if its configuration says so."""
    assert moves.may_give(worker(1, 1, hands_over=True, served=True))
    assert not moves.may_give(worker(1, 1, hands_over=False, served=True))
    assert not moves.may_give(worker(1, 1, hands_over=True, served=False))
    assert not moves.may_give(worker(1, 1, hands_over=True, served=True, silence="hung"))
    assert not moves.may_give(worker(1, 1, hands_over=True, served=True, stopped=True))


def test_a_tally_adds_up() -> None:
    """Sums by reason, the longest pause, and the last one of those in which anything moved."""
    tally = Tally()
    tally.add(5, {"busy": 1}, 0.5)
    tally.add(2, {"busy": 1, "tls": 3}, 0.25)
    tally.add(0, {"tls": 1}, 0.0)
    assert Tally(7, Counter(busy=2, tls=4), 0.5, 0.25) == tally
