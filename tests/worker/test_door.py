"""The door: the rules, the user, the room asked twice, plain HTTP. The wire is tested with the connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.worker.service import head, make_app, make_hub, until
from wsworker.counters import Rejection
from wsworker.errors import Reject
from wsworker.protocol.admission import Policy
from wsworker.protocol.events import Handshake
from wsworker.protocol.plain import Answer
from wsworker.protocol.request import Address, Request
from wsworker.protocol.session import Session
from wsworker.worker.door import Door, busy
from wsworker.worker.hub import Hub
from wsworker.worker.site import Site


class Client:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.reasons: list[Rejection] = []

    def _admit(self, subprotocol: str | None) -> None:
        self.told.append(("admit", subprotocol))

    def _answer(self, answer: Answer) -> None:
        self.told.append((int(answer.head.split()[1]), answer.body.decode()))
        if answer.file is not None:
            with answer.file as file:
                self.told.append(file.read())

    def _refuse(self, reason: Rejection, status: int, headers: Mapping[str, str] | None, body: str) -> None:
        if headers and "é" in "".join(headers.values()):
            raise ValueError("header 'X' holds characters that a header must not have")
        self.told.append((status, body))
        self.reasons.append(reason)


def _handshake(data: bytes) -> Handshake:
    session = Session(1000)
    session.receive(data)
    event = session.next_event()
    assert isinstance(event, Handshake)
    return event


def _ask(hub: Hub, more: str = "", host: str = "192.0.2.1") -> tuple[Door, Client]:
    return _ask_with(hub, head("/", more), host)


def _ask_with(hub: Hub, data: bytes, host: str = "192.0.2.1") -> tuple[Door, Client]:
    client = Client()
    handshake = _handshake(data)
    door = Door(hub, client, Request(handshake.head, Address(host, 4711)))
    door.ask(handshake)
    return door, client


async def _answer_of(client: Client) -> list[Any]:
    await until(lambda: client.told)
    return client.told


def _get(target: str, method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


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
    """Browsers fail such a connection without saying why, so the log does."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        assert [("admit", None)] == _ask(make_hub(make_app()), "Sec-WebSocket-Protocol: b, c\r\n")[1].told

    asyncio.run(main())
    assert ["192.0.2.1:4711 offers b, c, not in websocket.subprotocols"] == [
        record.getMessage() for record in caplog.records
    ]


@pytest.mark.parametrize(
    "field", ["Sec-WebSocket-Protocol: a b", "Connection: Upgrade, a;a", "Sec-WebSocket-Extensions: ;;"]
)
def test_a_list_that_is_none_is_refused_before_the_user_is_asked(field: str) -> None:
    """What ServerProtocol would refuse behind on_handshake is refused before it, and the log says so."""
    asked: list[Request] = []

    async def main() -> None:
        [(status, _)] = _ask(make_hub(make_app(on_handshake=asked.append)), f"{field}\r\n")[1].told
        assert 400 == status

    asyncio.run(main())
    assert [] == asked


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


def test_every_refusal_has_its_reason() -> None:
    """As it is counted: by the rules, by the room, by the user, by a mistake of the user."""

    def on_handshake(request: Request) -> None:
        if request.path == "/no":
            raise Reject(401)
        if request.path == "/wrong":
            raise Reject(401, {"X": "é"})
        raise KeyError

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=on_handshake))
        for path, reason in (("/no", "app"), ("/wrong", "error"), ("/", "error")):
            assert [reason] == _ask_with(hub, head(path))[1].reasons
        assert ["origin"] == _ask(hub, "Origin: https://evil.example\r\n")[1].reasons
        assert ["plain_http"] == _ask_with(hub, _get("/"))[1].reasons
        hub.draining = True
        assert ["draining"] == _ask(hub)[1].reasons
        assert ["draining", "full"] == [busy(hub)[0], busy(make_hub(make_app()))[0]]
        crowded = make_hub(make_app(), max_per_address=1)
        assert [[], ["address"]] == [_ask(crowded)[1].reasons, _ask(crowded)[1].reasons]

    asyncio.run(main())


def test_refused_clients_are_spread_over_five_seconds() -> None:
    """Retry-After is 1 to 5, and not always the same."""

    async def main() -> None:
        hub = make_hub(make_app())
        assert {"1", "2", "3", "4", "5"} == {busy(hub)[2]["Retry-After"] for _ in range(100)}

    asyncio.run(main())


# Visitors


def test_who_comes_too_often(caplog: pytest.LogCaptureFixture) -> None:
    """Over the rate an address gets 429 and others do not; the user is not asked, and the log names the setting."""
    caplog.set_level(logging.DEBUG, "wsworker.worker")
    asked: list[str] = []

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=lambda request: asked.append(request.remote.host)), rate_handshakes=2)
        told = [_ask(hub)[1].told[0] for _ in range(4)]
        assert [("admit", None), ("admit", None)] == told[:2]
        assert [429, 429] == [status for status, _ in told[2:]]
        assert [("admit", None)] == _ask(hub, host="192.0.2.2")[1].told

    asyncio.run(main())
    assert ["192.0.2.1", "192.0.2.1", "192.0.2.2"] == asked
    assert all("websocket.rate_handshakes" in record.getMessage() for record in caplog.records)
    assert [logging.INFO, logging.DEBUG] == [record.levelno for record in caplog.records]


def test_plain_http_is_not_counted(tmp_path: Path) -> None:
    """Health checks and files use up nothing of an address's rate, and are answered when it is used up."""
    (tmp_path / "index.html").write_text("start")

    async def main() -> None:
        hub = make_hub(make_app(), rate_handshakes=1)
        hub.policy, hub.site = Policy("same-origin", (), health="/up", has_site=True), Site(str(tmp_path))
        for _ in range(5):
            assert [(200, "ready\n")] == _ask_with(hub, _get("/up"))[1].told
            assert [(200, ""), b"start"] == _ask_with(hub, _get("/"))[1].told
        assert [("admit", None)] == _ask(hub)[1].told
        assert 429 == _ask(hub)[1].told[0][0]
        assert [(200, "ready\n")] == _ask_with(hub, _get("/up"))[1].told

    asyncio.run(main())


def test_too_many_of_one_address(caplog: pytest.LogCaptureFixture) -> None:
    """The place is taken with the word to come in, and the client's to give back; without one it is 429."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        hub = make_hub(make_app(), max_per_address=1)
        assert [("admit", None)] == _ask(hub)[1].told
        assert [(429, "This address has too many connections already.\n")] == _ask(hub)[1].told
        assert [("admit", None)] == _ask(hub, host="192.0.2.2")[1].told
        hub.visitors.leave("192.0.2.1")
        assert [("admit", None)] == _ask(hub)[1].told

    asyncio.run(main())
    (record,) = caplog.records
    assert "websocket.max_per_address" in record.getMessage()


def test_who_is_not_let_in_takes_no_place() -> None:
    """Neither a refusal of ours nor one of the user counts as a connection, nor does a door that was shut."""
    refused = [Reject(403), LookupError()]

    async def on_handshake(request: Request) -> None:
        await asyncio.sleep(0)
        if refused:
            raise refused.pop()

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=on_handshake), max_per_address=1)
        assert [(500, "Internal server error.\n")] == await _answer_of(_ask(hub)[1])
        assert [(403, "")] == await _answer_of(_ask(hub)[1])
        assert 403 == _ask(hub, "Origin: https://evil.example\r\n")[1].told[0][0]
        _ask(hub)[0].shut()
        assert [("admit", None)] == await _answer_of(_ask(hub)[1])

    asyncio.run(main())


def test_one_place_is_given_once() -> None:
    """Of many who wait in on_handshake for the last place of their address, one gets it."""
    may_answer = asyncio.Event()

    async def on_handshake(request: Request) -> None:
        await may_answer.wait()

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=on_handshake), max_per_address=1)
        clients = [_ask(hub)[1] for _ in range(5)]
        may_answer.set()
        told = [(await _answer_of(client))[0][0] for client in clients]
        assert ["admit", 429, 429, 429, 429] == told

    asyncio.run(main())


# Plain HTTP


def test_health(caplog: pytest.LogCaptureFixture) -> None:
    """200 while the worker serves, also when it is full; 503 once it leaves. None of it is logged."""
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        hub = make_hub(make_app(), worker_connections=1)
        hub.policy = Policy("same-origin", (), health="/up")
        connection: Any = SimpleNamespace(id="x")
        hub.opened(connection)
        assert hub.full
        assert 503 == _ask(hub)[1].told[0][0]
        caplog.clear()
        assert [(200, "ready\n")] == _ask_with(hub, _get("/up"))[1].told
        assert [(200, "")] == _ask_with(hub, _get("/up", "HEAD"))[1].told
        hub.draining = True
        assert [(503, "draining\n")] == _ask_with(hub, _get("/up"))[1].told

    asyncio.run(main())
    assert [] == [record for record in caplog.records if record.name.startswith("wsworker")]


def test_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files are served without asking the user; why one is not served is logged, that there is none is not."""
    caplog.set_level(logging.INFO)
    (tmp_path / "a.js").write_text("let a")
    (tmp_path / "out").symlink_to("/etc/passwd")

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=lambda request: 1 / 0))
        hub.policy, hub.site = Policy("same-origin", (), has_site=True), Site(str(tmp_path))
        assert [(200, ""), b"let a"] == _ask_with(hub, _get("/a.js"))[1].told
        assert [404, 404] == [_ask_with(hub, _get(target))[1].told[0][0] for target in ("/none", "/out")]
        assert [(405, "Only GET and HEAD are answered here.\n")] == _ask_with(hub, _get("/a.js", "POST"))[1].told

    asyncio.run(main())
    messages = [record.getMessage() for record in caplog.records]
    assert "192.0.2.1:4711: out is not served: a link leads out of http.static" == messages[0]
    assert "refused a request with 405" in messages[1]
    assert 2 == len(messages)


def test_cookies_are_hidden_from_the_user() -> None:
    """Where every page may connect, the user sees the cookies of none but those of the same origin."""
    seen: list[dict[str, str]] = []

    def on_handshake(request: Request) -> None:
        seen.append(dict(request.cookies))
        assert ("cookie" in request.headers) == bool(request.cookies)

    async def main() -> None:
        hub = make_hub(make_app(on_handshake=on_handshake), origins="*")
        for origin in ("Origin: https://evil.example\r\n", "Origin: http://127.0.0.1\r\n", ""):
            assert [("admit", None)] == _ask(hub, f"Cookie: sid=1\r\n{origin}")[1].told

    asyncio.run(main())
    assert [{}, {"sid": "1"}, {"sid": "1"}] == seen
