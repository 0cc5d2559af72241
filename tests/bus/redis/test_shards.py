"""The shards: a cluster, whose slots move and whose servers die."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest

from tests.bus import contract
from tests.bus.contract import DEADLINE_SECONDS, ROOM, Circle, known, until
from tests.bus.redis.servers import Valkey, cluster
from tests.bus.redis.stations import (
    TIMES,
    circle,
    cluster_url,
    holes,
    listening,
    station,
    stations,
)
from tests.ports import free_port
from tests.worker.conftest import Run
from wsworker import brokers
from wsworker.bus.broker.channels import channel
from wsworker.bus.broker.payload import EXTRA_BYTES
from wsworker.bus.losses import Gap
from wsworker.bus.redis.adapter import Redis
from wsworker.bus.redis.slots import slot_of
from wsworker.bus.topics import Envelope, Key

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
                # an empty slot moves by being given away; who has it first, as a later claim of it would win
                for server in (made[old], made[1 - old]):
                    server.run("CLUSTER", "SETSLOT", slot, "NODE", names[1 - old])
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


def homes(made: list[Valkey]) -> tuple[Valkey, Valkey, list[Key]]:
    """Return of a cluster of two who has the service's channel, the other one, and some keys that this one has."""
    at_first = slot_of(b"wsworker:service:") < 8192
    service, other = made if at_first else made[::-1]
    keys = [Key("topic", str(number)) for number in range(20)]
    return service, other, [key for key in keys if (slot_of(channel("wsworker:", key)) < 8192) != at_first]


async def gaps_while_dead(made: list[Valkey], probe_seconds: float, fewest: int) -> tuple[list[int], list[int], float]:
    """Return the counts of the gaps told while a server was dead at which something was published, and afterwards.

    fewest: so many are waited for while it is dead. The last item is for how many seconds it was published.
    """
    _, other, keys = homes(made)
    for server in made:
        server.run("CONFIG", "SET", "cluster-require-full-coverage", "no")
    async with stations(cluster_url(made), 2, times=TIMES._replace(probe=probe_seconds)) as (one, two):
        two.subscribe(keys[0])
        await known(one, two, key=keys[0])
        other.kill()
        await until(lambda: not one.sink.states[-1][0] and not two.sink.states[-1][0])

        def counts() -> list[int]:
            # what it tells itself, as it could not hear, has no number
            return [count for _, count in two.sink.gaps if count is not None]

        began_at = monotonic()
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            for number in itertools.count():
                if number >= 300 and len(counts()) >= fewest:
                    break
                one.publish(keys[0], b"lost")
                await asyncio.sleep(0.002)
        seconds, meanwhile = monotonic() - began_at, counts()
        other.start()
        await until(lambda: one.sink.states[-1][0] and sum(counts()) == one.bus.stats().dropped["down"])
        return meanwhile, counts()[len(meanwhile) :], seconds


def test_who_is_dead_is_not_told_of_at_every_tick(run: Run) -> None:
    """The others are told at once what they have lost of it, then no sooner than with a probe, and when it is back."""

    async def main() -> None:
        with cluster(2) as made:
            meanwhile, afterwards, _ = await gaps_while_dead(made, 60, 1)
            assert (1, 1) == (len(meanwhile), len(afterwards))

    run(main())


def test_who_stays_dead_is_told_of_now_and_then(run: Run) -> None:
    """With the probes."""

    async def main() -> None:
        with cluster(2) as made:
            meanwhile, _, seconds = await gaps_while_dead(made, 0.1, 2)
            # a probe each tenth of a second, and a tick each few milliseconds
            assert 2 <= len(meanwhile) <= 10 * seconds + 10

    run(main())


def test_a_slot_that_nobody_has_is_not_told_of_at_every_tick(run: Run) -> None:
    """It is as if a server were dead."""

    async def main() -> None:
        with cluster(2) as made:
            for server in made:
                server.run("CONFIG", "SET", "cluster-require-full-coverage", "no")
            async with stations(cluster_url(made), 2, times=TIMES._replace(probe=60)) as (one, two):
                two.subscribe(ROOM)
                await known(one, two, key=ROOM)
                slot = slot_of(b"wsworker:topic:room")
                # who has it first, as the other one would learn of it again
                for server in made if slot < 8192 else made[::-1]:
                    server.run("CLUSTER", "DELSLOTS", slot)
                assert isinstance(one.bus, Redis)
                one.bus.moved()
                await until(lambda: not one.publish(ROOM, b"lost"))
                await until(lambda: two.sink.gaps)
                for _ in range(200):
                    assert not one.publish(ROOM, b"lost")
                    await asyncio.sleep(0.002)
                # the servers may not all have known of it at once: each layout that is new tells what is owed
                assert 1 <= len([count for _, count in two.sink.gaps if count is not None]) <= 3
                assert one.bus.owes

    run(main())


def test_a_gap_does_not_wait_for_another_server(run: Run) -> None:
    """Which may stay dead: what the one that is back has lost is told."""

    async def main() -> None:
        with cluster(2) as made:
            service, other, _ = homes(made)
            for server in made:
                server.run("CONFIG", "SET", "cluster-require-full-coverage", "no")
            async with stations(cluster_url(made), 1, times=TIMES._replace(patience=0.1)) as (one,):
                other.kill()
                await until(lambda: not one.sink.states[-1][0])
                assert [] == one.sink.gaps
                service.kill_client("wsworker:1:sub")
                await until(lambda: one.sink.gaps)
                assert [(None, None)] == one.sink.gaps
                assert not one.sink.states[-1][0]

    run(main())


def test_the_slot_of_a_probe_moves(run: Run) -> None:
    """The worker probes with another name, so it knows that it still hears; it does not ask for the layout for ever."""

    async def main() -> None:
        with cluster(2) as made:
            async with stations(cluster_url(made), 1) as (one,):
                assert isinstance(one.bus, Redis)
                shards = one.bus._shards
                first = next(iter(shards))
                name = first.probe
                assert name is not None
                slot = slot_of(name)
                old, new = made if slot < 8192 else made[::-1]
                number = new.text("CLUSTER", "MYID")
                # who has it first, as a later claim of it would win
                for server in (old, new):
                    server.run("CLUSTER", "SETSLOT", slot, "NODE", number)
                await until(lambda: first.probe != name)
                for shard in shards:
                    shard.subscriber.lag_seconds = 0.0
                await until(lambda: all(shard.subscriber.lag_seconds for shard in shards))
                assert all(shard.probe is not None and shards.of(shard.probe) is shard for shard in shards)
                await until(lambda: one.sink.gaps and all(shard.subscriber._subscriptions.complete for shard in shards))
                async with asyncio.timeout(2 * DEADLINE_SECONDS):
                    asked: list[int] = []
                    while asked != (asked := [surveys(server) for server in made]):
                        await asyncio.sleep(20 * TIMES.probe)
                assert [(True, "")] == one.sink.states

    run(main())


def surveys(server: Valkey) -> int:
    """Return how often a server was asked for the layout of its cluster."""
    return int(server.run("INFO", "commandstats").get("cmdstat_cluster|slots", {}).get("calls", 0))


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
            assert isinstance(one.bus, Redis)
            assert Gap(3, frozenset({ROOM})) == one.bus._debts.take()
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
                    # less than the server's time to answer
                    async with asyncio.timeout(TIMES.answer / 2):
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
