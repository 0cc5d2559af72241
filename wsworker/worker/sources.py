"""Sources: which files make up what the user has written, and whether they have changed. Nothing is looked at here.

A stamp is what stat(2) says of a file: its inode, size and time of change. The inode, because many editors write a new
file and rename it over the old one, and so does git. A file that is not there has the stamp None, and is never
forgotten: what is deleted and comes back has changed twice.

Files come from two sides. Those of a tree are found by looking into folders, so one that was not there before is new,
and worth a reload: it may be what the last reload lacked. The others are known by name: modules that were imported from
outside that tree, of which one that was not there before has only been imported late, and the config file.

A change is told once it rests. An editor that saves ten files, or git that writes a hundred, is one change and not a
hundred reloads; and a file that is half written is no news yet.

Two workers that look at different moments may see two saves as one change or as two. What they agree on is the state of
the disk afterwards, and the mark by which a change is known is made of that: the whole tree, and of the rest what has
changed, as no two workers need have imported the same modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Final, TypeAlias

Stamp: TypeAlias = tuple[int, int, int]
Stamps: TypeAlias = Mapping[str, Stamp | None]

LOOK_SECONDS: Final = 0.5
REST_SECONDS: Final = 0.1
"""A change that has been the same for so long is told."""

SHARE: Final = 20
"""One part in so many of its time is what a worker has for looking: its clients wait meanwhile."""

MOST_SECONDS: Final = 10.0
"""A look that took long because the machine stood still must not blind the worker for minutes."""

SHOWN_FILES: Final = 2
INSTALLED: Final = ("/site-packages/", "/dist-packages/")


class Sources:
    """The files of one app, from the moment of its import.

    tree, others: path to stamp of all that was there then. restless: something has changed and does not rest yet, so
    look again soon. mark: of the state that was there then, or was told last; see mark().
    """

    def __init__(self, tree: Stamps, others: Stamps) -> None:
        self._known: dict[str, Stamp | None] = {**tree, **others}
        self._last: dict[str, Stamp | None] = {**tree, **others}
        self._inside = {*tree}
        self.mark = mark(tree, {})
        self.restless = False

    def __len__(self) -> int:
        return len(self._known)

    def look(self, tree: Stamps, others: Stamps) -> dict[str, Stamp | None]:
        """Return what has changed since the import or since this was told last: path to new stamp, if it rests.

        tree: the files found now; others: those known by name, in which every one stands that did before.
        """
        for path, stamp in others.items():
            self._known.setdefault(path, stamp)
            self._last.setdefault(path, stamp)
        self._inside.update(tree)
        seen: dict[str, Stamp | None] = {**dict.fromkeys(self._known), **tree, **others}
        rests, self._last = seen == self._last, seen
        changed = {path: stamp for path, stamp in seen.items() if self._known.get(path) != stamp}
        self.restless = bool(changed) and not rests
        if not changed or not rests:
            return {}
        self._known = seen
        self.mark = mark(tree, {path: stamp for path, stamp in changed.items() if path not in self._inside})
        return changed


def is_users(path: str, foreign: Collection[str]) -> bool:
    """Whether the file of a module is the user's to edit. foreign: folders of the interpreter and of wsworker."""
    installed = any(part in path for part in INSTALLED)
    return path.endswith(".py") and not installed and not path.startswith(tuple(f"{folder}/" for folder in foreign))


def named(paths: Collection[str], folder: str) -> str:
    """Return changed files in words, those below folder without it: "app.py", "app.py, b.py and 3 more"."""
    names = sorted(path.removeprefix(f"{folder}/") for path in paths)
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    return ", ".join(names[:SHOWN_FILES]) + more


def mark(tree: Stamps, changed: Stamps) -> str:
    """Return a text that is the same for every worker that sees this very state, and for no other state.

    tree: a file that is not there counts as one that never was. changed: those of the other files that have changed.
    """
    there = sorted((path, stamp) for path, stamp in tree.items() if stamp)
    return hashlib.sha256(repr((there, sorted(changed.items()))).encode(errors="backslashreplace")).hexdigest()


def pause(restless: bool, seconds: float) -> float:
    """Return how long to wait after a look. restless: as of Sources; seconds: what the look has taken."""
    return min(max(REST_SECONDS if restless else LOOK_SECONDS, SHARE * seconds), MOST_SECONDS)
