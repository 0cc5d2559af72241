"""Last words: the file into which a worker's stacks are written when it crashes, or is told to show them.

It is a memfd, see memfd_create(2), made before the fork: it needs no file system and no reader, so writing never waits,
and it outlives the worker. The master reads with pread(2), because the two share one file position. The worker's end
appends, see O_APPEND in open(2), so the file can be emptied while it is being written to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from wsworker.memory import open_memory

READ_BYTES: Final = 64 * 1024
MAX_BYTES: Final = 1024 * 1024


class LastWords:
    """The words of one worker. fd: what the worker writes to; read: how many bytes of it were read.

    Both are given for a worker that a former program of this process has started. Raises OSError if it cannot be made.
    """

    def __init__(self, fd: int | None = None, read: int = 0) -> None:
        self.fd = open_memory("wsworker-words") if fd is None else fd
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)
        self.read = read

    def unread(self) -> str:
        """Return what was written since this was called last; of more than 64 KiB the end."""
        written = os.fstat(self.fd).st_size
        start = max(self.read, written - READ_BYTES)
        data = os.pread(self.fd, READ_BYTES, start)
        self.read = start + len(data)
        if written > MAX_BYTES:
            # user code may have sealed it against this: then it grows, at the worker's own cost
            with contextlib.suppress(PermissionError):
                os.ftruncate(self.fd, 0)
                self.read = 0
        return data.decode(errors="replace")

    def close(self) -> None:
        """Let go of it: in the master after the last reading, and in each fork for the other workers."""
        os.close(self.fd)
