"""An app that does with the bus what its clients tell it to, and what the tests do with such clients."""

from __future__ import annotations

from contextlib import ExitStack

from websockets.sync.client import ClientConnection

from tests.system.daemon import Daemon

APP = """
import os

def on_message(connection, data):
    worker = connection.worker
    match data.split(" ", 2):
        case ["who"]:
            connection.send(f"{os.getpid()} {worker.slot}")
        case ["sub", topic]:
            connection.subscribe(topic)
            connection.send(f"ok {topic}")
        case ["unsub", topic]:
            connection.unsubscribe(topic)
            connection.send(f"ok {topic}")
        case ["user", name]:
            connection.user = name
            connection.send(f"ok {name}")
        case ["pub", topic, text]:
            worker.publish(topic, text, exclude=connection)
        case ["flood", topic, count]:
            for number in range(int(count)):
                worker.publish(topic, f"{worker.id} {number} " + "x" * 1000)
        case ["all", text]:
            worker.broadcast(text)
        case ["to", name, text]:
            worker.send_to(name, text)
        case ["kick", name]:
            worker.close_user(name, 4001, "kicked")

def on_bus_gap(worker, topics):
    for connection in worker.connections.values():
        connection.send("gap " + " ".join(sorted(topics)))
"""

FORKS = (
    APP
    + """
import signal

def on_message(connection, data, answer=on_message):
    if data != "fork":
        answer(connection, data)
    elif pid := os.fork():
        connection.send(str(pid))
    else:
        signal.pause()
"""
)
"""Forks a process that does nothing, for as long as it is let."""


class Checker:
    """What one reader got. last: by publisher; holes: messages that are missing between others; gaps: told."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.holes: dict[str, int] = {}
        self.gaps: list[str] = []

    def take(self, message: str | bytes) -> None:
        """Look at a message; fails for what must never be."""
        publisher, text, *_ = [*str(message).split(" ", 2), ""]
        if publisher == "gap":
            self.gaps.append(text)
            return
        number, last = int(text), self.last.get(publisher)
        assert last is None or number > last, f"{publisher}: {number} came behind {last}"
        if last is not None and number > last + 1:
            self.holes[publisher] = self.holes.get(publisher, 0) + number - last - 1
            assert self.gaps, f"{publisher}: {last + 1} to {number - 1} are missing, and no gap was told"
        self.last[publisher] = number


def one_in_each(daemon: Daemon, stack: ExitStack, slots: int) -> dict[int, ClientConnection]:
    """Return a client of each slot's worker."""
    found: dict[int, ClientConnection] = {}
    for _ in range(500):
        if len(found) == slots:
            return found
        one = stack.enter_context(daemon.connect())
        found.setdefault(int(say(one, "who").split()[1]), one)
    raise AssertionError(f"500 clients, and only slots {sorted(found)}")


def say(one: ClientConnection, text: str) -> str:
    """Send something and return the answer."""
    one.send(text)
    return str(one.recv(10))


def heard(one: ClientConnection, count: int) -> list[str]:
    """Return so many messages."""
    return [str(one.recv(10)) for _ in range(count)]


def until_heard(publisher: ClientConnection, readers: list[ClientConnection], topic: str) -> None:
    """Publish until all readers have heard it: from then on every worker knows who wants the topic.

    Nothing of that is on its way to them any more, however slow the machine is.
    """
    for number in range(200):
        publisher.send(f"pub {topic} hello {number}")
        if all(knows(reader) for reader in readers):
            break
    else:
        raise AssertionError(f"not all hear {topic!r}")
    # behind all that this publisher has said
    publisher.send(f"pub {topic} hello last")
    for reader in readers:
        heard_until(reader, "hello last")


def heard_until(reader: ClientConnection, last: str) -> list[str]:
    """Return all that comes before a message that is told apart from all others, which is read too."""
    found: list[str] = []
    while (message := str(reader.recv(10))) != last:
        found.append(message)
    return found


def knows(reader: ClientConnection) -> bool:
    """Whether something comes soon."""
    try:
        reader.recv(0.05)
    except TimeoutError:
        return False
    return True
