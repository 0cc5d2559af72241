"""What others find of a master: shown at the start, kept while it runs, gone at its end; what is others' stays."""

from __future__ import annotations

import os
import resource
import selectors
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.master.forks import Child, Pipe, in_child, stay
from tests.master.heirs import copy_of
from wsworker.errors import AlreadyRunning, RunDirError
from wsworker.master.control import Control
from wsworker.master.presence import Presence
from wsworker.master.rundir import Paths, RunDir, lock_is_held, read_pid


class Service:
    """The presence of a master that is this process, with a control socket of its own and `pidfile` configured."""

    def __init__(self, folder: Path) -> None:
        run = folder / "run"
        self.at = Paths(run, run / "chat.lock", folder / "chat.sock", run / "chat.pid")
        self.own_pid_file = folder / "pid"
        self.selector = selectors.DefaultSelector()
        self.control = Control(self.at.socket, self.selector, lambda *command: None, time.monotonic)
        self.presence = Presence.claim("chat", self.at, str(self.own_pid_file), self.control)

    def answers(self) -> bool:
        """Whether somebody listens at the control socket."""
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.at.socket)) == 0

    def is_whole(self) -> bool:
        """Whether all of it can be found, with our pid."""
        pids = [read_pid(self.at.pid), int(self.own_pid_file.read_text())]
        return lock_is_held(self.at) and self.answers() and pids == [os.getpid()] * 2

    def end(self) -> None:
        """Release it as a master does."""
        self.control.finish()
        self.presence.release()
        self.selector.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Give a service that is shown; it is ended after the test."""
    made = Service(tmp_path)
    made.presence.show()
    yield made
    made.end()


# --- shown --------------------------------------------------------------------------------------------------------


def test_all_of_it_is_shown_and_removed(tmp_path: Path) -> None:
    """At first there is the lock alone; at the end there is its file alone, and nobody holds it."""
    service = Service(tmp_path)
    assert lock_is_held(service.at)
    assert [service.at.lock] == [*service.at.folder.iterdir()]
    service.presence.show()
    assert service.is_whole()
    service.end()
    assert not lock_is_held(service.at)
    assert [service.at.folder] == [*tmp_path.iterdir()]
    assert [service.at.lock] == [*service.at.folder.iterdir()]


def test_who_comes_after_one_that_was_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line says so once, with the pid if there is one; nothing is said after a stop."""
    caplog.set_level("INFO")
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    (run / "chat.pid").write_text("4242 17\n")
    Service(tmp_path).end()
    assert ["the one before (pid 4242) ended without a stop; its files are removed"] == caplog.messages
    caplog.clear()
    Service(tmp_path).end()
    assert [] == caplog.messages
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "chat.sock"))
    Service(tmp_path).end()
    assert ["the one before ended without a stop; its files are removed"] == caplog.messages


def test_who_comes_second_hears_of_the_first(service: Service, tmp_path: Path) -> None:
    """The pid file names it; nothing of it is touched."""
    with pytest.raises(AlreadyRunning) as caught:
        Service(tmp_path)
    assert ("chat", os.getpid()) == (caught.value.name, caught.value.pid)
    assert service.is_whole()


def test_a_pid_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, each with its path and reason, and the service is there."""
    service = Service(tmp_path)
    service.at.pid.mkdir()
    service.own_pid_file.mkdir()
    service.presence.show()
    assert service.answers()
    assert [
        f"cannot write the pid file {service.at.pid}: Is a directory",
        f"cannot write the pid file {service.own_pid_file}: Is a directory",
    ] == caplog.messages
    service.end()


def test_without_a_pid_file_of_one_s_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`pidfile` is not configured as a rule: that of the run directory is all there is."""
    service = Service(tmp_path)
    service.presence.release()
    service.presence = Presence.claim("chat", service.at, None, service.control)
    service.presence.show()
    assert os.getpid() == read_pid(service.at.pid)
    service.end()
    assert not service.own_pid_file.exists()
    assert [] == caplog.messages


def test_a_control_socket_that_cannot_be_made(tmp_path: Path) -> None:
    """The path and the key are named, and no pid file claims that the service is there."""
    service = Service(tmp_path)
    service.at.socket.mkdir()
    with pytest.raises(RunDirError) as caught:
        service.presence.show()
    assert (str(service.at.socket), "Address already in use", "see `control_socket`") == (
        caught.value.path,
        caught.value.reason,
        caught.value.cure,
    )
    assert not service.at.pid.exists()
    service.end()


def test_no_descriptor_is_left_for_the_control_socket(tmp_path: Path) -> None:
    """The limit is named instead of the key, which has no part in it."""
    service = Service(tmp_path)

    def master() -> list[str]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            service.presence.show()
        except RunDirError as error:
            return [error.reason, error.cure]
        return []

    assert ["the master is out of descriptors", "raise LimitNOFILE= of the unit or `ulimit -n`"] == in_child(master)
    service.end()


# --- kept ---------------------------------------------------------------------------------------------------------


def test_what_is_whole_is_left_alone(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Once a second nothing is written and nothing is said."""
    files = (service.at.lock, service.at.socket, service.at.pid, service.own_pid_file)
    before = [file.stat() for file in files]
    service.presence.keep()
    assert before == [file.stat() for file in files]
    assert [] == caplog.messages


def test_what_was_removed_is_made_again(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """All of it, and each is said once."""
    shutil.rmtree(service.at.folder)
    service.at.socket.unlink()
    service.own_pid_file.unlink()
    service.presence.keep()
    assert service.is_whole()
    service.presence.keep()
    assert [
        f"the lock in {service.at.folder} was gone and is made again",
        f"the control socket {service.at.socket} was gone and is made again",
    ] == caplog.messages


def test_only_what_is_gone_is_said_to_be_gone(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """The lock file alone, then the socket alone."""
    service.at.lock.unlink()
    service.presence.keep()
    assert [f"the lock in {service.at.folder} was gone and is made again"] == caplog.messages
    assert service.is_whole()
    caplog.clear()
    service.at.socket.unlink()
    service.presence.keep()
    assert [f"the control socket {service.at.socket} was gone and is made again"] == caplog.messages
    assert service.is_whole()


def test_a_place_that_another_master_has_taken(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """It is left to it, and said once; when that one is gone the place is ours again; the next time is said anew."""
    error = f"cannot make the run directory again: {AlreadyRunning('chat', os.getpid())}"
    for _ in range(2):
        shutil.rmtree(service.at.folder)
        other = RunDir.claim("chat", Paths(service.at.folder, service.at.lock, service.at.folder / "s", service.at.pid))
        other.write_pid(os.getpid())
        caplog.clear()
        service.presence.keep()
        service.presence.keep()
        assert [error] == caplog.messages
        other.release()
        service.presence.keep()
        assert [error, f"the lock in {service.at.folder} was gone and is made again"] == caplog.messages
        assert service.is_whole()


def test_a_file_in_the_place_of_the_control_socket(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """It is not ours to remove: said once, and when it is gone the socket is made again."""
    service.at.socket.unlink()
    service.at.socket.write_text("mine")
    service.presence.keep()
    service.presence.keep()
    (said,) = caplog.messages
    assert f"{service.at.socket}: it is not a socket; set `control_socket` to another path" in said
    assert "mine" == service.at.socket.read_text()
    service.at.socket.unlink()
    service.presence.keep()
    assert service.is_whole()


def test_a_dead_socket_and_a_pipe_in_the_place_of_ours(service: Service, tmp_path: Path) -> None:
    """They are replaced as at a start: nobody answers there, and a pipe for a pid file must not hold the loop."""
    shutil.rmtree(service.at.folder)
    service.at.folder.mkdir(mode=0o700)
    service.at.socket.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(service.at.socket))
    os.mkfifo(service.at.pid)
    service.presence.keep()
    assert service.is_whole()


# --- left ---------------------------------------------------------------------------------------------------------


def test_a_worker_does_not_hold_the_lock(tmp_path: Path, pipe: Pipe) -> None:
    """It inherits the lock and closes it, so that the end of the master is the end of the lock; no file goes."""
    service = Service(tmp_path)
    service.presence.show()

    def worker() -> None:
        service.presence.close()
        pipe.tell("closed")
        stay()

    with Child(worker):
        assert "closed" == pipe.hear()
        assert service.is_whole()
        service.end()
        assert not lock_is_held(service.at)


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Pid files that name another master by now are not removed at our end."""
    service = Service(tmp_path)
    service.presence.show()
    shutil.rmtree(service.at.folder)
    service.at.folder.mkdir(mode=0o700)
    service.at.pid.write_text("1 1\n")
    service.own_pid_file.write_text("1\n")
    service.end()
    assert ("1 1\n", "1\n") == (service.at.pid.read_text(), service.own_pid_file.read_text())


# --- the next program in this process -----------------------------------------------------------------------------


def test_another_program_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is written or said; what is removed is made again, and at the end all of it is gone."""
    caplog.set_level("INFO")
    service = Service(tmp_path)
    service.presence.show()
    lock = copy_of(service.presence.lock)
    service.presence.close()
    service.presence = Presence.inherit("chat", service.at, str(service.own_pid_file), service.control, None, lock)
    assert (lock, False) == (service.presence.lock, os.get_inheritable(lock))
    assert service.is_whole()
    service.presence.keep()
    assert [] == caplog.messages
    shutil.rmtree(service.at.folder)
    service.own_pid_file.unlink()
    service.presence.keep()
    assert service.is_whole()
    assert [f"the lock in {service.at.folder} was gone and is made again"] == caplog.messages
    service.end()
    assert not lock_is_held(service.at)
    assert [service.at.lock] == [*service.at.folder.iterdir()]
    assert not service.own_pid_file.exists()
