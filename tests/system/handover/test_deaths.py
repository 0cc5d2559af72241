"""Deaths in the middle of a hand-over, and stops: only who was in the hands of the dead loses the connection."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, finish
from tests.system.handover.riders import ASYNC, Company, Rider, aboard, app, ended_well, until

DIES = """
import signal
calls = itertools.count(1)

def {hook}(connection{state}):
    if next(calls) == {call} and os.path.exists("die"):
        os.unlink("die")
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""A hook that ends its worker at one of its calls, if there is a file, and then there is none any more."""

TAKEN = 100
"""Connections that a worker has looked at when it dies at the next one; a window of 64 may not be its own yet."""
LEAST_TAKEN = TAKEN - 64


@pytest.mark.timeout(90)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_new_worker_dies(make_daemon: MakeDaemon, workers: int) -> None:
    """Who had moved to it is lost; all others go on in the old worker, and move to the next one. Nobody is closed."""
    daemon = make_daemon(app(1), workers=workers).start()
    (daemon.folder / "die").touch()
    asyncio.run(_new_dies(daemon))


async def _new_dies(daemon: Daemon) -> None:
    async with aboard(daemon, 200) as company:
        for rider in company.riders:
            rider.ask_on(0.02)
            rider.send("join news")
        await company.hears("news", company.riders)
        daemon.write_app(app(2, DIES.format(hook="on_resume", state=", state", call=TAKEN + 1)))
        outcome = await asyncio.to_thread(daemon.cli, "reload")
        if outcome.code == 1:
            # it may have died before the others were replaced, and then they wait for the next reload
            assert "a worker of the new code died" in outcome.err, outcome
            await company.reload()
        await until(lambda: not (daemon.folder / "die").exists(), "the new worker dies")
        await company.wait_status(lambda status: status["handover"]["moved"] >= 200)
        await company.settle()
        await company.quieten()
        assert {2} == {answer.version for answer in await company.all_answered()}
        lost = [rider for rider in company.riders if rider.ended]
        status = await company.status()
    assert LEAST_TAKEN <= len(lost) <= TAKEN, outcome
    # without a Close: nobody has told them to go
    assert all(rider.ended.startswith("lost") for rider in lost), lost
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
    staying = [rider for rider in company.riders if rider not in lost]
    company.check_heard("news", staying)
    assert {} == status["handover"]["drained"]


@pytest.mark.timeout(90)
def test_the_new_worker_stands_still(make_daemon: MakeDaemon) -> None:
    """It is waited for as long as for a busy callback; then all that it has not taken go on in the old worker.

    Nobody else takes them, so they are told to reconnect in the end. Who had moved goes on as soon as the new one does.
    """
    daemon = make_daemon(app(1), handover_timeout=1, graceful_timeout=8, drain_window=0).start()
    asyncio.run(_new_stands_still(daemon))


async def _new_stands_still(daemon: Daemon) -> None:
    stands_still = DIES.format(hook="on_resume", state=", state", call=TAKEN + 1).replace("SIGKILL", "SIGSTOP")
    async with aboard(daemon, 200) as company:
        for rider in company.riders:
            rider.ask_on(0.05)
        (daemon.folder / "die").touch()
        reload = await company.begin_reload(app(2, stands_still))
        await until(lambda: not (daemon.folder / "die").exists(), "the new worker stands still")
        before = [rider.answers + 1 for rider in company.riders]

        def go_on() -> int:
            return sum(rider.answers > number for rider, number in zip(company.riders, before, strict=True))

        await until(lambda: go_on() >= 200 - TAKEN, lambda: f"all but {TAKEN} go on, and not {go_on()}")
        assert sum(rider.answer.version == 1 for rider in company.riders) >= 200 - TAKEN
        os.kill(daemon.workers[-1], signal.SIGCONT)
        await until(lambda: all(rider.ended or rider.answer.version == 2 for rider in company.riders), "all is decided")
        document = await ended_well(reload)
        await company.settle()
    ends = Counter(rider.ended for rider in company.riders)
    assert {"", "1012"} == {*ends}
    assert LEAST_TAKEN <= ends[""] <= TAKEN
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
    assert (ends[""], {"no_taker": ends["1012"]}) == (document["moved"], document["drained"])


@pytest.mark.timeout(90)
def test_the_old_worker_dies(make_daemon: MakeDaemon) -> None:
    """Who has moved goes on; only what the old worker still had is lost."""
    dies = DIES.format(hook="on_handover", state="", call=250)
    daemon = make_daemon(app(1, dies)).start()
    (daemon.folder / "die").touch()
    asyncio.run(_old_dies(daemon))


async def _old_dies(daemon: Daemon) -> None:
    async with aboard(daemon, 400) as company:
        for rider in company.riders:
            rider.ask_on(0.05)
        await company.reload(app(2))
        await until(lambda: not (daemon.folder / "die").exists(), "the old worker dies")
        await until(lambda: any(rider.ended for rider in company.riders), "some are lost")
        # one more is connected behind all that has been lost
        await company.settle()
        answers = await company.all_answered()
        moved = [rider for rider in company.riders if not rider.ended]
        status = await company.status()
    assert {2} == {answer.version for answer in answers}
    # a window of 64 was not answered, and as many may have been answered that were not told so
    assert 250 - 2 * 64 - 1 <= len(moved) < 250, len(moved)
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
    assert all(rider.ended.startswith("lost") for rider in company.riders if rider not in moved)
    assert 1 == len(status["workers"])


@pytest.mark.timeout(90)
def test_the_master_is_killed(make_daemon: MakeDaemon) -> None:
    """All workers end with their master, in the middle of a hand-over too, and the service starts again."""
    daemon = make_daemon(app(1, messages=ASYNC), workers=2, handover_timeout=60, graceful_timeout=90).start()
    asyncio.run(_master_killed(daemon))
    daemon.wait_exit()
    daemon.wait_gone()
    asyncio.run(_serves(daemon.start()))


async def _serves(daemon: Daemon) -> None:
    async with aboard(daemon, 10) as company:
        await company.answered_by(2)


async def _begin_and_hold(daemon: Daemon, company: Company, version: int) -> Rider:
    """Begin a reload that a busy callback keeps open; return its rider when all others have moved."""
    held = company.riders[0]
    await company.all_answered()
    held.send("wait never")
    daemon.write_app(app(version, messages=ASYNC))
    daemon.signal(signal.SIGHUP)
    await company.answered_by(version, company.riders[1:])
    return held


async def _master_killed(daemon: Daemon) -> None:
    async with aboard(daemon, 40) as company:
        await _begin_and_hold(daemon, company, 2)
        os.kill(daemon.master, signal.SIGKILL)
        await until(lambda: all(rider.ended for rider in company.riders), "all connections end")
    assert all(rider.ended.startswith("lost") for rider in company.riders)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("arguments", [(), ("--quick",)], ids=["graceful", "quick"])
def test_a_stop_in_the_middle(make_daemon: MakeDaemon, arguments: tuple[str, ...]) -> None:
    """A stop ends a hand-over that a busy callback keeps open: everybody gets 1001, exit 0, long before its time."""
    settings = {"handover_timeout": 60, "graceful_timeout": 4, "drain_window": 0}
    daemon = make_daemon(app(1, messages=ASYNC), workers=2, **settings).start()
    asyncio.run(_stopped(daemon, arguments))
    assert 0 == daemon.wait_exit()
    daemon.wait_gone()


async def _stopped(daemon: Daemon, arguments: tuple[str, ...]) -> None:
    # drain_window and graceful_timeout of the new workers are longer than what is waited for here
    async with aboard(daemon, 40) as company:
        await _begin_and_hold(daemon, company, 2)
        stop = await asyncio.to_thread(daemon.cli_begin, "stop", *arguments)
        await until(lambda: all(rider.ended for rider in company.riders), "everybody is told", 10)
        company_ends = Counter(rider.ended for rider in company.riders)
        assert 0 == (await asyncio.to_thread(finish, stop)).code
    assert {"1001": 40} == company_ends
    assert [] == [fault for rider in company.riders for fault in rider.wrong]


@pytest.mark.timeout(90)
def test_two_reloads_at_once(make_daemon: MakeDaemon) -> None:
    """A reload that is asked for during a hand-over waits for its turn; all connections move twice, to the newest."""
    daemon = make_daemon(app(1, messages=ASYNC), workers=2, handover_timeout=60, graceful_timeout=90).start()
    asyncio.run(_twice(daemon))


async def _twice(daemon: Daemon) -> None:
    async with aboard(daemon, 60) as company:
        for rider in company.riders[1:]:
            rider.send("join news")
        await company.hears("news", company.riders[1:])
        await _begin_and_hold(daemon, company, 2)
        daemon.write_app(app(3, messages=ASYNC))
        reloads = [await asyncio.to_thread(daemon.cli_begin, "reload", "--json") for _ in range(2)]
        # the callback is over, and its connection moves as well
        (daemon.folder / "never").touch()
        documents = [(await asyncio.to_thread(finish, reload)).document() for reload in reloads]
        await company.quieten()
        assert {3} == {answer.version for answer in await company.all_answered()}
        status = await company.status()
    company.check()
    company.check_heard("news", company.riders[1:])
    assert ["ok", "ok"] == [document["result"] for document in documents]
    assert {} == status["handover"]["drained"]
    assert status["handover"]["moved"] in (120, 180), "the two that were asked for together may be one"
