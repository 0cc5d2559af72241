"""The daemons of a test, stopped at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import pytest

from tests.system.daemon import Daemon

MakeDaemon: TypeAlias = Callable[..., Daemon]


@pytest.fixture
def make_daemon() -> Iterator[MakeDaemon]:
    """Return a function that takes what Daemon takes; the test has to start() what it makes."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(Daemon(*arguments, **settings))
