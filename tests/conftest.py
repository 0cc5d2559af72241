"""What several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest


@pytest.fixture
def require() -> Callable[[str], str]:
    """Return a function: the path of a program that a test needs, or the test is skipped.

    With WSWORKER_TEST_REQUIRE=programs the test fails instead, so that a machine meant to run every test cannot lose
    some unseen. WSWORKER_TEST_REQUIRE=all means also what nobody can install, see lacking() in system/faults/world.py.
    """

    def path_of(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            reason = f"{program} is not installed"
            if os.environ.get("WSWORKER_TEST_REQUIRE") in ("programs", "all"):
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return path_of
