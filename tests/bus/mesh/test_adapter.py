"""The mesh: what is published, wanted, dropped and told between the workers of one machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.bus import contract
from tests.bus.contract import DEADLINE_SECONDS, OTHER, ROOM, Circle, Sink, Station, known, until
from tests.bus.mesh.harbor import NODE, RIGHT, Stranger, circle, harbor, snapshot
from tests.worker.conftest import Run
from wsworker.bus import records
from wsworker.bus.losses import Gap
from wsworker.bus.mesh.adapter import Mesh
from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.records import Type
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin

pytestmark = pytest.mark.usefixtures("unhurried")


async def linked(station: Station, count: int) -> None:
    """Wait until a station can reach so many others."""
    await until(lambda: station.bus.stats().links == count)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract(run: Run, check: Callable[[Circle], Awaitable[None]]) -> None:
    """What every adapter does."""

    async def main() -> None:
        await check(circle)  # type: ignore[arg-type]

    run(main())


def test_a_worker_is_replaced_without_a_gap(run: Run) -> None:
    """The new one of a slot hears the old ones and is heard by them, whoever of them still accepts."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            for station in (one, two):
                station.subscribe(ROOM)
            await known(one, two, key=ROOM)
            # 3 replaces 1, then 4 replaces 2, while 1 still has clients
            three = await made.boot(3, slot=1)
            three.subscribe(ROOM)
            made.stand(1, Standing.DRAINING)
            four = Station(made.mesh(4, slot=2), Sink())
            await four.bus.start(four.sink)
            four.subscribe(ROOM)
            assert "" == await made.meshes[4].linked(5)
            made.stand(4, Standing.READY)
            made.stand(2, Standing.DRAINING)
            # 1 and 4 never were READY at the same time: what 4 says before they are linked waits for 1
            four.publish(ROOM, b"early")
            await until(lambda: b"early" in one.sink.bodies)
            for station in (one, two, three, four):
                await linked(station, 3)
            for old in (1, 2):
                await made.end(old)
            await until(lambda: three.bus.stats().links == four.bus.stats().links == 1)
            await known(three, four, key=ROOM)
            assert all([] == station.sink.gaps for station in (one, two, three, four))

    run(main())


def test_a_link_that_comes_about_while_a_worker_leaves(run: Run) -> None:
    """It waits for one that is slow, and meanwhile a dial is answered, and somebody greets: all are told goodbye."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            (slow,) = made.meshes[2].links
            slow._set_reading(False)
            one.publish(ROOM, *[bytes(100_000)] * 20)
            mesh = made.meshes.pop(1)
            guest = Stranger(made)
            await until(lambda: len(mesh.links) == 2)
            for number in (3, 4):
                made.listener(number)
                made.members[number] = Member(number, number, Standing.READY)
            made.members[5] = Member(5, 5, Standing.STARTING)
            mesh._ties.look()
            answering, late = Stranger(made, 3, accepts=True), Stranger(made, 4, accepts=True)
            leaves = asyncio.create_task(mesh.close(0.5))
            await asyncio.sleep(0)
            for number, stranger in ((3, answering), (5, guest)):
                hello = records.encode_hello(RIGHT._replace(worker=number, slot=number))
                stranger.say(hello, snapshot())
            await leaves
            mesh._berth.listener.close()
            for number in (1, 3, 4, 5):
                del made.members[number]
            for stranger in (answering, guest, late):
                await stranger.until_out()
            assert [Type.HELLO, Type.SNAPSHOT, Type.GOODBYE] == [record.type for record in answering.records]
            assert [Type.HELLO, Type.SNAPSHOT, Type.GOODBYE] == [record.type for record in guest.records]
            assert [Type.HELLO, Type.GOODBYE] == [record.type for record in late.records]
            slow._set_reading(True)

    run(main())


def test_what_is_held_is_handed_over_before_the_end(run: Run) -> None:
    """A worker that leaves waits for who is just being dialled, and says goodbye behind the last message."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.listener(5)
            made.members[5] = Member(5, 5, Standing.READY)
            made.meshes[1]._ties.look()
            one.publish(ROOM, b"last")
            made.stand(1, Standing.DRAINING)
            ending = asyncio.create_task(made.end(1))
            await asyncio.sleep(0)
            # nobody answers for so long
            assert not ending.done()
            peer = Stranger(made, slot=5, accepts=True)
            peer.say(records.encode_hello(RIGHT._replace(worker=5, slot=5)), snapshot(ROOM))
            told = await peer.hear(4)
            expected = [Type.HELLO, Type.SNAPSHOT, Type.MESSAGE, Type.GOODBYE]
            assert (expected, b"last") == ([record.type for record in told], told[2].body)
            await ending
            peer.socket.close()

    run(main())


def test_a_worker_does_not_wait_for_who_never_answers(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Its time is bounded, and it says that something was lost; for who wants nothing it does not wait at all."""

    async def main() -> None:
        async with harbor() as made:
            for worker, messages in ((1, []), (2, [b"last"])):
                station = await made.boot(worker)
                made.listener(5)
                made.members[5] = Member(5, 5, Standing.READY)
                mesh = made.meshes.pop(worker)
                mesh._ties.look()
                station.publish(ROOM, *messages)
                await mesh.close(0.05)
                mesh._berth.listener.close()
                del made.members[worker], made.members[5]
                lost = "some of what was published last could not be written to other workers"
                assert [lost] * len(messages) == caplog.messages

    run(main())


def test_a_worker_does_not_wait_for_one_that_leaves_too(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Who drains cannot be dialled any more, so what is held for it is nobody's."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[5] = Member(5, 5, Standing.DRAINING)
            mesh = made.meshes.pop(1)
            mesh._ties.look()
            one.publish(ROOM, b"last")
            (peer,) = mesh._peers
            assert peer.held
            async with asyncio.timeout(DEADLINE_SECONDS):
                await mesh.close(600)
            mesh._berth.listener.close()
            assert [] == caplog.messages

    run(main())


def test_who_never_answers_takes_nobody_else_s_last_messages(run: Run) -> None:
    """While it is waited for, the links that are there are written, however much is queued; and the goodbye behind."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            two = await made.boot(2)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            (link,) = made.meshes[2].links
            made.listener(5)
            made.members[5] = Member(5, 5, Standing.READY)
            mesh = made.meshes.pop(1)
            mesh._ties.look()
            link._set_reading(False)
            for number in range(40):
                one.publish(ROOM, b"%d " % number + bytes(50_000))
            # long enough for a process that stands still meanwhile
            ending = asyncio.create_task(mesh.close(3))
            await asyncio.sleep(0.05)
            assert not ending.done()
            link._set_reading(True)
            await ending
            mesh._berth.listener.close()
            await until(lambda: not link.open)
            bodies = [envelope.body for envelope in two.sink.envelopes]
            assert [*range(40)] == [int(body.split()[0]) for body in bodies]
            assert [] == two.sink.gaps
            del made.members[1], made.members[5]

    run(main())


def test_what_nobody_elsewhere_wants_costs_no_write(run: Run) -> None:
    """A topic without subscribers elsewhere goes to no queue."""

    async def main() -> None:
        async with circle(2) as (one, two):
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            assert isinstance(one.bus, Mesh)
            assert one.bus.publish(Envelope(OTHER, b"x"))
            assert set() == one.bus._written_to
            assert 0 == one.bus.stats().queued_bytes

    run(main())


def test_probes_tell_how_far_others_are(run: Run) -> None:
    """They are sent now and then, and answered."""

    async def main() -> None:
        async with circle(2) as (one, _):
            assert isinstance(one.bus, Mesh)
            await until(lambda: one.bus.stats().links == 1)
            one.bus._probe()
            await until(lambda: one.bus.stats().lag_seconds > 0)
            assert one.bus.stats().lag_seconds < 5

    run(main())


def test_a_debt_is_handed_on(run: Run) -> None:
    """By one who leaves, to the newest who is READY and no other; if there is nobody, it stays."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            assert not one.bus.owe()
            stations = [await made.boot(number) for number in (2, 3, 4)]
            made.stand(4, Standing.DRAINING)
            await until(lambda: all(station.bus.stats().links == 3 for station in (one, *stations)))
            assert one.bus.owe()
            one.bus.flush()
            await made.end(1)
            await until(lambda: stations[1].sink.debts)
            assert [0, 1, 0] == [station.sink.debts for station in stations]
            assert not one.bus.owe()

    run(main())


def test_a_debt_is_not_handed_to_who_leaves_too(run: Run) -> None:
    """It would hand it back, or to the next; who has said goodbye, or drains by the table, is not asked."""

    async def main() -> None:
        async with harbor() as made:
            one, two, three = [await made.boot(number) for number in (1, 2, 3)]
            await until(lambda: all(station.bus.stats().links == 2 for station in (one, two, three)))
            made.members[2] = Member(2, 2, Standing.DRAINING)
            assert one.bus.owe()
            await made.meshes[3].close(1)
            mesh = made.meshes[1]
            await until(lambda: not any(peer.stays for peer in mesh._peers))
            assert not one.bus.owe()

    run(main())


def test_a_debt_may_come_until_the_end(run: Run) -> None:
    """While a worker that leaves waits for others, one whose broker is closed already may hand its own to it."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            await linked(two, 1)
            made.listener(5)
            made.members[5] = Member(5, 5, Standing.READY)
            made.meshes[1]._ties.look()
            one.publish(ROOM, b"held for who does not answer")
            ending = asyncio.create_task(made.end(1))
            await asyncio.sleep(0)
            assert two.bus.owe()
            two.bus.flush()
            await until(lambda: one.sink.debts)
            assert not ending.done()
            del made.members[5]
            await ending

    run(main())


def test_one_that_was_lost_and_says_goodbye_has_not_died(run: Run) -> None:
    """What it has said over the lost link may be missing here; what it had for other machines it has told itself."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[5] = Member(5, 5, Standing.STARTING)
            hello = records.encode_hello(RIGHT._replace(worker=5, slot=5))
            peer = Stranger(made)
            peer.say(hello, snapshot())
            await until(lambda: one.bus.stats().links == 1)
            peer.socket.close()
            await until(lambda: one.bus.stats().links == 0)
            peer = Stranger(made)
            # it leaves before it says what it wants, so nothing is told yet
            peer.say(hello, records.encode(Type.GOODBYE))
            await until(lambda: next(iter(made.meshes[1]._peers)).left)
            peer.socket.close()
            del made.members[5]
            await until(lambda: [*made.meshes[1]._peers] == [])
            assert ([(None, None)], 0) == (one.sink.gaps, one.sink.debts)

    run(main())


def test_a_slow_peer_costs_a_bounded_queue(run: Run) -> None:
    """What meets a full one is dropped, counted, and told in its place; then all is as before."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1, peer_queue=100_000)
            two = await made.boot(2)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            (link,) = made.meshes[2].links
            link._set_reading(False)
            sent = 0
            while one.publish(ROOM, b"%d " % sent + bytes(1000)):
                sent += 1
            for number in range(50):
                assert not one.publish(ROOM, b"lost %d" % number)
            assert one.bus.stats().queued_bytes < 150_000
            assert 51 == sum(one.bus.stats().dropped.values())
            # what is wanted meanwhile is told when there is room
            one.subscribe(OTHER)
            one.unsubscribe(OTHER)
            one.subscribe(OTHER)
            two.sink.order.clear()
            link._set_reading(True)
            await until(lambda: two.sink.gaps)
            assert [(frozenset({ROOM}), 51)] == two.sink.gaps
            one.publish(ROOM, b"later")
            await until(lambda: b"later" in two.sink.order)
            numbers = [int(body.split()[0]) for body in two.sink.order[:-2] if isinstance(body, bytes)]
            assert [*range(sent)] == numbers
            assert ["gap", b"later"] == two.sink.order[-2:]
            await known(two, one, key=OTHER)

    run(main())


def test_what_is_wanted_does_not_fill_a_slow_peer_s_queue(run: Run) -> None:
    """A client that changes topics without end: the other one is told all that is wanted once it reads again."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1, peer_queue=100_000)
            two = await made.boot(2)
            await linked(one, 1)
            (link,) = made.meshes[2].links
            link._set_reading(False)
            for number in range(4000):
                key = Key("topic", f"{number:0200}")
                one.subscribe(key)
                one.unsubscribe(key)
            one.subscribe(ROOM)
            assert one.bus.stats().queued_bytes < 150_000
            link._set_reading(True)
            await known(two, one, key=ROOM)
            assert [] == one.sink.gaps == two.sink.gaps
            assert 0 == sum(one.bus.stats().dropped.values())
            # one who links later hears the same
            three = await made.boot(3)
            await known(three, one, key=ROOM)

    run(main())


def test_what_is_held_and_not_taken_is_told_at_once(run: Run) -> None:
    """It is counted, and no write has to come along to tell it."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[5] = Member(5, 5, Standing.READY)
            made.meshes[1]._ties.look()
            one.publish(ROOM, bytes(200_000))
            peer = Stranger(made)
            hello = RIGHT._replace(worker=5, slot=5, most=1000)
            peer.say(records.encode_hello(hello), snapshot(ROOM))
            told = await peer.hear(3)
            assert [Type.HELLO, Type.SNAPSHOT, Type.GAP] == [record.type for record in told]
            assert Gap(1, frozenset({ROOM})) == records.decode_gap(told[2].body)
            assert 1 == sum(one.bus.stats().dropped.values())
            peer.socket.close()

    run(main())


def test_what_is_held_for_too_long(run: Run) -> None:
    """It is counted apart from what met a full queue: a longer one would not have helped it."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1, peer_queue=100)
            made.members[5] = Member(5, 5, Standing.READY)
            made.meshes[1]._ties.look()
            (peer,) = made.meshes[1]._peers
            assert peer.held is not None
            peer.held.push(b"old", ROOM, asyncio.get_running_loop().time() - 4)
            one.publish(ROOM, bytes(90), bytes(90), b"new")
            stranger = Stranger(made)
            stranger.say(records.encode_hello(RIGHT._replace(worker=5, slot=5)), snapshot(ROOM))
            told = await stranger.hear(4)
            assert [Type.HELLO, Type.SNAPSHOT, Type.GAP, Type.MESSAGE] == [record.type for record in told]
            assert Gap(3, frozenset({ROOM})) == records.decode_gap(told[2].body)
            assert {"full": 2, "size": 0, "down": 1, "refused": 0} == one.bus.stats().dropped
            stranger.socket.close()

    run(main())


def test_what_is_wanted_no_more_is_told_to_nobody(run: Run) -> None:
    """Not to one who links later either."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            one.subscribe(ROOM, OTHER)
            await known(two, one, key=OTHER)
            await made.boot(3)
            one.unsubscribe(OTHER)
            made.members[5] = Member(5, 5, Standing.STARTING)
            peer = Stranger(made)
            peer.say(records.encode_hello(RIGHT._replace(worker=5, slot=5)))
            _, told = await peer.hear(2)
            assert ([ROOM], []) == records.decode_keys(told.body)
            peer.socket.close()

    run(main())


def test_what_is_held_and_gives_way_is_told_before_the_rest(run: Run) -> None:
    """It is counted; what was kept comes behind the word of it, and counts as sent."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1, peer_queue=10_000)
            made.members[5] = Member(5, 5, Standing.READY)
            made.meshes[1]._ties.look()
            one.publish(ROOM, *[b"%d" % number + bytes(3000) for number in range(5)])
            peer = Stranger(made)
            peer.say(records.encode_hello(RIGHT._replace(worker=5, slot=5)), snapshot(ROOM))
            told = await peer.hear(6)
            assert [Type.GAP, *[Type.MESSAGE] * 3] == [record.type for record in told[2:]]
            assert Gap(2, frozenset({ROOM})) == records.decode_gap(told[2].body)
            assert [b"2", b"3", b"4"] == [record.body[:1] for record in told[3:]]
            stats = one.bus.stats()
            assert (2, 3) == (stats.dropped["full"], stats.sent)
            peer.socket.close()

    run(main())


def test_a_message_that_the_other_does_not_take(run: Run) -> None:
    """As after a reload that has changed bus.max_message: it is a gap, and the link stays."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2, max_message=1000)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            assert not one.publish(ROOM, bytes(200_000))
            assert one.publish(ROOM, b"small")
            await until(lambda: two.sink.bodies == [b"small"])
            assert [(frozenset({ROOM}), 1)] == two.sink.gaps

    run(main())


def test_a_peer_that_says_nonsense_later(run: Run) -> None:
    """The link ends, which is a gap for those it was to, and the worker lives on."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[5] = Member(5, 5, Standing.STARTING)
            for nonsense in (
                records.encode(Type.ACCEPTED),
                records.encode_hello(RIGHT),
                records.encode(Type.MESSAGE, flags=6),
                records.encode(Type.INTEREST, b"\0"),
                records.encode(Type.PROBE),
                records.encode(Type.GAP),
            ):
                peer = Stranger(made)
                peer.say(records.encode_hello(RIGHT._replace(worker=5, slot=5)), snapshot(ROOM))
                assert [Type.HELLO, Type.SNAPSHOT] == [record.type for record in (await peer.hear(2))[:2]]
                await until(lambda: one.bus.stats().links == 1)
                peer.say(nonsense)
                await peer.until_out()
                await until(lambda: one.bus.stats().links == 0)
            del made.members[5]
            await until(lambda: [*made.meshes[1]._peers] == [])
            assert [(None, None)] * 6 == one.sink.gaps
            # five times it was linked again, and so had not died
            assert 1 == one.sink.debts

    run(main())


def test_a_mistake_of_ours_costs_a_gap_and_no_link(run: Run) -> None:
    """What was not handled is told on both sides, and then all is as before."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            deliver, count = two.sink.on_envelope, 0

            def deliver_but_one(envelope: Envelope, publisher: Origin) -> None:
                nonlocal count
                count += 1
                if count == 400:
                    raise RuntimeError("a mistake")
                deliver(envelope, publisher)

            two.sink.on_envelope = deliver_but_one  # type: ignore[method-assign]
            one.publish(ROOM, *[b"x"] * 1000)
            await until(lambda: one.sink.gaps and two.sink.gaps)
            assert [(None, None)] == one.sink.gaps == two.sink.gaps
            await known(one, two, key=ROOM)
            await known(two, one, key=EVERYBODY)
            # both live, so other machines have missed nothing
            assert 0 == one.sink.debts == two.sink.debts

    run(main())


def test_what_a_peer_says(run: Run) -> None:
    """Interest comes and goes, a snapshot in parts counts when it is whole, and gaps are handed on."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            made.members[5] = Member(5, 5, Standing.STARTING)
            peer = Stranger(made)
            many = [Key("topic", f"{number:0255}") for number in range(400)]
            first, *rest = records.encode_snapshot(map(records.encode_key, many))
            peer.say(records.encode_hello(RIGHT._replace(worker=5, slot=5)), first)
            await peer.hear(2)
            interest = made.meshes[1]._peers.interest
            assert not interest.mask(many[0])
            peer.say(*rest, *records.encode_interest({ROOM: True, many[0]: False}))
            await until(lambda: interest.mask(ROOM))
            assert (0, True) == (interest.mask(many[0]), bool(interest.mask(many[-1])))
            peer.say(snapshot(OTHER), records.encode_gap(Gap(7, frozenset({ROOM}))))
            await until(lambda: one.sink.gaps)
            assert [(frozenset({ROOM}), 7)] == one.sink.gaps
            assert (0, True) == (interest.mask(ROOM), bool(interest.mask(OTHER)))
            peer.say(records.encode(Type.GOODBYE))
            await until(lambda: next(iter(made.meshes[1]._peers)).left)
            peer.socket.close()
            await until(lambda: one.bus.stats().links == 0)
            del made.members[5]
            await until(lambda: [*made.meshes[1]._peers] == [])
            assert 1 == len(one.sink.gaps)

    run(main())


def test_settling_while_somebody_hangs_starts_or_dies(run: Run) -> None:
    """Who hangs is waited for until the time is over, who starts for a moment, and who dies no more."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1), await made.boot(2)
            made.listener(3)
            made.members[3] = Member(3, 3, Standing.STARTING)
            assert await one.bus.settle(DEADLINE_SECONDS)
            for link in made.meshes[2].links:
                link._set_reading(False)
            assert not await one.bus.settle(0.01)
            settling = asyncio.create_task(one.bus.settle(DEADLINE_SECONDS))
            await asyncio.sleep(0)
            made.kill(2)
            made.bury(2)
            assert await settling
            assert [] == two.sink.envelopes
            await made.end(1)
            assert not await one.bus.settle(0)

    run(main())


def test_settling_while_there_is_no_room_to_tell_what_is_wanted(run: Run) -> None:
    """It is told all the same, behind what waits."""

    async def main() -> None:
        async with harbor() as made:
            one, two = await made.boot(1, peer_queue=100_000), await made.boot(2)
            two.subscribe(ROOM)
            await known(one, two, key=ROOM)
            (link,) = made.meshes[2].links
            link._set_reading(False)
            while one.publish(ROOM, bytes(10_000)):
                await asyncio.sleep(0)
            one.subscribe(OTHER)
            (peer,) = made.meshes[1]._peers
            assert peer.stale
            settling = asyncio.create_task(one.bus.settle(DEADLINE_SECONDS))
            await until(lambda: not peer.stale)
            link._set_reading(True)
            assert await settling
            two.publish(OTHER, b"x")
            await until(lambda: one.sink.bodies == [b"x"])

    run(main())


def test_settling_waits_for_a_link_that_is_to_come(run: Run) -> None:
    """What was held for it until then comes before."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            one.subscribe(ROOM)
            made.listener(5)
            made.members[5] = Member(5, 5, Standing.READY)
            settling = asyncio.create_task(one.bus.settle(DEADLINE_SECONDS))
            await until(lambda: any(peer.dialling for peer in made.meshes[1]._peers))
            peer = Stranger(made, slot=5, accepts=True)
            held = records.encode_envelope(Envelope(ROOM, b"held", number=3))
            peer.say(records.encode_hello(RIGHT._replace(worker=5, slot=5)), snapshot(), held)
            told = await peer.hear(3)
            assert [Type.HELLO, Type.SNAPSHOT, Type.PROBE] == [record.type for record in told]
            assert not settling.done()
            clock_ns, _ = records.decode_probe(told[2].body)
            peer.say(records.encode_probe(clock_ns, answer=True))
            assert await settling
            assert ([b"held"], [Origin(NODE, 5)]) == (one.sink.bodies, one.sink.publishers)
            peer.say(records.encode(Type.GOODBYE))
            del made.members[5]
            peer.socket.close()

    run(main())
