"""Workers at a NATS server, in one process; numbered messages between them, and what may be missing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

from tests.bus.contract import Settings, Sink, Station, until
from wsworker.brokers import parse
from wsworker.bus.nats.adapter import Nats, Patience
from wsworker.bus.topics import Key, Origin

QUICK = Patience(first_pause=0.02, most_pause=0.1)


class Listener(Sink):
    """A sink that writes down the states in the order too."""

    def on_state(self, up: bool, why: str) -> None:
        super().on_state(up, why)
        self.order.append("up" if up else "down")


class Town(Station):
    """One worker of a node of its own, and its sink."""

    bus: Nats
    sink: Listener


async def up(station: Station) -> None:
    """Wait until the server has taken an adapter."""
    await until(lambda: station.bus.stats().links)


@asynccontextmanager
async def town(
    url: str, node: str, worker: int = 1, patience: Patience = QUICK, sink: Listener | None = None, **settings: Any
) -> AsyncIterator[Town]:
    """A worker that is connected, or is trying to."""
    loop = asyncio.get_running_loop()
    bus = Nats(loop, parse(url), Origin(node, worker), Settings(**settings), lambda: 0.0, patience)
    one = Town(bus, sink or Listener())
    await bus.start(one.sink)
    try:
        yield one
    finally:
        await bus.close(1)


async def numbered(publisher: Station, key: Key, pace_seconds: float = 0.001) -> None:
    """Publish numbers until cancelled."""
    for number in itertools.count():
        publisher.publish(key, b"%d" % number)
        await asyncio.sleep(pace_seconds)


def judge(order: list[object]) -> None:
    """Fail unless the numbers grow, and each hole among them has word of a gap behind its beginning."""
    gap_at = max((index for index, what in enumerate(order) if what == "gap"), default=-1)
    numbers = [(index, int(what)) for index, what in enumerate(order) if isinstance(what, bytes) and what.isdigit()]
    for (index, before), (_, after) in pairwise(numbers):
        assert after == before + 1 or (after > before and gap_at > index), f"{before} to {after}"


@asynccontextmanager
async def circle_at(url: str, count: int) -> AsyncIterator[list[Station]]:
    """Some workers of nodes of their own."""
    async with AsyncExitStack() as stack:
        towns = [await stack.enter_async_context(town(url, f"node{number}")) for number in range(count)]
        for each in towns:
            assert "" == await each.bus.linked(5)
        yield [*towns]
