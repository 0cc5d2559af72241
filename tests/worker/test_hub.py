"""The hub: who is there, deadlines, flushing in slices, what a drain uses; and the users' Worker."""

from __future__ import annotations

import asyncio
import logging
import socket
import zlib
from contextvars import ContextVar
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.worker.clock import Wire, arrive, on_the_clock, passes, stands_still, turns
from tests.worker.conftest import Run
from tests.worker.service import closing, connect, head, make_app, make_arrival, make_hub, serving, text, until
from wsworker.protocol.request import Address
from wsworker.sections import LogConfig
from wsworker.worker import hub as hub_module
from wsworker.worker import link as link_module
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub


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


def test_a_flush_that_leads_to_another_does_not_take_two_turns_at_once(run: Run, monkeypatch: Any) -> None:
    """However often something new is corked meanwhile, each tick of the loop has one slice of 5 ms."""
    now = [0.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: now[0])
    flushed: list[int] = []
    slices: list[int] = []

    class Corked:
        def __init__(self, hub: Hub, number: int) -> None:
            self.hub = hub
            self.number = number

        def _flush(self) -> None:
            now[0] += 0.002
            flushed.append(self.number)
            if self.number < 30:
                more: Any = Corked(self.hub, self.number + 10)
                self.hub.flush_later(more)

    async def main() -> None:
        hub = make_hub(make_app())
        for number in range(10):
            one: Any = Corked(hub, number)
            hub.flush_later(one)
        before = 0
        while len(flushed) < 40:
            await asyncio.sleep(0)
            slices.append(len(flushed) - before)
            before = len(flushed)

    run(main())
    assert [*range(40)] == flushed
    assert 3 == max(slices)


def test_a_message_to_many_lets_others_in_between(run: Run, monkeypatch: Any) -> None:
    """While a message goes to 1,200 clients, whoever else has sent something, or wants in, waits for 5 ms of it."""
    now = [0.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: now[0])
    happened: list[str] = []

    class Slow(Wire):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            now[0] += 1 / 65536  # exact in a float, so 5 ms are over with the 328th
            happened.append("write")

    async def main() -> None:
        def on_connect(connection: Connection) -> None:
            connection.subscribe("news")

        hub = make_hub(make_app(on_connect=on_connect), worker_connections=1200, max_per_address=0)
        for _ in range(1200):
            connect(hub, Slow(), head())
        await until(lambda: 1200 == hub.worker.count("news"))
        happened.clear()
        here, there = socket.socketpair()
        with here, there:

            def readable() -> None:
                happened.append("read")
                # there is always more
                there.send(here.recv(1))

            there.send(b"x")
            hub.loop.add_reader(here, readable)
            hub.worker.publish("news", "to all")
            await until(lambda: 1200 == happened.count("write"))
            hub.loop.remove_reader(here)

    run(main())
    slices = "".join(name[0] for name in happened).strip("r").split("r")
    assert [328, 328, 328, 216] == [len(one) for one in slices if one]


def test_the_wheel_stands_still_while_nothing_is_due(run: Run) -> None:
    """A hub without deadlines sets no timer, and finds the right tick again when a deadline comes."""

    async def main() -> None:
        async with serving(make_app(), open_timeout=1.0) as service:
            for _ in range(2):
                peer = await service.dial()
                peer.send(b"GET")
                assert "408" in await peer.response()
                peer.leave()
                await until(service.hub.empty.is_set)
            await until(lambda: not service.hub._wheel_turns)

    run(main())


def test_a_deadline_behind_a_long_standstill_is_kept_to_the_tick() -> None:
    """Who comes into a worker that was empty for an hour has all the time that others have."""

    async def main() -> None:
        hub = make_hub(make_app(), open_timeout=5)
        for _ in range(2):
            _, wire = arrive(hub, b"GET")
            await passes(4.75)
            assert [] == wire.writes
            await passes(0.25)
            assert wire.writes[0].startswith(b"HTTP/1.1 408 ")
            await passes(3600)
            assert hub.empty.is_set()

    on_the_clock(main)


def test_what_came_while_the_process_stood_still_is_read_before_it_is_missed() -> None:
    """A deadline that has passed meanwhile has one tick more; who is silent in that as well was late."""

    async def main() -> None:
        hub = make_hub(make_app(), open_timeout=5)
        good, good_wire = arrive(hub, head()[:20])
        _, late_wire = arrive(hub, head()[:20])
        await stands_still(60)
        good.data_received(head()[20:])
        await passes(0.25)
        assert good_wire.writes[0].startswith(b"HTTP/1.1 101 ")
        assert late_wire.writes[0].startswith(b"HTTP/1.1 408 ")

    on_the_clock(main)


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


@pytest.mark.parametrize("act", ["_flush", "_turn_away", "_give_up", "deliver"])
def test_a_bug_in_one_connection_costs_no_other(run: Run, caplog: pytest.LogCaptureFixture, act: str) -> None:
    """What the hub does for one after the other it does for all: a flush, the start of a drain, the end, a message."""
    calls: list[str] = []

    class Sound:
        _stage = "closing"

    class Broken(Sound):
        def terminate(self) -> None:
            calls.append("terminated")

    def bug(*args: object) -> None:
        raise RuntimeError

    def served(*args: object) -> bool:
        calls.append(act)
        return True

    async def main() -> None:
        hub = make_hub(make_app())
        broken: Any = Broken()
        ones: list[Any] = [Sound(), broken, Sound()]
        name = "_send_shared" if act == "deliver" else act
        for one in ones:
            setattr(one, name, served)
        bug.__name__ = act
        setattr(broken, name, bug)
        for one in ones:
            hub.arrived(one)
        if act == "_flush":
            for one in ones:
                hub.flush_later(one)
        elif act == "_turn_away":
            hub.drain()
        elif act == "_give_up":
            hub.terminate_all()
        else:
            assert 2 == hub.deliver("a", ones)
        await until(lambda: len(calls) == 3)

    run(main())
    assert [act, act, "terminated"] == sorted(calls, key=lambda call: call == "terminated")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith(f"a bug in wsworker: {act} of ")


@pytest.mark.parametrize("act", ["_expire", "_turn_away", "_give_up"])
def test_what_one_connection_sets_in_the_context_is_not_seen_by_another(run: Run, act: str) -> None:
    """Of all that the hub does for one after the other, nor in a later round; what was set outside is not there."""
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    seen: list[str] = []

    class One:
        pass

    def call_back() -> None:
        seen.append(tenant.get())
        tenant.set("somebody's")

    async def main() -> None:
        hub = make_hub(make_app())
        ones: list[Any] = [One(), One()]
        tenant.set("of who asks")
        for one in ones:
            setattr(one, act, call_back)
            hub.arrived(one)
        for _ in range(2):
            seen.clear()
            for one in ones:
                if act == "_expire":
                    hub.schedule(one, 1)
            if act == "_turn_away":
                hub.drain()
            elif act == "_give_up":
                hub.terminate_all()
            await until(lambda: len(seen) == 2)
            assert ["", ""] == seen
        assert "of who asks" == tenant.get()

    run(main())


def test_a_signal_has_a_context_of_its_own() -> None:
    """A message to many fills their buffers: on_buffer_full of each, and on_buffer_drain, see nothing of the others."""
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    seen: list[tuple[str, str]] = []

    def on_buffer_full(connection: Connection) -> None:
        seen.append(("full", tenant.get()))
        tenant.set(connection.id)

    async def on_buffer_drain(connection: Connection) -> None:
        seen.append(("drain", tenant.get()))
        tenant.set(connection.id)

    async def main() -> None:
        hub = make_hub(make_app(on_buffer_full=on_buffer_full, on_buffer_drain=on_buffer_drain), send_buffer=1000)
        several = [arrive(hub, head()) for _ in range(2)]
        for _, wire in several:
            wire.takes = False
        tenant.set("the publisher's")
        hub.deliver(bytes(2000), [connection for connection, _ in several])
        assert "the publisher's" == tenant.get()
        for _, wire in several:
            wire.open()
        await turns()

    on_the_clock(main)
    assert [("full", ""), ("full", ""), ("drain", ""), ("drain", "")] == seen


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


def test_idle_connections_come_first() -> None:
    """Who has a callback under way comes last, then who has bytes to take; who was silent for longest comes first."""

    async def on_message(connection: Connection, data: str) -> None:
        if data == "long":
            await asyncio.Event().wait()

    async def main() -> None:
        hub = make_hub(make_app(on_message=on_message), ping_interval=0)
        busy, slow, told, spoke, silent = (arrive(hub, head())[0] for _ in range(5))
        await passes(1)
        spoke.data_received(text("short"))
        await passes(1)
        told.send("short")
        await passes(1)
        newest, _ = arrive(hub, head())
        busy.data_received(text("long"))
        slow_wire: Any = slow._transport
        slow_wire.takes = False
        slow.send("never taken")
        await turns()
        assert [silent, spoke, told, newest, slow, busy] == hub.idle_first()

    on_the_clock(main)


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


def test_terminate_all_drops_every_socket(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open ones, half-open ones and those that are only waited for are gone at once; on_close comes for the first."""
    monkeypatch.setattr(link_module, "DISCARD_SECONDS", 60.0)
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


def test_whoever_counts_is_told_of_each_change() -> None:
    """A handshake that is over, a connection that has opened, has ended, is gone: each makes room for somebody."""

    async def main() -> None:
        seen: list[tuple[int, int, int]] = []

        def changed() -> None:
            seen.append((hub.unfinished, len(hub.worker.connections), len(hub._present)))

        app = make_app()
        hub = make_hub(app, changed)
        connection, wire = arrive(hub)
        assert [] == seen
        connection.data_received(head())
        assert [(0, 0, 1), (0, 1, 1)] == seen
        connection.data_received(closing(1000))
        assert [(0, 0, 1)] == seen[2:]
        wire.close()
        await turns()
        assert [(0, 0, 0)] == seen[3:]

    on_the_clock(main)


def test_many_that_move_are_told_of_once() -> None:
    """In the next tick of the loop, and before whoever waits until nobody is here."""

    async def main() -> None:
        seen: list[int] = []
        hub = make_hub(make_app(), lambda: seen.append(len(hub.worker.connections)))
        several = [arrive(hub, head())[0] for _ in range(3)]
        empty = asyncio.ensure_future(hub.empty.wait())
        empty.add_done_callback(lambda _: seen.append(-1))
        await turns()
        for gone, told in ((several[:2], [1]), (several[2:], [0, -1])):
            seen.clear()
            for connection in gone:
                hub.moved(connection)
            assert [] == seen
            await turns()
            assert told == seen
        seen.clear()
        for connection in several:
            assert hub.resumed(connection)
        assert [] == seen
        await turns()
        assert [3] == seen
        assert not hub.empty.is_set()

    on_the_clock(main)


# a message to many

OFFER = "Sec-WebSocket-Extensions: permessage-deflate{}\r\n"


def test_a_message_to_many_is_one_frame() -> None:
    """All have the same object in their output; it is written in the next tick, joined with what else there is."""

    async def main() -> None:
        hub = make_hub(make_app())
        several = [arrive(hub, head()) for _ in range(5)]
        for _, wire in several:
            wire.writes.clear()
        connections = [connection for connection, _ in several]
        assert 5 == hub.deliver("first", connections)
        assert 5 == hub.deliver(b"second", iter(connections))
        assert 1 == len({id(connection._session.output[0]) for connection in connections})
        assert 0 == sum(len(wire.writes) for _, wire in several)
        await turns()
        for _, wire in several:
            assert 1 == len(wire.writes)
            assert [(Opcode.TEXT, b"first"), (Opcode.BINARY, b"second")] == wire.sent()
        assert 10 == hub.counters.messages_out

    on_the_clock(main)


def test_a_compressed_message_to_many_is_one_frame_for_each_window() -> None:
    """Who has no compression, who has a small window and who has the usual one: each group shares its frame."""

    async def main() -> None:
        hub = make_hub(make_app(), compression="deflate")
        offers = ["", OFFER.format(""), OFFER.format("; server_max_window_bits=10")] * 3
        connections = [arrive(hub, head(more=offer))[0] for offer in offers]
        message = "the same thing again and again " * 100
        assert 9 == hub.deliver(message, connections)
        frames = [connection._session.output[-1] for connection in connections]
        assert [0, 15, 10] * 3 == [connection._session.window_bits for connection in connections]
        assert 3 == len({id(frame) for frame in frames})
        assert frames[:3] == frames[3:6] == frames[6:]
        plain, wide, narrow = frames[:3]
        assert plain.endswith(message.encode())
        for frame, window_bits in ((wide, 15), (narrow, 10)):
            assert 0xC1 == frame[0]
            inflated = zlib.decompressobj(-window_bits).decompress(frame[4 if frame[1] == 126 else 2 :])
            assert message.encode() == inflated

    on_the_clock(main)


def test_who_does_not_accept_a_message_to_many_is_not_counted() -> None:
    """Who is closing, who is gone and whose buffer is full; a message of the wrong type is for nobody."""

    async def main() -> None:
        hub = make_hub(make_app(), send_buffer=1000)
        connections = [arrive(hub, head())[0] for _ in range(4)]
        good, closing, gone, full = connections
        closing.close()
        gone.terminate()
        wire: Any = full._transport
        wire.takes = False
        full.send(bytes(2000))
        await turns()
        assert 1 == hub.deliver("hi", connections)
        assert 3 == hub.counters.refused
        assert 0 == hub.deliver("hi", [])
        with pytest.raises(TypeError):
            hub.deliver(5, [good])  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            hub.deliver("\ud800", [good])

    on_the_clock(main)


def test_what_waits_is_summed_over_all_connections() -> None:
    """Of those that take nothing; of the others nothing waits."""

    async def main() -> None:
        hub = make_hub(make_app())
        assert 0 == hub.buffered
        for size in (100, 2000):
            connection, wire = arrive(hub, head())
            wire.takes = False
            connection.send(bytes(size))
        arrive(hub, head())[0].send("taken")
        await turns()
        assert hub.buffered == 100 + 2000 + 2 + 4

    on_the_clock(main)


def test_subscribers_may_change_while_a_message_is_on_its_way() -> None:
    """on_buffer_full may throw the slow one out of whatever the message goes to."""

    async def main() -> None:
        room: dict[str, Connection] = {}
        hub = make_hub(make_app(on_buffer_full=lambda c: room.pop(c.id)), send_buffer=1000)
        for _ in range(3):
            connection, wire = arrive(hub, head())
            wire.takes = len(room) != 1
            room[connection.id] = connection
        assert 3 == hub.deliver(bytes(2000), room.values())
        assert ["node.boot.1", "node.boot.3"] == list(room)

    on_the_clock(main)


# users


def _with_users(count: int, **settings: Any) -> tuple[Hub, list[tuple[Connection, Wire]]]:
    hub = make_hub(make_app(), **settings)
    return hub, [arrive(hub, head()) for _ in range(count)]


def test_one_connection_too_many_of_a_user_is_closed_with_3504() -> None:
    """The latest goes; it is not among the user's connections, and what it leaves behind harms nobody."""

    async def main() -> None:
        hub, several = _with_users(3, max_per_user=2)
        (first, _), (second, _), (third, wire) = several
        wire.writes.clear()
        for connection, _ in several:
            connection.user = "ann"
        assert (first, second) == hub.users.of("ann")
        await turns()
        assert [(Opcode.CLOSE, b"\x0d\xb0too many connections of this user")] == wire.sent()
        third.data_received(closing(3504))
        wire.close()
        await turns()
        assert (first, second) == hub.users.of("ann")
        assert "open" == first.state == second.state

    on_the_clock(main)


def test_in_a_hurry_only_who_is_open_is_told_so() -> None:
    """close_all leaves alone who is closing already; the others get Close and the half-close at once."""

    async def main() -> None:
        hub, several = _with_users(2)
        (first, first_wire), (_, second_wire) = several
        for _, wire in several:
            wire.writes.clear()
        first.close(4000)
        await turns()
        hub.close_all(1001, "stop")
        await turns()
        assert ([(Opcode.CLOSE, b"\x0f\xa0")], []) == (first_wire.sent(), first_wire.calls)
        assert ([(Opcode.CLOSE, b"\x03\xe9stop")], ["write_eof"]) == (second_wire.sent(), second_wire.calls)

    on_the_clock(main)


def test_a_place_of_a_user_is_free_when_a_connection_has_ended_or_changed_hands() -> None:
    """Whichever way it ended; and a user who says twice who they are has one connection."""

    async def main() -> None:
        hub, several = _with_users(4, max_per_user=1)
        (first, first_wire), (second, _), (third, _), (fourth, _) = several
        first.user = "ann"
        first.user = "ann"
        assert "open" == first.state
        first_wire.abort()
        await turns()
        second.user = "ann"
        assert ("open", (second,)) == (second.state, hub.users.of("ann"))
        second.user = "bob"
        third.user = "ann"
        assert ((third,), (second,)) == (hub.users.of("ann"), hub.users.of("bob"))
        third.user = None
        fourth.user = "ann"
        assert (fourth,) == hub.users.of("ann")
        assert ["closed", "open", "open", "open"] == [connection.state for connection, _ in several]

    on_the_clock(main)


@pytest.mark.parametrize("end", ["closes", "is closed", "is lost", "is cut"])
def test_nothing_is_left_of_a_user_who_is_gone(end: str) -> None:
    """Not even their name; and a name that is set too late is of no effect."""

    async def main() -> None:
        hub, ((connection, wire),) = _with_users(1)
        connection.user = "ann"
        if end == "closes":
            connection.data_received(closing(1000))
        elif end == "is closed":
            connection.close()
            assert (connection,) == hub.users.of("ann")
            connection.data_received(closing(1000))
        elif end == "is lost":
            wire.abort()
            await turns()
        else:
            connection.terminate()
        assert {} == hub.users._by_name
        assert "ann" == connection.user
        connection.user = "bob"
        connection.user = None
        assert {} == hub.users._by_name
        connection.terminate()
        await turns()

    on_the_clock(main)


def test_a_user_is_a_str_or_none() -> None:
    """Anything else is a mistake in the program, and changes nothing."""

    async def main() -> None:
        hub, ((connection, _),) = _with_users(1)
        connection.user = "ann"
        with pytest.raises(TypeError):
            connection.user = 7  # type: ignore[assignment]
        assert ("ann", (connection,)) == (connection.user, hub.users.of("ann"))

    on_the_clock(main)


# Connections from other workers


def _known(hub: Hub, number: int, user: str | None = None) -> Connection:
    """Return a connection as one that comes from another worker is before the hub knows it."""
    connection = Connection(hub, make_arrival())
    connection.id, connection.remote = f"other.boot.{number}", Address("192.0.2.1", 1)
    connection._user, connection._topics, connection._stage = user, {"news"}, "open"
    return connection


def test_who_comes_from_another_worker_is_known() -> None:
    """It is shown, has its topics and its user, and a place; what has no place leaves no trace."""

    async def main() -> None:
        hub = make_hub(make_app(), worker_connections=2, max_per_user=1)
        ann = _known(hub, 1, "ann")
        assert hub.resumed(ann)
        assert (False, {ann.id: ann}) == (hub.empty.is_set(), dict(hub.worker.connections))
        assert ((ann,), 1) == (hub.users.of("ann"), hub.worker.count("news"))
        # as many as this user may have, and as many as there are places
        assert not hub.resumed(_known(hub, 2, "ann"))
        assert hub.resumed(_known(hub, 3))
        assert not hub.resumed(_known(hub, 4, "bob"))
        assert ((), 2, 2) == (hub.users.of("bob"), hub.worker.count("news"), len(hub.worker.connections))
        assert hub.full

    on_the_clock(main)


def test_places_are_kept_for_those_who_are_expected() -> None:
    """It is full for new clients before they have come, and not for them."""

    async def main() -> None:
        hub = make_hub(make_app(), worker_connections=2)
        hub.expected = 2
        assert hub.full
        for number in range(2):
            assert hub.resumed(_known(hub, number))
            hub.expected -= 1
        assert hub.full
        assert not hub.resumed(_known(hub, 2))

    on_the_clock(main)


def test_data_is_checked_while_code_is_written() -> None:
    """With log.level debug a value that cannot travel is refused where it is set; else at the hand-over."""

    async def main() -> None:
        for log in (LogConfig(level="debug"), LogConfig(level="info")):
            connection, _ = arrive(make_hub(make_app(), log=log), head())
            if log.level == "debug":
                with pytest.raises(TypeError, match=r'connection.data\["since"\]'):
                    connection.data["since"] = object()
            else:
                connection.data["since"] = object()
            connection.terminate()
            await turns()

    on_the_clock(main)
