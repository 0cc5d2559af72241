"""The pid file that a configuration asks for with `pidfile`: the master's pid on a line, and nothing else.

It is for other programs: a supervisor of another kind, a script. Nothing here reads it to learn who runs; that is what
the lock of the run directory says, see rundir. It may stand in a folder that others write to, and it is written by
root as a rule. So what lies in its place is never written through, and only a file that holds our pid is removed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def write(file: Path, pid: int) -> None:
    """Replace the pid file as a whole, and never write through a link or into a pipe that lies there.

    Raises OSError, and then leaves nothing of its own behind. That must not stop a start: the caller logs it.
    """
    new = file.with_name(f".{file.name}.{pid}")
    # in a container each master has the same pid, also one that was killed right here
    new.unlink(missing_ok=True)
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w") as output:
            output.write(f"{pid}\n")
        new.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def remove(file: Path, pid: int) -> None:
    """Remove the pid file if it is still ours: a regular file with this pid in it. Any failure is ignored."""
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISREG(file.lstat().st_mode) and int(file.read_text()) == pid:
            file.unlink()
