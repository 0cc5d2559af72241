"""Faults 47 and 48: clients that make leaving hard: those who come in floods, and those who never say goodbye."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest

from tests.frames import TEXT
from tests.system.clients import UPGRADE, ConnectLoop, close_code, frame, raw, raw_open, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from tests.system.faults.mischief import ended
from tests.system.faults.world import NOISE_SECONDS

BUSY = """
import asyncio

async def on_message(connection, data):
    if data == "work":
        print("working", flush=True)
        await asyncio.sleep(600)
    connection.send(data)
"""


def hold_up(daemon: Daemon, stack: ExitStack) -> None:
    """Open a client whose callback keeps its worker from leaving before graceful_timeout."""
    sock = stack.enter_context(raw_open(daemon))
    sock.sendall(frame(TEXT, b"work"))
    eventually(lambda: "working" in daemon.out, "a busy callback")


def test_row_47_a_flood_during_a_stop(make_daemon: MakeDaemon) -> None:
    """A stop ends by its deadline, however many come: who is not let in yet gets 503, later ones are refused."""
    daemon = make_daemon(BUSY, graceful_timeout="5s").start()
    with ExitStack() as stack:
        hold_up(daemon, stack)
        accepted = [stack.enter_context(raw(daemon)) for _ in range(50)]
        # they are accepted once a later client is served
        assert "on" == daemon.echo("on")
        loop = stack.enter_context(ConnectLoop(daemon, threads=6))
        eventually(lambda: loop.echoed > 50, "a flood")
        daemon.signal(signal.SIGTERM)
        # the worker drains before it lets go of its listeners
        eventually(lambda: loop.refused, "nobody listens any more")
        for sock in accepted:
            sock.sendall(UPGRADE)
        for sock in accepted:
            assert read_to_end(sock).startswith(b"HTTP/1.1 503 ")
        assert 0 == daemon.wait_exit(5 + NOISE_SECONDS)
    assert not loop.reset + loop.wrong, (loop.reset, loop.wrong)
    assert "1 cut" in daemon.log


def test_row_47_a_flood_during_a_reload(make_daemon: MakeDaemon) -> None:
    """The old worker of a reload leaves by its deadline; the flood goes to the new one and nobody is refused."""
    daemon = make_daemon(BUSY, graceful_timeout="2s").start()
    (old,) = daemon.workers
    with ExitStack() as stack:
        hold_up(daemon, stack)
        accepted = [stack.enter_context(raw(daemon)) for _ in range(50)]
        assert "on" == daemon.echo("on")
        loop = stack.enter_context(ConnectLoop(daemon, threads=6))
        eventually(lambda: loop.echoed > 50, "a flood")
        assert 0 == daemon.cli("reload").code
        for sock in accepted:
            sock.sendall(UPGRADE)
        for sock in accepted:
            assert read_to_end(sock).startswith(b"HTTP/1.1 503 ")
        eventually(lambda: ended(old), "the old worker has left", 2 + NOISE_SECONDS)
        served = loop.echoed
        eventually(lambda: loop.echoed > served + 50, "the flood goes on")
    loop.check()


@pytest.mark.parametrize("cause", ["stop", "reload"])
def test_row_48_a_client_that_never_answers_the_close(make_daemon: MakeDaemon, cause: str) -> None:
    """It gets its Close, is cut off after close_timeout, and holds up nobody for longer than that."""
    settings = {"websocket": {"close_timeout": "2s"}, "graceful_timeout": "1h", "reload_strategy": "drain"}
    daemon = make_daemon(BUSY, **settings).start()
    (old,) = daemon.workers
    with ExitStack() as stack:
        silent = [stack.enter_context(raw_open(daemon)) for _ in range(5)]
        code = 1001 if cause == "stop" else 1012
        if cause == "stop":
            daemon.signal(signal.SIGTERM)
        else:
            assert 0 == daemon.cli("reload").code
        if cause == "stop":
            assert 0 == daemon.wait_exit(2 + NOISE_SECONDS)
        else:
            eventually(lambda: ended(old), "the old worker has left", 2 + NOISE_SECONDS)
            assert "on" == daemon.echo("on")
        assert [code] * 5 == [close_code(read_to_end(sock)) for sock in silent]
    assert "5 connections closed" in daemon.log


def test_row_48_a_client_that_reads_nothing(make_daemon: MakeDaemon) -> None:
    """A client whose buffers are full cannot even take the Close; it is cut off all the same."""
    app = "def on_message(connection, data):\n    while connection.send('x' * 65536):\n        pass\n"
    daemon = make_daemon(app, websocket={"close_timeout": "2s"}, graceful_timeout="1h").start()
    with raw_open(daemon) as sock:
        sock.sendall(frame(TEXT, b"fill"))
        daemon.wait_status(lambda status: status["totals"]["bytes_out"] > 0)
        daemon.signal(signal.SIGTERM)
        assert 0 == daemon.wait_exit(2 + NOISE_SECONDS)
