"""The shards: a cluster, whose slots move and whose servers die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.bus import contract
from tests.bus.contract import ROOM, Circle, known, until
from tests.bus.redis_stations import (
    circle,
    cluster_url,
    holes,
    listening,
    station,
    stations,
)
from tests.bus.servers import Valkey, cluster, free_port, valkey
from tests.worker.conftest import Run
from wsworker import brokers
from wsworker.bus.payload import EXTRA_BYTES, OUTSIDE, Writer
from wsworker.bus.redis import Redis
from wsworker.bus.slots import slot_of
from wsworker.bus.topics import Envelope, Key


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    """One that no test harms."""
    with valkey() as made:
        yield made


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Valkey]]:
    """A cluster that no test harms."""
    with cluster() as made:
        yield made


ON_A_CLUSTER = [check for check in contract.CHECKS if check is not contract.order_of_a_publisher]
"""All but one: the servers of a cluster know nothing of each other's order."""


@pytest.mark.parametrize("check", ON_A_CLUSTER, ids=lambda check: check.__name__)
def test_the_contract_on_a_cluster(run: Run, servers: list[Valkey], check: Callable[[Circle], Awaitable[None]]) -> None:
    """It is the same, but for the order between topics."""

    async def main() -> None:
        await check(circle(cluster_url(servers)))

    run(main())


def test_slots_are_the_server_s(servers: list[Valkey]) -> None:
    """Tags and all."""
    for name in ("", "a", "{a}b", "b{a}", "{}a", "a{b", "a}b{", "{{a}}", "wsworker:topic:комната"):
        assert servers[0].run("CLUSTER", "KEYSLOT", name) == slot_of(name.encode())


def test_order_on_a_cluster(run: Run, servers: list[Valkey]) -> None:
    """What goes to one topic comes in its order; topics are spread over all servers."""

    async def main() -> None:
        keys = [Key("topic", str(number)) for number in range(30)]
        async with stations(cluster_url(servers), 2) as (one, two):
            two.subscribe(*keys)
            for key in keys:
                await known(one, two, key=key)
            for number in range(50):
                for key in keys:
                    one.bus.publish(Envelope(key, b"%d" % number))
                one.bus.flush()
                await asyncio.sleep(0)
            await until(lambda: len(two.sink.envelopes) == 1500)
            expected = [b"%d" % number for number in range(50)]
            for key in keys:
                assert expected == [envelope.body for envelope in two.sink.envelopes if envelope.key == key]
            assert all(server.run("PUBSUB", "SHARDCHANNELS") for server in servers)

    run(main())


def test_a_slot_moves(run: Run) -> None:
    """What moves to another server of the cluster is heard and published there; a gap is told for it."""

    async def main() -> None:
        with cluster(2) as made:
            async with stations(cluster_url(made), 2) as (one, two):
                stream = await listening(one, two)
                slot = slot_of(b"wsworker:topic:room")
                names = [server.text("CLUSTER", "MYID") for server in made]
                old = 0 if slot < 8192 else 1
                # an empty slot moves by being given away
                made[1 - old].run("CLUSTER", "SETSLOT", slot, "NODE", names[1 - old])
                made[old].run("CLUSTER", "SETSLOT", slot, "NODE", names[1 - old])
                where = ("PUBSUB", "SHARDCHANNELS", "wsworker:topic:room")
                await until(lambda: made[1 - old].run(*where) and not made[old].run(*where))
                await stream.flows(two)
                await stream.stop(two)
                assert 0 == holes(two.sink.order)
                assert (None, None) in two.sink.gaps
                assert one.sink.states == two.sink.states == [(True, "")]

    run(main())


def test_a_server_of_a_cluster_dies(run: Run) -> None:
    """The others go on; what it had is told when it is there again."""

    async def main() -> None:
        with cluster(2) as made:
            for server in made:
                server.run("CONFIG", "SET", "cluster-require-full-coverage", "no")
            async with stations(cluster_url(made), 2) as (one, two):
                keys = [Key("topic", str(number)) for number in range(10)]
                two.subscribe(*keys)
                for key in keys:
                    await known(one, two, key=key)
                split = [key for key in keys if slot_of(f"wsworker:topic:{key.name}".encode()) < 8192]
                other = next(key for key in keys if key not in split)
                made[1].kill()
                await until(lambda: not one.sink.states[-1][0])
                await known(one, two, key=split[0])
                one.publish(other, b"lost")
                made[1].start()
                await until(lambda: one.sink.states[-1][0] and two.sink.states[-1][0])
                await known(one, two, key=other)
                assert (None, None) in two.sink.gaps
                assert 2 == one.bus.stats().links

    run(main())


def test_no_cluster_there(run: Run, server: Valkey) -> None:
    """A server that is none, and nobody at all: a clause says so, what waited is given up, the end comes at once."""

    async def main() -> None:
        nowhere = free_port()
        for where, clause in ((server.port, "cluster support disabled"), (nowhere, "Connection refused")):
            one = station(brokers.parse(f"redis+cluster://127.0.0.1:{where}"), peer_queue=1000)
            await one.bus.start(one.sink)
            assert one.publish(ROOM, b"x")
            assert not one.publish(ROOM, bytes(1000))
            assert clause in await one.bus.linked(5)
            assert not one.publish(ROOM, b"y")
            assert (1, 2) == (one.bus.stats().dropped["full"], one.bus.stats().dropped["down"])
            await one.bus.close(5)

    run(main())


def test_the_end_just_after_a_loss(run: Run, server: Valkey) -> None:
    """Whatever a line is doing at that moment, it ends."""

    async def main() -> None:
        for which in (0, 1):
            for turns in range(11):
                async with stations(server.url, 1) as (one,):
                    assert isinstance(one.bus, Redis)
                    (shard,) = one.bus._shards
                    shard.lines[which].cut("as it should")
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    async with asyncio.timeout(2):
                        await one.bus.close(0)

    run(main())


def test_what_waits_for_a_cluster_is_bounded(run: Run) -> None:
    """Also if there is nothing in it."""

    async def main() -> None:
        one = station(brokers.parse("redis+cluster://127.0.0.1:1"), peer_queue=1000)
        taken = sum(one.bus.publish(Envelope(ROOM, b"")) for _ in range(100))
        assert 1000 // EXTRA_BYTES == taken
        await one.bus.close(0)
        assert one.bus.owes

    run(main())


def test_only_the_server_that_has_a_channel_is_heard(run: Run, servers: list[Valkey]) -> None:
    """What comes late from one that had it would come behind what is newer."""

    async def main() -> None:
        async with stations(cluster_url(servers), 1) as (one,):
            assert isinstance(one.bus, Redis)
            one.subscribe(ROOM)
            payload = Writer(OUTSIDE).envelope(Envelope(ROOM, b"x"))
            for shard in one.bus._shards:
                one.bus.heard(shard.subscriber, b"wsworker:topic:room", payload)
            assert [b"x"] == one.sink.bodies

    run(main())


def test_a_survey_of_very_many_keys(run: Run, servers: list[Valkey]) -> None:
    """If nothing has changed nobody is asked for anything; else others have their turn meanwhile, and a gap is told."""

    async def main() -> None:
        async with stations(cluster_url(servers), 1) as (one,):
            assert isinstance(one.bus, Redis)
            subscribers = [shard.subscriber for shard in one.bus._shards]
            keys = [Key("user", str(number)) for number in range(10_000)]
            one.subscribe(*keys)
            await until(lambda: all(each._subscriptions.complete for each in subscribers))
            await one.bus.surveyed(False)
            assert all(each._subscriptions.complete for each in subscribers)
            passes = 0

            async def others() -> None:
                nonlocal passes
                while True:
                    passes += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(others())
            await one.bus.surveyed(True)
            assert passes >= 10
            assert [] == one.sink.gaps
            await until(lambda: len(one.sink.gaps) == len(subscribers))
            assert all(each._subscriptions.ready for each in subscribers)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main())
