"""The subscriber: very much to hear, very many keys, and a connection that leads nowhere."""

from __future__ import annotations

import asyncio

from tests.bus.contract import ANN, OTHER, ROOM, known, until
from tests.bus.redis.servers import Valkey, valkey
from tests.bus.redis.stations import (
    HASTY,
    TIMES,
    stations,
)
from tests.worker.conftest import Run
from wsworker.bus.redis.adapter import Redis
from wsworker.bus.redis.wire import command
from wsworker.bus.topics import Key


def test_a_burst_is_cut_by_the_server(run: Run) -> None:
    """Who reads too slowly for the limit of the server's output buffer is cut, comes again, and is told of a gap."""

    async def main() -> None:
        with valkey(client_output_buffer_limit="pubsub 1mb 0 0") as server:
            async with stations(server.url, 2) as (one, two):
                two.subscribe(ROOM)
                await known(one, two, key=ROOM)
                server.publish_at_once("wsworker:topic:room", *[bytes(1000)] * 5000)
                await until(lambda: two.sink.gaps)
                await known(one, two, key=ROOM)
                assert [(None, None)] == two.sink.gaps
                assert [True, False, True] == [up for up, _ in two.sink.states]

    run(main())


def test_very_many_keys(run: Run) -> None:
    """All are subscribed to again after a loss, in parts; what changes meanwhile ends as it should."""

    async def main() -> None:
        keys = [Key("user", f"user-{number}") for number in range(20_000)]
        with valkey() as server:
            async with stations(server.url, 2) as (one, two):
                two.subscribe(*keys)
                await known(one, two, key=keys[0])
                assert 20_000 == two.bus.stats().keys
                server.kill_client("wsworker:2:sub")
                await until(lambda: not two.sink.states[-1][0])
                two.unsubscribe(*keys[:100])
                two.subscribe(ROOM, *keys[:50])
                await until(lambda: two.sink.gaps)
                assert [True, False, True] == [up for up, _ in two.sink.states]
                await known(one, two, key=ROOM)
                channels = server.run("PUBSUB", "CHANNELS", "wsworker:user:*")
                assert {f"wsworker:user:{key.name}".encode() for key in keys[:50] + keys[100:]} == set(channels)

    run(main())


def test_quick_changes_end_as_they_should(run: Run, server: Valkey) -> None:
    """Whatever a key was in between, it is as it was asked last."""

    async def main() -> None:
        async with stations(server.url, 1) as (one,):
            for _ in range(50):
                one.subscribe(ROOM)
                one.unsubscribe(ROOM)
                one.bus.subscribe((ROOM, OTHER))
                one.bus.unsubscribe((ROOM, OTHER))
                one.bus.subscribe((OTHER,))
                one.bus.flush()
                await asyncio.sleep(0)
                one.unsubscribe(OTHER)
            one.subscribe(ANN)
            await until(lambda: server.run("PUBSUB", "CHANNELS", "wsworker:[tu]*") == [b"wsworker:user:room"])

    run(main())


def test_a_probe_that_does_not_come_back(run: Run) -> None:
    """The connection stands, and leads nowhere any more: it is made anew, and a gap is told."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 1, times=HASTY._replace(answer=60)) as (one,):
                await until(lambda: one.bus.stats().lag_seconds)
                assert isinstance(one.bus, Redis)
                (subscriber,) = [shard.subscriber for shard in one.bus._shards]
                assert subscriber._wire is not None
                # it lives, and is never written to again
                await subscriber._wire.send(command(b"UNSUBSCRIBE"))
                await until(lambda: one.sink.gaps)
                assert [(True, ""), (False, "nothing comes from it any more"), (True, "")] == one.sink.states

    run(main())


def test_keys_that_come_all_the_time(run: Run) -> None:
    """The line is up, and a gap told, when what was wanted at first is confirmed."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 1, times=TIMES._replace(probe=60)) as (one,):

                async def come() -> None:
                    number = 0
                    while True:
                        one.subscribe(Key("user", str(number)))
                        number += 1
                        await asyncio.sleep(0)

                comes = asyncio.create_task(come())
                server.kill_client("wsworker:1:sub")
                await until(lambda: one.sink.gaps)
                assert [True, False, True] == [up for up, _ in one.sink.states]
                comes.cancel()
                await asyncio.gather(comes, return_exceptions=True)

    run(main())
