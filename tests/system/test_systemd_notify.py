"""systemd, played by a socket: what it is told, when, and what the workers must not inherit."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, PATIENCE_SECONDS, Daemon

ENVIRONMENT = """
import json
import os

def on_message(connection, data):
    connection.send(json.dumps(dict(os.environ)))
"""

WATCHDOG_USEC = 300_000

MARK: Final = b"MARK=1"
"""Comes from the tests themselves."""


class NotifySocket:
    """Collects the datagrams that systemd would get.

    A thread reads, as the queue of the socket is short and who finds it full does not wait. sd_notify(3).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        # how soon the thread sees that it is over
        self._socket.settimeout(0.05)
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._deaf = threading.Event()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def close(self) -> None:
        """Close it."""
        self.leave_unread()
        self._socket.close()

    def leave_unread(self) -> None:
        """Leave what comes from now on in the queue of the socket."""
        self._deaf.set()
        self._thread.join()

    def read(self) -> dict[str, str]:
        """Return the next datagram, name to value; TimeoutError if none comes for long."""
        try:
            lines = self._heard.get(timeout=PATIENCE_SECONDS).decode().split("\n")
        except queue.Empty:
            raise TimeoutError("no datagram came") from None
        return dict(line.split("=", 1) for line in lines)

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        try:
            self._heard.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def wait_for(self, name: str) -> dict[str, str]:
        """Return the next datagram that assigns a name; those before it are dropped."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            datagram = self.read()
            if name in datagram:
                return datagram
        raise AssertionError(f"no {name} came")

    def states(self) -> list[str]:
        """Return the names of what has come by now and is no mere watchdog or status, in its order."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # behind all that was sent before
            sock.sendto(MARK, str(self.path))
        return self.states_until("MARK")[:-1]

    def states_until(self, last: str) -> list[str]:
        """Return such names up to the next one of these."""
        found: list[str] = []
        while last not in found:
            name = next(iter(self.read()))
            if name not in ("WATCHDOG", "STATUS"):
                found.append(name)
        return found

    def _hear(self) -> None:
        while not self._deaf.is_set():
            try:
                self._heard.put(self._socket.recv(65536))
            except TimeoutError:
                continue


@pytest.fixture
def notified(make_daemon: MakeDaemon) -> Iterator[tuple[Daemon, NotifySocket]]:
    """A daemon that systemd seems to have started, and what systemd is told; it does not run yet."""
    daemon = make_daemon(HELLO, workers=2)
    notify = NotifySocket(daemon.folder / "notify")
    daemon.environ |= {"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": str(WATCHDOG_USEC)}
    yield daemon, notify
    # the daemon tells about its end as well
    daemon.close_master()
    notify.close()


def test_from_start_to_stop(notified: tuple[Daemon, NotifySocket]) -> None:
    """READY when every worker accepts; RELOADING with its time, then READY; STOPPING; each with a status line."""
    daemon, notify = notified
    daemon.launch()
    ready = notify.wait_for("READY")
    assert {"READY": "1", "STATUS": "2/2 workers, 0 connections"} == ready
    # it was true when it was said
    assert "hello tom" == daemon.echo("tom")

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    daemon.signal(signal.SIGHUP)
    reloading = notify.wait_for("RELOADING")
    assert "1" == reloading["RELOADING"]
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert "READY" in notify.wait_for("READY")

    daemon.signal(signal.SIGTERM)
    assert "1" == notify.wait_for("STOPPING")["STOPPING"]
    assert 0 == daemon.wait_exit()
    assert [] == notify.states()


def test_a_refused_reload_is_ready_again(notified: tuple[Daemon, NotifySocket]) -> None:
    """Code that does not start: RELOADING, then READY, or systemd would wait for ever. A bad config: only a status."""
    daemon, notify = notified
    daemon.start()
    notify.wait_for("READY")
    daemon.write_app("import no_such_module\n")
    assert 1 == daemon.cli("reload").code
    assert ["RELOADING", "READY"] == notify.states_until("READY")

    daemon.write_config(wrokers=1)
    assert 1 == daemon.cli("reload").code
    refused = notify.wait_for("STATUS")
    while "refused" not in refused["STATUS"]:
        refused = notify.wait_for("STATUS")
    assert refused["STATUS"].startswith("2/2 workers, 0 connections; last reload refused: config.yaml:")
    assert [] == notify.states()


def test_the_watchdog(notified: tuple[Daemon, NotifySocket]) -> None:
    """WATCHDOG comes again and again, also while the workers hang; the status line follows the connections."""
    daemon, notify = notified
    daemon.write_app("import time\ndef on_message(connection, data):\n    time.sleep(600)\n")
    daemon.start()
    with daemon.connect() as client:
        client.send("sleep")
        for _ in range(5):
            notify.wait_for("WATCHDOG")
        os.kill(daemon.workers[0], signal.SIGKILL)
        os.kill(daemon.workers[1], signal.SIGKILL)


def test_the_status_line(notified: tuple[Daemon, NotifySocket]) -> None:
    """The line that `systemctl status` shows follows workers and connections."""
    daemon, notify = notified
    daemon.start()
    notify.wait_for("READY")
    with daemon.connect() as client:
        client.send("tom")
        client.recv(10)
        while not re.fullmatch("2/2 workers, 1 connections?", notify.wait_for("STATUS")["STATUS"]):
            pass


def test_no_watchdog_for_somebody_else(notified: tuple[Daemon, NotifySocket]) -> None:
    """With a WATCHDOG_PID of another process nothing is sent: it is not meant for us."""
    daemon, notify = notified
    daemon.environ["WATCHDOG_PID"] = "1"
    daemon.start()
    seen = [notify.read()]
    daemon.signal(signal.SIGTERM)
    while "STOPPING" not in seen[-1]:
        seen.append(notify.read())
    assert not [datagram for datagram in seen if "WATCHDOG" in datagram]


def test_workers_inherit_nothing_of_it(notified: tuple[Daemon, NotifySocket]) -> None:
    """No worker, and so no program of the user, sees NOTIFY_SOCKET, WATCHDOG_* or systemd's LISTEN_*."""
    daemon, _ = notified
    daemon.environ |= {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "LISTEN_ADDRESS": "mine"}
    daemon.write_app(ENVIRONMENT)
    daemon.start()
    environment = json.loads(daemon.echo(""))
    assert ["LISTEN_ADDRESS"] == [name for name in environment if re.match("NOTIFY|WATCHDOG|LISTEN", name)]
    assert daemon.name == environment["WSWORKER_TEST_ID"]


def test_the_background_is_not_for_systemd(notified: tuple[Daemon, NotifySocket]) -> None:
    """`start -d` under systemd is a usage error, as systemd watches the foreground."""
    daemon, _ = notified
    started = daemon.cli("start", "-d")
    assert (2, "") == (started.code, started.out)
    assert started.err.startswith("error: -d is not for systemd, ")


def test_a_notify_socket_that_is_not_there(make_daemon: MakeDaemon) -> None:
    """A missing notify socket is no reason not to serve."""
    daemon = make_daemon()
    daemon.environ["NOTIFY_SOCKET"] = str(daemon.folder / "no-such-socket")
    assert "hello tom" == daemon.start().echo("tom")
