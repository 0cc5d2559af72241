"""Work in a thread of its own: its result, its error, and whoever does not wait for them."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from tests.worker.conftest import Run
from wsworker.bus.broker.aside import NO_THREAD, aside

NAME = "wsworker-test"


def test_what_comes_of_it(run: Run) -> None:
    """The result or the error; by a daemon thread of that name, so no end waits for it."""

    def who() -> tuple[str, bool]:
        thread = threading.current_thread()
        return thread.name, thread.daemon

    def fail() -> None:
        raise LookupError("none")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert (NAME, True) == await aside(loop, who, NAME)
        with pytest.raises(LookupError, match="none"):
            await aside(loop, fail, NAME)

    run(main())


def test_nobody_waits(run: Run) -> None:
    """What comes of it is forgotten, and nothing is said of it, be it an error."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        goes_on = threading.Event()

        def fail() -> None:
            goes_on.wait(10)
            raise LookupError("none")

        given_up = [aside(loop, work, NAME) for work in (fail, lambda: goes_on.wait(10))]
        for future in given_up:
            future.cancel()
        left = aside(loop, fail, NAME)
        goes_on.set()
        while not left.done() or any(thread.name == NAME for thread in threading.enumerate()):
            await asyncio.sleep(0)
        # what the threads have left for the loop
        await asyncio.sleep(0)
        assert all(future.cancelled() for future in given_up)
        del left, given_up
        # an error that nobody has seen would be told now
        gc.collect()

    run(main())


def test_a_loop_that_is_closed(recwarn: pytest.WarningsRecorder) -> None:
    """Nothing is said either."""
    goes_on = threading.Event()
    loop = asyncio.new_event_loop()
    aside(loop, lambda: goes_on.wait(10), NAME)
    loop.close()
    goes_on.set()
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join(10)
            assert not thread.is_alive()
    assert [] == [*recwarn]


def test_no_thread_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of the system, with its clause."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match=NO_THREAD):
            aside(asyncio.get_running_loop(), str, NAME)

    run(main())
