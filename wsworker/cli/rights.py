"""Who can change the code that workers run, besides those who may.

Workers import the app with the rights they have. Whoever can write its files, or put a file beside them, runs code as
that user at the next reload. On a machine of one's own that is oneself. It is a mistake when everybody can, when the
user can that workers become (then whoever gets into a worker stays there), and when workers are root and others can.

Pure but for `look`, which asks for owner and mode of a path: stat(2), inode(7).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rights:
    """What of a path decides who may change it. mode: as st_mode."""

    path: str
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Worker:
    """Whom workers run as. name: of the user; groups: ids, the primary one included."""

    name: str
    uid: int
    groups: frozenset[int]


def look(paths: Iterable[str]) -> list[Rights]:
    """Return the rights of what is there, links followed."""
    found = []
    for path in paths:
        try:
            info = os.stat(path)
        except OSError:
            continue
        found.append(Rights(path, info.st_mode, info.st_uid, info.st_gid))
    return found


def of_app(app: str, app_dir: str, file: str) -> list[str]:
    """Return what an app is made of: its folder, that of its package, and its file as it was imported, or ""."""
    folders = [app_dir]
    if "." in app.partition(":")[0] or Path(file).name == "__init__.py":
        folders.append(str(Path(file).parent))
    return [*dict.fromkeys([*folders, file])] if file.startswith("/") else [app_dir]


def objection(rights: Rights, worker: Worker | None) -> str | None:
    """Say who can change a path and should not, and what to do; None if all is well.

    worker: None if the service is not started as root, so that workers are who starts it.
    """
    if rights.mode & stat.S_IWOTH:
        return f"everybody can change {rights.path}, which workers run; use `chmod o-w {rights.path}`"
    if worker is None:
        return None
    if worker.uid == 0:
        if rights.uid != 0 or (rights.mode & stat.S_IWGRP and rights.gid != 0):
            return f"not only root can change {rights.path}, which workers run as root; give it to root, or set `user`"
        return None
    if rights.uid == worker.uid:
        return f"workers run as {worker.name}, who owns {rights.path} and so can change what they run; give it to root"
    if rights.mode & stat.S_IWGRP and rights.gid in worker.groups:
        return f"workers run as {worker.name}, whose group can change {rights.path}; use `chmod g-w {rights.path}`"
    return None
