"""Five thousand connections at once, with hardly more descriptors than they need."""

from __future__ import annotations

import asyncio
import resource

import psutil
import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.faults.mischief import limit
from tests.system.handover.riders import aboard, app, until

CONNECTIONS = 5000
SPARE = 12
"""Descriptors that each worker may open beside all that it has, or will have: far fewer than move at a time."""


@pytest.mark.timeout(120)
def test_a_limit_that_is_near(make_daemon: MakeDaemon) -> None:
    """All of them move, although the old worker can open a few descriptors more only, and the new one hardly more."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CONNECTIONS + 1000:
        pytest.skip(f"this test needs {CONNECTIONS + 1000} descriptors")
    asyncio.run(_near(make_daemon(app(1), graceful_timeout=60).start()))


@pytest.mark.timeout(60)
def test_a_limit_that_is_too_low(make_daemon: MakeDaemon) -> None:
    """The new worker takes as many as it has descriptors for, and the others are told to reconnect."""
    asyncio.run(_too_low(make_daemon(app(1), drain_window=0).start()))


async def _too_low(daemon: Daemon) -> None:
    (old,) = daemon.workers
    bare = psutil.Process(old).num_fds()
    async with aboard(daemon, 400) as company:
        await company.all_answered()
        limit(daemon.master, resource.RLIMIT_NOFILE, bare + 300)
        document = await company.reload(app(2))
        left = document["drained"]["descriptors"]
        await until(lambda: sum(bool(rider.ended) for rider in company.riders) == left, "the others have to go")
        assert {2} == {answer.version for answer in await company.all_answered()}
        assert {"1012", ""} == {rider.ended for rider in company.riders}
        assert [] == [fault for rider in company.riders for fault in rider.wrong]
    assert (400 - left, {"descriptors": left}) == (document["moved"], document["drained"])
    # the new worker has few of its own, and keeps some back to tell new clients that it is full
    assert 100 <= left < 200


async def _near(daemon: Daemon) -> None:
    (old,) = daemon.workers
    bare = psutil.Process(old).num_fds()
    async with aboard(daemon, CONNECTIONS) as company:
        for rider in company.riders[:100]:
            rider.ask_on(0.05)
        await until(lambda: psutil.Process(old).num_fds() >= CONNECTIONS + bare, "it has all of them")
        # the next worker gets the limit of the master
        limit(daemon.master, resource.RLIMIT_NOFILE, CONNECTIONS + bare + SPARE)
        limit(old, resource.RLIMIT_NOFILE, psutil.Process(old).num_fds() + SPARE)
        document = await company.reload(app(2))
        await company.settle()
        assert {2} == {answer.version for answer in await company.all_answered()}
        company.check()
    assert (CONNECTIONS, {}) == (document["moved"], document["drained"]), document
