"""`wsworker publish`; what else may become of a message is tests/test_client.py's."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bus.nats.server import NatsServer
from tests.cli.conftest import Place, Result
from tests.outside import FakeWorker, Service
from tests.outside import service as service
from tests.remote.peer import Peer, Talk
from tests.remote.peer import nothing_kept as nothing_kept
from wsworker.bus.topics import Envelope, Key


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Have this at standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def published(worker: FakeWorker) -> list[str | bytes]:
    """Return what has come to a worker; fails if some of it was not for the topic."""
    assert {("topic", "news")} >= {envelope.key for envelope in worker.messages}
    return [envelope.body if envelope.binary else envelope.body.decode() for envelope in worker.messages]


def test_an_argument(wsworker: Callable[..., Result], service: Service) -> None:
    """Text by default, bytes if that is said."""
    worker = service.worker()
    assert Result(0, "published 7 bytes to news\n", "") == wsworker("publish", "news", "dïnner")
    assert 0 == wsworker("publish", "--binary", "news", "dïnner").code
    assert 0 == wsworker("publish", "news", "").code
    assert ["dïnner", "dïnner".encode(), ""] == published(worker)


def test_standard_input(wsworker: Callable[..., Result], service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, to its end."""
    worker = service.worker()
    for content, flags in ((b"two\nlines\n", ()), (b"\xff\0", ("--binary",))):
        stdin(monkeypatch, content)
        assert 0 == wsworker("publish", *flags, "news", "-").code
    assert ["two\nlines\n", b"\xff\0"] == published(worker)


def test_any_locale(service: Service, place: Place) -> None:
    """What travels is UTF-8, also where a shell knows only ASCII; it is counted in bytes."""
    worker = service.worker()
    text = "日本".encode()
    environ = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for data, content in ((b"-", text), (text, b"")):
        command = [sys.executable.encode(), b"-m", b"wsworker", b"publish", "nöws".encode(), data]
        ended = subprocess.run(command, env=environ, input=content, capture_output=True, timeout=30, check=False)
        assert (0, b"") == (ended.returncode, ended.stderr)
        assert ended.stdout.startswith(b"published 6 bytes to n")
    assert [Envelope(Key("topic", "nöws"), text)] * 2 == worker.messages


def test_no_standard_input(wsworker: Callable[..., Result], service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell may close it, and it may have no end: 2."""
    monkeypatch.setattr("sys.stdin", None)
    result = wsworker("publish", "news", "-")
    assert (2, True) == (result.code, "standard input is closed, so - has nothing to read" in result.err)
    monkeypatch.setattr("wsworker.cli.publish.MOST_BYTES", 2**20)
    stdin(monkeypatch, bytes(2**20 + 1))
    result = wsworker("publish", "news", "-")
    assert (2, True) == (result.code, "standard input has more than 1 MiB, the most that is read" in result.err)
    assert 0 == service.asked


def test_json(wsworker: Callable[..., Result], service: Service) -> None:
    """One document, also for a failure."""
    service.worker()
    result = wsworker("publish", "--json", "news", "1")
    assert {"schema": 1, "result": "ok", "topic": "news", "bytes": 1} == json.loads(result.out)
    result = wsworker("publish", "--json", "news", "x" * 101)
    assert (1, "too_large") == (result.code, json.loads(result.out)["error"]["code"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "x"), "TOPIC has 1 to 255 bytes of UTF-8, not 0: ''"),
        (("a\n", "x"), "TOPIC has no control characters"),
        (("\udcff", "x"), r"TOPIC has 1 to 255 bytes of UTF-8, and this is no text: '\udcff'"),
        (("news", "-"), "that is not UTF-8; use --binary for what is no text"),
        (("news",), "Missing argument 'DATA|-'"),
    ],
)
def test_wrong_usage(
    wsworker: Callable[..., Result],
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    """It is said what is wrong, and nothing is published: 2."""
    stdin(monkeypatch, b"\xff")
    result = wsworker("publish", *arguments)
    assert (2, 0) == (result.code, service.asked)
    assert said in result.err


def test_what_is_refused(wsworker: Callable[..., Result], service: Service) -> None:
    """One sentence: 1."""
    service.worker()
    text = "error: a message of 101 bytes is over bus.max_message = 100; raise it or send less\n"
    assert Result(1, "", text) == wsworker("publish", "news", "x" * 101)


def test_nothing_runs(wsworker: Callable[..., Result]) -> None:
    """There is nobody to ask: 7."""
    assert 7 == wsworker("publish", "news", "x").code


class Broker(Peer):
    """What answers as a Redis does. channels: of the messages that it got, of which each ends with hello."""

    def __init__(self) -> None:
        self.channels: list[bytes] = []
        super().__init__(self._take)

    def _take(self, talk: Talk) -> None:
        while heard := talk.hear(b"hello\r\n"):
            self.channels.append(heard.split(b"\r\n")[4])
            talk.say(b":1\r\n")


@pytest.fixture
def broker(nothing_kept: None) -> Iterator[Broker]:
    """Run a broker."""
    with Broker() as made:
        yield made


def test_by_a_broker(wsworker: Callable[..., Result], broker: Broker, place: Place) -> None:
    """By a URL, or by that of the settings: of the file, of the environment, with a file and without one."""
    url = f"redis://127.0.0.1:{broker.port}"
    text = f"published 5 bytes as %s:topic:news at {url}\n"
    assert Result(0, text % "wsworker", "") == wsworker("publish", "--url", url, "news", "hello")
    assert Result(0, text % "chat", "") == wsworker("publish", "--url", url, "--prefix", "chat:", "news", "hello")
    place.config.write_text(f"bus:\n  url: {url}\n  prefix: 'file:'\n")
    assert Result(0, text % "file", "") == wsworker("publish", "--by-bus", "news", "hello")
    assert [b"wsworker:topic:news", b"chat:topic:news", b"file:topic:news"] == broker.channels
    place.config.write_text(f"bus:\n  url: {url}\n  max_message: 64KiB\n")
    result = wsworker("publish", "--by-bus", "news", "x" * 65537)
    assert (1, True) == (result.code, "is over max_message = 65536" in result.err), result.err


def test_how_much_workers_take(wsworker: Callable[..., Result], broker: Broker) -> None:
    """By a URL it is their default, or what is said, in the spelling of the config file."""
    url = f"redis://127.0.0.1:{broker.port}"
    large = "x" * 1024**2 + "hello"
    over = f"a message of {len(large)} bytes is over max_message = 1048576, and workers would drop it"
    result = wsworker("publish", "--url", url, "news", large)
    cure = "raise it here and in their bus.max_message, or send less"
    assert Result(1, "", f"error: {over}; {cure}\n") == result
    assert 0 == wsworker("publish", "--url", url, "--max-message", "2MiB", "news", large).code
    result = wsworker("publish", "--url", url, "--max-message", "4", "news", "hello")
    assert (1, True) == (result.code, "a message of 5 bytes is over max_message = 4," in result.err)
    assert [b"wsworker:topic:news"] == broker.channels


def test_by_nats(wsworker: Callable[..., Result], tmp_path: Path) -> None:
    """It is said as which subject, which is no channel of Redis."""
    server = NatsServer(tmp_path)
    server.start()
    try:
        result = wsworker("publish", "--url", server.url, "--prefix", "prod:chat:", "a.b", "hello")
    finally:
        server.kill()
    assert Result(0, f"published 5 bytes as prod:chat.topic.a%2Eb at {server.url}\n", "") == result


def test_by_a_broker_of_the_environment(
    wsworker: Callable[..., Result], broker: Broker, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is over the file, and enough without one; a file that is named has to be there."""
    monkeypatch.setenv("WSWORKER_BUS__URL", f"redis://127.0.0.1:{broker.port}")
    place.config.write_text("bus:\n  url: redis://127.0.0.1:1\n  prefix: 'file:'\n")
    assert 0 == wsworker("publish", "--by-bus", "news", "hello").code
    place.config.unlink()
    assert 0 == wsworker("publish", "--by-bus", "news", "hello").code
    assert [b"file:topic:news", b"wsworker:topic:news"] == broker.channels
    assert 78 == wsworker("publish", "-c", "config.yaml", "--by-bus", "news", "hello").code
    # it stays the way to a worker unless that is said
    assert 78 == wsworker("publish", "news", "hello").code


def test_by_a_broker_without_one(wsworker: Callable[..., Result], place: Place) -> None:
    """It is said where to set it: 78."""
    result = wsworker("publish", "--by-bus", "news", "hello")
    assert (78, True) == (result.code, "bus.url: no broker is set, so there is none to publish at;" in result.err)
    place.config.unlink()
    result = wsworker("publish", "--by-bus", "news", "hello")
    assert (78, True) == (result.code, "name your config file with -c FILE" in result.err)


def test_a_broker_that_is_down(wsworker: Callable[..., Result], nothing_kept: None) -> None:
    """One sentence, in which no password stands: 1."""
    text = "redis://127.0.0.1:1 cannot be reached (Connection refused); the message was not sent"
    assert Result(1, "", f"error: {text}\n") == wsworker("publish", "--url", "redis://:x@127.0.0.1:1", "news", "1")
    result = wsworker("publish", "--json", "--url", "redis://:x@127.0.0.1:1", "news", "1")
    assert {"code": "no_broker", "message": text} == json.loads(result.out)["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--url", "http://ada:geheim@h"), "--url: it begins with one of redis://"),
        (("--url", ""), "--url: it begins with one of redis://"),
        (
            ("--url", "redis://h", "--prefix", "chat"),
            "--prefix must be words with a colon behind each, such as chat:, not",
        ),
        (("--url", "redis://h", "--by-bus"), "leave out --url, or --by-bus"),
        (("--url", "redis://h", "-c", "config.yaml"), "--url reads no config file; leave out -c, or use --by-bus"),
        (("--url", "redis://h", "--max-message", "1MB"), "--max-message: use MiB"),
        (("--max-message", "1MiB"), "--max-message goes with --url; a service has its own"),
        (("--by-bus", "--max-message", "1MiB"), "--max-message goes with --url; a service has its own"),
        (("--prefix", "chat:"), "--prefix goes with --url; a service has its own"),
        (("--by-bus", "--prefix", "chat:"), "--prefix goes with --url; a service has its own"),
    ],
)
def test_a_way_that_is_none(wsworker: Callable[..., Result], options: tuple[str, ...], said: str) -> None:
    """It is said what does not go together: 2."""
    result = wsworker("publish", *options, "news", "x")
    assert (2, True, False) == (result.code, said in result.err, "geheim" in result.err)
