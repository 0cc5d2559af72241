"""The wire: what it says, and in which words it fails."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from tests.bus.broker.test_ending import forgets
from tests.bus.redis.conftest import Tls
from tests.bus.redis.servers import tls_front, valkey
from tests.ports import free_port
from tests.worker.conftest import Run
from wsworker import brokers
from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.lookup import Lookup
from wsworker.bus.redis.dialler import Dialler
from wsworker.bus.redis.wire import Lost, Refusal, Wire, command

SECRET = "s3cret/pässword"
ENCODED = "s3cret%2Fp%C3%A4ssword"


async def connect(url: BrokerUrl, seconds: float = 5) -> Wire:
    """Dial the first server of a URL."""
    server = url.servers[0] if url.servers else Server(url.path, 0)
    loop = asyncio.get_running_loop()
    return await Dialler(url, Lookup(loop), Certificates(loop, url), seconds).dial(server, "name")


async def why(url: str, seconds: float = 5) -> str:
    """Return why nobody is reached there; no secret stands in it."""
    with pytest.raises(Lost) as raised:
        await connect(brokers.parse(url), seconds)
    assert SECRET not in str(raised.value)
    assert ENCODED not in str(raised.value)
    return raised.value.why


def test_commands() -> None:
    """Each part goes with its length."""
    assert b"*2\r\n$4\r\nPING\r\n$3\r\n\r\n\xff\r\n" == command(b"PING", b"\r\n\xff")


def test_it_speaks(run: Run) -> None:
    """By TCP and by a unix socket, with a password and a database; what is refused is no exception."""

    async def main() -> None:
        with valkey(password="a:b/c") as server:
            unix = brokers.parse(f"unix://:a%3Ab%2Fc@{server.socket}?db=3")
            tcp = brokers.parse(f"redis://default:a%3Ab%2Fc@127.0.0.1:{server.port}/3")
            for url in (unix, tcp):
                wire = await connect(url)
                assert forgets(wire._transport)
                await wire.send(command(b"ECHO", b"\xff") + command(b"NONSENSE"))
                assert b"\xff" == await wire.receive()
                refusal = await wire.receive()
                assert isinstance(refusal, Refusal)
                assert (True, False) == ("unknown command" in refusal.text, refusal.moved)
                assert "db=3" in server.text("CLIENT", "LIST")
                assert {"name"} == server.clients().keys()
                await wire.end()

    run(main())


def test_a_wire_that_has_ended_stays_so(run: Run) -> None:
    """The library would connect anew."""

    async def main() -> None:
        with valkey() as server:
            wire = await connect(server.url)
            server.kill_client("name")
            with pytest.raises(Lost, match="it has closed the connection"):
                await wire.receive()
            for _ in range(2):
                with pytest.raises(Lost, match="it has closed the connection"):
                    await wire.send(command(b"PING"))
                with pytest.raises(Lost, match="it has closed the connection"):
                    await wire.receive()
            assert {} == server.clients("name")
            await wire.end()

    run(main())


def test_passwords(run: Run) -> None:
    """A wrong one, none, and one too many; what the server says is not shown."""

    async def main() -> None:
        with valkey(password="right") as server:
            assert "it refuses the user or the password" == await why(f"redis://:{ENCODED}@127.0.0.1:{server.port}")
            assert "it refuses the user or the password" == await why(f"redis://x:{ENCODED}@127.0.0.1:{server.port}")
            assert "it wants a password, and the URL gives none" == await why(f"redis://127.0.0.1:{server.port}")
        with valkey() as server:
            url = f"redis://:{ENCODED}@127.0.0.1:{server.port}"
            assert "it has no password, and the URL gives one" == await why(url)

    run(main())


def test_what_is_wrong_with_a_server(run: Run, tmp_path: Path) -> None:
    """Nobody there, an unknown name, a database too many, too many clients."""

    async def main() -> None:
        assert "Connection refused" == await why(f"redis://127.0.0.1:{free_port()}")
        assert "Connection refused" == await why(f"redis://localhost:{free_port()}")
        assert "No such file or directory" == await why(f"unix://{tmp_path}/none.sock")
        assert await why("redis://nobody.invalid")
        with valkey(maxclients=1) as server:
            url = f"redis://127.0.0.1:{server.port}"
            assert "it has no database of this number" == await why(f"{url}/99")
            held = await connect(server.url)
            try:
                # its word is lost if it has closed before the first command is sent
                expected = ("it has as many clients as it takes (maxclients)", "Connection lost")
                assert (await why(url)).startswith(expected)
            finally:
                await held.end()

    run(main())


class Impostor(asyncio.Protocol):
    """Something else than a Redis, which says this whenever something comes; b"" and it closes."""

    def __init__(self, says: bytes | None, ends: list[asyncio.Transport]) -> None:
        self._says = says
        self._ends = ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._ends.append(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        if self._says == b"":
            self._ends[-1].close()
        elif self._says is not None:
            self._ends[-1].write(self._says)


@asynccontextmanager
async def impostor(says: bytes | None) -> AsyncIterator[str]:
    """Give the URL of an impostor. says: None for nothing."""
    ends: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(lambda: Impostor(says, ends), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"redis://:{ENCODED}@127.0.0.1:{port}"
    finally:
        server.close()
        for end in ends:
            end.abort()
        for _ in range(2):
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x01\x02\x03\r\n",
        b"-ERR unknown command 'AUTH', with args beginning with: '" + SECRET.encode() + b"'\r\n",
        b"-NONSENSE " + SECRET.encode() + b"\r\n",
        b"$-7\r\n",
        b"*1\r\n$3\r\nabc\r\n",
        b":abc\r\n",
        b"*-5\r\n",
        b"-MOVED\r\n",
        b"*1\r\n" * 2000,
    ],
    ids=range(10),
)
def test_garbage(run: Run, says: bytes) -> None:
    """Whatever something says that is no Redis, it is a Lost, and no secret that it repeats is shown."""

    async def main() -> None:
        async with impostor(says) as url:
            assert await why(url, 0.3)

    run(main())


def test_silence(run: Run) -> None:
    """Who accepts and says nothing is given up in time; so is who closes at once."""

    async def main() -> None:
        async with impostor(None) as url:
            assert "no answer came in time" == await why(url, 0.05)
        async with impostor(b"") as url:
            assert await why(url) in ("it has closed the connection", "Connection reset by peer")

    run(main())


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_it_is_let_go_in_a_copy(run: Run, tls: Tls, kind: str) -> None:
    """A process that was forked has the connection no more; the worker's goes on."""

    async def main() -> None:
        with valkey() as server:
            async with tls_front(server, tls.context("127.0.0.1")) as port:
                url = brokers.parse(f"rediss://127.0.0.1:{port}?ca={tls.ca}") if kind == "tls" else server.url
                wire = await connect(url)
                pid = os.fork()
                if pid == 0:
                    try:
                        before = _sockets()
                        wire.let_go()
                        os._exit(before - _sockets())
                    finally:
                        os._exit(99)
                _, status = os.waitpid(pid, 0)
                assert 1 == os.waitstatus_to_exitcode(status)
                await wire.send(command(b"PING"))
                assert b"PONG" == await wire.receive()
                await wire.end()

    run(main())


def _sockets() -> int:
    """Return how many sockets of the internet this process has."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as found:
                count += found.family in (socket.AF_INET, socket.AF_INET6)
        except OSError:
            # the folder was open while it was read
            continue
    return count


def test_no_socket_stays(run: Run) -> None:
    """Neither of a wire, nor of an attempt that has failed or was cancelled."""

    async def main() -> None:
        async with impostor(None) as url:
            before = _sockets()
            attempt = asyncio.create_task(connect(brokers.parse(url)))
            await asyncio.sleep(0.05)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            await why(url, 0.05)
            async with asyncio.timeout(5):
                # the other side's ends as well
                while _sockets() > before:
                    await asyncio.sleep(0.01)

    run(main())
