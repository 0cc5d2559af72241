"""What several test files share."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import shutil
import signal
from collections.abc import Callable, Generator
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn

import pytest
from hypothesis import HealthCheck, settings

SECONDS: Final = 90
AGAIN_SECONDS: Final = 10
STDERR: Final = 2

RANG: Final = pytest.StashKey[bool]()
"""Whether the time of a test was up before it ended."""

# A container may have set them, the machine of a user has not: output is buffered, and compiled code is kept.
for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)

# Hypothesis measures with a clock on the wall: an example that took over 200 ms fails the test, also if all that
# happened is that the machine gave its time to others; the time limit of the whole test ends what really is slow.
settings.register_profile("wsworker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("cover", settings.get_profile("wsworker"), max_examples=20)
settings.load_profile("wsworker")


class TimeIsUp(SystemExit):
    """A test has taken too long.

    A SystemExit, as asyncio and uvloop keep anything less to themselves when it comes up inside a task or a callback:
    the test would wait on for what it has just ended, or even pass.
    """


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test a time that is enough; pytest_timeout_set_timer says what ends it then.

    Not by `timeout` in pyproject.toml: pytest reads that file for a service in this checkout too, such as one of the
    examples, and there is no pytest-timeout where only wsworker is installed.
    """
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """End a test that hangs, with the stacks of all threads and of the tasks of the loop that runs.

    As pytest-timeout would, but by TimeIsUp, and again and again, as the first one may come where it is caught.
    """

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        item.stash[RANG] = True
        faulthandler.dump_traceback(file=STDERR)
        with suppress(RuntimeError):  # no loop runs
            for task in asyncio.all_tasks():
                task.print_stack()
        raise TimeIsUp(f"the test has taken more than {settings.timeout:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN_SECONDS)
    return True


def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """Do so no more: the test has ended, or failed."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return True


def pytest_enter_pdb() -> None:
    """Leave somebody who looks for a mistake all the time there is."""
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that has caught all that, such as one that expects a SystemExit."""
    outcome = yield
    assert not item.stash.get(RANG, False), "the test has ended, but only after its time was up"
    return outcome


def lacking(reason: str, program: str = "") -> NoReturn:
    """Skip a test for want of something, or fail it where WSWORKER_TEST_REQUIRE says that it must run.

    program: what has to be installed; "": it is something that only another machine gives. The variable is a list with
    commas: names of programs, `programs` for every one, `all` for whatever a test may want. So a machine that is meant
    to run a test cannot lose it unseen.
    """
    required = os.environ.get("WSWORKER_TEST_REQUIRE", "").split(",")
    if "all" in required or (program and ("programs" in required or program in required)):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def require() -> Callable[[str], str]:
    """Return a function: the path of a program that a test needs, or the test ends by lacking()."""

    def path_of(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            lacking(f"{program} is not installed", program)
        return path

    return path_of
