"""Shared memory: what is seen where, what a descriptor of it is good for, and who lets go of it."""

from __future__ import annotations

import errno
import os
import resource
from typing import Any

import pytest

from tests.master.forks import in_child
from wsworker.memory import MFD_NOEXEC_SEAL, Memory, open_memory


def is_open(fd: int) -> bool:
    """Whether a descriptor is one."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_it_is_all_zeros_and_of_its_size() -> None:
    """As an anonymous mapping would be; /proc shows its name; no program inherits it."""
    made = Memory("wsworker-test", 8192)
    assert bytes(8192) == made.map[:]
    assert 8192 == os.fstat(made.fd).st_size
    assert os.readlink(f"/proc/self/fd/{made.fd}").startswith("/memfd:wsworker-test")
    assert not os.get_inheritable(made.fd)


def test_a_fork_sees_what_is_written() -> None:
    """Both ways, and also when it has let go of the descriptor."""
    made = Memory("wsworker-test", 4096)

    def worker() -> list[Any]:
        made.let_go()
        made.map[:5] = b"child"
        return [bytes(made.map[:5]).decode(), made.fd]

    assert ["child", -1] == in_child(worker)
    assert b"child" == made.map[:5]
    assert is_open(made.fd)


def test_what_was_made_before_goes_on() -> None:
    """Its bytes are there, by its descriptor alone, and both write to the same."""
    before = Memory("wsworker-test", 4096)
    before.map[:6] = b"before"
    fd = os.dup(before.fd)
    before.let_go()
    after = Memory("another name", 4096, fd)
    assert (b"before", fd) == (after.map[:6], after.fd)
    after.map[:5] = b"after"
    assert b"after" == before.map[:5]


def test_it_lets_go_once() -> None:
    """Its number may be another file's by the second time; what is mapped stays."""
    made = Memory("wsworker-test", 4096)
    fd = made.fd
    made.let_go()
    assert not is_open(fd)
    reader, writer = os.pipe()
    made.let_go()
    del made
    assert is_open(reader)
    assert is_open(writer)
    os.close(reader)
    os.close(writer)


def test_who_forgets_it_lets_go_of_it() -> None:
    """As a mapping does."""
    made = Memory("wsworker-test", 4096)
    fd = made.fd
    del made
    assert not is_open(fd)


def test_memory_that_is_too_small_is_an_error() -> None:
    """It would end the process at the first access to what is missing, SIGBUS. mmap(2)."""
    fd = open_memory("wsworker-test")
    os.ftruncate(fd, 100)
    with pytest.raises(ValueError, match="mmap length is greater than file size"):
        Memory("wsworker-test", 4096, fd)
    assert not is_open(fd)


def test_what_is_no_memory_is_an_error() -> None:
    """And it is closed, as it was ours."""
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(OSError, match=r"No such device|Invalid argument"):
        Memory("wsworker-test", 4096, fd)
    assert not is_open(fd)


def test_without_a_descriptor_there_is_none() -> None:
    """The error is the kernel's, and nothing else comes of it when it is forgotten."""

    def master() -> int | None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(OSError, match="Too many open files") as caught:
            Memory("wsworker-test", 4096)
        return caught.value.errno

    assert errno.EMFILE == in_child(master)


def test_without_room_there_is_none() -> None:
    """The file is closed again."""

    def master() -> list[Any]:
        before = sorted(os.listdir("/proc/self/fd"))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, hard))
        with pytest.raises(OSError, match="Cannot allocate memory") as caught:
            Memory("wsworker-test", 1 << 34)
        return [caught.value.errno, before == sorted(os.listdir("/proc/self/fd"))]

    assert [errno.ENOMEM, True] == in_child(master)


@pytest.mark.parametrize("refused", [errno.EINVAL, errno.EACCES])
def test_a_kernel_that_does_not_know_the_seal(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    """It gets a file without it; what another error is about is not tried again."""
    create, asked = os.memfd_create, []

    def old_kernel(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & MFD_NOEXEC_SEAL:
            raise OSError(refused, os.strerror(refused))
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old_kernel)
    if refused == errno.EINVAL:
        os.close(open_memory("wsworker-test"))
        assert [os.MFD_CLOEXEC | MFD_NOEXEC_SEAL, os.MFD_CLOEXEC] == asked
    else:
        with pytest.raises(PermissionError):
            open_memory("wsworker-test")
        assert 1 == len(asked)
