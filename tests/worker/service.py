"""A hub with real sockets for the tests of the worker, and a client that says exactly what a test wants said."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

from websockets.frames import Frame, Opcode

from wsworker.config import Config, WebSocketConfig
from wsworker.stats import Counters
from wsworker.worker.app import App, Callback
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

DEADLINE_SECONDS = 10
HEAD = (
    "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)


def head(target: str = "/", more: str = "") -> bytes:
    """Return a handshake; more: header lines, each with its CR LF."""
    return HEAD.format(target=target, more=more).encode()


def frame(opcode: Opcode, payload: bytes = b"", fin: bool = True) -> bytes:
    """Return one masked frame."""
    return Frame(opcode, payload, fin).serialize(mask=True)


def text(message: str) -> bytes:
    """Return a text message in one masked frame."""
    return frame(Opcode.TEXT, message.encode())


def closing(code: int, reason: str = "") -> bytes:
    """Return a masked Close."""
    return frame(Opcode.CLOSE, struct.pack("!H", code) + reason.encode())


def make_app(**callbacks: Callable[..., Any]) -> App:
    """Return an app with these callbacks, by their names."""
    made = {name: Callback(fn, inspect.iscoroutinefunction(fn), f"app.py:{name}") for name, fn in callbacks.items()}
    return App("app", 0.0, **made)


def make_hub(app: App, worker_connections: int = 100, **settings: Any) -> Hub:
    """Return a hub on the running loop; settings: those of the section websocket."""
    config = Config(app="app", worker_connections=worker_connections, websocket=WebSocketConfig(**settings))
    return Hub(
        config=config,
        app=app,
        worker_id=7,
        slot=2,
        node="node",
        boot="boot",
        loop=asyncio.get_running_loop(),
        random=Random(1),
        counters=Counters(),
        changed=lambda: None,
    )


async def until(condition: Callable[[], object]) -> None:
    """Wait for a fact; fails at the deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


class Peer:
    """One client's TCP connection; every wait has the deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *data: bytes) -> None:
        """Send bytes as they are, in one write."""
        self.writer.write(b"".join(data))

    async def response(self) -> str:
        """Return the head of the HTTP response."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def receive(self) -> tuple[Opcode, bytes]:
        """Return opcode and payload of the next frame, which must be neither masked nor fragmented."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            first, length = await self.reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            assert first & 0xF0 == 0x80
            return Opcode(first & 0x0F), await self.reader.readexactly(length)

    async def message(self) -> str:
        """Return the next frame's text."""
        opcode, payload = await self.receive()
        assert opcode is Opcode.TEXT, (opcode, payload)
        return payload.decode()

    async def close_code(self) -> int:
        """Return the code of the next frame, a Close."""
        opcode, payload = await self.receive()
        assert opcode is Opcode.CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big") if payload else 1005

    async def rest(self) -> bytes:
        """Return all that comes until the server's FIN."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.reader.read()

    def leave(self) -> None:
        """Close the socket."""
        self.writer.close()


class Service:
    """A hub that listens on loopback; what on_close was given stands in `ends`."""

    def __init__(self, hub: Hub, server: asyncio.Server) -> None:
        self.hub = hub
        self._address = server.sockets[0].getsockname()
        self._peers: list[Peer] = []

    async def dial(self, receive_buffer: int = 0) -> Peer:
        """Connect without saying anything; receive_buffer: bytes, to have a client that soon takes nothing."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._address)
        peer = Peer(*await asyncio.open_connection(sock=sock, limit=2**14))
        self._peers.append(peer)
        return peer

    async def open(self, *data: bytes, receive_buffer: int = 0) -> Peer:
        """Connect and complete the handshake; data: sent with the head."""
        peer = await self.dial(receive_buffer)
        peer.send(head(), *data)
        assert "101 Switching Protocols" in await peer.response()
        return peer

    @property
    def connection(self) -> Connection:
        """The one connection that is open."""
        (connection,) = self.hub.worker.connections.values()
        return connection

    @property
    def url(self) -> str:
        """Where a WebSocket client connects."""
        return f"ws://127.0.0.1:{self._address[1]}/"


@asynccontextmanager
async def serving(app: App, **settings: Any) -> AsyncIterator[Service]:
    """Serve an app; at the end every socket must be gone and every callback done."""
    hub = make_hub(app, **settings)
    server = await hub.loop.create_server(lambda: Connection(hub), "127.0.0.1", 0)
    service = Service(hub, server)
    try:
        yield service
    finally:
        server.close()
        for peer in service._peers:
            peer.leave()
        hub.terminate_all()
        hub.timers.cancel_all()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await hub.empty.wait()
            for peer in service._peers:
                with suppress(ConnectionError):
                    await peer.writer.wait_closed()
