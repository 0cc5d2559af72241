"""Drain: when each client is told to go, and that a drain ends whatever the clients do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import connect

from tests.worker.clock import arrive, on_the_clock, passes
from tests.worker.conftest import Run
from tests.worker.service import (
    DEADLINE_SECONDS,
    Peer,
    Service,
    closing,
    head,
    make_app,
    make_hub,
    serving,
    text,
    until,
)
from wsworker.worker import connection as connection_module
from wsworker.worker import drain
from wsworker.worker.connection import Connection
from wsworker.worker.drain import RELOAD_CODE, SECONDS_PER_CLIENT, STOP_CODE, Drain, schedule

LONG = 60.0
"""Longer than any test may take: a drain that waits for it fails by the deadline of the waiting."""


# When


@pytest.mark.parametrize(
    ("count", "window", "draw", "moments"),
    [
        (0, 10, 0.5, []),
        (1, 10, 0.0, [0.0]),
        (1, 10, 0.5, [0.005]),
        (3, 10, 0.0, [0.0, 0.01, 0.02]),
        (4, 0.02, 0.0, [0.0, 0.005, 0.01, 0.015]),
        (4, 0.02, 0.5, [0.0025, 0.0075, 0.0125, 0.0175]),
        (3, 0, 0.5, [0.0, 0.0, 0.0]),
    ],
)
def test_moments(count: int, window: float, draw: float, moments: list[float]) -> None:
    """Ten milliseconds for each client, less if the window is too short for that, nothing if there is none."""
    assert moments == pytest.approx(schedule(count, window, lambda: draw))


@given(st.integers(0, 300), st.floats(0, 100), st.integers())
def test_each_client_has_a_share_to_itself(count: int, window: float, seed: int) -> None:
    """One moment each, ascending, the n-th within the n-th share, the last within the window."""
    moments = schedule(count, window, Random(seed).random)
    assert count == len(moments)
    assert sorted(moments) == moments
    share = min(window / max(count, 1), SECONDS_PER_CLIENT)
    for number, moment in enumerate(moments):
        assert number * share <= moment <= (number + 1) * share
    assert all(0 <= moment <= window * (1 + 1e-9) for moment in moments)


def test_workers_do_not_fall_into_step() -> None:
    """The moments differ with what is drawn."""
    assert schedule(5, 10, Random(1).random) != schedule(5, 10, Random(2).random)


# How


async def answer(peer: Peer) -> int:
    """Wait for the server's Close, answer it and leave; return its code."""
    code = await peer.close_code()
    peer.send(closing(code))
    assert b"" == await peer.rest()
    peer.leave()
    return code


async def within_the_deadline(outcome: Awaitable[int]) -> int:
    """Return what a drain returns; fails if it takes for ever."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await outcome


def states(service: Service) -> list[str]:
    """Return the state of every connection, in the order in which they came."""
    return [connection.state for connection in service.hub.worker.connections.values()]


def test_every_client_is_told(run: Run) -> None:
    """Each gets the code and the reason once; when they have answered, all is done and nobody was cut."""
    ends: list[tuple[int, str]] = []

    async def main() -> None:
        async with serving(make_app(on_close=lambda connection, code, reason: ends.append((code, reason)))) as service:
            peers = [await service.open() for _ in range(5)]
            answers = [asyncio.create_task(answer(peer)) for peer in peers]
            leaving = Drain(service.hub, RELOAD_CODE, "service restart")
            assert 0 == await within_the_deadline(leaving.run(LONG, LONG))
            assert [RELOAD_CODE] * 5 == await asyncio.gather(*answers)
            assert service.hub.empty.is_set()

    run(main())
    assert [RELOAD_CODE] * 5 == [code for code, _ in ends]


def test_clients_of_another_maker_are_told(run: Run) -> None:
    """The client of websockets sees code and reason, and a clean close."""

    def listen(url: str, connected: Callable[[], object]) -> tuple[object, ...]:
        with connect(url, compression=None) as client:
            connected()
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(DEADLINE_SECONDS)
        assert caught.value.rcvd is not None
        return caught.value.rcvd.code, caught.value.rcvd.reason, caught.value.rcvd_then_sent

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            loop, seen = asyncio.get_running_loop(), [0]

            def connected() -> None:
                seen[0] += 1

            threads = [
                asyncio.create_task(
                    asyncio.to_thread(listen, service.url, lambda: loop.call_soon_threadsafe(connected))
                )
                for _ in range(3)
            ]
            await until(lambda: seen == [3])
            assert 0 == await within_the_deadline(Drain(service.hub, STOP_CODE, "going away").run(LONG, LONG))
            assert [(STOP_CODE, "going away", True)] * 3 == await asyncio.gather(*threads)

    run(main())


def test_without_clients_there_is_nothing_to_wait_for(run: Run) -> None:
    """A drain of nobody is over at once."""

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            assert 0 == await within_the_deadline(Drain(service.hub, STOP_CODE, "").run(LONG, LONG))
            assert service.hub.draining

    run(main())


def test_the_idle_go_first(run: Run) -> None:
    """A client whose message is being handled is told after all that wait for nothing; its answer comes before."""
    done = asyncio.Event()

    async def on_message(connection: Connection, data: str | bytes) -> None:
        await done.wait()
        connection.send(data)

    async def main() -> None:
        async with serving(make_app(on_message=on_message)) as service:
            busy = await service.open(text("work"))
            await until(lambda: service.hub.counters.messages_in == 1)
            idle = [await service.open() for _ in range(4)]
            answers = [asyncio.create_task(answer(peer)) for peer in idle]
            working, *waiting = service.hub.worker.connections.values()
            task = asyncio.create_task(Drain(service.hub, RELOAD_CODE, "").run(LONG, LONG))
            while working.state == "open":
                assert not task.done()
                await asyncio.sleep(0)
            assert all(connection.state != "open" for connection in waiting)
            done.set()
            assert RELOAD_CODE == await answer(busy)
            assert 0 == await within_the_deadline(task)
            assert [RELOAD_CODE] * 4 == await asyncio.gather(*answers)

    run(main())


def test_the_goodbyes_are_spread(run: Run) -> None:
    """They are told one after the other: as soon as the first is told, most are still open."""

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            peers = [await service.open() for _ in range(30)]
            answers = [asyncio.create_task(answer(peer)) for peer in peers]
            task = asyncio.create_task(Drain(service.hub, RELOAD_CODE, "").run(LONG, LONG))
            counts = []
            while not task.done():
                counts.append(states(service).count("open"))
                await asyncio.sleep(0)
            assert sorted(counts, reverse=True) == counts
            assert set(range(1, 30)) <= set(counts)
            await asyncio.gather(*answers)

    run(main())


def test_hurry_tells_all_who_are_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a graceful drain the rest is told at once, with the same code; hurrying twice is no error."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", LONG)

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            peers = [await service.open() for _ in range(30)]
            answers = [asyncio.create_task(answer(peer)) for peer in peers]
            leaving = Drain(service.hub, STOP_CODE, "")
            task = asyncio.create_task(leaving.run(LONG, LONG))
            while states(service).count("open") == 30:
                await asyncio.sleep(0)
            assert states(service).count("open") > 1
            leaving.hurry()
            leaving.hurry()
            for _ in range(5):
                await asyncio.sleep(0)
            assert 0 == states(service).count("open")
            assert 0 == await within_the_deadline(task)
            assert [STOP_CODE] * 30 == await asyncio.gather(*answers)
            # nobody is left behind to say goodbye again
            assert {asyncio.current_task()} == asyncio.all_tasks()

    run(main())


@pytest.mark.parametrize("early", [True, False])
def test_a_hurried_drain_does_not_wait_long(run: Run, monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    """Clients that do not answer are cut soon, whether the hurry came before the drain or when all had been told."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            peers = [await service.open() for _ in range(2)]
            leaving = Drain(service.hub, STOP_CODE, "")
            if early:
                leaving.hurry()
            task = asyncio.create_task(leaving.run(0, LONG))
            assert [STOP_CODE] * 2 == [await peer.close_code() for peer in peers]
            leaving.hurry()
            assert 2 == await within_the_deadline(task)

    run(main())


# Who does not go


def test_a_client_that_does_not_answer_is_cut(run: Run) -> None:
    """At the deadline it is dropped and counted, its on_close gets 1006; who answers is not counted."""
    ends: list[int] = []

    async def run_and_look(service: Service) -> int:
        cut = await Drain(service.hub, RELOAD_CODE, "").run(0, 2.0)
        assert service.hub.empty.is_set()
        return cut

    async def main() -> None:
        async with serving(make_app(on_close=lambda connection, code, reason: ends.append(code))) as service:
            silent, polite = await service.open(), await service.open()
            task = asyncio.create_task(run_and_look(service))
            assert RELOAD_CODE == await answer(polite)
            assert RELOAD_CODE == await silent.close_code()
            assert 1 == await within_the_deadline(task)
            with pytest.raises(ConnectionError):
                await lost(silent)

    run(main())
    assert [RELOAD_CODE, 1006] == ends


async def lost(peer: Peer) -> None:
    """Send until the socket says that nobody is there."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            peer.send(text("?"))
            await peer.writer.drain()
            await asyncio.sleep(0)


def test_the_window_is_no_longer_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """However wide the window is, everybody is told before the cut."""
    monkeypatch.setattr(drain, "SECONDS_PER_CLIENT", LONG)
    goodbye = [(Opcode.CLOSE, RELOAD_CODE.to_bytes(2, "big"))]
    told: list[int] = []

    async def main() -> None:
        hub = make_hub(make_app(on_message=print), ping_interval=0)
        hub.random = Random(183)  # the last one is told after two thirds of the time
        several = [arrive(hub, head()) for _ in range(3)]
        for _, wire in several:
            wire.writes.clear()
        leaving = asyncio.create_task(Drain(hub, RELOAD_CODE, "").run(LONG, 6.0))
        for ticks in range(1, 24):
            await passes(0.25)
            for connection, wire in several:
                if wire.sent() == goodbye:
                    told.append(ticks)
                    connection.data_received(closing(RELOAD_CODE))
                    wire.close()
        assert (True, 0) == (leaving.done(), await leaving)

    on_the_clock(main)
    assert 3 == len(told)
    assert told[-1] >= 16


def test_a_callback_is_waited_for(run: Run) -> None:
    """A connection has gone when its on_close is done, not when its socket is closed."""
    done: list[int] = []

    async def on_close(connection: Connection, code: int, reason: str) -> None:
        for _ in range(10):
            await asyncio.sleep(0.001)
        done.append(code)

    async def main() -> None:
        async with serving(make_app(on_close=on_close)) as service:
            answers = [asyncio.create_task(answer(await service.open())) for _ in range(3)]
            assert 0 == await within_the_deadline(Drain(service.hub, RELOAD_CODE, "").run(0, LONG))
            assert [RELOAD_CODE] * 3 == done
            await asyncio.gather(*answers)

    run(main())


def test_a_callback_without_end_is_cancelled(run: Run) -> None:
    """At the deadline it is ended like the sockets are; the others wait for it no longer."""
    ended: list[str] = []

    async def on_close(connection: Connection, code: int, reason: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def main() -> None:
        async with serving(make_app(on_close=on_close)) as service:
            answers = asyncio.create_task(answer(await service.open()))
            await within_the_deadline(Drain(service.hub, RELOAD_CODE, "").run(0, 1.0))
            assert service.hub.empty.is_set()
            assert ["cancelled"] == ended
            assert RELOAD_CODE == await answers
            assert 0 == service.hub.counters.errors

    run(main())


@pytest.mark.parametrize("is_async", [True, False])
def test_on_close_comes_once_although_a_callback_outlasts_the_drain(run: Run, is_async: bool) -> None:
    """The message that is being handled is cancelled, what waits behind it is dropped, and then comes on_close."""
    calls: list[object] = []

    async def on_message(connection: Connection, data: str | bytes) -> None:
        calls.append(data)
        await asyncio.Event().wait()

    def on_close(connection: Connection, code: int, reason: str) -> None:
        calls.append(code)

    async def on_close_later(connection: Connection, code: int, reason: str) -> None:
        await asyncio.sleep(0)
        on_close(connection, code, reason)

    async def main() -> None:
        app = make_app(on_message=on_message, on_close=on_close_later if is_async else on_close)
        async with serving(app) as service:
            await service.open(text("a"), text("b"))
            await until(lambda: service.hub.counters.messages_in == 2)
            assert 1 == await within_the_deadline(Drain(service.hub, RELOAD_CODE, "").run(0, 0.1))
            assert ["a", 1006] == calls
            assert service.hub.empty.is_set()
            assert {} == service.hub.worker.connections
        assert ["a", 1006] == calls

    run(main())


def test_a_callback_that_swallows_its_cancellation_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the cut there is a bound as well."""
    monkeypatch.setattr(drain, "CUT_SECONDS", 0.05)
    done = asyncio.Event()

    async def on_message(connection: Connection, data: str | bytes) -> None:
        while not done.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await done.wait()

    async def main() -> None:
        async with serving(make_app(on_message=on_message)) as service:
            await service.open(text("a"))
            await until(lambda: service.hub.counters.messages_in == 1)
            await within_the_deadline(Drain(service.hub, RELOAD_CODE, "").run(0, 0.1))
            assert not service.hub.empty.is_set()
            done.set()

    run(main())


def test_a_client_that_leaves_in_its_head_does_not_keep_the_drain(run: Run) -> None:
    """It has half-closed in the middle of its request: it gets its FIN, and nobody owes it an answer."""

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            peer = await service.dial()
            peer.send(b"GET / HT")
            peer.writer.write_eof()
            assert b"" == await peer.rest()
            service.hub.drain()
            peer.leave()
            assert 0 == await within_the_deadline(Drain(service.hub, RELOAD_CODE, "").run(0, LONG))

    run(main())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", head()], ids=["nothing", "half", "whole"])
def test_open_handshakes_get_503(run: Run, sent: bytes) -> None:
    """Whoever is not in yet is turned away with the advice to come again, and counts as nobody who was cut."""

    async def on_handshake(request: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with serving(make_app(on_handshake=on_handshake, on_message=print)) as service:
            peer = await service.dial()
            peer.send(sent)
            await until(lambda: not service.hub.empty.is_set())
            if sent:
                await until(lambda: all(connection._session.head_started for connection in service.hub._present))
            task = asyncio.create_task(Drain(service.hub, RELOAD_CODE, "").run(LONG, LONG))
            response = await peer.response()
            assert response.startswith("HTTP/1.1 503 ")
            assert "\r\nRetry-After: " in response
            peer.leave()
            assert 0 == await within_the_deadline(task)

    run(main())


def test_who_comes_during_a_drain_gets_503(run: Run) -> None:
    """The door stays shut until the end."""

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            last = await service.open()
            task = asyncio.create_task(Drain(service.hub, STOP_CODE, "").run(0, LONG))
            assert STOP_CODE == await last.close_code()
            late = await service.dial()
            late.send(head())
            assert (await late.response()).startswith("HTTP/1.1 503 ")
            late.leave()
            last.send(closing(STOP_CODE))
            last.leave()
            assert 0 == await within_the_deadline(task)

    run(main())


def test_a_hurry_half_closes_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The FIN comes right behind the Close, without an answer; who had its goodbye before is not cut short."""
    monkeypatch.setattr(connection_module, "ECHO_SECONDS", LONG)
    monkeypatch.setattr(drain, "QUICK_SECONDS", LONG)

    async def main() -> None:
        async with serving(make_app(on_message=print)) as service:
            told, peer = await service.open(), await service.open()
            next(iter(service.hub.worker.connections.values())).close(3000)
            leaving = Drain(service.hub, STOP_CODE, "")
            leaving.hurry()
            task = asyncio.create_task(leaving.run(0, LONG))
            assert STOP_CODE == await peer.close_code()
            assert b"" == await peer.rest()
            peer.send(closing(STOP_CODE))
            peer.leave()
            assert 3000 == await answer(told)
            assert 0 == await within_the_deadline(task)

    run(main())
