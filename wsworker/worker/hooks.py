"""Hooks: the two callbacks of a move, which give or take a state and may stop one connection from moving.

on_handover runs in the old worker and gives a dictionary of what JSON has, or None for an empty one; on_resume gets it
in the new worker. Both are called for one connection alone, at a moment when nothing else of it runs. What they raise
is reported as of any callback, and that connection does not move; there is no on_error, as nothing is wrong with it.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from wsworker.handover import jsonable
from wsworker.speaker import begin_task, floor
from wsworker.worker.app import Callback
from wsworker.worker.connection import Connection
from wsworker.worker.copies import end_if_copy
from wsworker.worker.hub import Hub


class Declined(Exception):
    """The connection does not move: a hook has raised, or gave something that cannot travel; it is reported."""


def hand_over(hub: Hub, connection: Connection, callback: Callback) -> dict[str, Any]:
    """Call a sync on_handover; return its state. Raises Declined."""
    found: list[object] = []

    def ask() -> None:
        state = callback.function(connection)
        hub.caller.examine(state)
        found.append(state)

    _call(hub, callback, connection, ask)
    return _checked(hub, callback, found[0])


async def hand_over_later(hub: Hub, connection: Connection, callback: Callback) -> dict[str, Any]:
    """Call an async on_handover; return its state. Raises Declined. You must not cancel it but by delivery.OURS."""
    found: list[object] = []

    async def ask(client: Connection) -> None:
        found.append(await callback.function(client))

    begin_task(connection)
    error = await hub.caller.wait(Callback(ask, True, callback.place), connection)
    if error is not None:
        hub.caller.report(callback, error)
        raise Declined
    return _checked(hub, callback, found[0])


def resume(hub: Hub, connection: Connection, state: dict[str, Any] | None) -> None:
    """Give on_resume the state: now if it is sync, else as the first callback of the connection. Raises Declined.

    state: of on_handover, None if there was none. A state that nobody takes is not lost: the connection does not move.
    """
    callback = hub.app.on_resume
    if callback is None:
        if state:
            text = "on_handover gave a state, and the new code has no on_resume; its connections do not move"
            hub.notices.tell("no on_resume", text)
            raise Declined
        return
    if callback.is_async:
        connection._delivery.call(callback, state or {})
        return
    _call(hub, callback, connection, lambda: hub.caller.examine(callback.function(connection, state or {})))


def _call(hub: Hub, callback: Callback, connection: Connection, act: Any) -> None:
    before, floor.holder = floor.holder, connection
    began_at = monotonic()
    try:
        # nobody else's context: see Hub.context
        hub.context.copy().run(act)
    except BaseException as error:
        # as Caller.run has it: a CancelledError of user code is one like any other
        end_if_copy(error)
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise
        hub.caller.report(callback, error)
        raise Declined from None
    finally:
        floor.holder = before
        hub.caller.mind_time(callback, monotonic() - began_at)


def _checked(hub: Hub, callback: Callback, state: object) -> dict[str, Any]:
    if state is None:
        return {}
    try:
        if type(state) is not dict:
            raise TypeError(f"on_handover gives a dict or None, not {type(state).__name__}")
        jsonable.check(state, "what on_handover gave")
    except (TypeError, ValueError) as error:
        hub.caller.report(callback, error)
        raise Declined from None
    return state
