"""The fakes, beside what they stand for: each test asks a real connection and a fake one the same things."""

from __future__ import annotations

import asyncio
import inspect
import operator
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker.service import Recorder, make_app, recorded
from wsworker.fakes import MOST_TOPICS, FakeConnection, FakeRequest, FakeTimer, FakeWorker
from wsworker.protocol.request import Address
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Worker
from wsworker.worker.timers import Timer

SENDABLE: list[Any] = ["text", "", b"bytes", bytearray(b"array"), memoryview(b"view")]
UNSENDABLE: list[Any] = [None, 1, ["text"], "\ud800"]
NAMES: list[Any] = ["room", "r" * 255, "ü", "", "ü" * 128, "a\nb", "\ud800", None, b"room"]
CODES = [1000, 1003, 1004, 1006, 1008, 1014, 1015, 2999, 3000, 4999, 5000, 0, -1]

Body = Callable[[Any], list[Any]]


def tried(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returns, or the class of what it raises."""
    try:
        return function(*args)
    except Exception as error:
        return type(error)


def messages(transport: Recorder) -> list[str | bytes]:
    """Return the messages in what was written; each is shorter than 126 bytes."""
    data = b"".join(transport.writes)
    found: list[str | bytes] = []
    while data:
        first, size, payload = data[0], data[1], data[2 : 2 + data[1]]
        if first == 0x81:
            found.append(payload.decode())
        elif first == 0x82:
            found.append(payload)
        data = data[2 + size :]
    return found


def ask_real(body: Body) -> tuple[list[Any], list[str | bytes]]:
    """Return what a body finds out from a real connection, and the messages that its client got."""

    async def ask() -> tuple[list[Any], list[str | bytes]]:
        connection, transport = recorded(make_app(on_message=lambda connection, data: None))
        found = body(connection)
        # what is corked leaves in the next tick
        await asyncio.sleep(0)
        connection.terminate()
        return found, messages(transport)

    return asyncio.run(ask())


def ask_fake(body: Body) -> tuple[list[Any], list[str | bytes]]:
    """Return what a body finds out from a fake connection, and what it has sent."""
    connection = FakeConnection()
    return body(connection), [*connection.sent]


def sending(connection: Any) -> list[Any]:
    """Send what can be sent and what cannot, before and after a close."""
    before = [tried(connection.send, data) for data in [*SENDABLE, *UNSENDABLE]]
    connection.close()
    return before + [tried(connection.send, data) for data in [*SENDABLE, None, 1]]


def closing(connection: Any) -> list[Any]:
    """Close with every code, good ones last."""
    wrong = [(code, tried(connection.close, code)) for code in CODES if code not in (1000, 1003, 1008, 1014)]
    return [*wrong, connection.state, connection.close(1000, "bye"), connection.close(1006 + 2), connection.state]


def terminating(connection: Any) -> list[Any]:
    """End, and go on as if nothing had happened."""
    found = [connection.terminate(), connection.state, connection.send("late"), connection.close(), connection.state]
    return [*found, connection.pause(), connection.resume(), connection.terminate(), connection.buffered]


def subscribing(connection: Any) -> list[Any]:
    """Use good and bad names, twice, and after the close."""
    found = [tried(connection.subscribe, name) for name in NAMES] + [connection.topics]
    found += [tried(connection.subscribe, "room"), tried(connection.unsubscribe, "ü"), connection.topics]
    found += [tried(connection.unsubscribe, name) for name in ["nothing", "", None]]
    connection.close()
    return [*found, connection.subscribe("late"), connection.unsubscribe("room"), connection.topics]


def subscribing_too_much(connection: Any) -> list[Any]:
    """Use one topic more than there may be, then one of them again, and another in place of one."""
    for number in range(MOST_TOPICS):
        connection.subscribe(f"room {number}")
    with pytest.raises(ValueError, match="topics") as caught:
        connection.subscribe("hall")
    connection.subscribe("room 7")
    connection.unsubscribe("room 7")
    connection.subscribe("hall")
    found = [str(caught.value), connection.topics]
    connection.close()
    return [*found, connection.subscribe("late")]


def publishing(connection: Any) -> list[Any]:
    """Publish to topics, users and all, with good and bad arguments."""
    worker = connection.worker
    connection.subscribe("room")
    found = [worker.count("room"), worker.count("hall")]
    found += [worker.publish("room", "one"), worker.publish("hall", "two"), worker.publish("room", "three", connection)]
    found += [worker.broadcast(b"four"), worker.send_to("ann", "five")]
    connection.user = "ann"
    found += [worker.send_to("ann", "six"), worker.send_to("bob", "seven")]
    found += [tried(worker.publish, name, "x", connection) for name in NAMES]
    found += [tried(worker.send_to, name, "x") for name in NAMES]
    found += [tried(worker.count, name) for name in NAMES]
    found += [tried(worker.publish, "hall", data) for data in UNSENDABLE]
    found += [tried(worker.broadcast, data) for data in UNSENDABLE]
    found += [tried(worker.send_to, "bob", data) for data in UNSENDABLE]
    found += [tried(worker.publish, "", None)]
    return [*found, *(tried(worker.close_user, "bob", code) for code in CODES)]


def closing_a_user(connection: Any) -> list[Any]:
    """A user's connections are closed, and get nothing more; they are shown until their end."""
    worker = connection.worker
    connection.user = "ann"
    connection.subscribe("room")
    worker.close_user("ann", 4000, "bye")
    worker.send_to("ann", "late")
    worker.broadcast("late")
    worker.publish("room", "late")
    return [connection.state, worker.count("room"), connection.user, len(worker.connections)]


def naming(connection: Any) -> list[Any]:
    """Be somebody, somebody else, nobody, and what cannot be."""
    found = []
    for name in ["ann", "bob", None, *NAMES]:
        found += [tried(setattr, connection, "user", name), connection.user]
    return found


def keeping_time(connection: Any) -> list[Any]:
    """Ask for timers that can be, and for some that cannot."""
    worker = connection.worker
    found: list[Any] = []
    for add in (worker.every, worker.after):
        found += [tried(add, seconds, print) for seconds in (0, -1, float("inf"), float("nan"))]
        found += [tried(add, 60, None)]
        timer = add(60, print)
        found += [timer.cancel(), timer.cancel()]
    return found


def looking(connection: Any) -> list[Any]:
    """Look at what is there from the beginning, and what becomes of it."""
    worker = connection.worker
    found = [connection.state, connection.user, connection.subprotocol, connection.data, connection.topics]
    found += [worker.connections[connection.id] is connection, worker.log.name, connection.request.path]
    found += [connection.pause(), connection.resume(), connection.buffered]
    return [*found, tried(operator.setitem, worker.connections, "x", connection)]


def decorating(connection: Any) -> list[Any]:
    """Keep something in it: data is for that, an attribute of the user's own is not."""
    connection.data["room"] = "lobby"
    return [connection.data, tried(setattr, connection, "room", "lobby"), tried(weakref.ref, connection)]


@pytest.mark.parametrize(
    "body",
    [
        sending,
        closing,
        terminating,
        subscribing,
        subscribing_too_much,
        publishing,
        closing_a_user,
        naming,
        keeping_time,
        looking,
        decorating,
    ],
)
def test_a_fake_does_what_the_real_one_does(body: Body) -> None:
    """The same returns, the same errors, the same messages to the client."""
    assert ask_real(body) == ask_fake(body)


def test_a_long_reason_is_cut() -> None:
    """As much of it is kept as a client would get."""
    connection = FakeConnection()
    connection.close(1000, "ü" * 100)
    assert (1000, "ü" * 61) == connection.closed


def public(kind: type) -> dict[str, Any]:
    """Return the public members of a class that users may call or read, with what defines them."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("wsworker.")]
    inherited = {name for base in asyncio.BufferedProtocol.__mro__ for name in vars(base)}
    inherited |= {name for base in asyncio.Protocol.__mro__ for name in vars(base)}
    members = {name: member for base in reversed(ours) for name, member in vars(base).items()}
    return {name: member for name, member in members.items() if not name.startswith("_") and name not in inherited}


@pytest.mark.parametrize(("real", "fake"), [(Connection, FakeConnection), (Worker, FakeWorker), (Timer, FakeTimer)])
def test_every_member_is_there(real: type, fake: type) -> None:
    """With the same parameters, as a property if it is one, and as a coroutine if it is one."""
    for name, member in public(real).items():
        if inspect.isfunction(member):
            theirs = getattr(fake, name)
            assert inspect.iscoroutinefunction(member) == inspect.iscoroutinefunction(theirs), name
            wanted, found = inspect.signature(member).parameters, inspect.signature(theirs).parameters
            assert [(one.name, one.kind, one.default) for one in wanted.values()] == [
                (one.name, one.kind, one.default) for one in found.values()
            ], name
        elif isinstance(member, property):
            theirs = getattr(fake, name)
            assert (member.fset is None) == (theirs.fset is None), name


def test_every_attribute_is_there() -> None:
    """Also those that are set when an object is made."""
    found: dict[str, set[str]] = {}

    def list_them(connection: Any) -> list[Any]:
        for one in (connection, connection.worker):
            kind = type(one).__name__.removeprefix("Fake")
            names = {name for name in dir(one) if not name.startswith("_")}
            found[kind] = found[kind] - names if kind in found else names & public_names(one)
        return []

    ask_real(list_them)
    ask_fake(list_them)
    assert {"Connection": set(), "Worker": set()} == found


def public_names(one: Any) -> set[str]:
    """Return the names that a user may use of a real connection or worker."""
    names = {name for name in dir(one) if not name.startswith("_") and hasattr(one, name)}
    return names - {name for base in (asyncio.BufferedProtocol, asyncio.Protocol) for name in dir(base)}


def test_what_is_kept() -> None:
    """All that was done to a worker stands in its lists."""
    worker = FakeWorker(slot=2)
    one, other = FakeConnection(worker), FakeConnection(worker)
    one.subscribe("room")
    other.subscribe("room")
    one.user = "ann"
    worker.publish("room", bytearray(b"x"), exclude=one)
    worker.broadcast("all")
    worker.send_to("ann", "you")
    worker.close_user("ann", 4000, "bye")
    worker.every(5, print)
    worker.after(1, print).cancel()
    assert [("room", b"x")] == worker.published
    assert ["all"] == worker.broadcasts
    assert [("ann", "you")] == worker.sent_to
    assert [("ann", 4000, "bye")] == worker.closed_users
    assert [(5, print, True, False), (1, print, False, True)] == [
        (timer.seconds, timer.fn, timer.repeats, timer.cancelled) for timer in worker.timers
    ]
    assert (["all", "you"], [b"x", "all"]) == (one.sent, other.sent)
    assert ((4000, "bye"), None) == (one.closed, other.closed)
    assert (2, 2, "<FakeWorker in slot 2, 2 connections>") == (worker.id, worker.slot, repr(worker))


def test_a_client_that_does_not_read() -> None:
    """A full connection refuses, and takes messages again afterwards."""
    connection = FakeConnection()
    connection.full = True
    assert not connection.send("lost")
    connection.full = False
    assert connection.send("kept")
    assert ["kept"] == connection.sent


def test_a_client_that_leaves() -> None:
    """It is closed without anybody here having closed it, and gone from its worker."""
    connection = FakeConnection()
    asyncio.run(connection.drain())
    connection.pause()
    assert connection.paused
    connection.end()
    assert ("closed", None, {}) == (connection.state, connection.closed, {**connection.worker.connections})
    assert f"<FakeConnection {connection.id}, closed>" == repr(connection)


def test_two_connections_have_two_ids() -> None:
    """And each a worker of its own, unless they are given one."""
    one, other = FakeConnection(), FakeConnection()
    assert one.id != other.id
    assert one.worker is not other.worker


def test_another_worker() -> None:
    """A connection that is given one leaves its first; one that has ended is not reached there either."""
    connection, worker = FakeConnection(), FakeWorker()
    first = connection.worker
    connection.worker = worker
    connection.subscribe("room")
    worker.publish("room", "hi")
    first.publish("room", "lost")
    assert ({}, {connection.id: connection}, ["hi"]) == ({**first.connections}, {**worker.connections}, connection.sent)
    connection.end()
    connection.worker = first
    assert ({}, {}, first) == ({**first.connections}, {**worker.connections}, connection.worker)


def test_another_request() -> None:
    """It brings the address it came from."""
    connection = FakeConnection()
    connection.request = FakeRequest("/x", remote=Address("192.0.2.1", 1))
    assert ("/x", "192.0.2.1:1") == (connection.request.path, str(connection.remote))


def test_requests() -> None:
    """A request is real, and made of what a client would send."""
    request = FakeRequest("/chat?room=1", {"Cookie": "sid=7", "X-Who": "ann"})
    assert ("/chat", {"room": "1"}, {"sid": "7"}) == (request.path, {**request.query}, {**request.cookies})
    assert ("ann", "127.0.0.1") == (request.headers["x-who"], request.remote.host)
    connection = FakeConnection(request=FakeRequest("/x", remote=Address("192.0.2.1", 1)))
    assert ("/x", "192.0.2.1:1") == (connection.request.path, str(connection.remote))
