"""Riders: clients that stay where they sit while the worker beneath them is exchanged, and count all that they hear.

Each asks and is answered, in order and once; hears topics, broadcasts and what its user is told, of publishers that
number what they say; and knows how its connection has ended, if it did. What is lost, doubled or out of order stands in
`wrong`, in words.

APP is what they talk to. It keeps a count for each connection in connection.data, so an answer also says whether that
has come along; and each worker of it publishes numbers by a timer, the last one of them marked, once there is a file
`quiet`. All riders live in one asyncio loop. They speak to the socket themselves: a library would hide half of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from subprocess import Popen
from typing import Any, Final, NamedTuple, cast

from tests.frames import CLOSE, FIN, PONG, RSV1, TEXT, deflated
from tests.frames import frame as build
from tests.system.clients import UPGRADE
from tests.system.daemon import PATIENCE_SECONDS, Daemon, finish

DEFLATE: Final = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
LOOK_SECONDS: Final = 0.01
SMALL_BUFFER_BYTES: Final = 16 * 1024
ABOARD_AT_ONCE: Final = 50

_APP: Final = """
import asyncio
import itertools
import os

VERSION = 0

def on_worker_start(worker):
    numbers = {key: itertools.count() for key in ("news", "all", "ann")}

    def say(key, publish, last):
        publish(f"T {key} timer/{worker.id} {next(numbers[key])}{' end' if last else ''}")

    ticks = itertools.count()

    def tick():
        last = os.path.exists("quiet")
        say("news", lambda text: worker.publish("news", text), last)
        say("ann", lambda text: worker.send_to("ann", text), last)
        if last or next(ticks) % 10 == 0:
            say("all", worker.broadcast, last)
        if last:
            timer.cancel()

    timer = worker.every(0.1, tick)

async def wait_for(file):
    while not os.path.exists(file):
        await asyncio.sleep(0.01)

def obey(connection, data):
    word, _, rest = data.partition(" ")
    worker = connection.worker
    match word:
        case "ask":
            connection.data["count"] = count = connection.data.get("count", 0) + 1
            connection.send(f"A {VERSION} {worker.id} {count} {rest}")
        case "join":
            connection.subscribe(rest)
        case "leave":
            connection.unsubscribe(rest)
        case "be":
            connection.user = rest
        case "say":
            topic, text = rest.split(" ", 1)
            worker.publish(topic, f"T {topic} {text}")
        case "tell":
            user, text = rest.split(" ", 1)
            worker.send_to(user, f"T {user} {text}")
        case "shout":
            worker.broadcast(f"T all {rest}")
        case "pour":
            count, size = map(int, rest.split())
            for number in range(count):
                assert connection.send(f"P {number} " + "x" * size)
        case "size":
            connection.send(f"S {len(data)}")
        case "keep":
            connection.data["kept"] = rest
"""
SYNC: Final = "\ndef on_message(connection, data):\n    obey(connection, data)\n"
ASYNC: Final = """
async def on_message(connection, data):
    if data.startswith("wait "):
        await wait_for(data.removeprefix("wait "))
    else:
        obey(connection, data)
"""
"""Has a callback that lasts as long as a file is not there."""


def app(version: int, more: str = "", messages: str = SYNC) -> str:
    """Return the app of a version. more: callbacks of a test; messages: on_message."""
    return _APP.replace("VERSION = 0", f"VERSION = {version}") + messages + more


class Answer(NamedTuple):
    """What a rider was answered: by which code, by which worker, and how many answers it has had with it."""

    version: int
    worker: int
    number: int


class Rider(asyncio.Protocol):
    """One client. name: of its own; deflates: its messages are compressed; slow: its kernel takes little for it.

    ended: how its connection has ended, by the code of the server's Close or in words, "" as long as it is open.
    wrong: all that must not be. heard: the number that follows, for each key and source. longest: the longest time
    that it was not answered, in seconds.
    """

    def __init__(self, name: str, deflates: bool = False, slow: bool = False) -> None:
        self.name = name
        self.ended = ""
        self.wrong: list[str] = []
        self.heard: dict[tuple[str, str], int] = {}
        self.began: dict[tuple[str, str], int] = {}
        self.last_words: set[tuple[str, str]] = set()
        self.poured = 0
        self.sizes: list[int] = []
        self.pongs = 0
        self.answers = 0
        self.answer = Answer(0, 0, 0)
        self.longest = 0.0
        self.said: Counter[tuple[str, str]] = Counter()
        self._deflates, self._slow = deflates, slow
        self._waiting: deque[tuple[str, float, asyncio.Future[Answer] | None]] = deque()
        self._numbers = itertools.count()
        self._pause_seconds: float | None = None
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unread = bytearray()

    def __repr__(self) -> str:
        return f"<{self.name}{' ' if self.ended else ''}{self.ended}>"

    # What a test has it do

    async def board(self, port: int) -> None:
        """Connect, and return when it is open."""
        sock = socket.socket()
        if self._slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.create_connection(lambda: self, sock=sock)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._opened

    def send(self, text: str) -> None:
        """Send a message."""
        payload = text.encode()
        self.write(build(FIN | RSV1 | TEXT, deflated(payload)) if self._deflates else build(FIN | TEXT, payload))

    def write(self, data: bytes) -> None:
        """Send bytes, which need be no message."""
        assert self._transport is not None
        self._transport.write(data)

    async def ask(self) -> Answer:
        """Ask something, and return the answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._ask(future)
        # wait_for may swallow that its task is cancelled
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await future

    def ask_on(self, pause_seconds: float) -> None:
        """Ask one thing after the other, with a pause behind each answer."""
        self._pause_seconds = pause_seconds
        self._ask(None)

    def ask_no_more(self) -> None:
        """Let what was asked be answered, and ask nothing more."""
        self._pause_seconds = None

    def say(self, word: str, key: str) -> None:
        """Publish the next number: "say" to a topic, "tell" to a user, "shout" to all."""
        at = (key, f"client/{self.name}")
        number = self.said[at]
        self.said[at] += 1
        self.send(f"{word} {'' if word == 'shout' else key + ' '}client/{self.name} {number}")

    def stop_reading(self) -> None:
        """Read nothing until read_on."""
        assert self._transport is not None
        self._transport.pause_reading()

    def read_on(self) -> None:
        """Read again."""
        assert self._transport is not None
        self._transport.resume_reading()

    def leave(self) -> None:
        """Drop the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def say_goodbye(self) -> None:
        """Send a Close; the server's answer ends the connection."""
        self.write(build(FIN | CLOSE, (1000).to_bytes(2, "big")))

    def ask_once(self) -> None:
        """Ask something, and do not wait for the answer."""
        self._ask(None)

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def waits(self) -> bool:
        """Whether something that was asked is not answered yet."""
        return bool(self._waiting)

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(UPGRADE.removesuffix(b"\r\n") + (DEFLATE if self._deflates else b"") + b"\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"lost {error!r}" if error else "lost")

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._opened.done():
            head, found, behind = bytes(self._unread).partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101 ") or (b"permessage-deflate" in head) != self._deflates:
                self._opened.set_exception(AssertionError(f"{self} was answered {head!r}"))
                return
            self._opened.set_result(None)
            self._unread = bytearray(behind)
        for first, payload in _take_frames(self._unread):
            self._take_frame(first, payload)

    def _take_frame(self, first: int, payload: bytes) -> None:
        match first & 0x0F:
            case 1:
                if first & RSV1:
                    payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
                self._take(payload.decode())
            case 8:
                self._end(str(int.from_bytes(payload[:2], "big")))
                self.write(build(FIN | CLOSE, payload))
            case 9:
                self.write(build(FIN | PONG, payload))
            case 10:
                self.pongs += 1
            case other:
                self.wrong.append(f"{self} got a frame of opcode {other}")

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        for _, _, future in self._waiting:
            if future is not None and not future.done():
                future.set_exception(ConnectionError(f"{self} has ended"))

    def _take(self, text: str) -> None:
        kind, _, rest = text.partition(" ")
        match kind:
            case "A":
                self._take_answer(rest)
            case "T":
                key, source, number, *end = rest.split()
                self._hear(key, source, int(number), bool(end))
            case "P":
                number, _, _ = rest.partition(" ")
                if int(number) != self.poured:
                    self.wrong.append(f"{self} got {number} of what was poured, and not {self.poured}")
                self.poured += 1
            case "S":
                self.sizes.append(int(rest))
            case _:
                self.wrong.append(f"{self} got {text[:80]!r}")

    def _take_answer(self, rest: str) -> None:
        version, worker, count, text = rest.split()
        if not self._waiting or text != self._waiting[0][0]:
            awaited = [text for text, _, _ in self._waiting][:3]
            self.wrong.append(f"{self} was answered {rest!r}, and waits for {awaited}")
            return
        if int(count) != self.answers + 1:
            self.wrong.append(f"{self} was told that it has had {count} answers, and has had {self.answers}")
        _, asked_at, future = self._waiting.popleft()
        self.answers += 1
        self.longest = max(self.longest, time.monotonic() - asked_at)
        self.answer = Answer(int(version), int(worker), int(count))
        if future is not None and not future.done():
            future.set_result(self.answer)
        if self._pause_seconds is not None and not self._waiting:
            asyncio.get_running_loop().call_later(self._pause_seconds, self._ask_next)

    def _ask_next(self) -> None:
        if self._pause_seconds is not None and not self.ended:
            self._ask(None)

    def _ask(self, future: asyncio.Future[Answer] | None) -> None:
        text = str(next(self._numbers))
        self._waiting.append((text, time.monotonic(), future))
        self.send(f"ask {text}")

    def _hear(self, key: str, source: str, number: int, is_last: bool) -> None:
        at = (key, source)
        following = self.heard.get(at)
        if following is None:
            self.began[at] = number
        elif number != following:
            self.wrong.append(f"{self} has heard {key} {source} {number}, and not {following}")
        self.heard[at] = number + 1
        if is_last:
            self.last_words.add(at)


def _take_frames(unread: bytearray) -> Iterator[tuple[int, bytes]]:
    """Return the whole frames of a server, first byte and payload, and take them away."""
    at = 0
    while len(unread) - at >= 2:
        size, begin = unread[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(unread) < begin + width:
                break
            size, begin = int.from_bytes(unread[begin : begin + width]), begin + width
        if len(unread) < begin + size:
            break
        yield unread[at], bytes(unread[begin : begin + size])
        at = begin + size
    del unread[:at]


class Company:
    """All riders of a test; `async with` boards them, and has them leave at the end."""

    def __init__(self, daemon: Daemon, riders: Sequence[Rider]) -> None:
        self.daemon = daemon
        self.riders = riders
        self._bugs: list[str] = []
        self._commands: list[Popen[str]] = []

    async def __aenter__(self) -> Company:
        # of a test: what a protocol raises would only be logged
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self._bugs.append(str(context)))
        for begin in range(0, len(self.riders), ABOARD_AT_ONCE):
            await asyncio.gather(
                *(rider.board(self.daemon.port) for rider in self.riders[begin : begin + ABOARD_AT_ONCE])
            )
        return self

    async def __aexit__(self, *error: object) -> None:
        for rider in self.riders:
            rider.ask_no_more()
            rider.leave()
        for command in self._commands:
            # only of a test that has failed
            if command.poll() is None:
                command.kill()
                command.communicate()

    async def all_answered(self, riders: Iterable[Rider] | None = None) -> list[Answer]:
        """Ask each of these riders, or of all, that is still connected, and return all the answers."""
        asked = self.riders if riders is None else riders
        return await asyncio.gather(*(rider.ask() for rider in asked if not rider.ended))

    async def answered_by(self, version: int, riders: Iterable[Rider] | None = None) -> None:
        """Ask again and again until all of these are answered by this version."""
        asked = self.riders if riders is None else [*riders]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while {version} != {answer.version for answer in await self.all_answered(asked)}:
                await asyncio.sleep(LOOK_SECONDS)

    async def settle(self) -> None:
        """Wait until all that was asked is answered."""
        for rider in self.riders:
            rider.ask_no_more()
        await until(lambda: not any(rider.waits for rider in self.riders if not rider.ended), "all is answered")

    async def quieten(self) -> None:
        """Have the workers publish their last number, and wait until everybody has heard it who listens."""
        (self.daemon.folder / "quiet").touch()
        workers = [row["id"] for row in (await self.status())["workers"]]
        sources = [f"timer/{worker}" for worker in workers]

        def deaf() -> list[tuple[Rider, str, str]]:
            return [
                (rider, key, source)
                for rider in self.riders
                if not rider.ended
                for key in {key for key, _ in rider.heard} & {"news", "all", "ann"}
                for source in sources
                if (key, source) not in rider.last_words
            ]

        await until(lambda: not deaf(), lambda: f"all have heard the last words, but {deaf()[:5]}")

    async def hears(self, key: str, riders: Iterable[Rider]) -> None:
        """Wait until these riders have heard something of each worker about a key: what it publishes gets there."""
        workers = [row["id"] for row in (await self.status())["workers"]]
        await until(
            lambda: all((key, f"timer/{worker}") in rider.heard for rider in riders for worker in workers),
            f"everybody hears of {key}",
        )

    async def status(self) -> dict[str, Any]:
        """Return the status document."""
        return await asyncio.to_thread(self.daemon.status)

    async def wait_status(self, fact: Callable[[Any], object]) -> dict[str, Any]:
        """Wait until a fact holds of the status document, and return that."""
        return await asyncio.to_thread(self.daemon.wait_status, fact)

    async def reload(self, text: str = "") -> dict[str, Any]:
        """Reload, with another app if one is given, and return the document of the command; fail unless it is well."""
        return await ended_well(await self.begin_reload(text))

    async def begin_reload(self, text: str = "") -> Popen[str]:
        """Begin one; you must end it by ended_well."""
        if text:
            self.daemon.write_app(text)
        command = await asyncio.to_thread(self.daemon.cli_begin, "reload", "--json")
        self._commands.append(command)
        return command

    def check(self) -> None:
        """Fail if anything was wrong, or anybody has lost the connection."""
        assert not self._bugs, self._bugs[:3]
        wrong = [fault for rider in self.riders for fault in rider.wrong]
        assert not wrong, f"{len(wrong)} faults: {wrong[:10]}"
        ended = [rider for rider in self.riders if rider.ended]
        assert not ended, f"{len(ended)} have ended: {ended[:10]}"

    def check_heard(self, key: str, listeners: Iterable[Rider], said: Counter[tuple[str, str]] | None = None) -> None:
        """Fail unless all these have heard all about a key: what riders have said, and of each worker the same.

        said: by others than the riders.
        """
        wanted = Counter(said or {})
        for rider in self.riders:
            wanted.update(rider.said)
        listening = [*listeners]
        ends = {at: number for rider in listening for at, number in rider.heard.items() if at[0] == key}
        for at, number in wanted.items():
            if at[0] == key:
                ends[at] = number
        assert ends, f"nothing was said about {key}"
        for rider in listening:
            for at, number in ends.items():
                assert number == rider.heard.get(at), f"{rider} has heard {at} to {rider.heard.get(at)}, not {number}"
                assert at not in wanted or rider.began[at] == 0, f"{rider} has not heard the begin of {at}"


async def ended_well(command: Popen[str]) -> dict[str, Any]:
    """Wait for the end of a command with --json, and return its document; fail unless it is well."""
    outcome = await asyncio.to_thread(finish, command)
    assert 0 == outcome.code, outcome
    return outcome.document()


async def until(fact: Callable[[], object], what: str | Callable[[], str] = "", seconds: float = 20.0) -> None:
    """Wait until a fact of this process holds; AssertionError when the time is over."""
    give_up_at = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < give_up_at, f"not within {seconds:.0f} s: {what() if callable(what) else what}"
        await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def aboard(daemon: Daemon, number: int, name: str = "r", **options: bool) -> Any:
    """Be a company of so many riders of one kind."""
    async with Company(daemon, [Rider(f"{name}{place}", **options) for place in range(number)]) as company:
        yield company
