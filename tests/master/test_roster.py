"""What the supervisor knows, and the questions it asks about it."""

from __future__ import annotations

from typing import Any

import pytest

from wsworker.master.events import Reading
from wsworker.master.roster import Roster, Slot, Worker, WorkerState

STARTING, READY, DRAINING, KILLED = WorkerState


def roster(*workers: Worker, slots: int = 2) -> Roster:
    """Make a roster of some workers."""
    made = Roster({n: Slot(n, open=True) for n in range(1, slots + 1)})
    for one in workers:
        made.add(one)
    return made


def worker(number: int, slot: int, state: WorkerState = READY, generation: int = 1, **fields: Any) -> Worker:
    """Make a worker; one that is READY accepts."""
    made = Worker(number, slot, generation, state, 10.0, None, pid=1000 + number, accepting=state is READY)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_ready_and_booting_workers_of_a_slot() -> None:
    """The newest READY one serves."""
    old, new, boots = worker(1, 1), worker(3, 1, generation=2), worker(2, 2, STARTING)
    known = roster(old, boots, new)
    assert new is known.slots[1].ready
    assert known.slots[2].ready is None
    assert boots is known.slots[2].booting
    assert known.slots[1].booting is None
    assert 1 == known.ready_count()


def test_a_reaped_worker_is_forgotten() -> None:
    """Both by its id and in its slot."""
    known = roster(worker(1, 1), worker(2, 2))
    slot = known.remove(known.workers[2])
    assert (2, []) == (slot.number, slot.workers)
    assert [1] == [*known.workers]


@pytest.mark.parametrize(
    ("living", "room"),
    [
        ([], True),
        ([worker(1, 1)], False),
        ([worker(1, 1, STARTING)], False),
        ([worker(1, 1, DRAINING, unasked=False)], True),
        ([worker(1, 1, KILLED, unasked=False)], True),
        # a hung worker holds its place until it is reaped
        ([worker(1, 1, KILLED)], False),
        ([worker(1, 1, DRAINING, unasked=False), worker(2, 1, KILLED, unasked=False)], False),
    ],
)
def test_room_for_a_worker(living: list[Worker], room: bool) -> None:
    """At most two workers of a slot live, and one that serves or boots leaves no room."""
    assert room == roster(*living).slots[1].has_room


@pytest.mark.parametrize("fields", [{"bound": False}, {"closing_since": 1.0}])
def test_no_room_in_a_slot_without_listeners_or_one_that_goes(fields: dict[str, Any]) -> None:
    """Neither is a place for a worker."""
    assert not Slot(3, **fields).has_room


def test_quiet_means_that_everybody_serves() -> None:
    """A roll begins only then."""
    assert roster(worker(1, 1), worker(2, 2)).quiet()
    assert not roster(worker(1, 1), worker(2, 2, DRAINING)).quiet()


@pytest.mark.parametrize(
    ("fields", "takes"),
    [({}, True), ({"accepting": False}, False), ({"silence": "hung"}, False), ({"full": True}, False)],
)
def test_who_takes_connections(fields: dict[str, Any], takes: bool) -> None:
    """A healthy READY worker that accepts and has room."""
    assert takes == worker(1, 1, **fields).takes_connections
    assert not worker(1, 1, DRAINING).takes_connections


def test_how_long_a_worker_may_drain() -> None:
    """Until it cuts its clients, which is some time before the master would kill it; only while it drains."""
    draining = worker(1, 1, DRAINING, drain_until=40.0)
    assert [25.0, 0.0] == [draining.drain_seconds(now) for now in (10.0, 38.0)]
    assert None is worker(1, 1).drain_seconds(10.0)


def test_a_pause_moves_all_that_is_awaited() -> None:
    """The deadline, the end of a drain and the last beat; what is not awaited stays so."""
    paused = worker(1, 1, heard_at=10.0, deadline_at=13.0, drain_until=40.0)
    paused.postpone(60)
    assert (70.0, 73.0, 100.0) == (paused.heard_at, paused.deadline_at, paused.drain_until)
    unheard = worker(1, 1)
    unheard.postpone(60)
    assert (0.0, None) == (unheard.heard_at, unheard.deadline_at)


def test_a_reading_is_noted() -> None:
    """All but the beat, which its state decides about."""
    read = worker(1, 1)
    read.note(Reading(50.0, 3, full=True, lag_seconds=0.5, stopped=True))
    assert (3, True, 0.5, True, 0.0) == (read.connections, read.full, read.lag_seconds, read.stopped, read.heard_at)


def test_degraded() -> None:
    """A slot without a READY worker that beats, or two generations side by side; a slot that goes does not count."""
    assert not roster(worker(1, 1), worker(2, 2)).degraded()
    hung = roster(worker(1, 1, silence="hung"), worker(2, 2))
    assert hung.degraded()
    assert hung.summary() == "1/2 workers, 0 connections"
    known = roster(worker(1, 1))
    assert known.degraded()
    assert known.summary() == "1/2 workers, 0 connections"
    assert roster(worker(1, 1), worker(2, 2, generation=2)).degraded()
    known.slots[2].closing_since = 1.0
    assert not known.degraded()
    assert known.summary() == "1/1 workers, 0 connections"


def test_given_up() -> None:
    """Nobody lives and every slot is parked."""
    known = roster(slots=1)
    assert not known.given_up()
    known.slots[1].parked = True
    assert known.given_up()
    assert not roster(worker(1, 1), slots=1).given_up()


def test_a_slot_postpones_what_it_waits_for() -> None:
    """Times that are not set stay so; its history is no deadline."""
    slot = Slot(1, history=(5.0,))
    slot.postpone(2.0)
    assert (None, None, None, (5.0,)) == (slot.retry_at, slot.closing_since, slot.unserved_since, slot.history)
    slot.retry_at, slot.closing_since, slot.unserved_since, slot.replace_at = 10.0, 20.0, 30.0, 40.0
    slot.postpone(2.0)
    assert (12.0, 22.0, 32.0, 42.0) == (slot.retry_at, slot.closing_since, slot.unserved_since, slot.replace_at)


def test_the_lease_is_taken_by_who_boots_beside_a_ready_worker() -> None:
    """One that follows a dead worker needs none."""
    assert not roster(worker(1, 1), worker(2, 2, STARTING)).lease_taken()
    assert roster(worker(1, 1), worker(2, 1, STARTING)).lease_taken()


def test_only_killed() -> None:
    """Without workers nobody is in the way."""
    assert not roster().only_killed()
    assert not roster(worker(1, 1, KILLED), worker(2, 2, DRAINING)).only_killed()
    assert roster(worker(1, 1, KILLED), worker(2, 2, KILLED)).only_killed()


def test_the_borrower_of_a_slot() -> None:
    """Nobody if nothing is lent, nor once the worker that had it is gone."""
    known = roster(worker(1, 1))
    assert known.borrower(known.slots[2]) is None
    known.slots[2].lent_to = 1
    assert known.workers[1] is known.borrower(known.slots[2])
    known.remove(known.workers[1])
    assert known.borrower(known.slots[2]) is None
