"""The adapter to NATS, against a real server."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from tests.bus import contract
from tests.bus.contract import ANN, DEADLINE_SECONDS, OTHER, ROOM, Circle, Settings, known, until
from tests.bus.nats.server import NatsServer, Servers
from tests.bus.nats.test_link import fake
from tests.bus.nats.towns import QUICK, Listener, circle_at, judge, numbered, town, up
from tests.worker.conftest import Run
from wsworker.brokers import parse
from wsworker.bus.broker.payload import OUTSIDE, Writer
from wsworker.bus.nats.adapter import PATIENCE, Nats, Patience
from wsworker.bus.nats.wire import PONG
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract(run: Run, servers: Servers, check: Callable[[Circle], Awaitable[None]]) -> None:
    """What every adapter does."""
    server = servers()

    async def main() -> None:
        await check(lambda count: circle_at(server.url, count))

    run(main())


def test_an_account_with_these_rights_is_enough(run: Run, servers: Servers) -> None:
    """Those that the documentation names: publish and subscribe to everything behind the prefix, and nothing else."""
    (line,) = re.findall(r"permissions: (.*)", (ROOT / "docs/bus.md").read_text())
    rights = yaml.safe_load(line.replace("chat.", "wsworker."))
    server = servers(authorization={"users": [{"user": "ann", "password": "p@ss", "permissions": rights}]})

    async def main() -> None:
        url = server.url.replace("//", "//ann:p%40ss@")
        for check in contract.CHECKS:
            await check(lambda count: circle_at(url, count))

    run(main())


def test_workers_of_a_node_do_not_hear_each_other(run: Run, servers: Servers) -> None:
    """That is the mesh's; a worker of another node hears both."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "a", 1) as one, town(server.url, "a", 2) as two, town(server.url, "b") as other:
            for each in (one, two, other):
                each.subscribe(ROOM)
            await known(one, other, key=ROOM)
            await known(two, other, key=ROOM)
            one.publish(ROOM, b"1")
            one.publish(EVERYBODY, b"2")
            await until(lambda: [b"1", b"2"] == other.sink.bodies)
            two.publish(ROOM, b"3")
            await until(lambda: [b"1", b"2", b"3"] == other.sink.bodies)
            assert [] == one.sink.bodies == two.sink.bodies

    run(main())


def test_a_server_that_is_killed_and_comes_again(run: Run, servers: Servers) -> None:
    """Down and up once, a gap for each worker, nothing to be subscribed to again; holes only where it was told."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "a") as one, town(server.url, "b") as two:
            two.subscribe(ROOM, OTHER, ANN)
            await known(one, two, key=ROOM)
            two.sink.order.clear()
            load = asyncio.create_task(numbered(one, ROOM))
            await until(lambda: len(two.sink.bodies) > 20)
            server.kill()
            await until(lambda: one.bus.stats().dropped["down"] > 500)
            assert (0, 0) == (one.bus.stats().links, two.bus.stats().links)
            assert not one.publish(OTHER, b"x")
            two.unsubscribe(ANN)
            two.subscribe(Key("topic", "new"))
            server.start()
            await until(lambda: one.bus.stats().links and two.bus.stats().links)
            before = len(two.sink.bodies)
            await until(lambda: len(two.sink.bodies) > before + 50)
            for key in (OTHER, ANN, Key("topic", "new"), EVERYBODY):
                one.publish(key, b"hello")
            await until(lambda: b"hello" in two.sink.bodies and two.sink.envelopes[-1].body != b"hello")
            load.cancel()
            heard = {envelope.key for envelope in two.sink.envelopes if envelope.body == b"hello"}
            assert {OTHER, Key("topic", "new"), EVERYBODY} == heard
            judge(two.sink.order)
            for each in (one, two):
                assert [True, False, True] == [up for up, _ in each.sink.states]
                assert [(None, None)] == [gap for gap in each.sink.gaps if gap == (None, None)]
                assert 1 == each.bus.stats().reconnects

    run(main())


def test_a_worker_of_the_machine_has_died(run: Run, servers: Servers) -> None:
    """Another one tells other machines that something may be missing; nobody knows how much of what."""
    url = servers().url

    async def main() -> None:
        async with town(url, "a", 1) as one, town(url, "a", 2) as two, town(url, "b") as other:
            for each in (one, two, other):
                await up(each)
            one.bus.owe()
            one.bus.flush()
            await until(lambda: other.sink.gaps)
            one.publish(EVERYBODY, b"behind it")
            await until(lambda: other.sink.bodies)
            assert [(None, 0)] == other.sink.gaps
            assert [] == one.sink.gaps == two.sink.gaps

    run(main())


def test_an_outage_of_very_many_attempts(run: Run, servers: Servers) -> None:
    """It is never given up."""
    attempts = 0

    async def main() -> None:
        nonlocal attempts

        async def turn_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal attempts
            attempts += 1
            writer.close()

        server = servers()
        server.kill()
        impatient = Patience(first_pause=0.001, most_pause=0.002)
        nobody = await asyncio.start_server(turn_away, "127.0.0.1", server.port)
        async with town(server.url, "a", patience=impatient) as one:
            one.subscribe(ROOM)
            await until(lambda: attempts > 100)
            nobody.close()
            await nobody.wait_closed()
            server.start()
            await until(lambda: one.bus.stats().links)
            assert [False, True] == [up for up, _ in one.sink.states]
            assert [(None, None)] == one.sink.gaps
            assert 0 == one.bus.stats().reconnects

    run(main())


def test_the_pauses() -> None:
    """All is to flow within two seconds of a server's return."""
    assert PATIENCE.most_pause <= 1


def test_nothing_is_missed_at_the_first_connect(run: Run, servers: Servers) -> None:
    """There is no gap if it succeeds at once; else there is one, also for who wants no topic: it may have clients."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "a") as one:
            one.subscribe(ROOM)
            await up(one)
            assert [] == one.sink.gaps
        server.kill()
        async with town(server.url, "a") as one:
            clause = await one.bus.linked(DEADLINE_SECONDS)
            assert f"nats://{server.address} does not answer (Connection refused)" == clause
            server.start()
            await up(one)
            assert [(None, None)] == one.sink.gaps

    run(main())


def test_a_server_that_is_stopped(run: Run, servers: Servers) -> None:
    """It is found by its silence; what it had not confirmed is owed, what is published then is dropped; it heals."""
    server = servers()
    strict = QUICK._replace(ping=0.05, silence=0.3, connect=0.2)

    async def main() -> None:
        async with town(server.url, "a", patience=strict) as one, town(server.url, "b", patience=strict) as two:
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            two.sink.order.clear()
            load = asyncio.create_task(numbered(one, ROOM))
            await until(lambda: len(two.sink.bodies) > 20)
            server.pause()
            await until(lambda: not one.bus.stats().links and not two.bus.stats().links)
            assert (False, "no answer came in time") == one.sink.states[-1]
            await until(lambda: one.bus.stats().dropped["down"] > 100)
            server.go_on()
            await until(lambda: one.bus.stats().links and two.bus.stats().links)
            before = len(two.sink.bodies)
            await until(lambda: len(two.sink.bodies) > before + 20)
            load.cancel()
            judge(two.sink.order)
            assert (None, None) in two.sink.gaps

    run(main())


def test_a_full_queue(run: Run, servers: Servers) -> None:
    """It has a bound; what it does not take is told in its place, before what was published later."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "a", peer_queue=100_000) as one, town(server.url, "b") as two:
            two.subscribe(ROOM, OTHER)
            await known(one, two, key=ROOM)
            two.sink.order.clear()
            server.pause()
            taken = [one.publish(ROOM, bytes(1000)) for _ in range(150)]
            assert taken == sorted(taken, reverse=True)
            kept = sum(taken)
            assert 90 < kept < 100
            stats = one.bus.stats()
            assert (150 - kept, True) == (stats.dropped["full"], stats.queued_bytes <= 100_000)
            server.go_on()
            await until(lambda: one.bus.stats().queued_bytes == 0)
            assert one.publish(OTHER, b"later")
            await until(lambda: two.sink.order[-1:] == [b"later"])
            assert [*[bytes(1000)] * kept, "gap", b"later"] == two.sink.order
            assert [(frozenset((ROOM,)), 150 - kept)] == two.sink.gaps

    run(main())


def test_a_message_that_is_too_large_for_the_server(run: Run, servers: Servers) -> None:
    """It is dropped, also if it was published before anybody knew, and told in its place; the connection stays."""
    server = servers(max_payload=4096)

    async def main() -> None:
        async with town(server.url, "b") as two:
            two.subscribe(ROOM)
            await up(two)
            async with town(server.url, "a") as one:
                assert one.publish(ROOM, b"1", bytes(5000), b"2")
                await up(one)
                assert one.publish(ROOM, bytes(4000))
                assert not one.publish(ROOM, bytes(4097))
                assert one.publish(ROOM, b"3")
                await until(lambda: two.sink.order[-1:] == [b"3"])
                assert [b"1", "gap", b"2", bytes(4000), "gap", b"3"] == [
                    what for what in two.sink.order if what not in ("up", "down")
                ]
                assert [(frozenset((ROOM,)), 1)] * 2 == two.sink.gaps
                assert (2, 0) == (one.bus.stats().dropped["size"], one.bus.stats().reconnects)

    run(main())


def test_word_of_a_loss_fits_the_server(run: Run, servers: Servers) -> None:
    """With more names than it takes in a message, it may be any."""
    server = servers(max_payload=1024)

    async def main() -> None:
        async with town(server.url, "b") as two:
            await up(two)
            async with town(server.url, "a", peer_queue=500) as one:
                for number in range(101):
                    one.bus.publish(Envelope(Key("topic", f"{number}" * 50), b"x" * 300))
                await until(lambda: [(None, 100)] == two.sink.gaps)

    run(main())


def test_what_is_published_before_the_first_attempt_is_over(run: Run, servers: Servers) -> None:
    """It waits, within the bounds of the queue; it is dropped if nobody takes us, and told when somebody does."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "b") as two:
            two.subscribe(ROOM)
            await up(two)
            async with town(server.url, "a", peer_queue=10_000) as one:
                taken = [one.publish(ROOM, bytes(2000)) for _ in range(6)]
                assert [True] * 4 + [False] * 2 == taken
                assert one.bus.stats().queued_bytes > 8000
                await until(lambda: len(two.sink.bodies) == 4 and two.sink.gaps)
                assert [(frozenset((ROOM,)), 2)] == two.sink.gaps
        server.kill()
        async with town(server.url, "a") as one:
            assert one.publish(ROOM, b"lost")
            await until(lambda: one.bus.stats().dropped["down"] == 1)
            async with town(server.url, "b") as two:
                server.start()
                await up(two)
                await up(one)
                await until(lambda: one.bus.stats().queued_bytes == 0)

    run(main())


def test_a_worker_that_does_not_read(run: Run, servers: Servers) -> None:
    """The server cuts it when too much waits for it: an ordinary loss of the connection, with a gap."""
    server = servers(max_pending=1_000_000, max_payload=200_000)
    flooded = threading.Event()

    class Sleeper(Listener):
        def on_envelope(self, envelope: Envelope, publisher: Origin) -> None:
            super().on_envelope(envelope, publisher)
            flooded.wait(10)

    def flood() -> None:
        with Plain(server) as plain:
            for _ in range(400):
                plain.publish("wsworker.topic.room", Writer(OUTSIDE).envelope(Envelope(ROOM, bytes(100_000))))
            plain.settle()
        flooded.set()

    async def main() -> None:
        async with town(server.url, "a", sink=Sleeper()) as one:
            one.subscribe(ROOM)
            await up(one)
            thread = threading.Thread(target=flood)
            thread.start()
            await until(lambda: one.sink.gaps)
            thread.join()
            assert len(one.sink.bodies) < 400
            assert [(None, None)] == one.sink.gaps
            assert 1 == one.bus.stats().reconnects

    run(main())


def test_a_wrong_password(run: Run, servers: Servers) -> None:
    """The clause says what the server says, and never the password; a server that takes it later is used."""
    server = servers(authorization={"user": "ann", "password": "right"})

    async def main() -> None:
        async with town(server.url.replace("//", "//ann:secret@"), "a") as one:
            clause = await one.bus.linked(DEADLINE_SECONDS)
            says = f"{server.url} does not answer (the server answers 'Authorization Violation')"
            assert says == clause
            server.kill()
            server.start(authorization={"user": "ann", "password": "secret"})
            await up(one)

    run(main())


def test_a_token(run: Run, servers: Servers) -> None:
    """It stands where a user would."""
    server = servers(authorization={"token": "t0k/en"})

    async def main() -> None:
        async with town(server.url.replace("//", "//t0k%2Fen@"), "a") as one:
            await up(one)

    run(main())


def test_what_the_account_may_not_do(run: Run, servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, told in the log, and told to the others; the connection stays."""
    rights = {"publish": ["wsworker.topic.>", "wsworker.service"], "subscribe": ["wsworker.topic.>"]}
    users = [{"user": "ann", "password": "x", "permissions": rights}, {"user": "bob", "password": "x"}]
    server = servers(authorization={"users": users})

    async def main() -> None:
        ann, bob = (server.url.replace("//", f"//{name}:x@") for name in ("ann", "bob"))
        # so that what is refused in a test is told in one go, when the test says so
        rare = QUICK._replace(ping=60)
        async with town(ann, "a", patience=rare) as one, town(bob, "b") as two:
            await up(one)
            await up(two)
            # the service and everybody
            assert 2 == one.bus.stats().refused
            for _ in range(10):
                assert one.publish(ANN, b"forbidden")
                one.publish(ROOM, b"allowed")
                await until(lambda: one.bus.stats().queued_bytes == 0)
            assert (10, 10) == (one.bus.stats().dropped["refused"], one.bus.stats().sent)
            assert ([], True) == (two.sink.gaps, one.bus.owes)
            await one.bus.close(10)
            await until(lambda: two.sink.gaps)
            assert [(frozenset((ANN,)), 10)] == two.sink.gaps
            assert (0, False) == (one.bus.stats().reconnects, one.bus.owes)

    run(main())
    assert "; give its user publish and subscribe for wsworker.>" in caplog.text
    assert f"{server.url} refuses something: 'Permissions Violation for Subscription" in caplog.text


def test_an_account_that_may_not_tell_of_losses(run: Run, servers: Servers, tmp_path: Path) -> None:
    """What it cannot tell is no message that was dropped; it is tried again now and then, and owed at the end too."""
    rights = {"publish": ["nothing"], "subscribe": ["wsworker.>"]}
    server = servers(authorization={"users": [{"user": "ann", "password": "x", "permissions": rights}]})

    async def main() -> None:
        async with town(server.url.replace("//", "//ann:x@"), "a", patience=QUICK._replace(ping=0.05)) as one:
            await up(one)
            one.publish(ROOM, *[b"x"] * 10)
            log = tmp_path / f"nats-{server.port}.log"
            await until(lambda: log.read_text().count('Publish Violation - Subject "wsworker.service"') > 2)
            assert (10, 0) == (one.bus.stats().dropped["refused"], one.bus.stats().sent)
            await one.bus.close(1)
            assert one.bus.owes

    run(main())


def test_what_was_refused_and_then_not_confirmed(run: Run) -> None:
    """It was dropped once, as refused."""

    async def main() -> None:
        async with fake() as server, town(f"nats://127.0.0.1:{server.port}", "a") as one:
            await until(lambda: b"SUB" in server.heard)
            server.say(PONG)
            await up(one)
            one.publish(ROOM, b"x")
            await until(lambda: b"PUB" in server.heard)
            server.say(b"-ERR 'Permissions Violation for Publish to \"wsworker.topic.room\"'\r\n")
            server.hang_up()
            await until(lambda: not one.bus.stats().links)
            dropped = one.bus.stats().dropped
            assert (1, 0) == (dropped["refused"], dropped["down"])

    run(main())


def test_what_nobody_wants_is_given_back(run: Run) -> None:
    """The server sends it no more: what is only dropped here would cost us both for ever."""

    async def main() -> None:
        async with fake() as server, town(f"nats://127.0.0.1:{server.port}", "a") as one:
            await until(lambda: b"SUB" in server.heard)
            server.say(PONG)
            await up(one)
            one.subscribe(ROOM)
            one.unsubscribe(ROOM)
            asked = rb"\r\nSUB wsworker\.topic\.room (\d+)\r\n"
            await until(lambda: re.findall(asked, server.heard))
            (sid,) = re.findall(asked, server.heard)
            await until(lambda: b"UNSUB %b\r\n" % sid in server.heard)

    run(main())


def test_what_is_owed(run: Run, servers: Servers) -> None:
    """It is known, until others were told; also when the end has come, of what is given up by that."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "a") as one:
            await up(one)
            owed = [one.bus.owes]
            one.bus.owe()
            owed.append(one.bus.owes)
            one.bus.flush()
            owed.append(one.bus.owes)
            await until(lambda: not one.bus.owes)
            server.pause()
            one.publish(ROOM, b"x")
            owed.append(one.bus.owes)
            await one.bus.close(0)
            owed.append(one.bus.owes)
            assert ([False, True, True, False, True], 1) == (owed, one.bus.stats().dropped["down"])
            server.go_on()

    run(main())


def test_the_lag(run: Run, servers: Servers) -> None:
    """It rises while the server hangs, and there is none while it is down; the longest one since it was read."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "a", patience=QUICK._replace(ping=60)) as one:
            assert 0.0 == one.bus.stats().lag_seconds
            await up(one)
            assert one.bus.stats().lag_seconds > 0.0
        async with town(server.url, "a", patience=QUICK._replace(ping=0.02)) as one:
            await up(one)
            server.pause()
            await until(lambda: one.bus.stats().lag_seconds > 0.3)
            server.go_on()
            await until(lambda: one.bus.stats().lag_seconds < 0.3)
            server.kill()
            await until(lambda: not one.bus.stats().links)
            assert 0.0 == one.bus.stats().lag_seconds

    run(main())


def test_a_mistake_of_ours(run: Run, servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log, and costs the connection; another one is made."""
    server = servers()

    class Mistaken(Listener):
        def on_state(self, up: bool, why: str) -> None:
            super().on_state(up, why)
            if len(self.states) == 1:
                raise RuntimeError("a mistake")

    async def main() -> None:
        async with town(server.url, "a", sink=Mistaken()) as one:
            await until(lambda: len(one.sink.states) == 3)
            why = "a mistake of wsworker's own, which is in the log"
            assert [(True, ""), (False, why), (True, "")] == one.sink.states

    run(main())
    assert "RuntimeError: a mistake" in caplog.text


class Plain:
    """A client that says what it is told to."""

    def __init__(self, server: NatsServer) -> None:
        self._sock = socket.create_connection(("127.0.0.1", server.port))
        self._sock.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def publish(self, subject: str, data: bytes) -> None:
        self._sock.sendall(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(data), data))

    def publish_with_headers(self, subject: str, headers: bytes, data: bytes) -> None:
        size = len(headers)
        self._sock.sendall(b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), size, size + len(data), headers, data))

    def settle(self) -> None:
        """Wait until the server has all of it."""
        self._sock.sendall(b"PING\r\n")
        self._sock.settimeout(10)
        data = b""
        while b"PONG" not in data:
            data += self._sock.recv(65536)


def test_what_strangers_publish(run: Run, servers: Servers) -> None:
    """What is malformed is counted and dropped, headers are taken off, and all goes on."""
    server = servers()
    good = Writer(OUTSIDE).envelope(Envelope(ROOM, b"good"))
    bad = [b"", b"x", good[:15], b"\xff" * 100, bytes(16) + b"\0" * 50, Writer(OUTSIDE).probe(1)]

    async def main() -> None:
        async with town(server.url, "a") as one:
            one.subscribe(ROOM)
            await up(one)
            with Plain(server) as plain:
                for data in bad:
                    plain.publish("wsworker.topic.room", data)
                    plain.publish("wsworker.service", data)
                    plain.publish("wsworker.broadcast", data)
                for headers in (b"NATS/1.0\r\n\r\n", b"NATS/1.0", b"\xff\xfe\r\n\r\n", b"NATS/1.0 \xff\r\n\r\n"):
                    plain.publish_with_headers("wsworker.topic.room", headers, good)
                plain.publish("wsworker.topic.room", good)
                await until(lambda: [b"good"] * 5 == one.sink.bodies)
            assert (3 * len(bad), 0) == (one.bus.stats().refused, one.bus.stats().reconnects)

    run(main())


def test_an_end_at_any_moment(run: Run, servers: Servers) -> None:
    """Before the start, while it connects, while nobody answers; and twice. Nothing is left, and the counts stay."""
    server = servers()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bus = Nats(loop, parse(server.url), Origin("a", 1), Settings(), lambda: 0.5)
        await bus.close(1)
        assert not bus.publish(Envelope(ROOM, b"x"))
        for url in (server.url, "nats://127.0.0.1:1"):
            async with town(url, "a") as one:
                await asyncio.sleep(0)
                await one.bus.close(0)
                await one.bus.close(0)
                assert (0, 0) == (one.bus.stats().links, one.bus.stats().queued_bytes)
        assert 1 == len(asyncio.all_tasks())

    run(main())


def test_very_many_subscriptions_come_again(run: Run, servers: Servers) -> None:
    """All of them, with those that have changed meanwhile."""
    server = servers()
    keys = [Key("topic", f"room {number}") for number in range(3000)]

    async def main() -> None:
        async with town(server.url, "a") as one, town(server.url, "b") as two:
            two.subscribe(*keys)
            await known(one, two, key=keys[-1])
            server.kill()
            await until(lambda: not two.bus.stats().links and not one.bus.stats().links)
            server.start()
            two.unsubscribe(*keys[:1000])
            await until(lambda: one.bus.stats().links and two.bus.stats().links)
            for key in keys:
                one.bus.publish(Envelope(key, b"x"))
            one.bus.flush()
            await until(lambda: len(two.sink.bodies) == 2000)
            assert 2000 == two.bus.stats().keys

    run(main())


def test_settling_needs_a_server(run: Run, servers: Servers) -> None:
    """One that is away has nothing to tell; one that hangs is waited for until the time is over."""
    server = servers()

    async def main() -> None:
        async with town(server.url, "a") as one:
            assert "" == await one.bus.linked(DEADLINE_SECONDS)
            assert await one.bus.settle(DEADLINE_SECONDS)
            server.pause()
            assert not await one.bus.settle(0.05)
            server.kill()
            await until(lambda: not one.bus.stats().links)
            assert not await one.bus.settle(DEADLINE_SECONDS)

    run(main())
