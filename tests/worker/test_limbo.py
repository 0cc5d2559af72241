"""Limbo: what user code may do with a connection between two workers, in the old one and in the new one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.clock import on_the_clock, turns
from tests.worker.conftest import Run
from tests.worker.moving import lane_to_stranger, texts, two
from tests.worker.service import make_app, text, until
from wsworker.handover.packets import State
from wsworker.handover.wishes import Wish
from wsworker.protocol.frames import Shared
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.limbo import Limbo, Wishes


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


def test_wishes_are_kept_in_order() -> None:
    """Its own and what many get; only its own go to the other worker."""
    wishes = Wishes(0, 1000)
    shared = Shared("to many")
    kept: list[Any] = [Wish("text", b"a"), shared, Wish("close", b"bye", 4000)]
    assert all(wishes.keep(wish) for wish in kept)
    assert kept == [*wishes]
    assert [kept[0], kept[2]] == wishes.own()


def test_messages_have_a_limit() -> None:
    """One goes in below it, however large; what is no message always; what waited before counts."""
    wishes = Wishes(0, 100)
    assert wishes.keep(Wish("binary", bytes(1000)))
    assert not wishes.keep(Wish("text", b"x"))
    assert not wishes.keep(Shared("x"))
    assert wishes.keep(Wish("subscribe", b"x" * 200))
    assert wishes.keep(Wish("close", b"", 1000))
    assert 3 == len([*wishes])
    small = Wishes(50, 100)
    assert small.keep(Wish("text", b"x" * 10))
    assert small.keep(Wish("text", b"x" * 40))
    assert not small.keep(Wish("text", b"x"))
    assert 100 == small.size


def test_the_transport_of_none() -> None:
    """It does nothing, and remembers that it was to be dropped."""

    async def main() -> None:
        transport = Limbo()
        transport.set_write_buffer_limits(high=0)
        transport.pause_reading()
        transport.resume_reading()
        assert transport.can_write_eof()
        assert (0, False, False) == (transport.get_write_buffer_size(), transport.is_closing(), transport.aborted)
        transport.abort()
        assert (True, True) == (transport.is_closing(), transport.aborted)
        await turns()

    on_the_clock(main)


def test_whoever_calls_it_sees_what_it_does_anywhere(run: Run) -> None:
    """Errors as ever, at once; send is refused once as much waits as may, and counted."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, _):
            peer = await old.service.open()
            connection = old.connection
            async with lane_to_stranger(old) as (lane, stranger, back):
                freezing.hold(connection)
                lane.give(connection, None)
                await stranger.hear_until(State)
                with pytest.raises(TypeError):
                    connection.send(1)  # type: ignore[arg-type]
                with pytest.raises(UnicodeEncodeError):
                    connection.send("\ud800")
                with pytest.raises(ValueError, match="1005"):
                    connection.close(1005)
                with pytest.raises(TypeError):
                    connection.subscribe(1)  # type: ignore[arg-type]
                with pytest.raises(ValueError, match="topic"):
                    connection.unsubscribe("")
                with pytest.raises(ValueError, match="user"):
                    connection.user = ""
                assert ("open", 0) == (connection.state, connection.buffered)
                # a buffer of the user's, which he may use again at once
                data = bytearray(b"before")
                assert connection.send(data)
                data[:] = b"behind"
                large = bytes(old.hub.config.websocket.send_buffer)
                assert connection.send(large)
                assert connection.buffered == len(b"before") + len(large)
                assert connection.send("x") is False
                assert 1 == old.hub.counters.refused
                assert repr(connection).endswith("open>")
                lane.drop()
                await until(lambda: back)
                assert b"before" == (await peer.receive())[1]
                assert large == (await peer.receive())[1]
                peer.send(text("x"))
                assert ["x"] == await texts(peer, 1)

    run(main())
