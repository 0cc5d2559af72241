"""Redis and Valkey: the adapter, over real servers that fail in every way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.bus import contract
from tests.bus.contract import ANN, DEADLINE_SECONDS, OTHER, ROOM, Circle, known, until
from tests.bus.redis.servers import Valkey, valkey
from tests.bus.redis.stations import (
    HASTY,
    TIMES,
    circle,
    holes,
    listening,
    station,
    stations,
)
from tests.bus.redis.test_wire import ENCODED, impostor
from tests.worker.conftest import Run
from wsworker import brokers
from wsworker.bus.broker.payload import OUTSIDE, Writer
from wsworker.bus.losses import Gap
from wsworker.bus.redis.adapter import Redis
from wsworker.bus.topics import EVERYBODY, Envelope

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract(run: Run, server: Valkey, check: Callable[[Circle], Awaitable[None]]) -> None:
    """What every adapter does."""

    async def main() -> None:
        await check(circle(server.url))

    run(main())


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract_on_a_unix_socket(server: Valkey, check: Callable[[Circle], Awaitable[None]]) -> None:
    """It is the same."""
    asyncio.run(check(circle(server.unix_url)))  # type: ignore[arg-type]


def test_the_server_dies_and_comes_again(run: Run) -> None:
    """Down and up, one gap for each worker, nothing subscribed to anew by anybody; what is lost is counted and told."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 2) as (one, two):
                stream = await listening(one, two)
                server.kill()
                await until(lambda: stream.refused > 20)
                assert (0, 0.0) == (one.bus.stats().links, one.bus.stats().lag_seconds)
                server.start()
                await stream.flows(two)
                await stream.stop(two)
                assert 0 == holes(two.sink.order)
                for each in (one, two):
                    assert [True, False, True] == [up for up, _ in each.sink.states]
                stats = one.bus.stats()
                # its own; and what the other one has lost, if it was listening by then
                told = {(None, None), (frozenset({ROOM}), stats.dropped["down"])}
                assert (None, None) in two.sink.gaps
                assert told >= set(two.sink.gaps)
                assert [(None, None)] == one.sink.gaps
                assert stats.dropped["down"] >= stream.refused
                assert (1, 1) == (stats.links, stats.reconnects)

    run(main())


@pytest.mark.parametrize("line", ["sub", "pub"])
def test_a_connection_is_cut(run: Run, server: Valkey, line: str) -> None:
    """Whichever it is: it is made again at once; what may be missing is told, and nothing comes twice."""

    async def main() -> None:
        async with stations(server.url, 2) as (one, two):
            stream = await listening(one, two)
            cut = one if line == "pub" else two
            server.kill_client(f"wsworker:{1 if line == 'pub' else 2}:{line}")
            await until(lambda: len(cut.sink.states) == 3)
            await stream.flows(two)
            await stream.stop(two)
            assert 0 == holes(two.sink.order)
            assert [True, False, True] == [up for up, _ in cut.sink.states]
            assert 1 == cut.bus.stats().reconnects
            assert ([(None, None)] if line == "sub" else []) == [gap for gap in two.sink.gaps if gap[1] is None]

    run(main())


def test_the_server_hangs(run: Run) -> None:
    """It is noticed; the queue stays within its bound and the loop goes on; when the server goes on, all is well."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 2, times=HASTY, peer_queue=100_000) as (one, two):
                stream = await listening(one, two)
                server.pause()
                try:
                    while one.sink.states[-1][0] or two.sink.states[-1][0]:
                        one.publish(OTHER, *[bytes(1000)] * 10)
                        # and some probes
                        assert one.bus.stats().queued_bytes <= 101_000
                        await asyncio.sleep(0.001)
                finally:
                    server.resume()
                assert "no answer came in time" == one.sink.states[-1][1]
                assert one.bus.stats().dropped["full"]
                await until(lambda: one.sink.states[-1][0] and two.sink.states[-1][0])
                await stream.flows(two)
                await stream.stop(two)
                assert 0 == holes(two.sink.order)

    run(main())


def test_workers_of_a_node_do_not_hear_each_other(run: Run, server: Valkey) -> None:
    """They have the mesh."""

    async def main() -> None:
        one, twin, other = station(server.url), station(server.url, worker=2), station(server.url, "node-2")
        for each in (one, twin, other):
            await each.bus.start(each.sink)
            assert "" == await each.bus.linked(5)
            each.subscribe(ROOM)
        await known(one, other, key=ROOM)
        await known(other, one, twin, key=ROOM)
        one.publish(ROOM, b"from one")
        one.publish(EVERYBODY, b"to all")
        await until(lambda: len(other.sink.envelopes) == 2)
        # it forgets what has come, but for the order
        await known(other, one, twin, key=ROOM)
        for each in (one, twin):
            assert {b"from one", b"to all"}.isdisjoint(each.sink.order)
        for each in (one, twin, other):
            await each.bus.close(1)

    run(main())


def test_who_comes_before_the_server(run: Run) -> None:
    """It says why, once, and does not wait; what is published is given up and told; later all is well."""

    async def main() -> None:
        server = Valkey()
        try:
            one, two = station(server.url, "node-1", 1), station(server.url, "node-2", 2)
            for each in (one, two):
                await each.bus.start(each.sink)
                each.subscribe(ROOM)
            # the first attempt is not over: this waits, and is given up with it
            assert one.publish(ROOM, b"early")
            assert f"redis://127.0.0.1:{server.port} does not answer (Connection refused)" == await one.bus.linked(5)
            assert not one.publish(ROOM, b"late")
            assert 2 == one.bus.stats().dropped["down"]
            server.start()
            for each in (one, two):
                await until(lambda: each.sink.gaps)  # noqa: B023
                assert [(False, "Connection refused"), (True, "")] == each.sink.states
            await known(one, two, key=ROOM)
            assert "" == await one.bus.linked(5)
            # nothing was there to be lost
            assert 0 == one.bus.stats().reconnects
            for each in (one, two):
                await each.bus.close(1)
        finally:
            server.close()

    run(main())


def test_who_wants_no_keys_is_told_of_a_gap_too(run: Run) -> None:
    """It has clients all the same: broadcasts may be missing."""

    async def main() -> None:
        server = Valkey()
        try:
            one = station(server.url)
            await one.bus.start(one.sink)
            assert await one.bus.linked(5)
            server.start()
            await until(lambda: one.sink.gaps)
            assert [(None, None)] == one.sink.gaps
            await one.bus.close(1)
        finally:
            server.close()

    run(main())


def test_the_end_while_it_connects(run: Run) -> None:
    """At any moment: nothing stays behind."""

    async def main() -> None:
        async with impostor(None) as url:
            for turns in (0, 1, 2, 5, 20):
                one = station(brokers.parse(url))
                await one.bus.start(one.sink)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await one.bus.close(0)
                await one.bus.close(0)
                assert {asyncio.current_task()} == asyncio.all_tasks()
        never = station(brokers.parse(url))
        await never.bus.close(0)
        assert 0 == never.bus.stats().links

    run(main())


def test_no_task_stays(run: Run, server: Valkey) -> None:
    """Nor a connection."""

    async def main() -> None:
        async with stations(server.url, 3):
            assert 6 == len(server.clients("wsworker:"))
        assert {asyncio.current_task()} == asyncio.all_tasks()
        await until(lambda: not server.clients("wsworker:"))

    run(main())


def test_what_others_may_say(run: Run, server: Valkey) -> None:
    """Whoever may publish at the broker can say anything: it is dropped and counted, and the rest goes on."""
    own = "wsworker:service:node-2.2"
    writer = Writer(OUTSIDE)
    hostile = [
        ("wsworker:topic:room", b""),
        ("wsworker:topic:room", b"\x01\x04"),
        ("wsworker:topic:room", b"\x02" + writer.envelope(Envelope(ROOM, b"version"))[1:]),
        ("wsworker:topic:room", b"\x01\x63" + bytes(14)),
        ("wsworker:topic:room", b"\x01\x04\x00\xff" + bytes(12)),
        ("wsworker:topic:room", writer.envelope(Envelope(ANN, b"\x03\xe8", closes=True))),
        ("wsworker:topic:room", writer.gap(Gap(1, None))),
        ("wsworker:broadcast:", b"nonsense"),
        ("wsworker:service:", b"nonsense"),
        ("wsworker:service:", writer.envelope(Envelope(ROOM, b"x"))),
        (own, b"nonsense"),
    ]

    async def main() -> None:
        async with stations(server.url, 2, max_message=1000) as (one, two):
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            for channel, payload in hostile:
                assert 1 <= server.run("PUBLISH", channel, payload)
            # nobody has subscribed to such a name
            assert 0 == server.run("PUBLISH", b"wsworker:topic:\xff", writer.envelope(Envelope(ROOM, b"x")))
            await known(one, two, key=ROOM)
            assert len(hostile) == two.bus.stats().refused
            assert [] == two.sink.gaps
            server.run("PUBLISH", "wsworker:topic:room", writer.envelope(Envelope(ROOM, b"from outside")))
            server.run("PUBLISH", "wsworker:topic:room", writer.envelope(Envelope(ROOM, bytes(1001))))
            server.run("PUBLISH", "wsworker:service:", writer.gap(Gap(7, frozenset({OTHER}))))
            await until(lambda: len(two.sink.gaps) == 2)
            assert [b"from outside"] == two.sink.bodies
            assert [(frozenset({ROOM}), 1), (frozenset({OTHER}), 7)] == two.sink.gaps
            assert [(True, "")] == two.sink.states

    run(main())


def test_a_server_that_goes_mad(run: Run) -> None:
    """What it says after a proper greeting makes no sense: the connection is given up, nothing is raised."""

    async def main() -> None:
        for says in (b":1\r\n", b"*3\r\n:1\r\n:2\r\n:3\r\n", b"+OK\r\n" * 9, b"*1\r\n$1\r\nx\r\n", b"-ERR no\r\n" * 9):
            async with impostor(says) as url:
                one = station(brokers.parse(url.replace(ENCODED, "").replace(":@", "")))
                await one.bus.start(one.sink)
                one.subscribe(ROOM)
                one.publish(ROOM, b"x", b"y")
                await until(lambda: one.sink.states)  # noqa: B023
                assert one.sink.states[0][0] is False
                await one.bus.close(0)

    run(main())


def test_a_gap_is_told_when_the_worker_can_publish_again(run: Run) -> None:
    """What it makes of the gap, such as a call to load all anew, reaches other machines then."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 1, times=TIMES._replace(patience=60)) as (one,):
                one.subscribe(ROOM)
                # the line that publishes waits longer each time that it is cut
                for kinds in (["normal"], ["normal"], ["normal", "pubsub"]):
                    one.sink.order.clear()
                    for kind in kinds:
                        server.run("CLIENT", "KILL", "TYPE", kind)
                    await until(lambda: True in one.sink.order)
                await until(lambda: "gap" in one.sink.order)
                assert [False, True, "gap"] == one.sink.order

    run(main())


def test_a_gap_is_told_though_the_worker_cannot_publish_again(run: Run) -> None:
    """If that takes long: what was missed is over, and its clients need not wait for what the worker may say."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 1, times=TIMES._replace(patience=0.1)) as (one,):
                assert isinstance(one.bus, Redis)
                (shard,) = one.bus._shards
                # from now on the server has room for one of the two lines
                server.run("CONFIG", "SET", "maxclients", 1)
                for line in shard.lines:
                    line.cut("as it should")

                def told() -> bool:
                    if shard.publisher.up:
                        # it was the quicker one
                        shard.publisher.cut("it takes the room of the other one")
                    return bool(one.sink.gaps)

                await until(told)
                assert [True, False] == [up for up, _ in one.sink.states]
                assert [(None, None)] == one.sink.gaps
                assert shard.subscriber.up

    run(main())


def test_the_rights_that_it_needs(run: Run) -> None:
    """A user with those that the documentation names, and no others, will do."""

    async def main() -> None:
        with valkey() as server:
            (line,) = re.findall(r"ACL SETUSER chat .*", (ROOT / "docs/bus.md").read_text())
            server.run(*line.replace("&chat:", "&wsworker:").split())
            url = brokers.parse(f"redis://chat:secret@127.0.0.1:{server.port}")
            async with stations(url, 2) as (one, two):
                two.subscribe(ROOM)
                await known(one, two, key=ROOM)
                assert [(True, "")] == two.sink.states

    run(main())


def test_settling_needs_a_broker(run: Run) -> None:
    """One that is away has nothing to tell; one that hangs is waited for until the time is over."""

    async def main() -> None:
        with valkey() as server:
            async with stations(server.url, 1) as (one,):
                assert await one.bus.settle(DEADLINE_SECONDS)
                server.pause()
                assert not await one.bus.settle(0.05)
                server.resume()
                assert await one.bus.settle(DEADLINE_SECONDS)
                settling = asyncio.create_task(one.bus.settle(DEADLINE_SECONDS))
                server.kill()
                assert isinstance(await settling, bool)
                await until(lambda: not one.sink.states[-1][0])
                assert not await one.bus.settle(DEADLINE_SECONDS)

    run(main())
