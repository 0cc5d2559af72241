"""The promise: two upgrades and a reload between them, and neither clients nor operators notice more than a version."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.ports import free_port
from tests.system.handover.riders import Company, Rider, ended_well, until
from tests.system.handover.test_promise import Outsider
from tests.system.test_admin import Operator, counters
from tests.system.upgrade.conftest import MakeReleased
from tests.system.upgrade.releases import RIDERS_APP, Released

POURED, POURED_SIZE = 200, 16_000
"""Messages for each slow reader, and their size: together far more than two kernels keep."""

GAUGES = ("connections",)
"""What may fall among the totals of `status`."""


class Watch:
    """Somebody who looks at `status` and at the metrics all the time, and notes what has gone back. looks: how often.

    versions: all that were seen, in their order; pids: all masters.
    """

    def __init__(self, daemon: Released, operator: Operator) -> None:
        self.looks = 0
        self.versions: list[str] = []
        self.pids: set[int] = set()
        self.faults: list[str] = []
        self._daemon, self._operator = daemon, operator
        self._highest: dict[object, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look meanwhile."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join(60)

    def _look_on(self) -> None:
        while not self._over.wait(0.02):
            try:
                self._look()
            except Exception as error:
                self.faults.append(repr(error))

    def _look(self) -> None:
        status = self._daemon.status()
        self._note({("status", key): value for key, value in _counts(status).items()})
        self.pids.add(status["pid"])
        if status["version"] not in self.versions[-1:]:
            self.versions.append(status["version"])
        self._note({("metrics", key): value for key, value in counters(self._operator.samples()).items()})
        code, _ = self._operator.get("/readyz")
        if code != 200:
            self.faults.append(f"/ready: {code}")
        self.looks += 1

    def _note(self, counts: Mapping[Any, float]) -> None:
        for key, value in counts.items():
            if value < self._highest.get(key, 0):
                self.faults.append(f"{key} has gone back from {self._highest[key]} to {value}")
            self._highest[key] = value


def _counts(status: Mapping[str, Any]) -> dict[str, float]:
    """Return all of a status document that only grows."""
    totals = {key: value for key, value in status["totals"].items() if key not in GAUGES}
    handover = {key: status["handover"][key] for key in ("moved", "longest_pause")}
    return totals | handover | {key: status[key] for key in ("uptime", "generation", "reloads")}


@pytest.mark.timeout(120)
def test_two_upgrades(make_released: MakeReleased) -> None:
    """200 clients on 3 workers: no close, nothing lost, doubled or out of order; the same pid; no counter goes back."""
    address = f"127.0.0.1:{free_port()}"
    daemon = make_released(RIDERS_APP, workers=3, websocket={"send_buffer": 16 << 20}, admin={"listen": address})
    daemon.start()
    watch = Watch(daemon, Operator(address))
    asyncio.run(_ride(daemon, watch))
    assert [] == watch.faults
    assert ["1.0.0", "2.0.0", "3.0.0"] == watch.versions
    assert 1 == len(watch.pids)
    assert watch.looks > 20
    assert "may be missing" not in daemon.log
    assert "ERROR" not in daemon.log


async def _ride(daemon: Released, watch: Watch) -> None:
    busy = [Rider(f"busy{number}") for number in range(60)]
    idle = [Rider(f"idle{number}") for number in range(70)]
    listening = [Rider(f"listening{number}") for number in range(50)]
    ann = [Rider(f"ann{number}") for number in range(10)]
    slow = [Rider(f"slow{number}", slow=True) for number in range(10)]
    # what a client publishes would have two publishers, the worker that it leaves and the one that it comes to
    outsider = Outsider(daemon, "news")
    async with Company(daemon, [*busy, *idle, *listening, *ann, *slow]) as company:
        for rider in (*listening, *slow):
            rider.send("join news")
        for rider in ann:
            rider.send("be ann")
        for number, rider in enumerate((*busy, *listening[:20])):
            # some of them as fast as they are answered
            rider.ask_on(0 if number < 5 else 0.05)
        await company.hears("news", (*listening, *slow))
        await company.hears("ann", ann)
        # so that nobody has come behind what a worker has said to all
        await company.hears("all", company.riders)
        for rider in slow:
            rider.stop_reading()
            rider.send(f"pour {POURED} {POURED_SIZE}")
        with watch.looking(), outsider.talking():
            for version, command in ((2, "upgrade"), (2, "reload"), (3, "upgrade")):
                await asyncio.to_thread(daemon.install, f"{version}.0.0")
                before = sum(rider.answers for rider in busy)
                document = await ended_well(await asyncio.to_thread(daemon.cli_begin, command, "--json"))
                assert ("ok", len(company.riders), {}) == tuple(
                    document[key] for key in ("result", "moved", "drained")
                ), document
                await until(lambda before=before: sum(rider.answers for rider in busy) > before, "they go on")  # type: ignore[misc]
                assert {version} == {answer.version for answer in await company.all_answered([*idle, *ann])}
        for rider in slow:
            rider.read_on()
        await company.settle()
        await until(lambda: all(rider.poured == POURED for rider in slow), "all that was poured has come")
        await company.quieten()
        assert {3} == {answer.version for answer in await company.all_answered()}
        status = await company.status()
    company.check()
    assert [] == outsider.faults
    company.check_heard("news", (*listening, *slow), outsider.said)
    company.check_heard("ann", ann)
    company.check_heard("all", company.riders)
    assert (3 * len(company.riders), {}) == (status["handover"]["moved"], status["handover"]["drained"])
    assert (3, 4, 0) == (status["reloads"], status["generation"], status["totals"]["restarts"])
