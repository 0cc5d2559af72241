"""The promise of the bus, kept by the chat example with rooms, under 500 clients that count.

In calm nothing is lost, doubled or out of order. With a killed worker or a restarted broker nothing is doubled or out
of order either, and whatever is missing was told as a gap, to each who misses it. See rooms.py.
"""

from __future__ import annotations

import asyncio
import os
import signal

from tests.system.rooms import Chat, Party, Visit


async def _calm(*services: Chat, numbers: int = 10) -> None:
    async with Party(services) as party:
        await party.talk(numbers)
        await party.settle()
        assert [] == party.lost()
        assert 500 * 20 * numbers == party.heard()
        assert 0 == party.gaps()


def test_calm_on_four_workers() -> None:
    """Everybody in a room hears every number of everybody in it, once and in order."""
    with Chat(workers=4) as chat:
        asyncio.run(_calm(chat.start()))
        assert "may be missing" not in chat.log


def test_a_worker_is_killed() -> None:
    """Whoever misses something that a guest of it has said is told; between the others nothing is lost."""
    with Chat(workers=4) as chat:
        chat.start()
        asyncio.run(_kill_one(chat))


async def _kill_one(chat: Chat) -> None:
    async with Party([chat]) as party:
        talking = asyncio.create_task(party.talk(14))
        await asyncio.sleep(2)
        victim = chat.workers[1]
        os.kill(victim, signal.SIGKILL)
        await talking
        await party.settle()
        lost = await party.check_told()
        print(f"lost {lost}, gaps {party.gaps()}")

        def lives(*visits: Visit) -> bool:
            return victim not in {visit.pid for visit in visits}

        assert [] == party.lost_between(lives)
        assert party.gaps() > 0
