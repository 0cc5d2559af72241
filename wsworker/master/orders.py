"""Orders: one worker's channel as the master writes it.

A worker that is busy for seconds reads nothing, and its channel fills up. What does not fit waits here, in order, until
the channel can be written to. So a worker that comes back hears that it is to drain, and its clients get a close code;
it is not killed for what it was never told. The master itself does not wait.

The queue stays short. Of all log files only the newest matters, a lend that is recalled before it was heard of need
not be heard of, and a list is to be answered at once or not at all. A drain is heard in any case: if the pairs that its
connections would move by cannot wait, it waits without them. Descriptors that wait are duplicates: what their
owner closes meanwhile, and which file gets the freed number then, changes nothing.

A line may be sent in part. Its descriptors went with its first byte (unix(7)), so the rest goes without them, before
anything else.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
from dataclasses import dataclass, replace
from typing import Final

from wsworker.errors import OUT_OF_DESCRIPTORS
from wsworker.wire import Order, OrderName, encode

MAX_WAITING: Final = 600
"""More than ever wait: a recall and a lend for each of 256 slots, the log, and a few words on when to come and go."""

PASSING: Final = frozenset({errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS})
"""Memory is short, or too many descriptors are on their way: unix(7)."""

logger = logging.getLogger("wsworker.master")


@dataclass(eq=False, slots=True)
class Waiting:
    """An order of which nothing is sent yet. descriptors: what goes along; ours to close."""

    order: Order
    descriptors: list[int]


class Orders:
    """What one worker is told.

    channel: the master's end, which must not block; borrowed. selector: has it registered, and must call flush when the
    channel can be written to. slot: the worker's, for the log.
    """

    def __init__(self, channel: socket.socket, selector: selectors.BaseSelector, slot: int) -> None:
        self._channel = channel
        self._selector = selector
        self._slot = slot
        self._rest = b""  # of the line that was cut
        self._paused = False  # the kernel lacks something else than room
        self._queue: list[Waiting] = []

    def send(self, order: Order, descriptors: list[int]) -> None:
        """Send an order, now or when it fits.

        descriptors: go along; they stay yours, and you may close them at once. On a closed or broken channel the order
        is lost, for the worker is dead. If it has to wait, and there is no room or no descriptor for that, it is lost
        with a line in the log; a drain loses only its descriptors by that.
        """
        if self._channel.fileno() < 0:
            return
        order = replace(order, fds=len(descriptors))
        if self._rest or self._queue or not self._write(encode(order), descriptors):
            self._keep(order, descriptors)
        self._watch()

    @property
    def waits(self) -> bool:
        """Whether anything is not sent yet."""
        return bool(self._rest or self._queue)

    def flush(self) -> None:
        """Send as much of what waits as fits now; to be called about once a second too."""
        self._paused = False
        if self._channel.fileno() < 0:
            # its pidfd stood before it in the same turn of the loop
            return
        if self._rest:
            self._write(self._rest, [])
        while self._queue and not self._rest:
            first = self._queue[0]
            if not self._write(encode(first.order), first.descriptors):
                break
            # a channel that turns out to be broken has emptied it
            if self._queue:
                self._drop(first)
        self._watch()

    def close(self) -> None:
        """Forget what waits: the channel is closed or broken, or this is another worker's process."""
        self._rest = b""
        for waiting in [*self._queue]:
            self._drop(waiting)

    def _watch(self) -> None:
        """Have the selector tell when the channel can be written to, while there is something to write."""
        waits = (self._rest or self._queue) and not self._paused
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)
        key = self._selector.get_key(self._channel)
        if key.events != wanted:
            self._selector.modify(self._channel, wanted, key.data)

    def _write(self, line: bytes, descriptors: list[int]) -> bool:
        """Send of a line what fits, the rest of it is kept; False if nothing fits now, and then nothing has changed."""
        try:
            sent = socket.send_fds(self._channel, [line], descriptors)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in PASSING:
                # the channel stays writable, and waiting for that would spin the loop
                self._paused = True
                return False
            # the worker is dead, its pidfd tells
            self.close()
            return True
        self._rest = line[sent:]
        return True

    def _keep(self, order: Order, descriptors: list[int]) -> None:
        if order.name == "list":
            # when there is room again nobody waits for the answer any more
            return
        lend = self._waiting("lend", order.slot)
        if order.name == "recall" and lend:
            # between two lends of a slot stands a recall, so this is the one that is meant
            self._drop(lend)
            return
        older = self._waiting("reopen", order.slot) if order.name == "reopen" else None
        if older is None and len(self._queue) >= MAX_WAITING:
            self._lose(order, f"{MAX_WAITING} wait already")
            return
        try:
            duplicates = _duplicate(descriptors)
        except OSError as error:
            reason = "; ".join(OUT_OF_DESCRIPTORS.get(error.errno, (str(error),)))
            if order.name != "drain":
                self._lose(order, reason)
                return
            logger.error("no connection of worker %d, which reads no orders now, can move: %s", self._slot, reason)
            order, duplicates = replace(order, fds=0, shares=()), []
        if older:
            # in its place: what the worker says while it drains belongs into the new file too
            _close_all(older.descriptors)
            older.descriptors = duplicates
        else:
            self._queue.append(Waiting(order, duplicates))

    def _waiting(self, name: OrderName, slot: int) -> Waiting | None:
        return next((one for one in self._queue if (one.order.name, one.order.slot) == (name, slot)), None)

    def _lose(self, order: Order, reason: str) -> None:
        logger.error("the order %s to worker %d, which reads none now, is lost: %s", order.name, self._slot, reason)

    def _drop(self, waiting: Waiting) -> None:
        self._queue.remove(waiting)
        _close_all(waiting.descriptors)


def _duplicate(descriptors: list[int]) -> list[int]:
    """Return duplicates, close-on-exec. Raises OSError, and then none is left."""
    duplicates: list[int] = []
    try:
        for descriptor in descriptors:
            duplicates.append(os.dup(descriptor))
    except OSError:
        _close_all(duplicates)
        raise
    return duplicates


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
