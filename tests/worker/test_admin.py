"""The admin endpoints on real sockets: whole answers, and limits for whoever is slow, silent or one of too many."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import json
import logging
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.worker.conftest import Run
from tests.worker.service import until
from tests.worker.test_metrics import notice, row, table
from wsworker.assignment import Desk
from wsworker.board import Board
from wsworker.config import Config
from wsworker.worker import admin as admin_module
from wsworker.worker.admin import Admin


class Office:
    """The admin endpoints of one worker at a listener, on the running loop."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.board = Board()
        self.table = table()
        self.post(notice(row(1, 1), row(2, 2)))
        self.address = self.listener.getsockname()
        self.admin = Admin(asyncio.get_running_loop(), Desk(self.listener, self.board, self.table), Config(app="app"))

    def post(self, facts: Mapping[str, Any]) -> None:
        """Put something on the board."""
        self.board.post(json.dumps(facts).encode(), time.monotonic_ns())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the streams of a client."""
        return await asyncio.open_connection(*self.address)

    async def say(self, data: bytes) -> bytes:
        """Send bytes and return all that comes until the end."""
        reader, writer = await self.connect()
        writer.write(data)
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        return answer

    async def get(self, path: str, *lines: str, method: str = "GET") -> tuple[int, str, bytes]:
        """Return status, head and body."""
        request = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: any.example", *lines, "", ""])
        head, _, body = (await self.say(request.encode())).partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode(), body


@asynccontextmanager
async def office(listener: socket.socket | None = None) -> AsyncIterator[Office]:
    """Open one, and close it at the end."""
    made = Office(listener)
    made.admin.start()
    try:
        yield made
    finally:
        await made.admin.close()


def test_every_path_is_answered(run: Run) -> None:
    """With a whole response, behind which the connection ends."""

    async def main() -> None:
        async with office() as it:
            for path, status in (("/healthz", 200), ("/readyz", 200), ("/status.json", 200), ("/x", 404)):
                found, head, body = await it.get(path)
                assert status == found
                assert f"Content-Length: {len(body)}" in head
            it.post(notice(row(1, None, "parked")) | {"status": notice()["status"] | {"state": "stopping"}})
            assert (503, b"not ready: the service is stopping\n") == (await it.get("/readyz"))[::2]

    run(main())


def test_metrics_in_the_form_that_is_wanted(run: Run) -> None:
    """Plain text, OpenMetrics, gzip; and nothing of it for HEAD."""

    async def main() -> None:
        async with office() as it:
            status, head, body = await it.get("/metrics")
            assert (200, True) == (status, "Content-Type: text/plain" in head)
            assert len(list(parse(body.decode()))) > 30
            _, head, packed = await it.get("/metrics", "Accept-Encoding: gzip", "Accept: application/openmetrics-text")
            assert "Content-Type: application/openmetrics-text" in head
            assert "Content-Encoding: gzip" in head
            assert gzip.decompress(packed).endswith(b"# EOF\n")
            status, head, _ = await it.get("/metrics", "Accept: application/openmetrics-text; version=1.0.0\xe9")
            assert (200, True) == (status, "Content-Type: text/plain" in head)
            status, head, nothing = await it.get("/metrics", method="HEAD")
            assert (200, b"") == (status, nothing)
            assert "Vary: Accept, Accept-Encoding" in head

    run(main())


def test_the_age_of_the_notice_is_shown(run: Run) -> None:
    """So a master that says nothing is seen; the workers go on answering."""

    async def main() -> None:
        async with office() as it:
            it.board.post(json.dumps(notice()).encode(), time.monotonic_ns() - 60 * 10**9)
            _, _, body = await it.get("/metrics")
            (sample,) = [m.samples[0] for m in parse(body.decode()) if m.name == "wsworker_status_age_seconds"]
            assert sample.value >= 60

    run(main())


def test_before_the_first_notice(run: Run) -> None:
    """Health is answered, the rest is told to come again."""

    async def main() -> None:
        async with office() as it:
            it.admin._desk = Desk(it.listener, Board(), it.table)
            assert [200, 503, 503, 503] == [
                (await it.get(path))[0] for path in ("/healthz", "/readyz", "/status.json", "/metrics")
            ]

    run(main())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
    ],
)
def test_bad_requests_get_one_answer(run: Run, request_bytes: bytes, status: int) -> None:
    """And the end: nothing behind the first request is read as another one."""

    async def main() -> None:
        async with office() as it:
            answer = await it.say(request_bytes)
            assert status == int(answer.split()[1])
            assert 1 == answer.count(b"HTTP/1.1 ")

    run(main())


def test_a_request_may_come_in_pieces(run: Run) -> None:
    """Also with a half-close behind it, as from a shell script."""

    async def main() -> None:
        async with office() as it:
            reader, writer = await it.connect()
            for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            writer.write_eof()
            assert (await reader.read()).endswith(b"ok\n")
            writer.close()

    run(main())


def test_metrics_for_who_has_half_closed(run: Run) -> None:
    """They take some turns of the loop, and still arrive."""

    async def main() -> None:
        async with office() as it:
            reader, writer = await it.connect()
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            writer.write_eof()
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()

    run(main())


def test_who_leaves_early_costs_nothing(run: Run) -> None:
    """Before the request, in the middle of it, and before its answer."""

    async def main() -> None:
        async with office() as it:
            for data in (b"", b"GET /heal", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
                _, writer = await it.connect()
                writer.write(data)
                await writer.drain()
                writer.transport.abort()
            await until(lambda: not it.admin._visits and not it.admin._tasks)
            assert 200 == (await it.get("/healthz"))[0]

    run(main())


def test_the_slow_are_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends no request in time, and who does not take the answer; no byte makes it longer."""
    monkeypatch.setattr(admin_module, "REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(admin_module, "ANSWER_SECONDS", 0.2)

    async def main() -> None:
        async with office() as it:
            reader, writer = await it.connect()
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof() and reader.exception() is None:
                    writer.write(b"G")
                    await asyncio.sleep(0.01)
            writer.close()
            with socket.create_connection(it.address) as client:
                client.setblocking(False)
                client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                # it takes no more of it, and stays
                assert b"HTTP/1.1 200" == await asyncio.get_running_loop().sock_recv(client, 12)
                await until(lambda: not it.admin._visits)

    run(main())


def test_the_silent_give_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of them first, so whoever asks at once is answered, in the middle of a flood too."""
    monkeypatch.setattr(admin_module, "REQUEST_SECONDS", 1000)

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=400)
        with contextlib.ExitStack() as silent:
            for number in range(300):
                silent.enter_context(socket.create_connection(listener.getsockname()))
                if number == 150:
                    asking = silent.enter_context(socket.create_connection(listener.getsockname()))
                    asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            async with office(listener) as it:
                assert 200 == (await it.get("/healthz"))[0]
                assert len(it.admin._visits) <= admin_module.MOST_VISITS
                asking.setblocking(False)
                assert (await asyncio.get_running_loop().sock_recv(asking, 999)).startswith(b"HTTP/1.1 200")

    run(main())


def test_who_stays_behind_its_answer_gives_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were silent."""
    monkeypatch.setattr(admin_module, "ANSWER_SECONDS", 1000)

    async def main() -> None:
        async with office() as it:
            stay = []
            for _ in range(2 * admin_module.MOST_VISITS):
                reader, writer = await it.connect()
                stay.append(writer)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
            for writer in stay:
                writer.close()

    run(main())


def stages(admin: Admin) -> list[str]:
    """Return how far each visit is."""
    return [visit.stage for visit in admin._visits]


def test_nobody_who_is_being_answered_gives_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes meanwhile waits in the queue of the kernel until the first is done."""
    monkeypatch.setattr(admin_module, "MOST_VISITS", 2)
    monkeypatch.setattr(admin_module, "PAUSE_SECONDS", 1000)

    async def main() -> None:
        async with office() as it:
            answer, gate = it.admin.answer, asyncio.Event()

            async def later(request: Any) -> Any:
                await gate.wait()
                return await answer(request)

            monkeypatch.setattr(it.admin, "answer", later)
            tasks = []
            for _ in range(2):
                tasks.append(asyncio.create_task(it.get("/healthz")))
                await until(lambda: stages(it.admin) == ["waiting"] * len(tasks))
            tasks += [asyncio.create_task(it.get("/healthz")) for _ in range(2)]
            await until(lambda: it.admin._pause)
            assert [False] * 4 == [task.done() for task in tasks]
            gate.set()
            assert [200] * 4 == [(await task)[0] for task in tasks]

    run(main())


class Flaky(socket.socket):
    """A listener where accept(2) fails for the reasons given, one after the other."""

    errors: tuple[int, ...] = ()

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            first, *rest = self.errors
            self.errors = tuple(rest)
            raise OSError(first, os.strerror(first))
        return super().accept()


def flaky(*errors: int) -> Flaky:
    """Return one on loopback."""
    listener = Flaky()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.errors = errors
    return listener


def test_an_error_of_a_client_is_no_pause(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is not touched by it, and nothing is said."""
    monkeypatch.setattr(admin_module, "PAUSE_SECONDS", 1000)

    async def main() -> None:
        async with office(flaky(errno.ECONNABORTED, errno.EPROTO)) as it:
            assert 200 == (await it.get("/healthz"))[0]

    run(main())
    assert [] == caplog.messages


def test_other_errors_are_told_once_a_minute(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the next try comes after a pause."""
    monkeypatch.setattr(admin_module, "PAUSE_SECONDS", 0.01)

    async def main() -> None:
        async with office(flaky(*[errno.ENOMEM] * 3)) as it:
            assert 200 == (await it.get("/healthz"))[0]

    with caplog.at_level(logging.INFO):
        run(main())
    assert ["cannot accept an admin request (Cannot allocate memory); the next try is in a second"] == caplog.messages


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Use up all descriptors; those that are closed meanwhile are free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_one_descriptor_is_in_reserve(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So a worker without any other is seen, by one client after the other; who has it and is silent gives way."""
    monkeypatch.setattr(admin_module, "REQUEST_SECONDS", 1000)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def ask(client: socket.socket) -> None:
            await loop.sock_sendall(client, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await loop.sock_recv(client, 999)).startswith(b"HTTP/1.1 200")

        with contextlib.ExitStack() as open_sockets:
            clients = [open_sockets.enter_context(socket.socket()) for _ in range(5)]
            for client in clients:
                client.setblocking(False)
            async with office() as it:
                with no_descriptors():
                    first, second, silent, third, fourth = clients
                    for client in (first, second):
                        await loop.sock_connect(client, it.address)
                        await ask(client)
                        client.shutdown(socket.SHUT_RDWR)
                        await until(lambda: not it.admin._visits)
                    assert [] == caplog.messages
                    await loop.sock_connect(silent, it.address)
                    await until(lambda: it.admin._visits)
                    for client in (third, fourth):
                        await loop.sock_connect(client, it.address)
                        await ask(client)
            assert 1 == len([text for text in caplog.messages if "cannot accept an admin request" in text])

    run(main())


def test_a_bug_is_told_and_survived(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a 500, the log the traceback; but once, however often it is asked."""

    async def main() -> None:
        async with office() as it:
            it.board.post(b"{}", 0)
            for _ in range(3):
                status, _, body = await it.get("/metrics")
                assert (500, b"A bug in wsworker; its log says more.\n") == (status, body)
            assert 200 == (await it.get("/healthz"))[0]

    with caplog.at_level(logging.ERROR):
        run(main())
    assert ["a bug in wsworker: /metrics cannot be answered"] == caplog.messages
    assert "KeyError" in caplog.text


def test_the_end_waits_for_answers_and_for_nobody_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is under way is finished; the silent are cut soon."""
    monkeypatch.setattr(admin_module, "LAST_SECONDS", 2.0)

    async def main() -> None:
        it = Office()
        it.admin.start()
        reader, writer = await it.connect()
        silent, other = await it.connect()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(it.admin._visits) == 2)
        closing = asyncio.create_task(it.admin.close())
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        with contextlib.suppress(ConnectionError):
            assert b"" == await silent.read()
        other.close()
        await closing
        with pytest.raises(ConnectionRefusedError):
            await it.connect()

    run(main())


def test_the_end_waits_for_who_was_just_accepted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no transport yet, and gets its answer."""
    monkeypatch.setattr(admin_module, "LAST_SECONDS", 2.0)

    async def main() -> None:
        it = Office()
        with socket.create_connection(it.address) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            it.admin._accept()
            closing = asyncio.create_task(it.admin.close())
            client.setblocking(False)
            assert (await asyncio.get_running_loop().sock_recv(client, 999)).startswith(b"HTTP/1.1 200")
        await closing

    run(main())


def test_one_of_two_answers(run: Run) -> None:
    """Both accept from one listener; the one that is slower finds nobody there and goes on."""

    async def main() -> None:
        async with office() as it:
            other = Admin(asyncio.get_running_loop(), Desk(it.listener.dup(), it.board, it.table), Config(app="app"))
            other.start()
            assert [200] * 10 == [(await it.get("/healthz"))[0] for _ in range(10)]
            await other.close()

    run(main())


def test_a_copy_lets_go_of_the_listener(run: Run) -> None:
    """Only the descriptor is closed; the loop, which it shares with the worker, is left alone."""

    async def main() -> None:
        it = Office()
        number = it.listener.fileno()
        it.admin.let_go()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        it.admin.let_go()

    run(main())
