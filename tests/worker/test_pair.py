"""Pair: packets and descriptors over a real pair of sockets, in both loops."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from importlib import metadata

import pytest

from tests.worker.conftest import Run
from tests.worker.moving import descriptors, make_pair, no_descriptors
from tests.worker.service import DEADLINE_SECONDS
from wsworker.errors import WireError
from wsworker.handover.packets import PACKET_BYTES
from wsworker.worker import pair as module
from wsworker.worker.pair import Pair, PairClosed, Parcel, greeting


def pairs() -> tuple[Pair, Pair]:
    """Return both ends of one."""
    loop = asyncio.get_running_loop()
    ours, theirs = make_pair()
    return Pair(loop, ours), Pair(loop, theirs)


def test_packets_keep_their_borders_and_their_order(run: Run) -> None:
    """Also those of the largest size, and many more than the kernel holds at a time."""

    async def main() -> None:
        one, other = pairs()
        sent = [bytes([number]) * (number * 997 + 1) for number in range(100)] + [b"x" * PACKET_BYTES] * 20

        async def send() -> None:
            for packet in sent:
                await one.send(packet)

        task = asyncio.ensure_future(send())
        async with asyncio.timeout(DEADLINE_SECONDS):
            for packet in sent:
                assert Parcel(packet, None, False) == await other.receive()
            await task
        one.close()
        other.close()

    run(main())


def test_packets_that_are_sent_together(run: Run) -> None:
    """Each comes by itself, with its own descriptor if it has one, in few calls or, if they are large, in more."""

    async def main() -> None:
        one, other = pairs()
        with socket.socket() as sock:
            sent = [b"%d" % number * (number * 700 + 1) for number in range(40)] + [b"x" * PACKET_BYTES] * 4
            packets = [(packet, sock.fileno() if place % 3 else None) for place, packet in enumerate(sent)]
            task = asyncio.ensure_future(one.send_all(packets))
            async with asyncio.timeout(DEADLINE_SECONDS):
                for expected, descriptor in packets:
                    parcel = await other.receive()
                    assert (expected, descriptor is None, False) == (parcel[0], parcel[1] is None, parcel[2])
                    if parcel.descriptor is not None:
                        assert os.path.sameopenfile(sock.fileno(), parcel.descriptor)
                        os.close(parcel.descriptor)
                await task
        one.close()
        other.close()

    run(main())


def test_no_packets_at_all(run: Run) -> None:
    """Nothing is sent: a bundle of 0 bytes would look like the end of the pair."""

    async def main() -> None:
        one, other = pairs()
        await one.send_all([])
        assert other.receive_now() is None
        await one.send(b"x")
        assert (b"x", None, False) == await other.receive()
        one.close()
        other.close()

    run(main())


def test_what_was_received_and_not_wanted_is_closed(run: Run) -> None:
    """Who closes an end has no descriptors left of packets that it has not asked for."""

    async def main() -> None:
        one, other = pairs()
        with socket.socket() as sock:
            before = descriptors()
            await one.send_all([(b"a", None), (b"b", sock.fileno()), (b"c", None), (b"d", sock.fileno())])
            assert b"a" == (await other.receive()).packet
            assert len(before) + 2 == len(descriptors())
            other.close()
            assert len(before) - 1 == len(descriptors())
        one.close()

    run(main())


def test_a_copy_lets_go_of_what_was_received(run: Run) -> None:
    """Also of what nobody has asked for yet, or it would hold a client's socket open."""

    async def main() -> None:
        one, other = pairs()
        with socket.socket() as sock:
            before = descriptors()
            await one.send_all([(b"a", None), (b"b", sock.fileno())])
            assert b"a" == (await other.receive()).packet
            assert len(before) + 1 == len(descriptors())
            other.let_go()
            assert len(before) - 1 == len(descriptors())
        other._socket.detach()
        one.close()

    run(main())


@pytest.mark.parametrize("bundle", [b"x", b"\0\0\0\1\0", b"\0\0\0\1\1", b"\0\0\0\1\0ab", bytes(5 + PACKET_BYTES + 1)])
def test_what_is_no_bundle(run: Run, bundle: bytes) -> None:
    """It is refused, and the descriptors that came with it are closed."""

    async def main() -> None:
        loop, (ours, theirs) = asyncio.get_running_loop(), make_pair()
        other = Pair(loop, ours)
        before = descriptors()
        socket.send_fds(theirs, [bundle], [theirs.fileno()])
        with pytest.raises(WireError):
            await other.receive()
        assert before == descriptors()
        theirs.close()
        other.close()

    run(main())


def test_a_descriptor_comes_with_its_packet(run: Run) -> None:
    """It is another one for the same file, is closed at exec, and the sender keeps its own."""

    async def main() -> None:
        one, other = pairs()
        with socket.socket() as sock:
            await one.send(b"before")
            await one.send(b"with", sock.fileno())
            await one.send(b"behind")
            assert (b"before", None, False) == await other.receive()
            packet, descriptor, lost = await other.receive()
            assert (b"with", False) == (packet, lost)
            assert descriptor is not None
            assert os.fstat(descriptor).st_ino == os.fstat(sock.fileno()).st_ino
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)
            assert (b"behind", None, False) == await other.receive()
        one.close()
        other.close()

    run(main())


def test_a_descriptor_for_which_there_is_no_room(run: Run) -> None:
    """The packet comes all the same, and says that something was lost."""

    async def main() -> None:
        one, other = pairs()
        with socket.socket() as sock:
            await one.send(b"with", sock.fileno())
            with no_descriptors():
                parcel = await other.receive()
            assert (b"with", None, True) == parcel
        one.close()
        other.close()

    run(main())


@pytest.mark.parametrize("how", ["close", "let_go"])
def test_the_other_end_is_gone(run: Run, how: str) -> None:
    """What it had said is read first; then both directions are closed."""

    async def main() -> None:
        one, other = pairs()
        await other.send(b"last")
        waits = asyncio.ensure_future(one.receive())
        assert b"last" == (await waits).packet
        waits = asyncio.ensure_future(one.receive())
        await asyncio.sleep(0)
        getattr(other, how)()
        with pytest.raises(PairClosed):
            await asyncio.wait_for(waits, DEADLINE_SECONDS)
        with pytest.raises(PairClosed):
            await one.send(b"x")
        one.close()
        if how == "let_go":
            # as the process that has let go would have ended
            other._socket.detach()

    run(main())


def test_our_own_end_is_closed(run: Run) -> None:
    """Who waits is told, to read as to write; and closing twice is nothing."""

    async def main() -> None:
        one, other = pairs()
        reads = asyncio.ensure_future(one.receive())

        async def fill() -> None:
            while True:
                await one.send(b"x" * PACKET_BYTES)

        writes = asyncio.ensure_future(fill())
        await asyncio.sleep(0.01)
        one.close()
        one.close()
        for task in (reads, writes):
            with pytest.raises(PairClosed):
                await asyncio.wait_for(task, DEADLINE_SECONDS)
        with pytest.raises(PairClosed):
            await one.receive()
        other.close()

    run(main())


@pytest.mark.parametrize("number", sorted(module.PASSING))
def test_a_lack_that_passes(run: Run, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Too many descriptors are on their way, or memory is short: it tries again."""

    async def main() -> None:
        one, other = pairs()
        tries = 0
        sendmsg = socket.socket.sendmsg

        def short(*args: object) -> int:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise OSError(number, os.strerror(number))
            return sendmsg(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "PASSING_SECONDS", 0.001)
        monkeypatch.setattr(socket.socket, "sendmsg", short, raising=False)
        await asyncio.wait_for(one.send(b"x"), DEADLINE_SECONDS)
        assert (b"x", 3) == ((await other.receive()).packet, tries)
        one.close()
        other.close()

    assert number != errno.EPIPE
    run(main())


def test_the_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says the version of the package, or that there is none."""
    assert metadata.version("wsworker") == greeting().wsworker

    def none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    assert "of no version" == greeting().wsworker
