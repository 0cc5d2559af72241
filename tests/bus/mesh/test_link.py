"""One stream between two workers: turns, bounds, the end; on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from tests.bus.contract import until
from tests.worker.conftest import Run
from wsworker.bus.mesh import link as link_module
from wsworker.bus.mesh.link import RECORDS_PER_TURN, Link
from wsworker.bus.mesh.outbox import Budget, Outbox
from wsworker.bus.records import Hello, Record, Type, encode, encode_hello
from wsworker.errors import WireError

pytestmark = pytest.mark.usefixtures("unhurried")

HELLO = encode_hello(Hello(bytes(16), 7, 1, 1000, "node"))
MOST = 100_000


class Owner:
    """Writes down what a link tells."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.turns: list[int] = []
        self.count = 0

    def greeted(self, link: Link, hello: Hello) -> None:
        self.told.append(hello.worker)

    def received(self, link: Link, record: Record) -> None:
        self.count += 1
        if record.type == Type.GAP:
            raise WireError("no gap here")
        if record.type == Type.CLOSE:
            link.close()
        if record.type == Type.PROBE:
            raise RuntimeError("a mistake")

    def rested(self, link: Link) -> None:
        self.turns.append(self.count)

    def wrote(self, link: Link) -> None:
        self.told.append("wrote")

    def ended(self, link: Link, why: str) -> None:
        self.told.append(why)


def pair(limit: int = 10**6) -> tuple[Link, socket.socket, Owner]:
    """Return a link, the other end of its stream, and its owner."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    owner = Owner()
    return Link(asyncio.get_running_loop(), ours, owner, Outbox(limit, Budget(10**9)), MOST), theirs, owner


async def told_twice(owner: Owner) -> None:
    """Wait until the owner was told two things."""
    await until(lambda: len(owner.told) == 2)


def test_a_turn_ends_and_goes_on(run: Run) -> None:
    """A peer that sends without end does not keep others waiting; nothing of it is lost, not even at its end."""

    async def main() -> None:
        _, theirs, owner = pair()
        theirs.sendall(HELLO + encode(Type.MESSAGE) * 1000 + encode(Type.GOODBYE))
        theirs.close()
        await until(lambda: "" in owner.told)
        assert ([7, ""], 1001) == (owner.told, owner.count)
        assert len(owner.turns) > 3
        steps = [after - before for before, after in zip(owner.turns, owner.turns[1:], strict=False)]
        assert max(steps) <= RECORDS_PER_TURN

    run(main())


def test_an_end_without_a_word(run: Run) -> None:
    """Whoever dies cannot say goodbye."""

    async def main() -> None:
        link, theirs, owner = pair()
        theirs.sendall(HELLO)
        theirs.close()
        await until(lambda: len(owner.told) == 2)
        assert [7, "it has ended without a word"] == owner.told
        assert not link.open

    run(main())


def test_faults_end_it_behind_what_came_before(run: Run) -> None:
    """Of the stream, and of what the owner does not take."""

    async def main() -> None:
        for fault, why in (
            (b"\xff\xff\xff\xff", f"a record of 4294967295 bytes, and not 4 to {MOST}"),
            (encode(Type.GAP), "no gap here"),
            (HELLO, "a second greeting"),
        ):
            _, theirs, owner = pair()
            theirs.sendall(HELLO + encode(Type.MESSAGE) * 2 + fault + encode(Type.MESSAGE))
            await told_twice(owner)
            assert [7, why] == owner.told
            assert owner.count in (2, 3)
            assert b"" == theirs.recv(1)
            theirs.close()

    run(main())


def test_a_mistake_of_ours_ends_it(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is raised, and with however much that waits behind it: no link stays on which nothing is read."""

    async def main() -> None:
        link, theirs, owner = pair()
        theirs.sendall(HELLO + encode(Type.MESSAGE) * 400 + encode(Type.PROBE) + encode(Type.MESSAGE) * 400)
        await told_twice(owner)
        assert ([7, "what came could not be handled"], 401) == (owner.told, owner.count)
        assert not link.open
        (logged,) = caplog.records
        assert "what came over a link of the bus could not be handled" == logged.getMessage()
        assert logged.exc_info
        theirs.close()

    run(main())


def test_an_owner_may_close_in_the_middle(run: Run) -> None:
    """Then nothing more is handed on, and it is told of no end."""

    async def main() -> None:
        link, theirs, owner = pair()
        theirs.sendall(HELLO + encode(Type.MESSAGE) + encode(Type.CLOSE) + encode(Type.MESSAGE))
        await until(lambda: not link.open)
        await asyncio.sleep(0.01)
        assert ([7], 2) == (owner.told, owner.count)
        link.close()
        theirs.close()

    run(main())


def test_what_the_kernel_does_not_take_waits(run: Run) -> None:
    """In its order, and the owner hears whenever some of it has gone."""

    async def main() -> None:
        link, theirs, owner = pair()
        theirs.setblocking(False)
        sent = b""
        for number in range(40):
            record = encode(Type.MESSAGE, bytes([number]) * 50_000)
            link.outbox.force(record)
            sent += record
        link.write()
        assert link.outbox.size > 0
        link.write()
        received = b""
        loop = asyncio.get_running_loop()
        while len(received) < len(sent):
            received += await loop.sock_recv(theirs, 10**6)
        assert sent == received
        await until(lambda: link.outbox.size == 0)
        assert "wrote" in owner.told
        link.put(encode(Type.GOODBYE))
        link.write()
        link.close()
        assert encode(Type.GOODBYE) == await loop.sock_recv(theirs, 100)
        assert b"" == await loop.sock_recv(theirs, 100)
        theirs.close()

    run(main())


def test_writing_to_one_that_is_gone(run: Run) -> None:
    """It raises nothing; the end is read behind what the other has said."""

    async def main() -> None:
        link, theirs, owner = pair()
        theirs.sendall(HELLO + encode(Type.MESSAGE) + encode(Type.GOODBYE))
        theirs.close()
        link.outbox.force(encode(Type.MESSAGE))
        link.write()
        await until(lambda: "" in owner.told)
        assert 2 == owner.count
        assert 0 == link.outbox.size

    run(main())


@pytest.mark.parametrize("writes", [False, True])
def test_a_death_with_much_that_is_unread_on_both_sides(run: Run, writes: bool) -> None:
    """More than is read at once, and an error on the stream, of which uvloop tells once: all is read, and the end."""

    async def main() -> None:
        link, theirs, owner = pair()
        link.put(encode(Type.MESSAGE))
        link.write()
        theirs.sendall(HELLO)
        await until(lambda: 7 in owner.told)
        theirs.sendall(encode(Type.MESSAGE, bytes(1000)) * 120)
        # with our message unread there, as a kill leaves it: the stream is reset
        theirs.close()
        if writes:
            link.put(encode(Type.MESSAGE))
            link.write()
        await until(lambda: not link.open)
        assert (["wrote", 7, "it has ended without a word"], 120) == (owner.told, owner.count)

    run(main())


def test_who_is_silent_is_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A greeting has a deadline; a half of one is none."""
    monkeypatch.setattr(link_module, "GREETING_SECONDS", 0.05)

    async def main() -> None:
        link, theirs, owner = pair()
        theirs.sendall(HELLO[:10])
        await until(lambda: owner.told)
        assert ["no greeting came in time"] == owner.told
        assert not link.open
        theirs.close()

    run(main())


def test_an_end_of_hearing(run: Run) -> None:
    """What was sent before it is read to its end; who sends later knows that it was not. Still we can say something."""
    record = encode(Type.MESSAGE, b"x", name="t")

    async def main() -> None:
        link, theirs, owner = pair()
        theirs.send(HELLO + record * (RECORDS_PER_TURN + 1) + record[:5])
        link.hear_out()
        link.hear_out()
        with pytest.raises(BrokenPipeError):
            theirs.send(record)
        link.put(record)
        link.write()
        await until(lambda: not link.open)
        assert (RECORDS_PER_TURN + 1, record) == (owner.count, theirs.recv(1000))
        assert [7, "it has ended without a word"] == [told for told in owner.told if told != "wrote"]
        # a link that is closed hears nothing anyway
        link.hear_out()
        theirs.close()

    run(main())


def test_the_peer_is_known_by_the_kernel(run: Run) -> None:
    """Its uid."""

    async def main() -> None:
        link, theirs, _ = pair()
        assert os.geteuid() == link.peer_uid()
        link.close()
        theirs.close()

    run(main())


def test_a_copy_lets_go(run: Run) -> None:
    """The descriptor is closed, once, whatever the link does later."""

    async def main() -> None:
        link, theirs, _ = pair()
        number = link._socket.fileno()
        asyncio.get_running_loop().remove_reader(number)
        link._timer.cancel()
        link.let_go()
        assert -1 == link._socket.fileno()
        assert b"" == theirs.recv(1)
        link.let_go()
        theirs.close()

    run(main())
