"""The other workers as one worker knows them: bits, masks, and what is held."""

from __future__ import annotations

from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.mesh.outbox import Budget
from wsworker.bus.mesh.peers import Peer, Peers
from wsworker.bus.topics import EVERYBODY, Key

STARTING, READY, DRAINING = Standing
ROOM = Key("topic", "room")


def make(*standings: Standing) -> tuple[Peers, list[Peer]]:
    """Return peers with the ids 1, 2 and so on."""
    peers = Peers(1000, Budget(1000), "node-1")
    for number, standing in enumerate(standings, 1):
        peers.know(Member(number, number, standing))
    return peers, list(peers)


def test_each_has_a_bit_that_is_given_again() -> None:
    """The lowest that is free, so that masks stay short over many reloads."""
    peers, (first, _, third) = make(STARTING, STARTING, STARTING)
    assert [1, 2, 4] == [peer.bit for peer in peers]
    peers.forget(first)
    peers.know(Member(9, 1, STARTING))
    made = peers.get(9)
    assert made is not None
    assert (1, 4) == (made.bit, third.bit)
    assert peers.get(1) is None


def test_who_wants_a_message() -> None:
    """Who has said so; who cannot have said so yet and may have clients; for a broadcast everybody who is live."""
    peers, (starts, ready, drains) = make(STARTING, READY, DRAINING)
    assert [ready, drains] == list(peers.wanting(ROOM)) == list(peers.wanting(EVERYBODY))
    assert peers.lives(starts, []) is None
    assert peers.lives(ready, [ROOM]) is not None
    assert peers.lives(drains, []) is not None
    assert [ready] == list(peers.wanting(ROOM))
    assert [starts, ready, drains] == list(peers.wanting(EVERYBODY))
    assert peers.lives(ready, []) is None
    assert [] == list(peers.wanting(ROOM))


def test_a_peer_that_is_lost_wants_everything_again() -> None:
    """Once it is seen to live; and nothing if it has said goodbye."""
    peers, (one, two) = make(READY, READY)
    for peer in (one, two):
        peers.lives(peer, [ROOM])
        peers.lost(peer)
    two.left = True
    assert [] == list(peers.wanting(ROOM)) == list(peers.wanting(EVERYBODY))
    for peer in (one, two):
        peers.know(peer.member)
    assert [one] == list(peers.wanting(ROOM))
    assert [True, False] == [peer.awaited for peer in (one, two)]


def test_one_that_starts_is_held_for_once_it_is_ready() -> None:
    """Before that it has nobody who could want anything."""
    peers, (peer,) = make(STARTING)
    held = [peer.held is not None]
    peers.know(Member(1, 1, READY))
    assert [False, True] == [*held, peer.held is not None]
    assert READY == peer.member.standing


def test_what_is_held_for_a_peer_that_is_gone_is_given_back() -> None:
    """The room of all queues is as before."""
    budget = Budget(1000)
    peers = Peers(1000, budget, "node-1")
    peers.know(Member(1, 1, READY))
    (peer,) = peers
    assert peer.held is not None
    peer.held.push(b"12345", ROOM, 0.0)
    assert 5 == budget.used
    peers.forget(peer)
    assert (0, []) == (budget.used, list(peers))
    assert [] == list(peers.wanting(EVERYBODY))
