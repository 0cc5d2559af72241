"""Who connects to a worker: strangers are out within a second, and nothing is left of them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct

import pytest

from tests.bus.contract import until
from tests.bus.mesh.harbor import RIGHT, Stranger, harbor
from tests.worker.conftest import Run
from wsworker import notices
from wsworker.bus import records
from wsworker.bus.mesh import gate
from wsworker.bus.mesh.members import Standing
from wsworker.bus.records import Type


@pytest.mark.parametrize(
    ("opening", "why"),
    [
        (records.encode_hello(RIGHT._replace(secret=bytes(16))), "it does not know the secret"),
        (records.encode_hello(RIGHT._replace(version=9)), "it speaks version 9 of the bus and not 1"),
        (records.encode_hello(RIGHT._replace(node="other")), "it belongs to another run of the service"),
        (records.encode_hello(RIGHT)[:-1], "no greeting came in time"),
        (b"", "no greeting came in time"),
        (struct.pack("!I", 2**32 - 1), "a record of 4294967295 bytes, and not 4 to 1024"),
        (b"GET / HTTP/1.1\r\n", "a record of 1195725856 bytes, and not 4 to 1024"),
        (records.encode(Type.GOODBYE), "it begins without a greeting"),
        (records.encode(Type.HELLO), "a body of 0 bytes is too short"),
    ],
)
def test_a_hostile_greeting(run: Run, caplog: pytest.LogCaptureFixture, opening: bytes, why: str) -> None:
    """It is out within a second, is counted and logged, and nothing of it is left."""

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            mesh = made.meshes[1]
            stranger = Stranger(made)
            stranger.say(opening)
            await stranger.until_out()
            await until(lambda: mesh.stats().refused == 1)
            assert [] == mesh.links
            assert 0 == mesh._budget.used
            assert f"somebody who connected to the bus was turned away: {why}" in caplog.messages

    run(main())


def test_a_worker_that_has_died_in_the_queue(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It knows the secret and is not in the table: its link is closed, and there is nothing to be said of it."""

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            late = Stranger(made)
            late.say(records.encode_hello(RIGHT._replace(worker=77, slot=1)))
            await late.until_out()
            assert ([], []) == (late.records, made.meshes[1].links)
            assert [] == caplog.messages

    run(main())


def test_a_stranger_that_leaves_is_no_news(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A worker gives up waiting for one that is blocked; it is counted, and logged for those who debug."""

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            Stranger(made).socket.close()
            await until(lambda: made.meshes[1].stats().refused == 1)
            assert [] == [record for record in caplog.records if record.levelno > logging.DEBUG]

    run(main())


def test_somebody_of_another_user(run: Run) -> None:
    """The kernel says who it is, before a byte is read."""

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1, uids={os.geteuid() + 1})
            stranger = Stranger(made)
            await stranger.until_out()
            assert 1 == made.meshes[1].stats().refused
            await made.end(1)
            await made.boot(2, uids=None)
            welcome = Stranger(made, slot=2)
            welcome.say(records.encode_hello(RIGHT))
            assert Type.HELLO == (await welcome.hear(1))[0].type
            welcome.socket.close()

    run(main())


@pytest.mark.usefixtures("unhurried")
def test_there_are_only_so_many_strangers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would be one more is out at once; the others have their second."""
    monkeypatch.setattr(gate, "MOST_STRANGERS", 2)

    async def main() -> None:
        async with harbor() as made:
            await made.boot(1)
            mesh = made.meshes[1]
            first = [Stranger(made) for _ in range(2)]
            await until(lambda: len(mesh.links) == 2)
            await Stranger(made).until_out()
            assert (1, 2) == (mesh.stats().refused, len(mesh.links))
            for stranger in first:
                stranger.socket.close()
            await until(lambda: mesh.stats().refused == 3)

    run(main())


def test_without_descriptors_it_looks_away(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits is accepted when there are some again; a worker that has begun to drain leaves them to another."""
    monkeypatch.setattr(gate, "PAUSE_SECONDS", 0.05)
    said = "cannot accept on the bus (Too many open files); it is tried again every second"

    class Short:
        """A listener for which there is no descriptor."""

        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener
            self.tries = 0

        def fileno(self) -> int:
            return self.listener.fileno()

        def close(self) -> None:
            self.listener.close()

        def accept(self) -> object:
            self.tries += 1
            if self.tries < 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.listener.accept()

    async def main() -> None:
        async with harbor() as made:
            short = Short(made.listener(1).dup())
            await made.boot(1, listener=short)
            stranger = Stranger(made)
            stranger.say(records.encode_hello(RIGHT))
            assert 1 == len(await stranger.hear(1))
            # at most one line a minute, and it was in vain twice
            assert [said] == caplog.messages
            stranger.socket.close()
            monkeypatch.setattr(notices, "LOG_SECONDS", 0.0)
            short.tries = 0
            late = Stranger(made)
            await until(lambda: short.tries == 1)
            made.stand(1, Standing.DRAINING)
            await asyncio.sleep(0.1)
            again = f"{said} (and 1 more like it since the last such line)"
            assert ([said, again], 1) == (caplog.messages, short.tries)
            late.socket.close()

    run(main())
