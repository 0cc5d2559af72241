"""Invocation: the words that this program was started by, as far as the one on disk can be started by them again.

Python tells all words of a process, sys.orig_argv: the interpreter, its options, the script or module, and then the
arguments, which end them as they stand in sys.argv. That holds for the script `wsworker` and for `python -m wsworker`.
A program of somebody's own may say other arguments than it was given, or none: what is left of its words then is a
guess, in the worst case the bare interpreter, which takes the next word for a script. So there are no words for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_given: list[str] | None = None
"""What the command line was made of that is being run; None: nobody has said."""


@contextmanager
def given(arguments: Sequence[str]) -> Iterator[None]:
    """Note the arguments that the command line is really run with; to be entered around it."""
    global _given
    _given = [*arguments]
    try:
        yield
    finally:
        _given = None


def words() -> list[str]:
    """Return the words that this program was started by, without its arguments; none where that would be a guess."""
    arguments = sys.argv[1:]
    before = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    ours = _given is None or _given == arguments
    return before if ours and len(before) > 1 and [*before, *arguments] == sys.orig_argv else []
