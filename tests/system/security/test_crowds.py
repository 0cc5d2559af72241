"""Rows 18 and 19: too many clients, and clients that never say who they are."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.frames import CLOSE, TEXT
from tests.system.clients import UPGRADE, ask_raw, raw, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from tests.system.faults.mischief import descriptors, lift, limit
from tests.system.security.hostile import ECHO, Client, Frame, framed, steadfast

SIGNS_IN = """
def on_message(connection, data):
    word, _, name = data.partition(" ")
    if word == "I'm":
        connection.user = name
    if word == "bye":
        connection.user = None
    connection.send(f"{connection.user} {connection.state}")

def on_close(connection, code, reason):
    print(connection.user, code, reason, flush=True)
"""

LIMIT = 20


def say_goodbye(client: Client) -> None:
    """Close a client as the protocol wants it."""
    client.send(framed(CLOSE, b"\x03\xe8"))
    assert 1000 == client.close_code()
    client.sock.close()


def hang_up(client: Client) -> None:
    """Close a client's socket without a word."""
    client.sock.close()


def check_turned_away(answer: bytes, status: int) -> None:
    """Fail unless an answer is this refusal, with the time after which to come again."""
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    (seconds,) = [line for line in answer.split(b"\r\n") if line.startswith(b"Retry-After: ")]
    assert seconds.partition(b": ")[2] in (b"1", b"2", b"3", b"4", b"5")


# Row 18


@pytest.mark.parametrize("setting", ["worker_connections", "max_per_address"])
def test_row_18_fill_and_free_and_fill(make_daemon: MakeDaemon, setting: str) -> None:
    """A limit is reached exactly, and each way to leave gives its place back, again and again."""
    settings: dict[str, object] = {"worker_connections": LIMIT}
    if setting == "max_per_address":
        settings = {"websocket": {"max_per_address": LIMIT}}
    with steadfast(make_daemon(ECHO, **settings)) as daemon:
        for leave in (Client.reset, say_goodbye, hang_up):
            # the places of those who have left become free one by one
            clients = [eventually(lambda: let_in(daemon))[0] for _ in range(LIMIT)]
            for _ in range(3):
                check_turned_away(ask_raw(daemon, UPGRADE), 503 if setting == "worker_connections" else 429)
            for client in clients:
                client.send(framed(TEXT, b"on"))
                assert b"on" == client.message()
            for client in clients:
                leave(client)
        daemon.wait_status(lambda status: status["totals"]["connections"] == 0)


def let_in(daemon: Daemon) -> list[Client]:
    """Return a client in a list, which is empty if it was not let in."""
    try:
        return [Client(daemon)]
    except AssertionError:
        return []


def test_row_18_too_many_of_one_user(make_daemon: MakeDaemon) -> None:
    """A user's connection over max_per_user is closed with 3504; the others stay, and a place becomes free again."""
    with steadfast(make_daemon(SIGNS_IN, websocket={"max_per_user": 2})) as daemon, ExitStack() as stack:

        def signed_in(name: str) -> Client:
            client = stack.enter_context(Client(daemon))
            client.send(framed(TEXT, f"I'm {name}".encode()))
            return client

        first, second, other = signed_in("ann"), signed_in("ann"), signed_in("bob")
        for client, name in ((first, b"ann"), (second, b"ann"), (other, b"bob")):
            assert name + b" open" == client.message()
        for _ in range(3):
            third = signed_in("ann")
            assert Frame(CLOSE, (3504).to_bytes(2, "big") + b"too many connections of this user") == third.frame()
        # who signs out, signs in as another, or leaves, gives the place back
        for leaving in (b"bye", b"I'm eve"):
            second.send(framed(TEXT, leaving))
            second.message()
            second = signed_in("ann")
            assert b"ann open" == second.message()
        first.reset()
        eventually(lambda: "ann 1006" in daemon.out)
        assert b"ann open" == signed_in("ann").message()


@contextmanager
def without_descriptors(worker: int) -> Iterator[None]:
    """Leave a worker without a free descriptor."""
    limit(worker, resource.RLIMIT_NOFILE, len(descriptors(worker)))
    try:
        yield
    finally:
        lift(worker, resource.RLIMIT_NOFILE)


def test_row_18_no_descriptor_left(make_daemon: MakeDaemon) -> None:
    """The only worker without a descriptor tells each client 503 by its reserve, and serves on; then all is well."""
    with steadfast(make_daemon(ECHO)) as daemon, Client(daemon) as inside:
        (worker,) = daemon.workers
        assert descriptors(worker) == [*range(len(descriptors(worker)))]
        with without_descriptors(worker), ExitStack() as stack:
            socks = [stack.enter_context(raw(daemon)) for _ in range(10)]
            for sock in socks:
                sock.sendall(UPGRADE)
            for sock in socks:
                check_turned_away(read_to_end(sock), 503)
            inside.send(framed(TEXT, b"on"))
            assert b"on" == inside.message()
        assert 1 == daemon.log.count("out of file descriptors or memory")
        assert "again" == eventually(lambda: daemon.echo("again"))


# Row 19


@pytest.mark.parametrize("talks", [False, True], ids=["silent", "talks"])
def test_row_19_who_never_signs_in(make_daemon: MakeDaemon, talks: bool) -> None:
    """Without a user after auth_timeout it is 3502, however much the client talks; who has signed in stays."""
    settings = {"auth_timeout": "3s"}
    with steadfast(make_daemon(SIGNS_IN, websocket=settings)) as daemon, Client(daemon) as guest, Client(daemon) as ann:
        ann.send(framed(TEXT, b"I'm ann"))
        assert b"ann open" == ann.message()
        received: list[Frame] = []
        while not received or received[-1].opcode == TEXT:
            if talks:
                guest.send(framed(TEXT, b"let me in"))
            received.append(guest.frame())
        assert Frame(CLOSE, (3502).to_bytes(2, "big") + b"not signed in in time") == received[-1]
        assert {Frame(TEXT, b"None open")} >= {*received[:-1]}
        with Client(daemon) as later:
            assert 3502 == int.from_bytes(later.frame().payload[:2], "big")
        # that was her second window
        ann.send(framed(TEXT, b"still"))
        assert b"ann open" == ann.message()


def test_row_19_off_by_default(make_daemon: MakeDaemon) -> None:
    """Without auth_timeout nobody has to be anybody."""
    with steadfast(make_daemon(SIGNS_IN)) as daemon, Client(daemon) as client:
        client.send(framed(TEXT, b"hello"))
        assert b"None open" == client.message()
        assert "3502" not in daemon.out
