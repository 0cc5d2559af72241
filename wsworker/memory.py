"""Shared memory: bytes that the master and every worker see, and that outlive the program of the master.

An anonymous mmap(2) would do for a fork. But what runs in the master's process may be replaced by a newer program
(execve(2), see master/estate.py), and of a mapping nothing is left then; a descriptor stays. So there is a memfd behind
it, whose number the one program can tell the other.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
from collections.abc import Iterator
from typing import Final

MFD_NOEXEC_SEAL: Final = 0x8
"""From linux/memfd.h. Linux 6.3 and later warn without it, and refuse if vm.memfd_noexec is 2; others refuse it."""


def open_memory(name: str) -> int:
    """Return the descriptor of a new, empty file in memory; name: as /proc shows it. OSError. memfd_create(2)."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, os.MFD_CLOEXEC)


@contextlib.contextmanager
def without_limit() -> Iterator[None]:
    """Lift the limit on the size of files, as far as we may: setrlimit(2), RLIMIT_FSIZE, counts those in memory too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Memory:
    """Some memory, all zeros at first. name: as /proc shows it; size: in bytes. Raises OSError if it is not to be had.

    fd: of memory that was made before, instead of new one; it is ours from now on. You must call let_go in a fork. It
    is -1 where a limit on the size of files forbids so large a one: then no other program can go on with this memory.
    """

    def __init__(self, name: str, size: int, fd: int | None = None) -> None:
        self.fd = open_memory(name) if fd is None else fd
        try:
            if fd is None:
                self._grow(size)
            self.map = mmap.mmap(self.fd, size)
        except (OSError, ValueError):
            self.let_go()
            raise

    def _grow(self, size: int) -> None:
        try:
            with without_limit():
                os.ftruncate(self.fd, size)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            self.let_go()

    def lasting(self) -> int:
        """Return the descriptor, for the program that goes on in this process. Raises OSError if there is none."""
        if self.fd < 0:
            raise OSError(errno.EFBIG, "the service runs under a limit on the size of files (RLIMIT_FSIZE); restart it")
        return self.fd

    def let_go(self) -> None:
        """Close the descriptor, which only the master needs; what is mapped stays. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            self.let_go()
