"""Signal stack: room for the frames of all signals that come at once.

faulthandler has handlers run on a stack of their own (sigaltstack(2)), so that it can speak when the usual one is full,
and Python's handlers take it too. What faulthandler allots holds a handful of frames: one has all registers of the
processor in it, 3 KiB with AVX-512 and 11 KiB with AMX. When a process that stood still goes on, the kernel writes the
frames of all signals that have come meanwhile before the first handler runs. Where the stack ends, it sends SIGSEGV:
six signals to a worker that was stopped for a moment were its death.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from typing import Final

SS_DISABLE: Final = 2
"""There is no such stack. From signal.h, as what follows is from auxvec.h: getauxval(3)."""

AT_MINSIGSTKSZ: Final = 51

LEAST_FRAME_BYTES: Final = 4096
HANDLER_BYTES: Final = 64 * 1024
"""For what the handler does that runs first; faulthandler writes stacks."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.getauxval.argtypes = (ctypes.c_ulong,)
_libc.getauxval.restype = ctypes.c_ulong

_kept: list[mmap.mmap] = []
"""What must not be freed: the kernel writes there."""


class _Stack(ctypes.Structure):
    """stack_t."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def size() -> int:
    """Return how many bytes the signal stack of this thread has; 0 if handlers run on the usual stack."""
    now = _Stack()
    _set(None, now)
    return 0 if now.flags & SS_DISABLE else int(now.size)


def widen() -> None:
    """Replace the signal stack of this thread, if it has one, by one that is never too small.

    You must call it behind faulthandler.enable(), which would take its own again. Memory is used as far as signals
    need it, and a forked process has its own copy. Raises OSError if there is none.
    """
    frame = max(LEAST_FRAME_BYTES, _libc.getauxval(AT_MINSIGSTKSZ))
    wanted = len(signal.valid_signals()) * frame + HANDLER_BYTES
    if not 0 < size() < wanted:
        return
    memory = mmap.mmap(-1, wanted, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _set(_Stack(start, 0, wanted), None)


def _set(new: _Stack | None, old: _Stack | None) -> None:
    if _libc.sigaltstack(new and ctypes.byref(new), old and ctypes.byref(old)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
