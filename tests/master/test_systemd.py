from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsworker.master.systemd import MOST_WAITING, Notifier, kept_environment, take_descriptors, take_environment

PID = 4242
FILLER = "STATUS=of another sender"
ROOT = Path(__file__).parent.parent.parent


def fill(sock: socket.socket, datagram: str) -> None:
    """Send datagrams to a socket until nobody finds room for one more. One sender has a limit of its own."""
    room = True
    while room:
        room = False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger, contextlib.suppress(BlockingIOError):
            stranger.setblocking(False)
            stranger.connect(sock.getsockname())
            while stranger.send(datagram.encode()):
                room = True


class Systemd:
    """The other end: a real datagram socket, bound where NOTIFY_SOCKET points."""

    def __init__(self, variable: str, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": variable}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        # a datagram on a unix socket is there once sendto has returned
        self.socket.setblocking(False)

    def fill(self) -> None:
        """Let nobody find room for a datagram until something is received."""
        fill(self.socket, FILLER)

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


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "notify", "/nowhere/notify", "/" + "x" * 200, "/\ud800"])
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


def test_extend(systemd: Systemd, notifier: Notifier) -> None:
    """The time is told in whole microseconds."""
    notifier.extend(65.5)
    notifier.extend(0.1)
    assert systemd.received() == ["EXTEND_TIMEOUT_USEC=65500000", "EXTEND_TIMEOUT_USEC=100000"]


def test_store(systemd: Systemd, notifier: Notifier) -> None:
    """Systemd gets the name and a descriptor of the same open file, which outlives ours."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        address = sock.getsockname()
        notifier.store("ws-1-4", sock.fileno())
    data, descriptors, _, _ = socket.recv_fds(systemd.socket, 4096, 8)
    assert data == b"FDSTORE=1\nFDNAME=ws-1-4\nFDPOLL=0"
    (descriptor,) = descriptors
    with socket.socket(fileno=descriptor) as kept:
        assert kept.getsockname() == address
        socket.create_connection(address).close()


def test_unstore(systemd: Systemd, notifier: Notifier) -> None:
    """Systemd is told the name only."""
    notifier.unstore("ws-1-4")
    data, descriptors, _, _ = socket.recv_fds(systemd.socket, 4096, 8)
    assert (b"FDSTOREREMOVE=1\nFDNAME=ws-1-4", []) == (data, descriptors)


def test_what_cannot_be_stored_is_no_error(systemd: Systemd, notifier: Notifier) -> None:
    """A closed descriptor, or no systemd at all: the service goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    notifier.store("ws-1-1", reader)
    Notifier({}, PID).store("ws-1-1", writer)
    os.close(writer)
    assert systemd.received() == []
    systemd.fill()
    notifier.unstore("ws-1-1")
    notifier.store("ws-1-1", reader)
    assert ["FDSTOREREMOVE=1\nFDNAME=ws-1-1"] == told(systemd, notifier)


# --- no room, and nobody there ------------------------------------------------------------------------------------


def told(systemd: Systemd, notifier: Notifier) -> list[str]:
    """Return what comes while systemd reads, and the master flushes, again and again; without the fillers."""
    came = []
    while some := systemd.received():
        came += some
        notifier.flush()
    return [datagram for datagram in came if datagram != FILLER]


def descriptors_open() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def test_what_finds_no_room_waits(systemd: Systemd, notifier: Notifier) -> None:
    """No call blocks; what comes later stays behind what waits, also when there is room again."""
    systemd.fill()
    notifier.reloading(1, "reloading")
    notifier.unstore("ws-1-1")
    assert FILLER == systemd.socket.recv(4096).decode()
    notifier.ready("ready")
    notifier.stopping("stopping")
    assert [
        "RELOADING=1\nMONOTONIC_USEC=1\nSTATUS=reloading",
        "FDSTOREREMOVE=1\nFDNAME=ws-1-1",
        "READY=1\nSTATUS=ready",
        "STOPPING=1\nSTATUS=stopping",
    ] == told(systemd, notifier)
    notifier.status("on time")
    assert ["STATUS=on time"] == systemd.received()


def test_what_is_said_again_does_not_wait(systemd: Systemd) -> None:
    """A status, a sign of life or a plea for patience would be wrong later, or take the room of what matters."""
    notifier = Notifier(systemd.environ | {"WATCHDOG_USEC": "3000000"}, PID)
    systemd.fill()
    notifier.status("2/4 workers")
    notifier.watchdog()
    notifier.extend(10.0)
    notifier.ready("4/4 workers")
    notifier.watchdog()
    assert ["READY=1\nSTATUS=4/4 workers"] == told(systemd, notifier)
    notifier.close()


def test_a_listener_that_waits_may_be_closed(systemd: Systemd, notifier: Notifier) -> None:
    """Systemd gets the listener that was meant, and ours closes nothing but its own copy of it, when that is sent."""
    systemd.fill()
    before = descriptors_open()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        notifier.store("ws-1-1", listener.fileno())
    with open(os.devnull) as another:
        assert FILLER == systemd.socket.recv(4096).decode()
        notifier.flush()
        os.fstat(another.fileno())
    assert before == descriptors_open()
    data = FILLER.encode()
    while data == FILLER.encode():
        data, descriptors, _, _ = socket.recv_fds(systemd.socket, 4096, 8)
    assert b"FDSTORE=1\nFDNAME=ws-1-1\nFDPOLL=0" == data
    with socket.socket(fileno=descriptors[0]) as kept:
        assert kept.getsockname() == address


def test_too_many_messages(systemd: Systemd, notifier: Notifier, caplog: pytest.LogCaptureFixture) -> None:
    """So many wait and no more; that is logged once, and who waited is served all the same."""
    systemd.fill()
    for number in range(MOST_WAITING):
        notifier.unstore(str(number))
    assert [] == caplog.messages
    notifier.ready("ready")
    notifier.ready("ready")
    (line,) = caplog.messages
    assert line.endswith(": it is not read; restart the service when that is mended")
    expected = [f"FDSTOREREMOVE=1\nFDNAME={number}" for number in range(MOST_WAITING)]
    assert expected == told(systemd, notifier)


def test_the_end(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    """finish() tries once more, says what is lost and closes; close(), as in a forked child, does only that."""
    for end, room, came, lines in (
        (Notifier.finish, True, ["STOPPING=1\nSTATUS=stopping"], 0),
        (Notifier.finish, False, [], 1),
        (Notifier.close, True, [], 0),
    ):
        caplog.clear()
        before = descriptors_open()
        notifier = Notifier(systemd.environ, PID)
        systemd.fill()
        notifier.stopping("stopping")
        notifier.store("ws-1-1", 0)
        if room:
            systemd.received()
        end(notifier)
        assert before == descriptors_open()
        assert came == [text for text in systemd.received() if text != FILLER and "FDSTORE" not in text]
        assert lines == len(caplog.messages)


@pytest.mark.parametrize("reason", ["Connection refused", "No such file or directory"])
def test_a_dead_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Where nobody listens any more nothing waits, also not what did, and one line says so."""
    path = str(tmp_path / "notify")
    systemd = Systemd(path, path)
    notifier = Notifier(systemd.environ, PID)
    systemd.fill()
    before = descriptors_open()
    notifier.store("ws-1-1", 0)
    systemd.socket.close()
    if reason == "No such file or directory":
        os.unlink(path)
    notifier.flush()
    notifier.ready("ready")
    notifier.finish()
    # the sockets of both are gone, and the copy
    assert before - 2 == descriptors_open()
    assert [
        f"systemd misses messages, NOTIFY_SOCKET={path}: {reason}; restart the service when that is mended"
    ] == caplog.messages


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
        "FDSTORE": "512",
        "LISTEN_ADDRESS": "mine",
        "PATH": "/bin",
    }
    take_environment(environ)
    take_environment(environ)
    assert environ == {"LISTEN_ADDRESS": "mine", "PATH": "/bin"}


def test_what_another_program_in_this_process_is_told() -> None:
    """All that holds as long as the process lives; descriptors were taken, and would be other ones by then."""
    told = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "FDSTORE": "512"}
    taken = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "LISTEN_PID": "1", "LISTEN_PIDFDID": "1"}
    environ = {"PATH": "/bin", "LISTEN_ADDRESS": "mine"} | taken | told
    assert told == kept_environment(environ)
    assert {} == kept_environment({"PATH": "/bin"})
    # and that is just what the workers must not see
    rest = environ.copy()
    take_environment(rest)
    assert told.keys() == environ.keys() - rest.keys() - taken.keys()


# --- descriptors from systemd -------------------------------------------------------------------------------------


SCRIPT = """
import json, os
from wsworker.master.systemd import take_descriptors
found = take_descriptors(os.environ, os.getpid())
count = int(os.environ["COUNT"])
print(json.dumps([found, [os.get_inheritable(descriptor) for descriptor in range(3, 3 + count)]]))
"""


def taken(count: int, environ: dict[str, str]) -> Any:
    """Take descriptors in a process of its own that is given so many, from 3 on, and LISTEN_PID as systemd sets it.

    Returns what was taken, and for each descriptor whether a program executed from there would inherit it.
    """
    reader, writer = os.pipe()
    # far above the numbers that they get, so that none is overwritten before it is copied
    given_away = [fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 100) for _ in range(count)]
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, 3 + at) for at, descriptor in enumerate(given_away)]
    process = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'LISTEN_PID=${LISTEN_PID-$$} exec "$0" -c "$1"', sys.executable, SCRIPT],
        {"PYTHONPATH": str(ROOT), "COUNT": str(count)} | environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1), *actions],
    )
    os.close(writer)
    for descriptor in given_away:
        os.close(descriptor)
    with open(reader) as output:
        told = output.read()
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return json.loads(told)


def test_descriptors_are_taken() -> None:
    """They count from 3, in the order of their names, and no program that a worker executes gets them."""
    environ = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "ws-1-1:wsworker.socket", "LISTEN_PIDFDID": "77"}
    assert [[["ws-1-1", 3], ["wsworker.socket", 4]], [False, False]] == taken(2, environ)


def test_descriptors_without_names() -> None:
    """They are called unknown, as sd_listen_fds_with_names(3) does it."""
    assert [[["unknown", 3], ["unknown", 4]], [False, False]] == taken(2, {"LISTEN_FDS": "2"})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": ""},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"},
        {"LISTEN_FDS": "2"},
    ],
    ids=["none", "of another process", "of nobody", "names of others", "more than there are"],
)
def test_descriptors_are_left_alone(environ: dict[str, str]) -> None:
    """What was meant for another process, or is malformed, is not taken."""
    found, _ = taken(1, environ)
    assert [] == found


ODD_NUMBERS = st.sampled_from(["", "-1", "+1", " 1", "1_0", "²", "999999", "9" * 5000])
COUNTS = st.sampled_from(["0", "1", "01"]) | ODD_NUMBERS
NAMES = st.none() | st.text(max_size=8)


@example(count="999999", pid=str(PID), names=None)
@given(count=st.none() | COUNTS | st.text(max_size=8), pid=st.just(str(PID)) | ODD_NUMBERS, names=NAMES)
def test_any_environment_gives_a_list(count: str | None, pid: str, names: str | None) -> None:
    """Whatever stands in the variables, nothing is raised, and what is taken is as many as was said."""
    environ = {"LISTEN_FDS": count, "LISTEN_PID": pid, "LISTEN_FDNAMES": names}
    found = take_descriptors({name: value for name, value in environ.items() if value is not None}, PID)
    assert found == [] or (str(len(found)), str(PID)) == (count and count.lstrip("0"), pid)
    assert [3 + at for at in range(len(found))] == [descriptor for _, descriptor in found]
    assert all(isinstance(name, str) for name, _ in found)
