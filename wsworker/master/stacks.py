"""Stacks: what faulthandler wrote about a worker, cut down to what a person wants to read in the log.

faulthandler(3) prints a line for each thread and below it that thread's frames, the most recent call first:

    Fatal Python error: Aborted

    Thread 0x00007fbcdf7bb6c0 (most recent call first):
      File "/usr/lib/python3.11/threading.py", line 327 in wait

    Current thread 0x00007fbce022ab80 (most recent call first):
      File "/srv/chat/app.py", line 12 in on_message
      ...
      File "/usr/lib/python3.11/site-packages/wsworker/worker/main.py", line 80 in run
      File "/usr/lib/python3.11/site-packages/wsworker/master/crew.py", line 140 in run

A worker is a fork, so the frames of the master, from its loop down to __main__, lie below its own: they say nothing
about it. The thread that matters comes last, hence the end of a text is kept when all of it is too long.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Final

MAX_CHARACTERS: Final = 16 * 1024
MAX_FRAMES: Final = 50
"""Of one thread: a runaway recursion or many threads must not push the rest out of the text."""

GAP: Final = "  ..."
"""As faulthandler itself writes for what it leaves out."""

_FRAME: Final = "  "
_ENTRY: Final = re.compile(r'  File ".*wsworker/worker/main\.py", line \d+ in run')


def trim(text: str) -> str:
    """Return the stacks without what lies below a worker's entry; at most MAX_CHARACTERS, "" for nothing.

    text: what faulthandler wrote, of any number of dumps; it may begin or end in the middle of a line.
    """
    lines: list[str] = []
    for are_frames, group in groupby(text.split("\n"), key=lambda line: line.startswith(_FRAME)):
        together = [*group]
        lines += _newest(together) if are_frames else together
    kept = "\n".join(lines).strip("\n")
    if len(kept) <= MAX_CHARACTERS:
        return kept
    front = GAP + "\n"
    return front + kept[len(front) - MAX_CHARACTERS :]


def _newest(frames: list[str]) -> list[str]:
    """Return one thread's frames down to the worker's entry. A coroutine named run stands above it in the same file."""
    entry = max((index for index, frame in enumerate(frames) if _ENTRY.fullmatch(frame)), default=len(frames))
    frames = frames[: entry + 1]
    return frames if len(frames) <= MAX_FRAMES else [*frames[:MAX_FRAMES], GAP]
