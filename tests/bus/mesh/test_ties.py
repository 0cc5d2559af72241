"""One link for each pair of workers: who dials, what is lost with a link, and that it comes again."""

from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from tests.bus.contract import ROOM, Sink, Station, known, until
from tests.bus.mesh.harbor import RIGHT, Stranger, harbor, snapshot
from tests.worker.conftest import Run
from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.records import encode_hello
from wsworker.bus.topics import EVERYBODY

pytestmark = pytest.mark.usefixtures("unhurried")


async def linked(station: Station, count: int) -> None:
    """Wait until a station can reach so many others."""
    await until(lambda: station.bus.stats().links == count)


def test_every_pair_has_one_link(run: Run) -> None:
    """However many start at once, and whoever of them is READY first."""

    async def main() -> None:
        async with harbor() as made:
            stations = [Station(made.mesh(number), Sink()) for number in range(1, 9)]
            for station in stations:
                await station.bus.start(station.sink)
            for number in (3, 1, 8, 2, 4, 5, 6, 7):
                made.stand(number, Standing.READY)
                await asyncio.sleep(0)
            await until(lambda: all(station.bus.stats().links == 7 for station in stations))
            # a second link of a pair may be just about to end
            await until(lambda: all(len(mesh.links) == 7 for mesh in made.meshes.values()))
            for mesh in made.meshes.values():
                assert "" == await mesh.linked(1)
            assert all([] == station.sink.gaps for station in stations)

    run(main())


def test_two_that_dial_each_other_keep_one_link(run: Run) -> None:
    """Each believes that it is to dial, as happens while the table changes."""

    async def main() -> None:
        async with harbor() as made:
            one, two = Station(made.mesh(1), Sink()), Station(made.mesh(2), Sink())
            made.members = {number: Member(number, number, Standing.READY) for number in (1, 2)}
            # neither is READY in its own eyes, so both dial
            await one.bus.start(one.sink)
            await two.bus.start(two.sink)
            for mesh in made.meshes.values():
                assert 1 == len(mesh.links)
                assert mesh._gate is not None
                mesh._gate.open()
            await until(lambda: one.bus.stats().links == two.bus.stats().links == 1)
            await until(lambda: all(len(mesh.links) == 1 for mesh in made.meshes.values()))

    run(main())


def test_a_worker_that_finds_nobody_waits_no_longer_than_it_is_to(run: Run) -> None:
    """It says which slots are missing, and links with them once they answer."""

    async def main() -> None:
        async with harbor() as made:
            made.listener(1)
            made.members[1] = Member(1, 1, Standing.READY)
            station = Station(made.mesh(2), Sink())
            await station.bus.start(station.sink)
            mesh = made.meshes[2]
            assert "workers in these slots do not answer on the bus: 1" == await mesh.linked(0.05)
            del made.members[1]
            assert "" == await mesh.linked(5)

    run(main())


def test_a_worker_that_dies_is_a_gap_and_is_forgotten(run: Run) -> None:
    """Of any topic, as nobody knows what it had to say; once, and only when the table says that it is dead."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            made.kill(2)
            await until(lambda: one.bus.stats().links == 0)
            assert [] == one.sink.gaps
            made.bury(2)
            await until(lambda: one.sink.gaps)
            assert [(None, None)] == one.sink.gaps
            # what it had for other machines, only the others of its own can tell
            assert 1 == one.sink.debts
            mesh = made.meshes[1]
            assert [] == [*mesh._peers]
            assert (0, 0) == (mesh._peers.interest.mask(ROOM), mesh._budget.used)
            three = await made.boot(3, slot=2)
            await known(three, one, key=EVERYBODY)
            assert [(None, None)] == one.sink.gaps

    run(main())


def test_a_lost_link_comes_again_and_is_told_on_both_sides(run: Run) -> None:
    """Behind what they want anew; what is published meanwhile waits."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            one.subscribe(ROOM)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            (link,) = made.meshes[1].links
            (peer,) = made.meshes[1]._peers
            peer.dial_at = asyncio.get_running_loop().time() + 0.1
            link._socket.shutdown(socket.SHUT_RDWR)
            await until(lambda: one.bus.stats().links == 0)
            one.publish(ROOM, b"meanwhile")
            await until(lambda: one.sink.gaps and two.sink.gaps)
            assert [(None, None)] == one.sink.gaps == two.sink.gaps
            await until(lambda: b"meanwhile" in two.sink.bodies)
            assert (1, 1) == (one.bus.stats().reconnects, two.bus.stats().reconnects)
            await known(two, one, key=ROOM)

    run(main())


def test_a_link_that_is_lost_again_before_it_is_told(run: Run) -> None:
    """The first loss is still to be told: the second one, over which nothing was said, does not undo it."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[5] = Member(5, 5, Standing.STARTING)
            hello = encode_hello(RIGHT._replace(worker=5, slot=5))
            for words in ((hello, snapshot(ROOM)), (hello,)):
                stranger = Stranger(made)
                stranger.say(*words)
                await stranger.hear(2)
                await linked(one, len(words) - 1)
                stranger.socket.close()
                await until(lambda: next(iter(made.meshes[1]._peers)).link is None)
            assert [] == one.sink.gaps
            made.bury(5)
            await until(lambda: one.sink.gaps)
            assert [(None, None)] == one.sink.gaps

    run(main())


def test_who_dies_before_it_has_said_a_word_is_no_gap(run: Run) -> None:
    """It has published nothing over that link."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[5] = Member(5, 5, Standing.STARTING)
            stranger = Stranger(made)
            stranger.say(encode_hello(RIGHT._replace(worker=5, slot=5)))
            await stranger.hear(2)
            stranger.socket.close()
            await until(lambda: next(iter(made.meshes[1]._peers)).link is None)
            made.bury(5)
            await until(lambda: [*made.meshes[1]._peers] == [])
            assert [] == one.sink.gaps

    run(main())


def test_a_worker_without_descriptors_dials_when_it_has_some(run: Run) -> None:
    """It raises nothing, and looks again: what is short for a moment costs no link for good."""

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            made.members[2] = Member(2, 2, Standing.READY)
            made.listener(2)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                made.meshes[1]._ties.look()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert [] == made.meshes[1].links
            for _ in range(2):
                await until(lambda: made.meshes[1].links)
                (link,) = made.meshes[1].links
                # who hangs up is dialled again as well, perhaps before this test looks
                Stranger(made, 2, accepts=True).socket.close()
                await until(lambda: link not in made.meshes[1].links)  # noqa: B023

    run(main())


def test_it_looks_again_whatever_has_gone_wrong(run: Run) -> None:
    """Such as a table that cannot be read: who waits is woken, and the next look comes."""

    async def main() -> None:
        async with harbor() as made:
            looks = 0

            def members() -> list[Member]:
                nonlocal looks
                looks += 1
                if looks == 1:
                    raise RuntimeError("broken")
                return [Member(1, 1, Standing.STARTING)]

            ties = made.mesh(1, members=members)._ties
            with pytest.raises(RuntimeError, match="broken"):
                ties.look()
            assert ties.moved.is_set()
            await until(lambda: looks >= 2)

    run(main())


def test_a_dial_that_is_answered_by_the_next_worker_of_the_slot(run: Run) -> None:
    """The one that was dialled has left the table meanwhile: the link is used for the one that has answered."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[2] = Member(2, 2, Standing.READY)
            made.listener(2)
            ties = made.meshes[1]._ties
            ties.look()
            assert ties._timer is not None
            ties._timer.cancel()  # the answer comes before the next look
            answering = Stranger(made, 2, accepts=True)
            del made.members[2]
            made.members[3] = Member(3, 2, Standing.READY)
            answering.say(encode_hello(RIGHT._replace(worker=3, slot=2)), snapshot())
            await linked(one, 1)
            assert [3] == [peer.member.worker for peer in made.meshes[1]._peers]
            answering.socket.close()

    run(main())


def test_a_dial_that_is_answered_by_one_who_has_left_the_table(run: Run) -> None:
    """It has died just after: there is nobody to be linked with, and nothing is left of the dial."""

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            made.members[2] = Member(2, 2, Standing.READY)
            made.listener(2)
            ties = made.meshes[1]._ties
            ties.look()
            assert ties._timer is not None
            ties._timer.cancel()
            answering = Stranger(made, 2, accepts=True)
            del made.members[2]
            answering.say(encode_hello(RIGHT._replace(worker=2, slot=2)))
            await until(lambda: ties.links == [])
            assert [] == [*made.meshes[1]._peers]
            answering.socket.close()

    run(main())


def test_a_copy_of_the_worker_keeps_nothing(run: Run) -> None:
    """Else the others would not see the end of a worker as long as a process lives that its code has forked."""

    async def main() -> None:
        async with harbor() as made:
            for number in (1, 2):
                await made.boot(number)
            mesh = made.meshes[1]
            await until(lambda: mesh.stats().links == 1)
            berth = mesh._berth
            open_here = [berth.folder, berth.listener.fileno(), *(link._socket.fileno() for link in mesh.links)]
            assert 3 == len(open_here)
            pid = os.fork()
            if pid == 0:
                mesh.let_go()
                berth.let_go()
                os._exit(sum(os.path.exists(f"/proc/self/fd/{number}") for number in open_here))
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert 1 == mesh.stats().links

    run(main())
