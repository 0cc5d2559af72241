"""`wsworker publish`; what else may become of a message is tests/test_client.py's."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.conftest import Place, Result
from tests.outside import FakeWorker, Service
from tests.outside import service as service
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
