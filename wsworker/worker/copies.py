"""Copies of a worker: the processes that user code forks from it.

os.fork() and multiprocessing give user code a process that has all of the worker: its port, its channel, its clients,
its loop. It may live as long as it likes, as long as it stays in user code. So at its start it closes what is the
worker's alone: a copy that outlives its worker would else hold the port, and keep the channel open, whose end tells
that the master is dead.

A copy that comes back to us would serve the worker's clients a second time. It is ended where it comes back: as soon as
the import, a callback or a timer is done, before another message is handled or a byte is read. What user code runs in
other ways, such as a task of its own, comes back to the loop, and is ended two turns later. Until then the copy has an
epoll of its own: with the worker's, which it shares, it would take clients away, and leave the worker deaf to what it
unregisters. epoll(7).

That this process is a copy is true for all of it, so it is kept here and not in an object. It is noted when the copy
begins: to compare os.getpid() instead would cost a system call for each message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("wsworker.worker")

is_copy = False
"""Whether this process is one; only read it."""


def watch(loop: asyncio.AbstractEventLoop, let_go: Callable[[], None]) -> None:
    """From now on, have each copy of this process begin as it must.

    let_go: closes, in a copy, the descriptors that are the worker's alone; the loop must be left as it is. You must
    call it once, after the loop was made and before user code runs.
    """
    epolls = _epolls()
    os.register_at_fork(after_in_child=lambda: _begin(loop, epolls, let_go))


def end_if_copy(error: BaseException | None) -> None:
    """End this process if it is a copy; in the worker do nothing. You must call it whenever user code comes back.

    error: what it has raised, if anything. The exit code is the interpreter's. It ends at once: what is open in it, as
    the tasks, is the worker's, which goes on.
    """
    if is_copy:
        _end(error)


def _begin(loop: asyncio.AbstractEventLoop, epolls: list[int], let_go: Callable[[], None]) -> None:
    global is_copy
    if is_copy:
        # a copy of the copy: the numbers that were closed then may be those of its own files by now
        return
    is_copy = True
    let_go()
    with contextlib.suppress(OSError), select.epoll() as empty:
        for epoll in epolls:
            os.dup2(empty.fileno(), epoll, inheritable=False)
    # RuntimeError: the loop is closed already, or in debug mode another thread has forked; it never comes back
    with contextlib.suppress(RuntimeError):
        # not in the very next turn: if a task has raised SystemExit, uvloop takes a turn more before it says so
        loop.call_soon(loop.call_soon, _end, None)


def _epolls() -> list[int]:
    """Return the epolls of this process: only its loop has one before user code runs, and uvloop does not tell which.

    None are found without /proc.
    """
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                    found.append(int(name))
    return found


def _end(error: BaseException | None) -> None:
    code: object = 1
    if error is None:
        logger.warning("a process that the app has forked came back and is ended; it should end with os._exit()")
        code = 0
    elif isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
    else:
        logger.error("a process that the app has forked has failed", exc_info=error)
    try:
        # first, as the __str__ of what user code exits with may raise
        sys.stdout.flush()
        if not isinstance(code, int):
            print(code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else 1)
