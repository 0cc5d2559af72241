"""What a server of the benchmark is, and how it is started and stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

HOST = "127.0.0.1"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
CHECKOUT = Path(__file__).parent.parent.parent


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
def running(server: Server, port: int, folder: Path) -> Iterator[int]:
    """Run a server that accepts on port; gives the pid of its top process, and ends all of its processes afterwards.

    Raises RuntimeError with the server's own output when it does not come up.
    """
    output = folder / "output"
    environ = os.environ | {"PYTHONPATH": str(CHECKOUT), "XDG_RUNTIME_DIR": str(folder)}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *server.arguments(port, folder)],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        if not accepts(port, process):
            raise RuntimeError(f"{server.name} did not start:\n{output.read_text(errors='replace')[-2000:]}")
        yield process.pid
    finally:
        stop(process)


def accepts(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a port can be connected to; False when the process ends before, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
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
