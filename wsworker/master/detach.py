"""Into the background: how `start -d` leaves the shell it came from.

    the command  ─ fork ─▶  leader of a new session  ─ fork ─▶  the daemon
    waits at a pipe         ends at once                        starts; tells its pid, then how the start went

The first fork is for setsid(2), which a leader of a process group may not call. The second is for an ordinary member of
the session, as only a leader can get a controlling terminal by opening one. daemon(7), "SysV Daemons".

The command ends when the start is settled, so its exit code is that of the service. If it ended right after the fork, a
script would take the service for started before a port is bound. The daemon writes two lines of JSON; when the pipe
ends without the second one, that is a failure too.

Of what the shell had open only the standard streams stay. That they are open at all cli/streams.py has made sure of.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from wsworker.master.process import leave_child


def detach(daemon: Callable[[int], int]) -> tuple[int, str]:
    """Run daemon in the background and wait until it has told how its start went.

    daemon gets the descriptor of a pipe, tells through announce and returns its exit code; its standard input is
    /dev/null, it has a session of its own without a terminal, and nothing else that was open stays so. Returns
    (exit code, error text) for the waiting process: what was announced, or (1, sentence) if the daemon ended without a
    word. Ctrl-C while waiting stops it: (130, sentence). SIGCHLD is as in any program from here on, in both processes.
    """
    # a caller that ignores it has its children reaped by the kernel: waitpid(2), ECHILD
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # a Ctrl-C waits until the daemon's pid is known: an earlier one would leave it running
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        # not a session leader any more: opening a terminal can never make it the controlling one
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        _run_detached(daemon, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, encoding="utf-8") as lines:
        pid = json.loads(lines.readline() or "0")
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            outcome = json.loads(lines.readline() or "null")
        except KeyboardInterrupt:
            # 0: it died before it could say its pid
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGTERM)
            lines.readline()
            # 128 + SIGINT, as a shell has it
            return 130, "interrupted; the service was stopped again"
    if outcome is None:
        return 1, "the service ended without a word; see `log.file`"
    return outcome["code"], outcome["error"]


def _run_detached(daemon: Callable[[int], int], writer: int) -> NoReturn:
    code = 1
    try:
        _close_all_but(writer)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
        os.write(writer, f"{os.getpid()}\n".encode())
        code = daemon(writer)
    except BaseException:
        traceback.print_exc()
    finally:
        leave_child(code)


def _close_all_but(kept: int) -> None:
    """Close what the shell has handed down, beside the standard streams: a lock, the end of a pipe. daemon(7), step 1.

    What systemd hands over goes too: its LISTEN_PID names the process that was forked from. A range up to the limit
    would miss what was open when the limit was lowered, and close_range(2) needs Linux 5.9.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, kept):
            # the one that listed them is gone
            with contextlib.suppress(OSError):
                os.close(int(name))


def announce(pipe: int, code: int, error: str) -> None:
    """Tell the process that waits in detach how the start went, and close the pipe. It may be gone: no error then."""
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, json.dumps({"code": code, "error": error}).encode() + b"\n")
    os.close(pipe)
