"""The stack on which signals are handled, in processes of their own."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from pathlib import Path
from typing import Any

from tests.master.forks import in_child
from wsworker import signalstack

FATAL = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
CATCHABLE = signal.valid_signals() - FATAL - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT}
"""Without CONT, which takes back those that stop, as they do it: signal(7)."""


def all_at_once() -> set[int]:
    """Have this process be sent every signal, and meet them together; return which were handled."""
    met = set()

    def handle(number: int, frame: object) -> None:
        met.add(number)

    signal.pthread_sigmask(signal.SIG_BLOCK, CATCHABLE)
    for number in CATCHABLE:
        signal.signal(number, handle)
        os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CATCHABLE)
    return met


def test_all_signals_at_once() -> None:
    """Each is handled, where faulthandler's own stack has room for a handful; so it is in a process forked later."""

    def process() -> list[Any]:
        faulthandler.enable()
        signalstack.widen()
        return [sorted(all_at_once()), in_child(lambda: sorted(all_at_once()))]

    assert [sorted(CATCHABLE)] * 2 == in_child(process)


def test_it_is_made_once() -> None:
    """Where there is one, and it is too small; a forked process does not share it."""

    def process() -> list[Any]:
        faulthandler.disable()
        signalstack._set(signalstack._Stack(None, signalstack.SS_DISABLE, 0), None)
        signalstack.widen()
        seen: list[Any] = [signalstack.size(), len(signalstack._kept)]
        faulthandler.enable()
        signalstack._set(signalstack._Stack(ctypes.addressof(small), 0, len(small)), None)
        for _ in range(2):
            signalstack.widen()
            seen += [signalstack.size() >= 64 * 4096, len(signalstack._kept)]
        stack = signalstack._Stack()
        signalstack._set(None, stack)
        maps = Path("/proc/self/maps").read_text().splitlines()
        return [*seen, [line.split()[1] for line in maps if line.startswith(f"{stack.start:x}-")]]

    small = (ctypes.c_char * 65536)()
    assert [0, 0, True, 1, True, 1, ["rw-p"]] == in_child(process)
