"""The intake: runs and events, reasons to stop, turns, and when the socket is read again; of whole connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from tests.worker.conftest import Run
from tests.worker.service import (
    Recorder,
    closing,
    connect,
    frame,
    head,
    make_app,
    make_arrival,
    make_hub,
    recorded,
    serving,
    text,
    until,
)
from wsworker.protocol.session import Session
from wsworker.speaker import begin_task, connection_id
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.intake import CHOKED, FRAMES_PER_TURN, PAUSED

Act = Callable[[Connection, str], Any]


async def _tick() -> None:
    await asyncio.sleep(0)


def heard(then: Act = lambda connection, data: None, **settings: Any) -> tuple[Connection, Recorder, list[str]]:
    """Return a connection whose messages are written down before something is done about them."""
    messages: list[str] = []

    def on_message(connection: Connection, data: str) -> None:
        messages.append(data)
        then(connection, data)

    return *recorded(make_app(on_message=on_message), **settings), messages


def echo(connection: Connection, data: str) -> None:
    """Send it back."""
    connection.send(data)


# Turns


def test_a_read_is_handled_in_order_and_answered_in_one_write(run: Run) -> None:
    """Messages and pings of one read are answered in their order, by one write; the socket goes on being read."""

    async def main() -> None:
        connection, transport, messages = heard(echo)
        connection.data_received(text("a") + frame(Opcode.PING, b"p") + text("b") + frame(Opcode.PONG) + text("c"))
        assert ["a", "b", "c"] == messages
        assert [b"\x81\x01a\x8a\x01p\x81\x01b\x81\x01c"] == transport.writes
        assert [] == transport.calls

    run(main())


def test_exactly_one_turn_stops_nothing(run: Run) -> None:
    """As many messages as a turn has are one write, and the socket is read on."""

    async def main() -> None:
        connection, transport, messages = heard(echo)
        connection.data_received(text("x") * FRAMES_PER_TURN)
        assert FRAMES_PER_TURN == len(messages)
        assert [b"\x81\x01x" * FRAMES_PER_TURN] == transport.writes
        assert [] == transport.calls
        await _tick()
        assert [] == transport.calls

    run(main())


def test_reads_speak_for_nobody(run: Run) -> None:
    """Whoever lets a connection go on: asyncio reads in the context in which reading was resumed."""

    class Somebody:
        id = "srv-1.1.2"

    async def main() -> None:
        connection, transport, _ = heard()
        speakers: list[str | None] = []
        transport.resume_reading = lambda: speakers.append(connection_id())  # type: ignore[method-assign]
        connection.pause()

        async def turn() -> None:
            begin_task(Somebody())
            connection.resume()

        await asyncio.create_task(turn())
        await until(lambda: speakers)
        assert [None] == speakers

    run(main())


def test_what_one_client_sets_in_the_context_is_not_seen_by_another(run: Run) -> None:
    """Neither in the read nor in a turn that is left for later: what is kept there may be whose data is meant."""
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    seen: dict[str, set[str]] = {"a": set(), "b": set()}

    def on_message(connection: Connection, data: str) -> None:
        seen[data].add(tenant.get())
        tenant.set(data)

    async def main() -> None:
        count = 2 * FRAMES_PER_TURN + 1
        async with serving(make_app(on_message=on_message)) as service:
            for data in ("a", "b", "a", "b"):
                before = service.hub.counters.messages_in
                peer = await service.open(text(data) * count)
                await until(lambda: service.hub.counters.messages_in == before + count)  # noqa: B023
                peer.leave()

    run(main())
    assert {"a": {"", "a"}, "b": {"", "b"}} == seen


def _alternating(count: int) -> bytes:
    return b"".join(text("x") + frame(Opcode.PING) for _ in range(count // 2)) + text("x") * (count % 2)


@pytest.mark.parametrize("stream", [lambda count: text("x") * count, _alternating], ids=["messages", "alternating"])
def test_a_turn_ends_after_so_many_frames(run: Run, stream: Callable[[int], bytes]) -> None:
    """The rest comes in later ticks, with the socket unread meanwhile; each turn is one write."""

    async def main() -> None:
        connection, transport, messages = heard(echo)
        connection.data_received(stream(2 * FRAMES_PER_TURN + 1))
        share = 1 if stream is not _alternating else 2
        assert (FRAMES_PER_TURN // share, ["pause_reading"]) == (len(messages), transport.calls)
        await _tick()
        assert (2 * FRAMES_PER_TURN // share, ["pause_reading"]) == (len(messages), transport.calls)
        await _tick()
        assert 2 * FRAMES_PER_TURN // share + 1 == len(messages)
        assert ["pause_reading", "resume_reading"] == transport.calls
        assert 3 == len(transport.writes)
        assert len(messages) == connection._counters.messages_in

    run(main())


def test_a_flood_of_nothing_ends_a_turn_as_well(run: Run) -> None:
    """Empty fragments and pongs lead to no callback, and are frames all the same."""

    async def main() -> None:
        connection, transport, _ = heard()
        connection.data_received(frame(Opcode.TEXT, fin=False) + frame(Opcode.CONT, fin=False) * 300)
        assert ["pause_reading"] == transport.calls
        await _tick()
        assert ["pause_reading", "resume_reading"] == transport.calls

    run(main())


def test_two_clients_take_turns(run: Run) -> None:
    """While one has more than a turn's worth, the other is served in between."""

    async def main() -> None:
        order: list[str] = []
        app = make_app(on_message=lambda connection, data: order.append(data))
        hub = make_hub(app)
        first, second = (connect(hub, Recorder(), head()) for _ in range(2))
        first.data_received(text("a") * 2 * FRAMES_PER_TURN)
        second.data_received(text("b"))
        await _tick()
        assert ["a"] * FRAMES_PER_TURN + ["b"] + ["a"] * FRAMES_PER_TURN == order

    run(main())


# Reasons


def test_a_reason_stops_at_the_next_message_and_reading_goes_on_when_all_is_handled(run: Run) -> None:
    """What is left is delivered in the tick after the last reason is gone, and only then is the socket read."""

    async def main() -> None:
        connection, transport, messages = heard(
            lambda connection, data: connection._hold(PAUSED) if data in ("a", "b") else None
        )
        connection.data_received(text("a") + text("b") + text("c"))
        assert (["a"], ["pause_reading"]) == (messages, transport.calls)
        connection._hold(CHOKED)
        connection._let_go(PAUSED)
        await _tick()
        assert ["a"] == messages
        connection._let_go(CHOKED)
        assert ["a"] == messages
        await _tick()
        assert (["a", "b"], ["pause_reading"]) == (messages, transport.calls)
        connection._let_go(PAUSED)
        await _tick()
        assert (["a", "b", "c"], ["pause_reading", "resume_reading"]) == (messages, transport.calls)

    run(main())


def test_a_reason_outside_a_read_stops_reading_at_once(run: Run) -> None:
    """The socket is paused once; taking back a reason that is not set changes nothing."""

    async def main() -> None:
        connection, transport, _ = heard()
        connection._hold(PAUSED)
        connection._hold(PAUSED)
        connection._let_go(CHOKED)
        await _tick()
        assert ["pause_reading"] == transport.calls

    run(main())


@pytest.mark.parametrize("count", [1, 2, 300])
def test_a_reason_that_comes_and_goes_in_one_callback_is_none(run: Run, count: int) -> None:
    """pause() and resume() in a row leave no message behind, and none comes before its turn."""

    def then(connection: Connection, data: str) -> None:
        connection.pause()
        connection.resume()

    async def main() -> None:
        connection, transport, messages = heard(then)
        expected = [str(number) for number in range(count)]
        connection.data_received(b"".join(map(text, expected)))
        if count > FRAMES_PER_TURN:
            await until(lambda: len(messages) == count)
        assert expected == messages
        connection.data_received(text("next"))
        assert [*expected, "next"] == messages
        assert count + 1 == connection._counters.messages_in
        assert transport.calls in ([], ["pause_reading", "resume_reading"])

    run(main())


def test_delivery_does_not_enter_itself(run: Run) -> None:
    """A callback that leads back to the delivery handles no message inside another."""
    depth: list[int] = []

    def then(connection: Connection, data: str) -> None:
        before = connection._counters.messages_in
        connection._deliver()
        assert before == connection._counters.messages_in
        depth.append(before)

    async def main() -> None:
        connection, _, messages = heard(then)
        connection.data_received(text("a") + frame(Opcode.PING) + text("b"))
        assert (["a", "b"], [0, 1]) == (messages, depth)

    run(main())


def test_a_socket_that_is_closing_is_left_alone(run: Run) -> None:
    """A transport that is closing is neither paused nor resumed."""

    async def main() -> None:
        connection, transport, _ = heard()
        transport.calls.append("abort")
        connection._hold(PAUSED)
        connection._let_all_go()
        assert ["abort"] == transport.calls

    run(main())


def test_sixteen_messages_wait_for_async_callbacks(run: Run) -> None:
    """One runs, sixteen wait, and the rest stays undelivered until one is done; none is lost."""
    leave = asyncio.Event()
    done: list[str] = []

    async def on_message(connection: Connection, data: str) -> None:
        await leave.wait()
        done.append(data)

    async def main() -> None:
        connection, transport = recorded(make_app(on_message=on_message))
        counters = connection._counters
        connection.data_received(b"".join(text(str(number)) for number in range(100)))
        assert (16, ["pause_reading"]) == (counters.messages_in, transport.calls)
        await _tick()
        assert 16 == counters.messages_in
        leave.set()
        await until(lambda: len(done) == 100)
        assert [str(number) for number in range(100)] == done
        await until(lambda: transport.calls == ["pause_reading", "resume_reading"])

    run(main())


# Quotas


@pytest.mark.parametrize("is_async", [False, True])
def test_what_comes_again_is_counted_once(run: Run, is_async: bool) -> None:
    """A client within its rate is not closed because its messages have to wait: paused, or for async callbacks."""
    total = 60
    messages: list[str] = []

    async def later(connection: Connection, data: str) -> None:
        await _tick()
        messages.append(data)

    def at_once(connection: Connection, data: str) -> None:
        messages.append(data)
        connection.pause()
        asyncio.get_running_loop().call_soon(connection.resume)

    async def main() -> None:
        connection, _ = recorded(make_app(on_message=later if is_async else at_once), rate_messages=total)
        connection.data_received(b"".join(text(str(number)) for number in range(total)))
        await until(lambda: len(messages) == total)
        assert "open" == connection.state
        assert [str(number) for number in range(total)] == messages

    run(main())


@pytest.mark.parametrize("pauses", [False, True])
def test_the_message_over_the_rate_is_not_delivered(run: Run, pauses: bool) -> None:
    """Those before it are, also if they have to wait, and the answers to them leave before the Close."""

    def then(connection: Connection, data: str) -> None:
        connection.send(data)
        if pauses:
            connection.pause()
            asyncio.get_running_loop().call_soon(connection.resume)

    async def main() -> None:
        connection, transport, messages = heard(then, rate_messages=3)
        connection.data_received(b"".join(text(str(number)) for number in range(5)))
        await until(lambda: connection.state == "closed")
        assert ["0", "1", "2"] == messages
        assert b"".join(transport.writes).startswith(b"\x81\x010\x81\x011\x81\x012\x88")
        assert b"websocket.rate_messages = 3" in transport.writes[-1]
        assert 1 == transport.calls.count("write_eof")

    run(main())


def test_bytes_over_the_rate_close(run: Run) -> None:
    """What the read has brought is not delivered."""

    async def main() -> None:
        connection, transport, messages = heard(rate_bytes=1000, max_size=500)
        connection.data_received(frame(Opcode.TEXT, b"x" * 400))
        connection.data_received(frame(Opcode.TEXT, b"x" * 400))
        connection.data_received(frame(Opcode.TEXT, b"x" * 400))
        assert 2 == len(messages)
        assert b"websocket.rate_bytes = 1000" in transport.writes[-1]

    run(main())


# Both ways are one


class Wire(Recorder):
    """A transport that is heeded: it says whether it may be read, and connection_lost comes after abort()."""

    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection
        self.reads = True

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True

    def abort(self) -> None:
        super().abort()
        asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)


class Play:
    """One client that says something to an app that does something about it."""

    def __init__(self, acts: dict[int, str], kind: str) -> None:
        self.acts = acts
        self.journal: list[object] = []
        self._count = 0
        is_async = kind == "async"
        self.app: App = make_app(
            on_connect=self._connect_later if kind == "mixed" else self._connect,
            on_message=self._message_later if is_async else self._message,
            on_close=self._close_later if is_async else self._close,
            on_error=self._error_later if kind != "sync" else self._error,
        )

    def _connect(self, connection: Connection) -> None:
        self.journal.append("connect")

    async def _connect_later(self, connection: Connection) -> None:
        await _tick()
        self.journal.append("connect")

    def _message(self, connection: Connection, data: str | bytes) -> None:
        self.journal.append(data)
        self._count += 1
        connection.send(data)
        act = self.acts.get(self._count)
        if act == "raise":
            raise RuntimeError
        if act in ("pause", "pause and resume"):
            connection.pause()
        if act == "pause":
            asyncio.get_running_loop().call_soon(connection.resume)
        elif act == "pause and resume":
            connection.resume()
        elif act == "close":
            connection.close()
        elif act == "terminate":
            connection.terminate()

    async def _message_later(self, connection: Connection, data: str | bytes) -> None:
        await _tick()
        self._message(connection, data)

    def _close(self, connection: Connection, code: int, reason: str) -> None:
        self.journal.append(("close", code))

    async def _close_later(self, connection: Connection, code: int, reason: str) -> None:
        await _tick()
        self._close(connection, code, reason)

    def _error(self, connection: Connection, exc: BaseException) -> None:
        self.journal.append(type(exc))

    async def _error_later(self, connection: Connection, exc: BaseException) -> None:
        await _tick()
        self._error(connection, exc)

    async def run(self, chunks: list[bytes], fast: bool) -> tuple[list[object], bytes]:
        """Return what the app has seen and what the client got, after the client has said all and gone."""
        hub, wire = make_hub(self.app), Wire()
        wire.connection = connection = Connection(hub, make_arrival())
        if not fast:
            connection._session = Session(hub.config.websocket.max_size, fast=False)
        connection.connection_made(wire)
        for chunk in [head(), *chunks]:
            await settled(wire)
            if not wire.is_closing():
                connection.data_received(chunk)
        await settled(wire)
        if not wire.is_closing():
            connection.connection_lost(None)
        await hub.empty.wait()
        output = b"".join(wire.writes)
        return self.journal, output[output.index(b"\r\n\r\n") + 4 :]


async def settled(wire: Wire) -> None:
    """Wait until the socket is read or gone, and no callback runs."""
    for _ in range(10_000):
        if wire.is_closing() or (wire.reads and not wire.connection._delivery.busy):
            return
        await _tick()
    raise AssertionError("it is never read again")


PLAIN = st.sampled_from([[text("a")], [text("b"), text("c")], [text("d")] * 100])
OTHERS = st.sampled_from(
    [
        [text("é" * 70)],
        [frame(Opcode.BINARY, b"b" * 200)],
        [text("")],
        [frame(Opcode.PING, b"p")],
        [frame(Opcode.PONG)],
        [frame(Opcode.TEXT, b"in ", fin=False), frame(Opcode.PING, b"q"), frame(Opcode.CONT, b"two")],
        [text("many")] * 300,
    ]
)
GROUPS = st.one_of(st.lists(PLAIN, min_size=1, max_size=4), st.lists(PLAIN | OTHERS, min_size=1, max_size=8))
BAD = [b"\x81\x01a", frame(Opcode.TEXT, b"\xff"), text("unfinished")[:-1]]
ENDS = st.just(b"") | st.sampled_from([closing(3001), *BAD])
ACTS = st.sampled_from(["pause", "pause and resume", "close", "terminate", "raise"])


def said(data: bytes) -> list[object]:
    """Return the messages of a stream."""
    session = Session(10**6, fast=False)
    session.receive(head())
    session.next_event()
    session.accept(None)
    session.receive(data)
    messages: list[object] = []
    while (event := session.next_event()) is not None:
        if isinstance(event, (str, bytes)):
            messages.append(event)
    return messages


def divide(data: bytes, cuts: list[float]) -> list[bytes]:
    """Cut a stream at these parts of its length."""
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(places) if begin < end]


@settings(max_examples=150, deadline=None)
@given(
    groups=GROUPS,
    end=ENDS,
    cuts=st.lists(st.floats(0, 1), max_size=5),
    acts=st.dictionaries(st.integers(1, 8), ACTS, max_size=3),
    kind=st.sampled_from(["sync", "async", "mixed"]),
)
def test_both_ways_and_every_split_give_the_same(
    groups: list[list[bytes]], end: bytes, cuts: list[float], acts: dict[int, str], kind: str
) -> None:
    """The fast way and the one through the session, in one read or in pieces: the same callbacks and the same output.

    Nothing is lost, doubled or out of order, and on_close is the last, once; whatever the callbacks do meanwhile.
    """
    data = b"".join(map(b"".join, groups)) + end
    messages = said(data)
    stops = [number for number, act in acts.items() if act in ("close", "terminate", "raise")]
    least = min([*stops, len(messages)])
    # what waits for async callbacks when we close was there before, and is handled
    most = len(messages) if kind != "sync" and acts.get(least) == "close" else least
    seen = []
    for fast in (True, False):
        for chunks in ([data], divide(data, cuts)):
            journal, output = asyncio.run(Play(acts, kind).run(chunks, fast))
            count = sum(isinstance(entry, (str, bytes)) for entry in journal) - 1
            assert least <= count <= most
            failures = [RuntimeError] if acts.get(count) == "raise" else []
            assert ["connect", *messages[:count], *failures] == journal[:-1]
            assert isinstance(journal[-1], tuple)
            seen.append((journal, output))
    if kind == "sync" and "terminate" not in acts.values():
        assert [seen[0]] * 4 == seen
