"""Addresses of names: one question at a time for each, and none in the pool of the loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from tests.worker.conftest import Run
from wsworker.brokers import Server
from wsworker.bus.broker.lookup import Lookup, in_turn

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
        assert ["127.0.0.1"] == await first == await second
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
            assert [host] == await lookup.addresses(Server(host, 1))

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


def test_a_thread_that_cannot_be_begun(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the name is asked for anew as soon as one can."""
    questions = Questions(monkeypatch)
    questions.answers.set()

    async def main() -> None:
        lookup = Lookup(asyncio.get_running_loop())
        server = Server("broker.example", 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OSError, match="no thread"):
                await lookup.addresses(server)
        assert ["127.0.0.1"] == await asyncio.wait_for(lookup.addresses(server), 10)

    run(main())


def refuse(_: threading.Thread) -> None:
    """As Thread.start is when pids.max is reached."""
    raise RuntimeError("can't start new thread")


def test_a_question_that_fails_otherwise(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked hears of it, and the next one asks anew."""
    questions = Questions(monkeypatch)

    async def main() -> None:
        lookup = Lookup(asyncio.get_running_loop())
        server = Server("broker.example", 1)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", fail)
            with pytest.raises(MemoryError):
                await asyncio.wait_for(lookup.addresses(server), 10)
        questions.answers.set()
        assert ["127.0.0.1"] == await asyncio.wait_for(lookup.addresses(server), 10)

    run(main())


def fail(host: str, port: int, **how: Any) -> list[Any]:
    """As getaddrinfo without memory; but that an address is none is told as ever."""
    if how.get("flags"):
        return REAL(host, port, **how)
    raise MemoryError


def test_several_addresses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in the system's order, each once."""
    there = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1")]

    def several(host: str, port: int, **how: Any) -> list[Any]:
        if how.get("flags"):
            return REAL(host, port, **how)
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in (*there, there[0])]

    monkeypatch.setattr(socket, "getaddrinfo", several)

    async def main() -> None:
        lookup = Lookup(asyncio.get_running_loop())
        assert ["::1", "127.0.0.2", "127.0.0.1"] == await lookup.addresses(Server("broker.example", 1))

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


def test_addresses_in_turn() -> None:
    """Who refuses at once leaves all of its time to the others, who says nothing no more than their share."""
    moments = iter([100.0, 100.0, 101.0, 105.0])
    found = [*in_turn(["a", "b", "c"], 9.0, lambda: next(moments))]
    assert [("a", 3.0, False), ("b", 4.0, False), ("c", 4.0, True)] == found
