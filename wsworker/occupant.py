"""The occupant of an address: which process has it, so that an "address in use" can name somebody.

It is a courtesy and never decides anything: who asks may not be allowed to see the processes of others, and the
occupant may have gone by then.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

import psutil

from wsworker.config import ListenAddress

COMM_CHARACTERS: Final = 15


def occupant(address: ListenAddress) -> str:
    """Return who has the address, such as "pid 812 (nginx)", or "" if that is not ours to see."""
    kind = "unix" if address.path else "tcp"
    try:
        pids = {one.pid for one in psutil.net_connections(kind) if one.pid and _holds(one, address)}
        if os.getpid() in pids:
            return "this service itself"
        if not pids:
            return ""
        owner = psutil.Process(min(pids))
        # psutil names one holder of a socket; a master that shares it with its workers is the one to be told
        with contextlib.suppress(psutil.AccessDenied):  # a parent that is not ours to look at is no master of it
            while (parent := owner.parent()) and any(_holds(one, address) for one in parent.net_connections(kind)):
                owner = parent
        return f"pid {owner.pid} ({_title(owner)})"
    except (psutil.Error, OSError):
        return ""


def _title(process: psutil.Process) -> str:
    """Return the name of a process, whole. The kernel keeps 15 bytes of it, proc_pid_comm(5).

    psutil looks for the rest in the command line too, but splits a title that fills its place to the last byte.
    """
    name = process.name()
    line = Path(f"/proc/{process.pid}/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
    return line if len(name) == COMM_CHARACTERS and line.startswith(name) else name


def _holds(connection: Any, address: ListenAddress) -> bool:
    if address.path:
        return bool(connection.laddr == address.path)
    if connection.status != psutil.CONN_LISTEN or connection.laddr.port != address.port:
        return False
    wildcards = {"0.0.0.0", "::"}  # noqa: S104 compared with, not bound to
    return connection.laddr.ip == address.host or bool(wildcards & {connection.laddr.ip, address.host})
