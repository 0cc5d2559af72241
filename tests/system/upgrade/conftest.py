"""The services of a test that are to be upgraded, stopped at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import pytest

from tests.system.upgrade.releases import Released

MakeReleased: TypeAlias = Callable[..., Released]


@pytest.fixture
def make_released() -> Iterator[MakeReleased]:
    """Return a function that takes what Released takes; the test has to start() what it makes."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(Released(*arguments, **settings))
