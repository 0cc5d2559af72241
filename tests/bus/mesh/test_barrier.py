"""The wait for what other workers have read and said: who is asked, who is waited for, and who drops out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from wsworker.bus.mesh.barrier import Barrier
from wsworker.bus.mesh.link import Link
from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.mesh.outbox import Budget
from wsworker.bus.mesh.peers import Peer, Peers

STARTING, READY, DRAINING = Standing


class Wait:
    """A barrier of worker 1. asked: whom it has asked, by id."""

    def __init__(self, *standings: Standing, me: Standing = READY) -> None:
        self.peers = Peers(1000, Budget(1000), "node-1")
        for number, standing in enumerate(standings, 2):
            self.peers.know(Member(number, number, standing))
        self.all = list(self.peers)
        self.me = Member(1, 1, me)
        self.asked: list[int] = []

    def begin(self) -> Barrier:
        """Return it; its clock is at 10."""
        return Barrier(self.peers, self.me, 10, lambda peer: self.asked.append(peer.member.worker))

    def link(self, *peers: Peer) -> None:
        """Have these be live, over a new link."""
        for peer in peers:
            peer.link = cast(Link, object())
            self.peers.lives(peer, [])


def passed(barrier: Barrier) -> Any:
    """Return whether it is passed now, which a type checker would take for the same each time."""
    return barrier.passed


def test_all_are_asked_once_and_must_answer() -> None:
    """With a clock that is not of an earlier question."""
    wait = Wait(READY, DRAINING)
    wait.link(*wait.all)
    barrier = wait.begin()
    assert not passed(barrier)
    wait.all[0].answered_ns = 10
    wait.all[1].answered_ns = 9
    assert not passed(barrier)
    wait.all[1].answered_ns = 11
    assert passed(barrier)
    assert [2, 3] == wait.asked
    assert passed(Wait().begin())


def test_a_new_link_is_a_new_question() -> None:
    """What went over the old one may be lost."""
    wait = Wait(READY)
    (peer,) = wait.all
    wait.link(peer)
    barrier = wait.begin()
    assert not passed(barrier)
    wait.peers.lost(peer)
    assert not passed(barrier)
    wait.link(peer)
    assert not passed(barrier)
    assert [2, 2] == wait.asked
    peer.answered_ns = 12
    assert passed(barrier)


@pytest.mark.parametrize("leaves", [True, False])
def test_who_is_gone_or_has_said_goodbye_is_not_waited_for(leaves: bool) -> None:
    """Nothing more comes from either; who comes later is not waited for at all."""
    wait = Wait(READY)
    (peer,) = wait.all
    wait.link(peer)
    barrier = wait.begin()
    assert not passed(barrier)
    if leaves:
        peer.left = True
    else:
        wait.peers.forget(peer)
    wait.peers.know(Member(9, 2, READY))
    assert passed(barrier)


@pytest.mark.parametrize(
    ("me", "other", "awaited"),
    [(READY, READY, True), (READY, DRAINING, True), (DRAINING, READY, True), (DRAINING, DRAINING, False)],
)
def test_who_is_to_be_linked_is_waited_for(me: Standing, other: Standing, awaited: bool) -> None:
    """What it has published is held until then; of two that drain none dials the other any more."""
    wait = Wait(other, me=me)
    barrier = wait.begin()
    assert passed(barrier) is not awaited
    wait.link(*wait.all)
    assert not passed(barrier)
    wait.all[0].answered_ns = 10
    assert passed(barrier)


def test_who_starts_may_take_long() -> None:
    """Somebody else decides for how long it is waited for."""
    wait = Wait(STARTING)
    barrier = wait.begin()
    assert (True, True) == (barrier.starting, barrier.passed)
    wait.link(*wait.all)
    assert (False, False) == (barrier.starting, passed(barrier))
    assert not Wait(STARTING, me=DRAINING).begin().starting
