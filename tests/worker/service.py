"""A hub with real sockets for the tests of the worker, and a client that says exactly what a test wants said."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

from websockets.frames import Frame, Opcode

from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.sections import WebSocketConfig
from wsworker.worker.app import App, Callback
from wsworker.worker.arrival import Arrival
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


class Journal:
    """Callbacks that write down what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.seen: list[Connection] = []

    def on_connect(self, connection: Connection) -> None:
        self.seen.append(connection)
        self.calls.append(("connect",))

    def on_message(self, connection: Connection, data: str | bytes) -> None:
        self.calls.append(("message", data))

    def on_close(self, connection: Connection, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))

    def on_error(self, connection: Connection, exc: Exception) -> None:
        self.calls.append(("error", str(exc)))

    def app(self, **others: Any) -> App:
        names = ("on_connect", "on_message", "on_close", "on_error")
        return make_app(**({name: getattr(self, name) for name in names} | others))

    @property
    def ends(self) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == "close"]


def make_hub(app: App, changed: Callable[[], None] = lambda: None, **settings: Any) -> Hub:
    """Return a hub on the running loop; settings: of the section websocket, or of the top level if it has that name."""
    top: dict[str, Any] = {"app": "app", "worker_connections": 100}
    top |= {name: settings.pop(name) for name in [*settings] if name in Config.model_fields}
    config = Config(**top, websocket=WebSocketConfig(**settings))
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
        changed=changed,
    )


def make_arrival(sock: socket.socket | None = None, peer: Any = ("192.0.2.1", 4711), **facts: Any) -> Arrival:
    """Return a client that was accepted just now; without a socket it has one that is closed."""
    if sock is None:
        sock = socket.socket()
        sock.close()
    came_at = asyncio.get_running_loop().time()
    known: dict[str, Any] = {"peer": peer, "source": None, "secure": False, "came_at": came_at, "sock": sock}
    known["accepted_at"] = time.monotonic()
    return Arrival(**(known | facts))


class Recorder(asyncio.Transport):
    """A transport that writes down what is asked of it; everything written is taken at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.calls: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def abort(self) -> None:
        self.calls.append("abort")

    def close(self) -> None:
        self.calls.append("close")

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return "abort" in self.calls or "close" in self.calls


def connect(hub: Hub, transport: asyncio.Transport, *data: bytes, **facts: Any) -> Connection:
    """Return a connection on a transport of the test's, which has read data; facts: of its arrival."""
    connection = Connection(hub, make_arrival(**facts))
    connection.connection_made(transport)
    for part in data:
        connection.data_received(part)
    return connection


def recorded(app: App, **settings: Any) -> tuple[Connection, Recorder]:
    """Return a connection without a socket, its handshake done and its 101 taken out; settings: as for make_hub."""
    transport = Recorder()
    connection = connect(make_hub(app, **settings), transport, head())
    assert transport.writes.pop().startswith(b"HTTP/1.1 101 ")
    return connection, transport


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
    """A hub that listens on loopback. server_tls, client_tls: for one that speaks TLS."""

    def __init__(self, hub: Hub, server_tls: ssl.SSLContext | None, client_tls: ssl.SSLContext | None) -> None:
        self.hub = hub
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.setblocking(False)
        self._address = self._listener.getsockname()
        self._arriving: set[asyncio.Task[Any]] = set()
        self._peers: list[Peer] = []
        hub.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        client, address = self._listener.accept()
        arrival = make_arrival(client, address, secure=self._server_tls is not None)
        connecting = self.hub.loop.connect_accepted_socket(
            lambda: Connection(self.hub, arrival), client, ssl=self._server_tls
        )
        task = asyncio.ensure_future(connecting)
        self._arriving.add(task)
        task.add_done_callback(self._arriving.remove)

    async def dial(self, receive_buffer: int = 0) -> Peer:
        """Connect without saying anything; receive_buffer: bytes, to have a client that soon takes nothing."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await self.hub.loop.sock_connect(sock, self._address)
        tls: dict[str, Any] = {"ssl": self._client_tls, "server_hostname": "127.0.0.1"} if self._client_tls else {}
        peer = Peer(*await asyncio.open_connection(sock=sock, limit=2**14, **tls))
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

    async def close(self) -> None:
        """Drop everybody; return when every socket is gone and every callback done."""
        self.hub.loop.remove_reader(self._listener)
        self._listener.close()
        for peer in self._peers:
            peer.leave()
        self.hub.terminate_all()
        self.hub.timers.cancel_all()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.hub.empty.wait()
            for peer in self._peers:
                with suppress(ConnectionError, ssl.SSLError):
                    await peer.writer.wait_closed()


@asynccontextmanager
async def serving(
    app: App, *, server_tls: ssl.SSLContext | None = None, client_tls: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """Serve an app; at the end every socket must be gone and every callback done. settings: as for make_hub."""
    service = Service(make_hub(app, **settings), server_tls, client_tls)
    try:
        yield service
    finally:
        await service.close()
