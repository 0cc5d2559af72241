"""Reloads and replacements, story by story; the shorter ones."""

from __future__ import annotations

from tests.master.test_supervisor import Story, kinds, only
from wsworker.config import Config
from wsworker.master import events, reload
from wsworker.master.events import Adopt, Answer, Log, Notify, Progress, Spawn


def test_a_wrong_configuration_is_told_and_changes_nothing() -> None:
    """The caller, the log, the service manager and `status` all learn of it; no worker is started."""
    story = Story(workers=1).serve()
    actions = story.tell(events.ReloadRefused("workers: must be a number", 7))
    (answer,) = only(actions, Answer)
    verdict = "the configuration is wrong; the 1 old worker keeps serving"
    message = f"workers: must be a number\nerror: {verdict}"
    error = {"code": "config_invalid", "message": message, "cause": "", "trace": ""}
    assert (7, "refused", error, 1) == (
        answer.reply,
        answer.body["result"],
        answer.body["error"],
        answer.body["generation"],
    )
    assert [
        Log("error", f"reload refused: {verdict}\nworkers: must be a number"),
        Notify("status", "1/1 workers, 0 connections; last reload refused: workers: must be a number"),
    ] == kinds(actions, Log, Notify, Spawn)
    status = story.supervisor.status(story.now)
    shown = {**answer.body, "error": error | {"message": "workers: must be a number"}}
    assert (shown, "running", 0) == (status["last_reload"], status["state"], status["reloads"])


def test_very_many_mistakes_are_cut() -> None:
    """A reply has at most 1 MiB, which JSON may need for a third of it; `status` shows only the beginning."""
    story = Story(workers=1).serve()
    (answer,) = only(story.tell(events.ReloadRefused("ü" * 1_000_000, 7)), Answer)
    assert "ü" * 150_000 == answer.body["error"]["message"].partition("\n")[0]
    assert "ü" * 2000 == story.supervisor.status(story.now)["last_reload"]["error"]["message"]


def test_a_file_whose_name_is_no_text_may_be_wrong() -> None:
    """Its name comes as surrogates, and they must not end the master."""
    story = Story(workers=1).serve()
    (answer,) = only(story.tell(events.ReloadRefused("caf\udce9.yaml: no", 7)), Answer)
    assert "caf?.yaml: no" == answer.body["error"]["message"].partition("\n")[0]


def test_a_wrong_configuration_after_a_signal_is_only_shown() -> None:
    """Nobody waits for an answer; when the service stops, not even that happens."""
    story = Story(workers=1).serve()
    assert not kinds(story.tell(events.ReloadRefused("wrong")), Answer)
    assert "wrong" == story.supervisor.status(story.now)["last_reload"]["error"]["message"]
    story.tell(events.StopRequested())
    assert not story.tell(events.ReloadRefused("wrong"))
    assert [8] == [answer.reply for answer in only(story.tell(events.ReloadRefused("wrong", 8)), Answer)]


def test_a_configuration_is_adopted_when_its_canary_is_ready() -> None:
    """What of it concerns the master is applied then, and the answer says which settings those are."""
    story = Story(workers=1).serve()
    new = Config(app="hello", workers=1, graceful_timeout=9)
    assert not kinds(story.tell(events.ReloadRequested(new, 7, ("listen",), ("graceful_timeout",))), Adopt)
    actions = story.tell(events.WorkerReady(2))
    assert [Adopt(new)] == kinds(actions, Adopt)
    (answer,) = only(actions, Answer)
    assert (["listen"], ["graceful_timeout"]) == (answer.body["restart_needed"], answer.body["applied"])
    assert (1, answer.body) == (story.supervisor.service.reloads, story.supervisor.service.last_reload)


def test_a_refused_reload_applies_nothing() -> None:
    """The settings that changed were those of a configuration that is not taken."""
    story = Story(workers=1).serve()
    new = Config(app="hello", workers=1, graceful_timeout=9)
    story.tell(events.ReloadRequested(new, 7, (), ("graceful_timeout",)))
    actions = story.tell(events.WorkerExited(2, code=78))
    assert [[]] == [answer.body["applied"] for answer in only(actions, Answer)]
    assert not only(story.said, Adopt)
    assert story.config is story.supervisor.service.config


def test_the_answer_counts_the_clients_that_were_asked_to_go() -> None:
    """Where none can move, it is the sum of what the old workers held when their successors were ready."""
    story = Story(workers=2, reload_strategy="drain").serve()
    story.tell(events.SlotsRead({1: events.Reading(story.now, 4), 2: events.Reading(story.now, 3)}))
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(3))
    assert [7] == [answer.body["asked"] for answer in only(story.tell(events.WorkerReady(4)), Answer)]


def test_connections_that_an_old_worker_cuts_are_counted() -> None:
    """In the answer those until then, and in what `status` shows those of workers that drain on; once each."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(3))
    story.tell(events.WorkerExited(1, code=0, dropped=2))
    assert [2] == [answer.body["dropped"] for answer in only(story.tell(events.WorkerReady(4)), Answer)]
    story.tell(events.WorkerExited(2, code=0, dropped=3))
    assert 5 == story.supervisor.status(story.now)["last_reload"]["dropped"]


def test_only_a_reload_drops_connections_by_a_reload() -> None:
    """A worker that is replaced, and one that drains while a wrong configuration is refused, count for nothing."""
    story = Story(workers=1).serve()
    story.tell(events.WorkerLeaving(1))
    story.tell(events.WorkerReady(2))
    story.tell(events.WorkerExited(1, code=0, dropped=2))
    assert None is story.supervisor.service.last_reload
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(3))
    story.tell(events.ReloadRefused("wrong"))
    story.tell(events.WorkerExited(2, code=0, dropped=2))
    assert 0 == story.supervisor.status(story.now)["last_reload"]["dropped"]


def test_a_reload_during_the_start_waits_for_its_end() -> None:
    """It begins once every slot was judged."""
    story = Story(workers=2)
    story.tell(events.WorkerReady(1))
    assert not story.tell(events.ReloadRequested(story.config))
    assert [Spawn(3, 1, 2, story.config)] == kinds(story.tell(events.WorkerReady(2)), Spawn)


def test_a_canary_in_an_empty_slot_replaces_nobody() -> None:
    """The row then has no old pid, and nobody is asked to go."""
    story = Story(workers=2).serve()
    for worker in (1, 3):
        story.tell(events.WorkerExited(worker, code=1))
    story.tell(events.ReloadRequested(story.config, 7))
    (progress,) = only(story.tell(events.WorkerReady(4)), Progress)
    assert (None, 1004) == (progress.body["old_pid"], progress.body["new_pid"])


def test_a_replacement_waits_for_a_reload_and_is_not_needed_after_it() -> None:
    """The roll replaces whoever wants to go, too: at most one worker boots beside another."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config))
    assert not kinds(story.tell(events.WorkerLeaving(2)), Spawn)
    assert [(4, 2)] == [(spawn.worker, spawn.generation) for spawn in only(story.tell(events.WorkerReady(3)), Spawn)]
    story.tell(events.WorkerReady(4))
    for worker in (1, 2):
        assert not kinds(story.tell(events.WorkerExited(worker, code=0)), Spawn)


def test_new_code_is_not_blamed_for_the_deaths_of_the_old() -> None:
    """Nine deaths, a reload, one more: the first of the new code, followed at once. A refused reload forgives none."""
    story = Story(workers=1).serve()
    for worker in range(1, 10):
        story.tell(events.WorkerExited(worker, code=3))
        story.later(60.0)
        story.tell(events.WorkerReady(worker + 1))
    history = story.supervisor.roster.slots[1].history
    assert 9 == len(history)
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerExited(11, code=78))
    assert history == story.supervisor.roster.slots[1].history
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(12))
    story.tell(events.WorkerExited(10, code=0))
    assert [13] == [spawn.worker for spawn in only(story.tell(events.WorkerExited(12, code=3)), Spawn)]


def test_a_death_of_the_new_code_ends_the_roll() -> None:
    """Code that dies soon after READY must not take the place of all that works; who boots for it is sent away."""
    story = Story(workers=3).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(4))
    assert {1: "draining", 2: "ready", 3: "ready", 4: "ready", 5: "starting"} == story.states()
    actions = story.tell(events.WorkerExited(4, code=3))
    (answer,) = only(actions, Answer)
    assert (7, "partial", "worker 1 died: exit 3") == (
        answer.reply,
        answer.body["result"],
        answer.body["error"]["cause"],
    )
    assert "after 1 of 3 workers; the others keep the old code" in answer.body["error"]["message"]
    assert {1: "draining", 2: "ready", 3: "ready", 5: "draining", 6: "starting"} == story.states()
    story.tell(events.WorkerExited(5, signal="SIGTERM"))
    assert not only(story.tell(events.WorkerReady(6)), Answer)
    assert "degraded" == story.supervisor.status(story.now)["state"]


def test_a_death_that_leaves_its_slot_empty_keeps_who_boots_in_another_empty_one() -> None:
    """Sending it away would leave one worker less."""
    story = Story(workers=3).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerExited(2, code=1))
    story.tell(events.WorkerReady(4))
    story.tell(events.WorkerExited(4, code=3))
    assert "starting" in [story.states()[worker.id] for worker in story.supervisor.roster.slots[2].workers]


def test_a_death_of_the_old_code_during_a_roll_is_only_followed() -> None:
    """By the new code, and the roll goes on."""
    story = Story(workers=3).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(4))
    assert not only(story.tell(events.WorkerExited(3, code=3)), Answer)
    story.tell(events.WorkerReady(5))
    assert ["ok"] == [answer.body["result"] for answer in only(story.tell(events.WorkerReady(6)), Answer)]


def test_a_worker_that_cannot_be_killed_is_not_waited_for_without_end() -> None:
    """The caller learns which one is in the way; one that waits begins when it is gone."""
    story = Story(workers=2).serve()
    story.supervisor.service.kill(story.supervisor.roster.workers[2], story.now)
    story.tell(events.ReloadRequested(story.config, 7))
    actions = story.live(40, beating=[1])
    (answer,) = only(actions, Answer)
    assert ("refused", "worker 2 (pid 1002) was killed and does not die") == (
        answer.body["result"],
        answer.body["error"]["cause"],
    )
    assert not only(actions, Spawn)
    story.tell(events.ReloadRequested(story.config))
    assert [3] == [spawn.worker for spawn in only(story.tell(events.WorkerExited(2, signal="SIGKILL")), Spawn)]


def test_a_roll_does_not_wait_for_a_worker_that_cannot_be_killed() -> None:
    """It is partial: what is done stays."""
    story = Story(workers=3).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.supervisor.service.kill(story.supervisor.roster.workers[2], story.now)
    story.tell(events.WorkerReady(4))
    story.tell(events.WorkerExited(1, code=0))
    (answer,) = only(story.live(40, beating=[3, 4]), Answer)
    assert ("partial", "worker 2 (pid 1002) was killed and does not die") == (
        answer.body["result"],
        answer.body["error"]["cause"],
    )
    assert "running" != story.supervisor.status(story.now)["state"]


def test_a_roll_waits_for_its_next_slot_whoever_else_does_not_die() -> None:
    """The old worker of slot 1 is in nobody's way: its successor serves."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.supervisor.service.kill(story.supervisor.roster.workers[1], story.now)
    story.tell(events.WorkerReady(3))
    story.live(40, beating=[2, 3])
    story.supervisor.service.kill(story.supervisor.roster.workers[2], story.now)
    assert not [answer for answer in only(story.said, Answer) if answer.body["result"] == "partial"]


def test_a_pause_makes_nobody_undying() -> None:
    """The time in which the machine stood still does not count."""
    story = Story(workers=2).serve()
    story.live(1, beating=[1, 2])
    story.supervisor.service.kill(story.supervisor.roster.workers[2], story.now)
    story.tell(events.ReloadRequested(story.config, 7))
    story.now += 61
    assert not only(story.tell(events.SlotsRead({1: events.Reading(story.now)})), Answer)


def test_the_service_manager_is_told_of_a_failed_reload_until_the_next_one() -> None:
    """Not only until the number of connections changes."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRefused("config.yaml:1:1: error: no\n1 error in config.yaml"))
    story.live(3, beating=[1])
    beat = events.Reading(story.now, connections=5)
    news = "1/1 workers, 5 connections; last reload refused: config.yaml:1:1: error: no"
    assert [Notify("status", news)] == kinds(story.tell(events.SlotsRead({1: beat})), Notify)
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(2))
    assert Notify("ready", "1/1 workers, 5 connections") == kinds(story.said, Notify)[-1]


def test_a_worker_is_replaced_when_the_drain_of_its_slot_is_over() -> None:
    """A slot has at most one worker on its way out; other slots do not wait for that."""
    story = Story(workers=1, max_messages=100).serve()
    used = events.Reading(story.now, messages=500)
    story.tell(events.SlotsRead({1: used}))
    story.tell(events.WorkerReady(2))
    assert not only(story.tell(events.SlotsRead({1: used, 2: used})), Spawn)
    assert [3] == [spawn.worker for spawn in only(story.tell(events.WorkerExited(1, code=0)), Spawn)]


def test_nobody_is_replaced_while_a_reload_waits() -> None:
    """The reload does that, and would else wait for one drain after the other."""
    story = Story(workers=3, max_messages=100).serve()
    story.tell(events.WorkerExited(3, code=1))
    used = events.Reading(story.now, messages=500)
    story.tell(events.ReloadRequested(story.config))
    assert not only(story.tell(events.SlotsRead({1: used, 2: used})), Spawn)
    assert [5] == [spawn.worker for spawn in only(story.tell(events.WorkerReady(4)), Spawn)]


def test_reloads_are_counted_by_their_result() -> None:
    """Each once, however many asked for it."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRefused("config.yaml:1:1: error: no"))
    assert {"refused": 1} == story.supervisor.status(story.now)["reload_results"]
    story.tell(events.ReloadRequested(story.config, 1))
    story.tell(events.WorkerReady(2))
    assert {"refused": 1, "ok": 1} == story.supervisor.status(story.now)["reload_results"]
    story.tell(events.WorkerExited(1, code=0))
    story.tell(events.ReloadRequested(story.config, 2))
    story.tell(events.WorkerFailed(3, "app", "no module"))
    story.tell(events.WorkerExited(3, code=78))
    assert {"refused": 2, "ok": 1} == story.supervisor.status(story.now)["reload_results"]


def test_a_wish_is_what_a_reload_may_apply() -> None:
    """A key that it cannot change keeps its value and is named; of the others, those that have changed are."""
    old = Config(app="app", workers=2, backlog=100)
    new = Config(app="app", workers=3, backlog=200)
    expected = events.ReloadRequested(old.model_copy(update={"workers": 3}), 7, ("backlog",), ("workers",))
    assert expected == reload.wish(old, new, 7)
    assert events.ReloadRequested(old, None, (), ()) == reload.wish(old, old, None)
