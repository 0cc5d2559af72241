"""The line: dialled again after each loss, with growing pauses; and what several tasks do with one wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.bus.contract import until
from tests.bus.redis.servers import Valkey, valkey
from tests.worker.conftest import Run
from wsworker.brokers import Server
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.lookup import Lookup
from wsworker.bus.redis.dialler import Dialler
from wsworker.bus.redis.line import READS_PER_TURN, STEADY_SECONDS, TIMES, Line, Times, Turns, together, watch
from wsworker.bus.redis.wire import Lost, Wire, command

QUICK = Times(first_pause=0.001, longest_pause=0.004)


class Echo(Line):
    """A line that waits for one reply. faults: what it raises then, one after another."""

    def __init__(self, dial: Callable[[], Awaitable[Wire]], keeper: Keeper, faults: list[Exception]) -> None:
        super().__init__(dial, keeper, QUICK, lambda: 1.0)
        self.losses: list[Lost] = []
        self._faults = faults

    async def serve(self, wire: Wire) -> None:
        self.rise()
        await wire.send(command(b"PING"))
        assert b"PONG" == await wire.receive()
        if self._faults:
            raise self._faults.pop(0)
        await wire.receive()

    def lost(self, lost: Lost) -> None:
        self.losses.append(lost)


class Keeper:
    """Writes down why lines fell."""

    def __init__(self) -> None:
        self.fallen: list[str] = []

    def risen(self) -> None:
        """Nothing is done."""

    def fell(self, why: str) -> None:
        self.fallen.append(why)

    def moved(self) -> None:
        """Nothing is done."""


async def connect(server: Valkey) -> Wire:
    """Dial a server."""
    loop = asyncio.get_running_loop()
    dialler = Dialler(server.url, Lookup(loop), Certificates(loop, server.url), 5)
    return await dialler.dial(Server("127.0.0.1", server.port), "name")


def test_it_is_dialled_again(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """After a loss, a cut, and a mistake of ours, which is logged."""

    async def main() -> None:
        with valkey() as server:
            keeper = Keeper()
            line = Echo(lambda: connect(server), keeper, [Lost("first", silent=True), ValueError("a mistake")])
            keeps = asyncio.create_task(line.keep())
            await until(lambda: len(keeper.fallen) == 2 and line.up)
            line.cut("as it should")
            await until(lambda: len(keeper.fallen) == 3 and line.up)
            assert ["first", "what came from it could not be handled", "as it should"] == keeper.fallen
            assert [True, False, False] == [lost.silent for lost in line.losses]
            assert ["what came from the broker could not be handled"] == caplog.messages
            keeps.cancel()
            await asyncio.gather(keeps, return_exceptions=True)
            # there is nothing to be cut any more
            line.cut("never")
            line.let_go()
            assert 3 == len(keeper.fallen)
            caplog.clear()

    run(main())


def test_pauses_grow() -> None:
    """Up to a bound, and by chance; one who was up for a while is dialled soon."""

    async def main() -> None:
        async def nobody() -> Wire:
            raise Lost("nobody")

        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 5:
                raise asyncio.CancelledError

        keeper = Keeper()
        line = Echo(nobody, keeper, [])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            with pytest.raises(asyncio.CancelledError):
                await line.keep()
        assert [0.001, 0.002, 0.004, 0.004, 0.004] == pauses
        assert ["nobody"] * 5 == keeper.fallen
        # all is to flow within two seconds of a server's return
        assert TIMES.longest_pause <= 1

    asyncio.run(main())


def test_who_was_up_for_a_while_is_dialled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the pauses had become; and only a part of each pause is sure."""

    async def main() -> None:
        async def nobody() -> Wire:
            if len(pauses) == 3:
                line.rise()
                line._up_at -= STEADY_SECONDS
            raise Lost("nobody")

        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 5:
                raise asyncio.CancelledError

        line = Echo(nobody, Keeper(), [])
        line._draw = lambda: 0.0
        monkeypatch.setattr(asyncio, "sleep", sleep)
        with pytest.raises(asyncio.CancelledError):
            await line.keep()
        assert [0.0005, 0.001, 0.002, 0.0005, 0.001] == pauses

    asyncio.run(main())


def test_who_says_much_does_not_keep_the_loop(run: Run) -> None:
    """After so many replies others have their turn, though there are more."""

    async def main() -> None:
        with valkey() as server:
            wire = await connect(server)
            count = 10 * READS_PER_TURN
            await wire.send(command(b"PING") * count)
            turns = Turns(wire)
            passes = 0

            async def others() -> None:
                nonlocal passes
                while True:
                    passes += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(others())
            for _ in range(count):
                assert b"PONG" == await turns.next()
            assert passes >= 9
            task.cancel()
            await wire.end()

    run(main())


def test_several_things_at_once(run: Run) -> None:
    """The first loss ends all of them; so does a mistake, as what it is."""

    async def main() -> None:
        ended: list[str] = []

        async def waits(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        async def fails(error: Exception) -> None:
            raise error

        with pytest.raises(Lost, match="x"):
            await together(waits("one"), fails(Lost("x")), waits("two"))
        assert ["one", "two"] == sorted(ended)
        with pytest.raises(ValueError, match="y"):
            await together(waits("three"), fails(ValueError("y")))
        assert "three" == ended[-1]

    run(main())


def test_what_is_late_once_may_come_yet(run: Run) -> None:
    """Who stood still itself reads first what came meanwhile; who is late at the next look as well is given up."""

    async def main() -> None:
        looks = [Lost("1"), None, Lost("2"), None, None, Lost("3"), Lost("4"), Lost("5")]
        with pytest.raises(Lost, match="4"):
            await watch(0.004, lambda: looks.pop(0))

    run(main())
