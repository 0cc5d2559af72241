"""Addresses of names: one question at a time for each, and none in the pool of the loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from tests.worker.conftest import Run
from wsworker.brokers import Server
from wsworker.bus.lookup import Lookup

REAL = socket.getaddrinfo


class Questions:
    """A name server that answers when it is told to. asked: the names, as often as they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, **how: Any) -> list[Any]:
        if how.get("flags"):
            return REAL(host, port, **how)
        self.asked.append(host)
        assert self.answers.wait(10)
        return REAL("127.0.0.1", port, **how)


def test_one_question_at_a_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives up and asks again waits for the same answer; later it is asked anew."""
    questions = Questions(monkeypatch)

    async def main() -> None:
        lookup = Lookup(asyncio.get_running_loop())
        server = Server("broker.example", 6379)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(lookup.addresses(server), 0.01)
        first, second = (asyncio.create_task(lookup.addresses(server)) for _ in range(2))
        await asyncio.sleep(0)
        questions.answers.set()
        assert [("127.0.0.1", 6379)] == [found[4] for found in await first] == [found[4] for found in await second]
        assert ["broker.example"] == questions.asked
        await lookup.addresses(server)
        assert ["broker.example"] * 2 == questions.asked

    run(main())


def test_an_address_is_no_question(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of IP version 4 nor of 6."""
    questions = Questions(monkeypatch)

    async def main() -> None:
        lookup = Lookup(asyncio.get_running_loop())
        for host in ("127.0.0.1", "::1"):
            assert host == (await lookup.addresses(Server(host, 1)))[0][4][0]

    run(main())
    assert [] == questions.asked


def test_names_that_are_none(run: Run) -> None:
    """One that cannot be asked for, and one that nobody has."""

    async def main() -> None:
        lookup = Lookup(asyncio.get_running_loop())
        with pytest.raises(UnicodeError):
            await lookup.addresses(Server("a" * 64, 1))
        with pytest.raises(socket.gaierror):
            await lookup.addresses(Server("broker.invalid", 1))

    run(main())


def test_a_loop_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the answer any more, and nothing is said."""
    questions = Questions(monkeypatch)
    loop = asyncio.new_event_loop()
    lookup = Lookup(loop)
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(lookup.addresses(Server("broker.example", 1)), 0.01))
    loop.close()
    questions.answers.set()
    for thread in threading.enumerate():
        if thread.name == "wsworker-lookup":
            thread.join(10)
            assert not thread.is_alive()
