"""What the supervisor knows, and the questions it asks about it."""

from __future__ import annotations

from typing import Any

import pytest

from wsworker.master.events import WorkerExited, WorkerFailed
from wsworker.master.roster import Roster, Slot, Worker, WorkerState, exit_row

STARTING, READY, DRAINING, KILLED = WorkerState


def roster(*workers: Worker, slots: int = 2) -> Roster:
    """Make a roster of some workers."""
    return Roster({n: Slot(n, open=True) for n in range(1, slots + 1)}, {worker.id: worker for worker in workers})


def worker(number: int, slot: int, state: WorkerState = READY, generation: int = 1, **fields: Any) -> Worker:
    """Make a worker; one that is READY accepts."""
    made = Worker(number, slot, generation, state, 10.0, None, pid=1000 + number, accepting=state is READY)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_living_ready_and_booting_workers_of_a_slot() -> None:
    """Oldest first; the newest READY one serves."""
    old, new, boots = worker(1, 1), worker(3, 1, generation=2), worker(2, 2, STARTING)
    known = roster(old, boots, new)
    assert [old, new] == known.living(1)
    assert new is known.ready(1)
    assert known.ready(2) is None
    assert boots is known.booting(2)
    assert known.booting(1) is None
    assert 1 == known.ready_count()


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
    assert room == roster(*living).can_spawn(1)


def test_quiet_means_that_everybody_serves() -> None:
    """A roll begins only then."""
    assert roster(worker(1, 1), worker(2, 2)).quiet()
    assert not roster(worker(1, 1), worker(2, 2, DRAINING)).quiet()


@pytest.mark.parametrize(
    ("fields", "weight"),
    [({}, 1), ({"accepting": False}, 0), ({"silence": "hung"}, 0), ({"full": True}, 0), ({"state": DRAINING}, 0)],
)
def test_weights(fields: dict[str, Any], weight: int) -> None:
    """New clients go where a healthy READY worker accepts and has room."""
    assert (weight, 1) == roster(worker(1, 1, **fields), worker(2, 2)).weights()


def test_degraded() -> None:
    """A slot without a READY worker, or two generations side by side."""
    assert not roster(worker(1, 1), worker(2, 2)).degraded()
    assert roster(worker(1, 1)).degraded()
    assert roster(worker(1, 1), worker(2, 2, generation=2)).degraded()
    assert roster(worker(1, 1)).summary() == "degraded: 1/2 workers, 0 connections"


def test_given_up() -> None:
    """Nobody lives and every slot is parked."""
    known = roster(slots=1)
    assert not known.given_up()
    known.slots[1].parked = True
    assert known.given_up()
    assert not roster(worker(1, 1), slots=1).given_up()


def test_rows_in_the_order_of_the_slots() -> None:
    """A row for each living worker, one for a slot that has none; states as people read them."""
    known = roster(worker(4, 2, full=True), worker(5, 2, DRAINING), worker(6, 3, silence="dumped"), slots=5)
    known.slots[1].retry_at = 30.0
    known.slots[4].parked = True
    known.slots[5].retry_at = 5.0
    rows = list(known.rows(12.0))
    assert ["waiting", "full", "draining", "hung", "parked", "waiting"] == [row["state"] for row in rows]
    assert [18.0, None, 0.0] == [row["retry_in"] for row in rows if row["id"] is None]
    assert (1004, 2.0) == (rows[1]["pid"], rows[1]["uptime"])


def test_an_exit_is_told_by_its_cause() -> None:
    """The worker's own words if it left some, else how it ended."""
    row = {"reason": "exit 3", "code": 3, "signal": None, "at": 9.0}
    assert row == exit_row(WorkerExited(1, code=3), None, 9.0)
    assert row | {"reason": "no module"} == exit_row(WorkerExited(1, code=3), WorkerFailed(1, "app", "no module"), 9.0)
