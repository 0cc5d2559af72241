"""An upgrade: what is rehearsed first, who is refused, and that a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.master.test_handover import read
from tests.master.test_supervisor import Story, kinds, only
from wsworker.master import events
from wsworker.master.events import (
    Action,
    Answer,
    CloseSlot,
    Log,
    Rehearse,
    Signal,
    Spawn,
    Succeed,
    UpgradeRehearsed,
    UpgradeRequested,
)
from wsworker.query import Query

REFUSED = "not upgraded, and nothing has changed: "
BOOTS_OR_LEAVES = "a worker boots or leaves; try again when `wsworker status` shows all of them ready"


def facts(story: Story) -> str:
    """Return all that is known, as text."""
    return repr(story.supervisor.service)


def objection(actions: list[Action]) -> str:
    """Return why nothing happens: the caller hears of it, the log too, and that is all."""
    assert [Log, Answer] == [type(action) for action in actions]
    (logged,), (answer,) = only(actions, Log), only(actions, Answer)
    assert (7, ()) == (answer.reply, answer.parts)
    assert ("refused", "upgrade_refused") == (answer.body["result"], answer.body["error"]["code"])
    message = answer.body["error"]["message"]
    assert message.startswith(REFUSED)
    said = str(message.removeprefix(REFUSED))
    assert ("error", f"upgrade refused: {said}") == (logged.level, logged.text)
    return said


def test_what_can_take_over_does() -> None:
    """It is rehearsed, and nothing else happens; then it is executed, behind a line in the log."""
    story = Story(workers=2).serve()
    before = facts(story)
    assert [Rehearse(7)] == story.tell(UpgradeRequested(7))
    line = Log("info", "wsworker 2.0.0 takes over")
    assert [line, Succeed(7)] == story.tell(UpgradeRehearsed(7, version="2.0.0"))
    assert before == facts(story)


def test_a_signal_has_no_caller() -> None:
    """It is done all the same; of a refusal only the log tells."""
    story = Story(workers=1).serve()
    assert [Rehearse(None)] == story.tell(UpgradeRequested())
    assert [Succeed(None)] == only(story.tell(UpgradeRehearsed(None, version="2.0.0")), Succeed)
    refusal = [Log("error", "upgrade refused: it does not start")]
    assert refusal == story.tell(UpgradeRehearsed(None, error="it does not start"))


def test_what_cannot_take_over_does_not() -> None:
    """With the words of the rehearsal; the answer is that of a reload that has done nothing."""
    story = Story(workers=2).serve()
    before = facts(story)
    actions = story.tell(UpgradeRehearsed(7, error="it has no setting 'turbo'"))
    (answer,) = only(actions, Answer)
    assert {
        "result": "refused",
        "error": {
            "code": "upgrade_refused",
            "message": f"{REFUSED}it has no setting 'turbo'",
            "cause": "",
            "trace": "",
        },
        "workers": [],
        "asked": 0,
        "moved": 0,
        "drained": {},
        "longest_pause": 0.0,
        "dropped": 0,
        "seconds": 0.0,
        "generation": 1,
        "restart_needed": [],
        "applied": [],
    } == answer.body
    assert "it has no setting 'turbo'" == objection(actions)
    assert before == facts(story)


def starting() -> Story:
    """Boot."""
    return Story(workers=2)


def stopping() -> Story:
    """Stop."""
    story = Story(workers=2).serve()
    story.tell(events.StopRequested())
    return story


def ended() -> Story:
    """Have stopped."""
    story = stopping()
    for worker in (1, 2):
        story.tell(events.WorkerExited(worker, code=0))
    return story


def reloading() -> Story:
    """Reload."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config))
    return story


def about_to_reload() -> Story:
    """Serve, with a reload that waits until an old worker has left."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(2))
    story.tell(events.ReloadRequested(story.config))
    assert story.supervisor.service.waiting
    return story


def rebalancing() -> Story:
    """Move connections from worker to worker."""
    story = Story(workers=2).serve()
    read(story, w1=100, w2=0)
    story.tell(events.RebalanceRequested(3))
    return story


def listing() -> Story:
    """Ask the workers for their connections."""
    story = Story(workers=2).serve()
    story.tell(events.ConnectionsRequested(Query(), 3))
    return story


def replacing_the_dead() -> Story:
    """Boot a worker in the place of one that has died."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerExited(2, signal="SIGSEGV"))
    return story


def draining() -> Story:
    """Have reloaded, with an old worker that has not left."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(2))
    assert {1: "draining", 2: "ready"} == story.states()
    return story


def opening() -> Story:
    """Wait to hear whether a new listener listens."""
    story = Story(workers=1).serve()
    story.tell(events.ScaleRequested(1))
    story.supervisor.handle(events.WorkerReady(2), story.now)
    assert {1: "ready", 2: "ready"} == story.states()
    return story


def shrinking() -> Story:
    """Give a slot up, whose worker has left, and whose queue may not be empty."""
    story = Story(workers=2).serve()
    story.tell(events.ScaleRequested(-1))
    story.tell(events.WorkerExited(2, code=0))
    assert {1: "ready"} == story.states()
    return story


EVERY_OBJECTION = pytest.mark.parametrize(
    ("make", "reason"),
    [
        (starting, "the service starts"),
        (stopping, "the service stops"),
        (ended, "the service stops"),
        (reloading, "a reload is under way"),
        (about_to_reload, "a reload is under way"),
        (rebalancing, "a rebalance is under way"),
        (listing, "a list of connections is under way; try again"),
        (replacing_the_dead, BOOTS_OR_LEAVES),
        (draining, BOOTS_OR_LEAVES),
        (opening, BOOTS_OR_LEAVES),
        (shrinking, BOOTS_OR_LEAVES),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)


@EVERY_OBJECTION
def test_only_a_service_at_rest_is_rehearsed(make: Callable[[], Story], reason: str) -> None:
    """Of what is half done an estate tells nothing."""
    story = make()
    before = facts(story)
    assert reason == objection(story.tell(UpgradeRequested(7)))
    assert before == facts(story)


@EVERY_OBJECTION
def test_only_a_service_that_is_still_at_rest_changes_hands(make: Callable[[], Story], reason: str) -> None:
    """A rehearsal takes a while, in which anything may begin."""
    story = make()
    before = facts(story)
    assert reason == objection(story.tell(UpgradeRehearsed(7, version="2.0.0")))
    assert before == facts(story)


def test_its_own_trouble_comes_first() -> None:
    """What does not start is worth more words than what would pass."""
    assert "it does not start" == objection(reloading().tell(UpgradeRehearsed(7, error="it does not start")))


def test_after_a_refusal_it_may_be_tried_again() -> None:
    """When the worker has left, it is rehearsed."""
    story = draining()
    assert BOOTS_OR_LEAVES == objection(story.tell(UpgradeRequested(7)))
    story.tell(events.WorkerExited(1, code=0))
    assert [Rehearse(8)] == story.tell(UpgradeRequested(8))


def test_a_slot_that_was_given_up_is_at_rest_when_it_is_closed() -> None:
    """As many slots as are wanted, and no worker that boots or leaves."""
    story = shrinking()
    story.later(5.0)
    assert [CloseSlot(2)] == only(story.said, CloseSlot)
    assert [Rehearse(7)] == story.tell(UpgradeRequested(7))


def test_a_service_without_all_of_its_workers_may_be_upgraded() -> None:
    """A slot that waits for its next try does not boot: the new version may be what it waits for."""
    story = Story(workers=2).serve()
    for worker in (2, 3):
        story.tell(events.WorkerExited(worker, signal="SIGSEGV"))
    assert {1: "ready"} == story.states()
    assert story.supervisor.service.roster.slots[2].retry_at
    assert [Rehearse(7)] == story.tell(UpgradeRequested(7))
    assert [Succeed(7)] == kinds(story.tell(UpgradeRehearsed(7, version="2")), Succeed, Spawn, Signal)
