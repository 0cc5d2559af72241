"""Speaker: on behalf of which connection code runs at this moment, so that the log can say so.

Two ways, because nearly all callbacks are sync and may not pay for the others:

    a sync callback    runs inline in the main thread; around it, it has the floor: two stores of an attribute
    an async callback  runs in a task of its own; its context has the id, and so have the tasks it starts, and the
                       threads of asyncio.to_thread

The floor goes first, as a sync callback is always the innermost: while it runs, nothing else of this thread does. Tasks
that a sync callback starts have no connection: for that alone a context variable would be set for every message. It is
only cleared, where the task of another connection has led to the callback.

Contexts outlive callbacks: whatever is scheduled keeps a copy. So a context holds the id and not the connection, which
would stay in memory; and what belongs to nobody (timers, the worker's own rounds) is scheduled with aside().
"""

from __future__ import annotations

import threading
from contextvars import Context, ContextVar, copy_context
from typing import Final, Protocol


class Speaker(Protocol):
    """What a connection shows of itself. id: "" before it is open."""

    id: str


class Floor:
    """What one connection at a time has. holder: whose sync callback runs in the main thread.

    Set it before a call, and put back what was there before after it: None where no other call can be under way. An
    object with a slot, as a store to an attribute of a module takes three times as long.
    """

    __slots__ = ("holder",)

    def __init__(self) -> None:
        self.holder: Speaker | None = None


floor: Final = Floor()

of_task: Final[ContextVar[str]] = ContextVar("wsworker_connection", default="")
"""The id of the connection that a task speaks for, "" if it is for nobody."""


def connection_id() -> str | None:
    """Return the id of the connection whose callback has led here, or None."""
    holder = floor.holder
    if holder is not None and threading.current_thread() is threading.main_thread():
        return holder.id or None
    return of_task.get() or None


def begin_task(connection: Speaker) -> None:
    """From now on the task that calls this, and all that it starts, speaks for the connection."""
    of_task.set(connection.id)


def aside() -> Context:
    """Return a copy of the current context that speaks for nobody, to schedule something with."""
    context = copy_context()
    context.run(of_task.set, "")
    return context
