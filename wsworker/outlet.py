"""An outlet: how one descriptor is written to without waiting, whatever is behind it.

O_NONBLOCK is not set on the descriptor itself: it belongs to the open file description, which other processes share
(a shell, tee, a program that user code starts), and they would get EAGAIN from a write that never failed before. So:

    pipe, terminal   opened anew through /proc/self/fd with O_NONBLOCK, which makes a description of our own, pipe(7)
    ... not allowed  a terminal that is our controlling one: opened as /dev/tty, which everybody may, tty(4)
    ... nor that     written with RWF_NOWAIT where the kernel has that, else only after poll(2) says that there is room
    terminal         tried a few times, as the kernel also refuses while another process is writing to it
    socket           MSG_DONTWAIT
    everything else  written plainly: a regular file gives an error when there is no room and does not wait for it

One case is left in which a write can wait, see _write_if_room: a terminal that belongs to another user and is not our
controlling one.

An outlet has no memory: what finds no room is the caller's to keep or to drop, see sink.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final


@dataclass(frozen=True)
class Outlet:
    """How to write to a descriptor without waiting.

    write: raises BlockingIOError if there is no room. close: gives back what was opened for it. most: bytes for a
    single write.
    """

    write: Callable[[bytes], int]
    close: Callable[[], None]
    most: int


TERMINAL_TRIES: Final = 30
"""Some 60 microseconds: no more, as a terminal that was stopped with Ctrl-S costs that for each line."""

_MOST_IN_A_PIPE: Final = select.PIPE_BUF - 1
"""What a pipe takes as a whole, with room for the newline that mends a torn line."""


def open_outlet(fd: int) -> Outlet:
    """Return the outlet for what is behind a descriptor, which stays the caller's and may be closed."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return _outlet_of_a_socket(fd)
    if stat.S_ISFIFO(mode):
        return _outlet_of_a_pipe(fd)
    if os.isatty(fd):
        outlet = _outlet_of_a_pipe(fd)
        tried = partial(_write_beside_others, outlet.write)
        return replace(outlet, write=partial(_write_from_the_background, tried))
    own = _duplicate(fd)
    return Outlet(partial(os.write, own), partial(os.close, own), sys.maxsize)


def _outlet_of_a_socket(fd: int) -> Outlet:
    own = socket.socket(fileno=os.dup(fd))
    return Outlet(lambda data: own.send(data, socket.MSG_DONTWAIT), own.close, sys.maxsize)


def _outlet_of_a_pipe(fd: int) -> Outlet:
    """For a terminal too."""
    try:
        own = _opened_anew(fd)
    except OSError:
        # a pipe of another user; or a named one that nobody reads any more
        own = _duplicate(fd)
        return Outlet(partial(_write_if_room, own), partial(os.close, own), _MOST_IN_A_PIPE)
    return Outlet(partial(os.write, own), partial(os.close, own), _MOST_IN_A_PIPE)


def _opened_anew(fd: int) -> int:
    """Return a descriptor that does not block, for the same pipe or terminal. Raises OSError."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        # behind su or sudo the terminal is another user's. tcgetpgrp(3) is an error unless it is our controlling one
        os.tcgetpgrp(fd)
        return os.open("/dev/tty", flags)


def _write_beside_others(write: Callable[[bytes], int], data: bytes) -> int:
    """Write to a terminal that other processes write to as well. Raises BlockingIOError.

    A terminal takes one write(2) at a time, and one that may not wait gets EAGAIN meanwhile, as if there were no room.
    The line would then come a second late, below those that others write after it. The other write takes microseconds.
    """
    for _ in range(TERMINAL_TRIES):
        try:
            return write(data)
        except BlockingIOError:
            os.sched_yield()
    raise BlockingIOError(errno.EAGAIN, "no room")


def _write_from_the_background(write: Callable[[bytes], int], data: bytes) -> int:
    """Write to a terminal, also after `bg` where `stty tostop` is set.

    The kernel would send TTOU to the whole process group instead of writing. A default action stops the service, and
    with a handler, as master and workers have one, write(2) is interrupted and tried again for ever. Who blocks TTOU
    may write: termios(3). It is blocked for no longer than this, because programs that user code starts inherit it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        return write(data)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write_if_room(fd: int, data: bytes) -> int:
    """Write to a pipe or terminal whose mode is not ours to change. Raises BlockingIOError.

    pwritev2(2) at -1 is a plain write with flags. Pipes know RWF_NOWAIT since Linux 6.5, terminals do not.

    After poll(2) a write can still wait. On a pipe, poll promises room for PIPE_BUF, so only if another process takes
    it in between. On a terminal it promises one byte, and a write waits until all is out: that happens with a terminal
    that is read slowly or not at all, but not with Ctrl-S, as there is no room then. Nothing better is to be had there:
    O_NONBLOCK is everybody's, and to drop every line would be worse than to wait for a terminal that somebody looks at.
    """
    try:
        return os.pwritev(fd, [data], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        raise
    except (OSError, NotImplementedError, AttributeError):
        # not for this kind of file, or not in this kernel, or not in this libc; any other error comes again below
        pass
    room = select.poll()
    room.register(fd, select.POLLOUT)
    if not room.poll(0):
        raise BlockingIOError(errno.EAGAIN, "no room")
    return os.write(fd, data)


def _duplicate(fd: int) -> int:
    """Return a descriptor of our own: user code may close 2, and then a client's socket may get that number."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
