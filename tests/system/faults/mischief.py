"""What faults are made of: limits of a running process, another way to start, bare talk with the control socket.

A limit is set from outside on a process that runs (prlimit(2)), which is the nearest to a machine that runs short of
something while a service is up: descriptors, processes, room on the disk.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

from tests.system.clients import read_to_end
from tests.system.daemon import Daemon
from wsworker.wire import Command, decode_reply, encode

File: TypeAlias = int | IO[bytes]


def limit(pid: int, kind: int, soft: int) -> None:
    """Set the soft limit of a process; kind: such as resource.RLIMIT_NOFILE. The hard one stays, for lift.

    A process that has just ended needs none.
    """
    with suppress(ProcessLookupError):
        hard = resource.prlimit(pid, kind)[1]
        resource.prlimit(pid, kind, (soft, hard))


def lift(pid: int, kind: int) -> None:
    """Set the soft limit of a process to its hard one; nothing if it has ended."""
    with suppress(ProcessLookupError):
        hard = resource.prlimit(pid, kind)[1]
        resource.prlimit(pid, kind, (hard, hard))


def descriptors(pid: int) -> list[int]:
    """Return the open descriptors of a process."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def launch(
    daemon: Daemon,
    before: Sequence[str] = (),
    stdin: File = subprocess.DEVNULL,
    stdout: File | None = None,
    stderr: File | None = None,
) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground as Daemon.launch does, but differently; return at once.

    before: a program and its arguments that ends by executing what follows. stdin, stdout, stderr: instead of nothing
    and the two files in the daemon's folder.
    """
    command = [*before, sys.executable, "-m", "wsworker", "start", "-c", daemon.config.name]
    with (daemon.folder / "stdout.txt").open("ab") as out, (daemon.folder / "stderr.txt").open("ab") as err:
        process = subprocess.Popen(
            command,
            cwd=daemon.folder,
            env=daemon.environ,
            stdin=stdin,
            stdout=out if stdout is None else stdout,
            stderr=err if stderr is None else stderr,
            start_new_session=True,
        )
    # so that it is waited for, and stopped at the end, like any other
    daemon._started = process
    daemon._sessions.append(process.pid)
    return process


def control_file(daemon: Daemon) -> Path:
    """Return the path of the control socket."""
    return daemon.run_dir / f"{daemon.name}.sock"


def call(daemon: Daemon) -> socket.socket:
    """Return a connection to the control socket, on which every wait ends after 10 s."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(control_file(daemon)))
    return sock


def callers(daemon: Daemon) -> int:
    """Return how many connections of the control socket the master has, or has not accepted yet."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    # the socket that listens has the path too
    return sum(line.endswith(f" {control_file(daemon)}") for line in lines) - 1


def read_lines(sock: socket.socket) -> list[bytes]:
    """Return the lines that come until the other side closes; a reset counts as closed."""
    return read_to_end(sock).splitlines(keepends=True)


def bare_status(daemon: Daemon) -> dict[str, Any]:
    """Return the status document, asked without the search for the run directory that the commands make."""
    with call(daemon) as sock:
        sock.sendall(encode(Command("status")))
        (line,) = read_lines(sock)
    return dict(decode_reply(line).body)


def ended(pid: int) -> bool:
    """Whether a process is gone, or dead and not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def serving(status: dict[str, Any]) -> dict[int, int]:
    """Return slot to pid of the workers that serve; those that boot, leave or are being killed are not among them."""
    states = ("ready", "full", "hung", "stopped")
    return {row["slot"]: row["pid"] for row in status["workers"] if row["state"] in states}
