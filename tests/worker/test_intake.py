"""The intake: events one by one, reasons to stop, turns, and when the socket is read again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from websockets.frames import Opcode

from tests.worker.service import frame, head, text
from wsworker.protocol.session import Event, Handshake, Ping, Session
from wsworker.worker.intake import CHOKED, CUT, EVENTS_PER_TURN, PAUSED, Intake


class Socket(asyncio.Transport):
    """Writes down when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.closing = False

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def is_closing(self) -> bool:
        return self.closing


class Client:
    """An open session behind an intake; `then` is what an event leads to."""

    def __init__(self) -> None:
        self.session = Session(1000)
        self.session.receive(head())
        assert isinstance(self.session.next_event(), Handshake)
        assert self.session.accept(None)
        self.socket = Socket()
        self.intake = Intake(self, self.session, self.socket, asyncio.get_running_loop())
        self.events: list[Event] = []
        self.flushed_at: list[int] = []
        self.then: Callable[[Event], None] = lambda event: None

    def _handle(self, event: Event) -> None:
        self.events.append(event)
        self.then(event)

    def _flush(self) -> None:
        self.flushed_at.append(len(self.events))

    def _reads_again(self) -> None:
        self.socket.calls.append("told")

    def receive(self, *data: bytes) -> None:
        self.session.receive(b"".join(data))
        self.intake.deliver()


async def _tick() -> None:
    await asyncio.sleep(0)


def test_events_are_handled_in_order_and_flushed_once() -> None:
    """All that one read brings is handled, then written; the socket goes on being read."""

    async def main() -> None:
        client = Client()
        client.receive(text("a"), frame(Opcode.PING, b"p"), text("b"))
        assert ["a", Ping(b"p"), "b"] == client.events
        assert [3] == client.flushed_at
        assert [] == client.socket.calls

    asyncio.run(main())


def test_a_reason_stops_at_the_next_event_and_reading_goes_on_when_all_is_handled() -> None:
    """What is left is delivered in the tick after the last reason is gone, and only then is the socket read."""

    async def main() -> None:
        client = Client()
        client.then = lambda event: client.intake.hold(PAUSED) if event in ("a", "b") else None
        client.receive(text("a"), text("b"), text("c"))
        assert (["a"], ["pause"]) == (client.events, client.socket.calls)
        client.intake.hold(CHOKED)
        client.intake.let_go(PAUSED)
        await _tick()
        assert ["a"] == client.events
        client.intake.let_go(CHOKED)
        assert ["a"] == client.events
        await _tick()
        assert (["a", "b"], ["pause"]) == (client.events, client.socket.calls)
        client.intake.let_go(PAUSED)
        await _tick()
        assert (["a", "b", "c"], ["pause", "resume", "told"]) == (client.events, client.socket.calls)

    asyncio.run(main())


def test_a_reason_outside_a_read_stops_reading_at_once() -> None:
    """hold() pauses the socket; taking back a reason that is not set changes nothing."""

    async def main() -> None:
        client = Client()
        client.intake.hold(PAUSED)
        client.intake.hold(PAUSED)
        client.intake.let_go(CHOKED)
        await _tick()
        assert ["pause"] == client.socket.calls
        assert [] == client.flushed_at

    asyncio.run(main())


def test_a_reason_that_comes_and_goes_in_one_callback_is_none() -> None:
    """pause() and resume() in a row do not interrupt the read."""

    async def main() -> None:
        client = Client()

        def then(event: Event) -> None:
            client.intake.hold(PAUSED)
            client.intake.let_go(PAUSED)

        client.then = then
        client.receive(text("a"), text("b"))
        assert (["a", "b"], []) == (client.events, client.socket.calls)

    asyncio.run(main())


def test_a_turn_ends_after_so_many_events() -> None:
    """The rest comes in later ticks, with the socket unread meanwhile."""

    async def main() -> None:
        client = Client()
        client.receive(text("x") * (2 * EVENTS_PER_TURN + 1))
        assert (EVENTS_PER_TURN, ["pause"]) == (len(client.events), client.socket.calls)
        await _tick()
        assert (2 * EVENTS_PER_TURN, ["pause"]) == (len(client.events), client.socket.calls)
        await _tick()
        assert (2 * EVENTS_PER_TURN + 1, ["pause", "resume", "told"]) == (len(client.events), client.socket.calls)
        assert [EVENTS_PER_TURN, 2 * EVENTS_PER_TURN, 2 * EVENTS_PER_TURN + 1] == client.flushed_at

    asyncio.run(main())


def test_delivery_does_not_enter_itself() -> None:
    """A callback that leads back to deliver() handles no event inside another."""

    async def main() -> None:
        client = Client()
        depth: list[int] = []

        def then(event: Event) -> None:
            depth.append(len(client.events))
            client.intake.deliver()
            assert depth[-1] == len(client.events)

        client.then = then
        client.receive(text("a"), text("b"))
        assert [1, 2] == depth

    asyncio.run(main())


def test_all_reasons_go_but_the_final_one() -> None:
    """let_all_go reads on at once, unless the socket is aborted."""

    async def main() -> None:
        client = Client()
        client.intake.hold(PAUSED | CHOKED)
        client.intake.let_all_go()
        assert ["pause", "resume", "told"] == client.socket.calls
        client.intake.hold(CUT)
        client.intake.let_all_go()
        assert CUT == client.intake.holds
        assert ["pause", "resume", "told", "pause"] == client.socket.calls

    asyncio.run(main())


def test_a_closing_socket_is_left_alone() -> None:
    """A transport that is closing is neither paused nor resumed."""

    async def main() -> None:
        client = Client()
        client.socket.closing = True
        client.intake.hold(PAUSED)
        client.intake.let_all_go()
        assert [] == client.socket.calls

    asyncio.run(main())
