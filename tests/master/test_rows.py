"""What `status` shows of slots and workers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.master.test_roster import DRAINING, STARTING, roster, worker
from wsworker.master.events import WorkerExited, WorkerFailed
from wsworker.master.rows import exit_class, exit_row, restart_reason, rows


def test_rows_in_the_order_of_the_slots() -> None:
    """A row for each living worker, one for a slot that has none; states as people read them."""
    stopped = worker(7, 6, silence="hung", stopped=True)
    known = roster(worker(4, 2, full=True), worker(5, 2, DRAINING), worker(6, 3, silence="dumped"), stopped, slots=7)
    known.slots[1].retry_at = 30.0
    known.slots[4].parked = True
    known.slots[5].retry_at = 5.0
    known.slots[7].closing_since = 11.0
    shown = list(rows(known, (), 12.0))
    states = ["waiting", "full", "draining", "hung", "parked", "waiting", "stopped", "closing"]
    assert states == [row["state"] for row in shown]
    assert [18.0, None, 0.0, None] == [row["retry_in"] for row in shown if row["id"] is None]
    assert (1004, 2.0) == (shown[1]["pid"], shown[1]["uptime"])


def test_a_weight_belongs_to_who_takes_clients() -> None:
    """The worker that leaves shows 0, its successor the slot's weight; a slot that does not listen has none.

    A queue that is lent shows the slot of the worker that has it.
    """
    known = roster(worker(1, 1, DRAINING), worker(2, 1), worker(3, 2), slots=2)
    known.slots[2].lent_to = 2
    shown = list(rows(known, (256,), 12.0))
    assert [(0, None), (256, None), (0, 1)] == [(row["weight"], row["lent_to"]) for row in shown]


def test_a_long_error_is_cut() -> None:
    """An exception may say anything."""
    row = exit_row(worker(1, 1, failure=WorkerFailed(1, "crash", "it", "E" * 9000)), WorkerExited(1, code=1), 9.0)
    assert "E" * 500 == row["error"]


def test_an_exit_is_told_by_its_cause() -> None:
    """The worker's own words if it left some, else how it ended."""
    row = {"reason": "exit 3", "class": "crash", "code": 3, "signal": None, "error": "", "at": 9.0}
    assert row == exit_row(worker(1, 1), WorkerExited(1, code=3), 9.0)
    trace = 'Traceback:\n  File "app.py"\nImportError: no module\n'
    failed = worker(1, 1, STARTING, failure=WorkerFailed(1, "app", "cannot import", trace))
    told = {"reason": "cannot import", "class": "app", "error": "ImportError: no module"}
    assert row | told == exit_row(failed, WorkerExited(1, code=3), 9.0)
    fatal = WorkerExited(1, signal="SIGSEGV", words="Fatal Python error: Segmentation fault\n\nStack:\n  File")
    told = {"reason": "killed by SIGSEGV", "signal": "SIGSEGV", "error": "Fatal Python error: Segmentation fault"}
    assert row | told | {"code": None} == exit_row(worker(1, 1), fatal, 9.0)


@pytest.mark.parametrize(
    ("fields", "event", "kind"),
    [
        ({}, {"code": 0}, "crash"),
        ({"unasked": False}, {"code": 0}, "asked"),
        ({"state": STARTING}, {"code": 1}, "boot"),
        ({"doom": "hung"}, {"signal": "SIGABRT"}, "hung"),
        ({"doom": "memory"}, {"signal": "SIGKILL"}, "memory"),
        ({}, {"signal": "SIGKILL", "oom": True}, "memory"),
        ({"failure": WorkerFailed(1, "crash", "it ended")}, {"code": 1}, "crash"),
    ],
)
def test_the_kind_of_an_exit(fields: dict[str, Any], event: dict[str, Any], kind: str) -> None:
    """What the supervisor did, and what the worker said, come before what the kernel tells."""
    assert kind == exit_class(worker(1, 1, **fields), WorkerExited(1, **event))


@pytest.mark.parametrize(
    ("fields", "event", "reason"),
    [
        ({}, {"code": 0}, "exit"),
        ({}, {"code": 3}, "exit"),
        ({}, {"signal": "SIGSEGV"}, "signal"),
        ({}, {"signal": "SIGKILL", "oom": True}, "oom"),
        ({"doom": "memory"}, {"signal": "SIGKILL"}, "oom"),
        ({"doom": "hung"}, {"signal": "SIGABRT"}, "hung"),
        ({"state": STARTING}, {"code": 1}, "boot"),
        ({"failure": WorkerFailed(1, "app", "no module")}, {"code": 78}, "boot"),
        ({"failure": WorkerFailed(1, "crash", "it ended")}, {"code": 1}, "exit"),
    ],
)
def test_why_a_worker_was_started_again(fields: dict[str, Any], event: dict[str, Any], reason: str) -> None:
    """What became of the one before it, in one of a few words."""
    assert reason == restart_reason(exit_row(worker(1, 1, **fields), WorkerExited(1, **event), 9.0))


def test_a_slot_whose_first_fork_failed_has_no_exit() -> None:
    """Its worker starts late, and not again."""
    assert "boot" == restart_reason(None)


def test_a_reason_says_what_a_worker_was_killed_for() -> None:
    """A signal alone would not."""
    row = exit_row(worker(1, 1, doom="hung"), WorkerExited(1, signal="SIGABRT"), 9.0)
    assert "killed by SIGABRT: its loop was silent" == row["reason"]
