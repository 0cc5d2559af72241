"""The run directory: whose it may be, the lock across forks and deaths, what a dead master leaves."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.master.forks import (
    DEADLINE_SECONDS,
    NOBODY,
    Child,
    Pipe,
    Watch,
    become_nobody,
    in_child,
    libc,
    needs_root,
    stay,
)
from wsworker.errors import AlreadyRunning, RunDirError
from wsworker.master import rundir
from wsworker.master.rundir import (
    MAX_SOCKET_PATH_BYTES,
    Paths,
    RunDir,
    elsewhere,
    lock_is_held,
    paths,
    read_pid,
    start_ticks,
)

PR_SET_NAME = 15


def at(folder: Path, socket: Path | None = None) -> Paths:
    """Return the files of the service `chat` in a folder."""
    return Paths(folder, folder / "chat.lock", socket or folder / "chat.sock", folder / "chat.pid")


@pytest.fixture
def run(tmp_path: Path) -> Paths:
    """Give the files of a service whose run directory does not exist yet."""
    return at(tmp_path / "run")


@pytest.fixture
def claim(run: Paths) -> Iterator[Callable[[], RunDir]]:
    """Give a function that claims `run`; it is released after the test, so a test that releases claims by itself."""
    claimed: list[RunDir] = []

    def made() -> RunDir:
        claimed.append(RunDir.claim("chat", run))
        return claimed[-1]

    yield made
    for run_dir in claimed:
        run_dir.release()


def refusal(run: Paths) -> RunDirError:
    """Return the RunDirError that a claim ends with; it leaves no lock behind."""
    with pytest.raises(RunDirError) as caught:
        RunDir.claim("chat", run)
    return caught.value


# --- a group that may command -----------------------------------------------------------------------------------------


def mode(path: Path) -> tuple[int, int]:
    """Return group and mode."""
    info = path.stat()
    return info.st_gid, stat.S_IMODE(info.st_mode)


def test_a_group_is_let_in(run: Paths) -> None:
    """To pass the directory and to see the lock; nobody else is. It stays so when somebody has removed them."""
    group = os.getegid()
    run_dir = RunDir.claim("chat", run, group)
    assert [(group, 0o710), (group, 0o640)] == [mode(run.folder), mode(run.lock)]
    shutil.rmtree(run.folder)
    assert run_dir.renew()
    assert [(group, 0o710), (group, 0o640)] == [mode(run.folder), mode(run.lock)]
    run_dir.release()


@needs_root
def test_any_group_is_let_in_by_root(run: Paths) -> None:
    """The group of the configuration, which need not be one of the master's."""
    RunDir.claim("chat", run, NOBODY.pw_gid).release()
    assert [(NOBODY.pw_gid, 0o710), (NOBODY.pw_gid, 0o640)] == [mode(run.folder), mode(run.lock)]


@needs_root
def test_a_folder_that_all_may_enter_stays_as_it_is(run: Paths) -> None:
    """As systemd makes it: its group may be somebody's business."""
    run.folder.mkdir(mode=0o755)
    RunDir.claim("chat", run, NOBODY.pw_gid).release()
    assert (os.getegid(), 0o755) == mode(run.folder)


def test_a_group_that_is_not_ours_to_give(tmp_path: Path) -> None:
    """Only root may give a file to any group; the refusal names the setting."""

    def refused() -> str:
        folder = Path(tempfile.mkdtemp())
        if os.geteuid() == 0:
            folder.chmod(0o777)
            become_nobody()
        with pytest.raises(RunDirError) as caught:
            RunDir.claim("chat", at(folder / "run"), 1)
        return str(caught.value)

    assert "it cannot be opened to a group: Operation not permitted; see `control_socket_mode`" in in_child(refused)


# --- paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"RUNTIME_DIRECTORY": "/run/wsworker/chat", "XDG_RUNTIME_DIR": "/run/user/1"}, "/run/wsworker/chat"),
        ({"RUNTIME_DIRECTORY": "/run/one:/run/two"}, "/run/one"),
        ({"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "/run/user/1"}, "/run/user/1/wsworker"),
        ({"XDG_RUNTIME_DIR": ""}, f"{tempfile.gettempdir()}/wsworker-1000"),
        ({"XDG_RUNTIME_DIR": "run/user/1"}, f"{tempfile.gettempdir()}/wsworker-1000"),
        ({}, f"{tempfile.gettempdir()}/wsworker-1000"),
    ],
    ids=["systemd", "several", "session", "empty", "relative", "none"],
)
def test_the_environment_says_where_the_files_are(environ: dict[str, str], folder: str) -> None:
    """The directory of systemd wins over that of the login session, which wins over the system's temporary one."""
    assert at(Path(folder)) == paths("chat", "auto", environ, 1000)


def test_a_configured_socket_leaves_the_other_files_where_they_are() -> None:
    """`control_socket` moves the socket alone."""
    assert at(Path("/run/x"), Path("/srv/control")) == paths("chat", "/srv/control", {"RUNTIME_DIRECTORY": "/run/x"}, 0)
    assert at(Path("/run/y")) == paths("chat", "auto", {"RUNTIME_DIRECTORY": "/run/x"}, 0, Path("/run/y"))


def test_a_client_also_looks_where_systemd_would_put_the_files() -> None:
    """The directory of the plain unit comes first; those of the template's instances follow, if any."""
    first, *others = elsewhere("chat")
    assert at(Path("/run/wsworker")) == first
    assert all(Path("/run/wsworker") == other.folder.parent for other in others)


# --- the folder ---------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    """Mode 0700, also with a umask that would leave more, and with the folders above it."""
    run = at(tmp_path / "above" / "run")

    def mode() -> int:
        os.umask(0)
        RunDir.claim("chat", run)
        return stat.S_IMODE(run.folder.stat().st_mode)

    assert 0o700 == in_child(mode)
    assert 0o600 == stat.S_IMODE(run.lock.stat().st_mode)


def test_a_folder_that_cannot_be_made() -> None:
    """There is nothing to remove: it is to be created, or put elsewhere."""
    error = refusal(at(Path("/proc/nosuch/run")))
    assert ("No such file or directory", "create it, or set XDG_RUNTIME_DIR to a directory of your own") == (
        error.reason,
        error.cure,
    )


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_a_folder_that_others_cannot_write_to_is_taken(run: Paths, claim: Callable[[], RunDir], mode: int) -> None:
    """With 0750 as systemd makes it; reading does no harm."""
    run.folder.mkdir()
    run.folder.chmod(mode)
    claim()
    assert lock_is_held(run)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(run: Paths, mode: int) -> None:
    """Group or world: somebody could put a socket of his own there. The cure is a command."""
    run.folder.mkdir()
    run.folder.chmod(mode)
    error = refusal(run)
    assert (str(run.folder), "others can write to it", f"run `chmod 700 {run.folder}`") == (
        error.path,
        error.reason,
        error.cure,
    )
    assert [] == [*run.folder.iterdir()]


def test_a_symbolic_link_is_refused(run: Paths, tmp_path: Path) -> None:
    """It may lead to a directory that is ours but not meant."""
    (tmp_path / "real").mkdir(mode=0o700)
    run.folder.symlink_to(tmp_path / "real")
    assert "it is a symbolic link" == refusal(run).reason
    run.folder.unlink()
    run.folder.symlink_to(tmp_path / "missing")
    assert "it is not a directory" == refusal(run).reason


def test_a_file_in_its_place_is_refused(run: Paths) -> None:
    """The file is left alone."""
    run.folder.write_text("mine")
    assert "it is not a directory" == refusal(run).reason
    assert "mine" == run.folder.read_text()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """The system's reason is told."""
    (tmp_path / "file").touch()
    assert "Not a directory" == refusal(at(tmp_path / "file" / "run")).reason


@needs_root
def test_a_folder_of_somebody_else_is_refused(run: Paths) -> None:
    """In a shared temporary directory somebody may have been there first."""
    run.folder.mkdir(mode=0o700)
    os.chown(run.folder, NOBODY.pw_uid, NOBODY.pw_gid)
    assert f"it belongs to uid {NOBODY.pw_uid}, wsworker runs as 0" == refusal(run).reason


def test_a_socket_path_has_107_bytes_at_most(tmp_path: Path) -> None:
    """One more and bind(2) refuses it, which is the kernel's own limit; bytes count, not characters."""
    with tempfile.TemporaryDirectory() as short:
        longest = Path(short) / "é".ljust(MAX_SOCKET_PATH_BYTES - len(os.fsencode(short)) - 2, "x")
        assert 107 == len(os.fsencode(longest))
        RunDir.claim("chat", at(tmp_path / "run", longest)).release()
        longer = longest.with_name(longest.name + "x")
        error = refusal(at(tmp_path / "run", longer))
        assert "the control socket's path is over 107 bytes" == error.reason
        with socket.socket(socket.AF_UNIX) as sock:
            with pytest.raises(OSError, match="too long"):
                sock.bind(str(longer) + "x")
            sock.bind(str(longest))


# --- the lock -----------------------------------------------------------------------------------------------------


def test_a_second_claim_hears_who_runs(run: Paths, claim: Callable[[], RunDir]) -> None:
    """AlreadyRunning carries name and pid, and the files of the one that runs stay."""
    first = claim()
    first.write_pid(os.getpid())
    run.socket.touch()
    with pytest.raises(AlreadyRunning) as caught:
        RunDir.claim("chat", run)
    assert ("chat", os.getpid()) == (caught.value.name, caught.value.pid)
    assert run.socket.exists()
    assert os.getpid() == read_pid(run.pid)


def test_a_second_claim_without_a_pid_file(run: Paths, claim: Callable[[], RunDir]) -> None:
    """The lock decides, so the pid may be unknown."""
    claim()
    with pytest.raises(AlreadyRunning) as caught:
        RunDir.claim("chat", run)
    assert caught.value.pid is None


def test_another_service_has_a_lock_of_its_own(run: Paths, claim: Callable[[], RunDir]) -> None:
    """Two names in one directory do not meet."""
    claim()
    names = paths("news", "auto", {"RUNTIME_DIRECTORY": str(run.folder)}, 0)
    RunDir.claim("news", names).release()
    assert lock_is_held(run)


def test_the_lock_is_seen(run: Paths, claim: Callable[[], RunDir]) -> None:
    """Not held: no directory, no file, a file that nobody locks. Looking leaves it free."""
    assert not lock_is_held(run)
    run_dir = RunDir.claim("chat", run)
    assert lock_is_held(run)
    run_dir.release()
    assert run.lock.exists()
    assert not lock_is_held(run)
    claim()


def test_the_lock_dies_with_its_holder(run: Paths, claim: Callable[[], RunDir]) -> None:
    """A master that was killed leaves its files and no lock: the next start works at once and replaces them."""

    def master() -> int:
        run_dir = RunDir.claim("chat", run)
        run_dir.write_pid(os.getpid())
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(run.socket))
        return os.getpid()

    def hold() -> None:
        told.tell(master())
        stay()

    told = Pipe()
    with Child(hold) as child:
        assert child.pid == told.hear() == read_pid(run.pid)
        assert lock_is_held(run)
        child.signal(signal.SIGKILL)
        child.exit_code()
    told.close()
    assert not lock_is_held(run)
    assert read_pid(run.pid) is None
    claim()
    assert not run.socket.exists()
    assert not run.pid.exists()


def test_a_forked_child_keeps_the_lock_unless_it_closes_it(run: Paths, pipe: Pipe) -> None:
    """Each worker inherits the lock; one that did not close it would hold it after the master's end."""
    run_dir = RunDir.claim("chat", run)

    def good() -> None:
        run_dir.close()
        pipe.tell("closed")
        stay()

    def bad() -> None:
        pipe.tell("open")
        stay()

    with Child(good):
        assert "closed" == pipe.hear()
        assert lock_is_held(run)
        with Child(bad) as holder:
            assert "open" == pipe.hear()
            run_dir.release()
            assert lock_is_held(run)
            holder.signal(signal.SIGKILL)
            holder.exit_code()
            assert not lock_is_held(run)


def test_a_client_that_looks_does_not_stop_a_start(
    run: Paths, claim: Callable[[], RunDir], pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes the lock for a moment; a start that meets it tries again."""
    # the moment is as long as the machine lets the client wait
    monkeypatch.setattr(rundir, "LOCK_PATIENCE_SECONDS", DEADLINE_SECONDS)
    run.folder.mkdir(mode=0o700)
    run.lock.touch()

    def look() -> None:
        lock = os.open(run.lock, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        watch = Watch(run.lock, Watch.IN_OPEN)
        pipe.tell("looks")
        watch.masks()
        # the start has opened the file; let its first try fail
        select.select([], [], [], 0.01)
        os.close(lock)

    with Child(look):
        assert "looks" == pipe.hear()
        claim()
        assert lock_is_held(run)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_lock_file_that_is_none_is_refused(run: Paths, tmp_path: Path, kind: str) -> None:
    """A link could make us lock a file of somebody else's; the file is named."""
    run.folder.mkdir(mode=0o700)
    if kind == "link":
        run.lock.symlink_to(tmp_path / "other")
    else:
        run.lock.mkdir()
    assert str(run.lock) == refusal(run).path
    assert not (tmp_path / "other").exists()


@needs_root
def test_the_lock_of_another_user_cannot_be_looked_at(claim: Callable[[], RunDir], run: Paths) -> None:
    """A client that may not open the file hears so, instead of "not running"."""
    claim()

    def look() -> str:
        folder = os.open(run.folder, os.O_PATH)
        become_nobody()
        with pytest.raises(PermissionError):
            lock_is_held(at(Path(f"/proc/self/fd/{folder}")))
        return "refused"

    assert "refused" == in_child(look)


# --- leftovers ----------------------------------------------------------------------------------------------------


def test_a_run_directory_that_was_removed_is_made_again(run: Paths, claim: Callable[[], RunDir]) -> None:
    """With a lock that is held, so that nobody starts in our place; one that is there stays as it is."""
    ours = claim()
    before = len(os.listdir("/proc/self/fd"))
    assert not ours.renew()
    shutil.rmtree(run.folder)
    assert not lock_is_held(run)
    assert ours.renew()
    assert lock_is_held(run)
    assert (0o700, before) == (stat.S_IMODE(run.folder.stat().st_mode), len(os.listdir("/proc/self/fd")))
    assert not ours.renew()


def test_a_run_directory_that_another_master_has_taken_is_left_to_it(run: Paths, claim: Callable[[], RunDir]) -> None:
    """Its files stay, also at our end."""
    ours = RunDir.claim("chat", run)
    shutil.rmtree(run.folder)
    theirs = claim()
    theirs.write_pid(os.getpid())
    with pytest.raises(AlreadyRunning):
        ours.renew()
    ours.release()
    assert lock_is_held(run)
    assert os.getpid() == read_pid(run.pid)


def test_a_master_does_not_wait_for_a_lock(
    run: Paths, claim: Callable[[], RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start has patience, as a client may be looking; a master that runs would stand still in its loop."""
    ours = RunDir.claim("chat", run)
    shutil.rmtree(run.folder)
    claim()
    sleep, naps = time.sleep, []

    def noted(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    with pytest.raises(AlreadyRunning):
        ours.renew()
    assert [] == naps
    with pytest.raises(AlreadyRunning):
        claim()
    assert naps
    ours.release()


def test_a_link_in_the_place_of_the_run_directory_is_not_followed(run: Paths, claim: Callable[[], RunDir]) -> None:
    """As at the start."""
    ours = claim()
    shutil.rmtree(run.folder)
    run.folder.symlink_to(run.folder.parent)
    with pytest.raises(RunDirError, match="symbolic link"):
        ours.renew()


def test_release_leaves_the_lock_file(run: Paths) -> None:
    """A second master could lock a removed file while a third one locks a new file of that name."""
    run_dir = RunDir.claim("chat", run)
    run_dir.write_pid(os.getpid())
    run_dir.release()
    assert [run.lock] == [*run.folder.iterdir()]


def test_release_leaves_a_socket(run: Paths) -> None:
    """It may be that of another service by now; Control knows its own and has removed it."""
    run_dir = RunDir.claim("chat", run)
    run.socket.touch()
    run_dir.release()
    assert run.socket.exists()


def test_release_with_nothing_to_remove(run: Paths) -> None:
    """A start that failed early has made neither socket nor pid file."""
    RunDir.claim("chat", run).release()
    assert not lock_is_held(run)


def test_a_control_socket_that_names_a_file_is_refused(tmp_path: Path) -> None:
    """A slip in `control_socket` must not cost somebody's file; the lock is free again."""
    precious = tmp_path / "precious.db"
    precious.write_text("data")
    run = at(tmp_path / "run", precious)
    error = refusal(run)
    assert (str(precious), "it is not a socket") == (error.path, error.reason)
    assert "data" == precious.read_text()
    assert not lock_is_held(run)


def test_a_control_socket_of_another_service_is_refused(tmp_path: Path) -> None:
    """Two services that name the same `control_socket`: the first keeps it; when it is dead, the path is free."""
    other = tmp_path / "shared.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
        listener.listen(0)
        waits = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        assert "another service answers there" == refusal(at(tmp_path / "run", other)).reason
        for client in waits:
            # also with a full queue, in which a connect finds no place
            client.setblocking(False)
            client.connect_ex(str(other))
        assert "another service answers there" == refusal(at(tmp_path / "run", other)).reason
        for client in waits:
            client.close()
    RunDir.claim("chat", at(tmp_path / "run", other)).release()


def test_a_socket_path_in_a_file_is_refused(tmp_path: Path) -> None:
    """The folder of `control_socket` is a file: the system's reason is told, with the path."""
    (tmp_path / "file").touch()
    run = at(tmp_path / "run", tmp_path / "file" / "sock")
    error = refusal(run)
    assert (str(run.socket), "Not a directory") == (error.path, error.reason)
    assert not lock_is_held(run)


@pytest.mark.parametrize(("text", "pid"), [("4242 17\n", 4242), ("4242", 4242), ("", 0), ("hello 1", 0), ("\xff", 0)])
def test_whose_leftovers_they_were(run: Paths, claim: Callable[[], RunDir], text: str, pid: int) -> None:
    """The pid file tells, whatever has become of it."""
    run.folder.mkdir(mode=0o700, parents=True)
    run.pid.write_bytes(text.encode("latin-1"))
    assert pid == claim().predecessor
    assert not run.pid.exists()


def test_a_pipe_in_the_place_of_the_pid_file_does_not_hold_a_start(run: Paths, claim: Callable[[], RunDir]) -> None:
    """It is removed unread."""
    run.folder.mkdir(mode=0o700, parents=True)
    os.mkfifo(run.pid)
    assert 0 == claim().predecessor


def test_nothing_was_left(run: Paths, claim: Callable[[], RunDir]) -> None:
    """The first start, and the one after a stop, have no predecessor to speak of."""
    assert claim().predecessor is None


def test_a_pid_file_that_cannot_be_removed_is_refused(run: Paths) -> None:
    """A directory of that name is not ours to remove."""
    run.pid.mkdir(parents=True)
    run.folder.chmod(0o700)
    error = refusal(run)
    assert (str(run.pid), "Is a directory") == (error.path, error.reason)
    assert not lock_is_held(run)


# --- the pid file -------------------------------------------------------------------------------------------------


def test_the_pid_file_names_the_process_that_wrote_it(run: Paths, claim: Callable[[], RunDir]) -> None:
    """It is read back while that process lives."""
    claim().write_pid(os.getpid())
    assert f"{os.getpid()} {start_ticks(os.getpid())}\n" == run.pid.read_text()
    assert os.getpid() == read_pid(run.pid)


def test_a_reused_pid_is_not_believed(tmp_path: Path) -> None:
    """A living process that started at another time is a stranger."""
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    file = tmp_path / "pid"
    file.write_text(f"{os.getpid()} {ticks - 1}\n")
    assert read_pid(file) is None
    file.write_text(f"{os.getpid()} {ticks}\n")
    assert os.getpid() == read_pid(file)


@pytest.mark.parametrize("content", [b"", b"12", b"1 2 3", b"one 2", b"1 None", b"\xff\xfe 1", b"-1 5", b"0 5"])
def test_a_pid_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    """Whatever it holds, nothing is raised and nobody is named."""
    file = tmp_path / "pid"
    file.write_bytes(content)
    assert read_pid(file) is None


def test_no_pid_file(tmp_path: Path) -> None:
    """A missing file names nobody."""
    assert read_pid(tmp_path / "pid") is None


def test_a_pid_file_that_cannot_be_written_is_the_caller_s(run: Paths, claim: Callable[[], RunDir]) -> None:
    """A full disk must not stop a start, so the caller gets the OSError and logs it."""
    run_dir = claim()
    run.pid.mkdir()
    with pytest.raises(IsADirectoryError):
        run_dir.write_pid(os.getpid())


@pytest.mark.parametrize("name", [b") R 1 (x y", b"a b", b"(", b")", b"\xff\xfe)", b""])
def test_start_ticks_whatever_the_program_is_called(name: bytes) -> None:
    """The name in /proc/PID/stat is any 15 bytes; the number behind it is found all the same."""

    def named() -> list[int | None]:
        before = start_ticks(os.getpid())
        libc.prctl(PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)
        assert name == Path("/proc/self/comm").read_bytes().removesuffix(b"\n")
        return [before, start_ticks(os.getpid())]

    before, after = in_child(named)
    assert before is not None
    assert before == after
    assert before >= (start_ticks(os.getpid()) or 0)


def test_start_ticks_of_the_dead() -> None:
    """A process that is gone has none."""
    with Child(lambda: None) as child:
        child.exit_code()
        assert start_ticks(child.pid) is None


# --- the next program in this process ---------------------------------------------------------------------------------


def test_another_program_holds_the_lock(run: Paths) -> None:
    """By the descriptor alone: nobody else can claim it, it can be renewed and is released; no program inherits it."""
    before = RunDir.claim("chat", run)
    before.write_pid(os.getpid())
    lock = os.dup(before.lock)
    os.set_inheritable(lock, True)
    before.close()
    assert lock_is_held(run)
    after = RunDir.inherit("chat", run, lock)
    assert (lock, False) == (after.lock, os.get_inheritable(lock))
    with pytest.raises(AlreadyRunning):
        RunDir.claim("chat", run)
    assert not after.renew()
    shutil.rmtree(run.folder)
    assert after.renew()
    after.release()
    assert not lock_is_held(run)
    assert [run.lock] == [*run.folder.iterdir()]


def test_it_lets_the_group_in_as_well(run: Paths) -> None:
    """When what somebody has removed is made again."""
    group = os.getegid()
    before = RunDir.claim("chat", run, group)
    after = RunDir.inherit("chat", run, os.dup(before.lock), group)
    before.close()
    shutil.rmtree(run.folder)
    assert after.renew()
    assert [(group, 0o710), (group, 0o640)] == [mode(run.folder), mode(run.lock)]
    after.release()
