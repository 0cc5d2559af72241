"""A test that hangs is ended, by tests/conftest.py: looked at in a run of pytest of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CONFTEST: Final = Path(__file__).with_name("conftest.py")

HANGING: Final = """
import asyncio
import time

import pytest
import uvloop

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def burn():
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        pass


async def wait():
    # it ends, if nothing else ends it
    for _ in range(100):
        await asyncio.sleep(0.05)


async def beside_a_task():
    async def run():
        while True:
            burn()
            await asyncio.sleep(0)

    task = asyncio.create_task(run())
    await wait()
    task.cancel()


async def beside_a_callback():
    def run():
        burn()
        asyncio.get_running_loop().call_soon(run)

    run()
    await wait()


@pytest.mark.timeout(0.3)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("main", [wait, beside_a_task, beside_a_callback])
def test_in_a_loop(main, loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.timeout(0.3)
def test_that_expects_an_exit():
    with pytest.raises(SystemExit):
        time.sleep(5)


def test_that_is_quick():
    pass
"""


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    """Whatever the loop is busy with at that moment, and whatever the test expects; the tasks of the loop are shown."""
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_hanging.py").write_text(HANGING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "--show-capture=stdout"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "7 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert 6 == done.stdout.count("E   conftest.TimeIsUp: the test has taken more than 0.3 s"), done.stdout
    assert "beside_a_task" in done.stdout
