"""Workers at a Redis or Valkey, in one process; numbered messages between them, and what may be missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from tests.bus.contract import DEADLINE_SECONDS, ROOM, Circle, Settings, Sink, Station, known, until
from tests.bus.redis.servers import Valkey
from wsworker import brokers
from wsworker.brokers import BrokerUrl
from wsworker.bus.redis.adapter import Redis
from wsworker.bus.redis.line import Times
from wsworker.bus.topics import Envelope, Origin

TIMES = Times(connect=8.0, answer=8.0, probe=0.1, silence=8.0)
"""Long enough for a machine that is busy with other things; what hangs is found soon enough with HASTY."""

HASTY = TIMES._replace(answer=0.5, silence=0.5)


class BrokerSink(Sink):
    """Writes down the states in the order too."""

    def on_state(self, up: bool, why: str) -> None:
        super().on_state(up, why)
        self.order.append(up)


def station(url: BrokerUrl, node: str = "node-1", worker: int = 1, times: Times = TIMES, **settings: Any) -> Station:
    """Return an adapter that is not started."""
    loop = asyncio.get_running_loop()
    bus = Redis(loop, url, Origin(node, worker), Settings(**settings), lambda: 0.5, times)
    return Station(bus, BrokerSink())


@asynccontextmanager
async def stations(url: BrokerUrl, count: int, **facts: Any) -> AsyncIterator[list[Station]]:
    """Some adapters, each of its own node, that are linked."""
    made = [station(url, f"node-{number}", number, **facts) for number in range(1, count + 1)]
    try:
        for each in made:
            await each.bus.start(each.sink)
        for each in made:
            assert "" == await each.bus.linked(DEADLINE_SECONDS)
        yield made
    finally:
        for each in made:
            await each.bus.close(1)


def circle(url: BrokerUrl) -> Circle:
    """Return what makes a circle of stations at a broker."""

    def make(count: int) -> AbstractAsyncContextManager[list[Station]]:
        return stations(url, count)

    return make


def cluster_url(servers: list[Valkey]) -> BrokerUrl:
    """Return the URL of a cluster of which one server is named."""
    return brokers.parse(f"redis+cluster://127.0.0.1:{servers[0].port}")


def holes(order: list[object]) -> int:
    """Return how many numbers are missing with no gap told before the next one; fails for doubles and wrong order.

    order: what a sink has written down, of one publisher that counts from 0.
    """
    missing, expected, told = 0, 0, False
    for each in order:
        if each == "gap":
            told = True
        elif isinstance(each, bytes):
            number = int(each)
            assert number >= expected, "neither twice nor out of order"
            if not told:
                missing += number - expected
            expected, told = number + 1, False
    return missing


class Stream:
    """Numbered messages from one station to a topic, a few in each turn of the loop, until it is stopped."""

    def __init__(self, publisher: Station) -> None:
        self._publisher = publisher
        self._task = asyncio.create_task(self._run())
        self.count = 0
        self.refused = 0

    async def _run(self) -> None:
        while True:
            for _ in range(5):
                self.refused += not self._publisher.bus.publish(Envelope(ROOM, b"%d" % self.count))
                self.count += 1
            self._publisher.bus.flush()
            await asyncio.sleep(0.002)

    async def flows(self, reader: Station) -> None:
        """Wait until what is published from now on comes."""
        begin = self.count
        await until(lambda: any(int(body) >= begin for body in reader.sink.bodies[-20:]))

    async def stop(self, reader: Station) -> None:
        """Publish no more, and wait until the last one has come."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await until(lambda: reader.sink.bodies[-1] == b"%d" % (self.count - 1))


async def listening(publisher: Station, reader: Station) -> Stream:
    """Have a reader subscribed to the topic, and a stream to it that has begun."""
    reader.subscribe(ROOM)
    await known(publisher, reader, key=ROOM)
    reader.sink.order.clear()
    stream = Stream(publisher)
    await until(lambda: reader.sink.envelopes)
    return stream
