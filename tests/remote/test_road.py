"""The way to a broker: kept, made anew, and never used for one message twice; with real brokers and their faults."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.bus.nats.server import NatsServer
from tests.bus.redis.servers import Valkey, cluster
from tests.bus.redis.servers import valkey as run_valkey
from tests.remote.peer import HOST, Peer, Talk, soon, until
from tests.remote.peer import nothing_kept as nothing_kept
from wsworker.brokers import Server
from wsworker.bus.redis.slots import slot_of
from wsworker.bus.topics import Envelope, Key
from wsworker.errors import PublishError
from wsworker.remote import road
from wsworker.remote.road import road_to

HEAD = struct.Struct("!BBBBIQ")


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """Run a Valkey."""
    with run_valkey() as server:
        yield server


class Reader:
    """Whoever has subscribed to a topic of a Valkey. numbers: which message of which program has come, in order."""

    def __init__(self, server: Valkey, topic: str = "news") -> None:
        self.numbers: list[tuple[int, int]] = []
        self._client = redis.Redis(port=server.port)
        self._pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(f"wsworker:topic:{topic}")
        assert "subscribe" == self._pubsub.get_message(timeout=10)["type"]

    def bodies(self, last: bytes) -> list[bytes]:
        """Return what has come, up to this one."""
        found: list[bytes] = []
        while not found or found[-1] != last:
            message = self._pubsub.get_message(timeout=10)
            assert message is not None, found
            version, number, flags, size, program, count = HEAD.unpack_from(message["data"])
            assert (1, 4, 0, 0) == (version, number, flags, size)
            self.numbers.append((program, count))
            found.append(message["data"][HEAD.size :])
        return found

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


@pytest.fixture
def reader(valkey: Valkey) -> Iterator[Reader]:
    """Return who has subscribed to news."""
    made = Reader(valkey)
    yield made
    made.close()


def publish(url: str, text: str | bytes = "x", seconds: float = 10.0, topic: str = "news") -> None:
    """Publish a text, or bytes."""
    body = text.encode() if isinstance(text, str) else text
    envelope = Envelope(Key("topic", topic), body, binary=isinstance(text, bytes))
    road_to(url).publish("wsworker:", envelope, soon(seconds))


def url_of(server: Valkey | Peer) -> str:
    """Return where a server is."""
    return f"redis://{HOST}:{server.port}"


def connections(server: Valkey) -> int:
    """Return how many connections were ever made."""
    return int(server.run("INFO", "stats")["total_connections_received"])


def published(server: Valkey) -> tuple[int, int]:
    """Return how often a server of a cluster has published something, and how often it has named another server."""
    stats: dict[str, Any] = server.run("INFO", "commandstats")
    about = stats.get("cmdstat_spublish", {"calls": 0, "rejected_calls": 0})
    return int(about["calls"]), int(about["rejected_calls"])


def still(server: Valkey | NatsServer) -> None:
    """Have a server hang, and wait until it does."""
    server.pause()
    assert server._process is not None
    process = psutil.Process(server._process.pid)
    until(lambda: process.status() == psutil.STATUS_STOPPED)


def refused(act: Callable[[], None]) -> PublishError:
    """Return the error with which this ends."""
    with pytest.raises(PublishError) as told:
        act()
    return told.value


def test_one_connection_for_many_messages(valkey: Valkey, reader: Reader) -> None:
    """Each arrives once, in its order; from several threads too."""
    before = connections(valkey)
    for number in range(100):
        publish(url_of(valkey), f"{number}")

    def some(name: int) -> None:
        for number in range(50):
            publish(url_of(valkey), f"{name}.{number}")

    threads = [threading.Thread(target=some, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    publish(url_of(valkey), "last")
    found = [body.decode() for body in reader.bodies(b"last")]
    assert [f"{number}" for number in range(100)] == found[:100]
    for name in range(4):
        assert [f"{name}.{number}" for number in range(50)] == [body for body in found if body.startswith(f"{name}.")]
    # each look at it is one as well
    assert before + 2 == connections(valkey)


def test_a_server_that_was_restarted(valkey: Valkey) -> None:
    """The next message goes through over a new connection, once."""
    publish(url_of(valkey))
    valkey.kill()
    error = refused(lambda: publish(url_of(valkey)))
    sentence = f"{url_of(valkey)} cannot be reached (Connection refused); the message was not sent"
    assert ("no_broker", sentence) == (error.code, str(error))
    valkey.start()
    reader = Reader(valkey)
    publish(url_of(valkey), "1")
    valkey.run("CLIENT", "KILL", "TYPE", "normal")
    publish(url_of(valkey), "2")
    assert [b"1", b"2"] == reader.bodies(b"2")
    reader.close()


def test_a_redis_that_hangs(valkey: Valkey, reader: Reader) -> None:
    """There is an end to waiting; the message may come later, but never twice, and the next one has its own way."""
    publish(url_of(valkey), "0")
    still(valkey)
    error = refused(lambda: publish(url_of(valkey), "1", seconds=0.2))
    sentence = f"{url_of(valkey)} gave no answer in time; it may come through all the same"
    assert ("timeout", sentence) == (error.code, str(error))
    # the kernel still takes a connection for it
    assert "timeout" == refused(lambda: publish(url_of(valkey), "2", seconds=0.2)).code
    valkey.resume()
    publish(url_of(valkey), "3")
    found = reader.bodies(b"3")
    assert (b"0", b"3") == (found[0], found[-1])
    assert len(set(found)) == len(found)


def test_a_nats_that_hangs(tmp_path: Path) -> None:
    """The same, whether it was greeted before or not."""
    server = NatsServer(tmp_path)
    try:
        server.start()
        publish(server.url)
        still(server)
        assert "timeout" == refused(lambda: publish(server.url, seconds=0.2)).code
        error = refused(lambda: publish(server.url, seconds=0.2))
        server.go_on()
        assert "no_broker" == error.code
        assert f"{server.url} cannot be reached (no answer in time); the message was not sent" == str(error)
        publish(server.url)
    finally:
        server.kill()


def test_the_other_servers(tmp_path: Path) -> None:
    """One that is down, or hangs, keeps nobody from those that are there."""
    down, hangs, up = NatsServer(tmp_path), NatsServer(tmp_path), NatsServer(tmp_path)
    try:
        hangs.start()
        up.start()
        still(hangs)
        url = f"nats://{down.address},{hangs.address},{up.address}"
        for _ in range(4):
            # half of it at least for the one that is there
            publish(url, seconds=4.0)
            road_to(url).close()
        up.kill()
        error = refused(lambda: publish(url, seconds=0.3))
        assert "no_broker" == error.code
        assert "Connection refused" in str(error)
        assert "no answer in time" in str(error)
    finally:
        hangs.kill()
        up.kill()


def test_what_was_sent_and_not_answered_is_not_sent_again() -> None:
    """The server ends instead of answering: nobody knows, and it is the caller's to judge."""
    heard = []

    def script(talk: Talk) -> None:
        heard.append(talk.hear(b"hello\r\n"))

    with Peer(script) as peer:
        error = refused(lambda: publish(url_of(peer), "hello"))
    assert ("no_answer", 1, 1) == (error.code, len(heard), peer.talks)
    assert "did not answer to the message (it has closed the connection); it may come through all the same" in str(
        error
    )


def test_what_has_reached_nobody_is_sent_again() -> None:
    """The server goes while it is sent: a part of a message is none. The same one twice is too much."""
    heard: list[bytes] = []
    large = b"x" * 2**24

    def goes(talk: Talk) -> None:
        talk.hear(b"PUBLISH")

    def stays(talk: Talk) -> None:
        heard.append(talk.hear(large))
        talk.say(b":1\r\n")
        talk.hear()

    with Peer(goes, stays) as peer:
        publish(url_of(peer), large, seconds=60)
        assert (1, 2) == (len(heard), peer.talks)
        road_to(url_of(peer)).close()
    with Peer(goes) as peer:
        error = refused(lambda: publish(url_of(peer), large, seconds=60))
        assert ("no_broker", road.MAX_ATTEMPTS) == (error.code, peer.talks)
        assert "keeps ending the connection, or naming another server; the message was not sent" in str(error)


def test_a_server_that_does_not_read() -> None:
    """It has not got the last byte, so whoever sends it knows that nobody has the message."""
    done = threading.Event()

    def script(talk: Talk) -> None:
        done.wait(10)

    with Peer(script) as peer:
        error = refused(lambda: publish(url_of(peer), b"x" * 2**24, seconds=0.2))
        done.set()
    assert ("timeout", f"{url_of(peer)} did not take all of the message in time; it was not sent") == (
        error.code,
        str(error),
    )


def test_a_connection_that_was_idle(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not trusted any more, though it looks well."""
    publish(url_of(valkey))
    before = connections(valkey)
    monkeypatch.setattr(road, "IDLE_SECONDS", 0.0)
    publish(url_of(valkey))
    assert before + 2 == connections(valkey)


def test_others_wait_no_longer_than_their_time(valkey: Valkey) -> None:
    """One message takes the way at a time."""
    still(valkey)
    first = threading.Thread(target=publish, args=(url_of(valkey),))
    first.start()
    until(lambda: road_to(url_of(valkey))._lock.locked())
    error = refused(lambda: publish(url_of(valkey), seconds=0.1))
    valkey.resume()
    first.join()
    sentence = f"other messages of this program wait for {url_of(valkey)}; this one was not sent"
    assert ("timeout", sentence) == (error.code, str(error))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(valkey: Valkey, reader: Reader) -> None:
    """Two processes on one stream would get each other's answers; the parent's goes on."""
    publish(url_of(valkey), "parent")
    before = connections(valkey)
    pid = os.fork()
    if pid == 0:
        try:
            publish(url_of(valkey), "child")
            os._exit(0)
        finally:
            os._exit(1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    publish(url_of(valkey), "parent again")
    assert [b"parent", b"child", b"parent again"] == reader.bodies(b"parent again")
    assert before + 2 == connections(valkey)


def test_a_cluster() -> None:
    """Each topic is published by the server that has it; after the first message to it nobody else is asked."""
    with cluster(3) as servers:
        url = f"redis+cluster://{HOST}:{servers[0].port}"
        topics = ["a", "b", "c", "d", "e{a}", "f"]
        homes = {topic: min(slot_of(f"wsworker:topic:{topic}".encode()) * 3 // 16384, 2) for topic in topics}
        assert {0, 1, 2} == set(homes.values())
        for topic in topics:
            publish(url, topic, topic=topic)
        calls, elsewhere = zip(*(published(server) for server in servers), strict=True)
        here = tuple(sum(home == number for home in homes.values()) for number in range(3))
        assert (here, (sum(here[1:]), 0, 0)) == (calls, elsewhere)
        for topic in topics:
            publish(url, topic, topic=topic)
        calls, elsewhere = zip(*(published(server) for server in servers), strict=True)
        assert (tuple(2 * number for number in here), (sum(here[1:]), 0, 0)) == (calls, elsewhere)


def test_a_server_of_a_cluster_that_has_gone() -> None:
    """The others are asked who has its topics now."""

    def elsewhere(talk: Talk) -> None:
        while talk.hear(b"hello\r\n"):
            talk.say(f"-MOVED 1 {HOST}:{second.port}\r\n".encode())

    def here(talk: Talk) -> None:
        while talk.hear(b"hello\r\n"):
            talk.say(b":1\r\n")

    with Peer(here) as second, Peer(elsewhere, here) as first:
        url = f"redis+cluster://{HOST}:{first.port}"
        publish(url, "hello")
        publish(url, "hello")
        assert (1, 1) == (first.talks, second.talks)
        second.close()
        road_to(url)._links.pop(Server(HOST, first.port))[0].stream.close()
        publish(url, "hello")
        assert (2, 1) == (first.talks, second.talks)


def test_a_wrong_url() -> None:
    """It is nothing to keep."""
    with pytest.raises(ValueError, match="it begins with one of redis://"):
        road_to("http://geheim@h")
    assert {} == road._roads


def test_each_message_has_a_number_and_each_program_one(valkey: Valkey, reader: Reader, nothing_kept: None) -> None:
    """So a worker knows one that it meets twice; a child that was forked is another program."""
    for text in ("a", "b"):
        publish(url_of(valkey), text)
    child = os.fork()
    if not child:
        publish(url_of(valkey), "c")
        os._exit(0)
    assert (child, 0) == os.waitpid(child, 0)
    publish(url_of(valkey), "d")
    assert [b"a", b"b", b"c", b"d"] == reader.bodies(b"d")
    (mine, first), second, (other, of_child), third = reader.numbers
    assert [(mine, 2), (mine, 3)] == [second, third]
    assert (1, 1) == (first, of_child)
    assert 0 not in (mine, other)
    assert mine != other
