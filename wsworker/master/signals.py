"""Catching signals: a signal handler only notes that it was called, and the loop asks later what came.

Two things are needed. A queue holds the numbers, in the order in which they came. A wakeup descriptor, see
signal.set_wakeup_fd, ends the wait of the selector: the interpreter writes a byte to it for each signal. The bytes only
wake. They are not what is read for the numbers, as they are lost once the descriptor's buffer is full.

What a signal leads to is for the loop to say, by SIGNALS. One thing cannot stand in a table, what tells one SIGHUP from
another: the kernel also sends it when the terminal goes away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from wsworker import signalstack
from wsworker.master.events import Event, ReopenRequested, ScaleRequested, StopRequested

SIGNALS: Final[Mapping[int, tuple[Event, str]]] = {
    signal.SIGTERM: (StopRequested(), "stopping"),
    signal.SIGINT: (StopRequested(), "stopping"),
    signal.SIGQUIT: (StopRequested(quick=True), "stopping"),
    signal.SIGUSR1: (ReopenRequested(), "reopening the log"),
    signal.SIGTTIN: (ScaleRequested(+1), "one worker more"),
    signal.SIGTTOU: (ScaleRequested(-1), "one worker less"),
}
"""What each signal means, also in words; SIGHUP means a reload, which begins with reading the configuration."""

SILENT_SIGNALS: Final = (
    signal.SIGCHLD,  # a death is seen by its pidfd; it wakes the loop for children that are none of ours
    signal.SIGWINCH,
    signal.SIGPIPE,
)

MOST_OF_A_KIND: Final = 16


class SignalCatcher:
    """The signals of one process. selector: what its loop waits in; the data of each key there is called when ready.

    terminal: the descriptor that was our controlling terminal at the start, None if there was none.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._caught: deque[int] = deque()
        self.terminal = next((fd for fd in (0, 1, 2) if _controls_us(fd)), None)

    def catch(self, numbers: Collection[int]) -> None:
        """Catch these from now on; the main thread, once, and before the first fork.

        A signal then never finds a default action, not even in a child. Whoever starts this may have them blocked, and
        a mask is inherited: a stop would then never be heard of.
        """
        # where PYTHONFAULTHANDLER or -X dev has asked for one
        signalstack.widen()
        self._wakeup, self._waker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        for number in numbers:
            signal.signal(number, self._note)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._wake)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def caught(self) -> Iterator[int]:
        """Yield the signals not yet asked for, oldest first.

        Those that come meanwhile wait for the next turn, and have woken it: a stream of them must not hold the loop.
        """
        for _ in range(len(self._caught)):
            yield self._caught.popleft()

    def terminal_hung_up(self) -> bool:
        """Whether the terminal of a foreground start is gone: the kernel sends HUP then too. tcgetpgrp(3), EIO."""
        if self.terminal is None:
            return False
        try:
            os.tcgetpgrp(self.terminal)
        except OSError as error:
            return error.errno == errno.EIO
        return False

    def close(self) -> None:
        """In a fresh worker: close the wakeup descriptor, both ends. The selector and set_wakeup_fd are not touched."""
        self._wakeup.close()
        self._waker.close()

    def _note(self, number: int, frame: object) -> None:
        """Note a signal. More of a kind than MOST_OF_A_KIND at a time are a storm, and say nothing new."""
        if self._caught.count(number) < MOST_OF_A_KIND:
            self._caught.append(number)

    def _wake(self) -> None:
        """Forget what has woken the loop, which asks for signals in any case."""
        with contextlib.suppress(BlockingIOError):
            while len(self._wakeup.recv(4096)) == 4096:
                pass


def _controls_us(fd: int) -> bool:
    """Whether a descriptor is our controlling terminal: one of another session never sends us HUP. tcgetpgrp(3)."""
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return False
    return True
