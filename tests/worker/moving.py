"""Workers in one loop between which connections move, each with a port, joined by a bus; and strangers at a pair."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from tests.worker.service import DEADLINE_SECONDS, Peer, Service, make_hub
from wsworker.bus.bus import Loopback
from wsworker.bus.topics import Origin
from wsworker.handover import packets
from wsworker.handover.packets import Message, Reader, Side
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.giving import Giving, Outcome
from wsworker.worker.hub import Hub
from wsworker.worker.lane import Lane
from wsworker.worker.pair import Pair, greeting
from wsworker.worker.taking import Taking

PATIENCE = 5.0
"""The handover_timeout of tests in which everything can come to rest."""


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return a pair as the master makes it."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def descriptors() -> dict[str, str]:
    """Return what is open in this process, but for what listing them takes."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return {name: kind for name, kind in found.items() if kind.startswith("socket:")}


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Have this process at its limit of descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)


class Place:
    """One worker that connections may leave or come to."""

    def __init__(self, service: Service, origin: Origin) -> None:
        self.service = service
        self.hub = service.hub
        self.origin = origin

    @property
    def connections(self) -> list[Connection]:
        """Its open connections."""
        return [*self.hub.worker.connections.values()]

    @property
    def connection(self) -> Connection:
        """The one that it has."""
        (connection,) = self.connections
        return connection

    def __len__(self) -> int:
        return len(self.hub.worker.connections)


class Scene:
    """Some workers on one bus. You must leave it as scene() does."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._circle: list[Loopback] = []
        self._count = 0

    async def add(self, app: App, **settings: Any) -> Place:
        """Have another worker; settings: as for make_hub."""
        self._count += 1
        hub = make_hub(app, **settings)
        # as no two workers of a machine have the same
        hub._prefix = f"node.{self._count}."
        origin = hub.post.exchange.origin = Origin("node", self._count)
        await hub.post.exchange.join("mesh", Loopback(self._circle, origin), "the other workers")
        service = Service(hub, None, None)
        self._stack.push_async_callback(self._close, service)
        return Place(service, origin)

    async def _close(self, service: Service) -> None:
        await service.close()
        await service.hub.post.exchange.close(0.0)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """Have workers; at the end all sockets must be gone."""
    before = descriptors()
    async with AsyncExitStack() as stack:
        yield Scene(stack)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while descriptors().keys() - before.keys():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def two(old: App, new: App | None = None, **settings: Any) -> AsyncIterator[tuple[Place, Place]]:
    """Have an old worker and a new one, whose code may be another; settings: of both, as for make_hub."""
    async with scene() as workers:
        yield await workers.add(old, **settings), await workers.add(new or old, **settings)


class Move:
    """A hand-over from one worker to others that is under way; shares: see Giving."""

    def __init__(
        self,
        old: Place,
        *new: Place,
        seconds: float = PATIENCE,
        shares: Sequence[int] = (),
        counted: bool = False,
        expected: int = 0,
    ) -> None:
        pairs = [make_pair() for _ in new]
        loop = old.hub.loop
        self.giving = Giving(old.hub, seconds)
        self.takings = [Taking(place.hub, theirs, expected) for place, (_, theirs) in zip(new, pairs, strict=True)]
        self.taken = [loop.create_task(taking.run()) for taking in self.takings]
        ours = [mine for mine, _ in pairs]
        run = self.giving.run(ours, shares or [1] * len(ours), counted=counted, deadline=loop.time() + 60)
        self.given = loop.create_task(run)

    async def end(self) -> Outcome:
        """Wait until both sides are done; return how it went."""
        async with asyncio.timeout(DEADLINE_SECONDS * 2):
            outcome = await self.given
            counts = await asyncio.gather(*self.taken)
        assert outcome.moved == sum(counts)
        return outcome


async def move(old: Place, *new: Place, **facts: Any) -> Outcome:
    """Hand over what can be; facts: as for Move."""
    return await Move(old, *new, **facts).end()


def nothing_left(place: Place) -> bool:
    """Whether the hand-overs have left nothing behind in a worker."""
    post = place.hub.post
    return not (post._held or post._shadows or post.exchange._ledgers or place.hub.expected)


class Stranger:
    """One end of a pair that says and hears what a test wants. side: what it plays."""

    def __init__(self, hub: Hub, sock: socket.socket, side: Side) -> None:
        self.pair = Pair(hub.loop, sock)
        self._reader = Reader("taker" if side == "giver" else "giver")
        self.descriptors: list[int] = []

    async def say(self, *messages: Message, descriptor: int | None = None) -> None:
        """Say something; descriptor: goes with the last packet of the last of them."""
        parts = [packet for message in messages for packet in packets.encode(message)]
        for packet in parts[:-1]:
            await self.pair.send(packet)
        await self.pair.send(parts[-1], descriptor)

    async def greet(self) -> None:
        """Say the first word."""
        await self.say(greeting())

    async def hear(self) -> Message:
        """Return what comes next; descriptors are kept."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                parcel = await self.pair.receive()
                if parcel.descriptor is not None:
                    self.descriptors.append(parcel.descriptor)
                message = self._reader.feed(parcel.packet)
                if message is not None:
                    return message

    async def hear_until(self, kind: type[Message]) -> Message:
        """Return the next message of a kind, and drop those before it."""
        while not isinstance(message := await self.hear(), kind):
            pass
        return message

    def die(self) -> None:
        """Close all that it has, as a process that ends."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        self.pair.close()


@asynccontextmanager
async def lane_to_stranger(old: Place) -> AsyncIterator[tuple[Lane, Stranger, list[tuple[Connection, Any]]]]:
    """Have a lane that is open, the stranger at its end, and what has come back."""
    ours, theirs = make_pair()
    back: list[tuple[Connection, Any]] = []
    lane = Lane(old.hub, ours, 1, lambda connection, why: back.append((connection, why)))
    stranger = Stranger(old.hub, theirs, "taker")
    await stranger.greet()
    await lane.greet(DEADLINE_SECONDS)
    assert lane.open
    try:
        yield lane, stranger, back
    finally:
        stranger.die()
        await lane.close()


async def texts(peer: Peer, count: int) -> list[str]:
    """Return the next so many texts that a client gets."""
    return [await peer.message() for _ in range(count)]


def numbers(words: Iterable[str]) -> list[int]:
    """Return the numbers at the end of texts."""
    return [int(word.split()[-1]) for word in words]
