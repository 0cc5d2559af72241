"""The publisher: what is queued, given up, refused and told."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.bus.contract import DEADLINE_SECONDS, OTHER, ROOM, known, until
from tests.bus.redis.servers import Valkey, valkey
from tests.bus.redis.stations import (
    TIMES,
    cluster_url,
    station,
    stations,
)
from tests.worker.conftest import Run
from wsworker import brokers
from wsworker.bus.topics import Envelope, Key


def test_a_full_queue(run: Run, server: Valkey) -> None:
    """What does not fit is dropped and counted; the others are told, before anything newer comes."""

    async def main() -> None:
        async with stations(server.url, 2, peer_queue=10_000) as (one, two):
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            two.sink.order.clear()
            assert not one.publish(ROOM, *(b"%05d" % number + bytes(500) for number in range(100)))
            dropped = one.bus.stats().dropped["full"]
            await until(lambda: two.sink.gaps)
            assert one.publish(ROOM, b"newer")
            await until(lambda: b"newer" in two.sink.bodies)
            assert [(frozenset({ROOM}), dropped)] == two.sink.gaps
            assert ["gap", b"newer"] == two.sink.order[-2:]
            assert 100 - dropped == len(two.sink.order) - 2
            # a message that is larger than the whole queue goes alone
            assert one.publish(ROOM, bytes(50_000))
            await until(lambda: bytes(50_000) in two.sink.bodies)

    run(main())


def test_a_loss_is_told_before_what_the_queue_takes_next(run: Run, server: Valkey) -> None:
    """Also if that is taken while the rest of a batch is still to be answered."""

    async def main() -> None:
        async with stations(server.url, 2, peer_queue=100_000) as (one, two):
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            for number in range(20):
                two.sink.order.clear()
                assert not one.publish(ROOM, *[b"old" + bytes(50)] * 2000)
                newer = b"newer %d" % number
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while not one.publish(ROOM, newer):
                        await asyncio.sleep(0)
                await until(lambda: newer in two.sink.order)  # noqa: B023
                assert ["gap", newer] == two.sink.order[-2:]

    run(main())


def test_what_the_server_refuses(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Each message is counted, the others are told, and one line is logged; the connection stays."""

    async def main() -> None:
        with valkey() as server:
            server.run("ACL", "SETUSER", "bus", "on", ">secret", "resetchannels", "+@all", "&wsworker:service:*")
            server.run("ACL", "SETUSER", "bus", "&wsworker:topic:room", "&wsworker:broadcast:", "&wsworker:topic:other")
            url = brokers.parse(f"redis://bus:secret@127.0.0.1:{server.port}")
            async with stations(url, 2) as (one, two):
                two.subscribe(ROOM, OTHER)
                await known(one, two, key=ROOM)
                two.sink.order.clear()
                denied = Key("topic", "denied")
                one.bus.publish(Envelope(ROOM, b"1"))
                one.bus.publish(Envelope(denied, b"2"))
                one.bus.publish(Envelope(denied, b"3"))
                one.publish(ROOM, b"4")
                await until(lambda: two.sink.gaps)
                assert [b"1", b"4", "gap"] == two.sink.order
                assert [(frozenset({denied}), 2)] == two.sink.gaps
                assert 2 == one.bus.stats().dropped["refused"]
                assert [(True, "")] == one.sink.states
                # a key that it may not hear of is a mistake in the rights, which nothing heals
                two.subscribe(denied)
                await until(lambda: not two.sink.states[-1][0])
                assert "it refuses to subscribe: " in two.sink.states[-1][1]
        (line,) = [message for message in caplog.messages if "refuses what is published" in message]
        assert "secret" not in line

    run(main())


def test_what_is_published_at_once_waits_for_the_connection(run: Run, server: Valkey, servers: list[Valkey]) -> None:
    """Before the first attempt is over nothing is given up, on a cluster neither."""

    async def main() -> None:
        for url in (server.url, cluster_url(servers)):
            async with stations(url, 1) as (reader,):
                reader.subscribe(ROOM)
                await until(lambda: reader.bus.stats().lag_seconds)
                early = station(url, "early")
                await early.bus.start(early.sink)
                assert early.publish(ROOM, b"early")
                # and the end of a worker waits for it
                await early.bus.close(5)
                await until(lambda: reader.sink.bodies)
                stats = early.bus.stats()
                assert (1, 0, 0) == (stats.sent, stats.queued_bytes, sum(stats.dropped.values()))

    run(main())


def test_the_end_does_not_wait_for_a_server_that_hangs(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """What could not be written is counted and said."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 1) as (one,):
                server.pause()
                one.publish(ROOM, b"x")
                await one.bus.close(0.01)
                server.resume()
                assert 1 == one.bus.stats().dropped["down"]
                assert 0 == one.bus.stats().queued_bytes
                assert one.bus.owes
                lost = f"some of what was published last could not be written to {server.url}"
                assert [lost] == caplog.messages
                caplog.clear()

    run(main())


def test_a_gap_of_the_machine(run: Run, server: Valkey, servers: list[Valkey]) -> None:
    """It is told to others, whoever of this machine has lost something; not to its own node."""

    async def main() -> None:
        for url in (server.url, cluster_url(servers)):
            async with stations(url, 2) as (one, two):
                one.bus.owe()
                one.bus.flush()
                await until(lambda: two.sink.gaps)
                assert two.sink.gaps[0][0] is None
                assert [] == one.sink.gaps
                await until(lambda: not one.bus.owes)

    run(main())


def test_a_gap_is_owed_until_it_is_taken(run: Run) -> None:
    """On its way it is still owed; and so it is after an end at which it could not be told."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 1) as (one,):
                owes = [one.bus.owes]
                server.pause()
                one.bus.owe()
                owes.append(one.bus.owes)
                one.bus.flush()
                await asyncio.sleep(0.01)
                owes.append(one.bus.owes)
                assert [False, True, True] == owes
                server.resume()
                await until(lambda: not one.bus.owes)
                server.pause()
                one.bus.owe()
                await one.bus.close(0.01)
                server.resume()
                assert one.bus.owes

    run(main())


def test_a_gap_that_is_refused(run: Run) -> None:
    """It is owed again, and told with the next probe, when the server takes things again."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 2) as (one, two):
                two.subscribe(ROOM)
                await known(one, two, key=ROOM)
                server.run("ACL", "SETUSER", "default", "-publish")
                one.publish(ROOM, b"lost")
                await until(lambda: one.bus.stats().dropped["refused"])
                await asyncio.sleep(3 * TIMES.probe)
                assert one.bus.owes
                server.run("ACL", "SETUSER", "default", "+publish")
                await until(lambda: two.sink.gaps)
                assert [(frozenset({ROOM}), 1)] == two.sink.gaps
                await until(lambda: not one.bus.owes)

    run(main())


def test_a_gap_that_is_refused_is_not_told_again_and_again(run: Run) -> None:
    """But once for each probe; and at once over a new connection."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 2, times=TIMES._replace(probe=60)) as (one, two):
                two.subscribe(ROOM)
                await known(one, two, key=ROOM)
                server.run("ACL", "SETUSER", "default", "-publish")
                one.publish(ROOM, b"lost")
                await until(lambda: one.bus.stats().dropped["refused"])
                for _ in range(100):
                    one.bus.flush()
                    await asyncio.sleep(0.001)
                # the message, and the gap
                assert 2 == server.run("INFO", "commandstats")["cmdstat_publish"]["rejected_calls"]
                server.run("ACL", "SETUSER", "default", "+publish")
                server.kill_client("wsworker:1:pub")
                await until(lambda: two.sink.gaps)
                assert [(frozenset({ROOM}), 1)] == two.sink.gaps

    run(main())


def test_a_worker_that_stood_still_itself(run: Run) -> None:
    """It blames nobody: the answers came, and were only not read; what a loop does first is its own affair."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader, writer = socket.socketpair()
        with valkey() as server, reader, writer:

            def stand_still() -> None:
                loop.remove_reader(reader)
                server.resume()
                time.sleep(1.5)

            async with stations(server.url, 1, times=TIMES._replace(answer=1, silence=1)) as (one,):
                await until(lambda: one.bus.stats().lag_seconds)
                server.pause()
                one.subscribe(ROOM)
                one.publish(ROOM, b"x")
                for _ in range(3):
                    await asyncio.sleep(0)
                assert one.bus.stats().queued_bytes
                # it is answered while the loop handles what it has heard of before
                loop.add_reader(reader, stand_still)
                writer.send(b"x")
                await until(lambda: not one.bus.stats().queued_bytes)
                await asyncio.sleep(0.5)
                assert [(True, "")] == one.sink.states
                assert not one.bus.owes

    run(main())
