"""A crowd: clients that stay connected, talk all the time, and come back when they are told to.

They run in a thread of their own, in one asyncio loop, with the client of the websockets package. Each knows by the
first answer which worker it is connected to, so that whoever loses its connection can say whose it was; the app must
answer like WHO of daemon.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Set
from types import TracebackType
from typing import Final, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.protocol import State

COME_AGAIN: Final = (1001, 1012)
ANSWER_SECONDS: Final = 30.0
"""A worker that stands still for a few seconds answers when it goes on."""

PAUSES_SECONDS: Final = (0.2, 0.5)
"""Least and most time between two messages of one client."""


class Crowd:
    """So many clients, from `with` to its end.

    echoes: right answers; told_to_go: how often one was asked to come again, by 1001, 1012 or 503. lost: the pid of the
    worker whose connection ended without a goodbye, and how; pid 0 is one that had not said a word yet. wrong: answers
    that were not right, refusals, and all other surprises.
    """

    def __init__(self, port: int, clients: int) -> None:
        self.echoes = 0
        self.told_to_go = 0
        self.lost: list[tuple[int, str]] = []
        self.wrong: list[str] = []
        self._url = f"ws://127.0.0.1:{port}/"
        self._clients = clients
        self._loop = asyncio.new_event_loop()
        self._talking: set[ClientConnection] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the crowd does not go home"

    def __repr__(self) -> str:
        return f"{self.echoes} echoes, {self.told_to_go} times told to come again, {len(self.lost)} lost"

    def is_whole(self) -> bool:
        """Whether every client is connected and was answered, after all that has come in by now was looked at."""
        return asyncio.run_coroutine_threadsafe(self._count(), self._loop).result(ANSWER_SECONDS) == self._clients

    def check(self, killed: Set[int]) -> None:
        """Fail unless all answers were right and only clients of killed workers, by pid, have lost their connection."""
        unexplained = [loss for loss in self.lost if loss[0] not in killed]
        assert not unexplained, f"lost without a reason, of {len(self.lost)}: {unexplained[:10]}"
        assert not self.wrong, self.wrong[:10]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._gather())

    async def _gather(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._clients):
                tasks.create_task(self._live(number))

    async def _count(self) -> int:
        for _ in range(3):
            # each turn of the loop reads what is there: a goodbye of long ago must not be overlooked
            await asyncio.sleep(0)
        return sum(client.state is State.OPEN for client in self._talking)

    async def _live(self, number: int) -> None:
        """Be one client: connect, talk, and connect again when it is over, until the crowd goes home."""
        draw = random.Random(number)
        while not self._over.is_set():
            worker = _Worker()
            try:
                async with connect(self._url, proxy=None, open_timeout=ANSWER_SECONDS, ping_interval=None) as client:
                    await self._talk(client, worker, number, draw)
            except InvalidStatus as error:
                if error.response.status_code == 503:
                    self.told_to_go += 1
                else:
                    self.wrong.append(f"{error!r} of client {number}")
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code in COME_AGAIN:
                    self.told_to_go += 1
                else:
                    self.lost.append((worker.pid, repr(error)))
            except ConnectionRefusedError as error:
                self.wrong.append(f"{error!r} of client {number}")
            except (OSError, EOFError, InvalidMessage) as error:
                self.lost.append((worker.pid, repr(error)))
            except Exception as error:
                # a task that raises would end them all
                self.wrong.append(f"{error!r} of client {number} at worker {worker.pid}")

    async def _talk(self, client: ClientConnection, worker: _Worker, number: int, draw: random.Random) -> None:
        """Send and check answers until the connection or the crowd ends."""
        worker.pid = int((await self._ask(client, "who")).split()[0])
        self._talking.add(client)
        try:
            count = 0
            while not self._over.is_set():
                count += 1
                text = f"{number} {count}"
                answer = await self._ask(client, text)
                pid, _, said = answer.partition(" ")
                if said != text or not pid.isdigit():
                    self.wrong.append(f"client {number} sent {text!r} to {worker.pid} and was answered {answer!r}")
                else:
                    # it may have moved
                    worker.pid = int(pid)
                self.echoes += 1
                # a goodbye ends the pause
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(draw.uniform(*PAUSES_SECONDS)):
                        await client.wait_closed()
        finally:
            self._talking.remove(client)

    async def _ask(self, client: ClientConnection, text: str) -> str:
        await client.send(text)
        async with asyncio.timeout(ANSWER_SECONDS):
            return str(await client.recv())


class _Worker:
    """Who answers a client; pid 0 until it has answered."""

    pid = 0
