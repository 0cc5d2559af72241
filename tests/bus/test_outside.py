"""Programs that publish through a worker, and may do nothing else."""

from __future__ import annotations

import pytest

from tests.bus.contract import ROOM, until
from tests.bus.harbor import RIGHT, SECRET, Stranger, harbor
from tests.worker.conftest import Run
from wsworker.bus import outside, records
from wsworker.bus.members import Standing
from wsworker.bus.records import Type
from wsworker.bus.topics import EVERYBODY, Envelope, Key


def test_a_program_outside_publishes(run: Run) -> None:
    """It is answered how many were accepted; the messages are the sink's to publish."""

    async def main() -> None:
        async with harbor() as made:
            one = await made.boot(1)
            program = Stranger(made)
            several = [Envelope(ROOM, b"%d" % number, binary=True) for number in range(3)]
            program.say(records.encode_hello(RIGHT), *map(records.encode_envelope, several))
            hello, *accepted = await program.hear(2)
            assert (Type.HELLO, SECRET) == (hello.type, records.decode_hello(hello.body).secret)
            assert 3 == records.decode_accepted(accepted[-1].body)
            assert several == one.sink.outside
            made.stand(1, Standing.DRAINING)
            assert Type.GOODBYE == (await program.hear(3))[2].type
            # what was on its way is still taken
            program.say(records.encode_envelope(several[0]), records.encode(Type.GOODBYE))
            assert 4 == records.decode_accepted((await program.hear(4))[3].body)
            program.socket.close()
            await until(lambda: made.meshes[1].links == [])
            assert 0 == one.bus.stats().links

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
