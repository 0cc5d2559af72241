"""Gate: the way in to one worker. Who connects is a stranger until it has greeted; then a worker, a program, or out.

The gate is open from the worker's go until it drains, since two workers of a slot share the listener during a reload.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from wsworker.bus.bus import Sink
from wsworker.bus.mesh.berth import Berth
from wsworker.bus.mesh.link import Link, Owner
from wsworker.bus.mesh.outside import Outside
from wsworker.bus.records import Hello, Record
from wsworker.notices import Notices

ACCEPTS_PER_TURN: Final = 32
MOST_STRANGERS: Final = 256
"""Links without a greeting yet; each may stay a second."""

LAST_SECONDS: Final = 1.0
"""How long a worker that ends waits for what was sent to it before; a few milliseconds are the rule."""

PAUSE_SECONDS: Final = 1.0

logger = logging.getLogger("wsworker.bus")


class Gate:
    """Accepts, and owns the links to strangers and to programs outside.

    hello: what this worker says to a program; make: makes a link of a socket; arrived: takes over the link of a worker,
    with its greeting. refused: so many were turned away.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        berth: Berth,
        hello: bytes,
        sink: Sink,
        make: Callable[[socket.socket, Owner], Link],
        arrived: Callable[[Link, Hello], None],
    ) -> None:
        self._loop = loop
        self._berth = berth
        self._hello = hello
        self._make = make
        self._arrived = arrived
        self._strangers: set[Link] = set()
        self._outside = Outside(sink)
        self._open = False
        self._drains = False
        self._left = asyncio.Event()
        self._notices = Notices(logger, loop.time)
        self.refused = 0

    @property
    def links(self) -> list[Link]:
        """All that came this way and are no workers."""
        return [*self._strangers, *self._outside.links]

    def open(self) -> None:
        """Accept from now on."""
        self._open = True
        self._loop.add_reader(self._berth.listener, self._accept)

    def shut(self) -> None:
        """Accept no more, and send programs to another worker; harmless when repeated."""
        self._loop.remove_reader(self._berth.listener)
        self._open, self._drains = False, True
        self._outside.part()

    async def hear_out(self) -> None:
        """Wait until what programs have sent is published and answered; you must have shut the gate.

        Strangers are left out: a program publishes nothing before it has our greeting, and without that asks another.
        """
        try:
            async with asyncio.timeout(LAST_SECONDS):
                while self._outside.links:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            logger.warning("some of what other programs have published last could not be read")

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, _ = self._berth.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # for want of descriptors; the listener stays readable, so look away
                text = "cannot accept on the bus (%s); it is tried again every second"
                self._notices.tell("accept", text, error.strerror, level=logging.ERROR)
                self._loop.remove_reader(self._berth.listener)
                self._loop.call_later(PAUSE_SECONDS, self._accept_again)
                return
            accepted.setblocking(False)
            link = self._make(accepted, self)
            if len(self._strangers) >= MOST_STRANGERS or not self._may_connect(link):
                self.refused += 1
                link.close()
            else:
                self._strangers.add(link)

    def _accept_again(self) -> None:
        if self._open:
            self._loop.add_reader(self._berth.listener, self._accept)

    def _may_connect(self, link: Link) -> bool:
        return self._berth.uids is None or link.peer_uid() in self._berth.uids

    # What links tell

    def greeted(self, link: Link, hello: Hello) -> None:
        """See who this is."""
        self._berth.check(hello)
        if hello.slot:
            self._strangers.discard(link)
            self._arrived(link, hello)
            return
        self._outside.admit(link, self._hello)
        self._strangers.discard(link)
        if self._drains:
            self._outside.part()

    def received(self, link: Link, record: Record) -> None:
        """Publish what a program sends."""
        self._outside.received(link, record)

    def rested(self, link: Link) -> None:
        """Tell a program how many of its messages were accepted."""
        if link in self._outside.links:
            self._outside.rested(link)

    def wrote(self, link: Link) -> None:
        """Nothing waits for that here."""

    def ended(self, link: Link, why: str) -> None:
        """Forget a program that has left, or a stranger that was turned away."""
        if self._outside.ended(link):
            self._left.set()
        else:
            self._strangers.discard(link)
            self.refused += 1
            if why:
                logger.warning("somebody who connected to the bus was turned away: %s", why)
            else:
                # a worker that gave up waiting for one that was busy, as in a reload
                logger.debug("somebody who connected to the bus has left")
