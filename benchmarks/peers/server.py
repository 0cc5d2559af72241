"""What a server of the benchmark is, and how it is started and stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

HOST = "127.0.0.1"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
CHECKOUT = Path(__file__).parent.parent.parent

# The server has one CPU for all of its processes and threads, the client another one, where there is another one:
# figures vary less, and CPU time of the one holds no cache misses of the other.
CLIENT_CPU = min(os.sched_getaffinity(0))
SERVER_CPU = max(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Server:
    """An echo server.

    needs: packages that must be installed; arguments: port and an empty folder to what follows `python` on the command
    line; it may write files into the folder.
    """

    name: str
    needs: tuple[str, ...]
    arguments: Callable[[int, Path], list[str]]

    def missing(self) -> list[str]:
        """Return the needed packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def free_port() -> int:
    """Return a port that nothing on the loopback uses right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(server: Server, cpu: int | None = SERVER_CPU) -> Iterator[tuple[int, int]]:
    """Run a server on one CPU; gives its port and the pid of its top process, and ends all of its processes afterwards.

    cpu: None for all that this process may have.
    Raises RuntimeError with the last line of the server's own output when it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="wsworker-bench-") as name:
        port, folder = free_port(), Path(name)
        output = folder / "output"
        process = start([sys.executable, *server.arguments(port, folder)], folder, output, cpu)
        try:
            if not accepts(port, process):
                said = output.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise RuntimeError(f"did not start: {said[-1]}")
            yield port, process.pid
        finally:
            stop(process)


def start(command: list[str], folder: Path, output: Path, cpu: int | None) -> subprocess.Popen[bytes]:
    """Start a command on one CPU, None: on any, with all that it prints in a file."""
    with output.open("wb") as file:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environ(folder),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # before the first thread is there, as threads inherit it; safe, since this process has one thread
            preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
        )


def environ(folder: Path) -> dict[str, str]:
    """Return the environment of a server in its folder, and of commands to it."""
    return os.environ | {"PYTHONPATH": str(CHECKOUT), "XDG_RUNTIME_DIR": str(folder)}


def accepts(port: int, process: subprocess.Popen[bytes], host: str = HOST) -> bool:
    """Wait until a port can be connected to; False when the process ends before, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
            return True
        time.sleep(0.05)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we have started, and its children, politely first."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(children, timeout=1.0)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
