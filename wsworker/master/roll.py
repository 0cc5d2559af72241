"""One reload: who waits for it, how far it is, which slot is next, and what its callers are told.

A reload tries the new code in a canary in slot 1. Once that is READY the reload is accepted and rolls: slot by slot a
worker of the new generation starts, and when it is READY the old one is told to drain. reload.py drives it; this file
holds its facts and answers its questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wsworker.config import Config
from wsworker.master.events import Token, WorkerFailed, WorkerId
from wsworker.master.moves import Tally
from wsworker.master.roster import Roster, Worker


@dataclass(slots=True)
class Roll:
    """A reload, waiting or under way.

    restart_needed, applied: the settings that changed. current: the worker whose verdict it waits for; accepted: its
    canary is READY; asked: connections told to reconnect; dropped: those of them that were cut; tally: what has moved.
    """

    config: Config
    replies: list[Token]
    restart_needed: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    began_at: float = 0.0
    canary: WorkerId | None = None
    current: WorkerId | None = None
    accepted: bool = False
    asked: int = 0
    dropped: int = 0
    tally: Tally = field(default_factory=Tally)
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do in this slot until something happens; worker: whose verdict belongs to this roll, if anybody's."""

    worker: WorkerId | None
    slot: int


@dataclass(frozen=True, slots=True)
class Replace:
    """Start a worker of the new generation in this slot."""

    slot: int


def next_step(roster: Roster, generation: int) -> Wait | Replace | None:
    """Say what an accepted roll does next while nobody boots on its behalf; None: every slot runs the generation."""
    for slot in roster.staying():
        if slot.booting:
            # it follows a dead worker; if it was started before the reload was accepted, the roll goes over it later
            return Wait(slot.booting.id if slot.booting.generation == generation else None, slot.number)
        if slot.ready is None:
            return Replace(slot.number) if slot.has_room else Wait(None, slot.number)
        if slot.ready.generation != generation:
            return Replace(slot.number)
    return None


def replaced(roll: Roll, worker: Worker, older: Worker | None, seconds: float) -> dict[str, Any]:
    """Return the row for one replaced slot, as progress and in the result; seconds: from its fork to READY."""
    return {
        "slot": worker.slot,
        "old_pid": older.pid if older else None,
        "new_pid": worker.pid,
        "seconds": seconds,
        "canary": worker.id == roll.canary,
    }


def failed(roll: Roll, failure: WorkerFailed, roster: Roster) -> dict[str, Any]:
    """Return the result and error of a roll that ends early: refused by its canary, or partial."""
    if failure.worker == roll.canary:
        result = "refused"
        message = f"the new code does not start; the {kept(roster.ready_count())}"
    else:
        result = "partial"
        message = f"the new code stopped starting after {_progress(roll, roster)}; the others keep the old code"
    return {"result": result, "error": _error(f"reload_{result}", message, failure.error, failure.trace)}


def kept(workers: int) -> str:
    """Say that a reload that was refused has cost nothing. workers: how many serve."""
    return "1 old worker keeps serving" if workers == 1 else f"{workers} old workers keep serving"


def cut_short(roll: Roll, roster: Roster, cause: str, trace: str) -> dict[str, Any]:
    """Return the result and error of a roll whose new workers do not stay alive. cause: which one died of what."""
    message = f"a worker of the new code died after {_progress(roll, roster)}; the others keep the old code"
    return {"result": "partial", "error": _error("reload_partial", message, cause, trace)}


def stuck(roll: Roll, roster: Roster, cause: str) -> dict[str, Any]:
    """Return the result and error of a roll that cannot go on. cause: who is in its way."""
    message = f"the reload stopped after {_progress(roll, roster)}; the others keep the old code"
    return {"result": "partial", "error": _error("reload_partial", message, cause)}


def _progress(roll: Roll, roster: Roster) -> str:
    """Count the slots that were replaced, but for those that were given up since."""
    slots = [slot.number for slot in roster.staying()]
    return f"{sum(row['slot'] in slots for row in roll.rows)} of {len(slots)} workers"


def refused(message: str, generation: int) -> dict[str, Any]:
    """Return the result of a reload whose configuration is wrong; message: all that is wrong with it."""
    return nothing_done("refused", "config_invalid", message, generation)


def held_up(cause: str, generation: int) -> dict[str, Any]:
    """Return the result of a reload that could not begin; cause: who is in its way."""
    return nothing_done("refused", "reload_refused", "the reload could not begin", generation, cause)


def stopping(generation: int) -> dict[str, Any]:
    """Return the answer to a reload that a stop has overtaken."""
    return nothing_done("stopping", "reload_refused", "the service is stopping", generation)


def summary(roll: Roll, outcome: Mapping[str, Any], generation: int, now: float) -> dict[str, Any]:
    """Return the whole result of a reload, as its callers get it and as `status` shows the last one."""
    return {
        **outcome,
        "workers": roll.rows,
        # so far: who drains on is counted in what `status` shows
        "asked": roll.asked,
        **_moved(roll.tally),
        "dropped": roll.dropped,
        "seconds": now - roll.began_at,
        "generation": generation,
        "restart_needed": list(roll.restart_needed),
        "applied": list(roll.applied) if roll.accepted else [],
    }


def with_moved(summary: Mapping[str, Any], asked: int, tally: Tally) -> dict[str, Any]:
    """Return the result of a reload to which a hand-over is added that ended after it."""
    return {
        **summary,
        "asked": summary["asked"] + asked,
        "moved": summary["moved"] + tally.moved,
        "drained": dict(Counter(summary["drained"]) + tally.drained),
        "longest_pause": max(summary["longest_pause"], tally.longest_pause),
    }


def _moved(tally: Tally) -> dict[str, Any]:
    return {"moved": tally.moved, "drained": dict(tally.drained), "longest_pause": tally.longest_pause}


def _error(code: str, message: str, cause: str = "", trace: str = "") -> dict[str, Any]:
    return {"code": code, "message": message, "cause": cause, "trace": trace}


def nothing_done(result: str, code: str, message: str, generation: int, cause: str = "") -> dict[str, Any]:
    """Return the result of a reload that has done nothing; code, message, cause: of its error."""
    return {
        "result": result,
        "error": _error(code, message, cause),
        "workers": [],
        "asked": 0,
        **_moved(Tally()),
        "dropped": 0,
        "seconds": 0.0,
        "generation": generation,
        "restart_needed": [],
        "applied": [],
    }
