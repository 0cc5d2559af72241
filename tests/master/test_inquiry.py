"""Asking the workers for their connections: who is asked, who is waited for and for how long, and who is named."""

from __future__ import annotations

from typing import Any

from tests.master.test_supervisor import Story, kinds, only
from wsworker.master import events
from wsworker.master.events import Action, Answer, ConnectionsRequested, Exit, Tell, WorkerAnswered
from wsworker.master.inquiry import MAX_CENSUSES, PATIENCE_SECONDS
from wsworker.query import Query
from wsworker.wire import Order


def ask(story: Story, reply: int = 7, **query: Any) -> list[Action]:
    """Ask for connections."""
    return story.tell(ConnectionsRequested(Query(**query), reply))


def say(story: Story, worker: int, *rows: dict[str, Any], reply: int = 7) -> list[Action]:
    """Let a worker answer at once."""
    return story.tell(WorkerAnswered(worker, reply, len(rows), rows, last=True))


def lists(actions: list[Action]) -> list[int]:
    """Return which workers were told to list."""
    return [action.worker for action in only(actions, Tell) if action.order.name == "list"]


def result(actions: list[Action]) -> dict[str, Any]:
    """Return the body of the only answer."""
    (answer,) = only(actions, Answer)
    return dict(answer.body)


def test_every_worker_is_asked_and_the_answers_are_one() -> None:
    """The order carries the query and the time at which nobody waits any more; the last answer brings the result."""
    story = Story(workers=2).serve()
    order = Order("list", token=7, until=story.now + PATIENCE_SECONDS, query=Query(user="tom"))
    assert [Tell(1, order), Tell(2, order)] == ask(story, user="tom")
    assert [] == say(story, 2, {"id": "b", "slot": 2})
    answer = Answer(
        7,
        {"total": 2, "shown": 2, "missing": []},
        ({"connections": [{"id": "a", "slot": 1}, {"id": "b", "slot": 2}]},),
    )
    assert [answer] == say(story, 1, {"id": "a", "slot": 1})


def test_one_slot_may_be_asked() -> None:
    """The others are left alone."""
    story = Story(workers=3).serve()
    assert [2] == lists(ask(story, slot=2))
    assert {"total": 0, "shown": 0, "missing": []} == result(say(story, 2))


def test_a_slot_that_is_not_there() -> None:
    """The caller hears which there are."""
    story = Story(workers=2).serve()
    assert {
        "result": "failed",
        "error": {"code": "usage", "message": "there is no worker 9: the workers are 1 to 2"},
    } == result(ask(story, slot=9))


def test_who_keeps_silent_is_named_in_time() -> None:
    """Two seconds, and not one deadline more: the supervisor asks to be woken for that."""
    story = Story(workers=2).serve()
    ask(story)
    say(story, 1, {"id": "a", "slot": 1})
    assert story.now + PATIENCE_SECONDS == story.supervisor.next_deadline()
    assert {"total": 1, "shown": 1, "missing": [2]} == result(story.later(PATIENCE_SECONDS))
    # too late
    assert [] == say(story, 2, {"id": "b", "slot": 2})


def test_who_dies_meanwhile_is_named_at_once() -> None:
    """Nobody waits for the dead."""
    story = Story(workers=2).serve()
    ask(story)
    say(story, 1)
    assert {"total": 0, "shown": 0, "missing": [2]} == result(story.tell(events.WorkerExited(2, signal="SIGKILL")))


def test_who_boots_is_not_asked_and_not_missing() -> None:
    """It has no connections."""
    story = Story(workers=2)
    assert {"total": 0, "shown": 0, "missing": []} == result(ask(story))


def test_who_leaves_is_asked() -> None:
    """It has clients for as long as it drains."""
    story = Story(workers=1).serve()
    story.tell(events.StopRequested())
    assert [1] == lists(ask(story))


def test_who_is_told_to_go_before_it_was_ready_is_not_asked() -> None:
    """It never had a client."""
    story = Story(workers=2)
    story.tell(events.WorkerReady(1))
    story.tell(events.StopRequested())
    assert [1] == lists(ask(story))
    assert {"total": 0, "shown": 0, "missing": []} == result(say(story, 1))


def test_who_is_being_killed_is_missing() -> None:
    """It reads nothing any more."""
    story = Story(workers=2, worker_timeout=4).serve()
    story.live(8, beating=[1])
    assert "killed" == story.states()[2]
    assert [1] == lists(ask(story))
    assert [2] == result(say(story, 1))["missing"]


def test_a_service_that_ends_has_answered_everybody() -> None:
    """Before Exit, and after it at once."""
    story = Story(workers=1).serve()
    story.tell(events.StopRequested())
    ask(story)
    actions = story.tell(events.WorkerExited(1, code=0))
    assert [Answer, Exit] == [type(action) for action in kinds(actions, Answer, Exit)]
    assert {"total": 0, "shown": 0, "missing": []} == result(ask(story, reply=8))


def test_callers_are_kept_apart() -> None:
    """Each gets the answers to its own question."""
    story = Story(workers=1).serve()
    ask(story, reply=7)
    ask(story, reply=8)
    assert 8 == only(say(story, 1, reply=8), Answer)[0].reply
    assert 7 == only(say(story, 1, reply=7), Answer)[0].reply


def test_there_may_not_be_too_many() -> None:
    """Each holds rows."""
    story = Story(workers=1).serve()
    for reply in range(MAX_CENSUSES):
        assert [1] == lists(ask(story, reply=reply))
    assert "busy" == result(ask(story, reply=99))["error"]["code"]
    say(story, 1, reply=0)
    assert [1] == lists(ask(story, reply=100))
