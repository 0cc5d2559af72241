"""Following: whether a report of changed files means a reload, with `start --reload`.

Each worker looks at the files that it is made of, so one save is told by all of them. A report carries a mark of the
whole state on disk: who saw two saves as one and who saw them as two end with the same mark. The first report of a mark
means a reload, the others do not.

One more case needs none: a file that was saved after a reload was asked for and before its canary had loaded it. The
canary tells before it loads what it has found; whatever comes of that reload, these files have had their chance.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Following:
    """What is known of the files of one service. on: whether a change is to be followed at all.

    newest: the mark of the newest change that a worker has told; tried: of what the newest canary has loaded.
    """

    on: bool
    newest: str = ""
    tried: str = ""

    def loaded(self, mark: str, by_canary: bool) -> None:
        """Take it that a worker is about to load files. by_canary: it is the first one of the reload under way."""
        if self.on and by_canary:
            self.tried = mark

    def changed(self, mark: str) -> bool:
        """Take it that a worker has seen a change; return whether that means a reload, which you must then begin."""
        if not self.on or mark == self.newest:
            return False
        self.newest = mark
        return mark != self.tried
