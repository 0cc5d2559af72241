"""Limbo: a connection between two workers, as the code of either side may meet it meanwhile.

In the new worker it is there before its socket has a transport: what is sent waits in the cork, and `Limbo` stands for
the transport until then. It only remembers that it was to be dropped.

In the old worker its socket is gone, and whether it will come back is not known yet. What user code asks of it in these
milliseconds is kept (wishes), and goes where the connection goes: to the new worker behind its state, or back into it
here. What is published meanwhile is kept as well, for the case that it comes back, and goes nowhere else, as the new
worker gets it by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from wsworker.handover.wishes import Wish
from wsworker.protocol.frames import Shared


class Limbo(asyncio.Transport):
    """The transport of a connection that has none yet. aborted: it was dropped meanwhile."""

    __slots__ = ("aborted",)

    def __init__(self) -> None:
        # not that of asyncio, which makes a dict for what get_extra_info knows: nobody asks this one
        self.aborted = False

    def is_closing(self) -> bool:
        """Whether nothing will be written any more."""
        return self.aborted

    def get_write_buffer_size(self) -> int:
        """Return 0: all that waits is in the cork."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: the real one is told."""

    def pause_reading(self) -> None:
        """Do nothing: nothing is read yet."""

    def resume_reading(self) -> None:
        """Do nothing, as above."""

    def can_write_eof(self) -> bool:
        """Whether it has a half-close: TLS does not move."""
        return True

    def abort(self) -> None:
        """Remember it."""
        self.aborted = True


class Wishes:
    """What was asked of a connection in limbo, in order: wishes of its own, and messages that many get.

    size: bytes that wait to be sent, of these messages and of those before; limit: as that of the cork.
    """

    __slots__ = ("_all", "_limit", "size")

    def __init__(self, size: int, limit: int) -> None:
        self._all: list[Wish | Shared] = []
        self._limit = limit
        self.size = size

    def keep(self, wish: Wish | Shared) -> bool:
        """Keep a wish, or a message; False if there is no room, which only messages need: as for Connection.send."""
        size = len(wish.body) if isinstance(wish, Wish) and wish.is_message else 0
        if isinstance(wish, Shared):
            size = len(wish.plain)
        if size and self.size >= self._limit:
            return False
        self.size += size
        self._all.append(wish)
        return True

    def __iter__(self) -> Iterator[Wish | Shared]:
        return iter(self._all)

    def own(self) -> list[Wish]:
        """Return those that go to the new worker: it gets by itself what is published."""
        return [wish for wish in self._all if isinstance(wish, Wish)]
