"""The supervisor's vocabulary: frozen data, so that a log of it can be replayed."""

import dataclasses
from typing import get_args

import pytest

from wsworker.master import events


@pytest.mark.parametrize("kind", [*get_args(events.Event), *get_args(events.Action)])
def test_every_event_and_action_is_frozen_and_documented(kind: type) -> None:
    """Nothing that was said can be changed afterwards, and each says what its receiver has to do."""
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")


def test_an_exit_reads_as_a_clause() -> None:
    """It stands in log lines and in the last exit of a slot."""
    assert str(events.WorkerExited(1, code=3)) == "exit 3"
    assert str(events.WorkerExited(1, signal="SIGKILL")) == "killed by SIGKILL"


def test_want_of_memory_is_told() -> None:
    """The same signal has two causes, and the operator can do something about this one."""
    assert str(events.WorkerExited(1, signal="SIGKILL", oom=True)) == "killed by SIGKILL, out of memory"


def test_stacks_are_no_part_of_the_clause() -> None:
    """They are many lines."""
    assert str(events.WorkerExited(1, signal="SIGSEGV", words="Fatal Python error: ...")) == "killed by SIGSEGV"
