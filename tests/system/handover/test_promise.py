"""The promise: three reloads in a row, each with new code, and none of 500 clients notices anything.

Some ask all the time, some are idle, some compress, some listen to topics, to broadcasts or as a user, and some are
slow readers with more unsent than the kernel takes. Nobody is closed, and nothing is lost, doubled or out of order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.faults.mischief import control_file
from tests.system.handover.riders import Company, Rider, app, until
from wsworker import client

POURED, POURED_SIZE = 400, 16_000
"""Messages for each slow reader, and their size: together far more than two kernels keep."""


class Outsider:
    """A program beside the service, which publishes numbers to a topic through it, from `with` to its end."""

    def __init__(self, daemon: Daemon, topic: str) -> None:
        self.said: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []
        self._socket = control_file(daemon)
        self._topic = topic
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Publish meanwhile."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join(30)

    def _publish(self) -> None:
        at = (self._topic, "outsider")
        while not self._over.wait(0.05):
            try:
                client.publish(self._topic, f"T {self._topic} outsider {self.said[at]}", control_socket=self._socket)
            except Exception as error:
                self.faults.append(repr(error))
            self.said[at] += 1


async def _talk(speakers: list[Rider]) -> None:
    """Have these say numbers to the topic, to the user and now and then to all, until it is cancelled."""
    turn = 0
    while True:
        for speaker in speakers:
            speaker.say("say", "news")
            speaker.say("tell", "ann")
            if turn % 20 == 0:
                speaker.say("shout", "all")
        turn += 1
        await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
def test_three_reloads(make_daemon: MakeDaemon) -> None:
    """500 clients on 4 workers; at the end each is answered by the newest code."""
    daemon = make_daemon(app(1), workers=4, websocket={"send_buffer": 16 << 20, "compression": "deflate"}).start()
    asyncio.run(_ride(daemon))
    assert "may be missing" not in daemon.log
    assert "ERROR" not in daemon.log


async def _ride(daemon: Daemon) -> None:
    busy = [Rider(f"busy{number}", deflates=number % 4 == 0) for number in range(160)]
    idle = [Rider(f"idle{number}", deflates=number % 4 == 0) for number in range(200)]
    listening = [Rider(f"listening{number}", deflates=number % 4 == 0) for number in range(100)]
    ann = [Rider(f"ann{number}", deflates=number % 4 == 0) for number in range(16)]
    slow = [Rider(f"slow{number}", slow=True) for number in range(20)]
    speakers = [Rider(f"speaker{number}") for number in range(4)]
    outsider = Outsider(daemon, "news")
    async with Company(daemon, [*busy, *idle, *listening, *ann, *slow, *speakers]) as company:
        for rider in (*listening, *slow):
            rider.send("join news")
        for rider in ann:
            rider.send("be ann")
        for number, rider in enumerate((*busy, *listening[:40])):
            # ten of them as fast as they are answered
            rider.ask_on(0 if number < 10 else 0.05)
        await company.hears("news", (*listening, *slow))
        await company.hears("ann", ann)
        # so that nobody has come behind what a worker has said to all
        await company.hears("all", company.riders)
        for rider in slow:
            rider.stop_reading()
            rider.send(f"pour {POURED} {POURED_SIZE}")
        talking = asyncio.create_task(_talk(speakers))
        with outsider.talking():
            for version in (2, 3, 4):
                before = sum(rider.answers for rider in company.riders)
                document = await company.reload(app(version))
                assert ("ok", len(company.riders), {}) == tuple(
                    document[key] for key in ("result", "moved", "drained")
                ), document
                await until(lambda before=before: sum(rider.answers for rider in busy) > before, "they go on")  # type: ignore[misc]
        talking.cancel()
        for rider in slow:
            rider.read_on()
        await company.settle()
        await until(lambda: all(rider.poured == POURED for rider in slow), "all that was poured has come")
        await company.quieten()
        assert {4} == {answer.version for answer in await company.all_answered()}
        status = await company.status()
    company.check()
    assert [] == outsider.faults
    company.check_heard("news", (*listening, *slow), outsider.said)
    company.check_heard("ann", ann)
    company.check_heard("all", company.riders)
    assert (3 * len(company.riders), {}) == (status["handover"]["moved"], status["handover"]["drained"])
