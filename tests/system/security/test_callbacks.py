"""Row 31: whatever a callback raises costs its own connection, and no word of it reaches the client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.frames import CLOSE, TEXT
from tests.system.clients import UPGRADE, ask_raw
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from tests.system.security.hostile import MIB, Client, framed, open_sockets, rss, steadfast

SECRET = "hunter2"
INTERNAL = (1011).to_bytes(2, "big") + b"internal error"

CALLBACKS = [
    "on_handshake",
    "on_connect",
    "on_message",
    "on_close",
    "on_error",
    "on_error and on_close",
    "on_buffer_full",
    "on_buffer_drain",
]

APP = """
import asyncio

{define} fail(request, callback):
    {pause}
    if callback in request.path:
        raise ValueError("{secret} of " + callback)

{define} on_handshake(request):
    {call}(request, "on_handshake")

{define} on_connect(connection):
    {call}(connection.request, "on_connect")

{define} on_message(connection, data):
    if data == "bad":
        {call}(connection.request, "on_message")
        raise KeyError("{secret}")
    if data == "fill":
        while connection.send(b"x" * 65536):
            pass
    else:
        connection.send(data)

{define} on_close(connection, code, reason):
    {call}(connection.request, "on_close")

{define} on_error(connection, exc):
    {call}(connection.request, "on_error")

{define} on_buffer_full(connection):
    {call}(connection.request, "on_buffer_full")

{define} on_buffer_drain(connection):
    {call}(connection.request, "on_buffer_drain")
"""
"""Echoes; a callback raises if the path names it, directly or after a while of waiting."""

KINDS = {
    "Exception": "raise Exception(SECRET)",
    "one without a text": "class Mute(Exception):\n        def __str__(self): 1 / 0\n    raise Mute()",
    "BaseException": "raise BaseException(SECRET)",
    "GeneratorExit": "raise GeneratorExit(SECRET)",
    "CancelledError": "raise asyncio.CancelledError(SECRET)",
    "StopIteration": "raise StopIteration(SECRET)",
    "StopAsyncIteration": "raise StopAsyncIteration(SECRET)",
    "TimeoutError": "raise TimeoutError(SECRET)",
    "ConnectionResetError": "raise ConnectionResetError(SECRET)",
    "RecursionError": "def deep(): deep()\n    deep()",
    "MemoryError": "raise MemoryError(SECRET)",
    "AssertionError": "assert False, SECRET",
    "a group": "raise BaseExceptionGroup(SECRET, [ValueError(SECRET), KeyError(SECRET)])",
    "a cause": "try: {}[SECRET]\n    except KeyError as e: raise ValueError(SECRET) from e",
    "Reject": "raise Reject(403, {}, SECRET)",
    "an endless text": "raise ValueError(SECRET * 100_000)",
    "a text of control characters": "raise ValueError('\\x1b[2J\\r\\n2030-01-01T00:00:00.000+00:00 INFO  ' + SECRET)",
    "nothing to raise": "raise None",
    "send of an int": "connection.send(1)",
    "send of a surrogate": "connection.send('\\ud800')",
    "close with a wrong code": "connection.close(1005)",
    "close with no number": "connection.close('1000')",
    "close with no text": "connection.close(1000, None)",
    "a user that is no text": "connection.user = 1",
}


@pytest.fixture(scope="module", params=["sync", "async"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """One worker with callbacks that raise, which must be there at the end."""
    is_async = request.param == "async"
    text = APP.format(
        define="async def" if is_async else "def",
        call="await fail" if is_async else "fail",
        pause="await asyncio.sleep(0)" if is_async else "pass",
        secret=SECRET,
    )
    with Daemon(text, websocket={"send_buffer": "64KiB"}) as daemon:
        before = daemon.start().workers
        yield daemon
        daemon.wait_status(lambda status: status["totals"]["connections"] == 0)
        daemon.wait_status(lambda status: status["totals"]["errors"] >= len(CALLBACKS))
        assert before == daemon.workers
        assert 0 == daemon.status()["totals"]["restarts"]
        assert "a bug in wsworker" not in daemon.log


def provoke(daemon: Daemon, callback: str) -> bytes:
    """Do what makes the callback raise; return the body of the Close that comes, or the answer to a handshake."""
    path = f"/{callback.replace(' ', '_')}"
    upgrade = UPGRADE.replace(b" / ", f" {path} ".encode())
    if callback == "on_handshake":
        return ask_raw(daemon, upgrade)
    with Client(daemon, path=path, receive_buffer=4096) as client:
        if callback == "on_close":
            client.send(framed(CLOSE, b"\x03\xe8"))
        elif callback != "on_connect":
            client.send(framed(TEXT, b"fill" if "buffer" in callback else b"bad"))
        # of those that fill the buffer as many as the kernel and send_buffer hold
        while (frame := client.frame()).opcode != CLOSE:
            assert b"x" * 65536 == frame.payload
        with suppress(OSError):
            client.send(framed(CLOSE, frame.payload[:2]))
        assert b"" == client.rest()
        return frame.payload


@pytest.mark.parametrize("callback", CALLBACKS)
def test_row_31_a_callback_raises(daemon: Daemon, callback: str) -> None:
    """500 without its text for a handshake, 1011 without its text for all else; the worker and others go on."""
    with Client(daemon) as other:
        received = provoke(daemon, callback)
        assert SECRET.encode() not in received
        if callback == "on_handshake":
            assert received.startswith(b"HTTP/1.1 500 ")
        elif callback == "on_close":
            assert b"\x03\xe8" == received
        else:
            assert INTERNAL == received
        other.send(framed(TEXT, b"still here?"))
        assert b"still here?" == other.message()
        daemon.wait_log(f"{SECRET} of {callback.partition(' ')[0]}")
        eventually(lambda: open_sockets(daemon) == 1, "the end of the other socket")


@pytest.fixture(scope="module", params=["sync", "async"])
def raising(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """One worker whose on_message raises what its message names, and which must be there at the end."""
    define = "async def" if request.param == "async" else "def"
    text = f"import asyncio\nfrom wsworker import Reject\n\nSECRET = {SECRET!r}\n"
    for number, body in enumerate(KINDS.values()):
        text += f"\n{define} fail{number}(connection):\n    {body}\n"
    call = "await " if request.param == "async" else ""
    text += f"\n{define} on_message(connection, data):\n    if data.startswith('fail'):\n"
    text += f"        {call}globals()[data](connection)\n    connection.send(data)\n"
    with Daemon(text) as daemon:
        before = daemon.start().workers
        yield daemon
        assert before == daemon.workers
        assert 0 == daemon.status()["totals"]["restarts"]
        assert "a bug in wsworker" not in daemon.log


@pytest.mark.parametrize("kind", KINDS)
def test_row_31_whatever_it_raises(raising: Daemon, kind: str) -> None:
    """Every exception is one of the callback's own: 1011, and the log has it on lines that are ours."""
    number = [*KINDS].index(kind)
    with Client(raising) as other, Client(raising) as client:
        client.send(framed(TEXT, b"before") + framed(TEXT, f"fail{number}".encode()) + framed(TEXT, b"after"))
        assert b"before" == client.message()
        assert INTERNAL == client.closed()
        other.send(framed(TEXT, b"still here?"))
        assert b"still here?" == other.message()
    for line in raising.log.splitlines():
        assert not line.startswith("2030")
        assert line.replace("\t", " ").isprintable()


def test_row_31_what_was_raised_is_not_kept(make_daemon: MakeDaemon) -> None:
    """A message over which a callback has raised is gone with its connection, and does not wait in a traceback."""
    app = "import json\n\ndef on_message(connection, data):\n    connection.send(json.loads(data))\n"
    with steadfast(make_daemon(app)) as daemon:
        before = rss(daemon)
        for _ in range(60):
            with Client(daemon) as client:
                client.send(framed(TEXT, b"x" * MIB))
                assert INTERNAL == client.closed()
        assert rss(daemon) - before < 16 * MIB


STRAYS = """
import asyncio

tasks = []

def fail():
    raise ValueError("hunter2")

async def wait_and_fail():
    await asyncio.sleep(0)
    fail()

def on_worker_start(worker):
    worker.every(0.01, fail)
    worker.every(0.01, wait_and_fail)

def on_message(connection, data):
    loop = asyncio.get_running_loop()
    tasks.append(loop.create_task(wait_and_fail()))
    loop.create_task(wait_and_fail())
    loop.call_soon(fail)
    loop.run_in_executor(None, fail)
    connection.send(data)
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_row_31_what_runs_beside_the_callbacks(make_daemon: MakeDaemon, loop: str) -> None:
    """Timers, tasks and callbacks of the loop that raise cost nobody a connection, nor the worker."""
    daemon = make_daemon(STRAYS, loop=loop).start()
    (worker,) = daemon.workers
    with Client(daemon) as client:
        for _ in range(20):
            client.send(framed(TEXT, b"on"))
            assert b"on" == client.message()
        eventually(lambda: daemon.log.count("ValueError: hunter2") > 20)
        client.send(framed(TEXT, b"still"))
        assert b"still" == client.message()
    assert [worker] == daemon.workers


def test_row_31_an_answer_that_cannot_be_sent(make_daemon: MakeDaemon) -> None:
    """A Reject that no response can be made of is 500, whatever is wrong with it."""
    wrong = [
        "200", "99", "1000", "-1", "'403'", "None", "403, {'a b': 'c'}", "403, {'a': 'b\\r\\nc: d'}", "403, {'a': 1}",
        "403, {}, 5", "403, {}, 'x\\ud800'", "403, {'Content-Length': '5'}, 'x'", "403, [1]", "403, {'': 'x'}",
    ]  # fmt: skip
    text = "from wsworker import Reject\n\ndef on_handshake(request):\n    n = request.path[1:]\n"
    for number, arguments in enumerate(wrong):
        text += f"    if n == '{number}': raise Reject({arguments})\n"
    daemon = make_daemon(text + "\ndef on_message(connection, data):\n    connection.send(data)\n").start()
    (worker,) = daemon.workers
    for number in range(len(wrong)):
        answer = ask_raw(daemon, UPGRADE.replace(b" / ", f" /{number} ".encode()))
        assert answer.startswith((b"HTTP/1.1 500 ", b"HTTP/1.1 403 ")), (wrong[number], answer)
        assert b"\r\nc: d" not in answer
    assert "on" == daemon.echo("on")
    assert [worker] == daemon.workers
