"""Barrier: waits until other workers have read what this one wants, and this one what they had published.

Over a link each side is read in order. So a probe behind word of what is wanted here is answered once that is in
effect, and the answer stands behind whatever was published there before. A link that is lost and made again has lost
the probe, too: another one goes over the new link. Who has said goodbye has said all, and who is gone says no more.

Whom there is no link to yet holds what it publishes until there is one: so it is waited for, if a link is to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wsworker.bus.mesh.link import Link
from wsworker.bus.mesh.members import Member, Standing, dials
from wsworker.bus.mesh.peers import Peer, Peers


class Barrier:
    """One wait. since_ns: the clock at its begin; ask: sends a probe with a later one, behind all that is wanted."""

    def __init__(self, peers: Peers, me: Member, since_ns: int, ask: Callable[[Peer], None]) -> None:
        self._peers = peers
        self._me = me
        self._since_ns = since_ns
        self._ask = ask
        self._asked: dict[Peer, Link | None] = {}
        # who comes later publishes later
        self._others = list(peers)

    @property
    def starting(self) -> bool:
        """Whether somebody who is not READY yet is to be linked: most often in a moment, if its loop runs at all."""
        return any(peer.member.standing == Standing.STARTING for peer in self._missing())

    @property
    def passed(self) -> bool:
        """Whether all have answered, but for those that start and are not linked yet; asks those that were not asked.

        You must look again whenever something about the peers has changed.
        """
        awaited = [peer for peer in self._others if self._peers.get(peer.member.worker) is peer and not peer.left]
        for peer in awaited:
            if peer.live and self._asked.get(peer) is not peer.link:
                self._asked[peer] = peer.link
                self._ask(peer)
        answers = all(peer.answered_ns >= self._since_ns for peer in awaited if peer.live)
        return answers and not any(peer.member.standing != Standing.STARTING for peer in self._missing())

    def _missing(self) -> Iterable[Peer]:
        """Yield those that are not linked and are to be."""
        for peer in self._others:
            is_here = self._peers.get(peer.member.worker) is peer
            if is_here and peer.awaited and (dials(self._me, peer.member) or dials(peer.member, self._me)):
                yield peer
