"""The heartbeat of a worker: what stands in its seat, and how soon."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.frames import Opcode

from tests.bus.mesh.harbor import NODE, SECRET, Harbor
from tests.worker.service import closing, head, text
from tests.worker.ward import ECHO, HOARDS, WORKER, Start, beside_bytes, until
from wsworker import brokers
from wsworker.bus.mesh.berth import Berth
from wsworker.bus.mesh.members import Member, Standing
from wsworker.sections import BusConfig, LogConfig
from wsworker.stats import Reach
from wsworker.worker import accept, drain, heartbeat

# Beats


def test_the_loop_beats(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seat is renewed with the time, the number of connections and whether there is room for more."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    before = time.monotonic()
    ward = start(ECHO, worker_connections=2)

    def timed() -> tuple[int, int]:
        counters = ward.reading().counters
        return sum(counters.handshakes.counts), sum(counters.sync_calls.counts)

    ward.go()
    seen = {ward.reading().beat_at}
    until(lambda: seen.add(ward.reading().beat_at) or len(seen) > 5)  # type: ignore[func-returns-value]
    assert before < max(seen) < time.monotonic()
    ward.open()
    until(lambda: ward.reading().connections == 1)
    assert not ward.reading().full
    ward.open(text("hello"))
    until(lambda: ward.reading().full)
    until(lambda: beside_bytes(ward.reading().counters) == {"accepted": 2, "messages_in": 1, "messages_out": 1})
    # a seat is read while it is written: what follows the counters in it comes a moment after them
    until(lambda: (2, 1) == timed())
    until(lambda: len(seen) <= sum(ward.reading().counters.lags.counts))
    # heads, frames, masks and all
    assert ward.reading().counters.bytes_in == 2 * len(head()) + len(text("hello"))
    assert 503 == ward.dial(head()).status()
    until(lambda: ward.reading().counters.rejected == 1)


def test_a_beat_is_there_before_the_app_is(start: Start) -> None:
    """The first one comes before anything of the user's runs, so that a slow import is no silence."""
    ward = start("block('import')\n" + ECHO)
    until(ward.journal)
    assert ward.reading().beat_at > 0
    ward.release("import")
    ward.ready()


def test_a_blocked_loop_does_not_beat(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another worker beats, it is silent; the first beat afterwards tells how late it comes."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.02)
    # the second block comes two turns of the loop later, just behind the beat that is overdue
    blocked = start(
        "def on_message(connection, data):\n"
        "    block('first')\n"
        "    loop = asyncio.get_running_loop()\n"
        "    loop.call_soon(loop.call_soon, loop.call_soon, block, 'second')\n"
    )
    healthy = start(ECHO)
    blocked.go()
    healthy.ready()
    blocked.open(text("block"))
    until(lambda: blocked.journal() == ["blocked"])
    silent_since = blocked.reading().beat_at
    beats: set[float] = set()
    until(lambda: beats.add(healthy.reading().beat_at) or len(beats) > 10)  # type: ignore[func-returns-value]
    assert silent_since == blocked.reading().beat_at
    blocked.release("first")
    until(lambda: blocked.journal() == ["blocked", "blocked"])
    assert blocked.reading().beat_at > silent_since
    assert blocked.reading().lag_seconds > 0.1
    # one beat of it may be late as well, where the machine is busy
    until(lambda: healthy.reading().lag_seconds < blocked.reading().lag_seconds)


def test_a_stall_between_two_beats_is_shown(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Though the beat behind it comes in time; the one after that knows of it no more."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.5)
    beat, shown = heartbeat.Heartbeat.beat, tmp_path / "shown"

    # each beat is written down by the worker: whoever looks from outside may miss one, and with it the only sign
    def beat_and_note(self: heartbeat.Heartbeat) -> None:
        beat(self)
        with shown.open("a") as file:
            file.write(f"{self._seat.read().lag_seconds}\n")

    monkeypatch.setattr(heartbeat.Heartbeat, "beat", beat_and_note)
    ward = start("import time\ndef on_message(connection, data):\n    time.sleep(0.1)\n")

    def lags() -> list[float]:
        return [float(line) for line in shown.read_text().splitlines()]

    ward.go()
    before = len(lags())
    until(lambda: len(lags()) > before)
    before = len(lags())
    ward.open(text("block"))
    until(lambda: any(lag >= 0.1 for lag in lags()[before:]))
    until(lambda: lags()[-1] < 0.1)


# The bus

SUBSCRIBES = """\
def on_message(connection, data):
    connection.subscribe(data)
    connection.worker.publish("news", data)
"""


def test_a_worker_alone_has_no_bus(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seat shows no adapter at all, whatever it publishes."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    ward = start(SUBSCRIBES)
    ward.go()
    ward.open(text("a"))
    until(lambda: ward.reading().counters.bus_published == 1)
    assert {} == ward.reading().bus


@pytest.fixture
def harbor() -> Iterator[Harbor]:
    """Give a place where workers meet."""
    made = Harbor()
    yield made
    asyncio.run(made.close())


def test_how_the_bus_stands_is_told(start: Start, harbor: Harbor, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each beat: whom it reaches, and what it has asked them for."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    me = Member(WORKER, 1, Standing.STARTING)
    berth = Berth(me, NODE, SECRET, harbor.listener(1), harbor.folder, {os.geteuid()}, lambda: [me])
    ward = start(SUBSCRIBES, berth=berth)
    ward.go()
    until(lambda: ward.reading().bus == {"mesh": Reach()})
    ward.open(text("a"), text("b"))
    until(lambda: ward.reading().bus["mesh"].keys == 2)


def test_a_broker_out_of_reach_is_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not reached, and it is not missing; the worker serves."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = brokers.parse(f"redis://127.0.0.1:{closed.getsockname()[1]}")
        ward = start(SUBSCRIBES, bus=BusConfig(url=url))
        ward.go()
        ward.open(text("a"))
        until(lambda: ward.reading().counters.bus_published == 1)
        until(lambda: ward.reading().counters.bus_dropped["broker:down"] == 1)
        assert {"broker": False} == {adapter: reach.up for adapter, reach in ward.reading().bus.items()}


# At once


def test_a_full_worker_is_seen_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the next beat, so that its clients need not wait for long; and so is one that has room again."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 3600.0)
    # who waits is not told to go before there is room
    monkeypatch.setattr(accept, "CROWD_SECONDS", 3600.0)
    ward = start(ECHO, worker_connections=1)
    ward.table.claim(2, WORKER + 1)
    ward.go()
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    assert (1, True) == (ward.reading().connections, ward.reading().full)
    waiting = ward.dial(head())
    client.send(closing(1000))
    assert 101 == waiting.status()
    assert client.receive()[0] is Opcode.CLOSE
    waiting.send(closing(1000))
    until(lambda: (ward.reading().connections, ward.reading().full) == (0, False))


def test_a_worker_without_descriptors_is_seen_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets go of no client, tells those who come, and takes them again as soon as it can."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    ward = start(HOARDS)
    ward.go()
    client = ward.open(text("take"))
    assert (Opcode.TEXT, b"take") == client.receive()
    refused = ward.dial(head())
    until(lambda: ward.reading().full)
    assert 503 == refused.status()
    client.send(text("give"))
    assert (Opcode.TEXT, b"give") == client.receive()
    until(lambda: not ward.reading().full)
    ward.open()
    ward.leave("quick")
    assert (0, None) == ward.exit()
    assert 1 == ward.reading().counters.rejected
    assert 1 == ward.stderr().count("out of file descriptors")


def test_what_the_bus_can_reach_is_seen_when_the_worker_is_ready(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks after a start gets no answer from before the links were there."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 3600.0)
    ward = start(ECHO, bus={"url": "redis://127.0.0.1:1"})
    ward.ready()
    assert {"broker"} == set(ward.reading().bus)


# The log

DISABLING = """\
import logging.config

def disable():
    logging.config.dictConfig({"version": 1})

disable()

def on_worker_start(worker):
    logging.getLogger("wsworker.worker").info("heard after the import")
    disable()

def on_message(connection, data):
    connection.worker.log.info("heard again %s", data)
    disable()
    connection.send(data)
"""


def test_a_logging_config_of_user_code_does_not_silence_us(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It disables all loggers that it does not name; ours are heard again at the next step of the boot, or beat."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    ward = start(DISABLING)
    ward.go()
    client = ward.open()
    for number in range(2):
        client.send(text(str(number)))
        client.receive()
        beat_at = ward.reading().beat_at
        until(lambda: ward.reading().beat_at > beat_at)  # noqa: B023
    client.close()
    ward.leave("stop")
    assert (0, None) == ward.exit()
    said = ward.stderr()
    for line in ("heard after the import", "ready, pid", "heard again 0", "heard again 1", "left, pid"):
        assert line in said


def test_lost_log_lines_are_counted(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the next beat; a pipe that nobody empties neither blocks nor ends it."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    ward = start(
        "def on_message(connection, data):\n    for _ in range(3000):\n        connection.worker.log.info('x' * 1000)\n"
        "    connection.send(data)\n",
        log=LogConfig(file=str(pipe)),
    )
    ward.go()
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    until(lambda: ward.reading().counters.log_dropped > 0)
    os.close(reader)
