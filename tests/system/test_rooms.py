"""The promise of the bus, kept by the chat example with rooms, under 500 clients that count.

In calm nothing is lost, doubled or out of order. With a killed worker or a restarted broker nothing is doubled or out
of order either, and whatever is missing was told as a gap, to each who misses it. See rooms.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest

from tests.bus.redis import servers
from tests.bus.redis.servers import Valkey
from tests.system.rooms import Chat, Party, Visit

NUMBERS: Final = 6


async def _hear_all(party: Party) -> None:
    """Let everybody say something, and fail unless everybody hears it."""
    lost = len(party.lost())
    await party.talk(1)
    await party.settle()
    assert lost == len(party.lost())


async def _calm(*services: Chat) -> None:
    async with Party(services) as party:
        await party.talk(NUMBERS)
        await party.settle()
        assert 500 * NUMBERS == party.said()
        assert [] == party.lost()
        assert 0 == party.gaps()
        assert set() == party.left()


def test_calm_on_four_workers() -> None:
    """Everybody in a room hears every number of everybody in it, once and in order."""
    with Chat(workers=4) as chat:
        asyncio.run(_calm(chat.start()))
        assert "may be missing" not in chat.log


def test_a_worker_is_killed() -> None:
    """Whoever misses something that a guest of it has said is told; between the others nothing is lost."""
    with Chat(workers=4) as chat:
        asyncio.run(_kill(chat.start()))


async def _kill(*services: Chat) -> None:
    async with Party(services) as party:
        talking = asyncio.create_task(party.talk(NUMBERS))
        await asyncio.sleep(1)
        victim = services[0].workers[1]
        os.kill(victim, signal.SIGKILL)
        await talking
        await party.settle()
        await party.check_told()

        def both_live(reader: Visit, publisher: Visit) -> bool:
            return victim not in (reader.pid, publisher.pid)

        assert [] == party.lost_between(both_live)
        assert party.gaps(services[0]) > 0
        assert {victim} == party.left()
        # those that have come again are heard like the others
        await _hear_all(party)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A Valkey that runs."""
    with servers.valkey() as server:
        yield server


def test_calm_on_two_services(valkey: Valkey) -> None:
    """So it is with two services of two workers each, and a Valkey between them."""
    with Chat(2, valkey.url) as one, Chat(2, valkey.url) as other:
        asyncio.run(_calm(one.start(), other.start()))
        for service in (one, other):
            assert "may be missing" not in service.log


def test_a_worker_of_two_services_is_killed(valkey: Valkey) -> None:
    """So it is when one of these four is killed."""
    with Chat(2, valkey.url) as one, Chat(2, valkey.url) as other:
        asyncio.run(_kill(one.start(), other.start()))


def test_the_broker_is_restarted(valkey: Valkey) -> None:
    """What the two services miss of each other is told; each for itself misses nothing."""
    with Chat(2, valkey.url) as one, Chat(2, valkey.url) as other:
        asyncio.run(_restart(valkey, one.start(), other.start()))


async def _restart(valkey: Valkey, *services: Chat) -> None:
    async with Party(services) as party:
        talking = asyncio.create_task(party.talk(NUMBERS))
        await asyncio.sleep(1)
        valkey.kill()
        await asyncio.sleep(1)
        await asyncio.to_thread(valkey.start)
        await talking
        await party.settle()
        assert await party.check_told() > 0
        assert set() == party.left()
        assert [] == party.lost_between(lambda reader, publisher: reader.guest.service is publisher.guest.service)
        await _hear_all(party)
