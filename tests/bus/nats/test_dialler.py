"""The dialler: several servers, which die, and of which not all begin alike."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.bus.contract import DEADLINE_SECONDS, ROOM, known, until
from tests.bus.nats.server import NatsServer, Servers
from tests.bus.nats.test_link import Owner, fake, pump
from tests.bus.nats.towns import QUICK, town, up
from tests.ports import free_port
from tests.worker.conftest import Run
from wsworker.brokers import parse
from wsworker.bus.broker.aside import NO_THREAD
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.nats.dialler import Dialler
from wsworker.bus.nats.link import Link

REAL = socket.getaddrinfo
NAME = "broker.example"


def dialler(url: str, seconds: float = 5.0) -> Dialler:
    """One that begins with the first server of the URL."""
    loop = asyncio.get_running_loop()
    parsed = parse(url)
    certificates = Certificates(loop, parsed)
    return Dialler(loop, parsed, "me", lambda: 0.0, seconds, lambda: Link(loop, Owner(), certificates))


def named(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[str]]) -> None:
    """Have the only name that there is mean these IPv4 addresses; and no loop ask by itself."""

    def ask(host: str, port: int, **how: Any) -> list[Any]:
        if how.get("flags"):
            return REAL(host, port, **how)
        assert (NAME, "wsworker-lookup") == (host, threading.current_thread().name)
        return [found for address in answer() for found in REAL(address, port, **how)]

    monkeypatch.setattr(socket, "getaddrinfo", ask)


def test_a_name_of_several_addresses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are tried; if none takes us it is one clause, in people's words."""
    named(monkeypatch, lambda: ["127.0.0.2", "127.0.0.1"])

    async def main() -> None:
        async with fake() as server:
            link = await dialler(f"nats://{NAME}:{server.port}").round()
            assert link is not None
            await link.close(5)
        nobody = dialler(f"nats://{NAME}:{free_port()}")
        assert (None, "Connection refused") == (await nobody.round(), nobody.why)

    run(main())


def test_no_name_server_answers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told from a server that does not."""
    goes_on = threading.Event()

    def hang() -> list[str]:
        goes_on.wait(10)
        return []

    named(monkeypatch, hang)

    async def main() -> None:
        first = dialler(f"nats://{NAME}:4222", 0.05)
        assert (None, "no name server answers") == (await first.round(), first.why)
        async with fake(b"") as mute:
            second = dialler(f"nats://127.0.0.1:{mute.port}", 0.05)
            assert (None, "no answer came in time") == (await second.round(), second.why)

    run(main())
    goes_on.set()


def test_no_thread_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the broker that is blamed, and the next round asks again."""
    named(monkeypatch, lambda: ["127.0.0.1"])

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        async with fake() as server:
            one = dialler(f"nats://{NAME}:{server.port}")
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                assert (None, NO_THREAD) == (await one.round(), one.why)
            link = await one.round()
            assert link is not None
            await link.close(5)

    run(main())


def test_files_of_ours_are_no_fault_of_the_server(run: Run, tmp_path: Path) -> None:
    """The clause names them, time after time, and nobody is asked; so nobody counts as one that begins with TLS."""
    hangs, missing = tmp_path / "hangs.pem", tmp_path / "missing.pem"
    # whoever opens it for reading waits until somebody writes (fifo(7))
    os.mkfifo(hangs)

    async def main() -> None:
        async with fake() as server:
            for file, why, seconds in (
                (missing, f"{missing}: No such file or directory", DEADLINE_SECONDS),
                (hangs, "the files of its TLS cannot be read in time", 0.2),
            ):
                one = dialler(f"tls://127.0.0.1:{server.port}?ca={file}", seconds)
                for _ in range(3):
                    assert (None, why) == (await one.round(), one.why)
            assert [] == server.writers
        # the reading ends with the test: what it opens next is gone
        hangs.rename(tmp_path / "fifo")

        def ended() -> bool:
            # it may not have come to the fifo at all
            with contextlib.suppress(OSError):
                os.close(os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK))
            return "wsworker-tls" not in {each.name for each in threading.enumerate()}

        await until(ended)

    run(main())


def test_a_cluster(run: Run, servers: Servers) -> None:
    """All of its servers carry for each other; when one dies, who was with it goes to the next one of the URL."""
    first, second = two_of_a_cluster(servers)

    async def main() -> None:
        url = f"nats://{first.address},{second.address}"
        # the first one is tried first
        async with town(url, "a") as one, town(second.url, "b") as two:
            one.subscribe(ROOM)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            await known(two, one, key=ROOM)
            first.kill()
            await until(lambda: one.sink.gaps)
            assert [True, False, True] == [up for up, _ in one.sink.states]
            await known(one, two, key=ROOM)
            await known(two, one, key=ROOM)
            assert [True] == [up for up, _ in two.sink.states]

    run(main())


def two_of_a_cluster(servers: Servers) -> tuple[NatsServer, NatsServer]:
    """Start two servers that know each other."""
    ports = [free_port(), free_port()]
    made = []
    for number, port in enumerate(ports):
        cluster = {"name": "c", "listen": f"127.0.0.1:{port}", "routes": [f"nats-route://127.0.0.1:{ports[0]}"]}
        made.append(servers(server_name=f"s{number}", cluster=cluster))
    return made[0], made[1]


def test_servers_that_are_not_alike(run: Run, servers: Servers, tmp_path: Path) -> None:
    """Whether one begins with TLS says nothing of another; nor is one that speaks late once shunned for ever."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    made.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    server = servers(tls={"cert_file": tmp_path / "server.pem", "key_file": tmp_path / "server.pem"})
    dialled = 0

    async def main() -> None:
        async def speak_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal dialled
            dialled += 1
            # uvloop's word for a transport that is closed is a RuntimeError
            with contextlib.suppress(OSError, RuntimeError):
                if dialled == 1:
                    await reader.read()
                    writer.close()
                    return
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
                with contextlib.suppress(TimeoutError):
                    # whoever begins with TLS is heard before INFO is said
                    far_writer.write(await asyncio.wait_for(reader.read(65536), 0.2))
                await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

        between = await asyncio.start_server(speak_late, "127.0.0.1", 0)
        late = f"127.0.0.1:{between.sockets[0].getsockname()[1]}"
        url = f"tls://127.0.0.1:{free_port()},{late}?ca={tmp_path}/ca.pem"
        async with town(url, "a", patience=QUICK._replace(connect=0.6)) as one:
            await up(one)
            assert dialled > 1
        between.close()
        await between.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(main())
