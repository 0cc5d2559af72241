"""A rebalance: who gives what, what is waited for, what is refused, and that nothing else begins meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.master.test_handover import read
from tests.master.test_supervisor import Story, kinds, only
from wsworker.master import events
from wsworker.master.events import Action, Answer, Handover, HandoverFinished, RebalanceRequested, Spawn, Tell
from wsworker.master.rebalance import MARGIN_SECONDS, refused
from wsworker.wire import GIVE_TIMEOUTS, Order

GIVE = Order("give")


def uneven(*connections: int, **settings: Any) -> Story:
    """Return a service whose workers hold so many connections."""
    story = Story(workers=len(connections), **settings).serve()
    read(story, **{f"w{number}": count for number, count in enumerate(connections, 1)})
    return story


def ask(story: Story, reply: int = 7) -> list[Action]:
    """Ask for a rebalance."""
    return story.tell(RebalanceRequested(reply))


def result(actions: list[Action]) -> Mapping[str, Any]:
    """Return the body of the only answer."""
    (answer,) = only(actions, Answer)
    assert 7 == answer.reply
    return answer.body


def objection(actions: list[Action]) -> str:
    """Return why it was refused."""
    body = result(actions)
    assert ("refused", "rebalance_refused") == (body["result"], body["error"]["code"])
    return str(body["error"]["message"])


def test_the_fullest_give_and_the_emptiest_take() -> None:
    """All serve on; the answer comes when the last of them has told, with all that it did."""
    story = uneven(100, 20, 90, 30)
    assert [Handover(1, ((2, 40),), GIVE), Handover(3, ((4, 30),), GIVE)] == kinds(ask(story), Handover, Tell, Answer)
    assert dict.fromkeys((1, 2, 3, 4), "ready") == story.states()
    assert not story.tell(HandoverFinished(9, 5, {}, 0.0))
    assert not only(story.tell(HandoverFinished(3, 30, {}, 0.25)), Answer)
    story.now += 0.5
    assert {
        "result": "ok",
        "error": None,
        "moved": 68,
        "unmoved": {"busy": 2},
        "longest_pause": 0.25,
        "missing": [],
        "workers": [
            {"slot": 1, "before": 100, "wanted": 60},
            {"slot": 2, "before": 20, "wanted": 60},
            {"slot": 3, "before": 90, "wanted": 60},
            {"slot": 4, "before": 30, "wanted": 60},
        ],
        "seconds": 0.5,
    } == result(story.tell(HandoverFinished(1, 38, {"busy": 2}, 0.125)))
    # nobody has reconnected, so nothing was drained
    assert {"moved": 68, "drained": {}, "longest_pause": 0.25, "last_pause": 0.125} == story.supervisor.status(
        story.now
    )["handover"]
    assert story.supervisor.service.rebalance is None


def test_what_is_level_stays() -> None:
    """The answer comes at once."""
    story = uneven(100, 98)
    actions = ask(story)
    body = result(actions)
    assert ("ok", 0, {}, 0.0) == (body["result"], body["moved"], body["unmoved"], body["seconds"])
    assert not only(actions, Handover)


def test_a_hung_worker_takes_no_part() -> None:
    """Neither is it counted."""
    story = uneven(40, 20, 0)
    story.live(4, beating=[1, 2])
    read(story, w1=40, w2=20)
    assert [Handover(1, ((2, 10),), GIVE)] == only(ask(story), Handover)


def test_who_stays_for_want_of_a_taker_is_told() -> None:
    """The taker has died: the giver serves on, and keeps them."""
    story = uneven(40, 0)
    ask(story)
    story.tell(events.WorkerExited(2, signal="SIGKILL"))
    body = result(story.tell(HandoverFinished(1, 5, {}, 0.0, waits=15)))
    assert ("ok", 5, {"no_taker": 15}) == (body["result"], body["moved"], body["unmoved"])
    assert not only(story.tell(events.WorkerReady(3)), Handover)


def test_a_giver_that_dies_is_named() -> None:
    """What the others have told still counts."""
    story = uneven(40, 0, 40, 0)
    ask(story)
    story.tell(HandoverFinished(1, 20, {}, 0.0))
    body = result(story.tell(events.WorkerExited(3, signal="SIGKILL")))
    assert ("partial", 20, [3], "rebalance_partial") == (
        body["result"],
        body["moved"],
        body["missing"],
        body["error"]["code"],
    )
    assert "worker 3 did not say what has moved; see the log" == body["error"]["message"]


def test_givers_that_keep_silent_are_not_waited_for_without_end() -> None:
    """A while after handover_timeout the caller gets what there is; a later word of them counts for the service."""
    story = uneven(40, 0, 40, 0, handover_timeout=2)
    ask(story)
    actions = story.live(GIVE_TIMEOUTS * 2 + int(MARGIN_SECONDS) - 1, beating=[1, 2, 3, 4])
    assert not only(actions, Answer)
    deadline = story.supervisor.service.rebalance
    assert deadline is not None
    assert deadline.deadline_at == story.now + 1
    body = result(story.live(1, beating=[1, 2, 3, 4]))
    assert ("partial", [1, 3]) == (body["result"], body["missing"])
    assert "workers 1, 3 did not say what has moved; see the log" == body["error"]["message"]
    assert not only(story.tell(HandoverFinished(1, 20, {}, 0.0)), Answer)
    assert 20 == story.supervisor.status(story.now)["handover"]["moved"]


def test_the_machine_stood_still() -> None:
    """Nobody is to blame for that: the deadline moves."""
    story = uneven(40, 0)
    ask(story)
    story.live(1, beating=[1, 2])
    story.now += 60
    assert not only(story.live(1, beating=[1, 2]), Answer)


def test_a_reload_and_a_scale_wait_for_its_end() -> None:
    """No worker gives and leaves at a time; both begin in the same turn in which it ends."""
    story = uneven(40, 0)
    ask(story)
    assert not kinds(story.tell(events.ReloadRequested(story.config, 8)), Spawn)
    assert not kinds(story.tell(events.ScaleRequested(-1)), Tell, Handover)
    actions = story.tell(HandoverFinished(1, 20, {}, 0.0))
    assert [Order("drain", "scale")] == [action.order for action in only(actions, Handover)]
    story.tell(events.WorkerExited(2, code=0))
    assert [3] == [action.worker for action in only(story.said, Spawn)][-1:]


def test_a_worker_that_is_to_go_waits_for_its_end() -> None:
    """Its replacement starts when it has given."""
    story = uneven(40, 0)
    ask(story)
    assert not only(story.tell(events.WorkerLeaving(1)), Spawn)
    assert [3] == [action.worker for action in only(story.tell(HandoverFinished(1, 20, {}, 0.0)), Spawn)]


def test_a_stop_comes_through() -> None:
    """The caller is answered, as nobody gives any more."""
    story = uneven(40, 0)
    ask(story)
    body = result(story.tell(events.StopRequested()))
    assert ("partial", [1]) == (body["result"], body["missing"])


def test_one_at_a_time() -> None:
    """The second caller hears of the first."""
    story = uneven(40, 0)
    ask(story, reply=6)
    assert "a rebalance is under way already" == objection(ask(story))


def test_with_the_strategy_drain_no_connection_moves() -> None:
    """The setting is named."""
    assert objection(ask(uneven(40, 0, reload_strategy="drain"))).startswith("`reload_strategy` is drain")


def test_while_the_workers_change_it_is_refused() -> None:
    """At the start, during a reload and after it, with more workers or fewer under way, and at the end."""
    story = Story(workers=1)
    assert objection(ask(story)).startswith("the service starts")
    story = uneven(40, 0)
    story.tell(events.ReloadRequested(story.config))
    assert objection(ask(story)).startswith("a reload is under way")
    story.tell(events.WorkerReady(3))
    story.tell(events.WorkerReady(4))
    assert objection(ask(story)).startswith("a worker boots or leaves")
    story = uneven(40, 0)
    story.supervisor.service.target = 3
    assert objection(ask(story)).startswith("a worker boots or leaves")
    story = uneven(40, 0)
    story.tell(events.StopRequested())
    assert objection(ask(story)).startswith("the service stops")
    for worker in (1, 2):
        story.tell(events.WorkerExited(worker, code=0))
    assert objection(ask(story)).startswith("the service stops")


def test_with_code_of_two_ages_it_is_refused() -> None:
    """Older code may not understand what newer code has kept; a reload that ends well brings it back."""
    story = uneven(40, 0, 0)
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(4))
    story.tell(events.WorkerExited(5, code=1))
    story.tell(events.WorkerExited(1, code=0))
    assert {2: "ready", 3: "ready", 4: "ready"} == story.states()
    actions = ask(story)
    assert "some workers run older code" in objection(actions)
    assert not only(actions, Handover)
    story.tell(events.ReloadRequested(story.config))
    for worker in (6, 7, 8):
        story.tell(events.WorkerReady(worker))
        story.tell(events.WorkerExited({6: 4, 7: 2, 8: 3}[worker], code=0))
    assert {6: "ready", 7: "ready", 8: "ready"} == story.states()
    read(story, w6=40, w7=0, w8=2)
    assert only(ask(story), Handover)


def test_a_refusal_and_a_result_have_the_same_keys() -> None:
    """A caller reads both with the same code."""
    assert result(ask(uneven(1, 1))).keys() == refused("").keys()
