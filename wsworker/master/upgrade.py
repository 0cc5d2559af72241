"""Upgrade: another version of wsworker takes over, in the process of the master, and then replaces the workers.

The program on disk is executed in place of the one that runs, execve(2). The process stays, and with it its pid, its
children, its descriptors: so nobody outside sees another master, no client is refused, and no worker is an orphan. What
the new program must know stands in the estate (estate.py). It then reloads, by which connections move to workers of its
own; if their code does not start, the old ones go on under it.

There is no way back once it is executed. So it is rehearsed before: the new program is started beside the master, reads
the very estate that it is to take over, and says that it can. Both need a service at rest, as of what is half done an
estate tells nothing; who asks at another time is refused, and nothing has changed.
"""

from __future__ import annotations

from wsworker.master import roll
from wsworker.master.events import Answer, Rehearse, Succeed, Token, UpgradeRehearsed, UpgradeRequested
from wsworker.master.service import Service


def ask(service: Service, event: UpgradeRequested, now: float) -> None:
    """Rehearse it, if the service is at rest."""
    if objection := _objection(service):
        _refuse(service, event.reply, objection)
    else:
        service.want(Rehearse(event.reply))


def rehearsed(service: Service, event: UpgradeRehearsed, now: float) -> None:
    """Let the new program take over if it can, and if the service is still at rest."""
    if objection := event.error or _objection(service):
        _refuse(service, event.reply, objection)
    else:
        service.log("info", f"wsworker {event.version} takes over")
        service.want(Succeed(event.reply))


def _refuse(service: Service, reply: Token | None, objection: str) -> None:
    service.log("error", f"upgrade refused: {objection}")
    if reply is not None:
        message = f"not upgraded, and nothing has changed: {objection}"
        service.want(Answer(reply, roll.nothing_done("refused", "upgrade_refused", message, service.generation)))


def _objection(service: Service) -> str:
    """Say why the service cannot change hands now, "" if it can."""
    if busy := service.busy():
        return busy
    if service.rebalance:
        return "a rebalance is under way"
    if service.censuses:
        return "a list of connections is under way; try again"
    if not service.roster.quiet() or service.opening or service.target != len(service.roster.slots):
        return "a worker boots or leaves; try again when `wsworker status` shows all of them ready"
    return ""
