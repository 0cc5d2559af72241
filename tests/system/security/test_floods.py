"""Rows 10 to 12: floods of fragments, of tiny frames and of pings, and messages that never end."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.frames import BINARY, CONTINUATION, PING, PONG, TEXT
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from tests.system.security.hostile import ECHO, MIB, Client, Frame, framed, header, rss, steadfast

FRAGMENTS = 4096
"""How many a message may have with the default max_size of 1 MiB."""

COUNTS = """
import asyncio
import json

facts = {"messages": 0, "full": 0, "order": []}

def on_message(connection, data):
    if data == "facts":
        connection.send(json.dumps(facts))
    elif data == "mark":
        facts["order"].append(facts["messages"])
    else:
        facts["messages"] += 1

def on_buffer_full(connection):
    facts["full"] += 1
"""
"""Counts messages and full buffers; "mark" notes how many messages came before it; "facts" tells all that."""

WAITS = """
import asyncio

async def on_message(connection, data):
    await asyncio.sleep(0)
    connection.send(data)
"""

PAUSES = """
from wsworker import Connection

def on_message(connection, data):
    connection.send(data)
    connection.pause()
    connection.worker.after(0.001, connection.resume)
"""


@pytest.fixture(scope="module")
def echo() -> Iterator[Daemon]:
    """One worker with every limit as it is by default, which sends back what it gets."""
    with Daemon(ECHO) as daemon, steadfast(daemon):
        yield daemon


def facts(daemon: Daemon) -> dict[str, object]:
    """Return what COUNTS knows."""
    found = json.loads(daemon.echo("facts"))
    assert isinstance(found, dict)
    return found


# Row 10: fragments


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["empty", "of one byte"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_row_10_the_number_of_fragments(echo: Daemon, piece: bytes, opcode: int) -> None:
    """A message may have so many fragments, empty ones included, and no more: 1008."""
    between = framed(CONTINUATION, piece, fin=False)
    allowed = framed(opcode, piece, fin=False) + between * (FRAGMENTS - 2) + framed(CONTINUATION, piece)
    with Client(echo) as client:
        client.send(allowed, allowed)
        assert [piece * FRAGMENTS] * 2 == [client.message(), client.message()]
        client.send(framed(opcode, piece, fin=False) + between * FRAGMENTS)
        assert 1008 == client.close_code()


def test_row_10_many_small_fragments_take_little_memory(echo: Daemon) -> None:
    """Forty clients, each with as many fragments as it may have and no last one, cost what their bytes cost."""
    flood = framed(TEXT, b"x", fin=False) + framed(CONTINUATION, b"x", fin=False) * (FRAGMENTS - 1)
    with ExitStack() as stack:
        before = rss(echo)
        for _ in range(40):
            client = stack.enter_context(Client(echo))
            client.send(flood + framed(PING, b"done"))
            assert Frame(PONG, b"done") == client.frame()
        # the bytes are 0.2 MiB; an object for each fragment would be 8 MiB and more
        assert rss(echo) - before < 6 * MIB


@pytest.mark.parametrize("more", [b"", framed(CONTINUATION, fin=False), framed(PING)], ids=["", "trickle", "pings"])
def test_row_10_a_message_that_never_ends(make_daemon: MakeDaemon, more: bytes) -> None:
    """A message whose first fragment has come must end within message_timeout, whatever comes meanwhile: 1008."""
    settings = {"message_timeout": "1s", "rate_control": 0, "ping_interval": 0}
    with steadfast(make_daemon(ECHO, websocket=settings)) as daemon, Client(daemon) as client:
        client.send(framed(TEXT, b"begun", fin=False))

        def has_ended() -> bool:
            with suppress(OSError):
                client.send(more)
            select.select([client.sock], [], [], 0.05)
            return client.is_cut()

        eventually(has_ended, "the end of the connection")
        assert b"\x03\xf0a message took longer than websocket.message_timeout = 1 s" in client.rest()


# Row 11: rates and fairness


def test_row_11_too_many_messages(make_daemon: MakeDaemon) -> None:
    """Who sends more than rate_messages in a second is closed with 1008; what was within the rate is answered."""
    with steadfast(make_daemon(ECHO, websocket={"rate_messages": 20})) as daemon, Client(daemon) as client:
        client.send(framed(TEXT, b"x") * 500)
        answers = [client.frame() for _ in range(20)]
        assert [Frame(TEXT, b"x")] * 20 == answers
        rest = client.rest()
        # a few more became free while it was at it
        assert b"more than websocket.rate_messages = 20" in rest
        assert rest.count(b"\x81\x01x") < 100
        assert "on" == daemon.echo("on")


def test_row_11_too_many_bytes(make_daemon: MakeDaemon) -> None:
    """Who sends more bytes than rate_bytes is closed with 1008; one message of max_size is always within it."""
    settings = {"rate_bytes": 1000, "max_size": 100_000}
    with steadfast(make_daemon(ECHO, websocket=settings)) as daemon, Client(daemon) as client:
        client.send(framed(BINARY, bytes(100_000)))
        assert bytes(100_000) == client.message()
        with suppress(OSError):
            client.send(framed(BINARY, bytes(100_000)))
        assert b"more than websocket.rate_bytes = 1000" in client.rest()


@pytest.mark.parametrize("app", [WAITS, PAUSES], ids=["async", "pauses"])
def test_row_11_a_message_counts_once(make_daemon: MakeDaemon, app: str) -> None:
    """A client within its rate is not closed, and loses nothing, because its messages had to wait for a callback."""
    with steadfast(make_daemon(app, websocket={"rate_messages": 200})) as daemon, Client(daemon) as client:
        client.send(framed(TEXT, b"x") * 150)
        assert [Frame(TEXT, b"x")] * 150 == [client.frame() for _ in range(150)]


def test_row_11_over_the_rate_is_never_silent(make_daemon: MakeDaemon) -> None:
    """What is over the rate closes the connection, also when callbacks are behind: no message is lost unseen."""
    with steadfast(make_daemon(WAITS, websocket={"rate_messages": 50})) as daemon, Client(daemon) as client:
        client.send(framed(TEXT, b"x") * 500)
        assert b"more than websocket.rate_messages = 50" in client.rest()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_row_11_others_have_their_turn(make_daemon: MakeDaemon, loop: str) -> None:
    """A client that has sent thousands of messages at once has a few turns of 256 before others have theirs.

    The worker stands still while the clients send, so it finds everything there at the same moment.
    """
    with steadfast(make_daemon(COUNTS, loop=loop)) as daemon, Client(daemon) as flooder, ExitStack() as stack:
        others = [stack.enter_context(Client(daemon)) for _ in range(5)]
        (worker,) = daemon.workers
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED)
        sent = flooder.pour(framed(TEXT, b"x") * 20_000)
        assert sent > 10_000 * 7
        for other in others:
            other.send(framed(TEXT, b"mark"))
        os.kill(worker, signal.SIGCONT)
        order = eventually(lambda: len(found := facts(daemon)["order"]) == 5 and found)  # type: ignore[arg-type]
        assert isinstance(order, list)
        assert max(order) <= 4 * 256
        eventually(lambda: facts(daemon)["messages"] == sent // 7)


# Row 12: pings


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_row_12_too_many_pings(echo: Daemon, opcode: int) -> None:
    """Who sends more pings and pongs than rate_control in a second is closed with 1008."""
    with Client(echo) as client:
        with suppress(OSError):
            client.send(framed(opcode, b"x") * 20_000)
        rest = client.rest()
        assert b"more than websocket.rate_control = 1000" in rest
        assert rest.count(b"\x8a\x01x") < 5000


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_row_12_a_flood_of_pings_that_nobody_reads(make_daemon: MakeDaemon, loop: str) -> None:
    """26 MB of pings whose pongs are not read: reading stops at send_buffer, memory stays flat, others are served.

    Once the client reads, it is answered to the last ping.
    """
    ping = framed(PING, b"p" * 125)
    flood = ping * (26 * 10**6 // len(ping))
    settings = {"rate_control": 0, "write_timeout": "1h", "send_buffer": "256KiB"}
    daemon = make_daemon(COUNTS, loop=loop, websocket=settings)
    with steadfast(daemon), Client(daemon, receive_buffer=4096) as client:
        before = rss(daemon)
        sent = 0

        def is_stuck() -> bool:
            nonlocal sent
            sent += client.pour(flood[sent:])
            return facts(daemon)["full"] == 1

        eventually(is_stuck, "a full buffer")
        # as much as goes in behind that
        sent += client.pour(flood[sent:])
        assert sent < len(flood)
        assert rss(daemon) - before < 8 * MIB
        for _ in range(sent // len(ping)):
            assert Frame(PONG, b"p" * 125) == client.frame()
        client.send(ping[sent % len(ping) :] + framed(TEXT, b"facts"))
        assert Frame(PONG, b"p" * 125) == client.frame()
        assert client.frame().payload.startswith(b"{")


def test_row_12_an_unfinished_ping(echo: Daemon) -> None:
    """A ping waits for its last byte, and costs nobody else anything."""
    with Client(echo) as client:
        client.send(header(PING, 125) + b"p" * 124)
        assert "on" == echo.echo("on")
        client.send(b"p")
        assert Frame(PONG, b"p" * 125) == client.frame()
