"""The log of a real daemon: every line valid in its format, whoever has written it, and changed by a reload."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually

TALKS = """
import asyncio
import logging
import sys
import traceback

log = logging.getLogger(__name__)
print("imported")

def on_worker_start(worker):
    worker.after(0.01, lambda: print("a timer"))

def on_handshake(request):
    print("asked for", request.path)

def on_connect(connection):
    print("connected", end=" ")
    print(connection.request.path, flush=True)

async def on_message(connection, data):
    log.info("asked %s", data, extra={"room": "a"})
    await asyncio.to_thread(print, "from a thread", file=sys.stderr)
    try:
        {}[data]
    except KeyError:
        traceback.print_exc()
    connection.send(connection.id)
    if data == "raise":
        raise ValueError("one\\ntwo")

def on_close(connection, code, reason):
    print("closed", code)
"""


def documents(daemon: Daemon, name: str = "log.txt") -> list[dict[str, Any]]:
    """Return the lines of a file, each of which must be JSON."""
    return [json.loads(line) for line in (daemon.folder / name).read_text().splitlines()]


def of(lines: list[dict[str, Any]], **facts: object) -> list[dict[str, Any]]:
    """Return the lines that have all of these facts."""
    return [line for line in lines if facts.items() <= line.items()]


def test_json(make_daemon: MakeDaemon) -> None:
    """Each line in the file is an object, printed ones too, with the connection; a reload gives them another format."""
    settings: Mapping[str, object] = {"format": "json", "file": "log.txt", "access": True}
    daemon = make_daemon(TALKS, log=settings).start()
    with daemon.connect("/chat?token=secret") as client:
        client.send("raise")
        name = client.recv(10)
        with pytest.raises(Exception, match="internal error"):
            client.recv(10)
    with pytest.raises(InvalidStatus):
        daemon.connect("/chat", origin="http://evil.example")
    eventually(lambda: of(documents(daemon), event="refuse"), "the refusal in the log")

    lines = documents(daemon)
    worker, master = daemon.workers[0], daemon.master
    assert {("master", None, master), ("worker", 1, worker)} == {
        (line["process"], line["slot"], line["pid"]) for line in lines
    }
    assert {"imported", "a timer", "asked for /chat"} == {
        line["message"] for line in of(lines, logger="stdout", connection=None)
    }
    assert [
        ("wsworker.access", "open"),
        ("stdout", "connected /chat"),
        ("app", "asked raise"),
        ("stderr", "from a thread"),
        ("stderr", "Traceback (most recent call last):"),
        ("stderr", f'  File "{daemon.folder}/app.py", line 24, in on_message'),
        ("stderr", "    {}[data]"),
    ] == [(line["logger"], line.get("event", line["message"])) for line in of(lines, connection=name)][:7]
    assert ("a", "info") == (of(lines, logger="app")[0]["room"], of(lines, logger="app")[0]["level"])
    (error,) = of(lines, level="error")
    assert error["exception"].endswith("ValueError: one\ntwo")
    (closed,) = of(lines, event="close")
    assert (1011, "server", 1, 1, "/chat", name) == tuple(
        closed[key] for key in ("code", "by", "messages_in", "messages_out", "path", "connection")
    )
    assert [(403, "origin")] == [(line["status"], line["reason"]) for line in of(lines, event="refuse")]
    assert "closed 1011" == of(lines, connection=name)[-1]["message"]
    assert "secret" not in daemon.log

    size = (daemon.folder / "log.txt").stat().st_size
    daemon.write_config(log={"file": "log.txt"})
    assert 0 == daemon.cli("reload").code
    daemon.signal(signal.SIGUSR1)
    daemon.wait_log("the log is reopened")
    after = (daemon.folder / "log.txt").read_text()[size:]
    assert re.search(r"^\S+ INFO  worker 1  imported$", after, re.MULTILINE)
    assert re.search(r"^\S+ INFO  master    SIGUSR1: ", after, re.MULTILINE)


def test_what_is_printed_stays_on_its_own(make_daemon: MakeDaemon) -> None:
    """Where stdout and stderr lead to different places, as in a container, each has its lines, in the same format."""
    daemon = make_daemon(TALKS, log={"format": "json"}).start()
    eventually(lambda: of(documents(daemon, "stdout.txt"), message="a timer"), "what the timer prints")
    assert {"stdout"} == {line["logger"] for line in documents(daemon, "stdout.txt")}
    assert ["ready"] == [line["message"] for line in of(documents(daemon, "stderr.txt"), message="ready")]
