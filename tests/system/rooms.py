"""The chat example under a crowd that counts: who said what, who heard it, and whether each loss was told.

Each guest is in one room and says numbers, one after another. Everybody in the room has to hear each of them once and
in order. Whoever misses one must be told of a gap after the number was said, so that what it asks for then misses
nothing. A guest that has lost its connection comes again; that is another visit, with numbers of its own.

The service is examples/chat as it is shipped. Beside it stands one module, witness.py, which is what runs: it has the
callbacks of the example, says at first in which worker one is, and hands a gap on to those whose room it concerns.

All guests live in one asyncio loop. They read frames themselves: a library would take most of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

from tests.examples.example import Example
from tests.system.clients import UPGRADE, frame
from tests.system.daemon import Daemon

PATIENCE_SECONDS: Final = 40.0
TOLD_SECONDS: Final = 10.0
"""After it was seen that a number is missing. One second is promised, and the machine may be busy."""

ROUND_SECONDS_EACH: Final = 0.002
COMES_AGAIN_SECONDS: Final = 0.1
ENDLESS: Final = 10**9

WITNESS: Final = """
import json
import os

import app
from app import on_close, on_handshake, on_message


def on_connect(connection):
    app.on_connect(connection)
    connection.send(json.dumps({"what": "here", "text": str(os.getpid())}))


def on_bus_gap(worker, topics):
    for connection in worker.connections.values():
        if connection.data.get("room") in topics:
            connection.send(json.dumps({"what": "gap", "text": ""}))
"""


class Chat(Example):
    """The service. bus_url: of a broker, if there is one; settings: environment variables without WSWORKER_.

    host: where its guests find it.
    """

    host = "127.0.0.1"

    def __init__(self, workers: int, bus_url: object = None, **settings: str) -> None:
        super().__init__("chat")
        (self.folder / "witness.py").write_text(WITNESS)
        # a test says more in a second than a person
        settings = {"APP": "witness", "WORKERS": str(workers), "WEBSOCKET__RATE_MESSAGES": "10000"} | settings
        if bus_url is not None:
            settings["BUS__URL"] = str(bus_url)
        self.environ |= {f"WSWORKER_{name}": value for name, value in settings.items()}

    def start(self, *flags: str) -> Self:
        """Start it where its guests find it, and wait until every worker is ready."""
        return Daemon.start(self, "-b", f"{self.host}:{self.port}", *flags)

    def close(self) -> None:
        """Stop it; AssertionError if anything went wrong in it that was not meant to."""
        log = self.log
        super().close()
        assert "Traceback" not in log, f"see the log of {self.name}"

    def tickets(self, names: Sequence[str]) -> list[str]:
        """Return a ticket for each name, made by the example's own function."""
        code = "import sys, ticket\nfor name in sys.argv[1:]: print(ticket.make(name))"
        done = subprocess.run(
            [sys.executable, "-c", code, *names], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    def share_key(self, other: Chat) -> None:
        """Let this service know the tickets of another one, as two machines of one service do."""
        (self.folder / "ticket.key").write_bytes((other.folder / "ticket.key").read_bytes())


class Spoken(NamedTuple):
    """A number, and the visit in which it was said."""

    visit: Visit
    number: int

    def __repr__(self) -> str:
        return f"{self.number} of {self.visit}"


class Visit(asyncio.Protocol):
    """One connection of a guest, from its start to its end.

    pid: of the worker; said: when each of its numbers was said; following: the number that comes next, by the visit
    that says them; missing: what did not come, and when that was seen; wrong: what must never come; gaps: when they
    were told; greeted: by whom it was greeted since that was last asked.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.count = len(guest.visits)
        self.pid = 0
        self.said: list[float] = []
        self.following: dict[Visit, int] = {}
        self.missing: dict[Spoken, float] = {}
        self.wrong: list[str] = []
        self.gaps: list[float] = []
        self.greeted: set[str] = set()
        self.ended = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._opened = False
        self._unread = b""

    def __repr__(self) -> str:
        return f"{self.guest.name}/{self.count} in {self.guest.room} at {self.pid}"

    @property
    def joined(self) -> bool:
        """Whether it has a worker that knows its room."""
        return self.pid != 0 and not self.ended.is_set()

    async def stay(self) -> None:
        """Connect, and return when the connection has ended; it has too if this is cancelled."""
        service = self.guest.service
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, service.host, service.port)
            await self.ended.wait()
        except OSError:
            self.ended.set()
        finally:
            self.end()

    def end(self) -> None:
        """Close the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def say(self, text: str) -> None:
        """Say something in the room."""
        self._send(say=text)

    def say_number(self) -> None:
        """Say the next number."""
        self.said.append(time.monotonic())
        self.say(f"{self.count} {len(self.said) - 1}")

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        cookie = f"Cookie: ticket={self.guest.ticket}\r\n\r\n"
        self._transport.write(UPGRADE.removesuffix(b"\r\n") + cookie.encode())

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()

    def data_received(self, data: bytes) -> None:
        data = self._unread + data if self._unread else data
        at = 0
        if not self._opened:
            head, found, _ = data.partition(b"\r\n\r\n")
            if not found:
                self._unread = data
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.end()
                return
            self._opened = True
            at = len(head) + 4
        # what the example sends is short: a length of one byte, or of two behind 126
        while len(data) - at >= 2:
            size, begin = data[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if len(data) < begin + size:
                break
            self._take_frame(data[at] & 0x0F, data[begin : begin + size])
            at = begin + size
        self._unread = data[at:]

    def _take_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == 9:
            self._write(frame(10, payload))
        elif opcode == 8:
            # the worker asks to come again, in another one
            self.end()
        else:
            self._take(json.loads(payload))

    def _take(self, told: dict[str, str]) -> None:
        match told["what"], told["text"].split():
            case "here", [pid]:
                self.pid = int(pid)
                self._send(join=self.guest.room)
            case "gap", _:
                self.gaps.append(time.monotonic())
            case "says", ["hello", token] if token == self.guest.party.token:
                self.greeted.add(told["from"])
            case "says", [visit, number] if visit != "hello":
                if told["in"] != self.guest.room:
                    self.wrong.append(f"{self} has heard {told}")
                self._count(self.guest.party.guests[told["from"]].visits[int(visit)], int(number))

    def _count(self, publisher: Visit, number: int) -> None:
        following = self.following.get(publisher, number)
        if number < following:
            self.wrong.append(f"{self} has heard {Spoken(publisher, number)} behind {following - 1}")
            return
        for left_out in range(following, number):
            self.missing[Spoken(publisher, left_out)] = time.monotonic()
        self.following[publisher] = number + 1

    def _send(self, **message: str) -> None:
        self._write(frame(1, json.dumps(message).encode()))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


class Guest:
    """A client that comes again as long as the party goes on. visits: all of them, the last is the present one."""

    def __init__(self, party: Party, name: str, room: str, service: Chat, ticket: str) -> None:
        self.party = party
        self.name = name
        self.room = room
        self.service = service
        self.ticket = ticket
        self.visits: list[Visit] = []

    @property
    def visit(self) -> Visit:
        """The present one."""
        return self.visits[-1]

    async def live(self) -> None:
        """Come again and again, until the task is cancelled."""
        while True:
            # known before anybody can hear of it
            self.visits.append(Visit(self))
            await self.visit.stay()
            await asyncio.sleep(COMES_AGAIN_SECONDS)

    async def talk(self, numbers: int, every_seconds: float) -> None:
        """Say so many numbers, at times of its own; one that cannot be said, for want of a connection, is left out."""
        await asyncio.sleep(random.uniform(0, every_seconds))
        for _ in range(numbers):
            if self.visit.joined:
                self.visit.say_number()
            await asyncio.sleep(every_seconds)


class Party:
    """Guests in rooms, from `async with` to its end. Neighbours in a room come to different services.

    token: of the greetings that count now.
    """

    def __init__(self, services: Sequence[Chat], guests: int = 500, rooms: int = 25) -> None:
        self.token = ""
        self.guests: dict[str, Guest] = {}
        names = [f"guest{number}" for number in range(guests)]
        tickets = services[0].tickets(names)
        for other in services[1:]:
            other.share_key(services[0])
        for number, (name, ticket) in enumerate(zip(names, tickets, strict=True)):
            service = services[number // rooms % len(services)]
            self.guests[name] = Guest(self, name, f"room{number % rooms}", service, ticket)
        self._rooms: dict[str, set[str]] = {}
        for guest in self.guests.values():
            self._rooms.setdefault(guest.room, set()).add(guest.name)
        self._tasks: list[asyncio.Task[None]] = []
        self._rounds = 0

    async def __aenter__(self) -> Self:
        for guest in self.guests.values():
            self._tasks.append(asyncio.create_task(guest.live()))
            # the backlog of a listener is short
            await asyncio.sleep(0.001)
        await self.settle()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def greet(self, patience_seconds: float = PATIENCE_SECONDS) -> float:
        """Have everybody greet, again and again, until everybody has heard all in the room; return the seconds it took.

        A greeting overtakes nothing: what was said before it, and has not come then, is lost. AssertionError if it
        takes longer than somebody has patience.
        """
        self._rounds += 1
        self.token = str(self._rounds)
        for guest in self.guests.values():
            guest.visit.greeted.clear()
        began_at = time.monotonic()
        while lonely := [guest.visit for guest in self.guests.values() if not self._is_greeted_by_all(guest)]:
            assert time.monotonic() < began_at + patience_seconds, self._describe(lonely)
            if not all(guest.visit.joined for guest in self.guests.values()):
                # who is not there hears nothing, and a round is long
                await asyncio.sleep(0.01)
                continue
            for guest in self.guests.values():
                guest.visit.say(f"hello {self.token}")
            round_ends_at = time.monotonic() + len(self.guests) * ROUND_SECONDS_EACH
            while time.monotonic() < round_ends_at and not all(map(self._is_greeted_by_all, self.guests.values())):
                await asyncio.sleep(0.01)
        return time.monotonic() - began_at

    async def settle(self) -> None:
        """Greet while nobody talks. From then on everybody has to hear whatever is said."""
        await self.greet()
        for guest in self.guests.values():
            for name in self._rooms[guest.room]:
                publisher = self.guests[name].visit
                guest.visit.following.setdefault(publisher, len(publisher.said))

    async def talk(self, numbers: int, every_seconds: float = 0.5) -> None:
        """Let everybody say so many numbers."""
        await asyncio.gather(*(guest.talk(numbers, every_seconds) for guest in self.guests.values()))

    @asynccontextmanager
    async def talking(self, every_seconds: float) -> AsyncIterator[None]:
        """Let everybody say numbers, from the beginning of the block to its end."""
        talk = asyncio.create_task(self.talk(ENDLESS, every_seconds))
        try:
            yield
            # they do not end at the moment at which it is all right again
            await asyncio.sleep(2 * every_seconds)
        finally:
            talk.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await talk

    def lost(self) -> list[tuple[Visit, Spoken]]:
        """Return who has missed what; you must settle() before. AssertionError for what must never be."""
        wrong = [text for visit in self._visits() for text in visit.wrong]
        assert not wrong, (len(wrong), wrong[:10])
        reached: dict[Visit, int] = {}
        for visit in self._visits():
            for publisher, following in visit.following.items():
                reached[publisher] = max(reached.get(publisher, 0), following)
        found = []
        for visit in self._visits():
            found += [(visit, spoken) for spoken in visit.missing]
            if visit.joined:
                for publisher, following in visit.following.items():
                    # what a visit has said last, before its worker was killed, may have been read by nobody
                    end = len(publisher.said) if publisher.joined else reached[publisher]
                    found += [(visit, Spoken(publisher, number)) for number in range(following, end)]
        return found

    async def check_told(self) -> int:
        """Wait until all losses are told; return how many there are. Gaps are told at most once a second."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        lost = self.lost()
        while untold := [(visit, spoken) for visit, spoken in lost if not _is_told(visit, spoken)]:
            assert time.monotonic() < give_up_at, f"{len(untold)} of {len(lost)} were not told: {untold[:10]}"
            await asyncio.sleep(0.05)
        return len(lost)

    def gaps(self, service: Chat | None = None) -> int:
        """Return how many gaps were told, over all visits, or those to one service."""
        return sum(len(visit.gaps) for visit in self._visits() if service in (None, visit.guest.service))

    def said(self, service: Chat | None = None) -> int:
        """Return how many numbers were said, to any service or to one."""
        return sum(len(visit.said) for visit in self._visits() if service in (None, visit.guest.service))

    def heard(self, service: Chat) -> int:
        """Return how many of the numbers that were said to a service it has handed on, as its own guests know."""
        heard: dict[Visit, int] = {}
        for visit in self._visits():
            if visit.guest.service is service:
                for publisher, following in visit.following.items():
                    if publisher.guest.service is service:
                        heard[publisher] = max(heard.get(publisher, 0), following)
        return sum(heard.values())

    def left(self) -> set[int]:
        """Return the workers, by pid, of which somebody has lost the connection."""
        return {visit.pid for visit in self._visits() if visit.ended.is_set() and visit.pid}

    def lost_between(self, concerns: Callable[[Visit, Visit], bool]) -> list[tuple[Visit, Spoken]]:
        """Return what was missed, of those pairs, of who heard and who said, that a function picks."""
        return [(visit, spoken) for visit, spoken in self.lost() if concerns(visit, spoken.visit)]

    def _visits(self) -> list[Visit]:
        return [visit for guest in self.guests.values() for visit in guest.visits]

    def _is_greeted_by_all(self, guest: Guest) -> bool:
        return guest.visit.joined and guest.visit.greeted >= self._rooms[guest.room]

    def _describe(self, lonely: Sequence[Visit]) -> str:
        first = lonely[0]
        lacks = sorted(self._rooms[first.guest.room] - first.greeted)
        return f"{len(lonely)} are not greeted by all; {first} not by {[self.guests[name].visit for name in lacks]}"


def _is_told(visit: Visit, spoken: Spoken) -> bool:
    """Whether a gap was told that covers a loss.

    It is told when the way works again, so behind what was said; what is asked for then misses nothing. And soon after
    that has been seen: a later one is about something else.
    """
    said_at = spoken.visit.said[spoken.number]
    seen_at = visit.missing.get(spoken, math.inf)
    return any(said_at <= told_at <= seen_at + TOLD_SECONDS for told_at in visit.gaps)
