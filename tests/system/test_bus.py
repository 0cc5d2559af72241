"""The bus between the workers of a real service: who hears what, in what order, and what is told if something is lost.

Every message says who has published it and which one it is. A reader that sees one twice, or one after a later one,
fails the test; one that misses some is right only if its worker was told of a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import ClientConnection as AsyncClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.ports import free_port
from tests.system.daemon import Daemon, eventually
from tests.system.puppets import APP, FORKS, Checker, heard, heard_until, knows, one_in_each, say, until_heard
from wsworker import client
from wsworker.bus import records
from wsworker.bus.records import Hello, Type
from wsworker.bus.topics import Envelope, Key
from wsworker.cli import ask
from wsworker.errors import NotRunning, PublishError
from wsworker.wire import Command

STORM = (
    APP
    + """
def on_worker_start(worker):
    numbers = iter(range(10**9))
    worker.every(0.01, lambda: worker.publish("storm", f"{worker.id} {next(numbers)}"))
"""
)
"""Every worker publishes all the time, under its own name."""


LAST_WORDS = (
    STORM.replace("numbers = iter", "global numbers\n    numbers = iter")
    + """
import asyncio
import signal
import time

def end(worker, *others):
    time.sleep(0.1)
    for pid in others:
        os.kill(int(pid), signal.SIGSTOP)
    for _ in range(100):
        worker.publish("storm", f"{worker.id} {next(numbers)} " + "x" * 1000)
    # behind the write of what was published, and before anything is read
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGKILL)

def on_message(connection, data, answer=on_message):
    if data.startswith("end "):
        end(connection.worker, *data.split()[1:])
    else:
        answer(connection, data)
"""
)
"""A worker that is told to end stops the others, publishes more than one read takes, and kills itself.

It has been busy before, so what the others have sent meanwhile is unread.
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A service with four workers."""
    with Daemon(APP, workers=4) as made:
        yield made.start()


def test_every_way_to_send_reaches_every_worker(daemon: Daemon) -> None:
    """Topics, without the publisher; users, wherever they are; everybody; and a user's connections are closed."""
    with ExitStack() as stack:
        clients = one_in_each(daemon, stack, 4)
        first, *others = (clients[slot] for slot in (1, 2, 3, 4))
        for one in (first, *others):
            assert "ok room.1" == say(one, "sub room.1")
        until_heard(first, others, "room.1")
        for number in range(20):
            first.send(f"pub room.1 first {number}")
        for one in others:
            assert [f"first {number}" for number in range(20)] == heard(one, 20)
        assert "ok ann" == say(others[0], "user ann")
        assert "ok ann" == say(others[1], "user ann")
        # the publisher does not hear itself, so the next thing that it hears is this
        eventually(lambda: _reaches(first, others[:2]), "a user in two workers")
        first.send("to ann last")
        for one in others[:2]:
            heard_until(one, "last")
        first.send("all everybody")
        assert ["everybody"] * 4 == [str(one.recv(10)) for one in (first, *others)]
        first.send("kick ann")
        for one in others[:2]:
            with pytest.raises(ConnectionClosed) as closed:
                one.recv(10)
            assert closed.value.rcvd is not None
            assert (4001, "kicked") == (closed.value.rcvd.code, closed.value.rcvd.reason)
        assert "ok other" == say(others[2], "sub other")


def _reaches(publisher: ClientConnection, readers: list[ClientConnection]) -> bool:
    publisher.send("to ann psst you")
    found = [knows(reader) for reader in readers]
    return all(found)


def test_500_clients_in_rooms() -> None:
    """In calm nothing is lost, doubled or out of order, and no room hears another."""
    with Daemon(APP, workers=4) as daemon:
        daemon.start()
        asyncio.run(_rooms(daemon, clients=500, rooms=4, messages=10))
        assert "may be missing" not in daemon.log


async def _rooms(daemon: Daemon, clients: int, rooms: int, messages: int) -> None:
    async with AsyncExitStack() as stack:

        async def enter(number: int) -> AsyncClient:
            one = connect(f"ws://127.0.0.1:{daemon.port}/", proxy=None, open_timeout=30)
            made = await stack.enter_async_context(one)
            await made.send(f"sub room{number % rooms}")
            assert f"ok room{number % rooms}" == await made.recv()
            return made

        everybody = [await enter(number) for number in range(clients)]
        publishers = everybody[:16]
        neighbours = [
            {name for name in range(16) if name % rooms == number % rooms and name != number}
            for number in range(clients)
        ]

        async def hear_all(number: int, unheard: set[int]) -> None:
            while unheard:
                unheard.discard(int(str(await everybody[number].recv()).split()[1]))

        # until everybody has heard each publisher, all workers cannot know who wants what
        unheard = [set(names) for names in neighbours]
        for greeting in itertools.count():
            for name in set().union(*unheard):
                await publishers[name].send(f"pub room{name % rooms} hello {name}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.gather(*(hear_all(number, names) for number, names in enumerate(unheard)))
            if not any(unheard):
                break
            assert greeting < 20, "the workers do not know who wants what"
        for number in range(messages):
            for name, one in enumerate(publishers):
                await one.send(f"pub room{name % rooms} {name}/room{name % rooms} {number}")
        for number, one in enumerate(everybody):
            checker = Checker()
            room = number % rooms
            expected = neighbours[number]
            left = messages * len(expected)
            while left:
                message = str(await asyncio.wait_for(one.recv(), 20))
                # some may have been greeted twice
                if not message.startswith("hello "):
                    checker.take(message)
                    left -= 1
            assert {f"{name}/room{room}": messages - 1 for name in expected} == checker.last


def test_a_worker_is_killed_in_a_storm() -> None:
    """The others are told a gap and go on without a hole in what they say to each other; its successor is heard.

    They stand still meanwhile, so that much of what it has said waits for them, and something of theirs for it: uvloop
    tells but once of such an end. All that was said is heard.
    """
    with Daemon(LAST_WORDS, workers=4, loop="uvloop") as daemon, ExitStack() as stack:
        daemon.start()
        clients = one_in_each(daemon, stack, 4)
        pids = {slot: int(say(one, "who").split()[0]) for slot, one in clients.items()}
        victim = psutil.Process(pids.pop(2))
        readers = {slot: one for slot, one in clients.items() if slot != 2}
        checkers = {slot: Checker() for slot in readers}
        for one in clients.values():
            one.send("sub storm")
            while str(one.recv(10)) != "ok storm":
                pass
        _read_until(readers, checkers, lambda checker: len(checker.last) == 4)
        before = set(checkers[1].last)
        clients[2].send("end " + " ".join(map(str, pids.values())))
        eventually(lambda: not victim.is_running(), "it is dead")
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)
        _read_until(readers, checkers, lambda checker: bool(checker.gaps) and len(checker.last) == 5)
        assert 1 == len({checker.last["2"] for checker in checkers.values()})
        # clients that have much to read close late
        for one in readers.values():
            one.send("unsub storm")
            while str(one.recv(10)) != "ok storm":
                pass
        with pytest.raises(ConnectionClosed):
            heard(clients[2], 10**6)
        for checker in checkers.values():
            assert ["storm"] == checker.gaps
            assert {} == checker.holes
            assert before < set(checker.last)


def _read_until(readers: dict[int, ClientConnection], checkers: dict[int, Checker], fact: Any) -> None:
    give_up_at = time.monotonic() + 20
    while not all(fact(checker) for checker in checkers.values()):
        assert time.monotonic() < give_up_at, {slot: vars(checker) for slot, checker in checkers.items()}
        for slot, one in readers.items():
            for _ in range(20):
                checkers[slot].take(one.recv(10))


@pytest.mark.parametrize("strategy", ["handover", "drain"])
def test_a_reload_makes_no_gap(strategy: str) -> None:
    """Each client has every message from its first to its last, while all four workers are replaced under it."""
    with Daemon(STORM, workers=4, drain_window=2, reload_strategy=strategy) as daemon:
        daemon.start()
        comings = asyncio.run(_reload_under(daemon))
        # who moves does not come again
        assert comings == 8 if strategy == "handover" else comings > 8
        assert "may be missing" not in daemon.log
        assert "do not answer on the bus" not in daemon.log


async def _reload_under(daemon: Daemon) -> int:
    """Listen while all workers are replaced; return how often somebody has come to do so."""
    ended = asyncio.Event()

    async def listen() -> Checker:
        checker = Checker()
        try:
            async with connect(f"ws://127.0.0.1:{daemon.port}/", proxy=None) as one:
                await one.send("sub storm")
                assert "ok storm" == await one.recv()
                while not ended.is_set():
                    checker.take(await asyncio.wait_for(one.recv(), 10))
        except ConnectionClosed:
            assert 1012 == one.close_code
        except InvalidStatus as refused:
            # its worker was told to go before the handshake was over
            if refused.response.status_code != 503:
                raise
        return checker

    async def keep_listening() -> list[Checker]:
        checkers = []
        while not ended.is_set():
            checkers.append(await listen())
        return checkers

    listeners = [asyncio.create_task(keep_listening()) for _ in range(8)]
    await asyncio.sleep(0.5)
    outcome = await asyncio.to_thread(daemon.cli, "reload")
    assert 0 == outcome.code, outcome.err
    await asyncio.sleep(1)
    ended.set()
    checkers = [checker for listener in listeners for checker in await listener]
    for checker in checkers:
        assert ([], {}) == (checker.gaps, checker.holes)
    # old and new workers have heard each other
    assert any(len(checker.last) > 4 for checker in checkers)
    return len(checkers)


def test_a_worker_that_stands_still() -> None:
    """Its queue stops at its bound and others go on; once it reads again the gap is told before what came later."""
    with Daemon(APP, workers=3, bus={"peer_queue": "256KiB"}) as daemon, ExitStack() as stack:
        daemon.start()
        clients = one_in_each(daemon, stack, 3)
        publisher, sleeper = (psutil.Process(int(say(clients[slot], "who").split()[0])) for slot in (1, 2))
        assert "ok big" == say(clients[2], "sub big")
        assert "ok other" == say(clients[3], "sub other")
        until_heard(clients[1], [clients[2]], "big")
        until_heard(clients[1], [clients[3]], "other")
        before = publisher.memory_info().rss
        sleeper.suspend()
        try:
            # 50 MB
            clients[1].send("flood big 50000")
            for number in range(100):
                clients[1].send(f"pub other all {number}")
            assert [f"all {number}" for number in range(100)] == heard(clients[3], 100)
            assert publisher.memory_info().rss - before < 10 * 2**20
        finally:
            sleeper.resume()
        checker = Checker()
        while not checker.gaps:
            checker.take(clients[2].recv(10))
        assert "big" == checker.gaps[0]
        assert max(checker.last.values()) < 49999
        clients[1].send("pub big later 1")
        while str(message := clients[2].recv(10)) != "later 1":
            checker.take(message)
        clients[1].send("pub other last")
        assert [] == heard_until(clients[3], "last")


def test_a_process_that_user_code_forks() -> None:
    """It lives on behind its worker, and holds none of its links: when the worker dies, the others know at once."""
    with Daemon(FORKS, workers=2) as daemon, ExitStack() as stack:
        daemon.start()
        clients = one_in_each(daemon, stack, 2)
        for one in clients.values():
            assert "ok room" == say(one, "sub room")
        until_heard(clients[2], [clients[1]], "room")
        forked = psutil.Process(int(say(clients[2], "fork")))
        try:
            # nothing is said twice, and the links are as good as before
            for number in range(10):
                clients[2].send(f"pub room forked {number}")
            assert [f"forked {number}" for number in range(10)] == heard(clients[1], 10)
            os.kill(int(say(clients[2], "who").split()[0]), signal.SIGKILL)
            assert ["gap room"] == heard(clients[1], 1)
            assert forked.is_running()
        finally:
            forked.kill()


def test_publishing_from_outside(daemon: Daemon) -> None:
    """By the command and from Python, also over a reload; it reaches every worker, and errors say what is wrong."""
    control = daemon.run_dir / f"{daemon.name}.sock"
    with ExitStack() as stack:
        clients = one_in_each(daemon, stack, 4)
        for one in clients.values():
            assert "ok news" == say(one, "sub news")
        until_heard(clients[1], [clients[2], clients[3], clients[4]], "news")
        outcome = daemon.cli("publish", "news", "from a shell")
        assert (0, "published 12 bytes to news\n", "") == outcome
        client.publish("news", "from Python", control_socket=control)
        asyncio.run(client.apublish("news", b"\xff", control_socket=control))
        for one in clients.values():
            assert ["from a shell", "from Python", b"\xff"] == [one.recv(10) for _ in range(3)]
    assert 0 == daemon.cli("reload").code
    # the worker that it was linked with has said goodbye
    client.publish("news", "again", control_socket=control)
    with pytest.raises(PublishError, match=r"a message of 1048577 bytes is over bus\.max_message = 1048576"):
        client.publish("news", bytes(2**20 + 1), control_socket=control)
    outcome = daemon.cli("publish", "news", "x" * 10 + "\x01", "--json")
    assert 0 == outcome.code
    daemon.close_master()
    daemon.wait_gone()
    assert 7 == daemon.cli("publish", "news", "nobody").code
    with pytest.raises(NotRunning):
        client.publish("news", "nobody", control_socket=control)


MOVING = """
import asyncio

def on_worker_start(worker):
    worker.every(0.01, lambda: worker.publish("news", f"mark {worker.id}"))

def on_connect(connection):
    connection.subscribe("news")

async def on_worker_reload(worker):
    while worker.connections:
        for connection in worker.connections.values():
            connection.send("move")
        await asyncio.sleep(0.01)
"""
"""A worker leaves at once if it has no clients, and otherwise as soon as they have gone, which they are told to do."""


class Ear:
    """A connection. heard: what came, and how often; marks: which workers have spoken last; told: it is to move."""

    def __init__(self, one: AsyncClient) -> None:
        self.one = one
        self.heard: Counter[str] = Counter()
        self.marks: deque[str] = deque(maxlen=20)
        self.told = asyncio.Event()
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self.one:
            match str(message).split():
                case ["move"]:
                    self.told.set()
                case ["mark", worker]:
                    self.marks.append(worker)
                case _:
                    self.heard[str(message)] += 1


def test_a_reload_loses_nothing_from_outside() -> None:
    """Programs publish without a pause while workers leave: each message is accepted, and heard exactly once."""
    with Daemon(MOVING, workers=3) as daemon:
        daemon.start()
        asyncio.run(_publish_under(daemon, publishers=3, readers=2, reloads=3))
        assert "may be missing" not in daemon.log
        assert "could not be" not in daemon.log


async def _publish_under(daemon: Daemon, publishers: int, readers: int, reloads: int) -> None:
    control = daemon.run_dir / f"{daemon.name}.sock"
    ended = threading.Event()

    def publish(name: int) -> list[str]:
        published: list[str] = []
        while not ended.is_set():
            text = f"{name} {len(published)}"
            # each with a link of its own; the file is not read
            client.publish("news", text, config=str(name), control_socket=control)
            published.append(text)
        return published

    async def ear() -> Ear:
        while True:
            try:
                return Ear(await connect(f"ws://127.0.0.1:{daemon.port}/", proxy=None))
            except InvalidStatus as refused:
                # its worker was told to go before the handshake was over
                if refused.response.status_code != 503:
                    raise

    async def move(ears: list[Ear]) -> None:
        while True:
            old = ears[-1]
            await old.told.wait()
            ears.append(await ear())
            # until all who speak are heard by the new one too
            old.marks.clear()
            while len(old.marks) < 20 or not set(old.marks) <= set(ears[-1].marks):
                await asyncio.sleep(0.01)
            await old.one.close()

    everybody = [[await ear()] for _ in range(readers)]
    async with asyncio.timeout(20):
        while not all(len(set(ears[0].marks)) == 3 for ears in everybody):
            await asyncio.sleep(0.01)
    movers = [asyncio.create_task(move(ears)) for ears in everybody]
    programs = [asyncio.create_task(asyncio.to_thread(publish, name)) for name in range(publishers)]
    try:
        for _ in range(reloads):
            outcome = await asyncio.to_thread(daemon.cli, "reload")
            assert 0 == outcome.code, outcome.err
    finally:
        ended.set()
    expected = {text for program in programs for text in await program}
    for ears in everybody:
        give_up_at = time.monotonic() + 15
        while missing := expected - set().union(*(one.heard for one in ears)):
            assert time.monotonic() < give_up_at, f"{len(missing)} of {len(expected)} are missing: {min(missing)}"
            await asyncio.sleep(0.02)
        assert len(ears) > reloads
        assert {1} == {count for one in ears for count in one.heard.values()}
    for mover in movers:
        mover.cancel()
    for ears in everybody:
        await ears[-1].one.close()
        for one in ears:
            await one.listening


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stop_while_the_broker_is_away(workers: int) -> None:
    """Other machines miss what was published, and nobody is left to tell them: the last worker says so at least.

    One that leaves before others are told to hands it on to them. At a reload none says it: each finds one that stays.
    """
    url = f"redis://127.0.0.1:{free_port()}"
    untold = "other machines could not be told that messages of this one are missing"
    with Daemon(STORM, workers=workers, bus={"url": url}) as daemon:
        daemon.start()

        def all_have_dropped() -> bool:
            slots = daemon.status()["workers"]
            return len(slots) == workers and daemon.status()["totals"]["bus_dropped"] > 0

        eventually(lambda: daemon.log.count("is out of reach") == workers, "all know that it is away")
        eventually(all_have_dropped, "what they have published is dropped")
        assert 0 == daemon.cli("reload").code
        eventually(lambda: len(daemon.workers) == workers, "the old ones are gone")
        assert untold not in daemon.log
        eventually(lambda: daemon.log.count("is out of reach") >= 2 * workers, "the new ones know it as well")
        assert 0 == daemon.cli("stop").code
        assert 1 <= daemon.log.count(untold) <= workers, daemon.log


def _address(daemon: Daemon) -> dict[str, Any]:
    service = ask.locate(daemon.config, daemon.environ)
    (reply,) = ask.replies(service, Command("bus"))
    return dict(reply.body)


def test_peers_that_are_none() -> None:
    """Without the secret, of another version or run, with garbage or huge lengths: they are out, and nothing leaks."""
    with Daemon(APP, workers=2) as daemon:
        daemon.start()
        address = _address(daemon)
        path, secret = address["sockets"][0], bytes.fromhex(address["secret"])
        right = Hello(secret, 0, 0, 1000, address["node"])
        message = records.encode_envelope(Envelope(Key("topic", "t"), b"x"))
        worker = psutil.Process(daemon.workers[0])
        before = worker.num_fds()
        for opening in (
            records.encode_hello(right._replace(secret=bytes(16))) + message,
            records.encode_hello(right._replace(version=2)),
            records.encode_hello(right._replace(node="another")),
            records.encode_hello(right._replace(worker=99, slot=1)),
            b"GET / HTTP/1.1\r\n\r\n",
            struct.pack("!I", 2**32 - 1),
            message,
            records.encode_hello(right) + records.encode(Type.SNAPSHOT),
            records.encode_hello(right) + records.encode(Type.MESSAGE, flags=4),
            records.encode_hello(right) + struct.pack("!I", 2**31),
            records.encode_hello(right)[:20],
            b"",
        ):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(15)
                peer.connect(path)
                peer.sendall(opening)
                while peer.recv(65536):
                    pass
        eventually(lambda: worker.num_fds() <= before, "all closed")
        assert "does not know the secret" in daemon.log
        assert secret.hex() not in daemon.log
        client.publish("t", "still there", control_socket=daemon.run_dir / f"{daemon.name}.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
def test_workers_that_cannot_walk_to_each_other() -> None:
    """Of another user, and below folders that only root may enter: they meet all the same, also behind a reload."""
    with Daemon(APP, workers=2, user="nobody", loop="asyncio") as daemon, ExitStack() as stack:
        daemon.start()
        assert 0 == daemon.cli("reload").code
        clients = one_in_each(daemon, stack, 2)
        assert "ok room" == say(clients[2], "sub room")
        until_heard(clients[1], [clients[2]], "room")
        client.publish("room", "from root", control_socket=daemon.run_dir / f"{daemon.name}.sock")
        assert "from root" == clients[2].recv(10)
        assert "do not answer on the bus" not in daemon.log


def wait_for_workers(daemon: Daemon, count: int) -> None:
    """Wait until there are so many, and all are ready."""
    daemon.wait_status(lambda status: len(status["workers"]) == status["workers_ready"] == count)


def test_reloads_leave_nothing_behind() -> None:
    """After some of them, and one worker more and one less, there are as many links and descriptors as before."""
    with Daemon(APP, workers=3) as daemon:
        daemon.start()
        assert 0 == daemon.cli("reload").code
        daemon.wait_status(lambda status: [2, 2, 2] == [row["bus_links"] for row in status["workers"]])
        before = daemon.descriptors()
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            daemon.signal(number)
            wait_for_workers(daemon, 4 if number == signal.SIGTTIN else 3)
        for _ in range(3):
            assert 0 == daemon.cli("reload").code
        eventually(lambda: len(daemon.workers) == 3, "the old ones are gone")
        # less is possible: one that was just used may have been counted before
        eventually(lambda: daemon.descriptors() <= before, "no more descriptors than before")
        folder = daemon.run_dir / f"{daemon.name}.bus"
        assert ["1.sock", "2.sock", "3.sock"] == sorted(path.name for path in folder.iterdir())
        daemon.close_master()
        assert not folder.exists()
