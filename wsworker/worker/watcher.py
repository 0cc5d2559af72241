"""The watcher: has a worker's code changed on disk? For `start --reload`, which is for development.

Only a worker can know what was imported, and any worker may be the one that is left, so each of them looks: at the
Python files below app_dir, at those of the modules it has loaded from elsewhere (not what is installed), and at the
config file. Twice a second, with stat(2), inline: a few hundred files take a few milliseconds, and need no thread, no
inotify(7) with its limits and its silence on network and container mounts, and no library. Where looking takes long, it
is done less often.

What a file was is noted before the app is imported. Saved while that goes on, it counts as changed.

The master hears of a change from each worker, and takes the first. It also hears from each, before the
app is imported, what there is to load: a change that the first worker of a reload has met needs no other reload.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Final

from wsworker.worker.sources import Sources, Stamp, is_users, named, pause

MOST_ENTRIES: Final = 2_000
"""Of folders and files below app_dir; an app_dir that is a whole disk must not hold the loop."""

SKIPPED: Final = frozenset({"__pycache__", "node_modules"})
TESTS: Final = ("test_", "conftest.")
"""No service imports its tests, and saving one should disturb nobody; what is imported all the same is a module."""

logger = logging.getLogger("wsworker.worker")


class Watcher:
    """Looks at the sources of one worker; make it before the app is imported, and start it after.

    app_dir, config: absolute paths. changed: is called with the names of what has changed, and a mark by which the
    master knows the same state of the disk from another worker. clock: seconds, monotonic. warns: tell if app_dir is
    too large; for one of the workers, as all see the same.
    """

    def __init__(
        self,
        app_dir: str,
        config: str,
        changed: Callable[[str, str], None],
        clock: Callable[[], float],
        *,
        warns: bool = True,
    ) -> None:
        self._app_dir = app_dir
        self._changed = changed
        self._clock = clock
        self._warns = warns
        self._foreign = {
            str(Path(__file__).parents[1]),
            *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
        }
        self._others = {config: None}  # and modules; a set that keeps its order
        self._only: list[str] | None = None  # the files that are watched below a folder with too many
        self._timer: asyncio.TimerHandle | None = None
        self._sources = Sources(self._tree(), self._outside())

    @property
    def mark(self) -> str:
        """The mark of what was there when this was made, or was told last."""
        return self._sources.mark

    def start(self, loop: asyncio.AbstractEventLoop) -> int:
        """Look again and again from now on; return how many files there are."""
        self._look(loop)
        return len(self._sources)

    def stop(self) -> None:
        """Look no more."""
        if self._timer:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        # not loop.time(), which uvloop has in whole milliseconds
        began_at = self._clock()
        try:
            changed = self._sources.look(self._tree(), self._outside())
            if changed:
                self._changed(named(changed, self._app_dir), self.mark)
        finally:
            seconds = pause(self._sources.restless, self._clock() - began_at)
            self._timer = loop.call_later(seconds, self._look, loop)

    def _tree(self) -> dict[str, Stamp | None]:
        """Return the stamps of all Python files below app_dir."""
        return {path: stamp(path) for path in self._files()}

    def _files(self) -> list[str]:
        if self._only is not None:
            return self._only
        files, is_all = python_files(self._app_dir, MOST_ENTRIES)
        if not is_all:
            # which ones another look would find depends on what else comes and goes there
            self._only = files
        if not is_all and self._warns:
            text = "%s holds more than %d files and folders; new files are not noticed, set `app_dir` to a smaller one"
            logger.warning(text, self._app_dir, MOST_ENTRIES)
        return files

    def _outside(self) -> dict[str, Stamp | None]:
        """Return the stamps of the config and of the user's modules, wherever they are; what is in here stays."""
        for module in [*sys.modules.values()]:
            # what stands there need not be a module, and one that is may answer isinstance, getattr and vars with code
            # of its own: a lazy one would be loaded now
            if not issubclass(type(module), ModuleType):
                continue
            path = object.__getattribute__(module, "__dict__").get("__file__")
            if isinstance(path, str) and path not in self._others and is_users(path, self._foreign):
                self._others[path] = None
        return {path: stamp(path) for path in self._others}


def python_files(folder: str, most: int) -> tuple[list[str], bool]:
    """Return the *.py files below a folder, and whether that are all of them; those nearest to the top come first.

    Hidden files, tests, virtual environments and links to folders are left out. most: entries to look at, whatever they
    are.
    """
    found: list[str] = []
    folders = deque([folder])
    while folders:
        try:
            with os.scandir(folders.popleft()) as entries:
                listed = [*islice(entries, most)]
        except OSError:
            # it has just gone, or is none of ours to read
            continue
        most -= len(listed)
        if any(entry.name == "pyvenv.cfg" for entry in listed):
            continue
        for entry in listed:
            if entry.name.startswith("."):
                continue
            if entry.name.endswith(".py"):
                if not entry.name.startswith(TESTS):
                    found.append(entry.path)
            elif entry.name not in SKIPPED and entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
        if most <= 0:
            return found, False
    return found, True


def stamp(path: str) -> Stamp | None:
    """Return what changes of a file when it is saved, or None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
