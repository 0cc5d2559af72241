"""Moves and time: what a connection's clocks say behind it, how long one stands still, and what a stop ends at once."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.worker.conftest import Run
from tests.worker.moving import Move, Place, make_pair, move, nothing_left, two
from tests.worker.service import DEADLINE_SECONDS, Peer, closing, make_app, text, until
from tests.worker.test_leaving import Heir
from tests.worker.test_leaving import scene as leaving_scene
from tests.worker.test_main import hand
from tests.worker.ward import ECHO, Start
from tests.worker.ward import until as until_now
from wsworker.bus.bus import Loopback
from wsworker.handover import packets
from wsworker.handover.packets import Keys, Message, Reader, Ready, State
from wsworker.wire import Order
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.pair import HEAD, MOST_TOGETHER, greeting

LONG_SECONDS = 1.5
"""What a worker that stands still keeps the bus from settling."""

SOON_SECONDS = 3.0
"""Much less than a giver waits for the bus."""


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


async def lives(peer: Peer) -> None:
    """Make sure that a client is served."""
    peer.send(text("lives"))
    assert "lives" == await peer.message()


class Slow(Loopback):
    """A bus beside that of a place, which settles as slowly as a test wants."""

    def __init__(self, place: Place, *seconds: float) -> None:
        super().__init__([], place.origin)
        self._seconds = [*seconds]
        self.count = 0

    async def settle(self, seconds: float) -> bool:
        """Take as long as is said for this time, else none."""
        self.count += 1
        await self.begun()
        await asyncio.sleep(self._seconds.pop(0) if self._seconds else 0)
        return True

    async def begun(self) -> None:
        """Do what a test wants when it begins."""


# The clocks of a connection


@pytest.mark.parametrize("way", ["moves", "comes back", "stays"])
def test_the_idle_clock_keeps_its_age(run: Run, way: str) -> None:
    """A move is nothing that the client has done: with a reload now and then nobody would ever be idle."""

    async def main() -> None:
        async with two(make_app(on_message=echo), idle_timeout=100.0) as (old, new):
            await old.service.open()
            place, connection = old, old.connection
            connection._active_at -= 5
            if way == "moves":
                assert 1 == (await move(old, new)).moved
                place, connection = new, new.connection
            else:
                freezing.hold(connection)
                if way == "comes back":
                    await freezing.give_back(freezing.freeze(connection, None))
                else:
                    freezing.let_go(connection)
            await until(lambda: not connection._held)
            assert 5 <= place.hub._now() - connection._active_at < 5 + DEADLINE_SECONDS

    run(main())


@pytest.mark.parametrize("when", ["before", "held", "between"])
def test_the_idle_clock_of_who_is_paused(run: Run, when: str) -> None:
    """It cannot be heard: its time begins with resume(), though it was held for the move already, and comes back."""

    async def main() -> None:
        async with two(make_app(on_message=echo), idle_timeout=100.0) as (old, _):
            await old.service.open()
            connection = old.connection
            if when == "before":
                connection.pause()
            freezing.hold(connection)
            if when == "held":
                connection.pause()
            frozen = freezing.freeze(connection, None)
            if when == "between":
                connection.pause()
            await freezing.give_back(frozen)
            connection._active_at -= 50
            connection.resume()
            await until(lambda: not connection._held)
            assert old.hub._now() - connection._active_at < 50

    run(main())


# How long one stands still


def test_a_later_round_of_keys_pauses_nobody(run: Run) -> None:
    """While the taker has the bus settle for it, nobody is on the way: the pause is not as long as that."""

    async def main() -> None:
        count = 0

        def on_handover(connection: Connection) -> None:
            nonlocal count
            count += 1
            if count == 20:
                connection.subscribe("late")

        async with two(make_app(on_message=echo, on_handover=on_handover), make_app(on_message=echo)) as (old, new):
            peers = [await old.service.open() for _ in range(20)]
            stages: list[list[str]] = []

            class Watched(Slow):
                async def begun(self) -> None:
                    stages.append([connection._stage for connection in old.connections])

            await new.hub.post.exchange.join("broker", Watched(new, 0, LONG_SECONDS), "the broker")
            outcome = await move(old, new)
            assert 20 == outcome.moved
            # for the first keys, for the later one and at the end
            assert [{"open"}, {"open"}, set()] == [{*each} for each in stages]
            assert outcome.pause_seconds < LONG_SECONDS
            for peer in peers:
                await lives(peer)

    run(main())


# What a stop ends


def test_a_stop_while_the_bus_settles(run: Run) -> None:
    """It is not waited for; all connections are here and served."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peer = await old.service.open()
            slow = Slow(old, 3600.0)
            await old.hub.post.exchange.join("broker", slow, "the broker")
            moving = Move(old, new)
            await until(lambda: slow.count)
            async with asyncio.timeout(SOON_SECONDS):
                moving.giving.stop()
                assert 0 == (await moving.given).moved
                assert [0] == await asyncio.gather(*moving.taken)
            await lives(peer)
            assert nothing_left(old)
            assert nothing_left(new)

    run(main())


def test_pairs_that_come_behind_the_hand_over(run: Run) -> None:
    """They are closed at once: whoever is still here is told to go, and that taker would wait."""

    async def main() -> None:
        async with leaving_scene() as one:
            peer = await one.open()
            next(iter(one.hub.worker.connections.values())).data["x"] = object()
            heir = Heir(one)
            one.leaving.tell("reload", [heir.pair], [1])
            assert 1012 == await peer.close_code()
            ours, theirs = make_pair()
            with theirs:
                one.leaving.tell("reload", [ours], [1])
                assert -1 == ours.fileno()
                assert b"" == theirs.recv(1)
            assert not one.task.done()
            peer.send(closing(1012))
            assert b"" == await peer.rest()
            peer.leave()
            await one.end()
            await heir.end()

    run(main())


class Other:
    """The one to which a worker process gives its connections, as the test plays it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE_SECONDS)
        self._socket = sock
        self._reader = Reader("giver")

    def say(self, message: Message) -> None:
        """Say something."""
        for packet in packets.encode(message):
            self._socket.send(HEAD.pack(len(packet), False) + packet)

    def hear_until(self, kind: type[Message]) -> Message:
        """Return the next message of a kind, and drop those before it and all descriptors."""
        while True:
            bundle, descriptors, _, _ = socket.recv_fds(self._socket, 2**20, MOST_TOGETHER)
            assert bundle, "it has closed"
            for descriptor in descriptors:
                socket.close(descriptor)
            while bundle:
                length, _ = HEAD.unpack_from(bundle)
                packet, bundle = bundle[HEAD.size : HEAD.size + length], bundle[HEAD.size + length :]
                message = self._reader.feed(packet)
                if isinstance(message, kind):
                    assert not bundle, "what follows would be lost"
                    return message

    def hear_out(self) -> None:
        """Wait until the other end is closed."""
        while self._socket.recv(2**20):
            pass


def test_who_leaves_gives_nothing_away_by_the_way(start: Start) -> None:
    """A rebalance that is under way ends first: what was on its way comes back, and gets its goodbye like all."""
    ward = start(ECHO)
    ward.go()
    client = ward.open()
    until_now(lambda: ward.reading().connections == 1)
    ours, theirs = make_pair()
    with ours:
        hand(Order("give", fds=1, shares=(1,)), ward, theirs)
        other = Other(ours)
        other.say(greeting())
        keys = other.hear_until(Keys)
        assert isinstance(keys, Keys)
        other.say(Ready(keys.number))
        other.hear_until(State)
        ward.leave("stop")
        other.hear_out()
        assert 1001 == client.close_code()
        client.answer(1001)
        assert "moved" == ward.report().name
        assert (0, None) == ward.exit()
