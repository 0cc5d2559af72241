"""The board: one text that the master posts, and that every worker may read at any time.

It holds what only the master knows and what the admin endpoints show: the states of slots and workers, restarts,
reloads. The master posts it anew every second and whenever something has changed. So a worker answers for the whole
service without asking anybody, also while the master or another worker is busy or hung.

There are two areas, written in turn, and a number that says which one holds, changed last. So what is being read is
overwritten at the next but one post at the earliest, and the reader sees by the number that this has happened. A lock
was rejected: whoever dies while holding it would stop all others. The checksum is for machines that do not show the
writes of one processor to another in their order.

    words    number of posts; then for each area: length in bytes, checksum, time of the post (CLOCK_MONOTONIC, ns)
    areas    AREA_BYTES each; what is not used of them takes no memory
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from wsworker.memory import Memory

AREA_BYTES: Final = 8 * 1024 * 1024
"""More than all slots fill, each with an error text of the greatest length."""

READS: Final = 1000

_WORD_BYTES: Final = 8
_NUMBER, _FIRST = range(2)
_LENGTH, _CHECKSUM, _POSTED, _AREA_WORDS = range(4)
_AREAS: Final = 2
_HEAD_BYTES: Final = (_FIRST + _AREAS * _AREA_WORDS) * _WORD_BYTES

LAYOUT: Final = f"number length checksum posted {_AREA_WORDS} {_HEAD_BYTES} {AREA_BYTES}"
"""Tells one layout from another: programs with the same one can share a board."""


@dataclass(frozen=True, slots=True)
class Post:
    """What the board says. posted_ns: CLOCK_MONOTONIC."""

    posted_ns: int
    text: bytes


class Board:
    """One board; made by the master before its first fork, which alone posts. fd: of one that was made before."""

    def __init__(self, fd: int | None = None) -> None:
        self.memory = Memory("wsworker-board", _HEAD_BYTES + _AREAS * AREA_BYTES, fd)
        self._memory = self.memory.map
        self._words = memoryview(self._memory)[:_HEAD_BYTES].cast("q")
        self._last: Post | None = None

    def post(self, text: bytes, now_ns: int) -> None:
        """Replace what the board says. text: at most AREA_BYTES."""
        assert len(text) <= AREA_BYTES
        number = self._words[_NUMBER] + 1
        start, word = _place(number)
        self._memory[start : start + len(text)] = text
        self._words[word + _LENGTH] = len(text)
        self._words[word + _CHECKSUM] = zlib.crc32(text)
        self._words[word + _POSTED] = now_ns
        self._words[_NUMBER] = number

    def read(self) -> Post | None:
        """Return what was posted last, None before the first post.

        It may be what this process has read before, if the master posts so often that no reading comes to an end.
        """
        for _ in range(READS):
            number = self._words[_NUMBER]
            if number == 0:
                return None
            start, word = _place(number)
            text = self._memory[start : start + self._words[word + _LENGTH]]
            post = Post(self._words[word + _POSTED], text)
            if self._words[_NUMBER] == number and self._words[word + _CHECKSUM] == zlib.crc32(text):
                self._last = post
                break
        return self._last


def _place(number: int) -> tuple[int, int]:
    """Return where the area of a post begins, in bytes, and where its words do."""
    area = number % _AREAS
    return _HEAD_BYTES + area * AREA_BYTES, _FIRST + area * _AREA_WORDS
