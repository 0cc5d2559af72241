"""One connection to a NATS server: how it begins, with TLS and without, what it bears, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trustme

from tests.bus.broker.test_ending import forgets
from tests.bus.contract import until
from tests.bus.nats.server import NatsServer, Servers
from tests.ports import free_port
from tests.worker.conftest import Run
from wsworker.brokers import BrokerUrl, parse
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.reasons import reason
from wsworker.bus.nats.link import EVENTS_PER_TURN, Link
from wsworker.bus.nats.wire import PONG

INFO = b'INFO {"max_payload": 1000}\r\n'
SECONDS = 5.0
HERE = "127.0.0.1"
TLS_HANDSHAKE = b"\x16"
"""The first byte of a client that begins with TLS (RFC 8446 section 5.1)."""


class Owner:
    """Writes down what a link tells."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.refusals: list[str] = []

    def received(self, sid: int, data: bytes) -> None:
        if data == b"mistake":
            raise RuntimeError("a mistake")
        self.messages.append(data)

    def refused(self, text: str) -> None:
        self.refusals.append(text)


class Fake:
    """A server that says what it is told to say. heard: what was said to it; answers: to how many PINGs, still."""

    def __init__(self) -> None:
        self.port = 0
        self.answers = 0
        self.heard = b""
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: list[asyncio.Task[None] | None] = []

    def say(self, data: bytes) -> None:
        self.writers[-1].write(data)

    def hang_up(self) -> None:
        self.writers[-1].close()


@asynccontextmanager
async def fake(greeting: bytes = INFO, answer: bytes = PONG) -> AsyncIterator[Fake]:
    """A server that says this at first, and that to the first PING."""
    made = Fake()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.writers.append(writer)
        made.answers = 1
        writer.write(greeting)
        made.tasks.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                made.heard += data
                if data.startswith(TLS_HANDSHAKE):
                    # what it says is no TLS
                    writer.write(b"hello hello hello\r\n")
                if data.endswith(b"PING\r\n") and made.answers:
                    writer.write(answer)
                    made.answers -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.close()
        await asyncio.gather(*filter(None, made.tasks))
        await server.wait_closed()


def made(url: BrokerUrl, owner: Owner) -> Link:
    """Return a link that is not opened."""
    loop = asyncio.get_running_loop()
    return Link(loop, owner, Certificates(loop, url))


@asynccontextmanager
async def opened(
    url: str, seconds: float = SECONDS, tls_first: bool = False, addresses: Sequence[str] = ()
) -> AsyncIterator[tuple[Link, Owner]]:
    """A link, which is ended afterwards. addresses: () if the URL has one."""
    owner = Owner()
    parsed = parse(url)
    link = made(parsed, owner)
    try:
        server = parsed.servers[0]
        await link.open(server, addresses or [server.host], parsed, {"name": "me"}, seconds, tls_first)
        yield link, owner
    finally:
        await link.close(SECONDS)


async def why_not(url: str, seconds: float = SECONDS, tls_first: bool = False, addresses: Sequence[str] = ()) -> str:
    """Return why there is no link."""
    try:
        async with opened(url, seconds, tls_first, addresses):
            return ""
    except OSError as error:
        return reason(error)


def test_what_is_said_at_first(run: Run) -> None:
    """Who we are, and the login of the URL, only when the server has said what it is."""

    async def main() -> None:
        async with fake() as server:
            for login, said in (("", b"auth"), ("a:b@", b'"user": "a", "pass": "b"'), ("tok@", b'"auth_token": "tok"')):
                server.heard = b""
                async with opened(f"nats://{login}127.0.0.1:{server.port}") as (link, _):
                    assert link._transport is not None
                    assert forgets(link._transport)
                    assert (1000, False) == (link.info.max_payload, link.mute)
                assert (bool(login), True) == (said in server.heard, b'"name": "me"' in server.heard)

    run(main())


@pytest.mark.parametrize(
    ("greeting", "answer", "why", "seconds"),
    [
        (INFO, b"-ERR 'Authorization Violation'\r\n", "no answer came in time", 0.4),
        (b"", b"", "no answer came in time", 0.4),
        (INFO, b"", "no answer came in time", 0.4),
        (b"HTTP/1.1 400 Bad\r\n\r\n", b"", "it does not speak NATS as it should: it says 'HTTP/1.1'", SECONDS),
        (
            b"PING\r\n" * 3 + b"INFO {}\r\n",
            b"",
            "it does not speak NATS as it should: an INFO without max_payload",
            SECONDS,
        ),
        (b'INFO {"max_payload": 1, "tls_required": true}\r\n', b"", "TLS fails: wrong version number", SECONDS),
    ],
    ids=range(6),
)
def test_servers_that_are_none(run: Run, greeting: bytes, answer: bytes, why: str, seconds: float) -> None:
    """Each is a clause, and takes no longer than it may; what is judged has time enough for that."""

    async def main() -> None:
        async with fake(greeting, answer) as server:
            assert why == await why_not(f"nats://127.0.0.1:{server.port}", seconds)

    run(main())


def test_who_does_not_answer(run: Run) -> None:
    """Nobody listens there, at none of its addresses."""

    async def main() -> None:
        assert "Connection refused" == await why_not(f"nats://127.0.0.1:{free_port()}")
        assert "Connection refused" == await why_not(f"nats://two.invalid:{free_port()}", addresses=["127.0.0.2", HERE])

    run(main())


def test_several_addresses(run: Run) -> None:
    """They are dialled in turn, and the name is not looked up again; one that says nothing leaves time for the others.

    That one has a full queue, in which the kernel drops whoever knocks (tcp(7)).
    """

    async def main() -> None:
        async with fake() as server:
            url = f"nats://broker.invalid:{server.port}"
            async with opened(url, addresses=["127.0.0.2", HERE]) as (link, _):
                assert link.info.max_payload == 1000
            with socket.socket() as full, socket.socket() as first, socket.socket() as second:
                full.bind(("127.0.0.3", server.port))
                full.listen(0)
                for knocking in (first, second):
                    knocking.setblocking(False)
                    knocking.connect_ex(full.getsockname())
                # half of it for each
                async with opened(url, 4.0, addresses=["127.0.0.3", HERE]) as (link, _):
                    assert link.info.max_payload == 1000
                assert "no answer came in time" == await why_not(url, 0.2, addresses=["127.0.0.3"])

    run(main())


def test_the_end(run: Run) -> None:
    """Its reason is what the server has said last, if it was one to end for."""

    async def main() -> None:
        for said, why in (
            (b"", "the server has closed the connection"),
            (b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n", "the server has closed the connection"),
            (b"-ERR 'Stale Connection'\r\n", "the server answers 'Stale Connection'"),
            (b"XYZ\r\n", "it does not speak NATS as it should: it says 'XYZ'"),
        ):
            async with fake() as server, opened(f"nats://127.0.0.1:{server.port}") as (link, owner):
                server.say(said)
                server.hang_up()
                await link.over
                with pytest.raises(ConnectionError) as caught:
                    await link.round_trip(SECONDS)
                assert (why, why) == (str(caught.value), link.over.result())
                assert int(b"Permissions" in said) == len(owner.refusals)
                link.write(b"nobody hears that")

    run(main())


def test_silence(run: Run) -> None:
    """Who does not answer a PING in time is told from who has hung up."""

    async def main() -> None:
        async with fake() as server, opened(f"nats://127.0.0.1:{server.port}") as (link, _):
            with pytest.raises(TimeoutError):
                await link.round_trip(0.05)
            server.say(PONG + PONG + PONG)
            server.say(b"PING\r\n")
            await until(lambda: server.heard.endswith(b"PONG\r\n"))
            assert not link.over.done()

    run(main())


def test_a_worker_that_stood_still(run: Run, tmp_path: Path) -> None:
    """It does not blame a server whose answer has come meanwhile."""
    server = NatsServer(tmp_path)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()

        def stand_still() -> None:
            loop.remove_reader(here)
            server.go_on()
            # time for the server too, which is a process of its own
            time.sleep(2)

        async with opened(server.url) as (link, _):
            server.pause()
            asked = asyncio.create_task(link.round_trip(1))
            # as a callback of its kind, behind which the timers come first
            loop.add_reader(here, stand_still)
            await until(lambda: link.waits_seconds)
            await asyncio.sleep(0.05)
            there.send(b"x")
            assert await asked > 1
            assert 0.0 == link.waits_seconds
        here.close()
        there.close()

    try:
        server.start()
        run(main())
    finally:
        server.kill()


def test_what_was_refused_without_an_end(run: Run) -> None:
    """It is not the reason of a later end; of that before the next answer it may be."""

    async def main() -> None:
        async with fake() as server, opened(f"nats://127.0.0.1:{server.port}") as (link, _):
            server.say(b"-ERR 'Invalid Subject'\r\n")
            server.answers = 1
            await link.round_trip(SECONDS)
            server.hang_up()
            assert "the server has closed the connection" == await link.over

    run(main())


def test_who_is_mute(run: Run) -> None:
    """Who was there and has not said who it is; not one that was not reached."""

    async def main() -> None:
        async with fake(b"") as server:
            for port, mute in ((free_port(), False), (server.port, True)):
                url = parse(f"nats://127.0.0.1:{port}")
                link = made(url, Owner())
                with pytest.raises((ConnectionRefusedError, TimeoutError)):
                    await link.open(url.servers[0], [HERE], url, {}, 0.2, False)
                link.abort()
                assert mute == link.mute

    run(main())


def test_turns(run: Run) -> None:
    """Very much that comes at once is handled in its order, and others have their turns between."""

    async def main() -> None:
        async with fake() as server, opened(f"nats://127.0.0.1:{server.port}") as (link, owner):
            count = 20 * EVENTS_PER_TURN
            server.say(b"".join(b"MSG a 1 %d\r\n%d\r\n" % (len(str(n)), n) for n in range(count)))
            transport = link._transport
            assert transport is not None
            seen, paused = [], []
            while len(owner.messages) < count:
                seen.append(len(owner.messages))
                if link._waiting:
                    paused.append(not transport.is_reading())
                await asyncio.sleep(0)
            # else what comes faster than it is handled would be kept here without a bound
            assert {True} == set(paused)
            assert transport.is_reading()
            assert [b"%d" % number for number in range(count)] == owner.messages
            assert max(after - before for before, after in pairwise(seen)) <= 2 * EVENTS_PER_TURN

    run(main())


def test_a_mistake_of_ours(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and ends the link: it would be deaf otherwise."""

    async def main() -> None:
        async with fake() as server, opened(f"nats://127.0.0.1:{server.port}") as (link, _):
            server.say(b"MSG a 1 7\r\nmistake\r\n")
            await link.over
            assert "what came could not be handled" == link.over.result()

    run(main())
    assert "RuntimeError: a mistake" in caplog.text


def descriptors() -> set[int]:
    """Return the numbers of the sockets that are open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
    return found


def test_it_is_let_go(run: Run) -> None:
    """Its descriptor is closed, and nothing is said to the server."""

    async def main() -> None:
        async with fake() as server:
            url = parse(f"nats://127.0.0.1:{server.port}")
            link = made(url, Owner())
            link.let_go()
            await link.open(url.servers[0], [HERE], url, {}, SECONDS, False)
            server.answers = 1
            # as after a fork: a copy of each descriptor is somewhere else
            copies = {number: os.dup(number) for number in descriptors()}
            link.let_go()
            (closed,) = copies.keys() - descriptors()
            os.dup2(copies[closed], closed)
            for copy in copies.values():
                os.close(copy)
            assert await link.round_trip(SECONDS) < SECONDS
            await link.close(SECONDS)
            link.let_go()

    run(main())


# ---- TLS, with a real server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate authority, certificates of a server and a client, and a foreign authority."""
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    made.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    for name, issued in (("server", made.issue_cert("127.0.0.1")), ("client", made.issue_cert("ann@example.com"))):
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return folder


@pytest.fixture
def start(authority: Path, servers: Servers) -> Servers:
    """Return what starts a server with TLS; settings: of its section tls."""
    files = {"cert_file": authority / "server.pem", "key_file": authority / "server.key"}
    return lambda **settings: servers(tls={**files, **settings})


def test_tls(run: Run, start: Servers, authority: Path) -> None:
    """Verified, whether the URL asks for it or only the server; never with a certificate of somebody else."""
    server = start()

    async def main() -> None:
        ca = f"?ca={authority}/ca.pem"
        async with opened(f"tls://{server.address}{ca}") as (link, _):
            assert await link.round_trip(SECONDS) < SECONDS
        untrusted = "its certificate is not valid: unable to get local issuer certificate"
        assert untrusted == await why_not(f"tls://{server.address}?ca={authority}/other.pem")
        assert untrusted == await why_not(f"nats://{server.address}")
        assert await why_not(f"tls://localhost:{server.port}{ca}") in {
            "its certificate is not valid: Hostname mismatch, certificate is not valid for 'localhost'.",
            "Connection refused",
        }
        assert "/nowhere/ca.pem: No such file or directory" == await why_not(
            f"tls://{server.address}?ca=/nowhere/ca.pem"
        )

    run(main())


def test_tls_with_a_full_pool(run: Run, start: Servers, authority: Path) -> None:
    """Threads of user code that hang do not keep a worker from its broker; the certificate is of the URL's name."""
    server = start()

    async def main() -> None:
        goes_on = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        stuck = loop.run_in_executor(None, goes_on.wait)
        try:
            ca = f"?ca={authority}/ca.pem"
            assert "" == await why_not(f"tls://{server.address}{ca}")
            assert (
                "its certificate is not valid: Hostname mismatch, certificate is not valid for 'broker.invalid'."
                == await why_not(f"tls://broker.invalid:{server.port}{ca}", addresses=[HERE])
            )
        finally:
            goes_on.set()
            await stuck

    run(main())


def test_a_certificate_of_ours(run: Run, start: Servers, authority: Path) -> None:
    """The server may want one."""
    server = start(ca_file=authority / "ca.pem", verify=True)

    async def main() -> None:
        ca, mine = f"?ca={authority}/ca.pem", f"&cert={authority}/client.pem&key={authority}/client.key"
        assert "" == await why_not(f"tls://{server.address}{ca}{mine}")
        assert "" != await why_not(f"tls://{server.address}{ca}")

    run(main())


def test_tls_before_anything_is_said(run: Run, start: Servers, authority: Path) -> None:
    """A server may want it so; another attempt is right then."""
    server = start(handshake_first=True)

    async def main() -> None:
        url = f"tls://{server.address}?ca={authority}/ca.pem"
        assert "no answer came in time" == await why_not(url, 1)
        assert "" == await why_not(url, tls_first=True)

    run(main())


def test_nobody_can_talk_us_out_of_tls(run: Run) -> None:
    """A server without it, or somebody between, is told nothing; what is said before TLS is forgotten with it."""

    async def main() -> None:
        async with fake() as server:
            why = await why_not(f"tls://ann:secret@127.0.0.1:{server.port}")
            assert "the server offers no TLS, which tls:// asks for" == why
            assert b"" == server.heard

    run(main())


def test_what_was_said_before_tls(run: Run, start: Servers, authority: Path) -> None:
    """Somebody between us and the server may have said it; there is nothing to be said before we are known."""
    server = start()

    async def main() -> None:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(await far_reader.readline() + forged)
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

        between = await asyncio.start_server(relay, "127.0.0.1", 0)
        url = f"tls://127.0.0.1:{between.sockets[0].getsockname()[1]}?ca={authority}/ca.pem"
        forged = b"PONG\r\nMSG a"
        async with opened(url) as (link, owner):
            await link.round_trip(SECONDS)
            assert [] == owner.messages
        forged = b"MSG a 1 6\r\nforged\r\n"
        assert "it does not speak NATS as it should: a message before the login" == await why_not(url)
        between.close()
        await between.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(main())


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Hand on what comes, and its end."""
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
    target.close()
