"""Who speaks: in sync callbacks, in tasks and their children, in threads, and in what is scheduled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wsworker.speaker import aside, begin_task, connection_id, floor


class Somebody:
    """A connection. name: its id."""

    def __init__(self, name: str) -> None:
        self.id = name


def test_a_sync_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is current speaks, if it is open; other threads do not speak for it."""
    assert connection_id() is None
    monkeypatch.setattr(floor, "holder", Somebody("a"))
    assert "a" == connection_id()
    heard: list[str | None] = []
    thread = threading.Thread(target=lambda: heard.append(connection_id()))
    thread.start()
    thread.join()
    assert [None] == heard
    monkeypatch.setattr(floor, "holder", Somebody(""))
    assert connection_id() is None


def test_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """It speaks for its connection, as do the tasks and threads that it starts; a sync callback in it has the word."""

    async def child() -> str | None:
        await asyncio.sleep(0)
        return connection_id()

    async def turn(name: str) -> list[str | None]:
        begin_task(Somebody(name))
        await asyncio.sleep(0)
        heard = [connection_id(), await asyncio.create_task(child()), await asyncio.to_thread(connection_id)]
        with monkeypatch.context() as patch:
            patch.setattr(floor, "holder", Somebody("inner"))
            return [*heard, connection_id()]

    async def main() -> None:
        turns = [asyncio.create_task(turn(name)) for name in ("a", "b")]
        assert [["a", "a", "a", "inner"], ["b", "b", "b", "inner"]] == await asyncio.gather(*turns)
        assert connection_id() is None

    asyncio.run(main())


def test_aside() -> None:
    """What is scheduled aside speaks for nobody, and leaves the context it was made in as it was."""

    async def turn() -> list[str | None]:
        begin_task(Somebody("a"))
        heard: list[str | None] = []
        asyncio.get_running_loop().call_soon(lambda: heard.append(connection_id()), context=aside())
        asyncio.get_running_loop().call_soon(lambda: heard.append(connection_id()))
        await asyncio.sleep(0)
        return [*heard, connection_id()]

    assert [None, "a", "a"] == asyncio.run(turn())
