"""Both event loops for the tests that need one, and workers in processes of their own on either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.worker.ward import Start, Ward

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return a function that runs a coroutine to its end, on either loop; what a task or callback raised fails it."""

    def run_it(coroutine: Coroutine[Any, Any, None]) -> None:
        faults: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: faults.append(context))
            runner.run(coroutine)
        assert faults == []

    return run_it


@pytest.fixture(params=["asyncio", "uvloop"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Return what starts workers, on either loop; they end with the test."""
    wards: list[Ward] = []

    def start_one(app: str, **settings: Any) -> Ward:
        wards.append(Ward(tmp_path / str(len(wards)), app, loop=request.param, **settings))
        return wards[-1]

    yield start_one
    for ward in wards:
        ward.bury()
