"""What somebody meant who wrote a key that does not exist: a key of another program, of another level, or a typo.

SYNONYMS holds what gunicorn, uvicorn, Workerman, nginx and plain habit call our keys; NOT_KEYS what is no setting here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from typing import Final

_SYNONYMS_BY_KEY: Final = {
    "name": ("proc_name",),
    "app": ("wsgi_app", "module", "factory"),
    "app_dir": ("chdir", "pythonpath"),
    "listen": ("bind", "host", "port", "http", "uds"),
    "workers": ("count", "worker_processes", "concurrency"),
    "worker_timeout": ("timeout",),
    "graceful_timeout": ("stopTimeout",),
    "pidfile": ("pid", "pid_file"),
    "websocket.max_size": ("ws_max_size", "maxPackageSize"),
    "websocket.send_buffer": ("maxSendBufferSize",),
    "log.level": ("loglevel", "log_level"),
    "log.file": ("errorlog", "logfile", "stdoutFile"),
}
# looked up without regard to case: variables have lost theirs
SYNONYMS: Final = {word.lower(): key for key, words in _SYNONYMS_BY_KEY.items() for word in words}
NOT_KEYS: Final = {
    "reuse_port": "always on: remove this key",
    "reuseport": "always on: remove this key",
    "daemon": "use `wsworker start -d`",
    "daemonize": "use `wsworker start -d`",
}


def advice(key: str, keys: Collection[str], written: Callable[[str], str] = repr) -> str:
    """Return the next step for an unknown key, as a clause.

    key: with its section and a dot, if it has one, or such a dotted word where sections and no dots are written;
    keys: those that exist; written: how a key looks in this source.
    """
    section, dot, word = key.lower().rpartition(".")
    if key in keys:
        return f"write it inside its section, `{section}: {{{word}: ...}}`"
    if word in NOT_KEYS:
        return NOT_KEYS[word]
    if own := [written(existing) for existing in keys if existing.startswith(f"{key}.")]:
        return f"this section has {', '.join(own)}"
    if target := meant(key, keys):
        return f"did you mean {written(target)}?"
    siblings = [written(existing) for existing in keys if dot and existing.startswith(f"{section}.")]
    return f"this section has {', '.join(siblings)}" if siblings else "remove it or correct its spelling"


def meant(key: str, keys: Collection[str]) -> str | None:
    """Return the key that was most probably meant, or None."""
    section, dot, word = key.rpartition(".")
    word = word.lower()
    if word in SYNONYMS:
        return SYNONYMS[word]
    # a right word on the wrong level, or with a wrong sign between section and word
    for existing in keys:
        if word in (existing.rpartition(".")[2], existing.replace(".", "_")):
            return existing
    here = {existing.removeprefix(section + dot) for existing in keys if existing.rpartition(".")[0] == section}
    close = difflib.get_close_matches(word, sorted(here), n=1)
    return section + dot + close[0] if close else None
