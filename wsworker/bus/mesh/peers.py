"""Peers: the other workers as one worker knows them, each with its bit, its link and what waits for it.

Three masks say who is to get a message: who wants its key (interest), who wants every key since it cannot say yet what
it wants (holding), and, for a broadcast, everybody who can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from wsworker.bus.mesh.link import Link
from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.mesh.outbox import Budget, Held
from wsworker.bus.topics import Interest, Key, Origin


@dataclass(eq=False, slots=True)
class Peer:
    """Another worker.

    bit: its own in every mask. link: the one in use; live: it has said over it what it wants. dialling: our attempt;
    dial_at: when the next one is due; tries: attempts in a row that failed. held: what is published before it is live.
    most: the longest record that it takes. left: it has said goodbye. owes: messages of it may be missing, which is to
    be told once the way to it is there again, or it is gone. stale: it must be told anew of all that is wanted here.
    wanted: what came of its snapshot so far. lag_seconds: how long the last probe took; answered_ns: the latest clock
    in a probe that it has answered. origin: who has published what comes from it.
    """

    member: Member
    bit: int
    origin: Origin
    link: Link | None = None
    live: bool = False
    dialling: Link | None = None
    dial_at: float = 0.0
    tries: int = 0
    held: Held | None = None
    most: int = 0
    left: bool = False
    owes: bool = False
    stale: bool = False
    wanted: list[Key] = field(default_factory=list)
    lag_seconds: float = 0.0
    answered_ns: int = 0

    @property
    def awaited(self) -> bool:
        """Whether it is not live, and is to be."""
        return not self.live and not self.left

    @property
    def stays(self) -> bool:
        """Whether it is live and, as far as is known, not about to leave."""
        return self.live and not self.left and self.member.standing != Standing.DRAINING

    @property
    def waits(self) -> bool:
        """Whether something is held for it, and it can be dialled, as members.py has it."""
        return self.awaited and bool(self.held) and self.member.standing == Standing.READY


class Peers:
    """All other workers. limit: of what waits for one, in bytes; budget: of what waits for all; node: as for Origin."""

    def __init__(self, limit: int, budget: Budget, node: str) -> None:
        self._limit = limit
        self._budget = budget
        self._node = node
        self._by_worker: dict[int, Peer] = {}
        self._by_bit: dict[int, Peer] = {}
        self._live = 0
        self._holding = 0
        self.interest = Interest()

    def __iter__(self) -> Iterator[Peer]:
        return iter([*self._by_worker.values()])

    def get(self, worker: int) -> Peer | None:
        """Return the peer of this id."""
        return self._by_worker.get(worker)

    def know(self, member: Member) -> None:
        """Know that a worker lives, and where it stands."""
        peer = self._by_worker.get(member.worker)
        if peer is None:
            bit = 1
            while bit in self._by_bit:
                bit <<= 1
            origin = Origin(self._node, member.worker)
            peer = self._by_worker[member.worker] = self._by_bit[bit] = Peer(member, bit, origin)
        peer.member = member
        # one that starts has nobody who could want anything
        if peer.awaited and peer.held is None and member.standing != Standing.STARTING:
            self._hold(peer)

    def forget(self, peer: Peer) -> None:
        """Know that a worker is gone."""
        self.lost(peer)
        if peer.held is not None:
            self._release(peer)
        del self._by_worker[peer.member.worker], self._by_bit[peer.bit]

    def lives(self, peer: Peer, keys: list[Key]) -> Held | None:
        """Know what a peer wants; return what was held for it, if it had not said so before."""
        self.interest.replace(peer.bit, keys)
        if peer.live:
            return None
        peer.live = True
        self._live |= peer.bit
        held = peer.held
        if held is not None:
            peer.held = None
            self._holding &= ~peer.bit
        return held

    def lost(self, peer: Peer) -> None:
        """Know that the link to a peer is no more; if it still lives, know() comes again."""
        peer.link, peer.live = None, False
        peer.wanted.clear()
        self._live &= ~peer.bit
        self.interest.forget(peer.bit)

    def wanting(self, key: Key) -> Iterator[Peer]:
        """Yield those that are to get a message."""
        mask = self._holding | (self._live if key.kind == "broadcast" else self.interest.mask(key))
        while mask:
            bit = mask & -mask
            mask ^= bit
            yield self._by_bit[bit]

    def _hold(self, peer: Peer) -> None:
        peer.held = Held(self._limit, self._budget)
        self._holding |= peer.bit

    def _release(self, peer: Peer) -> None:
        assert peer.held is not None
        peer.held.release(lambda key: False)
        peer.held = None
        self._holding &= ~peer.bit
