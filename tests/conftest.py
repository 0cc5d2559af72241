"""What several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import NoReturn

import pytest

SECONDS = 90

# A container may have set them, the machine of a user has not: output is buffered, and compiled code is kept.
for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End a test that hangs, with the stacks of all threads.

    Not by `timeout` in pyproject.toml: pytest reads that file for a service in this checkout too, such as one of the
    examples, and there is no pytest-timeout where only wsworker is installed.
    """
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


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
