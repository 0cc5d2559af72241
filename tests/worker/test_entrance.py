"""The entrance on real sockets: which protocol a client gets and what it is told, and who is closed without a word."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest

from tests.certificates import HOST, Authority, name_of
from tests.worker.conftest import Run
from tests.worker.service import DEADLINE_SECONDS, until
from wsworker import notices as notices_module
from wsworker import tls
from wsworker.config import Config, ListenAddress, ProxiedAddress
from wsworker.counters import Counters
from wsworker.protocol.proxy import MOST_BYTES, Version
from wsworker.protocol.request import Address
from wsworker.sections import TlsConfig, WebSocketConfig
from wsworker.worker import entrance as entrance_module
from wsworker.worker.arrival import Arrival
from wsworker.worker.entrance import Entrance, version_of

log = logging.getLogger("wsworker.worker")
SOURCE = Address("192.0.2.7", 4711)


def header(version: Version, source: Address = SOURCE, more: bytes = b"") -> bytes:
    """Return a PROXY header; more: additions, of version 2."""
    if version == "v1":
        return f"PROXY TCP4 {source.host} 127.0.0.1 {source.port} 2346\r\n".encode()
    addresses = ip_address(source.host).packed + bytes([127, 0, 0, 1]) + struct.pack("!HH", source.port, 2346)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses + more)) + addresses + more


LOCAL = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x20, 0, 0)


class Guest(asyncio.Protocol):
    """One client that came in. made: connection_made was called; data: what it has said."""

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.made = False
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.transport.write(b"heard " + data)


class Hall:
    """An entrance at a listener, on the running loop."""

    def __init__(self, context: ssl.SSLContext | None = None, listener: socket.socket | None = None, **settings: Any):
        timeout = settings.pop("open_timeout", DEADLINE_SECONDS)
        self.config = Config(app="app", websocket=WebSocketConfig(open_timeout=timeout), **settings)
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        self.guests: list[Guest] = []
        self.lost = 0
        self.counters = Counters()
        self.entrance = Entrance(
            asyncio.get_running_loop(),
            self._make_guest,
            config=self.config,
            tls=context,
            changed=self._count,
            counters=self.counters,
            log=log,
        )
        self.entrance.know(self.listener)

    def _make_guest(self, arrival: Arrival) -> asyncio.Protocol:
        self.guests.append(Guest(arrival))
        return self.guests[-1]

    def _count(self) -> None:
        self.lost += 1

    @property
    def inside(self) -> list[Guest]:
        """Those that came in."""
        return [guest for guest in self.guests if guest.made]

    def dial(self, *data: bytes) -> tuple[socket.socket, socket.socket]:
        """Bring a client to the entrance, with the first it says; return its socket and ours."""
        client = socket.socket(self.listener.family)
        client.connect(self.listener.getsockname())
        client.sendall(b"".join(data))
        client.setblocking(False)
        ours, peer = self.listener.accept()
        self.entrance.admit(self.listener, ours, peer)
        return client, ours

    async def close(self, *clients: socket.socket) -> None:
        """Leave nothing behind."""
        await self.entrance.close()
        for guest in self.inside:
            guest.transport.abort()
        for client in clients:
            client.close()
        self.listener.close()
        await asyncio.sleep(0)


async def rest(client: socket.socket) -> bytes:
    """Return all that comes until the end; a reset is one."""
    received = b""
    async with asyncio.timeout(DEADLINE_SECONDS):
        try:
            while data := await asyncio.get_running_loop().sock_recv(client, 65536):
                received += data
        except ConnectionResetError:
            pass
    return received


async def talk(client: socket.socket, context: ssl.SSLContext, word: bytes = b"hello") -> tuple[bytes, ssl.SSLObject]:
    """Speak TLS on a client's socket: say a word, return the answer."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        reader, writer = await asyncio.open_connection(sock=client, ssl=context, server_hostname=HOST)
        try:
            writer.write(word)
            return await reader.readexactly(len(b"heard " + word)), writer.get_extra_info("ssl_object")
        finally:
            writer.transport.abort()


def queued(sock: socket.socket) -> int:
    """Return how many bytes lie in the queue of a socket, to be read."""
    try:
        return len(sock.recv(65536, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


async def turns(number: int = 10) -> None:
    """Let the loop go round some times."""
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that writes its certificates into tmp_path."""
    return Authority(tmp_path)


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    """The context of a server."""
    return context_of(authority)


def context_of(authority: Authority, **settings: Any) -> ssl.SSLContext:
    """Return the context of a server with a certificate of that authority."""
    made = tls.context(TlsConfig(**authority.issue("one").settings, **settings))
    assert made is not None
    return made


# Plain TCP


def test_a_plain_client(run: Run) -> None:
    """It has its protocol within a few turns of the loop, which knows where and when the client came from."""

    async def main() -> None:
        hall = Hall()
        before = asyncio.get_running_loop().time()
        client, ours = hall.dial(b"hello")
        assert (1, False) == (hall.entrance.pending, hall.entrance.secure)
        await until(lambda: hall.inside and hall.inside[0].data)
        assert 0 == hall.entrance.pending
        (guest,) = hall.inside
        came_at = guest.arrival.came_at
        assert before <= came_at <= asyncio.get_running_loop().time()
        accepted_at = guest.arrival.accepted_at
        assert Arrival(client.getsockname(), None, False, came_at, accepted_at, ours) == guest.arrival
        assert b"hello" == guest.data
        assert (0, 0) == (hall.lost, hall.counters.rejected)
        await hall.close(client)

    run(main())


def test_a_plain_client_that_is_gone(run: Run) -> None:
    """It has reset the connection before it had its protocol: nothing is left of it, and nothing is logged."""

    async def main() -> None:
        hall = Hall()
        client = socket.socket()
        client.connect(hall.listener.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        ours, peer = hall.listener.accept()
        hall.entrance.admit(hall.listener, ours, peer)
        await until(lambda: hall.entrance.pending == 0)
        await hall.close()
        await until(lambda: ours.fileno() == -1)

    run(main())


# The PROXY header

VERSIONS: list[Version] = ["v1", "v2"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_proxied_client(run: Run, version: Version) -> None:
    """Its address is the one in the header, its peer is the proxy, and what comes right behind is its first word."""

    async def main() -> None:
        hall = Hall(proxy_protocol=version)
        client, _ = hall.dial(header(version), b"hello")
        await until(lambda: hall.inside and hall.inside[0].data)
        (guest,) = hall.inside
        assert (SOURCE, client.getsockname()) == (guest.arrival.source, guest.arrival.peer)
        assert b"hello" == guest.data
        await hall.close(client)

    run(main())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def test_a_header_in_pieces(run: Run, version: Version, family: socket.AddressFamily, tmp_path: Path) -> None:
    """However it is cut: what has come is taken at once, so that the loop does not spin, and not a byte too much."""
    whole = header(version)

    async def main() -> None:
        for size in (1, 5, 12, 16, len(whole) - 1):
            path: Any = str(tmp_path / f"{size}") if family == socket.AF_UNIX else ("127.0.0.1", 0)
            listener = socket.socket(family)
            listener.bind(path)
            listener.listen()
            hall = Hall(listener=listener, proxy_protocol=version, forwarded_allow_ips=("unix", "127.0.0.1"))
            client, ours = hall.dial()
            for at in range(0, len(whole), size):
                assert [] == hall.guests
                client.sendall(whole[at : at + size])
                if at + size < len(whole):
                    await until(lambda: queued(ours) == 0)  # noqa: B023
            client.sendall(b"hello")
            await until(lambda: hall.inside and hall.inside[0].data)  # noqa: B023
            assert (SOURCE, b"hello") == (hall.inside[0].arrival.source, hall.inside[0].data)
            await hall.close(client)

    run(main())


def test_a_large_header(run: Run) -> None:
    """As large as it may be, with additions that nobody reads; one byte more is a defect."""
    room = MOST_BYTES["v2"] - len(header("v2"))

    async def main() -> None:
        hall = Hall(proxy_protocol="v2")
        client, _ = hall.dial(header("v2", more=bytes(room)), b"hello")
        await until(lambda: hall.inside and hall.inside[0].data)
        assert (SOURCE, b"hello") == (hall.inside[0].arrival.source, hall.inside[0].data)
        large, _ = hall.dial(header("v2", more=bytes(room + 1)), b"hello")
        assert b"" == await rest(large)
        assert 1 == len(hall.guests)
        await hall.close(client, large)

    run(main())


def test_the_proxy_itself(run: Run) -> None:
    """A health check of the proxy (LOCAL) is served, and has no address but the peer's."""

    async def main() -> None:
        hall = Hall(proxy_protocol="v2")
        client, _ = hall.dial(LOCAL, b"hello")
        await until(lambda: hall.inside and hall.inside[0].data)
        assert hall.inside[0].arrival.source is None
        await hall.close(client)

    run(main())


@pytest.mark.parametrize(
    ("version", "sent"),
    [
        ("v1", b"GET / HTTP/1.1\r\n"),
        ("v2", b"GET / HTTP/1.1\r\n"),
        ("v1", header("v2")),
        ("v2", header("v1")),
        ("v1", b"PROXY TCP4 " + b"1" * 200),
        ("v1", b"\x16\x03\x01\x02\x00"),
    ],
)
def test_what_is_no_header(run: Run, version: Version, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is closed without a word, counted, and logged with what was wrong."""

    async def main() -> None:
        hall = Hall(proxy_protocol=version)
        client, ours = hall.dial(sent)
        assert b"" == await rest(client)
        await until(lambda: hall.entrance.pending == 0)
        assert ([], 1, 1, -1) == (hall.guests, hall.lost, hall.counters.rejections["proxy"], ours.fileno())
        (line,) = caplog.messages
        assert line.startswith("closed a connection from 127.0.0.1: ")
        assert "PROXY protocol" in line
        await hall.close(client)

    run(main())


def test_a_stranger_with_a_header(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever is not trusted is not even listened to, and the log names the settings."""

    async def main() -> None:
        hall = Hall(proxy_protocol="v1", forwarded_allow_ips=("10.0.0.0/8",))
        client, _ = hall.dial(header("v1"), b"hello")
        assert b"" == await rest(client)
        await until(lambda: hall.lost)
        assert ([], 1) == (hall.guests, hall.counters.rejections["proxy"])
        text = (
            "it is no trusted proxy, and this address takes none but those; see forwarded_allow_ips and proxy_protocol"
        )
        assert [f"closed a connection from 127.0.0.1: {text}"] == caplog.messages
        await hall.close(client)

    run(main())


def test_strangers_do_not_fill_the_log(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of each kind in a while, and the next one says how many there were in between."""

    async def main() -> None:
        hall = Hall(proxy_protocol="v1")
        clients = [hall.dial(b"GET")[0] for _ in range(20)]
        await until(lambda: hall.lost == 20)
        assert 1 == len(caplog.messages)
        monkeypatch.setattr(notices_module, "LOG_SECONDS", 0.0)
        clients.append(hall.dial(b"GET")[0])
        await until(lambda: hall.lost == 21)
        assert [False, True] == [
            text.endswith("(and 19 more like it since the last such line)") for text in caplog.messages
        ]
        await hall.close(*clients)

    run(main())


@pytest.mark.parametrize("sent", [b"", header("v2")[:20]], ids=["silent", "half"])
def test_a_header_that_does_not_come(run: Run, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The deadline of the handshake ends the wait, without a word in the log; so does a client that leaves."""

    async def main() -> None:
        hall = Hall(proxy_protocol="v2", open_timeout=0.2)
        began_at = asyncio.get_running_loop().time()
        client, ours = hall.dial(sent)
        assert b"" == await rest(client)
        assert asyncio.get_running_loop().time() - began_at > 0.19
        gone, _ = hall.dial(sent)
        gone.close()
        await until(lambda: hall.lost == 2)
        assert ([], 0, 0, -1) == (hall.guests, hall.entrance.pending, hall.counters.rejected, ours.fileno())
        assert [] == caplog.messages
        await hall.close(client)

    run(main())


# Which listener has which header


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[dict[str, socket.socket]]:
    """One of each family."""
    tcp4, tcp6 = socket.create_server(("127.0.0.1", 0)), socket.create_server(("::1", 0), family=socket.AF_INET6)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "sock"))
    found = {"tcp4": tcp4, "tcp6": tcp6, "unix": unix}
    yield found
    for sock in found.values():
        sock.close()


def address_of(listener: socket.socket) -> ListenAddress:
    """Return where a listener is bound, as `listen` has it."""
    name = listener.getsockname()
    return ListenAddress("", 0, name) if isinstance(name, str) else ListenAddress(name[0], name[1])


def test_one_version_for_all(listeners: dict[str, socket.socket]) -> None:
    """A word holds for every listener."""
    for listener in listeners.values():
        assert version_of(listener, "none") is None
        assert ("v1", "v2") == (version_of(listener, "v1"), version_of(listener, "v2"))


def test_a_version_by_address(listeners: dict[str, socket.socket]) -> None:
    """A list holds for the addresses in it, whatever their family; the others begin without a header."""
    for one in listeners.values():
        setting = (ProxiedAddress(ListenAddress("127.0.0.1", 1), "v1"), ProxiedAddress(address_of(one), "v2"))
        for other in listeners.values():
            assert ("v2" if one is other else None) == version_of(other, setting)


def test_only_one_of_two_listeners(run: Run) -> None:
    """Clients of the other one are served at once, and a listener that was forgotten has no header any more."""

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        hall = Hall(
            listener=listener,
            proxy_protocol=(ProxiedAddress(address_of(listener), "v1"),),
            listen=(address_of(listener),),
        )
        other = Hall(proxy_protocol=hall.config.proxy_protocol, listen=hall.config.listen)
        clients = [hall.dial(header("v1"), b"hello")[0], other.dial(b"hello")[0]]
        await until(lambda: len(hall.inside) == len(other.inside) == 1)
        hall.entrance.forget(listener)
        clients.append(hall.dial(b"hello")[0])
        await until(lambda: len(hall.inside) == 2)
        assert [SOURCE, None] == [guest.arrival.source for guest in hall.inside]
        await other.close()
        await hall.close(*clients)

    run(main())


# TLS


def test_a_client_with_tls(run: Run, authority: Authority, context: ssl.SSLContext) -> None:
    """It has its protocol once the TLS handshake is over; what it says arrives in plain."""

    async def main() -> None:
        hall = Hall(context)
        client, _ = hall.dial()
        await turns()
        assert ([], 1, True) == (hall.inside, hall.entrance.pending, hall.entrance.secure)
        answer, found = await talk(client, authority.client())
        assert (b"heard hello", "one") == (answer, name_of(found.getpeercert()))
        (guest,) = hall.inside
        assert (True, b"hello", 0) == (guest.arrival.secure, guest.data, hall.entrance.pending)
        assert not guest.transport.can_write_eof()
        await hall.close()

    run(main())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_header_before_tls(run: Run, authority: Authority, context: ssl.SSLContext, version: Version) -> None:
    """It stands in plain on the socket, and TLS begins with the byte behind it."""

    async def main() -> None:
        hall = Hall(context, proxy_protocol=version)
        client, _ = hall.dial(header(version))
        answer, _ = await talk(client, authority.client())
        assert b"heard hello" == answer
        assert (SOURCE, True) == (hall.inside[0].arrival.source, hall.inside[0].arrival.secure)
        await hall.close()

    run(main())


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, header("v1")])
def test_plain_text_where_tls_is_spoken(
    run: Run, context: ssl.SSLContext, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is closed, and answered by an alert of TLS at most; it is counted and logged."""
    caplog.set_level(logging.INFO, log.name)

    async def main() -> None:
        hall = Hall(context)
        client, ours = hall.dial(sent)
        answer = await rest(client)
        # RFC 8446 section 5.1: an alert is a record of type 21
        assert not answer or answer[0] == 21
        await until(lambda: hall.lost)
        await until(lambda: ours.fileno() == -1)
        assert ([], 0, 1) == (hall.inside, hall.entrance.pending, hall.counters.rejected)
        (line,) = caplog.messages
        assert line.startswith("closed a connection from 127.0.0.1: the TLS handshake has failed (")
        await hall.close(client)

    run(main())


def client_hello(context: ssl.SSLContext) -> bytes:
    """Return the first bytes of a client."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("part", [0, 100, None], ids=["silent", "half", "hello"])
def test_a_tls_handshake_that_stalls(
    run: Run, authority: Authority, context: ssl.SSLContext, part: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline of the handshake ends it wherever it stands, without a word in the log."""

    async def main() -> None:
        hall = Hall(context, open_timeout=0.3)
        began_at = asyncio.get_running_loop().time()
        client, ours = hall.dial(client_hello(authority.client())[:part])
        await rest(client)
        assert asyncio.get_running_loop().time() - began_at > 0.29
        await until(lambda: hall.lost)
        await until(lambda: ours.fileno() == -1)
        assert ([], 0, 0) == (hall.inside, hall.entrance.pending, hall.counters.rejected)
        assert [] == caplog.messages
        await hall.close(client)

    run(main())


def test_both_have_one_deadline(run: Run, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a header took is missing for TLS."""
    left: list[float] = []

    async def secure(*_: Any, ssl_handshake_timeout: float, **others: Any) -> None:
        left.append(ssl_handshake_timeout)
        raise ConnectionResetError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        monkeypatch.setattr(loop, "connect_accepted_socket", secure)
        hall = Hall(context, proxy_protocol="v1", open_timeout=60.0)
        monkeypatch.setattr(loop, "time", lambda: began_at)
        client, _ = hall.dial()
        await turns()
        monkeypatch.setattr(loop, "time", lambda: began_at + 45)
        client.sendall(header("v1"))
        await turns()
        await hall.close(client)
        assert [pytest.approx(15.0)] == left

    run(main())


def test_a_client_that_leaves_in_tls(run: Run, authority: Authority, context: ssl.SSLContext) -> None:
    """Whether it closes or resets: nothing is left of it."""

    async def main() -> None:
        hall = Hall(context)
        for reset in (False, True):
            client, ours = hall.dial(client_hello(authority.client()))
            await turns()
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await until(lambda: ours.fileno() == -1)  # noqa: B023
        await until(lambda: hall.entrance.pending == 0)
        assert [] == hall.inside
        await hall.close()

    run(main())


def test_a_client_without_its_certificate(run: Run, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """With ca_certs it never gets a protocol, so none of its bytes is read; with a certificate it does."""
    caplog.set_level(logging.INFO, log.name)

    async def main() -> None:
        hall = Hall(context_of(authority, ca_certs=str(authority.file)))
        good, _ = hall.dial()
        answer, _ = await talk(good, authority.client(authority.issue("tom")))
        assert b"heard hello" == answer
        assert "tom" == name_of(hall.inside[0].transport.get_extra_info("ssl_object").getpeercert())
        bad, _ = hall.dial()
        # with TLS 1.3 the client learns it when it reads, with 1.2 in the handshake
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await talk(bad, authority.client())
        await until(lambda: hall.lost)
        assert (1, 1) == (len(hall.inside), hall.counters.rejections["tls"])
        assert caplog.messages[0].endswith("the TLS handshake has failed (peer did not return a certificate)")
        await hall.close()

    run(main())


# The end


def test_who_stalls_does_not_hold_up_the_end(
    run: Run, authority: Authority, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that leaves gives those in PROXY or TLS a moment; who is quick comes in, the others are closed."""
    monkeypatch.setattr(entrance_module, "LAST_SECONDS", 2.0)

    async def main() -> None:
        hall = Hall(context, proxy_protocol="v1", open_timeout=10 * DEADLINE_SECONDS)
        quick, _ = hall.dial(header("v1"))
        slow = [hall.dial(data) for data in (b"", header("v1"), header("v1") + client_hello(authority.client()))]
        assert 4 == hall.entrance.pending
        talking = asyncio.create_task(talk(quick, authority.client()))
        async with asyncio.timeout(DEADLINE_SECONDS):
            await hall.entrance.close()
        assert (1, 0) == (len(hall.inside), hall.entrance.pending)
        assert b"heard hello" == (await talking)[0]
        for client, ours in slow:
            await rest(client)
            await until(lambda: ours.fileno() == -1)  # noqa: B023
        await hall.close(*(client for client, _ in slow))

    run(main())
