"""Clients in the middle of something while they move: half of a frame, megabytes to come or to go, a goodbye."""

from __future__ import annotations

import asyncio

import pytest

from tests.frames import FIN, PING, TEXT, frame
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.handover.riders import Company, Rider, aboard, app, ended_well, until

TELLS_ITS_END = "\ndef on_close(connection, code, reason):\n    print('closed', code, flush=True)\n"
MIB = 1 << 20


@pytest.mark.timeout(60)
def test_half_a_frame(make_daemon: MakeDaemon) -> None:
    """A frame that is cut at any place, in its head, its mask or its payload, is whole when the rest of it comes."""
    asyncio.run(_halves(make_daemon(app(1), workers=2).start()))


async def _halves(daemon: Daemon) -> None:
    # with a head of 8 bytes, and one of 14
    wholes = [frame(FIN | TEXT, b"size " + b"x" * 195, b"mask"), frame(FIN | TEXT, b"size " + b"y" * 70_000, b"mask")]
    cuts = [*range(1, 17), 100, -1]
    async with aboard(daemon, len(wholes) * len(cuts)) as company:
        halves = [(whole[:cut], whole[cut:]) for whole in wholes for cut in cuts]
        for rider, (first, _) in zip(company.riders, halves, strict=True):
            await rider.ask()
            # a message before it, and a ping, come in the same packet
            rider.write(frame(FIN | TEXT, b"size ") + frame(FIN | PING, b"ping") + first)
        await until(lambda: all(rider.sizes == [5] for rider in company.riders), "the message before it")
        document = await company.reload(app(2))
        assert (len(halves), {}) == (document["moved"], document["drained"])
        for rider, (_, second) in zip(company.riders, halves, strict=True):
            rider.write(second)
        assert {2} == {answer.version for answer in await company.all_answered()}
        company.check()
        sizes = [tuple(rider.sizes) for rider in company.riders]
        assert [(5, 200)] * len(cuts) + [(5, 70_005)] * len(cuts) == sizes
        assert {1} == {rider.pongs for rider in company.riders}


@pytest.mark.timeout(60)
def test_ten_mebibytes(make_daemon: MakeDaemon) -> None:
    """A message of 10 MiB arrives, whether half of it had come before or all of it is sent during the move."""
    asyncio.run(_large(make_daemon(app(1), workers=2, websocket={"max_size": 16 * MIB}).start()))


async def _large(daemon: Daemon) -> None:
    size = 10 * MIB
    whole = frame(FIN | TEXT, b"size " + b"x" * (size - 5))
    async with aboard(daemon, 40) as company:
        halved, sending, others = company.riders[:4], company.riders[4:8], company.riders[8:]
        await company.all_answered()
        for rider in others:
            rider.ask_on(0.01)
        for rider in halved:
            rider.write(whole[: size // 2])
        await until(lambda: not any(rider.unsent for rider in halved), "the kernel has the first half")
        reload = await company.begin_reload(app(2))
        for rider in sending:
            # some before, some amid, some behind
            rider.write(whole)
            await asyncio.sleep(0.1)
        document = await ended_well(reload)
        for rider in halved:
            rider.write(whole[size // 2 :])
        await until(lambda: all(rider.sizes == [size] for rider in (*halved, *sending)), "all has come")
        await company.settle()
        assert {2} == {answer.version for answer in await company.all_answered()}
        company.check()
    assert (40, {}) == (document["moved"], document["drained"])


@pytest.mark.timeout(60)
def test_clients_that_read_nothing(make_daemon: MakeDaemon) -> None:
    """Megabytes wait for clients that do not read, through two reloads: all of it comes, in order, when they do."""
    asyncio.run(_unread(make_daemon(app(1), workers=2, websocket={"send_buffer": 32 * MIB}).start()))


async def _unread(daemon: Daemon) -> None:
    riders = [Rider(f"slow{number}", slow=True) for number in range(8)]
    async with Company(daemon, riders) as company:
        for rider in riders:
            rider.send("join news")
        await company.hears("news", riders)
        for rider in riders:
            rider.stop_reading()
            # 12 MB; what is published meanwhile stands behind it
            rider.send("pour 3000 4000")
            rider.ask_once()
        for version in (2, 3):
            document = await company.reload(app(version))
            assert (8, {}) == (document["moved"], document["drained"])
        for rider in riders:
            rider.read_on()
        await until(lambda: all(rider.poured == 3000 for rider in riders), "all of it")
        await company.quieten()
        assert {3} == {answer.version for answer in await company.all_answered()}
        company.check()
        company.check_heard("news", riders)


@pytest.mark.timeout(60)
def test_clients_that_leave(make_daemon: MakeDaemon) -> None:
    """Some close or drop their connections during the move: each is noticed once, by the old worker or the new one."""
    daemon = make_daemon(app(1, TELLS_ITS_END), workers=2).start()
    asyncio.run(_left(daemon))


async def _left(daemon: Daemon) -> None:
    async with aboard(daemon, 300) as company:
        await company.all_answered()
        leaving, staying = company.riders[:200], company.riders[200:]
        for rider in staying:
            rider.ask_on(0.05)
        reload = await company.begin_reload(app(2, TELLS_ITS_END))
        for number, rider in enumerate(leaving):
            if number % 2:
                rider.leave()
            else:
                rider.say_goodbye()
            await asyncio.sleep(0.005)
        document = await ended_well(reload)
        assert {} == document["drained"], document
        await company.settle()
        assert {2} == {answer.version for answer in await company.all_answered(staying)}
        await until(lambda: all(rider.ended for rider in leaving), "all have left")
        assert [] == [rider for rider in staying if rider.ended]
        # nobody is left whom nobody knows
        await company.wait_status(lambda status: status["totals"]["connections"] == len(staying))
        await until(lambda: daemon.out.count("closed") >= len(leaving), "on_close")
        codes = daemon.out.split()[1::2]
    assert {"1000", "1006"} == {*codes}
    assert len(leaving) == len(codes)
    assert {"1000", "lost"} == {rider.ended for rider in leaving}
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
