"""What has to be so before a worker is started, each time in a child that lacks it."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import NOBODY, become_nobody, in_child, needs_root, set_capabilities
from wsworker.config import Config
from wsworker.configfile import Loaded
from wsworker.errors import OUT_OF_DESCRIPTORS, PlatformError
from wsworker.master.preconditions import CANNOT_END, can_become, can_end, need_permission, need_pidfd
from wsworker.master.process import Identity

AS_WE_ARE = Identity(None, None, None, 0o027)
AS_ROOT = Identity(0, 0, (0,), 0o027)
AS_NOBODY = Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,), 0o027)


def refusal(who: Identity, **settings: Any) -> str:
    """Return why workers cannot be these, "" if they can. settings: what the configuration has."""
    loaded = Loaded(Config(app="app", **settings), Path("/srv/config.yaml"), "config.yaml", {})
    try:
        need_permission(who, loaded)
    except PlatformError as error:
        return str(error)
    return ""


def test_a_kernel_that_has_pidfds() -> None:
    """Nothing is left open."""
    before = os.listdir("/proc/self/fd")
    need_pidfd()
    assert before == os.listdir("/proc/self/fd")


def test_a_platform_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether Python or the kernel does not know them: the version that does is named."""
    sentence = r"^wsworker needs Linux 5\.4 or later \(pidfd_open\(2\) is missing here\)$"

    def missing(pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", missing)
    with pytest.raises(PlatformError, match=sentence):
        need_pidfd()
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(PlatformError, match=sentence):
        need_pidfd()


def test_no_descriptor_is_left() -> None:
    """That is no fault of the kernel, and is told as what it is."""

    def master() -> str:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(PlatformError) as caught:
            need_pidfd()
        return str(caught.value)

    assert "; ".join(OUT_OF_DESCRIPTORS[errno.EMFILE]) == in_child(master)


def test_who_stays_who_it_is_needs_no_right() -> None:
    """With root or without."""

    def master() -> list[Any]:
        if os.geteuid() == 0:
            become_nobody()
        return [can_become(AS_WE_ARE), can_end(AS_WE_ARE), refusal(AS_WE_ARE)]

    assert [True, True, ""] == in_child(master)
    assert [True, True, ""] == [can_become(AS_WE_ARE), can_end(AS_WE_ARE), refusal(AS_WE_ARE)]


@pytest.mark.parametrize("key", ["user", "group"])
def test_only_root_becomes_somebody_else(key: str) -> None:
    """The sentence names the place of what asks for it."""

    def master() -> list[Any]:
        if os.geteuid() == 0:
            become_nobody()
        return [can_become(AS_ROOT), refusal(AS_ROOT, **{key: "root"})]

    text = "`user` and `group` name somebody else than who runs this, which takes root; start as root, or remove"
    assert [False, f"{text} them (default)"] == in_child(master)


@needs_root
def test_who_is_that_user_already_needs_no_right_to_end_it() -> None:
    """CAP_KILL is for workers of others."""

    def master() -> list[Any]:
        become_nobody()
        own = Identity(os.getuid(), os.getgid(), (os.getgid(),), 0o027)
        return [can_become(own), can_end(own), refusal(own, user="nobody")]

    assert [True, True, ""] == in_child(master)


@needs_root
def test_root_without_the_right_to_end_others() -> None:
    """It may have workers of its own, but none of another user; with the right it may."""

    def master() -> list[str]:
        set_capabilities(0)
        return [refusal(AS_WE_ARE), refusal(AS_NOBODY, user="nobody")]

    assert "" == refusal(AS_NOBODY, user="nobody")
    assert ["", CANNOT_END] == in_child(master)
