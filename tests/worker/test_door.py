"""The door: the rules, the user, the room asked twice. The answers on the wire are tested with the connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from tests.worker.service import head, make_app, make_hub, until
from wsworker.errors import Reject
from wsworker.protocol.request import Address, Request
from wsworker.protocol.session import Handshake, Session
from wsworker.worker.door import Door, busy
from wsworker.worker.hub import Hub


class Client:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def _admit(self, subprotocol: str | None) -> None:
        self.told.append(("admit", subprotocol))

    def _refuse(self, status: int, headers: Mapping[str, str] | None, body: str) -> None:
        if headers and "é" in "".join(headers.values()):
            raise ValueError("header 'X' holds characters that a header must not have")
        self.told.append((status, body))


def _handshake(more: str) -> Handshake:
    session = Session(1000)
    session.receive(head("/", more))
    event = session.next_event()
    assert isinstance(event, Handshake)
    return event


def _ask(hub: Hub, more: str = "") -> tuple[Door, Client]:
    client = Client()
    handshake = _handshake(more)
    door = Door(hub, client, Request(handshake.request, Address("192.0.2.1", 4711)))
    door.ask(handshake)
    return door, client


def test_without_on_handshake_the_rules_decide(caplog: pytest.LogCaptureFixture) -> None:
    """A good request is admitted with its subprotocol; another is refused, and the log says why."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        hub = make_hub(make_app(), subprotocols=("chat",))
        assert [("admit", "chat")] == _ask(hub, "Sec-WebSocket-Protocol: chat\r\n")[1].told
        assert [("admit", None)] == _ask(hub)[1].told
        assert [] == caplog.records
        (answer,) = _ask(hub, "Origin: https://evil.example\r\n")[1].told
        assert 403 == answer[0]

    asyncio.run(main())
    (record,) = caplog.records
    assert record.getMessage().startswith("192.0.2.1:4711: ")
    assert "websocket.origins" in record.getMessage()


def test_an_offer_without_a_common_subprotocol_is_admitted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Browsers fail such a connection without saying why, so the log does; control characters are escaped."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        assert [("admit", None)] == _ask(make_hub(make_app()), "Sec-WebSocket-Protocol: a\x85b, c\r\n")[1].told

    asyncio.run(main())
    assert ["192.0.2.1:4711 offers aÂ\\x85b, c, not in websocket.subprotocols"] == [
        record.getMessage() for record in caplog.records
    ]


def test_the_user_decides_at_once_or_later() -> None:
    """A sync on_handshake is answered in the call; an async one when it is done."""

    async def later(request: Request) -> None:
        await asyncio.sleep(0)
        raise Reject(429, body="slow down")

    def at_once(request: Request) -> None:
        raise Reject(403)

    async def main() -> None:
        assert [(403, "")] == _ask(make_hub(make_app(on_handshake=at_once)))[1].told
        _, client = _ask(make_hub(make_app(on_handshake=later)))
        assert [] == client.told
        await until(lambda: client.told)
        assert [(429, "slow down")] == client.told

    asyncio.run(main())


def test_a_reject_that_cannot_be_sent_is_500() -> None:
    """A header that no response can hold is a fault of the app: logged, counted, answered with 500."""

    def on_handshake(request: Request) -> None:
        raise Reject(403, {"X": "é"})

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=on_handshake))
        assert [(500, "Internal server error.\n")] == _ask(hub)[1].told
        assert 1 == hub.counters.errors

    asyncio.run(main())


def test_room_is_asked_again_after_the_user() -> None:
    """A worker that began to leave while on_handshake ran admits nobody."""

    async def on_handshake(request: Request) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=on_handshake))
        _, client = _ask(hub)
        hub.draining = True
        await until(lambda: client.told)
        assert 503 == client.told[0][0]

    asyncio.run(main())


def test_a_shut_door_answers_nothing_more() -> None:
    """shut() cancels an on_handshake under way; without one, or a second time, it does nothing."""
    ended: list[str] = []

    async def on_handshake(request: Request) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def main() -> None:
        door, client = _ask(make_hub(make_app(on_handshake=on_handshake)))
        await asyncio.sleep(0)
        door.shut()
        door.shut()
        await until(lambda: ended)
        assert [] == client.told
        _ask(make_hub(make_app()))[0].shut()

    asyncio.run(main())


async def _swallows(request: Request) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def _answers(request: Request) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise Reject(403) from None


async def _fails(request: Request) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise LookupError


@pytest.mark.parametrize("on_handshake", [_swallows, _answers, _fails])
def test_an_answer_that_comes_too_late_is_none(on_handshake: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an on_handshake makes of its cancellation, the client has been answered, and nothing is logged."""

    async def main() -> None:
        door, client = _ask(make_hub(make_app(on_handshake=on_handshake)))
        await asyncio.sleep(0)
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        assert task is not None
        door.shut()
        await asyncio.wait([task])
        assert [] == client.told
        if not task.cancelled():
            task.result()

    asyncio.run(main())
    assert [] == caplog.records


def test_refused_clients_are_spread_over_five_seconds() -> None:
    """Retry-After is 1 to 5, and not always the same."""

    async def main() -> None:
        hub = make_hub(make_app())
        assert {"1", "2", "3", "4", "5"} == {busy(hub)[1]["Retry-After"] for _ in range(100)}

    asyncio.run(main())
