"""The run directory: the lock that says a service runs, its control socket, its pid file.

    NAME.lock    flock(2) for the life of the master: the only truth on "running". Never removed: a second master could
                 lock the removed file while a third one locks a new one of that name.
    NAME.sock    the control socket
    NAME.bus/    the sockets by which workers, and programs outside, reach workers: see berths.py
    NAME.pid     pid and start ticks (/proc/PID/stat), for people and for `stop` when the master does not answer

The directory is $RUNTIME_DIRECTORY (systemd), else $XDG_RUNTIME_DIR/wsworker, else wsworker-UID in the system's
temporary directory. In a directory that others can write to, somebody may have made ours first: it must be a real
directory, ours, and closed to others, or nothing starts.

We make it with mode 0700. Where a group may give commands (`control_socket_mode: "0660"`) it has to get at the socket,
and at the lock to see whether the service runs: the directory gets 0710 and that group, the lock 0640.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsworker.errors import AlreadyRunning, RunDirError

MAX_SOCKET_PATH_BYTES: Final = 107
"""sun_path holds 108 bytes with its final zero: unix(7)."""

UNITS_FOLDER: Final = Path("/run/wsworker")
"""The folder, or the folder of folders, that systemd makes for us: RuntimeDirectory=, systemd.exec(5)."""

FOLDER_CURE: Final = "remove it, or set XDG_RUNTIME_DIR to a directory of your own"

MISSING_CURE: Final = "create it, or set XDG_RUNTIME_DIR to a directory of your own"

LOCK_PATIENCE_SECONDS: Final = 1.0
"""A client that looks whether the lock is held takes it for a moment; the patience of a start covers that.

A master that runs has none: its loop must not stand still, and it tries again a second later.
"""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where one service keeps its files; all absolute."""

    folder: Path
    lock: Path
    socket: Path
    pid: Path

    @property
    def bus(self) -> Path:
        """The folder with the sockets of the bus."""
        return self.lock.with_suffix(".bus")


def paths(name: str, control_socket: str, environ: Mapping[str, str], uid: int, folder: Path | None = None) -> Paths:
    """Return the files of a service. control_socket: "auto" or an absolute path; folder: if it is known already."""
    folder = folder or _folder(environ, uid)
    socket = folder / f"{name}.sock" if control_socket == "auto" else Path(control_socket)
    return Paths(folder, folder / f"{name}.lock", socket, folder / f"{name}.pid")


def _folder(environ: Mapping[str, str], uid: int) -> Path:
    if runtime := environ.get("RUNTIME_DIRECTORY"):
        # systemd.exec(5): several directories are separated by colons
        return Path(runtime.split(":")[0])
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        # the XDG Base Directory Specification has relative paths ignored
        return Path(runtime) / "wsworker"
    return Path(tempfile.gettempdir()) / f"wsworker-{uid}"


def elsewhere(name: str) -> list[Paths]:
    """Return where a service run by systemd keeps its files, for a client whose own environment does not say."""
    folders = [UNITS_FOLDER]
    with contextlib.suppress(OSError):
        folders += sorted(entry for entry in UNITS_FOLDER.iterdir() if entry.is_dir())
    return [Paths(f, f / f"{name}.lock", f / f"{name}.sock", f / f"{name}.pid") for f in folders]


class RunDir:
    """A run directory in the hands of a master, from claim to release.

    predecessor: the pid of a master that left files behind, 0 if it is not known, None if there were none.
    """

    def __init__(self, name: str, at: Paths, lock: int, group: int | None, predecessor: int | None) -> None:
        self.paths = at
        self.predecessor = predecessor
        self._name = name
        self._lock = lock
        self._group = group

    @classmethod
    def claim(cls, name: str, at: Paths, group: int | None = None) -> RunDir:
        """Make and check the directory, take the lock, and remove what a dead master left behind.

        group: whose members are let in, or None. Raises RunDirError when the directory or a file cannot be had,
        AlreadyRunning when the lock is held.
        """
        if len(os.fsencode(at.socket)) > MAX_SOCKET_PATH_BYTES:
            cure = "set `control_socket` to a shorter path"
            raise RunDirError(str(at.folder), f"the control socket's path is over {MAX_SOCKET_PATH_BYTES} bytes", cure)
        _make_folder(at.folder)
        lock = _take_lock(name, at, LOCK_PATIENCE_SECONDS)
        try:
            _let_in(at, lock, group)
            predecessor = _pid_in(at.pid)
            left = _remove_leftovers(at)
        except RunDirError:
            os.close(lock)
            raise
        return cls(name, at, lock, group, predecessor if left else None)

    @classmethod
    def inherit(cls, name: str, at: Paths, lock: int, group: int | None = None) -> RunDir:
        """Go on with the lock that a former program of this process has taken. lock: its descriptor."""
        os.set_inheritable(lock, False)
        return cls(name, at, lock, group, None)

    @property
    def lock(self) -> int:
        """The descriptor of the lock."""
        return self._lock

    def renew(self) -> bool:
        """Make the directory and the lock again if somebody has removed them; True if so. The lock says that we run.

        Programs that clean /tmp do that. It never waits. Raises RunDirError as claim, and AlreadyRunning if another
        master was faster.
        """
        if self._is_there():
            return False
        _make_folder(self.paths.folder)
        lock = _take_lock(self._name, self.paths, patience_seconds=0)
        os.close(self._lock)
        self._lock = lock
        _let_in(self.paths, lock, self._group)
        return True

    def clear(self) -> None:
        """Remove what lies in the place of socket and pid file, as at the start. Raises RunDirError."""
        _remove_leftovers(self.paths)

    def write_pid(self, pid: int) -> None:
        """Write the pid file: information only, so a failure must not stop a start; the caller logs it. OSError."""
        # never into something that somebody has put there: a named pipe would hold us
        self.paths.pid.unlink(missing_ok=True)
        self.paths.pid.write_text(f"{pid} {start_ticks(pid)}\n")

    def close(self) -> None:
        """Close the lock's descriptor in a forked child, which would hold the lock as long as it lives: flock(2)."""
        os.close(self._lock)

    def release(self) -> None:
        """Remove the pid file, then give the lock up; the lock file stays. The socket is Control's to remove.

        Where our lock is gone, another master may have taken the place, and its pid file is not ours.
        """
        if self._is_there():
            with contextlib.suppress(OSError):
                self.paths.pid.unlink()
        os.close(self._lock)

    def _is_there(self) -> bool:
        """Whether the lock that we hold is still the file that others look at."""
        try:
            return os.path.samestat(os.fstat(self._lock), self.paths.lock.lstat())
        except OSError:
            return False


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(folder)
    except FileExistsError:
        raise RunDirError(str(folder), "it is not a directory", FOLDER_CURE) from None
    except OSError as error:
        cure = FOLDER_CURE if os.path.lexists(folder) else MISSING_CURE
        raise RunDirError(str(folder), error.strerror or str(error), cure) from None


def check_folder(folder: Path) -> None:
    """Raise RunDirError unless this is a real directory, ours, and closed to others; OSError if it cannot be seen."""
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "not a directory"
        raise RunDirError(str(folder), f"it is {what}", FOLDER_CURE)
    if info.st_uid != os.geteuid():
        raise RunDirError(str(folder), f"it belongs to uid {info.st_uid}, wsworker runs as {os.geteuid()}", FOLDER_CURE)
    if info.st_mode & 0o022:
        raise RunDirError(str(folder), "others can write to it", f"run `chmod 700 {folder}`")


def _take_lock(name: str, at: Paths, patience_seconds: float) -> int:
    try:
        lock = os.open(at.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RunDirError(str(at.lock), error.strerror or str(error), "check its owner and permissions") from None
    give_up_at = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                os.close(lock)
                raise AlreadyRunning(name, read_pid(at.pid)) from None
            time.sleep(patience_seconds / 10)
        except OSError as error:
            os.close(lock)
            cure = "use a file system that has flock(2)"
            raise RunDirError(str(at.lock), error.strerror or str(error), cure) from None


def _let_in(at: Paths, lock: int, group: int | None) -> None:
    """Let the members of a group see the lock, and pass the directory unless everybody may.

    A socket that the configuration puts elsewhere is in a directory that is not ours to open.
    """
    if group is None:
        return
    try:
        os.fchown(lock, -1, group)
        os.fchmod(lock, 0o640)
        info = at.folder.lstat()
        if not info.st_mode & stat.S_IXOTH:
            os.chown(at.folder, -1, group)
            at.folder.chmod(stat.S_IMODE(info.st_mode) | stat.S_IXGRP)
    except OSError as error:
        cure = "see `control_socket_mode`"
        raise RunDirError(str(at.folder), f"it cannot be opened to a group: {error.strerror}", cure) from None


def _remove_leftovers(at: Paths) -> bool:
    """Remove what a dead master left; True if there was something.

    A `control_socket` that names a file of somebody's by mistake is not removed.
    """
    left = True
    try:
        if not stat.S_ISSOCK(at.socket.lstat().st_mode):
            raise RunDirError(str(at.socket), "it is not a socket", "set `control_socket` to another path")
        if _answers(at.socket):
            # we hold the lock of our name, so it is not the service of that name
            cure = "give each service a `control_socket` of its own"
            raise RunDirError(str(at.socket), "another service answers there", cure)
        at.socket.unlink()
    except FileNotFoundError:
        left = False
    except OSError as error:
        raise RunDirError(str(at.socket), error.strerror or str(error), "see `control_socket`") from None
    try:
        at.pid.unlink()
    except FileNotFoundError:
        return left
    except OSError as error:
        raise RunDirError(str(at.pid), error.strerror or str(error), "remove it") from None
    return True


def _pid_in(file: Path) -> int:
    """Return the pid in a pid file, whether its process lives or not; 0 if there is none."""
    try:
        # a named pipe in its place would hold us
        return int(file.read_text().split()[0]) if file.is_file() else 0
    except (OSError, ValueError, IndexError):
        return 0


def _answers(path: Path) -> bool:
    """Whether a process listens at a unix socket: a stale one refuses. connect(2)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


def lock_is_held(at: Paths) -> bool:
    """Whether a master holds the lock. Takes it for a moment if nobody does. PermissionError if it is not ours."""
    try:
        # O_NONBLOCK: a named pipe in its place must not hold us
        lock = os.open(at.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def read_pid(file: Path) -> int | None:
    """Return the pid in a pid file if the process of that pid is still the one that wrote it, else None."""
    try:
        pid, ticks = (int(word) for word in file.read_text().split())
    except (OSError, ValueError):
        return None
    return pid if ticks == start_ticks(pid) else None


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if it is gone. proc(5), /proc/PID/stat, 22.

    psutil's create_time is not used: it moves with the wall clock.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # the second field is the program's name in brackets; it may hold blanks, brackets and bytes that are no text
    return int(line.rpartition(b")")[2].split()[19])
