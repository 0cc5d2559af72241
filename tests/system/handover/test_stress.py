"""Reload after reload under load, while others come and go and change what they listen to: nobody who stays notices."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.handover.riders import Company, Rider, app, until

SECONDS = 20
LEAST_RELOADS = 6


@pytest.mark.timeout(120)
def test_reloads_without_end(make_daemon: MakeDaemon) -> None:
    """For twenty seconds one reload follows the other."""
    daemon = make_daemon(app(1), workers=3, websocket={"compression": "deflate"}).start()
    asyncio.run(_storm(daemon))
    assert "Traceback" not in daemon.log
    assert "may be missing" not in daemon.log


async def _storm(daemon: Daemon) -> None:
    riders = [Rider(f"r{number}", deflates=number % 3 == 0) for number in range(150)]
    speakers, listening, restless = riders[:6], riders[6:80], riders[80:110]
    async with Company(daemon, riders) as company:
        for number, rider in enumerate(riders):
            rider.ask_on(0 if number % 15 == 0 else 0.03)
            if rider in speakers or rider in listening:
                rider.send("join news")
            if number % 10 == 0:
                rider.send("be ann")
        ann = riders[::10]
        await company.hears("news", (*speakers, *listening))
        await company.hears("ann", ann)
        acts = [_talk(speakers), *(_change(rider) for rider in restless)]
        tasks = [asyncio.create_task(act) for act in acts]
        over = asyncio.Event()
        passers = [asyncio.create_task(_pass_by(daemon, number, over)) for number in range(10)]
        version, end_at = 1, time.monotonic() + SECONDS
        while time.monotonic() < end_at or version <= LEAST_RELOADS:
            version += 1
            document = await company.reload(app(version))
            assert {} == document["drained"], document
        # not cancelled: asyncio loses the socket of one that is just connecting
        over.set()
        for task in tasks:
            task.cancel()
        faults = [fault for fault in await asyncio.gather(*tasks, *passers, return_exceptions=True) if _is_fault(fault)]
        assert [] == faults
        await company.settle()
        await company.quieten()
        assert {version} == {answer.version for answer in await company.all_answered()}
        company.check()
        company.check_heard("news", (*speakers, *listening))
        company.check_heard("ann", ann)
        # of those that came and went none is left over
        await company.wait_status(lambda status: status["totals"]["connections"] == len(riders))


def _is_fault(outcome: object) -> bool:
    return isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError)


async def _talk(speakers: list[Rider]) -> None:
    while True:
        for speaker in speakers:
            speaker.say("say", "news")
            speaker.say("tell", "ann")
        await asyncio.sleep(0.05)


async def _change(rider: Rider) -> None:
    """Join a topic of its own and leave it, again and again, and say something there, which nobody else hears."""
    draw = random.Random(rider.name)
    topic = f"of-{rider.name}"
    while True:
        rider.send(f"join {topic}")
        for _ in range(draw.randrange(1, 4)):
            rider.say("say", topic)
        await until(lambda: _hears_itself(rider, topic), f"{rider} hears itself")
        rider.send(f"leave {topic}")
        await asyncio.sleep(draw.uniform(0, 0.05))


def _hears_itself(rider: Rider, topic: str) -> bool:
    at = (topic, f"client/{rider.name}")
    return rider.heard.get(at) == rider.said[at] or bool(rider.ended)


async def _pass_by(daemon: Daemon, number: int, over: asyncio.Event) -> None:
    """Come, be answered and go, again and again, until it is over."""
    draw = random.Random(number)
    for turn in itertools.count():
        if over.is_set():
            return
        rider = Rider(f"passer{number}-{turn}")
        try:
            await rider.board(daemon.port)
            rider.send("join news")
            for _ in range(draw.randrange(1, 8)):
                await rider.ask()
                await asyncio.sleep(draw.uniform(0, 0.1))
            assert not rider.ended
            assert [] == rider.wrong
            if draw.random() < 0.5:
                rider.say_goodbye()
                await until(lambda rider=rider: rider.ended, "it has left")  # type: ignore[misc]
        finally:
            rider.leave()


BUSY = """
import time


def on_message(connection, data):
    if data == "busy":
        time.sleep(0.02)
    else:
        obey(connection, data)
"""


@pytest.mark.timeout(120)
def test_what_is_said_on_the_way(make_daemon: MakeDaemon) -> None:
    """What clients publish before and after they have moved is heard in its order, also by workers that are busy."""
    daemon = make_daemon(app(1, messages=BUSY), workers=3).start()
    asyncio.run(_speak(daemon))
    assert "may be missing" not in daemon.log


async def _speak(daemon: Daemon) -> None:
    listeners = [Rider(f"l{number}") for number in range(30)]
    speakers = [Rider(f"s{number}") for number in range(12)]
    busy = [Rider(f"b{number}") for number in range(9)]
    async with Company(daemon, [*listeners, *speakers, *busy]) as company:
        for listener in listeners:
            listener.send("join news")
        await company.hears("news", listeners)
        tasks = [asyncio.create_task(act) for act in (_shout(speakers), _keep_busy(busy))]
        for version in range(2, 10):
            document = await company.reload(app(version, messages=BUSY))
            assert {} == document["drained"], document
        for task in tasks:
            task.cancel()
        await company.settle()
        await company.quieten()
        company.check()
        company.check_heard("news", listeners)


async def _shout(speakers: list[Rider]) -> None:
    while True:
        for speaker in speakers:
            speaker.say("say", "news")
        await asyncio.sleep(0.002)


async def _keep_busy(riders: list[Rider]) -> None:
    while True:
        for rider in riders:
            rider.send("busy")
        await asyncio.sleep(0.2)
