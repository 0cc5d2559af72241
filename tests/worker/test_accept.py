"""The accept loop on real listeners: who is accepted, who is left in the queue, and what a shortage does to it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any, cast

import pytest

from tests.worker.conftest import Run
from tests.worker.service import DEADLINE_SECONDS, until
from wsworker import notices
from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.speaker import begin_task, connection_id
from wsworker.worker import accept
from wsworker.worker.accept import Acceptor
from wsworker.worker.entrance import Entrance

BACKLOG = 300
log = logging.getLogger("wsworker.worker")

# offsets in struct tcp_info, linux/tcp.h; for a listener they are the length and the limit of its queue
UNACKED = 24
SACKED = 28


class Guests:
    """Makes the protocol of each accepted client, which greets it with a word."""

    def __init__(self, word: bytes = b"hello") -> None:
        self.word = word
        self.addresses: list[Any] = []
        self.transports: list[asyncio.Transport] = []

    def __call__(self, address: Any) -> asyncio.Protocol:
        self.addresses.append(address)
        return Guest(self)

    def leave(self) -> None:
        """Close all."""
        for transport in self.transports:
            transport.abort()


class Guest(asyncio.Protocol):
    """One accepted client."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's is no subclass of asyncio's
        self._guests.transports.append(stream)
        stream.write(self._guests.word)


def listening(
    family: socket.AddressFamily = socket.AF_INET,
    address: str | tuple[str, int] = ("127.0.0.1", 0),
    in_group: bool = True,
) -> socket.socket:
    """Return a listener as the master makes it; in_group: also as one that systemd opens with ReusePort=yes."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family == socket.AF_INET and in_group:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)
    sock.listen(BACKLOG)
    return sock


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP listener on loopback."""
    with listening() as sock:
        yield sock


def dial(listener: socket.socket) -> socket.socket:
    """Connect a client; once this returns it stands in the queue."""
    client = socket.socket(listener.family)
    client.settimeout(DEADLINE_SECONDS)
    client.connect(listener.getsockname())
    return client


def queue(listener: socket.socket, offset: int = UNACKED) -> int:
    """Return how many clients wait at a TCP listener; with SACKED, how many may wait."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, offset)[0])


def room() -> bool:
    """Be the question whether a worker is full, of one that never is."""
    return False


def none() -> int:
    """Be the question how many handshakes are under way, of a worker where they take no time."""
    return 0


def nobody() -> bool:
    """Be the question whether there are other workers, where there are none."""
    return False


def nothing() -> None:
    """Be somebody who is told and does nothing."""


def acceptor_of(
    loop: asyncio.AbstractEventLoop,
    listeners: list[socket.socket],
    protocol: Callable[[Any], asyncio.Protocol],
    *,
    shared: Collection[socket.socket] = (),
    full: Callable[[], bool] = room,
    others: Callable[[], bool] = nobody,
    unfinished: Callable[[], int] = none,
    most_handshakes: int = 512,
    changed: Callable[[], None] = nothing,
    counters: Counters | None = None,
) -> Acceptor:
    """Return an acceptor with plain TCP, by default that of the only worker; protocol: is given accept's address."""
    counters = counters or Counters()
    entrance = Entrance(
        loop,
        lambda arrival: protocol(arrival.peer),
        config=Config(app="app"),
        tls=None,
        changed=nothing,
        counters=counters,
        log=log,
    )
    return Acceptor(
        loop,
        listeners,
        entrance,
        shared=shared,
        full=full,
        others=others,
        unfinished=unfinished,
        most_handshakes=most_handshakes,
        changed=changed,
        counters=counters,
        log=log,
    )


def close(*sockets: socket.socket) -> None:
    """Close the clients of a test."""
    for sock in sockets:
        sock.close()


def fork(body: Callable[[], None]) -> int:
    """Run a function in a child, which exits 0 unless it raises or runs for ever; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(2 * DEADLINE_SECONDS)
            body()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    """Wait for a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def turns(number: int = 20) -> None:
    """Let the loop go round some times."""
    for _ in range(number):
        await asyncio.sleep(0)


# Serving


def test_clients_are_accepted(run: Run, listener: socket.socket) -> None:
    """Those that wait already, those that come later, and at every listener."""

    async def main() -> None:
        guests = Guests()
        with listening() as other:
            acceptor = acceptor_of(asyncio.get_running_loop(), [listener, other], guests)
            early = [dial(listener), dial(other)]
            acceptor.start()
            await until(lambda: len(guests.transports) == 2)
            late = [dial(other), dial(listener)]
            await until(lambda: len(guests.transports) == 4)
            assert [b"hello"] * 4 == [client.recv(5) for client in early + late]
            await acceptor.close()
            guests.leave()
            close(*early, *late)

    run(main())


def test_a_unix_listener_serves(run: Run, tmp_path: object) -> None:
    """It is accepted from, and left alone, like one of TCP."""

    async def main() -> None:
        guests = Guests()
        with listening(socket.AF_UNIX, f"{tmp_path}/sock") as shared:
            acceptor = acceptor_of(asyncio.get_running_loop(), [shared], guests)
            acceptor.start()
            clients = [dial(shared) for _ in range(3)]
            await until(lambda: len(guests.transports) == 3)
            acceptor.stop()
            await turns()
            clients.append(dial(shared))
            await turns()
            assert 3 == len(guests.transports)
            await acceptor.close()
            guests.leave()
            close(*clients)

    run(main())


def test_small_writes_are_not_held_back(run: Run, listener: socket.socket) -> None:
    """Nagle's algorithm would keep an answer for the 40 ms that a client may delay its ACK, on either loop."""

    async def main() -> None:
        guests = Guests()
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener.dup()], guests)
        acceptor.start()
        with listening() as other:
            acceptor.lend(2, [other.dup()])
            clients = [dial(listener), dial(other)]
            await until(lambda: len(guests.transports) == 2)
            sockets = [transport.get_extra_info("socket") for transport in guests.transports]
            assert [True, True] == [bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) for sock in sockets]
            await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


def test_the_queue_is_not_shrunk(run: Run, listener: socket.socket) -> None:
    """The acceptor never calls listen(), so the limit of the queue is what the master set, for all who hold it."""

    async def main() -> None:
        assert BACKLOG == queue(listener, SACKED)
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener], Guests())
        acceptor.start()
        await turns()
        assert BACKLOG == queue(listener, SACKED)
        acceptor.stop()
        assert BACKLOG == queue(listener, SACKED)

    run(main())


def test_the_measure_sees_a_shrunk_queue(listener: socket.socket) -> None:
    """What the test above looks at does change with listen()."""
    listener.listen(100)
    assert 100 == queue(listener, SACKED)


def test_one_turn_of_the_loop_accepts_a_number(run: Run, listener: socket.socket) -> None:
    """A crowd that waits is not taken in one go: who is in the loop already has a turn in between."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        acceptor = acceptor_of(loop, [listener], guests)
        clients = [dial(listener) for _ in range(accept.ACCEPTS_PER_TURN + 1)]
        waiting = []

        def look() -> None:
            waiting.append(queue(listener))
            if waiting[-1]:
                loop.call_soon(look)

        acceptor.start()
        look()
        await until(lambda: len(guests.transports) == len(clients))
        assert [len(clients), 1, 0] == sorted(set(waiting), reverse=True)
        await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


def test_a_client_that_has_left_already_harms_nobody(run: Run, listener: socket.socket) -> None:
    """It was reset while it waited; the next ones are served and nothing is logged."""

    async def main() -> None:
        guests = Guests()
        gone = dial(listener)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        client = dial(listener)
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener], guests)
        acceptor.start()
        assert b"hello" == await asyncio.to_thread(client.recv, 5)
        await acceptor.close()
        guests.leave()
        client.close()

    run(main())


def test_the_address_is_the_one_of_accept(run: Run, listener: socket.socket) -> None:
    """A client that has reset the connection before anybody looked still has its address."""

    async def main() -> None:
        guests = Guests()
        client = dial(listener)
        address = client.getsockname()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener.dup()], guests)
        await acceptor.empty_and_close()
        assert [address] == guests.addresses
        guests.leave()

    run(main())


# Stopping


def test_stop_leaves_clients_in_the_queue(run: Run, listener: socket.socket) -> None:
    """They wait for somebody else who holds the listener; a second stop does nothing, and start goes on."""

    async def main() -> None:
        guests = Guests()
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener], guests)
        acceptor.start()
        first = dial(listener)
        await until(lambda: len(guests.transports) == 1)
        acceptor.stop()
        acceptor.stop()
        second, third = dial(listener), dial(listener)
        await turns()
        assert (1, 2) == (len(guests.transports), queue(listener))
        somebody, address = listener.accept()
        assert second.getsockname() == address
        acceptor.start()
        await until(lambda: len(guests.transports) == 2)
        await acceptor.close()
        guests.leave()
        close(first, second, third, somebody)

    run(main())


def test_close_leaves_the_listener_to_others(run: Run, listener: socket.socket) -> None:
    """Ours is closed, not shut down: who waits and who comes later is accepted by another holder."""

    async def main() -> None:
        ours = listener.dup()
        acceptor = acceptor_of(asyncio.get_running_loop(), [ours], Guests())
        acceptor.start()
        waiting = dial(listener)
        await acceptor.close()
        assert -1 == ours.fileno()
        later = dial(listener)
        accepted = [listener.accept()[0] for _ in range(2)]
        close(waiting, later, *accepted)
        await acceptor.close()

    run(main())


def test_close_waits_for_those_who_were_accepted(run: Run, listener: socket.socket) -> None:
    """When it returns, each of them has its protocol: nobody is overlooked by who counts connections then."""

    async def main() -> None:
        guests = Guests()
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener.dup()], guests)
        client = dial(listener)
        acceptor.start()
        while queue(listener):
            await asyncio.sleep(0)
        await acceptor.close()
        assert 1 == len(guests.transports)
        guests.leave()
        client.close()

    run(main())


def test_empty_and_close_takes_all_who_wait(run: Run, listener: socket.socket) -> None:
    """However many they are, also if the acceptor had not been started; who comes after that is not accepted."""

    async def main() -> None:
        guests = Guests()
        ours = listener.dup()
        with listening() as other:
            clients = [dial(listener) for _ in range(3 * accept.ACCEPTS_PER_TURN)]
            clients += [dial(other), dial(other)]
            acceptor = acceptor_of(asyncio.get_running_loop(), [ours, other], guests)
            await acceptor.empty_and_close()
            assert len(clients) == len(guests.transports)
            assert (-1, -1, 0) == (ours.fileno(), other.fileno(), queue(listener))
            late = dial(listener)
            await turns()
            assert 1 == queue(listener)
        guests.leave()
        close(*clients, late)

    run(main())


def test_a_flood_does_not_hold_the_loop(run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last round has an end even if the queue never is empty."""
    monkeypatch.setattr(accept, "LAST_TURNS", 1)

    async def main() -> None:
        guests = Guests()
        clients = [dial(listener) for _ in range(accept.ACCEPTS_PER_TURN + 5)]
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener.dup()], guests)
        await acceptor.empty_and_close()
        assert (accept.ACCEPTS_PER_TURN, 5) == (len(guests.transports), queue(listener))
        guests.leave()
        close(*clients)

    run(main())


# Sharing


def test_a_listener_may_be_shared(run: Run, listener: socket.socket) -> None:
    """Of several processes that accept from it each client is served by one, and when one leaves, by the others."""
    ready, tell = os.pipe()
    wait, end = os.pipe()

    def child() -> None:
        async def serve() -> None:
            loop = asyncio.get_running_loop()
            acceptor = acceptor_of(loop, [listener], Guests(b"child"))
            acceptor.start()
            os.write(tell, b".")
            ended = asyncio.Event()
            loop.add_reader(wait, ended.set)
            await ended.wait()
            await acceptor.close()

        os.close(end)
        run(serve())

    pid = fork(child)
    os.close(wait)
    os.read(ready, 1)

    async def main() -> None:
        guests = Guests(b"ours!")
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener.dup()], guests)
        acceptor.start()
        clients = []
        for _ in range(200):
            clients.append(dial(listener))
            await asyncio.sleep(0)
        words = [await asyncio.to_thread(client.recv, 5) for client in clients]
        assert len(guests.transports) == words.count(b"ours!")
        assert len(clients) == words.count(b"ours!") + words.count(b"child")
        await acceptor.close()
        alone = [dial(listener) for _ in range(5)]
        assert [b"child"] * 5 == [await asyncio.to_thread(client.recv, 5) for client in alone]
        guests.leave()
        close(*clients, *alone)

    run(main())
    os.close(end)
    assert 0 == exit_code(pid)
    for pipe in (ready, tell):
        os.close(pipe)


@pytest.mark.parametrize(
    ("family", "in_group"),
    [(socket.AF_UNIX, False), (socket.AF_INET, False), (socket.AF_INET, True)],
    ids=["unix", "without SO_REUSEPORT", "with SO_REUSEPORT"],
)
def test_a_shared_listener_is_asked_for_one_at_a_time(
    run: Run, tmp_path: object, family: socket.AddressFamily, in_group: bool
) -> None:
    """Other workers wait at the same queue: between two clients the loop goes round, and they have their chance."""

    async def main() -> None:
        guests = Guests()
        address = f"{tmp_path}/sock" if family == socket.AF_UNIX else ("127.0.0.1", 0)
        with listening(family, address, in_group) as shared:
            clients = [dial(shared) for _ in range(5)]
            acceptor = acceptor_of(asyncio.get_running_loop(), [shared], guests, shared=[shared])
            acceptor.start()
            seen = set()
            while len(guests.transports) < 5:
                seen.add(len(guests.addresses))
                await asyncio.sleep(0)
            await acceptor.close()
            guests.leave()
            close(*clients)
        assert {1, 2, 3, 4} <= seen

    run(main())


# No room


class Limit:
    """Is asked whether a worker is full."""

    def __init__(self) -> None:
        self.reached = True
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.reached


@pytest.fixture(params=[socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def queue_of_clients(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[socket.socket]:
    """A listener, of a slot alone and of all workers."""
    address = f"{tmp_path}/sock" if request.param == socket.AF_UNIX else ("127.0.0.1", 0)
    with listening(request.param, address) as sock:
        yield sock


def test_a_full_worker_leaves_its_clients_to_others(
    run: Run, queue_of_clients: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks away, so that another holder of the queue takes them, and takes them itself once it has room."""
    monkeypatch.setattr(accept, "CROWD_SECONDS", 3600.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        limit = Limit()
        acceptor = acceptor_of(loop, [queue_of_clients], guests, full=limit, others=lambda: True)
        clients = [dial(queue_of_clients) for _ in range(3)]
        acceptor.start()
        await until(lambda: limit.asked)
        # not looked at meanwhile, or the loop would spin
        assert not loop.remove_reader(queue_of_clients)
        acceptor.wake()
        await turns()
        assert [] == guests.addresses
        close(queue_of_clients.accept()[0])
        limit.reached = False
        acceptor.wake()
        await until(lambda: len(guests.transports) == 2)
        # as ever from now on
        clients.append(dial(queue_of_clients))
        await until(lambda: len(guests.transports) == 3)
        acceptor.wake()
        await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


def test_who_comes_in_sees_nothing_of_whoever_has_made_room(run: Run, listener: socket.socket) -> None:
    """A connection that ends wakes us, and what its callbacks have set in the context is its own."""
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    seen: list[str] = []

    async def main() -> None:
        guests, limit = Guests(), Limit()

        def protocol(address: Any) -> asyncio.Protocol:
            seen.append(tenant.get())
            return guests(address)

        acceptor = acceptor_of(asyncio.get_running_loop(), [listener], protocol, full=limit, others=lambda: True)
        clients = [dial(listener)]
        acceptor.start()
        await until(lambda: limit.asked)
        limit.reached = False
        tenant.set("of the one that has gone")
        acceptor.wake()
        await until(lambda: len(guests.transports) == 1)
        # as ever from now on
        clients.append(dial(listener))
        await until(lambda: len(guests.transports) == 2)
        await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())
    assert ["", ""] == seen


def test_who_has_waited_for_long_is_taken_by_a_full_worker(
    run: Run, queue_of_clients: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else does, so the handshake will say 503; however many they are, and again for those who come later."""
    monkeypatch.setattr(accept, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(accept, "CROWD_SECONDS", 0.1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        acceptor = acceptor_of(loop, [queue_of_clients], guests, full=lambda: True, others=lambda: True)
        acceptor.start()
        clients = []
        for count in (accept.ACCEPTS_PER_TURN + 5, 1):
            began_at = loop.time()
            clients += [dial(queue_of_clients) for _ in range(count)]
            await until(lambda: len(guests.transports) == len(clients))  # noqa: B023
            assert loop.time() - began_at > accept.CROWD_SECONDS / 2
        await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


def test_the_only_worker_takes_everybody(run: Run, queue_of_clients: socket.socket) -> None:
    """Nobody else could, and a handshake that is refused at once is better than a wait."""

    async def main() -> None:
        guests = Guests()
        acceptor = acceptor_of(asyncio.get_running_loop(), [queue_of_clients], guests, full=lambda: True)
        acceptor.start()
        client = dial(queue_of_clients)
        await until(lambda: len(guests.transports) == 1)
        await acceptor.close()
        guests.leave()
        client.close()

    run(main())


# Lending


def test_a_lent_listener_is_served_until_it_is_recalled(run: Run, listener: socket.socket) -> None:
    """From the start if it was lent before; then our copy is closed, and who waits there stays for its owner."""

    async def main() -> None:
        guests = Guests()
        with listening() as early, listening() as late:
            lent = [early.dup(), late.dup()]
            acceptor = acceptor_of(asyncio.get_running_loop(), [listener.dup()], guests)
            acceptor.lend(2, [lent[0]])
            clients = [dial(early)]
            await turns()
            assert [] == guests.transports
            acceptor.start()
            acceptor.lend(3, [lent[1]])
            clients += [dial(late), dial(listener)]
            await until(lambda: len(guests.transports) == 3)
            acceptor.recall(2)
            acceptor.recall(2)
            assert -1 == lent[0].fileno()
            clients += [dial(early), dial(late)]
            await until(lambda: len(guests.transports) == 4)
            assert (1, 0) == (queue(early), queue(late))
            await acceptor.close()
            assert -1 == lent[1].fileno()
        guests.leave()
        close(*clients)

    run(main())


def test_a_second_loan_of_a_slot_replaces_the_first(run: Run, listener: socket.socket) -> None:
    """The copies of the first are closed."""

    async def main() -> None:
        guests = Guests()
        with listening() as other:
            first, second = other.dup(), other.dup()
            acceptor = acceptor_of(asyncio.get_running_loop(), [listener.dup()], guests)
            acceptor.start()
            acceptor.lend(2, [first])
            acceptor.lend(2, [second])
            assert -1 == first.fileno()
            client = dial(other)
            await until(lambda: len(guests.transports) == 1)
            await acceptor.close()
        guests.leave()
        client.close()

    run(main())


def test_a_full_worker_looks_away_from_what_is_lent(
    run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from what is lent meanwhile."""
    monkeypatch.setattr(accept, "CROWD_SECONDS", 3600.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        limit = Limit()
        with listening() as lent, listening() as late:
            copies = [lent.dup(), late.dup()]
            acceptor = acceptor_of(loop, [listener.dup()], guests, full=limit, others=lambda: True)
            acceptor.start()
            acceptor.lend(2, copies[:1])
            clients = [dial(lent)]
            await until(lambda: limit.asked)
            assert not loop.remove_reader(copies[0])
            acceptor.lend(3, copies[1:])
            assert not loop.remove_reader(copies[1])
            clients.append(dial(late))
            await turns()
            assert (1, 1) == (queue(lent), queue(late))
            limit.reached = False
            acceptor.wake()
            await until(lambda: len(guests.transports) == 2)
            await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


# As many handshakes as there may be


class Handshakes:
    """How many handshakes of this worker are under way: a number, and those of its guests if it is given any."""

    def __init__(self, number: int, guests: Guests | None = None) -> None:
        self.number = number
        self._guests = guests

    def __call__(self) -> int:
        return self.number + (len(self._guests.addresses) if self._guests else 0)


@pytest.mark.parametrize("others", [True, False], ids=["one of many", "alone"])
def test_at_the_cap_of_handshakes_clients_wait(
    run: Run, queue_of_clients: socket.socket, others: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As many are accepted as there is room for; the next ones once a handshake is over, as soon as that is told."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        handshakes = Handshakes(3, guests)
        acceptor = acceptor_of(
            loop, [queue_of_clients], guests, others=lambda: others, unfinished=handshakes, most_handshakes=5
        )
        clients = [dial(queue_of_clients) for _ in range(6)]
        acceptor.start()
        await until(lambda: caplog.messages)
        await until(lambda: len(guests.transports) == 2)
        # not looked at meanwhile, or the loop would spin
        assert not loop.remove_reader(queue_of_clients)
        assert not acceptor.short
        for number in (3, 4):
            handshakes.number -= 1
            acceptor.wake()
            await until(lambda: len(guests.addresses) == number)  # noqa: B023
            await turns()
            assert number == len(guests.addresses)
        text = "5 handshakes are under way, as many as websocket.max_handshakes allows; new clients wait"
        assert [text] == caplog.messages
        # another holder of the queue takes who waits
        close(queue_of_clients.accept()[0])
        await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


def test_who_comes_in_speaks_for_nobody(run: Run, listener: socket.socket) -> None:
    """Whatever has made room: the context in which an acceptor is woken is not that of those whom it then accepts."""

    class Somebody:
        id = "srv-1.1.2"

    async def main() -> None:
        guests, handshakes = Guests(), [1]
        speakers: list[str | None] = []

        def come_in(address: Any) -> asyncio.Protocol:
            speakers.append(connection_id())
            return guests(address)

        acceptor = acceptor_of(
            asyncio.get_running_loop(), [listener], come_in, unfinished=lambda: len(handshakes), most_handshakes=1
        )
        acceptor.start()
        first = dial(listener)
        await until(lambda: acceptor._looks_away)

        async def turn() -> None:
            begin_task(Somebody())
            handshakes.clear()
            acceptor.wake()

        await asyncio.create_task(turn())
        await until(lambda: len(guests.transports) == 1)
        second = dial(listener)
        await until(lambda: len(guests.transports) == 2)
        await acceptor.close()
        guests.leave()
        close(first, second)
        assert [None, None] == speakers

    run(main())


def test_the_cap_is_looked_at_again(run: Run, listener: socket.socket) -> None:
    """A handshake that ends without a word is noticed too; then all goes on as ever, at a borrowed listener as well."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests, handshakes = Guests(), Handshakes(1)
        with listening() as other:
            acceptor = acceptor_of(loop, [listener.dup()], guests, unfinished=handshakes, most_handshakes=1)
            acceptor.start()
            acceptor.lend(2, [other.dup()])
            clients = [dial(listener), dial(other)]
            await turns()
            assert (0, 1, 1) == (len(guests.addresses), queue(listener), queue(other))
            handshakes.number = 0
            await until(lambda: len(guests.transports) == 2)
            clients.append(dial(listener))
            await until(lambda: len(guests.transports) == 3)
            await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


def test_a_full_worker_answers_no_more_than_the_cap(
    run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who have waited in vain are accepted to be told so; that is a handshake like any other."""
    monkeypatch.setattr(accept, "CROWD_SECONDS", 0.05)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        handshakes = Handshakes(0, guests)
        acceptor = acceptor_of(
            loop,
            [listener],
            guests,
            full=lambda: True,
            others=lambda: True,
            unfinished=handshakes,
            most_handshakes=2,
        )
        clients = [dial(listener) for _ in range(3)]
        acceptor.start()
        await until(lambda: guests.addresses)
        await turns()
        assert (2, 1) == (len(guests.addresses), queue(listener))
        handshakes.number = -1
        await until(lambda: len(guests.transports) == 3)
        await acceptor.close()
        guests.leave()
        close(*clients)

    run(main())


# A slot that goes away


def test_a_queue_runs_dry(run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes is accepted, by a full worker too, until nobody has come for a while; what was lent is closed first."""
    monkeypatch.setattr(accept, "QUIET_SECONDS", 1.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        with listening() as other:
            ours, lent = listener.dup(), other.dup()
            acceptor = acceptor_of(loop, [ours], guests, full=lambda: True, others=lambda: True)
            acceptor.start()
            acceptor.lend(2, [lent])
            clients = [dial(listener)]
            task = loop.create_task(acceptor.run_dry(10 * DEADLINE_SECONDS))
            await asyncio.sleep(0)
            assert -1 == lent.fileno()
            await until(lambda: len(guests.transports) == 1)
            assert not task.done()
            last_at = loop.time()
            clients.append(dial(listener))
            await until(lambda: len(guests.transports) == 2)
            await until(task.done)
            assert last_at + accept.QUIET_SECONDS - 0.02 < loop.time()
            assert -1 == ours.fileno()
        guests.leave()
        close(*clients)

    run(main())


def test_a_flood_does_not_keep_a_queue_from_ending(run: Run, listener: socket.socket) -> None:
    """It never is quiet, so the limit ends it, with nobody left behind."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests = Guests()
        ours = listener.dup()
        acceptor = acceptor_of(loop, [ours], guests)
        acceptor.start()
        task = loop.create_task(acceptor.run_dry(0.1))
        clients: list[socket.socket] = []
        while not task.done():
            if ours.fileno() >= 0 and len(clients) < 500:
                clients.append(dial(listener))
            await asyncio.sleep(0.001)
        assert (len(clients), 0) == (len(guests.transports), queue(listener))
        guests.leave()
        close(*clients)

    run(main())


# Shortages


def test_a_loan_that_is_lost_is_a_shortage(run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Visible for as long as the master needs to see it, also when a connection closes; then it goes on as ever."""
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(accept, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(accept, "SEEN_SECONDS", 2.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests, seen = Guests(), []
        acceptor = acceptor_of(loop, [listener], guests, changed=lambda: seen.append(acceptor.short))
        acceptor.start()
        began_at = loop.time()
        acceptor.run_short()
        assert [True] == seen
        client = dial(listener)
        acceptor.wake()
        # those who come are not kept waiting for so long
        await until(lambda: guests.transports)
        assert acceptor.short
        await until(lambda: not acceptor.short)
        assert loop.time() - began_at > accept.SEEN_SECONDS - 0.05
        assert [True, False] == seen
        late = dial(listener)
        await until(lambda: len(guests.transports) == 2)
        await acceptor.close()
        guests.leave()
        close(client, late)

    run(main())


def test_a_loan_that_is_lost_before_the_start(
    run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told at once; nobody is accepted before start, and after it the shortage ends as ever."""
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(accept, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(accept, "SEEN_SECONDS", 0.05)

    async def main() -> None:
        guests = Guests()
        acceptor = acceptor_of(asyncio.get_running_loop(), [listener], guests)
        acceptor.run_short()
        client = dial(listener)
        await asyncio.sleep(2 * accept.SEEN_SECONDS)
        assert (True, 1) == (acceptor.short, queue(listener))
        acceptor.start()
        await until(lambda: guests.transports and not acceptor.short)
        await acceptor.close()
        guests.leave()
        client.close()

    run(main())


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def fill() -> list[int]:
    """Take all the descriptors that this process may still have."""
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            return taken


def be_short() -> list[int]:
    """Lower the limit of this process and use up all descriptors; return those to close again."""
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, highest + 20))
    return fill()


SHORTAGE = "out of file descriptors or memory (Too many open files); new clients wait, see LimitNOFILE= or ulimit -n"


def test_without_descriptors_clients_wait(run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepting pauses with one line a minute, visibly; it resumes by itself when there are some again."""
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 1.0)
    clients = [dial(listener) for _ in range(3)]

    def child() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            guests, lines, seen = Guests(), Lines(), []
            log.addHandler(lines)
            acceptor = acceptor_of(loop, [listener], guests, changed=lambda: seen.append(acceptor.short))
            taken = be_short()
            acceptor.start()
            await until(lambda: lines.texts)
            assert [SHORTAGE] == lines.texts
            assert ([], [True], True) == (guests.transports, seen, acceptor.short)
            # paused: a listener that is readable all the time is not looked at
            assert not loop.remove_reader(listener)
            for fd in taken:
                os.close(fd)
            await until(lambda: len(guests.transports) == 3)
            await until(lambda: not acceptor.short)
            assert (1, [True, False]) == (len(lines.texts), seen)
            await acceptor.close()
            guests.leave()

        run(main())

    assert 0 == exit_code(fork(child))
    assert [b"hello"] * 3 == [client.recv(5) for client in clients]
    close(*clients)


def test_a_closed_connection_makes_room(run: Run, listener: socket.socket) -> None:
    """Its descriptor is used at once, long before the pause is over; who is in is not touched."""
    clients = [dial(listener) for _ in range(3)]

    def child() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            guests, lines = Guests(), Lines()
            log.addHandler(lines)
            acceptor = acceptor_of(loop, [listener], guests)
            taken = be_short()
            os.close(taken.pop())
            accept.PAUSE_SECONDS = DEADLINE_SECONDS  # type: ignore[misc]
            acceptor.start()
            await until(lambda: lines.texts and len(guests.transports) == 1)
            for number in (2, 3):
                os.close(taken.pop())
                acceptor.wake()
                await until(lambda: len(guests.transports) == number)  # noqa: B023
            # nobody waits any more, and yet there is no descriptor for the next one
            acceptor.wake()
            await turns()
            assert acceptor.short
            os.close(taken.pop())
            acceptor.wake()
            await until(lambda: not acceptor.short)
            assert not any(transport.is_closing() for transport in guests.transports)
            await acceptor.close()
            guests.leave()

        run(main())

    assert 0 == exit_code(fork(child))
    assert [b"hello"] * 3 == [client.recv(5) for client in clients]
    close(*clients)


def test_who_waits_for_long_without_descriptors_is_told(
    run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get 503 by means of the reserve, which is there for the next ones too; all are counted."""
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(accept, "LOOK_SECONDS", 0.01)
    clients = [dial(listener) for _ in range(accept.ACCEPTS_PER_TURN + 3)]
    ready, tell = os.pipe()

    def child() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            guests, lines, counters = Guests(), Lines(), Counters()
            log.addHandler(lines)
            acceptor = acceptor_of(loop, [listener], guests, counters=counters)
            be_short()
            acceptor.start()
            await until(lambda: counters.rejected == len(clients))
            assert (0, True) == (queue(listener), acceptor.short)
            os.write(tell, b".")
            await until(lambda: counters.rejections["descriptors"] == len(clients) + 1)
            assert ([], [SHORTAGE]) == (guests.transports, lines.texts)
            acceptor.stop()

        run(main())

    pid = fork(child)
    for client in clients:
        assert client.recv(1000).startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: ")
    os.read(ready, 1)
    late = dial(listener)
    assert late.recv(1000).startswith(b"HTTP/1.1 503 ")
    assert 0 == exit_code(pid)
    close(late, *clients)
    os.close(ready)
    os.close(tell)


def test_the_last_round_tells_all_for_whom_there_is_no_descriptor(run: Run, listener: socket.socket) -> None:
    """Whoever can be accepted is; the others would be reset with the listener, so they are told at once."""
    clients = [dial(listener) for _ in range(accept.ACCEPTS_PER_TURN + 3)]

    def child() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            guests, lines = Guests(), Lines()
            log.addHandler(lines)
            acceptor = acceptor_of(loop, [listener.dup()], guests)
            os.close(be_short().pop())
            await acceptor.empty_and_close()
            assert (1, 1, 0) == (len(guests.transports), len(lines.texts), queue(listener))
            guests.leave()

        run(main())

    assert 0 == exit_code(fork(child))
    assert b"hello" == clients[0].recv(5)
    assert {b"HTTP/1.1 503"} == {client.recv(12) for client in clients[1:]}
    close(*clients)


@pytest.mark.parametrize("lack", [errno.ENOBUFS, errno.ENOMEM])
def test_without_memory_clients_wait(
    run: Run, listener: socket.socket, lack: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is a pause with the same line; it is no shortage of descriptors, and nobody is told to go."""
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 1.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        guests, lines = Guests(), Lines()
        log.addHandler(lines)
        try:
            acceptor = acceptor_of(loop, [listener], guests)
            acceptor._fail(listener, OSError(lack, os.strerror(lack)))
            assert not acceptor.short
            assert [SHORTAGE.replace("Too many open files", os.strerror(lack))] == lines.texts
        finally:
            log.removeHandler(lines)
        client = dial(listener)
        acceptor.wake()
        await turns()
        assert [] == guests.transports
        await until(lambda: len(guests.transports) == 1)
        await acceptor.close()
        guests.leave()
        client.close()

    run(main())


def test_what_goes_on_is_said_once_a_minute_with_how_often_it_was_left_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A shortage and a crowd each have lines of their own."""

    async def main() -> None:
        acceptor = acceptor_of(asyncio.get_running_loop(), [], Guests())
        for minute in range(2):
            for _ in range(3):
                acceptor._report(OSError(errno.ENOMEM, "no memory"))
                acceptor._report_crowd()
            if minute == 0:
                monkeypatch.setattr(notices, "LOG_SECONDS", 0.0)

    with caplog.at_level(logging.INFO):
        run(main())
    later = "(and 2 more like it since the last such line)"
    for words, level in (("no memory", logging.ERROR), ("512 handshakes", logging.WARNING)):
        lines = [record for record in caplog.records if words in record.getMessage()]
        assert {level} == {record.levelno for record in lines}
        assert [False, True] == [later in record.getMessage() for record in lines][:2]


def test_a_listener_that_does_not_listen_is_not_spun_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be accepted from, yet epoll shows it as ready all the time: that is said, and it pauses until stop."""
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.02)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as bound:
            bound.setblocking(False)
            bound.bind(("127.0.0.1", 0))
            acceptor = acceptor_of(loop, [bound], Guests())
            acceptor.start()
            await until(lambda: caplog.messages)
            assert not loop.remove_reader(bound)
            acceptor.stop()
            bound.listen()
            client = dial(bound)
            # a timer that is due after the end of the pause: nobody has begun again by then
            await asyncio.sleep(2 * accept.PAUSE_SECONDS)
            assert 1 == queue(bound)
            client.close()
        assert ["cannot accept (Invalid argument); new clients wait"] == caplog.messages

    run(main())
