"""The vigil: who is pinged, cut or closed, when, and for what reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.worker.clock import arrive, on_the_clock, opened, passes, stands_still, state, turns
from tests.worker.service import closing, frame, head, make_app, make_hub, text
from wsworker.worker.app import App
from wsworker.worker.connection import Connection

PINGS_OFF = {"ping_interval": 0}


class Ends:
    """An app that writes down what on_close is given."""

    def __init__(self, **callbacks: Callable[..., Any]) -> None:
        self.ends: list[tuple[int, str]] = []
        self.app: App = make_app(on_close=self._on_close, **callbacks)

    def _on_close(self, connection: Connection, code: int, reason: str) -> None:
        self.ends.append((code, reason))


def _echo(connection: Connection, data: str) -> None:
    connection.send(data)


# pings and silence


def test_a_silent_client_is_pinged_and_then_cut() -> None:
    """The ping comes in the interval, give or take a tenth; ping_timeout behind it the socket is dropped."""

    async def main() -> None:
        seen = Ends()
        connection, wire = opened(seen.app, ping_interval=20, ping_timeout=10)
        await passes(17.75)
        assert [] == wire.writes
        await passes(4.25)
        assert [(Opcode.PING, b"1")] == wire.sent()
        await passes(7.75)
        assert not wire.gone()
        await passes(4.25)
        assert wire.gone()
        assert [(1006, "nothing came for 10 s after a ping")] == seen.ends
        assert "closed" == state(connection)

    on_the_clock(main)


@pytest.mark.parametrize("sign", [frame(Opcode.PONG, b"1"), frame(Opcode.PONG), text("hi"), text("hi")[:3]])
def test_any_byte_behind_the_ping_keeps_a_client(sign: bytes) -> None:
    """The pong, another one, a message, a piece of one."""

    async def main() -> None:
        connection, wire = opened(make_app(), ping_interval=20, ping_timeout=10)
        await passes(22)
        assert [(Opcode.PING, b"1")] == wire.sent()
        connection.data_received(sign)
        await passes(22)
        assert [(Opcode.PING, b"2")] == wire.sent()
        assert not wire.gone()

    on_the_clock(main)


def test_a_client_that_answers_stays_for_ever() -> None:
    """An hour of pings and pongs, each numbered."""

    async def main() -> None:
        connection, wire = opened(make_app(), ping_interval=20, ping_timeout=10)
        pings = []
        for _ in range(3600):
            await passes(1)
            for opcode, payload in wire.sent():
                assert Opcode.PING is opcode
                pings.append(int(payload))
                connection.data_received(frame(Opcode.PONG, payload))
        assert list(range(1, len(pings) + 1)) == pings
        assert 3600 / 22 - 1 <= len(pings) <= 3600 / 18 + 1
        assert not wire.gone()

    on_the_clock(main)


def test_nobody_is_silent_whom_we_do_not_read() -> None:
    """pause() may last for any time; behind resume() a silent client has ping_timeout again."""

    async def main() -> None:
        connection, wire = opened(make_app(), ping_interval=20, ping_timeout=10)
        connection.pause()
        await passes(300)
        assert not wire.gone()
        connection.resume()
        await passes(9.5)
        assert not wire.gone()
        await passes(24)
        assert wire.gone()

    on_the_clock(main)


def test_who_takes_a_long_message_slowly_is_not_silent() -> None:
    """Its ping stands behind what it is taking, so its pong cannot come."""

    async def main() -> None:
        connection, wire = opened(make_app(), ping_interval=20, ping_timeout=10, send_buffer=2**20)
        wire.takes = False
        connection.send(bytes(600_000))
        for _ in range(100):
            await passes(1)
            wire.take(5_000)
        assert not wire.gone()
        connection.data_received(text("thanks"))
        await passes(1)
        assert not wire.gone()

    on_the_clock(main)


def test_a_process_that_stood_still_blames_nobody() -> None:
    """What was due meanwhile is judged a tick later, when what the clients have sent meanwhile is read."""

    async def main() -> None:
        connection, wire = opened(make_app(), ping_interval=20, ping_timeout=10)
        await passes(22)
        assert [(Opcode.PING, b"1")] == wire.sent()
        await stands_still(60)
        assert not wire.gone()
        connection.data_received(frame(Opcode.PONG, b"1"))
        await passes(1)
        assert not wire.gone()
        assert [(Opcode.PING, b"2")] == wire.sent()
        await stands_still(60)
        await passes(0.25)
        assert wire.gone()

    on_the_clock(main)


def test_without_an_interval_nobody_is_pinged() -> None:
    """And nobody is silent."""

    async def main() -> None:
        connection, wire = opened(make_app(), ping_interval=0)
        await passes(3600)
        assert [] == wire.writes
        assert "open" == state(connection)

    on_the_clock(main)


# what waits


@pytest.mark.parametrize("ping_interval", [0, 20])
def test_a_client_that_takes_nothing_is_cut(ping_interval: int) -> None:
    """A write_timeout after the transport had enough, whether it is pinged and sends or not."""

    async def main() -> None:
        seen = Ends()
        connection, wire = opened(seen.app, write_timeout=30, ping_interval=ping_interval)
        wire.takes = False
        await passes(13)
        connection.send(bytes(100_000))
        for _ in range(29):
            await passes(1)
            connection.data_received(frame(Opcode.PONG))
        assert not wire.gone()
        await passes(2)
        assert wire.gone()
        assert [(1006, "the client took nothing for 30 s")] == seen.ends

    on_the_clock(main)


def test_a_little_that_nobody_takes_is_seen_as_well() -> None:
    """The transport does not say that it waits, so it takes between one write_timeout and two."""

    async def main() -> None:
        seen = Ends()
        connection, wire = opened(seen.app, write_timeout=30, **PINGS_OFF)
        await passes(40)
        wire.takes = False
        connection.send("never read")
        for _ in range(30):
            await passes(1)
            connection.data_received(text("I do not read") + frame(Opcode.PONG))
        assert not wire.gone()
        await passes(30.5)
        assert [(1006, "the client took nothing for 30 s")] == seen.ends

    on_the_clock(main)


def test_unasked_pongs_are_no_progress() -> None:
    """A client that sends them all the time, reads nothing and is sent more and more is cut all the same."""

    async def main() -> None:
        connection, wire = opened(make_app(), write_timeout=30)
        wire.takes = False
        for _ in range(70):
            await passes(1)
            if not wire.gone():
                connection.send(bytes(5_000))
                connection.data_received(frame(Opcode.PONG, bytes(125)))
        assert wire.gone()

    on_the_clock(main)


def test_a_client_that_takes_a_little_all_the_time_stays() -> None:
    """One byte in each write_timeout is enough, full buffer or not."""

    async def main() -> None:
        connection, wire = opened(make_app(), write_timeout=30, send_buffer=100_000, **PINGS_OFF)
        wire.takes = False
        assert connection.send(bytes(120_000))
        assert not connection.send("too much")
        for _ in range(100):
            await passes(29)
            wire.take(1)
        assert not wire.gone()
        wire.take(wire.left)
        assert connection.send("goes in")
        await passes(29)
        assert not wire.gone()
        await passes(31)
        assert wire.gone()

    on_the_clock(main)


def test_who_takes_everything_may_be_sent_to_for_ever() -> None:
    """What is written all the time does not look like something that waits."""

    async def main() -> None:
        connection, wire = opened(make_app(), write_timeout=10, **PINGS_OFF)
        for _ in range(200):
            connection.send(bytes(100_000))
            await passes(0.25)
            wire.writes.clear()
        assert not wire.gone()

    on_the_clock(main)


# fragmented messages


FIRST, MIDDLE, LAST = (
    frame(Opcode.TEXT, b"one ", fin=False),
    frame(Opcode.CONT, b"and ", fin=False),
    frame(Opcode.CONT, b"all"),
)


def test_a_message_that_does_not_end_is_the_end() -> None:
    """message_timeout after its first fragment, however many have come since: 1008, and the setting by its name."""

    async def main() -> None:
        seen = Ends()
        connection, wire = opened(seen.app, message_timeout=60, **PINGS_OFF)
        await passes(7)
        connection.data_received(FIRST)
        for _ in range(59):
            await passes(1)
            connection.data_received(MIDDLE)
        assert [] == wire.sent()
        await passes(1)
        reason = "a message took longer than websocket.message_timeout = 60 s"
        assert [(Opcode.CLOSE, b"\x03\xf0" + reason.encode())] == wire.sent()
        assert ["write_eof"] == wire.calls
        assert [(1006, f"we closed with 1008: {reason}")] == seen.ends

    on_the_clock(main)


def test_each_message_has_its_own_time() -> None:
    """Messages of two fragments, one behind the other, for much longer than message_timeout; whole ones between."""

    async def main() -> None:
        messages: list[str] = []
        connection, wire = opened(make_app(on_message=lambda c, d: messages.append(d)), message_timeout=5)
        for _ in range(20):
            connection.data_received(FIRST)
            await passes(4)
            connection.data_received(LAST + text("whole"))
        assert ["one all", "whole"] * 20 == messages
        connection.data_received(FIRST)
        await passes(4.5)
        assert not wire.calls
        await passes(0.5)
        assert ["write_eof"] == wire.calls

    on_the_clock(main)


def test_the_first_fragment_pulls_the_deadline_in() -> None:
    """Nothing else is due before."""

    async def main() -> None:
        connection, wire = opened(make_app(), message_timeout=5, **PINGS_OFF)
        await passes(7)
        connection.data_received(FIRST)
        await passes(4.5)
        assert not wire.calls
        await passes(0.5)
        assert ["write_eof"] == wire.calls

    on_the_clock(main)


def test_a_frame_that_trickles_in_has_the_same_time() -> None:
    """A message in one frame must come whole by then, too; messages that follow each other without a gap may."""

    async def main() -> None:
        messages: list[str] = []
        connection, wire = opened(make_app(on_message=lambda c, d: messages.append(d)), message_timeout=5)
        whole = text("hello")
        connection.data_received(whole[:9])
        for _ in range(6):
            await passes(3)
            # the end of one and the beginning of the next, again and again
            connection.data_received(whole[9:] + whole[:9])
        assert ["hello"] * 6 == messages
        await passes(4.5)
        assert not wire.calls
        await passes(0.5)
        assert ["write_eof"] == wire.calls

    on_the_clock(main)


def test_the_time_of_a_message_does_not_run_while_we_do_not_read() -> None:
    """Behind a pause of any length it begins anew, checks in the pause or none."""

    async def main() -> None:
        for pause in (3, 300):
            connection, wire = opened(make_app(), message_timeout=60, **PINGS_OFF)
            connection.data_received(FIRST)
            await passes(58)
            connection.data_received(frame(Opcode.PONG))
            connection.pause()
            await passes(pause)
            connection.resume()
            for _ in range(7):
                await passes(8)
                connection.data_received(frame(Opcode.PONG))
            assert "open" == state(connection)
            await passes(4)
            assert "closed" == state(connection)
            wire.abort()
            await turns()

    on_the_clock(main)


def test_without_a_message_timeout_a_message_may_take_for_ever() -> None:
    """0 is off."""

    async def main() -> None:
        messages: list[str] = []
        connection, _ = opened(make_app(on_message=lambda c, d: messages.append(d)), message_timeout=0, **PINGS_OFF)
        connection.data_received(FIRST)
        await passes(1000)
        connection.data_received(LAST)
        assert ["one all"] == messages

    on_the_clock(main)


# signing in


@pytest.mark.parametrize("talks", [False, True])
def test_who_does_not_sign_in_is_closed_with_3502(talks: bool) -> None:
    """Whether it says nothing or talks all the time."""

    async def main() -> None:
        seen = Ends(on_message=_echo)
        connection, wire = opened(seen.app, auth_timeout=10)
        for _ in range(9):
            await passes(1)
            if talks:
                connection.data_received(text("hi"))
        assert [(Opcode.TEXT, b"hi")] * 9 * talks == wire.sent()
        await passes(1)
        assert [(Opcode.CLOSE, b"\x0d\xaenot signed in in time")] == wire.sent()
        connection.data_received(closing(3502))
        assert [(3502, "")] == seen.ends

    on_the_clock(main)


def test_who_has_signed_in_stays_and_may_sign_out() -> None:
    """It is asked once, when auth_timeout has passed."""

    async def main() -> None:
        connection, wire = opened(make_app(), auth_timeout=10, **PINGS_OFF)
        await passes(9)
        connection.user = "ann"
        await passes(2)
        connection.user = None
        await passes(100)
        assert "open" == state(connection)
        assert [] == wire.writes

    on_the_clock(main)


# idleness


def test_who_has_no_message_either_way_is_closed_with_1000() -> None:
    """Pings and pongs do not count."""

    async def main() -> None:
        seen = Ends()
        connection, wire = opened(seen.app, idle_timeout=60, ping_interval=20)
        for _ in range(59):
            await passes(1)
            for opcode, payload in wire.sent():
                assert Opcode.PING is opcode
                connection.data_received(frame(Opcode.PONG, payload))
        await passes(1)
        assert [(Opcode.CLOSE, b"\x03\xe8no message for 60 s")] == wire.sent()
        connection.data_received(closing(1000))
        assert [(1000, "")] == seen.ends

    on_the_clock(main)


async def _receives(connection: Connection) -> None:
    connection.data_received(text("hi"))


async def _receives_in_fragments(connection: Connection) -> None:
    connection.data_received(FIRST + LAST)


async def _sends(connection: Connection) -> None:
    connection.send("hi")


async def _sends_and_drains(connection: Connection) -> None:
    connection.send("hi")
    await connection.drain()


async def _sends_more_than_the_buffer(connection: Connection) -> None:
    connection.send(bytes(2**21))


async def _is_published_to(connection: Connection) -> None:
    assert 1 == connection._home.deliver("hi", [connection])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "act",
    [_receives, _receives_in_fragments, _sends, _sends_and_drains, _sends_more_than_the_buffer, _is_published_to],
)
def test_a_message_either_way_is_no_idleness(act: Callable[[Connection], Any]) -> None:
    """One in each idle_timeout is enough; behind the last one the whole time runs."""

    async def main() -> None:
        connection, _ = opened(make_app(), idle_timeout=10, **PINGS_OFF)
        for _ in range(10):
            await passes(9)
            await act(connection)
        await passes(9.5)
        assert "open" == state(connection)
        await passes(0.75)
        assert "closing" == state(connection)

    on_the_clock(main)


def test_nobody_is_idle_whom_we_do_not_read() -> None:
    """Behind resume() the whole time runs again."""

    async def main() -> None:
        connection, _ = opened(make_app(), idle_timeout=10, **PINGS_OFF)
        await passes(5)
        connection.pause()
        await passes(100)
        assert "open" == state(connection)
        # and it is not looked at in every tick meanwhile
        hub: Any = connection._home
        assert hub._wheel._due[connection] > hub.tick + 1
        connection.resume()
        await passes(9.5)
        assert "open" == state(connection)
        await passes(0.75)
        assert "closing" == state(connection)

    on_the_clock(main)


# rates


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
def test_too_many_pings_and_pongs_are_the_end(opcode: Opcode) -> None:
    """A second's worth may come at once, and is answered; then 1008, and the setting by its name."""

    async def main() -> None:
        seen = Ends()
        connection, wire = opened(seen.app, rate_control=5)
        connection.data_received(frame(opcode) * 5)
        answers = [(Opcode.PONG, b"")] * (5 if opcode is Opcode.PING else 0)
        assert answers == wire.sent()
        await passes(1)
        connection.data_received(frame(opcode) * 9)
        reason = "more than websocket.rate_control = 5"
        assert (Opcode.CLOSE, b"\x03\xf0" + reason.encode()) == wire.sent()[-1]
        assert [(1006, f"we closed with 1008: {reason}")] == seen.ends

    on_the_clock(main)


def test_a_thousand_pings_a_second_are_answered_unless_configured_otherwise() -> None:
    """The default; and 0 answers any number."""

    async def main() -> None:
        connection, wire = opened(make_app())
        connection.data_received(frame(Opcode.PING) * 1000)
        await turns()
        assert 1000 == len(wire.sent())
        connection.data_received(frame(Opcode.PING))
        assert "write_eof" in wire.calls
        connection, wire = opened(make_app(), rate_control=0)
        connection.data_received(frame(Opcode.PING) * 10_000)
        for _ in range(20):
            await turns()
        assert 10_000 == len(wire.sent())

    on_the_clock(main)


def test_the_answer_to_a_ping_fills_the_buffer_and_a_pong_does_not() -> None:
    """A client that reads nothing and pings is not read from any more, when as much waits as may."""

    async def main() -> None:
        connection, wire = opened(make_app(), send_buffer=200_000, rate_control=0)
        wire.takes = False
        connection.send(bytes(100_000))
        await turns()
        connection.send(bytes(50_000))
        await turns()
        before = connection.buffered
        connection.data_received(frame(Opcode.PONG, bytes(100)) * 100)
        assert before == connection.buffered
        connection.data_received(frame(Opcode.PING, bytes(100)) * 100)
        assert before + 100 * 102 == connection.buffered
        assert [] == wire.calls
        connection.data_received(frame(Opcode.PING, bytes(100)) * 1000)
        for _ in range(5):
            await turns()
        assert not connection._reading
        assert 200_000 <= connection.buffered < 200_000 + 102

    on_the_clock(main)


def test_messages_have_no_quota_and_no_detour_unless_configured() -> None:
    """Either of the two settings makes one."""

    async def main() -> None:
        assert opened(make_app())[0]._quota is None
        assert opened(make_app(), rate_messages=1)[0]._quota is not None
        assert opened(make_app(), rate_bytes=1)[0]._quota is not None

    on_the_clock(main)


@pytest.mark.parametrize("split", [1, 7, 1000])
def test_the_messages_within_the_rate_are_handled_and_then_it_is_the_end(split: int) -> None:
    """However the bytes are split: five are answered, and the sixth is 1008 with the name of the setting."""

    async def main() -> None:
        seen = Ends(on_message=_echo)
        connection, wire = opened(seen.app, rate_messages=5)
        data = b"".join(text(str(number)) for number in range(9))
        for begin in range(0, len(data), split):
            connection.data_received(data[begin : begin + split])
        *answers, close = wire.sent()
        reason = "more than websocket.rate_messages = 5"
        assert [(Opcode.TEXT, b"%d" % number) for number in range(5)] == answers
        assert (Opcode.CLOSE, b"\x03\xf0" + reason.encode()) == close
        assert [(1006, f"we closed with 1008: {reason}")] == seen.ends

    on_the_clock(main)


def test_fragmented_messages_count_when_they_are_whole() -> None:
    """One each, like any other."""

    async def main() -> None:
        connection, wire = opened(make_app(on_message=_echo), rate_messages=2)
        connection.data_received(FIRST + MIDDLE + LAST + FIRST + LAST + FIRST + MIDDLE)
        assert [(Opcode.TEXT, b"one and all"), (Opcode.TEXT, b"one all")] == wire.sent()
        connection.data_received(LAST)
        assert [Opcode.CLOSE] == [opcode for opcode, _ in wire.sent()]

    on_the_clock(main)


def test_a_slow_on_message_does_not_make_a_client_fast() -> None:
    """Its messages wait in the queue, in the session and in the kernel; each is counted once, and when it was sent."""

    async def main() -> None:
        handled: list[str] = []
        leave = asyncio.Semaphore(0)

        async def on_message(connection: Connection, data: str) -> None:
            await leave.acquire()
            handled.append(data)

        seen = Ends(on_message=on_message)
        connection, _ = opened(seen.app, rate_messages=20, **PINGS_OFF)
        kernel: list[bytes] = []

        def read() -> None:
            while connection._reading and kernel:
                connection.data_received(b"".join(kernel))
                kernel.clear()

        async def handle(count: int) -> None:
            for _ in range(count):
                read()
                leave.release()
                await turns()
            read()

        for second in range(30):
            kernel += [text(str(number)) for number in range(20 * second, 20 * second + 20)]
            # slow at first, and then very fast
            await handle(5 if second < 20 else 200)
            await passes(1)
        assert [str(number) for number in range(600)] == handled
        assert [] == seen.ends
        kernel += [text("more"), text("than"), text("that")] * 10
        await handle(30)
        assert 620 == len(handled)
        assert [(1006, "we closed with 1008: more than websocket.rate_messages = 20")] == seen.ends

    on_the_clock(main)


def test_too_many_bytes_are_the_end() -> None:
    """Of whatever kind they are: 1008 and the name of the setting."""

    async def main() -> None:
        seen = Ends(on_message=_echo)
        connection, wire = opened(seen.app, rate_bytes=1000, max_size=100)
        connection.data_received(text("x" * 44) * 20)
        assert 20 == len(wire.sent())
        connection.data_received(text("y"))
        reason = "more than websocket.rate_bytes = 1000"
        assert [(Opcode.CLOSE, b"\x03\xf0" + reason.encode())] == wire.sent()
        assert [(1006, f"we closed with 1008: {reason}")] == seen.ends

    on_the_clock(main)


def test_a_message_of_max_size_is_never_too_many_bytes() -> None:
    """A rate that is smaller than one message lets one in at a time."""

    async def main() -> None:
        messages: list[bytes] = []
        app = make_app(on_message=lambda c, d: messages.append(d))
        connection, wire = opened(app, rate_bytes=1000, max_size=70_000)
        data = frame(Opcode.BINARY, bytes(70_000))
        for begin in range(0, len(data), 9_000):
            connection.data_received(data[begin : begin + 9_000])
        assert [bytes(70_000)] == messages
        await passes(1)
        connection.data_received(text("x" * 900))
        assert 2 == len(messages)
        assert not wire.calls

    on_the_clock(main)


# the end


def test_a_client_that_does_not_answer_our_close_is_half_closed_and_then_cut() -> None:
    """The half-close after a second; the socket is dropped close_timeout later."""

    async def main() -> None:
        seen = Ends()
        connection, wire = opened(seen.app, close_timeout=5)
        connection.close(4000, "bye")
        await passes(0.5)
        assert ([(Opcode.CLOSE, b"\x0f\xa0bye")], []) == (wire.sent(), wire.calls)
        await passes(0.5)
        assert ["write_eof"] == wire.calls
        await passes(4.5)
        assert not wire.gone()
        await passes(0.5)
        assert wire.gone()
        assert [(1006, "the client did not answer our Close")] == seen.ends

    on_the_clock(main)


def test_the_clocks_of_an_open_connection_end_with_it() -> None:
    """Nobody is pinged, idle, unsigned or stuck who is closing."""

    async def main() -> None:
        seen = Ends()
        settings = {"idle_timeout": 3, "auth_timeout": 3, "write_timeout": 3, "message_timeout": 3, "ping_interval": 3}
        connection, wire = opened(seen.app, close_timeout=100, **settings)
        connection.close()
        wire.takes = False
        await passes(60)
        assert [Opcode.CLOSE] == [opcode for opcode, _ in wire.sent()]
        assert not wire.gone()
        connection.data_received(closing(1000))
        assert [(1000, "")] == seen.ends

    on_the_clock(main)


def test_a_handshake_is_not_watched_yet() -> None:
    """Its clocks begin with the 101, however long on_handshake took."""

    async def main() -> None:
        may = asyncio.Event()

        async def on_handshake(request: object) -> None:
            await may.wait()

        app = make_app(on_handshake=on_handshake)
        connection, wire = arrive(make_hub(app, auth_timeout=4, open_timeout=20), head())
        await passes(15)
        may.set()
        await turns()
        assert wire.writes.pop().startswith(b"HTTP/1.1 101 ")
        await passes(3.5)
        assert "open" == state(connection)
        await passes(0.5)
        assert "closing" == state(connection)

    on_the_clock(main)


def test_a_turn_that_is_used_up_is_no_pause_of_ours() -> None:
    """A client that sends more frames than a turn takes cannot put off the time of its message by that."""

    async def main() -> None:
        connection, wire = opened(make_app(), message_timeout=5, rate_control=0, **PINGS_OFF)
        connection.data_received(FIRST)
        for _ in range(20):
            await passes(0.25)
            connection.data_received(frame(Opcode.PONG) * 300)
        await passes(0.5)
        assert ["write_eof"] == [call for call in wire.calls if call == "write_eof"]

    on_the_clock(main)
