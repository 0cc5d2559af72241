"""What is wanted over which line, and what comes over another one."""

from __future__ import annotations

import asyncio

from tests.bus.contract import OTHER, ROOM, known
from tests.bus.redis.servers import Valkey
from tests.bus.redis.stations import cluster_url, stations
from tests.worker.conftest import Run
from wsworker.bus.broker.payload import OUTSIDE, Writer
from wsworker.bus.losses import Gap
from wsworker.bus.redis.adapter import Redis
from wsworker.bus.topics import Envelope

MESSAGE = Writer(OUTSIDE).envelope(Envelope(ROOM, b"x"))


def test_only_the_server_that_has_a_channel_is_heard(run: Run, servers: list[Valkey]) -> None:
    """What comes late from one that had it would come behind what is newer."""

    async def main() -> None:
        async with stations(cluster_url(servers), 1) as (one,):
            assert isinstance(one.bus, Redis)
            one.subscribe(ROOM)
            lines = [shard.subscriber for shard in one.bus._shards]
            for line in lines:
                one.bus._interest.heard(line, b"wsworker:topic:room", MESSAGE)
            assert [b"x"] == one.sink.bodies
            assert 1 == sum(one.bus._interest.wants(line, b"wsworker:topic:room") for line in lines)

    run(main())


def test_each_line_brings_what_belongs_to_it(run: Run, servers: list[Valkey]) -> None:
    """Whatever the cluster, each channel of the service is wanted over one line, and over each line one for probes."""

    async def main() -> None:
        async with stations(cluster_url(servers), 1) as (one,):
            assert isinstance(one.bus, Redis)
            interest, shards = one.bus._interest, [*one.bus._shards]
            one.subscribe(ROOM, OTHER)
            wanted = {
                shard: {it for it in interest.channels() if interest.wants(shard.subscriber, it)} for shard in shards
            }
            assert sorted(interest.channels()) == sorted(channel for each in wanted.values() for channel in each)
            assert all(shard.probe in wanted[shard] for shard in shards)
            one.unsubscribe(OTHER)
            assert b"wsworker:topic:other" not in interest.channels()
            assert not any(interest.wants(shard.subscriber, b"wsworker:topic:other") for shard in shards)

    run(main())


def test_nothing_is_handed_on_after_the_end(run: Run, servers: list[Valkey]) -> None:
    """Neither a message nor word of a gap, though lines may still bring some."""

    async def main() -> None:
        async with stations(cluster_url(servers), 2) as (one, two):
            assert isinstance(one.bus, Redis)
            one.subscribe(ROOM)
            await known(two, one, key=ROOM)
            before = len(one.sink.bodies)
            one.bus._interest.end()
            for shard in one.bus._shards:
                one.bus._interest.heard(shard.subscriber, b"wsworker:topic:room", MESSAGE)
                one.bus._interest.heard(shard.subscriber, one.bus._interest.service, Writer(OUTSIDE).gap(Gap(1, None)))
            await asyncio.sleep(0)
            assert (before, []) == (len(one.sink.bodies), one.sink.gaps)

    run(main())
