"""docs/logging.md shows what lines look like: each example is what the log writes."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsworker.lines import Console, Journal, Json, Line
from wsworker.log import PRINTED
from wsworker.notices import LOG_SECONDS
from wsworker.protocol.request import Address
from wsworker.sink import ROOM_BYTES
from wsworker.worker.access import Access, Farewell

TEXT = (Path(__file__).parent.parent / "docs" / "logging.md").read_text()

AT = 1_738_284_053.25  # 2025-01-31T00:40:53.250 UTC
ID = "srv1-5f0c2a9e.1.7"
TRACE = """\
Traceback (most recent call last):
  File "/srv/hello/app.py", line 10, in on_message
ValueError: no such room"""


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let local time be an hour ahead of UTC, and this process be the one of the examples."""
    monkeypatch.setenv("TZ", "CET-1")
    monkeypatch.setattr(os, "getpid", lambda: 4243)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def access_level() -> Iterator[None]:
    """Give the logger of the access log back as it was."""
    yield
    logging.getLogger("wsworker.access").setLevel(logging.NOTSET)


def examples() -> list[list[str]]:
    """Return the lines of each example of the log."""
    return [block.splitlines() for block in re.findall(r"^```(?:text|json)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)]


def record(name: str, text: str, *, after: float = 1, level: str = "INFO", **facts: object) -> logging.LogRecord:
    """Return a record made so many seconds after the first."""
    made = {"name": name, "msg": text, "levelname": level, "levelno": getattr(logging, level), "created": AT + after}
    return logging.makeLogRecord({**made, "connection": None, **facts})


READY = record("wsworker.worker", "ready, pid 4243, app imported in 0.04 s", after=0)
SAID = record("app", "tom said hello", connection=ID)
FAILED = record(
    "wsworker.worker",
    "on_message raised ValueError (app.py:9)",
    level="ERROR",
    connection=ID,
    exc_info=(ValueError, ValueError(), None),
    exc_text=TRACE,
)


def lines(line: Line, *records: logging.LogRecord) -> list[str]:
    """Return what the log writes."""
    return "\n".join(map(line.format, records)).split("\n")


def test_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each format looks as it is shown."""
    monkeypatch.setattr(Json, "formatException", lambda self, trace: TRACE)
    terminal, plain, journal, objects, _ = examples()
    assert lines(Console(1, dated=False), READY, SAID, FAILED) == terminal
    assert lines(Console(1, dated=True), SAID) == plain
    assert lines(Journal(1), SAID, FAILED) == journal
    assert lines(Json(1), SAID, FAILED) == objects


def test_access(caplog: pytest.LogCaptureFixture) -> None:
    """So does the access log."""
    request = SimpleNamespace(
        path="/chat", headers={"origin": "https://example.org", "user-agent": "Mozilla/5.0 (X11)"}
    )
    remote = Address("192.0.2.7", 55232)
    connection = SimpleNamespace(
        id=ID,
        remote=remote,
        request=request,
        subprotocol=None,
        user="tom",
        _opened_at=0.0,
        _messages_in=9,
        _bytes_in=273,
        _cork=SimpleNamespace(messages_out=9, bytes_out=159),
    )
    access = Access(lambda: 62.0134)
    access.opened(connection)
    access.closed(connection, Farewell("server", 1009, "the message is larger than websocket.max_size"))
    access.refused(Address("192.0.2.7", 55240), "/chat", 403, "origin")
    for made in caplog.records:
        made.created = AT + 1
    assert lines(Console(1, dated=False), *caplog.records) == examples()[-1]


def test_figures() -> None:
    """What is promised of prints, queues and repeated lines is what is set."""
    assert [("stdout", logging.INFO), ("stderr", logging.WARNING)] == [*PRINTED.values()]
    assert (256 * 1024, 60.0) == (ROOM_BYTES, LOG_SECONDS)
