"""What the tests of the master's processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.master.forks import Pipe


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Give a pipe from a process of the test to the test."""
    made = Pipe()
    yield made
    made.close()
