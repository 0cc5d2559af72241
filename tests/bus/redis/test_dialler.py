"""The dialler: which of a server's addresses takes us, TLS, and that nobody else's threads are waited for."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.bus.contract import until
from tests.bus.redis.conftest import Tls
from tests.bus.redis.servers import Valkey, tls_front, valkey
from tests.bus.redis.test_wire import connect, why
from tests.worker.conftest import Run
from wsworker import brokers
from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.lookup import Lookup
from wsworker.bus.redis.dialler import Dialler
from wsworker.bus.redis.wire import Lost, command

REAL = socket.getaddrinfo


def dialler_of(url: BrokerUrl, seconds: float) -> Dialler:
    """Return one."""
    loop = asyncio.get_running_loop()
    return Dialler(url, Lookup(loop), Certificates(loop, url), seconds)


@contextmanager
def busy_pool() -> Iterator[None]:
    """Have user code use all threads of the loop's pool."""
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        loop.run_in_executor(None, release.wait)
        try:
            yield
        finally:
            release.set()


def answer(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Have each name stand for these addresses."""

    def ask(host: str, port: int, **how: Any) -> list[Any]:
        if how.get("flags"):
            return REAL(host, port, **how)
        return [each for address in addresses for each in REAL(address, port, **how)]

    monkeypatch.setattr(socket, "getaddrinfo", ask)


def test_it_needs_no_thread_of_the_pool(run: Run, tls: Tls, server: Valkey) -> None:
    """Neither for a name nor for TLS: with the pool full of what user code does, a server is reached as ever."""

    async def main() -> None:
        async with tls_front(server, tls.context("localhost")) as port:
            with busy_pool():
                for url in (f"redis://localhost:{server.port}", f"rediss://localhost:{port}?ca={tls.ca}"):
                    wire = await connect(brokers.parse(url))
                    await wire.send(command(b"PING"))
                    assert b"PONG" == await wire.receive()
                    await wire.end()

    run(main())


def test_addresses_in_turn(run: Run, monkeypatch: pytest.MonkeyPatch, server: Valkey) -> None:
    """One that refuses, and one that says nothing, do not keep it from the next one."""
    answer(monkeypatch, "127.0.0.2", "127.0.0.1")
    url = f"redis://broker.example:{server.port}"

    async def main() -> None:
        wire = await connect(brokers.parse(url))
        await wire.end()
        with ExitStack() as ends:
            silent = ends.enter_context(socket.create_server(("127.0.0.2", server.port), backlog=0))
            # its backlog is full: the next attempt is not answered
            ends.enter_context(socket.socket()).connect(silent.getsockname())
            # half of it for each
            wire = await connect(brokers.parse(url), 4)
            await wire.end()

    run(main())


def test_the_last_address_says_why(run: Run, monkeypatch: pytest.MonkeyPatch, tls: Tls, server: Valkey) -> None:
    """But one at which somebody is, who will not do, is the last."""
    answer(monkeypatch, "127.0.0.1", "127.0.0.2")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        assert "Connection refused" == await why(f"redis://broker.example:{port}")
        async with tls_front(server, tls.context("other.example")) as port:
            url = f"rediss://broker.example:{port}?ca={tls.ca}"
            assert "its certificate is not valid: Hostname mismatch" in await why(url)

    run(main())


def test_files_that_cannot_be_read_in_time(run: Run, tmp_path: Path) -> None:
    """It is said, and however often it dials, only one thread waits for them."""
    file = tmp_path / "ca.pem"
    os.mkfifo(file)

    async def main() -> None:
        url = brokers.parse(f"rediss://127.0.0.1:1?ca={file}")
        dialler = dialler_of(url, 0.05)
        for _ in range(3):
            with pytest.raises(Lost, match="the files of its TLS cannot be read in time"):
                await dialler.dial(url.servers[0], "name")
        assert 1 == waiting()

        def ended() -> bool:
            # who reads it comes to its end, which is no certificate; nobody may be reading right now
            with suppress(OSError):
                os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
            return not waiting()

        await until(ended)

    run(main())


def waiting() -> int:
    """Return how many threads read files."""
    return sum(thread.name == "wsworker-tls" for thread in threading.enumerate())


def test_no_thread_can_be_begun(run: Run, monkeypatch: pytest.MonkeyPatch, tls: Tls) -> None:
    """It is said so, as an attempt that has failed."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert "no thread" in await why(f"rediss://127.0.0.1:1?ca={tls.ca}")

    run(main())


def test_tls(run: Run, tls: Tls) -> None:
    """The server is verified, by the authority that is named and no other, and by its name."""

    async def main() -> None:
        with valkey() as server:
            async with tls_front(server, tls.context("127.0.0.1")) as port:
                wire = await connect(brokers.parse(f"rediss://127.0.0.1:{port}?ca={tls.ca}"))
                await wire.send(command(b"PING"))
                assert b"PONG" == await wire.receive()
                await wire.end()
                here = f"rediss://127.0.0.1:{port}"
                assert "its certificate is not valid: " in await why(f"{here}?ca={tls.other_ca}")
                assert "its certificate is not valid: " in await why(here)
                wrong_name = await why(f"rediss://localhost:{port}?ca={tls.ca}")
                assert "its certificate is not valid: Hostname mismatch" in wrong_name
                assert "/dev/null cannot be used as ca" in await why(f"{here}?ca=/dev/null")
                assert "/none: No such file or directory" == await why(f"{here}?ca=/none")
                assert "/none: No such file or directory" == await why(f"{here}?ca={tls.ca}&cert=/none")
                assert await why(f"redis://127.0.0.1:{port}", 0.5)
            assert await why(f"rediss://127.0.0.1:{server.port}?ca={tls.ca}", 0.5)

    run(main())


def test_old_tls_is_refused(run: Run, tls: Tls) -> None:
    """Nothing below 1.2."""

    async def main() -> None:
        context = tls.context("127.0.0.1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with valkey() as server:
            async with tls_front(server, context) as port:
                assert await why(f"rediss://127.0.0.1:{port}?ca={tls.ca}")

    run(main())


def test_a_client_certificate(run: Run, tls: Tls) -> None:
    """A server that wants one gets it."""

    async def main() -> None:
        context = tls.context("127.0.0.1")
        context.verify_mode = ssl.CERT_REQUIRED
        with valkey() as server:
            async with tls_front(server, context) as port:
                here = f"rediss://127.0.0.1:{port}?ca={tls.ca}"
                wire = await connect(brokers.parse(f"{here}&cert={tls.own}"))
                await wire.end()
                assert await why(here)

    run(main())


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".example", "é" * 64])
def test_what_is_no_host_name(run: Run, name: str) -> None:
    """It is said so: no such name can be asked for."""

    async def main() -> None:
        dialler = dialler_of(brokers.parse("redis://127.0.0.1"), 5)
        with pytest.raises(Lost, match="its name is no host name"):
            await dialler.dial(Server(name, 6379), "name")

    run(main())
