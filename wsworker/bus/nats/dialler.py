"""The dialler: tries the servers of the URL, one after another, until one takes us.

Each round begins behind the server that was tried last, so a server that is lost is tried again when all others were;
the first one begins anywhere, so that workers spread over a cluster.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.broker.lookup import Lookup
from wsworker.bus.broker.reasons import NO_NAME_SERVER, reason
from wsworker.bus.nats.link import Link


class Dialler:
    """Of one worker. name: for the server's own lists; seconds: for each server; make: returns a link to be opened.

    why: a clause, why the server that was tried last has not taken us, or "".
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: BrokerUrl,
        name: str,
        draw: Callable[[], float],
        seconds: float,
        make: Callable[[], Link],
    ) -> None:
        self._lookup = Lookup(loop)
        self._url = url
        self._facts: Final = {"name": name}
        self._seconds = seconds
        self._make = make
        first = int(draw() * len(url.servers))
        self._servers = itertools.cycle(url.servers[first:] + url.servers[:first])
        self._tls_first: set[Server] = set()
        self.why = ""

    async def round(self) -> Link | None:
        """Try each server once; return the link with the first one that takes us."""
        for _ in self._url.servers:
            link = await self._try(next(self._servers))
            if link is not None:
                return link
        return None

    async def _try(self, server: Server) -> Link | None:
        link = self._make()
        try:
            addresses = await self._addresses(server)
            tls_first = server in self._tls_first
            await link.open(server, addresses, self._url, self._facts, self._seconds, tls_first)
        except (OSError, UnicodeError) as error:
            link.abort()
            self.why = reason(error) if len(self._url.servers) == 1 else f"{server}: {reason(error)}"
            if self._url.kind.tls and link.mute:
                # it may wait for TLS before it says anything, or wait no more
                self._tls_first ^= {server}
            return None
        return link

    async def _addresses(self, server: Server) -> list[str]:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._lookup.addresses(server)
        except TimeoutError:
            raise OSError(NO_NAME_SERVER) from None
