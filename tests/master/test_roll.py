"""A reload: which slot is next, and what its callers are told."""

import pytest

from tests.master.test_roster import DRAINING, KILLED, STARTING, roster, worker
from wsworker.config import Config
from wsworker.master import roll
from wsworker.master.events import WorkerFailed
from wsworker.master.moves import Tally
from wsworker.master.roll import Replace, Roll, Wait
from wsworker.master.roster import Roster


@pytest.mark.parametrize(
    ("known", "step"),
    [
        (roster(worker(3, 1, generation=2), worker(2, 2)), Replace(2)),
        (roster(worker(3, 1, generation=2), worker(4, 2, generation=2)), None),
        # nobody serves in slot 2: new code takes its place
        (roster(worker(3, 1, generation=2)), Replace(2)),
        (roster(worker(3, 1, generation=2), worker(2, 2, DRAINING, unasked=False)), Replace(2)),
        # a hung worker holds its place until it is reaped
        (roster(worker(3, 1, generation=2), worker(2, 2, KILLED)), Wait(None, 2)),
        # one that follows a dead worker: of new code, its verdict is the roll's; of old code, it is replaced later
        (roster(worker(3, 1, generation=2), worker(5, 2, STARTING, generation=2)), Wait(5, 2)),
        (roster(worker(3, 1, generation=2), worker(5, 2, STARTING)), Wait(None, 2)),
    ],
)
def test_the_next_step(known: Roster, step: Wait | Replace | None) -> None:
    """The first slot that does not run the new generation decides."""
    assert step == roll.next_step(known, 2)


def made(*slots: int) -> Roll:
    """Make a roll that has replaced the workers of some slots."""
    return Roll(Config(app="hello"), [], canary=3, rows=[{"slot": slot} for slot in slots])


def test_a_row_for_a_replaced_worker() -> None:
    """An empty slot has no old pid; the first worker of a reload is its canary."""
    row = {"slot": 1, "old_pid": None, "new_pid": 1003, "seconds": 0.5, "canary": True}
    assert row == roll.replaced(made(), worker(3, 1), None, 0.5)
    assert row | {"old_pid": 1001, "new_pid": 1004, "canary": False} == roll.replaced(
        made(), worker(4, 1), worker(1, 1), 0.5
    )


@pytest.mark.parametrize(
    ("serving", "words"), [(1, "the 1 old worker keeps serving"), (2, "the 2 old workers keep serving")]
)
def test_a_failed_canary_refuses(serving: int, words: str) -> None:
    """The caller reads how many serve on, and the cause."""
    known = roster(*(worker(n, n) for n in range(1, serving + 1)))
    outcome = roll.failed(
        Roll(Config(app="hello"), [], (), canary=9), WorkerFailed(9, "app", "no module", "trace"), known
    )
    assert "refused" == outcome["result"]
    assert f"the new code does not start; {words}" == outcome["error"]["message"]
    assert ("no module", "trace") == (outcome["error"]["cause"], outcome["error"]["trace"])


def test_a_later_failure_is_partial() -> None:
    """What is done stays done."""
    outcome = roll.failed(made(1, 7), WorkerFailed(4, "boot", "raised"), roster(worker(3, 1)))
    assert "partial" == outcome["result"]
    assert "stopped starting after 1 of 2 workers" in outcome["error"]["message"]


def test_the_summary_and_the_answer_of_a_stop_have_the_same_keys() -> None:
    """A caller reads both with the same code."""
    summary = roll.summary(
        Roll(Config(app="hello"), [], ("listen",), began_at=5.0), {"result": "ok", "error": None}, 2, 7.5
    )
    assert (2.5, ["listen"], 2) == (summary["seconds"], summary["restart_needed"], summary["generation"])
    assert roll.stopping(2).keys() == roll.refused("wrong", 2).keys() == roll.held_up("", 2).keys() == summary.keys()


def test_what_moves_behind_the_end_is_added() -> None:
    """Numbers add up, reason by reason; of pauses the longest stays. All else is as it was."""
    reload = Roll(Config(app="hello"), [], asked=2)
    reload.tally.add(5, {"busy": 2}, 0.5)
    summary = roll.summary(reload, {"result": "ok", "error": None}, 2, 7.5)
    assert (2, 5, {"busy": 2}, 0.5) == tuple(summary[key] for key in ("asked", "moved", "drained", "longest_pause"))
    more = Tally()
    more.add(1, {"busy": 1, "tls": 3}, 0.25)
    changed = {"asked": 6, "moved": 6, "drained": {"busy": 3, "tls": 3}, "longest_pause": 0.5}
    assert summary | changed == roll.with_moved(summary, 4, more)


def test_settings_are_applied_once_the_canary_is_ready() -> None:
    """Before that they are only wanted."""
    reload = Roll(Config(app="hello"), [], applied=("workers",))
    assert [] == roll.summary(reload, {"result": "refused", "error": None}, 2, 7.5)["applied"]
    reload.accepted = True
    assert ["workers"] == roll.summary(reload, {"result": "ok", "error": None}, 2, 7.5)["applied"]


def test_a_slot_that_goes_is_passed_over() -> None:
    """Its worker leaves without a successor."""
    known = roster(worker(3, 1, generation=2), worker(2, 2))
    known.slots[2].closing_since = 1.0
    assert roll.next_step(known, 2) is None


def test_a_roll_that_ends_for_another_reason_is_partial_too() -> None:
    """A worker of the new code dies, or one of the old cannot be ended; slots that are gone do not count."""
    known = roster(worker(3, 1), worker(2, 2))
    died = roll.cut_short(made(1, 7), known, "worker 1 died: exit 3", "a traceback")
    words = "a worker of the new code died after 1 of 2 workers; the others keep the old code"
    assert ("partial", words) == (died["result"], died["error"]["message"])
    assert ("worker 1 died: exit 3", "a traceback") == (died["error"]["cause"], died["error"]["trace"])
    stuck = roll.stuck(made(1), known, "worker 2 was killed and does not die")
    words = "the reload stopped after 1 of 2 workers; the others keep the old code"
    assert ("partial", words, "worker 2 was killed and does not die") == (
        stuck["result"],
        stuck["error"]["message"],
        stuck["error"]["cause"],
    )
