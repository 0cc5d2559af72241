"""Forked: how a process that user code has forked from a worker closes what is the worker's.

Such a process has a copy of each descriptor, and of each object that holds one; see worker/copies.py for why and when
it closes them. Nothing else than close(2) may be done: what is registered with the loop's epoll, which it shares with
the worker, stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import socket


def let_go(held: socket.socket | int) -> None:
    """Close a socket or a descriptor of the worker's in a process that was forked from it; nothing if it is closed."""
    # detached, so that the object does not close the number a second time when somebody else has it
    descriptor = held if isinstance(held, int) else held.detach()
    with contextlib.suppress(OSError):
        os.close(descriptor)
