"""Invocation: what is left of the words of a start, and when nothing is."""

from __future__ import annotations

import sys

import pytest

from wsworker.master import invocation


@pytest.fixture(autouse=True)
def _no_words_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no other test's words, and restore those of the test run."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "orig_argv", sys.orig_argv)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["python", "/bin/wsworker"], ["start", "-d"]),
        (["python", "-X", "dev", "-m", "wsworker"], ["start"]),
        (["python", "wsworker"], []),
        (["python", "start"], ["start", "start"]),
    ],
)
def test_what_stands_before_the_arguments(words: list[str], arguments: list[str]) -> None:
    """All of it, whether anybody has said what the arguments are or not."""
    sys.argv, sys.orig_argv = ["wsworker", *arguments], [*words, *arguments]
    assert words == invocation.words()
    with invocation.given(arguments):
        assert words == invocation.words()


@pytest.mark.parametrize(
    ("words", "argv", "given"),
    [
        (["python", "run.py"], ["run.py"], ["start"]),
        (["python", "run.py"], ["wsworker", "start"], ["start"]),
        (["python", "run.py", "-v"], ["wsworker", "start"], ["start"]),
        (["python", "run.py", "start"], ["run.py", "start"], ["start", "-d"]),
        (["python"], [""], []),
        (["python", "start"], ["wsworker", "start"], ["start"]),
        (["python"], ["wsworker", "start", "-c", "x.yaml"], ["start", "-c", "x.yaml"]),
    ],
)
def test_a_program_of_somebodys_own(words: list[str], argv: list[str], given: list[str]) -> None:
    """It says other arguments than it was given, or has put some in place: there are no words for it."""
    sys.argv, sys.orig_argv = argv, words
    with invocation.given(given):
        assert [] == invocation.words()


def test_the_arguments_are_those_of_one_run() -> None:
    """Behind it nobody has said any more what they are, however it has ended."""
    sys.argv, sys.orig_argv = ["wsworker", "start"], ["python", "wsworker", "start"]

    def run() -> None:
        with invocation.given(["stop"]):
            assert [] == invocation.words()
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert ["python", "wsworker"] == invocation.words()
