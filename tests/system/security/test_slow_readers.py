"""Row 32: clients that do not read what they are sent."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from tests.frames import BINARY, CLOSE, TEXT
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from tests.system.security.hostile import ECHO, MIB, Client, Frame, framed, open_sockets, rss, steadfast

SLOW = 10
BLOCK = 65536
MESSAGES = 300
MOST_BYTES = SLOW * (256 + 2 * 64) * 1024 + 8 * MIB
"""What send_buffer and one message over it may hold for all of them, and some noise; they are sent 196 MB."""

PUBLISHES = """
import json

slow = []
ended = []

def on_message(connection, data):
    word, *numbers = data.split()
    if word == "slow":
        slow.append(connection)
        connection.send("in")
    if word == "publish":
        sent = 0
        for number in range(int(numbers[0])):
            block = f"{number:08}".encode() * (int(numbers[1]) // 8)
            sent += sum(one.send(block) for one in slow)
        connection.send(json.dumps([sent, [one.state for one in slow]]))
    if word == "ended?":
        connection.send(json.dumps(ended))
    if word == "on":
        connection.send(word)

def on_close(connection, code, reason):
    if connection in slow:
        slow.remove(connection)
        ended.append([code, reason])
"""
"""Sends numbered messages to those who have said that they are slow, and answers how many were accepted."""

TINY = """
import asyncio

slow = []

async def on_message(connection, data):
    if data == "slow":
        slow.append(connection)
        connection.send("in")
    if data == "fill":
        for one in slow:
            # until the kernel takes no more, which shows once the loop has had a turn
            while not one.buffered:
                one.send(b"x" * 65536)
                await asyncio.sleep(0)
        connection.send("full")
    if data == "tiny":
        count = 0
        for one in slow:
            while one.send(b"y"):
                count += 1
        connection.send(str(count))
    if data == "on":
        connection.send(data)
"""
"""Sends messages of one byte to slow clients until they take no more, and answers how many."""

ASKS_THE_KERNEL = """
import json
import os
import socket

def on_message(connection, data):
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(number)))
        except OSError:
            continue
        with sock:
            if sock.family == socket.AF_INET and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    connection.send(json.dumps(found))
"""
"""Tells TCP_USER_TIMEOUT of every client, in milliseconds. tcp(7)."""

SENDS_ON = """
def on_message(connection, data):
    left = 10_000
    while (sent := connection.send(b"x" * 65536)) and left:
        left -= 1
    print(sent, flush=True)
"""
"""Sends up to 655 MB, or until it may not, and prints whether it still might."""


def ask(daemon: Daemon, text: str) -> object:
    """Return what the app answers, out of JSON."""
    return json.loads(daemon.echo(text))


def publish(daemon: Daemon, messages: int = MESSAGES, size: int = BLOCK) -> tuple[int, list[str]]:
    """Send messages to all slow readers; return how many were accepted, and the states of those connections."""
    answer = ask(daemon, f"publish {messages} {size}")
    assert isinstance(answer, list)
    accepted, states = answer
    return accepted, states


def slow_readers(daemon: Daemon, stack: ExitStack) -> list[Client]:
    """Return clients that do not read behind their first message."""
    clients = []
    for _ in range(SLOW):
        clients.append(stack.enter_context(Client(daemon, receive_buffer=4096)))
        clients[-1].send(framed(TEXT, b"slow"))
        assert b"in" == clients[-1].message()
    return clients


def number(message: bytes) -> int:
    """Return the number of a message, which must be whole."""
    assert message == message[:8] * (BLOCK // 8)
    return int(message[:8])


def test_row_32_drop_newest(make_daemon: MakeDaemon) -> None:
    """What was accepted first is kept and arrives; what came too late is told by False; the connection stays."""
    with steadfast(make_daemon(PUBLISHES, websocket={"send_buffer": "256KiB"})) as daemon, ExitStack() as stack:
        clients = slow_readers(daemon, stack)
        before = rss(daemon)
        accepted, states = publish(daemon)
        assert ["open"] * SLOW == states
        assert rss(daemon) - before < MOST_BYTES
        assert "on" == daemon.echo("on")
        received = 0
        for client in clients:
            client.send(framed(TEXT, b"on"))
            count = 0
            # the answer comes when there is room again
            while (message := client.message()) != b"on":
                assert count == number(message)
                count += 1
            received += count
        assert accepted == received < SLOW * MESSAGES * 0.9


def test_row_32_drop_oldest(make_daemon: MakeDaemon) -> None:
    """What was sent last arrives, however much was dropped before it; the connection stays."""
    settings = {"slow_consumer": "drop_oldest", "send_buffer": "256KiB"}
    with steadfast(make_daemon(PUBLISHES, websocket=settings)) as daemon, ExitStack() as stack:
        clients = slow_readers(daemon, stack)
        before = rss(daemon)
        assert (SLOW * MESSAGES, ["open"] * SLOW) == publish(daemon)
        assert rss(daemon) - before < MOST_BYTES
        assert "on" == daemon.echo("on")
        for client in clients:
            found = [number(client.message())]
            while found[-1] != MESSAGES - 1:
                found.append(number(client.message()))
            assert sorted({*found}) == found
            # the first that the kernel took, and the last
            assert 0 == found[0]
            assert len(found) < MESSAGES * 0.9


def test_row_32_disconnect(make_daemon: MakeDaemon) -> None:
    """A client that is too slow gets what was on its way, then 3008; one that does not even read that is cut."""
    settings = {"slow_consumer": "disconnect", "send_buffer": "256KiB", "close_timeout": "4s"}
    with steadfast(make_daemon(PUBLISHES, websocket=settings)) as daemon, ExitStack() as stack:
        reader, *others = slow_readers(daemon, stack)
        before = rss(daemon)
        _, states = publish(daemon)
        assert ["closing"] * SLOW == states
        assert rss(daemon) - before < MOST_BYTES
        count = 0
        while (frame := reader.frame()).opcode == BINARY:
            assert count == number(frame.payload)
            count += 1
        assert Frame(CLOSE, (3008).to_bytes(2, "big") + b"too slow") == frame
        reader.send(framed(CLOSE, frame.payload[:2]))
        assert 0 < count < MESSAGES * 0.9
        eventually(lambda: open_sockets(daemon) == 0, "closed sockets")
        ended = ask(daemon, "ended?")
        assert isinstance(ended, list)
        assert SLOW == len(ended)
        assert {1006, 3008} >= {code for code, _ in ended}
        assert len(others) == sum(client.rest()[-2:] != b"" for client in others)


def test_row_32_who_takes_nothing_is_cut(make_daemon: MakeDaemon) -> None:
    """When bytes wait and the client takes none of them for write_timeout, the connection is cut; readers stay."""
    settings = {"write_timeout": "1s", "ping_interval": 0}
    with steadfast(make_daemon(PUBLISHES, websocket=settings)) as daemon, ExitStack() as stack:
        slow_readers(daemon, stack)
        with Client(daemon) as reader:
            publish(daemon)
            eventually(lambda: ask(daemon, "ended?") == [[1006, "the client took nothing for 1 s"]] * SLOW)
            reader.send(framed(TEXT, b"on"))
            assert b"on" == reader.message()
            eventually(lambda: open_sockets(daemon) == 1, "closed sockets")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_row_32_sending_to_a_client_that_has_gone(make_daemon: MakeDaemon, loop: str) -> None:
    """A callback that sends until send() says False comes to its end, also when the client resets the connection."""
    with steadfast(make_daemon(SENDS_ON, loop=loop)) as daemon:
        for _ in range(5):
            with Client(daemon, receive_buffer=4096) as client:
                client.send(framed(TEXT, b"on"))
                client.reset()
        eventually(lambda: daemon.out.count("\n") == 5, "the end of all callbacks")
        assert ["False"] * 5 == daemon.out.split()


def test_row_32_the_kernel_gives_up_as_well(make_daemon: MakeDaemon) -> None:
    """A client that has vanished with what was sent to it is known by the kernel, when a ping would know it too."""
    settings = {"ping_interval": "7s", "ping_timeout": "4s", "write_timeout": "9s"}
    with steadfast(make_daemon(ASKS_THE_KERNEL, websocket=settings)) as daemon:
        assert [11_000] == ask(daemon, "how long?")


def test_row_32_tiny_messages(make_daemon: MakeDaemon) -> None:
    """Messages of one byte fill the buffer too; each is an object, so they take many times what they count."""
    daemon = make_daemon(TINY, websocket={"send_buffer": "128KiB"})
    with steadfast(daemon), ExitStack() as stack:
        clients = slow_readers(daemon, stack)
        assert "full" == daemon.echo("fill")
        before = rss(daemon)
        accepted = int(daemon.echo("tiny"))
        assert rss(daemon) - before < SLOW * 24 * 128 * 1024
        assert SLOW * 128 * 1024 / 3 >= accepted
        count = 0
        for client in clients:
            client.send(framed(TEXT, b"on"))
            while (message := client.message()) != b"on":
                count += message == b"y"
        assert accepted == count


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_row_32_an_echo_that_nobody_reads(make_daemon: MakeDaemon, loop: str) -> None:
    """Who sends and does not read is not read either: nothing is lost, and memory is bounded, whatever it sends."""
    flood = b"".join(framed(BINARY, f"{n:08}".encode() * 1024) for n in range(4000))
    settings = {"write_timeout": "1h", "send_buffer": "256KiB"}
    daemon = make_daemon(ECHO, loop=loop, websocket=settings)
    with steadfast(daemon), Client(daemon, receive_buffer=4096) as client:
        before = rss(daemon)
        sent = 0

        def is_stuck() -> bool:
            nonlocal sent
            more = client.pour(flood[sent:])
            sent += more
            # both of its buffers are full, and so are ours, since others have had their turn meanwhile
            return more == 0 and daemon.echo("on") == "on" and not client.pour(b"")

        eventually(is_stuck, "a server that reads no more")
        assert sent < len(flood)
        assert rss(daemon) - before < 8 * MIB
        whole = sent // len(framed(BINARY, bytes(8192)))
        for n in range(whole):
            assert f"{n:08}".encode() * 1024 == client.message()
        assert "on" == daemon.echo("on")
