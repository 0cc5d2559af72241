"""All occasions on which a worker is replaced on purpose, or has too many: its clients move and notice nothing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.handover.riders import Company, Rider, aboard, app, ended_well, until

DEBUG = ("--log-level", "debug")
"""The master logs what it reads of the workers."""


@asynccontextmanager
async def _undisturbed(daemon: Daemon, number: int = 120) -> AsyncIterator[Company]:
    """Be riders that ask, listen and speak, and fail if any of them notices what is done meanwhile."""
    async with aboard(daemon, number) as company:
        speakers = company.riders[:4]
        for rider in company.riders:
            rider.send("join news")
            rider.ask_on(0.02)
        await company.hears("news", company.riders)
        talking = asyncio.create_task(_talk(speakers))
        yield company
        talking.cancel()
        await company.settle()
        await company.quieten()
        await company.all_answered()
        company.check()
        company.check_heard("news", company.riders)


async def _talk(speakers: list[Rider]) -> None:
    while True:
        for speaker in speakers:
            speaker.say("say", "news")
        await asyncio.sleep(0.05)


def _serving(company: Company) -> Counter[int]:
    """Return how many each worker has, by its id, as their clients have heard."""
    return Counter(rider.answer.worker for rider in company.riders)


async def _known(company: Company) -> None:
    """Wait until the master knows how many connections each worker has, which it hears with their beats."""

    def known() -> bool:
        beats = re.findall(r"\b(\d+): Reading\(beat_at=[\d.]+, connections=(\d+)", company.daemon.log)
        return {worker: int(count) for worker, count in beats if int(worker) in serving} == {
            str(worker): count for worker, count in serving.items()
        }

    workers = [row["id"] for row in (await company.status())["workers"]]
    serving = {worker: _serving(company)[worker] for worker in workers}
    await until(known, f"the master knows of {serving}")


@pytest.mark.timeout(60)
def test_recycling(make_daemon: MakeDaemon) -> None:
    """A worker that has had max_messages is replaced, again and again; clients move each time."""
    asyncio.run(_recycled(make_daemon(app(1), workers=2, max_messages=2000).start()))


async def _recycled(daemon: Daemon) -> None:
    async with _undisturbed(daemon) as company:
        old = {*_serving(company)}
        await company.wait_status(lambda status: status["handover"]["moved"] >= 3 * len(company.riders))
        await until(lambda: not old & {*_serving(company)}, "all are served by others")
        # what counts their messages is behind them: one of those that have the last words might go before it has them
        daemon.write_config(max_messages=0)
        await company.reload()
    assert {} == (await asyncio.to_thread(daemon.status))["handover"]["drained"]


@pytest.mark.timeout(60)
def test_fewer_workers(make_daemon: MakeDaemon) -> None:
    """TTOU ends a worker, and its connections move to all the others."""
    asyncio.run(_fewer(make_daemon(app(1), workers=4).start(*DEBUG)))


async def _fewer(daemon: Daemon) -> None:
    async with _undisturbed(daemon) as company:
        for count in (3, 2):
            await _known(company)
            before = _serving(company)
            daemon.signal(signal.SIGTTOU)
            status = await company.wait_status(
                lambda status, count=count: len(status["workers"]) == count == status["workers_ready"]  # type: ignore[misc]
            )
            gone = before.keys() - {row["id"] for row in status["workers"]}
            await until(lambda gone=gone: not gone & _serving(company).keys(), "all are served by others")  # type: ignore[misc]
            assert 1 == len(gone)
            after = _serving(company)
            assert all(after[worker] > before[worker] for worker in after), (before, after)
    assert {} == (await asyncio.to_thread(daemon.status))["handover"]["drained"]


@pytest.mark.timeout(60)
def test_a_worker_gets_term(make_daemon: MakeDaemon) -> None:
    """A worker that somebody tells to end is replaced, and its connections move to its successor."""
    asyncio.run(_told(make_daemon(app(1), workers=2).start()))


async def _told(daemon: Daemon) -> None:
    async with _undisturbed(daemon) as company:
        first = (await company.status())["workers"][0]
        os.kill(first["pid"], signal.SIGTERM)
        await until(lambda: first["id"] not in _serving(company), "all are served by others")
        status = await company.wait_status(lambda status: len(status["workers"]) == 2 == status["workers_ready"])
        assert first["id"] not in [row["id"] for row in status["workers"]]


@pytest.mark.timeout(60)
def test_rebalance(make_daemon: MakeDaemon) -> None:
    """More workers, and `rebalance`: each has its share of the connections that there were."""
    asyncio.run(_rebalanced(make_daemon(app(1), workers=1).start(*DEBUG)))


async def _rebalanced(daemon: Daemon) -> None:
    async with _undisturbed(daemon) as company:
        for count in (2, 3):
            daemon.signal(signal.SIGTTIN)
            await company.wait_status(lambda status, count=count: status["workers_ready"] == count)  # type: ignore[misc]
        await _known(company)
        document = await ended_well(await asyncio.to_thread(daemon.cli_begin, "rebalance", "--json"))
        assert ("ok", 80, {}) == (document["result"], document["moved"], document["unmoved"]), document
        await until(lambda: [40, 40, 40] == [*_serving(company).values()], "each has its share")


@pytest.mark.timeout(60)
def test_reload_strategy_drain(make_daemon: MakeDaemon) -> None:
    """With `reload_strategy: drain` nobody moves: all get 1012, and the command says so as before."""
    asyncio.run(_drained(make_daemon(app(1), workers=2, reload_strategy="drain", drain_window=0).start()))


async def _drained(daemon: Daemon) -> None:
    async with aboard(daemon, 20) as company:
        await company.all_answered()
        document = await company.reload(app(2))
        await until(lambda: all(rider.ended for rider in company.riders), "all are told")
    assert {"1012"} == {rider.ended for rider in company.riders}
    assert (20, 0) == (document["asked"], document["moved"])
