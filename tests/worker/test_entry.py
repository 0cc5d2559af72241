"""The entry: whom a client is taken for, the answers to a handshake, and that each is counted once whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.clock import Wire, arrive, on_the_clock, passes, turns
from tests.worker.conftest import Run
from tests.worker.service import closing, head, make_app, make_hub, serving, text, until
from wsworker.counters import BOUNDS
from wsworker.errors import Reject
from wsworker.protocol.request import Address
from wsworker.sections import HttpConfig
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

PROXY = ("192.0.2.1", 4711)
STRANGER = ("198.51.100.9", 4711)
NAMED = "X-Forwarded-For: 203.0.113.5\r\n"


def _get(target: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode()


def _status(wire: Wire) -> int:
    """Return the status of the one answer that was written, 0 for none."""
    data = b"".join(wire.writes)
    assert data.count(b"HTTP/1.1 ") <= 1
    return int(data.split()[1]) if data else 0


# whom a client is taken for


@pytest.mark.parametrize(
    ("peer", "source", "settings", "more", "expected"),
    [
        (PROXY, None, {}, NAMED, "192.0.2.1:4711"),
        (PROXY, None, {"forwarded_allow_ips": ("192.0.2.0/24",)}, NAMED, "203.0.113.5:0"),
        (PROXY, None, {"forwarded_allow_ips": ("192.0.2.0/24",)}, "", "192.0.2.1:4711"),
        (STRANGER, None, {"forwarded_allow_ips": ("192.0.2.0/24",)}, NAMED, "198.51.100.9:4711"),
        (("127.0.0.1", 5), None, {}, NAMED, "203.0.113.5:0"),
        (("127.0.0.1", 5), None, {"forwarded_allow_ips": ()}, NAMED, "127.0.0.1:5"),
        # what the client itself wrote stands left of what the proxy has appended
        (("127.0.0.1", 5), None, {}, "X-Forwarded-For: 10.9.9.9\r\n" + NAMED, "203.0.113.5:0"),
        # the other header is anybody's
        (("127.0.0.1", 5), None, {}, "Forwarded: for=203.0.113.5\r\n", "127.0.0.1:5"),
        (("127.0.0.1", 5), None, {"forwarded_header": "forwarded"}, NAMED, "127.0.0.1:5"),
        (
            ("127.0.0.1", 5),
            None,
            {"forwarded_header": "forwarded"},
            'Forwarded: for="[2001:db8::1]:99"\r\n',
            "[2001:db8::1]:99",
        ),
        # the PROXY protocol stands nearer than any header
        (PROXY, Address("203.0.113.77", 9), {}, "", "203.0.113.77:9"),
        (PROXY, Address("203.0.113.77", 9), {"forwarded_allow_ips": ("192.0.2.1",)}, NAMED, "203.0.113.77:9"),
        (PROXY, Address("192.0.2.8", 9), {"forwarded_allow_ips": ("192.0.2.0/24",)}, NAMED, "203.0.113.5:0"),
        ("", None, {"forwarded_allow_ips": ("unix",)}, NAMED, "203.0.113.5:0"),
        ("", None, {}, NAMED, "unix"),
    ],
)
def test_only_a_trusted_proxy_names_the_client(
    peer: Any, source: Address | None, settings: dict[str, Any], more: str, expected: str
) -> None:
    """The connection and the request that on_handshake gets agree on the address."""

    async def main() -> None:
        asked: list[str] = []
        app = make_app(on_handshake=lambda request: asked.append(str(request.remote)))
        connection, _ = arrive(make_hub(app, **settings), head(more=more), peer=peer, source=source)
        assert [expected] == asked
        assert expected == str(connection.remote)

    on_the_clock(main)


def test_the_caps_are_on_the_address_that_a_proxy_names() -> None:
    """Clients of one proxy are not one client; and the place is given back to whom it was taken from."""

    async def main() -> None:
        hub = make_hub(make_app(), max_per_address=1, forwarded_allow_ips=("192.0.2.1",))
        first, _ = arrive(hub, head(more=NAMED))
        second, wire = arrive(hub, head(more="X-Forwarded-For: 203.0.113.6\r\n"))
        assert ("open", "open") == (first.state, second.state)
        _, wire_of_third = arrive(hub, head(more=NAMED))
        assert 429 == _status(wire_of_third)
        wire.abort()
        await turns()
        assert {"203.0.113.5": 1} == hub.visitors._places

    on_the_clock(main)


# each handshake is counted once


def _hub_of(**settings: Any) -> Hub:
    config: dict[str, Any] = {"max_per_address": 3, "open_timeout": 5, "close_timeout": 5}
    return make_hub(make_app(), http=HttpConfig(health="/health"), **(config | settings))


async def _says_nothing(hub: Hub) -> None:
    _, wire = arrive(hub)
    await passes(5)
    assert 0 == _status(wire)


async def _leaves_at_once(hub: Hub) -> None:
    _, wire = arrive(hub)
    wire.close()


async def _stops_in_its_head(hub: Hub) -> None:
    _, wire = arrive(hub, b"GET / HT")
    await passes(5)
    assert 408 == _status(wire)
    await passes(1)


async def _half_closes_in_its_head(hub: Hub) -> None:
    connection, wire = arrive(hub, b"GET / HT")
    assert not connection.eof_received()
    wire.close()


async def _is_lost_in_its_head(hub: Hub) -> None:
    _, wire = arrive(hub, b"GET / HT")
    wire.abort()


async def _sends_nonsense(hub: Hub) -> None:
    _, wire = arrive(hub, b"nonsense\r\n")
    assert 400 == _status(wire)
    await passes(1)


async def _is_refused(hub: Hub) -> None:
    _, wire = arrive(hub, head(more="Origin: http://elsewhere.example\r\n"))
    assert 403 == _status(wire)
    await passes(1)


async def _is_refused_by_the_library(hub: Hub) -> None:
    _, wire = arrive(hub, head(more="Sec-WebSocket-Extensions: permessage-deflate; =\r\n"))
    assert 400 == _status(wire)
    await passes(1)


async def _finds_no_place(hub: Hub) -> None:
    wires = [arrive(hub, head())[1] for _ in range(4)]
    assert 429 == _status(wires[3])
    assert {"192.0.2.1": 3} == hub.visitors._places
    for wire in wires:
        wire.abort()


async def _wants_a_page(hub: Hub) -> None:
    _, wire = arrive(hub, _get("/health"))
    assert 200 == _status(wire)
    await passes(1)


async def _wants_a_page_and_takes_nothing(hub: Hub) -> None:
    _, wire = _deaf(hub)
    wire.protocol.data_received(_get("/health"))
    await passes(60)


async def _is_lost_in_its_page(hub: Hub) -> None:
    _, wire = _deaf(hub)
    wire.protocol.data_received(_get("/health"))
    wire.abort()


async def _comes_in_and_is_lost(hub: Hub) -> None:
    _, wire = arrive(hub, head())
    assert {"192.0.2.1": 1} == hub.visitors._places
    wire.abort()


async def _comes_in_and_closes(hub: Hub) -> None:
    connection, wire = arrive(hub, head(), closing(1000))
    assert "closed" == connection.state
    wire.close()


async def _comes_in_and_breaks_a_rule(hub: Hub) -> None:
    arrive(hub, head(), text("x")[:1] + b"\x01x")
    await passes(1)


async def _comes_in_and_is_closed(hub: Hub) -> None:
    connection, _ = arrive(hub, head())
    connection.close()
    connection.close()
    await passes(6)


async def _comes_in_and_is_terminated(hub: Hub) -> None:
    connection, _ = arrive(hub, head())
    connection.terminate()
    connection.terminate()


async def _is_there_when_a_drain_begins(hub: Hub) -> None:
    wires = [arrive(hub, data)[1] for data in (b"", b"GET /", head())]
    hub.drain()
    assert [503, 503, 101] == [_status(wire) for wire in wires]
    assert not any(wire.gone() for wire in wires)
    late = arrive(hub, head())[1]
    assert 503 == _status(late)
    wires[2].abort()
    await passes(1)


async def _is_there_when_the_worker_ends(hub: Hub) -> None:
    for data in (b"", b"GET /", head(), b"nonsense\r\n", _get("/health"), _get("/nowhere")):
        arrive(hub, data)
    hub.terminate_all()


def _deaf(hub: Hub) -> tuple[Connection, Wire]:
    connection, wire = arrive(hub)
    wire.takes = False
    return connection, wire


@pytest.mark.parametrize(
    "way",
    [
        _says_nothing,
        _leaves_at_once,
        _stops_in_its_head,
        _half_closes_in_its_head,
        _is_lost_in_its_head,
        _sends_nonsense,
        _is_refused,
        _is_refused_by_the_library,
        _finds_no_place,
        _wants_a_page,
        _wants_a_page_and_takes_nothing,
        _is_lost_in_its_page,
        _comes_in_and_is_lost,
        _comes_in_and_closes,
        _comes_in_and_breaks_a_rule,
        _comes_in_and_is_closed,
        _comes_in_and_is_terminated,
        _is_there_when_a_drain_begins,
        _is_there_when_the_worker_ends,
    ],
)
def test_whatever_way_a_client_goes_nothing_of_it_is_left(way: Callable[[Hub], Awaitable[None]]) -> None:
    """No handshake is counted as unfinished, no place of its address is taken, no deadline runs, the hub is empty."""

    async def main() -> None:
        compression = "deflate" if way is _is_refused_by_the_library else "none"
        hub = _hub_of(compression=compression)
        await way(hub)
        await turns()
        assert 0 == hub.unfinished
        assert {} == hub.visitors._places
        assert set() == hub._present
        assert {} == hub.worker.connections
        assert 0 == len(hub._wheel)
        assert hub.empty.is_set()

    on_the_clock(main)


def test_a_handshake_is_unfinished_until_its_answer() -> None:
    """The head may come in pieces, and on_handshake may take its time."""

    async def main() -> None:
        may = asyncio.Event()

        async def on_handshake(request: object) -> None:
            await may.wait()

        hub = make_hub(make_app(on_handshake=on_handshake))
        first, wire = arrive(hub)
        arrive(hub, head()[:20])
        assert 2 == hub.unfinished
        first.data_received(head())
        await turns()
        assert 2 == hub.unfinished
        may.set()
        await turns()
        assert 1 == hub.unfinished
        assert 101 == _status(wire)
        wire.abort()
        await turns()
        assert 1 == hub.unfinished

    on_the_clock(main)


# the deadline


def test_the_deadline_runs_since_the_client_was_accepted() -> None:
    """What the PROXY header and TLS took is part of it; who comes too late has a tick."""

    async def main() -> None:
        hub = make_hub(make_app(), open_timeout=5)
        now = hub.loop.time()
        _, late = arrive(hub, b"GET", came_at=now - 4)
        _, too_late = arrive(hub, b"GET", came_at=now - 60)
        _, timely = arrive(hub, b"GET", came_at=now)
        await passes(0.25)
        assert [0, 408, 0] == [_status(wire) for wire in (late, too_late, timely)]
        await passes(0.75)
        assert [408, 408, 0] == [_status(wire) for wire in (late, too_late, timely)]
        await passes(4)
        assert 408 == _status(timely)

    on_the_clock(main)


def test_the_time_of_a_handshake_is_finer_than_the_clock_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may count whole milliseconds, and stands still here."""
    monkeypatch.setattr("wsworker.worker.entry.monotonic", lambda: 2000.0)

    async def main() -> None:
        hub = make_hub(make_app())
        arrive(hub, head(), accepted_at=2000.0 - 2**-11)
        handshakes = hub.counters.handshakes
        assert (1, 2**-11) == (handshakes.counts[BOUNDS.index(0.0005)], handshakes.seconds)

    on_the_clock(main)


def test_bytes_that_trickle_in_do_not_move_the_deadline() -> None:
    """It is on the whole handshake and not on each read."""

    async def main() -> None:
        connection, wire = arrive(make_hub(make_app(), open_timeout=5))
        for byte in head()[:19]:
            await passes(0.25)
            connection.data_received(bytes([byte]))
        assert 0 == _status(wire)
        await passes(0.25)
        assert 408 == _status(wire)

    on_the_clock(main)


def test_a_client_that_says_nothing_gets_no_answer() -> None:
    """Its socket is dropped, and it is no refusal that anybody counts."""

    async def main() -> None:
        hub = make_hub(make_app(), open_timeout=5)
        _, wire = arrive(hub)
        await passes(4.75)
        assert not wire.gone()
        await passes(0.25)
        assert (["abort"], [], 0) == (wire.calls, wire.writes, hub.counters.rejected)

    on_the_clock(main)


# an async on_handshake


class Asked:
    """An async on_handshake that waits for its answer, and what became of it."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.log: list[str] = []

    async def on_handshake(self, request: object) -> None:
        self.log.append("asked")
        try:
            await self.may.wait()
            self.log.append("answered")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise

    def hub(self, **settings: Any) -> Hub:
        app = make_app(
            on_handshake=self.on_handshake,
            on_connect=lambda c: self.log.append("connected"),
            on_close=lambda c, code, reason: self.log.append(f"closed {code}"),
        )
        return make_hub(app, max_per_address=3, **settings)


async def _is_lost(connection: Connection, wire: Wire) -> None:
    wire.abort()
    await turns()


async def _is_too_late(connection: Connection, wire: Wire) -> None:
    await passes(6)
    assert 408 == _status(wire)


async def _meets_a_drain(connection: Connection, wire: Wire) -> None:
    connection._home.drain()  # type: ignore[attr-defined]
    await passes(1)
    assert 503 == _status(wire)


async def _meets_the_end(connection: Connection, wire: Wire) -> None:
    connection._home.terminate_all()  # type: ignore[attr-defined]
    await turns()


@pytest.mark.parametrize("end", [_is_lost, _is_too_late, _meets_a_drain, _meets_the_end])
def test_nobody_is_asked_any_more_when_the_client_is_gone(end: Callable[[Connection, Wire], Awaitable[None]]) -> None:
    """on_handshake is cancelled; the client never was a connection, so there is no on_connect and no on_close."""

    async def main() -> None:
        asked = Asked()
        hub = asked.hub(open_timeout=5)
        connection, wire = arrive(hub, head())
        await turns()
        await end(connection, wire)
        asked.may.set()
        await turns()
        assert ["asked", "cancelled"] == asked.log
        assert (0, {}) == (hub.unfinished, hub.visitors._places)
        assert hub.empty.is_set()

    on_the_clock(main)


@pytest.mark.parametrize("end", [_is_lost, _meets_a_drain, _meets_the_end])
def test_an_answer_in_the_tick_in_which_the_client_goes_comes_too_late(
    end: Callable[[Connection, Wire], Awaitable[None]],
) -> None:
    """on_handshake returns before the socket's end is told, or behind it: nothing is left in either case."""

    async def main() -> None:
        asked = Asked()
        hub = asked.hub()
        connection, wire = arrive(hub, head())
        await turns()
        asked.may.set()
        await end(connection, wire)
        await turns()
        assert (0, {}) == (hub.unfinished, hub.visitors._places)
        assert hub.empty.is_set()
        assert asked.log[2:] in ([], ["connected", "closed 1006"])

    on_the_clock(main)


def test_a_client_that_leaves_unseen_is_let_in_and_closed(run: Run) -> None:
    """Nothing is read meanwhile, so its FIN is seen when on_handshake is done: it comes in, and its end is told."""

    async def main() -> None:
        asked = Asked()
        app = make_app(
            on_handshake=asked.on_handshake,
            on_connect=lambda c: asked.log.append("connected"),
            on_close=lambda c, code, reason: asked.log.append(f"closed {code}"),
        )
        async with serving(app, max_per_address=1) as service:
            peer = await service.dial()
            peer.send(head())
            await until(lambda: asked.log == ["asked"])
            peer.leave()
            await peer.writer.wait_closed()
            asked.may.set()
            await until(lambda: asked.log[1:] == ["answered", "connected", "closed 1006"])
            await until(service.hub.empty.is_set)
            assert {} == service.hub.visitors._places

    run(main())


def test_who_half_closes_behind_its_head_gets_its_answer(run: Run) -> None:
    """Be it a refusal or a page; on_handshake had all the time it wanted."""

    async def main() -> None:
        async def on_handshake(request: object) -> None:
            await asyncio.sleep(0)
            raise Reject(401, body="who are you?\n")

        app = make_app(on_handshake=on_handshake)
        async with serving(app, http=HttpConfig(health="/health")) as service:
            for data, status in ((head(), "401"), (_get("/health"), "200")):
                peer = await service.dial()
                peer.send(data)
                peer.writer.write_eof()
                assert f"HTTP/1.1 {status} " in await peer.response()
                assert b"" != await peer.rest()
                await until(service.hub.empty.is_set)

    run(main())


# pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a small page and a large file."""
    (tmp_path / "index.html").write_text("<p>Hello</p>\n")
    (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
    return tmp_path


def _site(folder: Path, **settings: Any) -> Hub:
    return make_hub(make_app(), http=HttpConfig(health="/health", static=str(folder)), **settings)


@pytest.mark.parametrize(("target", "status"), [("/", 200), ("/none", 404), ("/health", 200)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_is_one_answer_and_a_half_close(folder: Path, target: str, status: int, method: str) -> None:
    """HEAD gets the same head and no body. It is no handshake that was refused."""

    async def main() -> None:
        hub = _site(folder)
        _, wire = arrive(hub, _get(target, method))
        assert status == _status(wire)
        sent, _, body = b"".join(wire.writes).partition(b"\r\n\r\n")
        assert b"\r\nConnection: close" in sent
        assert (method == "GET") == (body != b"")
        assert ["write_eof"] == wire.calls
        assert (0, 0) == (hub.counters.accepted, hub.counters.rejected)
        await passes(0.75)
        assert not wire.gone()
        await passes(0.25)
        assert wire.gone()

    on_the_clock(main)


def test_a_second_request_is_never_answered(folder: Path) -> None:
    """Neither behind the first one, nor while its answer is sent, nor behind that."""

    async def main() -> None:
        connection, wire = _deaf(_site(folder))
        connection.data_received(_get("/large.bin") + _get("/"))
        connection.data_received(_get("/"))
        while wire.left:
            wire.take(wire.left)
            await turns()
        connection.data_received(_get("/"))
        await turns()
        data = b"".join(wire.writes)
        assert 1 == data.count(b"HTTP/1.1")
        assert data.endswith(bytes(3_000_000))
        assert "write_eof" in wire.calls

    on_the_clock(main)


def test_who_sends_on_and_on_is_cut(folder: Path) -> None:
    """More than 64 KiB behind the request, while its page is sent, is no HTTP client."""

    async def main() -> None:
        connection, wire = _deaf(_site(folder))
        connection.data_received(_get("/large.bin"))
        for _ in range(16):
            connection.data_received(bytes(4096))
        assert not wire.gone()
        connection.data_received(b"x")
        assert wire.gone()
        await turns()
        assert connection._download is None or connection._download._answer is None

    on_the_clock(main)


def test_a_page_that_nobody_takes_is_given_up(folder: Path) -> None:
    """After write_timeout without a byte, at most twice that; who takes a little all the time gets all of it."""

    async def main() -> None:
        hub = _site(folder, write_timeout=30)
        deaf, deaf_wire = _deaf(hub)
        slow, slow_wire = _deaf(hub)
        for connection in (deaf, slow):
            connection.data_received(_get("/large.bin"))
        for _ in range(20):
            await passes(29)
            slow_wire.take(1)
        assert deaf_wire.gone()
        assert not slow_wire.gone()
        while slow_wire.left:
            slow_wire.take(slow_wire.left)
            await turns()
        assert ["write_eof"] == slow_wire.calls

    on_the_clock(main)


def test_a_page_is_not_given_up_before_its_time(folder: Path) -> None:
    """The client had a whole write_timeout."""

    async def main() -> None:
        connection, wire = _deaf(_site(folder, write_timeout=30))
        connection.data_received(_get("/large.bin"))
        await passes(29)
        assert not wire.gone()
        wire.take(1)
        await passes(29)
        assert not wire.gone()
        await passes(61)
        assert wire.gone()

    on_the_clock(main)


def test_who_half_closes_early_gets_the_whole_page(folder: Path, run: Run) -> None:
    """Many simple clients do so behind their request."""

    async def main() -> None:
        app = make_app()
        async with serving(app, http=HttpConfig(static=str(folder))) as service:
            peer = await service.dial(receive_buffer=8192)
            peer.send(_get("/large.bin"))
            peer.writer.write_eof()
            assert "HTTP/1.1 200 " in await peer.response()
            assert bytes(3_000_000) == await peer.rest()
            await until(service.hub.empty.is_set)

    run(main())


def test_who_leaves_in_the_middle_of_a_page_leaves_nothing_behind(folder: Path, run: Run) -> None:
    """The file is closed with the connection."""

    async def main() -> None:
        app = make_app()
        async with serving(app, http=HttpConfig(static=str(folder))) as service:
            peer = await service.dial(receive_buffer=8192)
            peer.send(_get("/large.bin"))
            await peer.response()
            (connection,) = service.hub._present
            download: Any = connection._download
            assert download is not None
            file = download._answer.file
            peer.writer.transport.abort()
            await until(service.hub.empty.is_set)
            assert file.closed

    run(main())


def test_a_drain_leaves_a_page_alone_and_the_end_does_not(folder: Path) -> None:
    """It is an answer already; health answers 503 from then on."""

    async def main() -> None:
        hub = _site(folder)
        connection, wire = _deaf(hub)
        connection.data_received(_get("/large.bin"))
        hub.drain()
        assert (200, False) == (_status(wire), wire.gone())
        _, health = arrive(hub, _get("/health"))
        assert 503 == _status(health)
        hub.terminate_all()
        await turns()
        assert wire.gone()
        assert hub.empty.is_set()

    on_the_clock(main)


# refusals


def test_a_refusal_is_counted_and_stays_for_a_second() -> None:
    """What still comes is thrown away, up to 64 KiB, so that the answer is not destroyed by a reset."""

    async def main() -> None:
        hub = make_hub(make_app())
        connection, wire = arrive(hub, b"nonsense\r\n")
        assert (400, 1) == (_status(wire), hub.counters.rejected)
        assert ["write_eof"] == wire.calls
        connection.data_received(bytes(65_536))
        assert not wire.gone()
        connection.data_received(b"x")
        assert wire.gone()

    on_the_clock(main)


def test_messages_behind_the_head_wait_for_the_101() -> None:
    """They come with the head; on_connect goes before them."""

    async def main() -> None:
        log: list[str] = []
        asked = Asked()
        app = make_app(
            on_handshake=asked.on_handshake,
            on_connect=lambda c: log.append(f"connected {c.subprotocol} {c.request.path}"),
            on_message=lambda c, data: log.append(data),
        )
        hub = make_hub(app, subprotocols=("chat",))
        more = "Sec-WebSocket-Protocol: talk, chat\r\n"
        connection, wire = arrive(hub, head("/room", more) + text("a") + text("b"))
        await turns()
        assert ([], "", "closing") == (log, connection.id, connection.state)
        asked.may.set()
        await turns()
        assert ["connected chat /room", "a", "b"] == log
        assert 101 == _status(wire)
        assert ("node.boot.1", "open", 1) == (connection.id, connection.state, hub.counters.accepted)

    on_the_clock(main)
