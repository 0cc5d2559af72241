"""Faults 41, 43 and 44: the log, the notify socket and the control socket, moved, deleted, dead or misused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from collections import defaultdict
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.system.clients import ConnectLoop
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, Daemon, eventually
from tests.system.faults.mischief import bare_status, call, callers, control_file, read_lines
from tests.system.test_systemd_notify import NotifySocket
from wsworker.wire import Command, decode_reply, encode

NUMBERS_ITS_LINES = """
import itertools, logging, os

logger = logging.getLogger(__name__)
numbers = itertools.count(1)

def on_message(connection, data):
    logger.info("line %d of %d", next(numbers), os.getpid())
    connection.send(str(os.getpid()))
"""


# The log


@pytest.mark.parametrize("by", ["USR1", "wsworker reopen"])
def test_row_41_the_log_is_moved_away(make_daemon: MakeDaemon, by: str) -> None:
    """After a move and USR1, or `wsworker reopen`, every process writes the new file, and no line is lost.

    Each worker numbers its lines; the old and the new file together hold each number once.
    """
    daemon = make_daemon(NUMBERS_ITS_LINES, workers=3, log={"file": "log.txt"}).start()
    new, old = daemon.folder / "log.txt", daemon.folder / "log.1"
    workers = daemon.workers
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect_to(pid)) for pid in workers]
        talk_all(clients, 20)
        new.rename(old)
        talk_all(clients, 20)
        if by == "USR1":
            daemon.signal(signal.SIGUSR1)
        else:
            reopened = daemon.cli("reopen")
            assert (0, "") == (reopened.code, reopened.err)
        eventually(lambda: new.exists(), "a new file")
        eventually(lambda: talk_all(clients, 1) and {*written(new)} == {*workers}, "every worker in the new file")
        talk_all(clients, 20)
        # something that the master says
        daemon.signal(signal.SIGUSR1)
        eventually(lambda: "SIGUSR1" in new.read_text(), "the master in the new file")
    lines = written(old, new)
    assert {*workers} == {*lines}
    for numbers in lines.values():
        assert [*range(1, len(numbers) + 1)] == numbers
    assert 0o640 == new.stat().st_mode & 0o777
    assert workers == daemon.workers
    # a worker of a later generation inherits the new file too
    assert 0 == daemon.cli("reload").code
    pid = int(daemon.echo("on"))
    eventually(lambda: pid in written(new), "a worker of the next generation")
    assert pid not in written(old)


def talk_all(clients: list[ClientConnection], times: int) -> bool:
    """Have each client send and get an answer, some times."""
    for _ in range(times):
        for client in clients:
            client.send("on")
            client.recv(10)
    return True


def written(*files: Path) -> dict[int, list[int]]:
    """Return the numbers of the lines that each worker has written, by its pid, in their order."""
    numbers = defaultdict(list)
    for file in files:
        for number, pid in re.findall(r"line (\d+) of (\d+)\n", file.read_text()):
            numbers[int(pid)].append(int(number))
    return numbers


def test_row_41_the_new_file_cannot_be_opened(make_daemon: MakeDaemon) -> None:
    """If the new file cannot be opened, the log goes on where it was: the caller is told, and no line is lost."""
    daemon = make_daemon(NUMBERS_ITS_LINES, log={"file": "logs/log.txt"})
    folder = daemon.folder / "logs"
    folder.mkdir()
    daemon.start()
    (pid,) = daemon.workers
    assert str(pid) == daemon.echo("on")
    moved = folder.rename(daemon.folder / "moved")
    reopened = daemon.cli("reopen")
    reopened.check_tone()
    assert (1, "") == (reopened.code, reopened.out)
    assert "logs/log.txt" in reopened.err
    assert str(pid) == daemon.echo("on")
    assert {pid: [1, 2]} == written(moved / "log.txt")


# The notify socket


@pytest.mark.parametrize("kind", ["missing", "dead", "full"])
def test_row_43_the_notify_socket(make_daemon: MakeDaemon, kind: str) -> None:
    """A notify socket that is not there, that dies, or that nobody reads: the service starts, reloads and stops."""
    daemon = make_daemon(HELLO, workers=2)
    path = daemon.folder / "notify"
    daemon.environ |= {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "30000"}
    with ExitStack() as stack:
        if kind == "missing":
            daemon.start()
        else:
            notify = stack.enter_context(closing(NotifySocket(path)))
            daemon.start()
            assert "READY" in notify.wait_for("READY")
        if kind == "dead":
            notify.close()
        elif kind == "full":
            # net.unix.max_dgram_qlen bounds how many datagrams may wait, and one comes every 10 ms
            notify.leave_unread()
            fill(path)
        with ConnectLoop(daemon) as loop:
            assert 0 == daemon.cli("reload").code
            served = loop.echoed
            eventually(lambda: loop.echoed > served + 50, "clients after the reload")
        loop.check()
        assert "running" == daemon.status()["state"]
        assert 0 == daemon.cli("stop").code
        assert 0 == daemon.wait_exit()
    assert "Traceback" not in daemon.log


def fill(path: Path) -> None:
    """Send datagrams to a socket until it takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(str(path))
        with pytest.raises(BlockingIOError):
            send_for_ever(sock)


def send_for_ever(sock: socket.socket) -> None:
    """Send until that raises."""
    while True:
        sock.send(b"STATUS=full")


# The control socket

MISTAKES = 3000
"""So many in the config make the answer to a reload longer than a socket's buffer, and shorter than 1 MiB."""


def test_row_44_the_control_socket_is_deleted(make_daemon: MakeDaemon) -> None:
    """Somebody cleans up the run directory: clients do not notice, and the master makes the control socket again."""
    daemon = make_daemon(HELLO).start()
    control_file(daemon).unlink()
    assert "hello tom" == daemon.echo("tom")
    eventually(control_file(daemon).exists, "the control socket")
    assert 0o600 == control_file(daemon).stat().st_mode & 0o777
    assert "running" == daemon.status()["state"]


def test_row_44_the_run_directory_is_deleted(make_daemon: MakeDaemon) -> None:
    """With the lock and the pid file: nobody else can start in its place, and `stop` finds it."""
    daemon = make_daemon(HELLO).start()
    master = daemon.master
    shutil.rmtree(control_file(daemon).parent)
    eventually(control_file(daemon).exists, "the control socket")
    assert master == daemon.status()["pid"]
    assert f"already running (pid {master})" in daemon.cli("start").err
    os.kill(master, signal.SIGSTOP)
    assert 0 == daemon.cli("stop").code
    assert 0 == daemon.wait_exit()


def test_row_44_a_stale_control_socket(make_daemon: MakeDaemon) -> None:
    """A socket file that a killed master left is replaced by the next start, which holds the lock."""
    daemon = make_daemon(HELLO).start()
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.wait_gone()
    assert control_file(daemon).is_socket()
    daemon.start()
    assert "hello tom" == daemon.echo("tom")
    # nobody listens at the old one, so an answer comes from a new one
    assert "running" == daemon.status()["state"]


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\xff\x00\n", id="no text"),
        pytest.param(b"{\n", id="no JSON"),
        pytest.param(b"[1, 2]\n", id="no object"),
        pytest.param(b'{"v": 1, "name": "dance"}\n', id="no command"),
        pytest.param(b'{"v": 99, "name": "stop", "quick": false}\n', id="another version"),
        pytest.param(b"x" * 100_000, id="no end"),
    ],
)
def test_row_44_bad_json(make_daemon: MakeDaemon, rubbish: bytes) -> None:
    """What is no command is refused or cut off, and does nothing else; the next caller is answered."""
    daemon = make_daemon(HELLO).start()
    before = daemon.processes()
    with call(daemon) as sock:
        # it may be cut off in the middle
        with suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(rubbish)
        for line in read_lines(sock):
            reply = decode_reply(line)
            assert reply.final
            assert "usage" == reply.body["error"]["code"]
    assert "running" == daemon.status()["state"]
    assert before == daemon.processes()
    assert "Traceback" not in daemon.log


def test_row_44_stuck_callers(make_daemon: MakeDaemon) -> None:
    """Callers that send nothing are cut off after 5 seconds; until then the loop runs as if they were not there."""
    daemon = make_daemon(HELLO, workers=2)
    with ExitStack() as stack:
        notify = stack.enter_context(closing(NotifySocket(daemon.folder / "notify")))
        daemon.environ |= {"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": "300000"}
        daemon.start()
        stuck = [stack.enter_context(call(daemon)) for _ in range(10)]
        stuck[0].sendall(encode(Command("status"))[:-1])
        # a caller more than these is answered at once
        assert 2 == daemon.status()["workers_ready"]
        more = [stack.enter_context(call(daemon)) for _ in range(10)]
        # sixteen are heard at a time; whoever is over that is cut off
        eventually(lambda: callers(daemon) == 16, "no more than sixteen callers")
        notify.states()
        notify.wait_for("WATCHDOG")
        os.kill(daemon_pid(daemon), signal.SIGHUP)
        notify.wait_for("RELOADING")
        assert "READY" in notify.wait_for("READY")
        assert "hello tom" == daemon.echo("tom")
        assert [] == [line for sock in stuck + more for line in read_lines(sock)]
        assert 1 == daemon.status()["reloads"]
        daemon.close_master()


def daemon_pid(daemon: Daemon) -> int:
    """Return the master's pid without a question to the master."""
    (pid,) = [pid for pid, title in daemon.processes().items() if title.startswith("wsworker: master")]
    return pid


def test_row_44_a_caller_that_reads_nothing(make_daemon: MakeDaemon) -> None:
    """Callers that do not read an answer of more than the kernel holds for them: nobody waits, and they are cut off.

    They read too late here, and find that the end is missing.
    """
    daemon = make_daemon(HELLO).start()
    daemon.write_config(websocket={f"k{number}": 1 for number in range(MISTAKES)})
    with ExitStack() as stack:
        deaf = [stack.enter_context(call(daemon)) for _ in range(3)]
        for sock in deaf:
            sock.sendall(encode(Command("reload")))
        for _ in range(5):
            assert 1 == bare_status(daemon)["workers_ready"]
        assert "hello tom" == daemon.echo("tom")
        eventually(lambda: callers(daemon) == 0, "they are cut off")
        for sock in deaf:
            (line,) = read_lines(sock)
            assert not line.endswith(b"\n")
