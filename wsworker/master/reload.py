"""Reload: from the wish to the last answer; and the one other use of the lease, replacing a worker that is to go.

At most one reload waits; later ones join it, and the newest configuration wins. It begins when nobody boots or leaves,
so no slot ever has two draining workers. Until its canary is READY nothing old is touched.

The lease: at most one worker boots beside a READY one it is to replace, whatever the reason, so that STARTING and READY
workers never exceed the slots by more than one. A worker that follows a dead one needs no lease: its place is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from wsworker.config import KEYS, Config, carry_over, restart_needed, value_of
from wsworker.master import roll
from wsworker.master.events import (
    Adopt,
    Answer,
    HandoverFinished,
    Notify,
    Progress,
    ReloadRefused,
    ReloadRequested,
    Token,
    WorkerFailed,
)
from wsworker.master.moves import Tally
from wsworker.master.roll import Replace, Roll, Wait
from wsworker.master.roster import ServiceState, Slot, Worker, WorkerState
from wsworker.master.service import Service

ANSWER_BYTES: Final = 300_000
"""As much as fits a reply of at most 1 MiB, however it is written in JSON: a configuration may have many mistakes."""
SHOWN_CHARACTERS: Final = 2000
"""As much of that as `status` goes on to show."""
UNDYING_SECONDS: Final = 30.0
"""How long a reload waits for the end of a worker that was sent SIGKILL."""


def wish(old: Config, new: Config, reply: Token | None) -> ReloadRequested:
    """Return the wish for a configuration that was read anew: as much of it as a reload may apply.

    old: the accepted one. reply: of who waits for the outcome.
    """
    needed = restart_needed(old, new)
    applied = tuple(key for key in KEYS if key not in needed and value_of(old, key) != value_of(new, key))
    return ReloadRequested(carry_over(old, new), reply, needed, applied)


def ask(service: Service, event: ReloadRequested, now: float) -> None:
    """Keep the wish until it can begin, together with those who wished before."""
    replies = service.waiting.replies if service.waiting else []
    if event.reply is not None:
        replies.append(event.reply)
    service.waiting = Roll(event.config, replies, event.restart_needed, event.applied)


def refuse(service: Service, event: ReloadRefused, now: float) -> None:
    """Answer a reload whose configuration is wrong; nothing has changed."""
    # it may name a file whose name is no text
    message = event.message.encode(errors="replace")[:ANSWER_BYTES].decode(errors="ignore")
    service.end_reload(roll.refused(message[:SHOWN_CHARACTERS], service.generation))
    verdict = f"the configuration is wrong; the {roll.kept(service.roster.ready_count())}"
    service.log("error", f"reload refused: {verdict}\n{message}")
    service.notify_status()
    if event.reply is not None:
        service.want(Answer(event.reply, roll.refused(f"{message}\nerror: {verdict}", service.generation)))


def refuse_at_the_end(service: Service, event: ReloadRequested | ReloadRefused, now: float) -> None:
    """Answer a reload of a service that stops."""
    if event.reply is not None:
        service.want(Answer(event.reply, roll.stopping(service.generation)))


def move_on(service: Service, now: float) -> None:
    """Go on with what waits for the lease: the roll, a reload that was asked for, a worker that is to go."""
    if service.rebalance:
        # who gives stays until it has given
        return
    if service.roll and service.roll.current is None:
        _roll_on(service, service.roll, now)
    if service.state is ServiceState.SERVING and service.waiting:
        if service.roster.quiet():
            _begin(service, service.waiting, now)
        elif in_the_way := _undying(service.roster.workers.values(), now):
            _give_up(service, service.waiting, in_the_way)
    due = next((slot for slot in _slots_to_renew(service) if slot.replace_at <= now), None)
    if due:
        service.spawn(due, now)


def deadline(service: Service) -> float | None:
    """Return when move_on has something to do that no event announces: a replacement that failed is tried again."""
    return min((slot.replace_at for slot in _slots_to_renew(service)), default=None)


def _slots_to_renew(service: Service) -> list[Slot]:
    """Return the slots whose worker is to be replaced, if the lease is free; a reload that waits replaces them all."""
    if service.state is not ServiceState.SERVING or service.waiting or service.rebalance:
        return []
    if service.roster.lease_taken():
        return []
    return [slot for slot in service.roster.staying() if slot.ready and slot.ready.leaving and len(slot.workers) == 1]


def _undying(workers: Iterable[Worker], now: float) -> str:
    """Name a worker that SIGKILL does not end, as its system call never returns; "" if there is none."""
    for worker in workers:
        if worker.state is WorkerState.KILLED and now - worker.killed_at > UNDYING_SECONDS:
            return f"worker {worker.slot} (pid {worker.pid}) was killed and does not die"
    return ""


def _give_up(service: Service, reload: Roll, cause: str) -> None:
    service.waiting = None
    summary = roll.held_up(cause, service.generation)
    service.end_reload(summary)
    service.log("error", f"reload refused: {cause}")
    service.want(*(Answer(reply, summary) for reply in reload.replies))


def _begin(service: Service, reload: Roll, now: float) -> None:
    service.roll, service.waiting, service.state = reload, None, ServiceState.RELOADING
    reload.began_at = now
    next_generation = service.generation + 1
    service.want(Notify("reloading", f"generation {next_generation}: trying the new code in worker 1"))
    canary = service.spawn(service.roster.slots[1], now, next_generation, reload.config)
    reload.canary = reload.current = canary.id


def rolled(service: Service, worker: Worker, older: Worker | None, seconds: float) -> None:
    """A worker is READY; if the roll waited for it, note that, and with the canary the whole reload is accepted."""
    reload = service.roll
    if reload is None or worker.id != reload.current:
        return
    if worker.id == reload.canary:
        _accept(service, reload, worker)
    row = roll.replaced(reload, worker, older, seconds)
    reload.rows.append(row)
    reload.current = None
    service.want(*(Progress(reply, {"event": "replaced"} | row) for reply in reload.replies))


def count_asked(service: Service, older: Worker) -> None:
    """An old worker of a reload was told to go. If its connections can move, it tells how many cannot."""
    if service.roll and older.why == "reload" and not older.takers:
        service.roll.asked += older.connections


def count_moved(service: Service, worker: Worker, event: HandoverFinished) -> None:
    """A hand-over has ended. As those that drain on, it may end behind the end of its reload: see count_dropped."""
    if worker.why != "reload":
        return
    last, asked = service.last_reload, sum(event.left.values())
    if service.roll:
        service.roll.asked += asked
        service.roll.tally.add(event.moved, event.left, event.pause_seconds)
    elif last and last["result"] != "refused":
        tally = Tally()
        tally.add(event.moved, event.left, event.pause_seconds)
        service.last_reload = roll.with_moved(last, asked, tally)


def count_dropped(service: Service, worker: Worker, dropped: int) -> None:
    """A worker that was told to go has gone. dropped: those of its connections that ended without a goodbye.

    Old workers drain on behind the end of their reload, so its result, as `status` shows it, is not final before that.
    """
    last = service.last_reload
    if not dropped or worker.generation == service.generation:
        return
    if service.roll:
        service.roll.dropped += dropped
    elif last and last["result"] != "refused":
        service.last_reload = last | {"dropped": last["dropped"] + dropped}


def _accept(service: Service, reload: Roll, canary: Worker) -> None:
    if reload.config.workers != service.config.workers:
        # else the number stays what signals have made of it
        assert isinstance(reload.config.workers, int), "main resolves auto"
        service.target = reload.config.workers
    service.generation, service.accepted, reload.accepted = canary.generation, reload.config, True
    for slot in service.roster.slots.values():
        # what the old code has done is not held against the new
        slot.history = slot.replacements = ()
    service.reloads += 1
    service.want(Adopt(reload.config))


def _roll_on(service: Service, reload: Roll, now: float) -> None:
    match roll.next_step(service.roster, service.generation):
        case Replace(slot):
            reload.current = service.spawn(service.roster.slots[slot], now).id
        case Wait(None, slot) if in_the_way := _undying(service.roster.slots[slot].workers, now):
            service.log("error", f"reload partial: {in_the_way}")
            _end(service, reload, roll.stuck(reload, service.roster, in_the_way), now)
        case Wait(worker, _):
            reload.current = worker
        case _:
            service.log("info", f"reloaded: generation {service.generation} runs in every slot")
            _end(service, reload, {"result": "ok", "error": None}, now)


def roll_failed(service: Service, reload: Roll, failure: WorkerFailed, now: float) -> None:
    """The worker that the roll waited for cannot start: refused if it is the canary, else partial."""
    outcome = roll.failed(reload, failure, service.roster)
    service.log("error", f"reload {outcome['result']}: {outcome['error']['message']}: {failure.error}", failure.trace)
    _end(service, reload, outcome, now)


def not_alive(service: Service, worker: Worker, cause: str, trace: str, now: float) -> None:
    """A READY worker has died. If it is of the new code and the roll goes on, the other old workers are spared."""
    reload = service.roll
    if reload is None or not reload.accepted or worker.generation != service.generation:
        return
    current = service.roster.workers.get(reload.current) if reload.current is not None else None
    outcome = roll.cut_short(reload, service.roster, cause, trace)
    service.log("error", f"reload partial: {outcome['error']['message']}")
    _end(service, reload, outcome, now)
    if current and service.roster.slots[current.slot].ready:
        service.drain(current, "replace", now)


def _end(service: Service, reload: Roll, outcome: Mapping[str, Any], now: float) -> None:
    summary = roll.summary(reload, outcome, service.generation, now)
    service.end_reload(summary)
    service.want(*(Answer(reply, summary) for reply in reload.replies))
    service.roll, service.state = None, ServiceState.SERVING
    service.notify_ready()
