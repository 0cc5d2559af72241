"""Berths: where the workers meet. A unix listener for each slot, made and kept by the master, for the bus.

    NAME.bus/    in the run directory; the master's own, so nobody else can put anything there
    1.sock       of slot 1, and so on; 0600, of the user that the workers run as

The listeners listen from the first moment on: who dials a slot without a worker waits in its queue. They are reached
through a descriptor of the folder, which a worker has from before its change of user, since it may not be able to walk
there; and so the length of the path does not matter. The folder may be entered by others only where that is needed: by
workers of another user, or by the group that may give commands. Who connects must know the secret in any case.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from wsworker.bus.mesh.berth import Berth, socket_name
from wsworker.bus.mesh.members import Member, Standing
from wsworker.errors import RunDirError
from wsworker.master.estate import Meeting
from wsworker.master.process import Identity

BACKLOG: Final = 512
"""More than there are ever workers to dial at once, with programs outside beside them."""

SECRET_BYTES: Final = 16

logger = logging.getLogger("wsworker.master")


class Berths:
    """The listeners of all slots.

    folder: where; it is made. node: names this run of the service. identity: who the workers are. group: whose members
    may publish from outside, or None. members: returns the workers that live.
    """

    def __init__(
        self, folder: Path, node: str, identity: Identity, group: int | None, members: Callable[[], list[Member]]
    ) -> None:
        self._folder = folder
        self._node = node
        self._identity = identity
        self._group = group
        self._members = members
        # the master's own is that of a program outside
        self._uids = {0, os.geteuid(), os.geteuid() if identity.uid is None else identity.uid}
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._descriptor = -1
        self._listeners: dict[int, socket.socket] = {}
        self._trouble = ""

    def open(self, slots: int) -> None:
        """Make the folder and the listeners of the first slots. You must hold the lock. Raises RunDirError."""
        try:
            self._open_folder()
            for slot in range(1, slots + 1):
                self.add(slot)
        except RunDirError:
            self._close_all()
            raise
        except OSError as error:
            self.close()
            raise RunDirError(str(self._folder), error.strerror or str(error), "remove it") from None

    def bequeath(self) -> Meeting:
        """Return all of it, for the program that goes on in this process."""
        listeners = {slot: listener.fileno() for slot, listener in self._listeners.items()}
        return Meeting(self._node, self._secret.hex(), self._descriptor, listeners)

    def inherit(self, left: Meeting) -> None:
        """Take over what a former program of this process has left, instead of open."""
        self._node, self._secret, self._descriptor = left.node, bytes.fromhex(left.secret), left.folder
        self._listeners = {slot: socket.socket(fileno=fd) for slot, fd in left.listeners.items()}
        for descriptor in (left.folder, *left.listeners.values()):
            os.set_inheritable(descriptor, False)

    def add(self, slot: int) -> None:
        """Make the listener of one slot more. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        name = socket_name(slot)
        umask = os.umask(0o177 if self._group is None else 0o117)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._descriptor)
            listener.bind(f"/proc/self/fd/{self._descriptor}/{name}")
            if os.geteuid() == 0 or self._group is not None:
                uid = -1 if self._identity.uid is None else self._identity.uid
                gid = -1 if self._group is None else self._group
                os.chown(name, uid, gid, dir_fd=self._descriptor, follow_symlinks=False)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(umask)
        self._listeners[slot] = listener

    def renew(self) -> None:
        """Make again what somebody has removed, as programs do that clean /tmp; to be called about once a second.

        Links stay, and workers that start from now on have the new sockets. It never raises; what cannot be made is
        logged once, and tried again at the next call.
        """
        if self._descriptor < 0 or all((self._folder / socket_name(slot)).exists() for slot in self._listeners):
            return
        old, old_folder = self._listeners, self._descriptor
        self._listeners = {}
        try:
            self._open_folder()
            for slot in old:
                self.add(slot)
        except (OSError, RunDirError) as error:
            self._close_all()
            self._listeners, self._descriptor = old, old_folder
            trouble = f"cannot make the sockets of the bus in {self._folder} again: {error}"
            if trouble != self._trouble:
                self._trouble = trouble
                logger.error("%s", trouble)
            return
        self._trouble = ""
        for listener in old.values():
            listener.close()
        os.close(old_folder)
        text = "the sockets of the bus in %s were gone and are made again; `wsworker reload` lets all workers have them"
        logger.warning(text, self._folder)

    def close_slot(self, slot: int) -> None:
        """Close the listener of a slot that is given up; nothing if it has none."""
        listener = self._listeners.pop(slot, None)
        if listener is not None:
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(socket_name(slot), dir_fd=self._descriptor)

    def berth(self, worker: int, slot: int) -> Berth:
        """Return what a worker needs; to be called in the worker, which keeps the descriptors."""
        return Berth(
            me=Member(worker, slot, Standing.STARTING),
            node=self._node,
            secret=self._secret,
            listener=self._listeners[slot],
            folder=self._descriptor,
            uids=None if self._group is not None else self._uids,
            members=self._members,
        )

    def address(self) -> dict[str, Any]:
        """Return what a program needs that publishes from outside, for the answer to its command."""
        ready = [member.slot for member in self._members() if member.standing == Standing.READY]
        return {
            "node": self._node,
            "secret": self._secret.hex(),
            "sockets": [str(self._folder / socket_name(slot)) for slot in dict.fromkeys(ready)],
        }

    def keep(self, slot: int) -> None:
        """Close, in a forked worker, every listener but the slot's."""
        for other, listener in self._listeners.items():
            if other != slot:
                listener.close()

    def close(self) -> None:
        """Close all and remove the files; harmless when repeated."""
        for slot in [*self._listeners]:
            self.close_slot(slot)
        self._close_all()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _close_all(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners = {}
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open_folder(self) -> None:
        entered = self._identity.uid is not None or self._group is not None
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        self._descriptor = -1  # of another one, if this is made again
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.fstat(self._descriptor).st_uid != os.geteuid():
            raise RunDirError(str(self._folder), "it belongs to somebody else", "remove it")
        os.fchmod(self._descriptor, 0o711 if entered else 0o700)
        # what a dead master has left
        for name in os.listdir(self._descriptor):
            if stat.S_ISSOCK(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=self._descriptor)
