"""Into the background: what the daemon is and has, what the waiting command is told, what Ctrl-C does."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import Child, Pipe, in_child, readable, stay
from wsworker.master.detach import announce, detach


def make_output(pipe: Pipe) -> None:
    """Make a pipe the standard output, which stays open in the background."""
    os.dup2(pipe.writer, 1)
    pipe.writer = 1


def test_detach_returns_what_was_announced(pipe: Pipe) -> None:
    """The daemon has a session without being its leader, no terminal and no input; it lives on when detach returns."""

    def daemon(writer: int) -> int:
        pipe.tell([os.getpid(), os.getsid(0), os.readlink("/proc/self/fd/0")])
        announce(writer, 0, "")
        stay()

    def wait() -> tuple[int, str]:
        os.dup2(pipe.reader, 0)
        make_output(pipe)
        return detach(daemon)

    with Child(wait) as child:
        assert [0, ""] == child.result()
        child.exit_code()
        pid, session, stdin = pipe.hear()
        daemon_fd = os.pidfd_open(pid)
        assert not readable(daemon_fd, 0.0)
        assert session not in (pid, os.getsid(0))
        assert "/dev/null" == stdin
        signal.pidfd_send_signal(daemon_fd, signal.SIGKILL)
        os.close(daemon_fd)


def test_detach_tells_a_failure() -> None:
    """Code and text arrive as they were announced, whatever is in the text."""
    text = "error: cannot listen on 127.0.0.1:80\nsecond line, « é »"

    def daemon(writer: int) -> int:
        announce(writer, 78, text)
        return 78

    assert [78, text] == in_child(lambda: detach(daemon))


def silent_daemon(writer: int) -> int:
    """End without a word."""
    return 5


def failing_daemon(writer: int) -> int:
    """Raise."""
    raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    ("daemon", "trace"), [(silent_daemon, ""), (failing_daemon, "RuntimeError: out of luck\n")], ids=["end", "raise"]
)
def test_a_daemon_that_ends_without_a_word(
    capfd: pytest.CaptureFixture[str], daemon: Callable[[int], int], trace: str
) -> None:
    """End of file on the pipe is a failure; what the daemon raised is on stderr."""

    def wait() -> tuple[int, str]:
        # that of pytest is a file of its own
        sys.stderr = os.fdopen(2, "w", closefd=False)
        return detach(daemon)

    assert [1, "the service ended without a word; see `log.file`"] == in_child(wait)
    error = capfd.readouterr().err
    assert error.endswith(trace)
    assert bool(trace) == bool(error)


@pytest.mark.parametrize("at_once", [False, True], ids=["while the daemon starts", "right after the fork"])
def test_ctrl_c_while_waiting_stops_the_daemon(pipe: Pipe, at_once: bool) -> None:
    """Whoever gives up waiting leaves no half-started service behind, not even before the daemon's pid is known."""
    waiting = 0

    def daemon(writer: int) -> int:
        pipe.tell(os.getpid())
        stay()

    def press_ctrl_c() -> None:
        # the session leader of the daemon forks too
        if os.getpid() == waiting:
            os.kill(waiting, signal.SIGINT)

    def wait() -> tuple[int, str]:
        nonlocal waiting
        waiting = os.getpid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        make_output(pipe)
        if at_once:
            os.register_at_fork(after_in_parent=press_ctrl_c)
        return detach(daemon)

    with Child(wait) as child:
        if not at_once:
            daemon_fd = os.pidfd_open(pipe.hear())
            child.signal(signal.SIGINT)
        assert [130, "interrupted; the service was stopped again"] == child.result()
        if not at_once:
            assert readable(daemon_fd), "the daemon was not stopped"
            os.close(daemon_fd)


def test_the_mask_is_that_of_before_after_detach() -> None:
    """Detach holds SIGINT back for a moment; neither the daemon nor the caller keeps it blocked."""

    def daemon(writer: int) -> int:
        announce(writer, 0, str(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
        return 0

    def wait() -> list[Any]:
        return [*detach(daemon), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))]

    assert [0, "[]", []] == in_child(wait)


def test_nothing_that_the_caller_had_open_stays_open(tmp_path: Path) -> None:
    """`exec 9>lock; flock 9; wsworker start -d; exit` frees the lock, also if the limit was lowered in between."""

    def daemon(writer: int) -> int:
        held = [int(name) for name in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{name}").exists()]
        announce(writer, 0, json.dumps([os.getpid(), sorted(set(held) - {writer})]))
        stay()

    def script() -> str:
        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.dup2(lock.fileno(), 900)
            resource.setrlimit(resource.RLIMIT_NOFILE, (800, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            return detach(daemon)[1]

    with Child(script) as child:
        pid, held = json.loads(child.result())
        child.exit_code()
        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(pid, signal.SIGKILL)
        assert [0, 1, 2] == held


def test_a_caller_that_ignores_dead_children_hears_of_the_start() -> None:
    """SIG_IGN for SIGCHLD is inherited, and makes the kernel reap: waitpid(2). The daemon does not inherit it."""

    def daemon(writer: int) -> int:
        announce(writer, 0, str(signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL))
        return 0

    def wait() -> tuple[int, str]:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return detach(daemon)

    assert [0, "True"] == in_child(wait)


def test_announcing_to_nobody_is_harmless() -> None:
    """Whoever waited may be gone: no error, and the pipe is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    announce(writer, 0, "")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)
