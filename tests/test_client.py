"""Publishing from a program that is no worker: a worker is found, linked with, kept, and left when it leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.conftest import NAME, Answering, Place, Script
from tests.cli.conftest import place as place
from tests.cli.conftest import running as running
from tests.outside import NODE, SECRET, Service
from tests.outside import service as service
from tests.remote.peer import HOST, Peer, Talk
from tests.remote.peer import nothing_kept as nothing_kept
from wsworker import client
from wsworker.bus import records
from wsworker.bus.topics import Envelope, Key
from wsworker.errors import ConfigError, NotRunning, PublishError
from wsworker.sections import BusConfig


def test_messages_arrive_as_they_are_over_one_link(service: Service) -> None:
    """The master is asked once; text stays text and bytes stay bytes."""
    worker = service.worker()
    for data in ("é", b"\xff", bytearray(b"a"), memoryview(b"m"), ""):
        service.publish(data)
    assert [
        Envelope(Key("topic", "news"), "é".encode()),
        *(Envelope(Key("topic", "news"), body, binary=True) for body in (b"\xff", b"a", b"m")),
        Envelope(Key("topic", "news"), b""),
    ] == worker.messages
    assert (1, 1) == (service.asked, worker.links)
    hello = records.decode_hello(worker.heard[0].body)
    assert (SECRET, 0, 0, NODE) == (hello.secret, hello.worker, hello.slot, hello.node)


def test_from_an_event_loop(service: Service) -> None:
    """It gives way meanwhile, and several at once arrive each once."""
    worker = service.worker()

    async def main() -> None:
        control = str(service.control_socket)
        await asyncio.gather(*(client.apublish("news", str(number), control_socket=control) for number in range(20)))

    asyncio.run(main())
    assert {str(number).encode() for number in range(20)} == {envelope.body for envelope in worker.messages}
    assert 20 == len(worker.messages)


def test_what_waits_for_a_thread_has_no_more_time(monkeypatch: pytest.MonkeyPatch, nothing_kept: None) -> None:
    """An event loop has few threads: a call that gets one too late ends at once, and has sent nothing."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.05)
    sentence = r"^no thread of this program was free in 0 s \(see asyncio.to_thread\); the message was not sent$"
    free = threading.Event()

    async def publish(url: str) -> None:
        with pytest.raises(PublishError, match=sentence) as told:
            await client.apublish("news", "hello", url=url)
        assert "timeout" == told.value.code

    async def main(url: str) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, free.wait)
        calls = [asyncio.create_task(publish(url)) for _ in range(3)]
        # each has been made
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        free.set()
        await asyncio.gather(*calls)

    heard: list[bytes] = []
    with Peer(taken(heard)) as peer:
        asyncio.run(main(f"redis://{HOST}:{peer.port}"))
        assert ([], 0) == (heard, peer.talks)


def test_a_worker_that_leaves_is_left(service: Service) -> None:
    """Its goodbye is seen before the next message, which goes to another one."""
    first = service.worker()
    service.publish("1")
    second = service.worker()
    service.leave(first)
    service.publish("2")
    assert (["1"], ["2"]) == tuple([e.body.decode() for e in one.messages] for one in (first, second))
    assert 2 == service.asked


def test_what_has_reached_nobody_is_sent_to_another_worker(service: Service) -> None:
    """A worker that has just begun to leave hears no more; no signal is raised, whatever SIGPIPE means here."""
    worker = service.worker()
    worker.leaves = 2
    raised: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, frame: raised.append(number))
    try:
        service.publish("1")
        service.publish("2")
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert [] == raised
    assert [b"1", b"2"] == [envelope.body for envelope in worker.messages]
    assert (3, 3) == (worker.links, service.asked)


def test_workers_that_always_leave(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an end to looking for another one."""
    worker = service.worker()
    worker.leaves = 10**6

    def now() -> float:
        # the time is up with the third link, however long the first two have taken
        return time.monotonic() + (client.ANSWER_SECONDS if worker.links > 2 else 0)

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=now))
    sentence = f"the workers of the service at {service.control_socket} keep leaving; the message was not sent; see"
    with pytest.raises(PublishError, match=sentence) as caught:
        service.publish("1")
    assert "timeout" == caught.value.code
    worker.leaves = 0
    assert [] == worker.messages


def test_a_worker_that_dies_without_an_answer(service: Service) -> None:
    """Nobody knows whether the message came through, so it is not sent again; the next one finds another way."""
    worker = service.worker()
    worker.dies = True
    with pytest.raises(PublishError, match="the worker ended before it answered; the message may have come") as caught:
        service.publish("1")
    assert "no_answer" == caught.value.code
    assert 1 == len(worker.messages)
    worker.dies = False
    service.publish("2")
    assert 2 == worker.links


def test_a_worker_that_does_not_answer(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an end to waiting, and the link is not used again."""
    worker = service.worker()
    service.publish("0")
    worker.deaf = True
    with monkeypatch.context() as patch:
        patch.setattr(client, "ANSWER_SECONDS", 0.1)
        sentence = "the worker gave no answer in 0 s; the message may come through"
        with pytest.raises(PublishError, match=sentence) as caught:
            service.publish("1")
    assert "timeout" == caught.value.code
    worker.deaf = False
    service.publish("2")
    assert 2 == worker.links


def test_a_worker_that_does_not_read(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a message is none, so whoever sends it knows that nobody has it."""
    worker = service.worker()
    worker.most = 2**20
    service.publish("0")
    worker.stuck = True
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)
    with pytest.raises(PublishError, match="did not take all of the message in 0 s; it was not sent") as caught:
        service.publish(bytes(2**20))
    assert "timeout" == caught.value.code


def test_a_worker_that_ends_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may come between connecting and the greeting; that raises no signal, whatever SIGPIPE means here."""
    listener = socket.socket(socket.AF_UNIX)
    path = service.control_socket.with_name("1.sock")
    listener.bind(str(path))
    listener.listen()

    class Late(client.WorkerLink):
        """One that greets when the other side has ended."""

        def _connect(self, path: str) -> None:
            super()._connect(path)
            listener.close()

    raised: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, frame: raised.append(number))
    try:
        with pytest.raises(OSError, match="Broken pipe"):
            Late(str(path), {"node": NODE, "secret": SECRET.hex()}, time.monotonic() + 5)
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert [] == raised


def test_a_service_that_hangs_keeps_nobody_else_waiting(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each service has its own way; and who waits for that of one waits no longer than for an answer."""
    worker = service.worker()
    service.publish("1")
    (road,) = client._roads.values()
    with road.lock:
        with monkeypatch.context() as patch:
            patch.setattr(client, "ANSWER_SECONDS", 0.1)
            with pytest.raises(PublishError, match="got no answer in 0 s; this one was not sent") as caught:
                service.publish("2")
        client.publish("news", "3")
    assert "timeout" == caught.value.code
    service.publish("4")
    assert [b"1", b"3", b"4"] == [envelope.body for envelope in worker.messages]


def test_a_master_that_hangs(
    place: Place, running: Callable[[Script], Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is an end to waiting for it too."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)
    running({})
    ways: list[dict[str, Any]] = [{"control_socket": place.paths.socket}, {"config": place.config}]
    for where in ways:
        name = NAME if "config" in where else f"the service at {place.paths.socket}"
        sentence = f"^{name} runs, but does not say where its workers are; see its log"
        with pytest.raises(PublishError, match=sentence) as told:
            client.publish("news", "1", **where)
        assert "timeout" == told.value.code


def test_a_full_queue_at_a_socket_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that hangs is told as such also where its lock lies elsewhere: somebody listens, so it runs."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)
    path = place.paths.folder.parent / "own.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        listener.bind(str(path))
        # the queue takes one all the same
        listener.listen(0)
        caller.connect(str(path))
        with pytest.raises(PublishError, match=f"^the service at {path} runs, but gave no answer") as told:
            client.publish("news", "1", control_socket=path)
    assert "timeout" == told.value.code


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a directory somebody else's")
def test_a_socket_in_a_folder_of_somebody_else(service: Service) -> None:
    """As that of a user whom the service runs as: who names it means it."""
    worker = service.worker()
    os.chown(service.control_socket.parent, 65534, 65534)
    service.publish("1")
    assert [b"1"] == [envelope.body for envelope in worker.messages]


def test_what_is_too_large_is_not_sent(service: Service) -> None:
    """The limit is the worker's, and the link stays."""
    worker = service.worker()
    service.publish("x" * 100)
    sentence = r"a message of 101 bytes is over bus\.max_message = 100; raise it or send less"
    with pytest.raises(PublishError, match=sentence) as caught:
        service.publish("x" * 101)
    assert "too_large" == caught.value.code
    service.publish("y")
    assert ((1, 2), 1) == ((worker.links, len(worker.messages)), service.asked)


def test_what_cannot_be_published(service: Service) -> None:
    """The errors are those of worker.publish, and nobody is asked."""
    wrong: Any
    for wrong in (None, 7, ["a"]):
        with pytest.raises(TypeError, match="a message is str"):
            service.publish(wrong)
    with pytest.raises(UnicodeEncodeError):
        service.publish("\ud800")
    for topic in ("", "a" * 256, "a\n"):
        with pytest.raises(ValueError, match="a topic has"):
            service.publish("x", topic)
    assert 0 == service.asked


def test_nobody_takes_it(service: Service) -> None:
    """No worker is ready, nobody is at the socket, or whoever is there is not of this service."""
    text = f"no worker of the service at {service.control_socket} takes messages now; see `wsworker status`"
    with pytest.raises(PublishError, match=text):
        service.publish("1")
    worker = service.worker(secret=bytes(16))
    with pytest.raises(PublishError, match=text):
        service.publish("1")
    assert [] == worker.messages
    nobody = worker.path.with_name("nobody.sock")
    nobody.touch()
    service.address["sockets"] = [str(nobody), "/none/1.sock"]
    with pytest.raises(PublishError, match=text):
        service.publish("1")


def test_the_master_cannot_be_asked(place: Place, running: Callable[[Script], Answering]) -> None:
    """Nothing runs: NotRunning, as it is; whatever else is wrong is a PublishError with its code."""
    with pytest.raises(NotRunning):
        client.publish("news", "1", control_socket=place.paths.socket)
    running({"bus": []})
    with pytest.raises(PublishError, match="closed the connection without an answer") as caught:
        client.publish("news", "1", control_socket=place.paths.socket)
    assert "no_answer" == caught.value.code


def test_where_the_service_is(service: Service, place: Place) -> None:
    """By its control socket, by a config file, or by the one that a command would take; each has its own link."""
    worker = service.worker()
    service.publish("1")
    client.publish("news", "2", config=place.config)
    client.publish("news", "3")
    client.publish("news", "4", config="config.yaml")
    assert (3, 4) == (service.asked, len(worker.messages))
    with pytest.raises(ConfigError):
        client.publish("news", "5", config="none.yaml")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_links_of_its_own(service: Service) -> None:
    """Two processes on one stream would get each other's answers."""
    worker = service.worker()
    service.publish("parent")
    pid = os.fork()
    if pid == 0:
        try:
            service.publish("child")
            os._exit(0)
        finally:
            os._exit(1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    service.publish("parent again")
    assert (2, 3) == (worker.links, len(worker.messages))


def taken(into: list[bytes]) -> Callable[[Talk], None]:
    """Return the script of a Redis that writes down the commands that it gets, of which each ends with hello."""

    def script(talk: Talk) -> None:
        while heard := talk.hear(b"hello\r\n"):
            into.append(heard)
            talk.say(b":1\r\n")

    return script


def test_by_a_broker(nothing_kept: None) -> None:
    """With a URL nothing of the service need run here; prefix, topic, text or bytes are as for workers."""
    heard: list[bytes] = []
    with Peer(taken(heard)) as peer:
        url = f"redis://{HOST}:{peer.port}"
        client.publish("news", "hello", url=url)
        asyncio.run(client.apublish("ö", b"hello", url=url, prefix="chat:", max_message=5))
    # this process draws a number; the first message of it has the next one
    drawn = heard[0][-19:-15]
    first = b"\1\4\0\0" + drawn + bytes(7) + b"\1hello\r\n"
    second = b"\1\4\1\0" + drawn + bytes(7) + b"\2hello\r\n"
    assert [
        b"*3\r\n$7\r\nPUBLISH\r\n$19\r\nwsworker:topic:news\r\n$21\r\n" + first,
        b"*3\r\n$7\r\nPUBLISH\r\n$13\r\nchat:topic:\xc3\xb6\r\n$21\r\n" + second,
    ] == heard
    assert bytes(4) != drawn


def test_by_a_broker_that_does_not_answer(nothing_kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no longer than by a worker."""
    sentence = "gave no answer in time; it may come through all the same"

    def once(talk: Talk) -> None:
        talk.hear(b"hello\r\n")
        talk.say(b":1\r\n")
        talk.hear(b"never")

    with Peer(once) as peer:
        url = f"redis://{HOST}:{peer.port}"
        client.publish("news", "hello", url=url)
        # the connection is there: all that takes time now is the answer
        monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)
        with pytest.raises(PublishError, match=sentence) as told:
            client.publish("news", "hello", url=url)
    assert "timeout" == told.value.code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"url": "redis://h", "config": "x"}, "url is a way by itself; leave out config and control_socket, or"),
        ({"url": "redis://h", "control_socket": "x"}, "url is a way by itself; leave out config and control_socket"),
        ({"prefix": "chat:"}, "prefix and max_message go with url; a worker on this machine has its own"),
        ({"max_message": 7}, "prefix and max_message go with url; a worker on this machine has its own"),
        (
            {"url": "redis://h", "prefix": "chat"},
            "prefix must be words with a colon behind each, such as chat:, not 'chat';",
        ),
        ({"url": "http://ada:geheim@h"}, "url: it begins with one of redis://"),
        ({"url": ""}, "url: it begins with one of redis://"),
    ],
)
def test_a_way_that_is_none(arguments: dict[str, Any], said: str) -> None:
    """One sentence, in which no password stands."""
    with pytest.raises(ValueError, match=said) as told:
        client.publish("news", "hello", **arguments)
    assert "geheim" not in str(told.value)


def test_what_workers_would_drop(nothing_kept: None) -> None:
    """It is not sent: a gap on every machine would be all that comes of it. The limit is what theirs is by default."""
    sizes: list[tuple[int, dict[str, Any]]] = [(1024**2 + 1, {}), (8, {"max_message": 7})]
    for size, arguments in sizes:
        sentence = (
            f"a message of {size} bytes is over max_message = {size - 1}, and workers would drop it; raise it here"
        )
        with pytest.raises(PublishError, match=sentence) as told:
            client.publish("news", bytes(size), url="redis://127.0.0.1:1", **arguments)
        assert "too_large" == told.value.code
    assert BusConfig() == BusConfig(prefix=client.PREFIX, max_message=client.MAX_MESSAGE)


def test_what_it_loads() -> None:
    """A view or a job of cron pays neither for an event loop nor for the models of the settings, nor for a broker's."""
    code = "import sys, wsworker.client; print(*sys.modules)"
    heavy = {"asyncio", "pydantic", "websockets", "uvloop", "click", "rich", "psutil", "logging", "redis", "nats"}
    assert set() == (heavy | {"ssl"}) & loaded_by(code)
    assert set() == heavy & loaded_by(f"import wsworker.remote.road; {code}")


def loaded_by(code: str) -> set[str]:
    """Return the modules that code prints."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return set(ended.stdout.split())
