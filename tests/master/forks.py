"""Real processes for the tests of the master: a forked child, a pipe from it to the test, and waits with a deadline.

A child forked inside pytest is a copy of pytest, so it always leaves by os._exit.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pytest

from wsworker.assignment import Assignment
from wsworker.wire import Lines, Order, Report, decode_order, encode

DEADLINE_SECONDS = 30.0
"""Enough for a machine that has three test runs to do; whoever waits for it waits for a failure."""
NOBODY = pwd.getpwnam("nobody")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_KEEPCAPS = 8
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def readable(fd: int, seconds: float = DEADLINE_SECONDS) -> bool:
    """Wait until there is something to read, for a pidfd: until its process is dead. False at the deadline."""
    return bool(select.select([fd], [], [], seconds)[0])


def until(condition: Callable[[], object]) -> None:
    """Wait for a fact that no descriptor tells; fails at the deadline."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "the deadline has passed"
        select.select([], [], [], 0.002)


def stay() -> NoReturn:
    """Do nothing until a signal ends this process; the alarm is for one that a failed test has lost."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    while True:
        signal.pause()


def become_nobody() -> None:
    """Give up root, for good."""
    os.setgroups([])
    os.setresgid(NOBODY.pw_gid, NOBODY.pw_gid, NOBODY.pw_gid)
    os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)


def set_capabilities(mask: int) -> None:
    """Have these capabilities, a bit each, and no other. capget(2)."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    assert 0 == libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)), os.strerror(ctypes.get_errno())


def become_able(uid: int, groups: list[int]) -> None:
    """Become somebody who may do all that root may, as with AmbientCapabilities=. capabilities(7)."""
    permitted = int(proc_status("self", "CapPrm"), 16)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    set_capabilities(permitted)


class Pipe:
    """Carries JSON values to the test, from any process that inherits it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def tell(self, value: Any) -> None:
        """Send a value; one below PIPE_BUF is never mixed with that of another process."""
        os.write(self.writer, json.dumps(value).encode() + b"\n")

    def hear(self) -> Any:
        """Return the next value; fails at the deadline."""
        line = b""
        while not line.endswith(b"\n"):
            assert readable(self.reader), f"the deadline has passed, after {line!r}"
            line += os.read(self.reader, 1)
        return json.loads(line)

    def silent(self) -> bool:
        """Whether nothing waits to be heard."""
        return not readable(self.reader, 0.0)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self.writer)


class Child:
    """A forked process that runs a function; it is killed at the end of the with-block if it is still there."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._pipe = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function)
        self.pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None

    def _run(self, function: Callable[[], Any]) -> NoReturn:
        try:
            self._pipe.tell([function(), None])
        except BaseException:
            self._pipe.tell([None, traceback.format_exc()])
        finally:
            os._exit(0)

    def result(self) -> Any:
        """Return what the function returned, as JSON has it; what it raised fails the test."""
        value, error = self._pipe.hear()
        assert error is None, error
        return value

    def signal(self, number: int) -> None:
        """Send a signal; nothing if it is dead."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def exit_code(self) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        assert readable(self.pidfd), "the child does not end"
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self._status)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._status is None:
            self.signal(signal.SIGKILL)
            self.exit_code()
        os.close(self.pidfd)
        self._pipe.close()


def in_child(function: Callable[[], Any]) -> Any:
    """Run a function in a forked child and return what it returned, as JSON has it."""
    with Child(function) as child:
        return child.result()


def proc_status(pid: int | str, field: str) -> str:
    """Return a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def signals_in(pid: int | str, field: str, among: Collection[int]) -> set[int]:
    """Return which signals are in a mask of /proc/PID/status (SigBlk, SigIgn, SigCgt). proc(5)."""
    mask = int(proc_status(pid, field), 16)
    return {number for number in among if mask >> (number - 1) & 1}


class Watch:
    """Sees what happens to the files of a folder, or to one file, from now on. inotify(7)."""

    IN_ATTRIB = 0x4
    IN_OPEN = 0x20
    IN_CREATE = 0x100

    def __init__(self, path: Path, mask: int) -> None:
        self.fd = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.fd, os.fsencode(path), mask) >= 0, os.strerror(ctypes.get_errno())

    def masks(self) -> list[int]:
        """Wait until something has happened; return the kinds, in order."""
        assert readable(self.fd), "nothing happens"
        data = os.read(self.fd, 65536)
        masks = []
        while data:
            masks.append(int.from_bytes(data[4:8], sys.byteorder))
            data = data[16 + int.from_bytes(data[12:16], sys.byteorder) :]
        return masks

    def close(self) -> None:
        """Stop watching."""
        os.close(self.fd)


def say(channel: socket.socket, report: Report) -> None:
    """Send a report."""
    channel.sendall(encode(report))


def orders(channel: socket.socket) -> Iterator[Order]:
    """Yield the orders that come, until the channel ends."""
    lines = Lines()
    while data := channel.recv(65536):
        yield from map(decode_order, lines.feed(data))


def polite(assignment: Assignment) -> int:
    """Be a worker that does nothing but what it is told: ready at once, gone at drain."""
    say(assignment.channel, Report("ready"))
    for order in orders(assignment.channel):
        if order.name == "drain":
            return 0
    return 9
