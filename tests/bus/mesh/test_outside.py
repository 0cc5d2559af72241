"""Programs that publish through a worker, and may do nothing else."""

from __future__ import annotations

import asyncio

import pytest

from tests.bus.contract import DEADLINE_SECONDS, ROOM, until
from tests.bus.mesh.harbor import RIGHT, SECRET, Stranger, harbor
from tests.worker.conftest import Run
from wsworker.bus import records
from wsworker.bus.mesh import gate, outside
from wsworker.bus.mesh.members import Standing
from wsworker.bus.records import Type
from wsworker.bus.topics import EVERYBODY, Envelope, Key

pytestmark = pytest.mark.usefixtures("unhurried")


def test_a_program_outside_publishes(run: Run) -> None:
    """It is answered how many were accepted; the messages are the sink's to publish."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            program = Stranger(made)
            several = [Envelope(ROOM, b"%d" % number, binary=True) for number in range(3)]
            program.say(records.encode_hello(RIGHT), *map(records.encode_envelope, several))
            hello, *accepted = await program.hear(2)
            while records.decode_accepted(accepted[-1].body) < 3:
                # a turn may end after any of them
                hello, *accepted = await program.hear(len(program.records) + 1)
            assert (Type.HELLO, SECRET) == (hello.type, records.decode_hello(hello.body).secret)
            assert several == one.sink.outside
            program.say(records.encode(Type.GOODBYE))
            program.socket.close()
            await until(lambda: made.meshes[1].links == [])
            assert 0 == one.bus.stats().links

    run(main())


def test_what_was_sent_before_a_worker_drains_is_taken(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is published and answered before the worker ends; what is sent later reaches nobody, and the sender knows."""
    monkeypatch.setattr(gate, "LAST_SECONDS", DEADLINE_SECONDS)
    first, second, third = (records.encode_envelope(Envelope(ROOM, body)) for body in (b"1", b"2", b"3" * 1000))

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            programs = [Stranger(made) for _ in range(3)]
            for program in programs:
                program.say(records.encode_hello(RIGHT))
                await program.hear(1)
            idle, sender, slow = programs
            # nothing of it is read before the worker has said goodbye
            sender.say(first, second)
            slow.say(first, third[:500])
            made.stand(1, Standing.DRAINING)
            assert [] == one.sink.outside
            for program in programs:
                with pytest.raises(BrokenPipeError):
                    program.say(third)
            await made.meshes[1].hear_out()
            assert [] == caplog.messages
            # as of the exchange at the worker's end
            one.sink.refuses = True
            await made.end(1)
            for program, accepted in ((idle, []), (sender, [2]), (slow, [1])):
                await program.until_out()
                hello, goodbye, *answers = program.records
                assert (Type.HELLO, Type.GOODBYE) == (hello.type, goodbye.type)
                # a turn may end after any message, and each is answered
                assert accepted == [records.decode_accepted(answer.body) for answer in answers][-1:]
            assert [b"1", b"1", b"2"] == sorted(envelope.body for envelope in one.sink.outside)

    run(main())


def test_a_worker_that_ends_waits_only_a_moment(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger that says nothing is none of its business; messages that are left unread are told."""
    monkeypatch.setattr(gate, "LAST_SECONDS", 600.0)

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            mesh = made.meshes[1]
            silent = Stranger(made)
            await until(lambda: mesh.links)
            made.stand(1, Standing.DRAINING)
            waits = asyncio.create_task(mesh.hear_out())
            await asyncio.sleep(0)
            assert waits.done()
            assert [] == caplog.messages
            monkeypatch.setattr(gate, "LAST_SECONDS", 0.01)
            silent.say(records.encode_hello(RIGHT))
            (link,) = mesh.links
            link._read()
            link._set_reading(False)
            await mesh.hear_out()
            assert ["some of what other programs have published last could not be read"] == caplog.messages
            silent.socket.close()

    run(main())


@pytest.mark.parametrize(
    "record",
    [
        records.encode_envelope(Envelope(EVERYBODY, b"x")),
        records.encode_envelope(Envelope(Key("user", "ann"), b"x")),
        records.encode_envelope(Envelope(Key("user", "ann"), b"\x0f\xa0", closes=True)),
        records.encode(Type.SNAPSHOT, flags=records.LAST),
        records.encode(Type.GAP, bytes(5)),
    ],
)
def test_a_program_outside_may_only_publish_to_topics(run: Run, record: bytes) -> None:
    """Anything else ends its link."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            program = Stranger(made)
            program.say(records.encode_hello(RIGHT), record)
            await program.until_out()
            assert ([], [], []) == (one.sink.outside, one.sink.envelopes, made.meshes[1].links)

    run(main())


def test_a_message_that_cannot_be_published_ends_the_link(run: Run) -> None:
    """So the program hears of it, and nothing else of it is taken."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            one.sink.refuses = True
            program = Stranger(made)
            program.say(records.encode_hello(RIGHT), records.encode_envelope(Envelope(ROOM, b"\xff")))
            await program.until_out()
            assert [Type.HELLO] == [record.type for record in program.records]

    run(main())


def test_there_are_only_so_many(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is turned away; when one has left there is a place again."""
    monkeypatch.setattr(outside, "MOST_LINKS", 1)

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            programs = [Stranger(made) for _ in range(3)]
            for program in programs[:2]:
                program.say(records.encode_hello(RIGHT))
                if program is programs[0]:
                    await program.hear(1)
            await programs[1].until_out()
            assert [] == programs[1].records
            programs[0].socket.close()
            await until(lambda: len(made.meshes[1].links) == 1)
            programs[2].say(records.encode_hello(RIGHT))
            assert Type.HELLO == (await programs[2].hear(1))[0].type
            programs[2].socket.close()

    run(main())


def test_who_greets_a_worker_that_drains(run: Run) -> None:
    """It is sent on at once: it came just before the listener was another's."""

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            program = Stranger(made)
            await until(lambda: made.meshes[1].links)
            made.stand(1, Standing.DRAINING)
            program.say(records.encode_hello(RIGHT))
            assert [Type.HELLO, Type.GOODBYE] == [record.type for record in await program.hear(2)]
            program.socket.close()

    run(main())
