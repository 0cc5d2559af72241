"""Shards: the servers that carry the bus, with two lines to each, and which of them has what.

A single server is one shard that has everything. Of a cluster, whoever answers first is asked for the layout: at the
start, when a line is lost, and when a server says that it has a channel no more. Servers come and go with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.redis.dialler import Dialler
from wsworker.bus.redis.line import Times
from wsworker.bus.redis.publisher import Publisher
from wsworker.bus.redis.slots import Layout, alone, probe_names, read_layout
from wsworker.bus.redis.subscriber import Subscriber
from wsworker.bus.redis.wire import Lost, Refusal, command
from wsworker.errors import WireError


class Shard:
    """One server. probe: the channel of the worker's own that it has, by the layout; None if no name was found for one.

    Both lines are dialled from now on.
    """

    def __init__(self, publisher: Publisher, subscriber: Subscriber, probe: bytes | None) -> None:
        self.publisher: Final = publisher
        self.subscriber: Final = subscriber
        self.probe = probe
        self._tasks = [asyncio.create_task(line.keep()) for line in self.lines]

    @property
    def lines(self) -> tuple[Publisher, Subscriber]:
        """Both lines."""
        return self.publisher, self.subscriber

    @property
    def up(self) -> bool:
        """Whether both lines are."""
        return self.publisher.up and self.subscriber.up

    async def close(self) -> None:
        """Give up what waits, and close both lines."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self.lines:
            line.up = False
        self.publisher.give_up()


class Owner(Protocol):
    """Who has the shards."""

    def lines(self, server: Server) -> tuple[Publisher, Subscriber]:
        """Make the lines to a server."""

    def probe_channel(self, ending: str) -> bytes:
        """Return the channel of the worker's own with this ending of its name."""

    async def surveyed(self, changed: bool) -> None:
        """Know that the layout is known; changed: it was another one before."""

    def unsurveyed(self, why: str) -> None:
        """Know that nobody could be asked for the layout; why: a clause."""


class Shards:
    """All shards of a worker. name: for CLIENT LIST; draw: gives a random number from 0 to 1 at each call.

    layout: None until it is known; sent: messages that servers have taken which have no shard any more. You must await
    close.
    """

    def __init__(
        self, url: BrokerUrl, dialler: Dialler, name: str, times: Times, draw: Callable[[], float], owner: Owner
    ) -> None:
        self._url = url
        self._dialler = dialler
        self._name = name
        self._times = times
        self._draw = draw
        self._owner = owner
        self._shards: dict[Server, Shard] = {}
        self._stale = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self.layout: Layout | None = None
        self.sent = 0

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards.values())

    def start(self) -> None:
        """Begin to dial."""
        if self._url.kind.cluster:
            self._follower = asyncio.create_task(self._follow())
        else:
            self.layout = alone(self._url.servers[0] if self._url.servers else Server(self._url.path, 0))
            self._open(self.layout)

    async def close(self) -> None:
        """Give up what waits, and close all lines."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        await asyncio.gather(*map(self._end, [*self._shards]))

    def of(self, channel: bytes) -> Shard | None:
        """Return the shard that has a channel; None if nobody has it, or as long as the layout is not known."""
        server = None if self.layout is None else self.layout.server(channel)
        return None if server is None else self._shards.get(server)

    def look(self) -> None:
        """Ask soon for the layout of a cluster: it may be another one."""
        self._stale.set()

    async def _follow(self) -> None:
        while True:
            # whom the URL names is asked at the start, and when no other is there
            servers = dict.fromkeys([*self._shards, *self._url.servers])
            try:
                await self._use(await _survey(self._dialler, servers, self._name, self._times.connect))
            except Lost as lost:
                self._stale.set()
                self._owner.unsurveyed(lost.why)
            await asyncio.sleep(self._times.first_pause * (1 + self._draw()))
            await self._stale.wait()
            self._stale.clear()

    async def _use(self, layout: Layout) -> None:
        changed = self.layout is not None and self.layout != layout
        self.layout = layout
        self._open(layout)
        for server in self._shards.keys() - layout.servers:
            await self._end(server)
        if changed:
            self._probe_anew(layout)
        await self._owner.surveyed(changed)

    def _open(self, layout: Layout) -> None:
        new = layout.servers - self._shards.keys()
        probes = probe_names(layout, new, self._owner.probe_channel)
        for server in new:
            self._shards[server] = Shard(*self._owner.lines(server), probes.get(server))

    def _probe_anew(self, layout: Layout) -> None:
        """Give a new probe to whose old one has moved to another server, and to who had too few slots for one."""
        strays = [
            server
            for server, shard in self._shards.items()
            if shard.probe is None or layout.server(shard.probe) != server
        ]
        probes = probe_names(layout, strays, self._owner.probe_channel)
        for server in strays:
            self._shards[server].probe = probes.get(server)

    async def _end(self, server: Server) -> None:
        # it is forgotten when that is done: who is cancelled meanwhile leaves it to close()
        await self._shards[server].close()
        self.sent += self._shards.pop(server).publisher.sent


async def _survey(dialler: Dialler, servers: Iterable[Server], name: str, seconds: float) -> Layout:
    """Return the layout. servers: who is asked, one by one, one at least; seconds: for an answer. Raises Lost."""
    lost = Lost("there is nobody to ask")
    for server in servers:
        try:
            return await _ask(dialler, server, name, seconds)
        except Lost as error:
            lost = Lost(f"{server}: {error.why}", error.silent)
    raise lost


async def _ask(dialler: Dialler, server: Server, name: str, seconds: float) -> Layout:
    wire = await dialler.dial(server, name)
    try:
        async with asyncio.timeout(seconds):
            await wire.send(command(b"CLUSTER", b"SLOTS"))
            reply = await wire.receive()
        if isinstance(reply, Refusal):
            raise Lost(f"it does not tell its cluster: {reply.text}")
        return read_layout(reply, server)
    except TimeoutError:
        raise Lost("no answer came in time", silent=True) from None
    except WireError as error:
        raise Lost(error.reason) from None
    finally:
        await wire.end()
