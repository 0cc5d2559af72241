"""Parting, on real transports of both loops: what slips out of one that is left is known."""

from __future__ import annotations

import asyncio
import os
import socket

import uvloop

from tests.worker.conftest import Run
from wsworker.worker.parting import Parting

SOON = 10.0


async def opened(sock: socket.socket) -> asyncio.Transport:
    """Return a transport on a socket, its mark 0, as a cork sets it."""
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, sock)
    transport.set_write_buffer_limits(high=0, low=0)
    return transport


def drunk(client: socket.socket) -> bytes:
    """Return all that is there for a client now."""
    parts: list[bytes] = []
    while True:
        try:
            part = client.recv(1 << 20)
        except BlockingIOError:
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)


async def told(parting: Parting) -> int:
    """Return how many bytes have slipped."""
    return 0 if parting.slipped is None else await asyncio.wait_for(parting.slipped, SOON)


def test_what_slips_out_of_a_transport_that_is_left(run: Run) -> None:
    """The client gets what was written before it was left, and those bytes that slipped; its connection stays open."""

    async def main() -> None:
        client, server = socket.socketpair()
        client.setblocking(False)
        with client, server.dup() as kept:
            transport = await opened(server)
            data = os.urandom(4_000_000)
            transport.write(data)
            left = transport.get_write_buffer_size()
            assert 0 < left < len(data)
            parting = Parting(transport)
            # now there is room again, and the loop has not been there yet
            got = drunk(client)
            assert data[: len(data) - left] == got
            slipped = await told(parting)
            got += drunk(client)
            assert data[: len(data) - left + slipped] == got
            # that is what it is all about
            assert isinstance(asyncio.get_running_loop(), uvloop.Loop) == (slipped > 0)
            # and the other process goes on behind it
            kept.setblocking(False)
            rest = data[len(got) :]
            while rest:
                rest = rest[kept.send(rest) :]
                got += drunk(client)
            assert data == got

    run(main())


def test_nothing_slips_out_of_an_empty_transport(run: Run) -> None:
    """It is known at once, so that nobody waits for most connections."""

    async def main() -> None:
        client, server = socket.socketpair()
        with client, server.dup() as kept:
            transport = await opened(server)
            transport.write(b"x")
            parting = Parting(transport)
            assert parting.slipped is None
            await asyncio.sleep(0)
            kept.send(b"y")
            while (got := client.recv(2, socket.MSG_PEEK)) != b"xy":
                assert got == b"x"

    run(main())


def test_a_client_that_has_gone_meanwhile(run: Run) -> None:
    """Whoever waits does not wait for ever."""

    async def main() -> None:
        client, server = socket.socketpair()
        with server.dup():
            transport = await opened(server)
            transport.write(bytes(4_000_000))
            left = transport.get_write_buffer_size()
            parting = Parting(transport)
            client.close()
            assert 0 <= await told(parting) <= left

    run(main())
