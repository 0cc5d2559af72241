"""Application: what runs in the server meanwhile. It echoes, writes down what it hears, and obeys some words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from wsworker.errors import Reject
from wsworker.protocol.request import Request
from wsworker.worker.app import App, Callback
from wsworker.worker.connection import Connection

LARGEST: Final = 5000
"""The largest message that it sends of itself."""

ENDING_WORDS: Final = frozenset({"close", "raise", "end"})
"""Messages upon which it ends the connection."""


class Meant(Exception):
    """The application raises it on purpose."""


@dataclass
class Journal:
    """What the application has heard."""

    calls: list[str] = field(default_factory=list)
    messages: list[str | bytes] = field(default_factory=list)
    end: tuple[int, str] | None = None
    connection: Connection | None = None
    raised: int = 0


def make_app(journal: Journal, awaits: bool) -> App:
    """Return the application; awaits: its callbacks are async."""

    def on_handshake(request: Request) -> None:
        if request.path == "/reject":
            raise Reject(403, {"X-Why": "policy"}, "no\n")

    def on_connect(connection: Connection) -> None:
        journal.calls.append("connect")
        journal.connection = connection
        connection.send("hello")

    def on_message(connection: Connection, data: str | bytes) -> None:
        journal.calls.append("message")
        journal.messages.append(data)
        if data == "close":
            connection.close(4000, "as you wish")
        elif data == "pause":
            connection.pause()
            connection.resume()
        elif data == "raise":
            journal.raised += 1
            raise Meant
        elif data == "end":
            connection.terminate()
        elif data == "user":
            connection.user = "somebody"
        else:
            connection.send(data)

    def on_close(connection: Connection, code: int, reason: str) -> None:
        journal.calls.append("close")
        journal.end = (code, reason)
        connection.send("too late")

    def on_error(connection: Connection, exc: Exception) -> None:
        journal.calls.append("error")
        assert isinstance(exc, Meant), exc

    def on_buffer_full(connection: Connection) -> None:
        journal.calls.append("full")

    def on_buffer_drain(connection: Connection) -> None:
        journal.calls.append("drain")

    functions = (on_connect, on_message, on_close, on_error, on_buffer_full, on_buffer_drain)
    callbacks = {function.__name__: _callback(function, awaits) for function in functions}
    return App("app", 0.0, on_handshake=_callback(on_handshake, awaits), **callbacks)


def _callback(function: Callable[..., None], awaits: bool) -> Callback:
    async def later(*args: Any) -> None:
        await asyncio.sleep(0)
        function(*args)
        await asyncio.sleep(0)

    return Callback(later if awaits else function, awaits, f"app.py:{function.__name__}")


ACTS: Final[dict[str, Callable[[Connection, int], object]]] = {
    "say": lambda connection, size: [connection.send("s" * size), connection.send(bytes(size))],
    "close": lambda connection, _: connection.close(4001, "enough"),
    "pause": lambda connection, _: connection.pause(),
    "resume": lambda connection, _: connection.resume(),
    "terminate": lambda connection, _: connection.terminate(),
    "user": lambda connection, _: setattr(connection, "user", "somebody"),
    "nobody": lambda connection, _: setattr(connection, "user", None),
}
"""What it may do at any time, by a name, with a number."""
