"""What has to be so before a worker is started: a kernel that is new enough, and the rights to become and to end it.

Each is asked once and told in one sentence, where it would else fail for every worker, or only when one is to be ended.
`wsworker check` asks for the rights too, before it imports the app in a child.
"""

from __future__ import annotations

import os
from typing import Final

from wsworker.configfile import Loaded
from wsworker.errors import OUT_OF_DESCRIPTORS, PlatformError
from wsworker.master.process import Identity, may_signal_others

CANNOT_BECOME: Final = (
    "`user` and `group` name somebody else than who runs this, which takes root; start as root, or remove them"
)
"""What to say where can_become says no."""

CANNOT_END: Final = "ending workers of another user needs CAP_KILL; add it, or remove `user` and `group`"
"""What to say where can_end says no."""


def need_pidfd() -> None:
    """Raise PlatformError if a worker could not be held by a descriptor. pidfd_open(2)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            raise PlatformError("; ".join(OUT_OF_DESCRIPTORS[error.errno])) from None
        raise PlatformError("wsworker needs Linux 5.4 or later (pidfd_open(2) is missing here)") from None


def need_permission(who: Identity, loaded: Loaded) -> None:
    """Raise PlatformError if workers could not become who they are to be, or could not be ended then."""
    if not can_become(who):
        place = loaded.place("user" if loaded.config.user else "group")
        raise PlatformError(f"{CANNOT_BECOME} ({place})")
    if not can_end(who):
        raise PlatformError(CANNOT_END)


def can_become(who: Identity) -> bool:
    """Whether a child of this process could take an identity. Root may lack the capabilities; the child tells that."""
    return os.geteuid() == 0 or not who.takes_root


def can_end(who: Identity) -> bool:
    """Whether this process could end a child that has taken an identity, if it can become it at all."""
    # without root it stays who it is
    return os.geteuid() != 0 or who.gid is None or may_signal_others()
