"""What a user cannot get at: each folder on the way to a path has to let him pass, and a file has to be readable.

Judged by owner, group and mode: path_resolution(7), inode(7). An access control list may say otherwise, so what is
found here is good for a note and not for a refusal.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from wsworker.cli.rights import Rights, Worker, look


def obstacles(paths: Iterable[str], user: Worker) -> list[Rights]:
    """Return the first thing in the way to each of these absolute paths, as written and as they really are, once."""
    found = {}
    for path in paths:
        for place in (path, os.path.realpath(path)):
            way = look(str(each) for each in [*reversed(Path(place).parents), place])
            if first := next((rights for rights in way if is_closed(rights, user)), None):
                found[first.path] = first
    return list(found.values())


def is_closed(rights: Rights, user: Worker) -> bool:
    """Whether a user may not pass a folder, or read a file."""
    if user.uid == 0:
        return False
    needed = stat.S_IXOTH if stat.S_ISDIR(rights.mode) else stat.S_IROTH
    # the owner's rights are those of the owner alone, even where others have more
    if rights.uid == user.uid:
        needed <<= 6
    elif rights.gid in user.groups:
        needed <<= 3
    return not rights.mode & needed
