from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsworker.master.systemd import Notifier, take_environment

PID = 4242


class Systemd:
    """The other end: a real datagram socket, bound where NOTIFY_SOCKET points."""

    def __init__(self, variable: str, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": variable}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        # a datagram on a unix socket is there once sendto has returned
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        """Return the datagrams that wait, oldest first."""
        datagrams = []
        while True:
            try:
                datagrams.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return datagrams


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """Both kinds of address that systemd uses."""
    name = str(tmp_path / "notify")
    variable, address = (name, name) if request.param == "path" else (f"@{name}", f"\0{name}")
    other_end = Systemd(variable, address)
    yield other_end
    other_end.socket.close()


@pytest.fixture
def notifier(systemd: Systemd) -> Iterator[Notifier]:
    """Return a notifier whose socket is closed at the end."""
    ours = Notifier(systemd.environ, PID)
    yield ours
    ours.close()


def test_ready(systemd: Systemd, notifier: Notifier) -> None:
    """READY and STATUS travel in one datagram."""
    notifier.ready("4/4 workers")
    assert systemd.received() == ["READY=1\nSTATUS=4/4 workers"]


def test_reloading(systemd: Systemd, notifier: Notifier) -> None:
    """MONOTONIC_USEC is in the same datagram as RELOADING, as sd_notify(3) asks."""
    notifier.reloading(123456789, "reloading")
    assert systemd.received() == ["RELOADING=1\nMONOTONIC_USEC=123456789\nSTATUS=reloading"]


def test_stopping_and_status(systemd: Systemd, notifier: Notifier) -> None:
    """Each call is a datagram of its own, in order."""
    notifier.status("3/4 workers")
    notifier.stopping("stopping")
    assert systemd.received() == ["STATUS=3/4 workers", "STOPPING=1\nSTATUS=stopping"]


@pytest.mark.parametrize("text", ["a\nREADY=1", "a\r\nREADY=1", "a\x0bREADY=1", "a\u2028READY=1"])
def test_status_is_one_line(systemd: Systemd, notifier: Notifier, text: str) -> None:
    """No status can bring an assignment of its own."""
    notifier.status(text)
    assert systemd.received() == ["STATUS=a READY=1"]


def test_a_long_status_does_not_cost_the_message(systemd: Systemd, notifier: Notifier) -> None:
    """The datagram stays below the 4096 bytes at which systemd would ignore all of it."""
    notifier.ready("\U0001f40d" * 5000)
    (datagram,) = systemd.received()
    assert datagram.startswith("READY=1\nSTATUS=\U0001f40d")
    assert len(datagram.encode()) <= 4096


def test_a_status_that_is_not_unicode(systemd: Systemd, notifier: Notifier) -> None:
    """Bytes of a file name that no encoding knows are replaced, as systemd takes UTF-8 only."""
    notifier.status("no \udcff file")
    assert systemd.received() == ["STATUS=no ? file"]


def test_watchdog(systemd: Systemd) -> None:
    """The watchdog is fed three times in its interval."""
    notifier = Notifier(systemd.environ | {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}, PID)
    notifier.watchdog()
    notifier.close()
    assert notifier.watchdog_seconds == 10.0
    assert systemd.received() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-3"}, None),
        ({"WATCHDOG_USEC": "3s"}, None),
        ({"WATCHDOG_USEC": "³"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_whose_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    """A watchdog of another process, or one that makes no sense, is not fed."""
    assert seconds == Notifier(environ, PID).watchdog_seconds


def test_no_watchdog_is_not_fed(systemd: Systemd, notifier: Notifier) -> None:
    """Where systemd asks for no watchdog, none is sent."""
    notifier.watchdog()
    assert systemd.received() == []


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "notify", "/nowhere/notify", "/" + "x" * 200])
def test_nobody_listens(address: str | None) -> None:
    """Without an address, with one that is no unix socket, and with a dead one, every call does nothing."""
    notifier = Notifier({} if address is None else {"NOTIFY_SOCKET": address}, PID)
    notifier.ready("ready")
    notifier.status("status")
    notifier.stopping("stopping")
    notifier.close()


def test_a_name_in_the_working_directory_is_not_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an absolute path is used, also when a relative one would work."""
    monkeypatch.chdir(tmp_path)
    systemd = Systemd("notify", "notify")
    notifier = Notifier(systemd.environ, PID)
    notifier.ready("ready")
    notifier.close()
    assert systemd.received() == []
    systemd.socket.close()


def test_a_full_socket_does_not_block(systemd: Systemd, notifier: Notifier) -> None:
    """When systemd does not read, messages are lost and the calls return."""
    for number in range(5000):
        notifier.status(str(number))
    received = systemd.received()
    assert 0 < len(received) < 5000
    assert received[0] == "STATUS=0"


def test_a_new_socket_at_the_old_path(tmp_path: Path) -> None:
    """When systemd makes its socket anew, the next message finds it."""
    path = str(tmp_path / "notify")
    first = Systemd(path, path)
    notifier = Notifier(first.environ, PID)
    notifier.status("one")
    assert first.received() == ["STATUS=one"]
    first.socket.close()
    os.unlink(path)
    notifier.status("lost")
    second = Systemd(path, path)
    notifier.status("two")
    notifier.close()
    assert second.received() == ["STATUS=two"]
    second.socket.close()


def test_after_close(systemd: Systemd, notifier: Notifier) -> None:
    """What is said after close() is lost, and close() may be called twice."""
    notifier.close()
    notifier.ready("ready")
    notifier.close()
    assert systemd.received() == []


def test_take_environment() -> None:
    """The names of systemd are gone, the rest stays, and a second call is harmless."""
    environ = {
        "NOTIFY_SOCKET": "@x",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "a",
        "LISTEN_PID": "1",
        "LISTEN_PIDFDID": "1",
        "LISTEN_ADDRESS": "mine",
        "PATH": "/bin",
    }
    take_environment(environ)
    take_environment(environ)
    assert environ == {"LISTEN_ADDRESS": "mine", "PATH": "/bin"}
