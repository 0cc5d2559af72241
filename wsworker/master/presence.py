"""How others find this master: the run directory, the control socket's file, and both pid files.

The lock of the run directory says that the service runs, the socket takes commands, and the pid files tell people and
other programs which process it is. A program that cleans /tmp may remove any of them while the service runs; `keep`
makes them again. It is called once a second, in the master's loop, so it neither waits nor raises.

What comes through the control socket is not seen here; that is control's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from wsworker.errors import OUT_OF_DESCRIPTORS, AlreadyRunning, RunDirError
from wsworker.master import pidfile
from wsworker.master.control import Control
from wsworker.master.rundir import Paths, RunDir

logger = logging.getLogger("wsworker.master")


class Presence:
    """What one master has laid out for others, from claim to release. own_pid_file: `pidfile` of the configuration."""

    def __init__(self, run_dir: RunDir, own_pid_file: Path | None, control: Control) -> None:
        self._run_dir = run_dir
        self._own_pid_file = own_pid_file
        self._control = control
        self._trouble = ""

    @classmethod
    def claim(
        cls, name: str, at: Paths, own_pid_file: str | None, control: Control, group: int | None = None
    ) -> Presence:
        """Take the place of the service of that name; nobody sees more of it yet than the lock.

        group: whose members may command the service, or None. Raises RunDirError or AlreadyRunning, as RunDir.claim.
        """
        run_dir = RunDir.claim(name, at, group)
        if run_dir.predecessor is not None:
            pid = f" (pid {run_dir.predecessor})" if run_dir.predecessor else ""
            logger.info("the one before%s ended without a stop; its files are removed", pid)
        return cls(run_dir, Path(own_pid_file) if own_pid_file else None, control)

    @classmethod
    def inherit(
        cls, name: str, at: Paths, own_pid_file: str | None, control: Control, group: int | None, lock: int
    ) -> Presence:
        """Go on with what a former program of this process has laid out. lock: the descriptor of the lock."""
        run_dir = RunDir.inherit(name, at, lock, group)
        return cls(run_dir, Path(own_pid_file) if own_pid_file else None, control)

    @property
    def lock(self) -> int:
        """The descriptor of the lock."""
        return self._run_dir.lock

    def show(self) -> None:
        """Open the control socket and write the pid files. Raises RunDirError if the socket cannot be had."""
        try:
            self._control.open()
        except OSError as error:
            why = OUT_OF_DESCRIPTORS.get(error.errno, (error.strerror or str(error), "see `control_socket`"))
            raise RunDirError(str(self._run_dir.paths.socket), *why) from None
        self._write_pid_files()

    def keep(self) -> None:
        """Make again what somebody has removed: nobody would find this service without it.

        What cannot be made is logged once, and tried again at the next call.
        """
        at = self._run_dir.paths
        try:
            if self._run_dir.renew():
                logger.warning("the lock in %s was gone and is made again", at.folder)
                self._write_pid_files()
            if not self._control.is_there():
                self._run_dir.clear()
                self._control.renew()
                logger.warning("the control socket %s was gone and is made again", at.socket)
                self._write_pid_files()
            trouble = ""
        except OSError as error:
            trouble = f"cannot make the control socket {at.socket} again: {error.strerror}"
        except (RunDirError, AlreadyRunning) as error:
            trouble = f"cannot make the run directory again: {error}"
        if trouble not in ("", self._trouble):
            logger.error("%s", trouble)
        self._trouble = trouble

    def close(self) -> None:
        """Close the lock in a forked worker, which would hold it as long as it lives; nothing is removed."""
        self._run_dir.close()

    def release(self) -> None:
        """Remove both pid files, as far as they are ours, and give the lock up. The socket is Control's to remove."""
        if self._own_pid_file:
            pidfile.remove(self._own_pid_file, os.getpid())
        self._run_dir.release()

    def _write_pid_files(self) -> None:
        writers: dict[Path, Callable[[], None]] = {
            self._run_dir.paths.pid: lambda: self._run_dir.write_pid(os.getpid())
        }
        if own := self._own_pid_file:
            writers[own] = lambda: pidfile.write(own, os.getpid())
        for file, write in writers.items():
            try:
                write()
            except OSError as error:
                # for people only, the lock decides: a full disk must not keep a service from starting
                logger.warning("cannot write the pid file %s: %s", file, error.strerror)
