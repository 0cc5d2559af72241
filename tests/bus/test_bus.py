"""The seam, and the adapter between workers of one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.bus import contract
from tests.bus.contract import ROOM, Circle, Sink, Station
from tests.worker.conftest import Run
from wsworker.bus.bus import Loopback
from wsworker.bus.topics import Origin


@asynccontextmanager
async def circle(count: int) -> AsyncIterator[list[Station]]:
    """Some loopbacks that hear each other."""
    members: list[Loopback] = []
    stations = []
    for number in range(count):
        station = Station(Loopback(members, Origin("node", number)), Sink())
        await station.bus.start(station.sink)
        stations.append(station)
    yield stations
    for station in stations:
        await station.bus.close(1)
    assert [] == members


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract(run: Run, check: Callable[[Circle], Awaitable[None]]) -> None:
    """What every adapter does."""

    async def main() -> None:
        await check(circle)

    run(main())


def test_nothing_is_delivered_before_the_end_of_the_tick(run: Run) -> None:
    """As with every adapter, flush is what sends; publish only takes."""

    async def main() -> None:
        async with circle(2) as (one, two):
            two.subscribe(ROOM)
            assert one.publish(ROOM, b"1")
            assert [] == two.sink.envelopes
            await contract.until(lambda: two.sink.bodies == [b"1"])
            one.bus.flush()

    run(main())
