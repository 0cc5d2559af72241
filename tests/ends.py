"""Two ends of all that a log may end in: real pipes, terminals and sockets, also such as may not be opened anew."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import termios
from collections.abc import Callable
from typing import TypeAlias

import pytest

LINE = b"x" * 99 + b"\n"
NOBODY = 65534


def have(fd: int) -> bytes:
    """Return what can be read now, from a descriptor that blocks."""
    parts = []
    while select.select([fd], [], [], 0)[0]:
        part = os.read(fd, 65536)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def a_pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Return the ends of a pipe: to read, to write."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    return reader, writer


def a_forbidden_pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Return the ends of a pipe that this process may not open anew."""
    reader, writer = a_pipe(stack)
    forbid(writer)
    return reader, writer


def a_socket(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Return the ends of a stream socket, which is what the journal gives a service."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    return theirs.fileno(), ours.fileno()


def a_terminal(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Return a terminal's two ends; a newline stays one byte."""
    ours, theirs = pty.openpty()
    stack.callback(os.close, ours)
    stack.callback(os.close, theirs)
    mode = termios.tcgetattr(theirs)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, mode)
    return ours, theirs


def a_forbidden_terminal(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Return a terminal's two ends, where the terminal may not be opened anew: it belongs to whoever called su."""
    ours, theirs = a_terminal(stack)
    forbid(theirs)
    return ours, theirs


def forbid(fd: int) -> None:
    """Take from this process the right to open what is behind a descriptor; for a forked child, as root has it all."""
    os.fchmod(fd, 0)
    if os.geteuid() == 0:
        os.setuid(NOBODY)
    with pytest.raises(PermissionError):
        os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)


Ends: TypeAlias = Callable[[contextlib.ExitStack], tuple[int, int]]
EVERY_KIND = pytest.mark.parametrize(
    "ends", [a_pipe, a_forbidden_pipe, a_socket, a_terminal, a_forbidden_terminal], ids=lambda ends: ends.__name__
)
