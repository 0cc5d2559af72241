"""Ties: one link from this worker to each other one that lives, made, kept and given up.

The table says who lives and where each stands; members.py says who dials. That two dial each other happens while the
table changes: the attempt of the one with the lower id counts, and a second link of a pair is closed before it is used.
A dial that fails is tried again after a pause.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from wsworker.bus.mesh.berth import Berth
from wsworker.bus.mesh.link import Link, Owner
from wsworker.bus.mesh.members import Member, Standing, dials, pause
from wsworker.bus.mesh.peers import Peer, Peers
from wsworker.bus.records import Hello

LOOK_SECONDS: Final = 1.0
QUICK_LOOK_SECONDS: Final = 0.05
"""While somebody is to be linked and is not, or this worker drains and meets those that come."""

logger = logging.getLogger("wsworker.bus")


class User(Owner, Protocol):
    """Who uses the links, and owns them."""

    def tied(self, peer: Peer) -> None:
        """Know that there is a link to a peer, over which nothing was said yet but the greeting."""

    def gone(self, peer: Peer) -> None:
        """Know that a peer has died or left, and is forgotten."""


class Ties:
    """The links of one worker. make: makes a link of a socket; hello: the greeting; draw: as for Mesh.

    moved: set whenever something has changed that somebody may wait for.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        berth: Berth,
        peers: Peers,
        hello: bytes,
        make: Callable[[socket.socket, Owner], Link],
        draw: Callable[[], float],
        user: User,
    ) -> None:
        self._loop = loop
        self._berth = berth
        self._me = berth.me._replace(standing=Standing.STARTING)
        self._peers = peers
        self._hello = hello
        self._make = make
        self._draw = draw
        self._user = user
        self._of_link: dict[Link, Peer] = {}  # of those that are dialled or in use
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.moved = asyncio.Event()

    @property
    def me(self) -> Member:
        """Return this worker, and where it stands."""
        return self._me

    @property
    def links(self) -> list[Link]:
        """Those in use, and those that are being made."""
        return [*self._of_link]

    def peer(self, link: Link) -> Peer | None:
        """Return whose link this is, or is to be."""
        return self._of_link.get(link)

    def stand(self, standing: Standing) -> None:
        """Know where this worker stands itself."""
        self._me = self._me._replace(standing=standing)
        self.look()

    def close(self) -> None:
        """Look no more; the links are the user's to close."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def complete(self, seconds: float) -> list[int]:
        """Wait, so long at most, until all READY workers are live; return the slots of those that are not."""
        try:
            async with asyncio.timeout(seconds):
                while self._missing():
                    self.moved.clear()
                    await self.moved.wait()
        except TimeoutError:
            pass
        return self._missing()

    def _missing(self) -> list[int]:
        return [peer.member.slot for peer in self._peers if peer.awaited and peer.member.standing == Standing.READY]

    # Looking and dialling

    def look(self) -> None:
        """See who lives, dial whom we are to dial, forget who is gone; it is done again and again from the first time.

        It may be called at any time.
        """
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._see()
            now = self._loop.time()
            for peer in self._peers:
                idle = peer.link is None and peer.dialling is None and not peer.left
                if idle and now >= peer.dial_at and dials(self._me, peer.member):
                    self._dial(peer)
        finally:
            # whatever goes wrong once, a worker that looks no more would never have its links again
            self.moved.set()
            busy = self._me.standing == Standing.DRAINING or any(peer.awaited for peer in self._peers)
            self._timer = self._loop.call_later(QUICK_LOOK_SECONDS if busy else LOOK_SECONDS, self.look)

    def _see(self) -> None:
        members = {member.worker: member for member in self._berth.members()}
        for worker, member in members.items():
            if worker != self._me.worker:
                self._peers.know(member)
        for peer in self._peers:
            # what a dead worker has written before its end is read to the end of its link
            if peer.member.worker not in members and peer.link is None:
                if peer.dialling is not None:
                    self._drop(peer.dialling)
                self._peers.forget(peer)
                self._user.gone(peer)

    def _dial(self, peer: Peer) -> None:
        try:
            dialled = self._connect(peer.member.slot)
        except OSError as error:
            self._put_off(peer)
            logger.debug("cannot dial worker %d: %s", peer.member.slot, error.strerror)
            return
        link = peer.dialling = self._make(dialled, self._user)
        self._of_link[link] = peer
        link.put(self._hello)
        link.write()

    def _connect(self, slot: int) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            made.connect(self._berth.address(slot))
        except OSError:
            made.close()
            raise
        return made

    def _put_off(self, peer: Peer) -> None:
        peer.tries += 1
        peer.dial_at = self._loop.time() + pause(peer.tries, self._draw())

    def _drop(self, link: Link) -> None:
        """Close a link that is not in use."""
        peer = self._of_link.pop(link, None)
        if peer is not None and peer.dialling is link:
            peer.dialling = None
        link.close()

    # Who answers, who comes, and who goes

    def answered(self, link: Link, hello: Hello) -> None:
        """Use a link that we have dialled, now that it is known who has answered. Raises WireError."""
        self._berth.check(hello)
        dialled = self._of_link[link]
        if hello.worker != dialled.member.worker:
            # the old worker of the slot has answered instead of the new one, or the other way round; so the link is no
            # dial of this one any more, and stays if this one has died
            dialled.dialling = None
            self._put_off(dialled)
        self._see()
        peer = self._peers.get(hello.worker)
        if peer is None or peer.link is not None:
            self._drop(link)
        else:
            self._use(link, peer, hello)

    def arrived(self, link: Link, hello: Hello) -> None:
        """Use a link on which a worker has greeted us rightly."""
        self._see()
        peer = self._peers.get(hello.worker)
        # one that is not in the table has waited in the queue of the listener, and has died meanwhile
        if peer is None or peer.link is not None or (peer.dialling and self._me.worker < peer.member.worker):
            link.close()
            return
        link.owner = self._user
        link.put(self._hello)
        self._use(link, peer, hello)

    def ended(self, link: Link, why: str) -> None:
        """Know that a link of ours is over."""
        self.moved.set()
        peer = self._of_link.pop(link)
        if peer.dialling is link:
            peer.dialling = None
            self._put_off(peer)
        elif peer.link is link:
            was_live = peer.live
            self._peers.lost(peer)
            if not peer.left:
                # who has not said yet what it wants has published nothing over it
                peer.owes = peer.owes or was_live
                logger.info("the link to worker %d is lost: %s", peer.member.slot, why)
            self.look()

    def _use(self, link: Link, peer: Peer, hello: Hello) -> None:
        if peer.dialling is not None and peer.dialling is not link:
            self._drop(peer.dialling)
        self._of_link[link] = peer
        peer.link, peer.dialling, peer.tries, peer.most = link, None, 0, hello.most
        self._user.tied(peer)
