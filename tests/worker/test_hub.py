"""The hub: who is there, deadlines, flushing in slices, what a drain uses; and the users' Worker."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.worker.conftest import Run
from tests.worker.service import closing, head, make_app, make_hub, serving, text, until
from wsworker.worker import hub as hub_module
from wsworker.worker.connection import Connection


def test_ids_are_never_reused(run: Run) -> None:
    """An id is node, boot and a number that only grows."""

    async def main() -> None:
        hub = make_hub(make_app())
        assert ["node.boot.1", "node.boot.2"] == [hub.next_id(), hub.next_id()]

    run(main())


def test_the_worker_shows_the_open_connections(run: Run) -> None:
    """It holds a client from its 101 until on_close, and cannot be changed by the user."""
    inside: list[int] = []

    def on_close(connection: Connection, code: int, reason: str) -> None:
        inside.append(len(connection.worker.connections))

    async def main() -> None:
        async with serving(make_app(on_close=on_close)) as service:
            worker = service.hub.worker
            assert "<Worker 7 in slot 2, 0 connections>" == repr(worker)
            assert (7, 2, "wsworker.app") == (worker.id, worker.slot, worker.log.name)
            silent = await service.dial()
            await until(lambda: not service.hub.empty.is_set())
            assert {} == worker.connections
            peer = await service.open()
            assert ["node.boot.1"] == list(worker.connections)
            with pytest.raises(TypeError):
                worker.connections["x"] = service.connection  # type: ignore[index]
            peer.leave()
            await until(lambda: inside == [0])
            assert not service.hub.empty.is_set()
            silent.leave()
            await until(service.hub.empty.is_set)

    run(main())


def test_timers_run_in_the_loop(run: Run) -> None:
    """every() and after() of the worker are those of its Timers, which the hub ends."""
    calls: list[str] = []

    async def main() -> None:
        hub = make_hub(make_app())
        hub.worker.after(0.001, lambda: calls.append("after"))
        every = hub.worker.every(0.001, lambda: calls.append("every"))
        await until(lambda: "after" in calls and "every" in calls)
        every.cancel()
        hub.worker.every(3600, print)
        assert 1 == len(hub.timers)
        hub.timers.cancel_all()
        assert 0 == len(hub.timers)

    run(main())


def test_many_corked_connections_are_flushed_in_slices(run: Run, monkeypatch: Any) -> None:
    """After 5 ms the rest of a large flush waits for the next tick; each is flushed once, in order."""
    now = [0.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: now[0])
    flushed: list[int] = []
    ticks: list[int] = []

    class Corked:
        def __init__(self, number: int) -> None:
            self.number = number

        def _flush(self) -> None:
            now[0] += 0.002
            flushed.append(self.number)

    async def main() -> None:
        hub = make_hub(make_app())
        corked: list[Any] = [Corked(number) for number in range(10)]
        for one in corked + corked:
            hub.flush_later(one)
        while len(flushed) < 10:
            await asyncio.sleep(0)
            ticks.append(len(flushed))
        hub.flush_later(corked[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(main())
    assert [*range(10), 0] == flushed
    assert [3, 6, 9, 10] == sorted(set(ticks) - {0})


def test_the_wheel_stands_still_while_nothing_is_due(run: Run) -> None:
    """A hub without deadlines sets no timer, and finds the right tick again when a deadline comes."""

    async def main() -> None:
        async with serving(make_app(), open_timeout=0.2) as service:
            for _ in range(2):
                peer = await service.dial()
                peer.send(b"GET")
                assert "408" in await peer.response()
                peer.leave()
                await until(service.hub.empty.is_set)
            await until(lambda: not service.hub._wheel_turns)

    run(main())


def test_a_bug_in_one_deadline_does_not_stop_the_others(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The connection is dropped, the log says that it is a bug, and the wheel turns on."""
    calls: list[str] = []

    class Broken:
        def _expire(self) -> None:
            raise RuntimeError

        def terminate(self) -> None:
            calls.append("terminated")

    class Sound:
        def _expire(self) -> None:
            calls.append("expired")

    async def main() -> None:
        hub = make_hub(make_app())
        broken: Any = Broken()
        sound: Any = Sound()
        hub.schedule(broken, 1)
        hub.schedule(sound, 1)
        await until(lambda: len(calls) == 2)

    run(main())
    assert ["terminated", "expired"] == calls
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("a bug in wsworker")


@pytest.mark.parametrize("act", ["_flush", "_turn_away", "_give_up"])
def test_a_bug_in_one_connection_costs_no_other(run: Run, caplog: pytest.LogCaptureFixture, act: str) -> None:
    """What the hub does for one after the other it does for all: a flush, the start of a drain, the end."""
    calls: list[str] = []

    class Broken:
        def terminate(self) -> None:
            calls.append("terminated")

    class Sound:
        pass

    def bug() -> None:
        raise RuntimeError

    async def main() -> None:
        hub = make_hub(make_app())
        broken: Any = Broken()
        ones: list[Any] = [Sound(), broken, Sound()]
        for one in ones:
            setattr(one, act, lambda: calls.append(act))
        bug.__name__ = act
        setattr(broken, act, bug)
        for one in ones:
            hub.arrived(one)
        if act == "_flush":
            for one in ones:
                hub.flush_later(one)
        elif act == "_turn_away":
            hub.drain()
        else:
            hub.terminate_all()
        await until(lambda: len(calls) == 3)

    run(main())
    assert ["terminated", act, act] == sorted(calls, reverse=True)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith(f"a bug in wsworker: {act} of ")


def test_a_drain_answers_open_handshakes_and_later_ones_with_503(run: Run) -> None:
    """Half a head, a pending on_handshake and a client that comes later all get 503; open connections stay."""
    asked: list[str] = []
    cancelled: list[str] = []

    async def on_handshake(request: Any) -> None:
        asked.append(request.path)
        if request.path == "/slow":
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(request.path)

    async def main() -> None:
        async with serving(make_app(on_handshake=on_handshake, on_message=lambda c, d: c.send(d))) as service:
            stays = await service.open()
            half = await service.dial()
            half.send(b"GET / HT")
            slow = await service.dial()
            slow.send(head("/slow"))
            await until(lambda: "/slow" in asked)
            await until(lambda: any(one._session.head_started for one in service.hub._present if one._stage == "head"))
            service.hub.drain()
            late = await service.dial()
            late.send(head("/late"))
            for peer in (half, slow, late):
                response = await peer.response()
                assert response.startswith("HTTP/1.1 503 ")
                assert "Retry-After: " in response
                assert b"" != await peer.rest()
            await until(lambda: cancelled == ["/slow"])
            stays.send(text("still here"))
            assert "still here" == await stays.message()
            assert ["/", "/slow"] == asked
            assert 3 == service.hub.counters.rejected

    run(main())


def test_a_handshake_that_the_user_admits_during_a_drain_is_refused(run: Run) -> None:
    """Whether a drain has begun is asked again after an async on_handshake."""

    async def main() -> None:
        app_hub: list[Any] = []

        def on_handshake(request: object) -> None:
            app_hub[0].draining = True

        async with serving(make_app(on_handshake=on_handshake)) as service:
            app_hub.append(service.hub)
            peer = await service.dial()
            peer.send(head())
            assert (await peer.response()).startswith("HTTP/1.1 503 ")

    run(main())


def test_idle_connections_come_first(run: Run) -> None:
    """Who has a callback under way or bytes to take comes last, who was silent for long comes first."""
    leave = asyncio.Event()

    async def on_message(connection: Connection, data: str) -> None:
        if data == "long":
            await leave.wait()

    async def main() -> None:
        async with serving(make_app(on_message=on_message)) as service:
            hub = service.hub
            busy = await service.open()
            busy.send(text("long"))
            await until(lambda: hub.counters.messages_in == 1)
            spoke = await service.open()
            hub.tick = 5
            spoke.send(text("short"))
            await until(lambda: hub.counters.messages_in == 2)
            await service.open()
            await until(lambda: ["3", "2", "1"] == [one.id.rpartition(".")[2] for one in hub.idle_first()])
            leave.set()

    run(main())


def test_close_all_and_empty(run: Run) -> None:
    """close_all says goodbye to every open connection; empty is set when the last has left, callbacks included."""
    ends: list[tuple[int, str]] = []

    async def on_close(connection: Connection, code: int, reason: str) -> None:
        await asyncio.sleep(0)
        ends.append((code, reason))

    async def main() -> None:
        async with serving(make_app(on_close=on_close)) as service:
            peers = [await service.open() for _ in range(3)]
            service.hub.close_all(1012, "reload")
            for peer in peers:
                assert (Opcode.CLOSE, b"\x03\xf4reload") == await peer.receive()
                peer.send(closing(1012, "reload"))
                assert b"" == await peer.rest()
                peer.leave()
            await asyncio.wait_for(service.hub.empty.wait(), 5)
            assert [(1012, "reload")] * 3 == ends

    run(main())


def test_terminate_all_drops_every_socket(run: Run) -> None:
    """Open ones, half-open ones and those that are only waited for are gone at once; on_close comes for the first."""
    ends: list[int] = []

    async def main() -> None:
        async with serving(make_app(on_close=lambda c, code, reason: ends.append(code))) as service:
            await service.open()
            await service.dial()
            refused = await service.dial()
            refused.send(b"nonsense\r\n")
            await until(lambda: service.hub.counters.rejected == 1 and len(service.hub._present) == 3)
            service.hub.terminate_all()
            await asyncio.wait_for(service.hub.empty.wait(), 5)
            assert [1006] == ends

    run(main())
