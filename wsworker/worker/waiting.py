"""Who waits at a listener, and for how long: a worker that takes nobody leaves its clients to others, but not for ever.

The kernel tells neither how long a client has waited nor, for a unix socket, how many there are. So a worker looks
again and again, and a listener at which somebody waited at each look is taken for one that nobody else serves. Where
another worker has room, the queue is empty at one of the looks, as that one needs a millisecond for a client.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from typing import Final

RESOLUTION_SECONDS: Final = 0.01
"""A timer may fire up to the clock's resolution early."""


class Waiting:
    """Since when somebody waits, for each listener. Times are seconds on the clock of the loop."""

    def __init__(self) -> None:
        self._since: dict[socket.socket, float] = {}

    def look(self, listeners: Iterable[socket.socket], now: float) -> list[socket.socket]:
        """Return where somebody waits, and remember it; elsewhere nobody waits any more."""
        found = [listener for listener in listeners if _somebody_waits(listener)]
        self._since = {listener: self._since.get(listener, now) for listener in found}
        return found

    def is_over(self, listener: socket.socket, seconds: float, now: float) -> bool:
        """Whether somebody has waited there for so long; the first time this is asked, the wait begins."""
        return now >= self._since.setdefault(listener, now) + seconds - RESOLUTION_SECONDS

    def forget(self, listener: socket.socket) -> None:
        """Know that nobody waits there now."""
        self._since.pop(listener, None)

    def clear(self) -> None:
        """Know nothing: clients are accepted as ever."""
        self._since.clear()


def _somebody_waits(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
