"""Catching signals, each time in a forked child, whose handlers and wakeup descriptor are its own."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import sys
import termios
from collections.abc import Callable
from typing import Any

from tests.master.forks import DEADLINE_SECONDS, in_child, signals_in
from wsworker.master.signals import MOST_OF_A_KIND, SignalCatcher

HUP, TERM, USR1, USR2 = map(int, (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))


class Loop:
    """As much of a loop as it takes."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.catcher = SignalCatcher(self._selector)
        self.catcher.catch((HUP, TERM, USR1))

    def woken(self, seconds: float = DEADLINE_SECONDS) -> bool:
        """Wait, and call what is ready as the loop does; False if nothing was."""
        ready = self._selector.select(seconds)
        for key, _ in ready:
            key.data()
        return bool(ready)

    def caught(self) -> list[int]:
        """Return what was caught."""
        return list(self.catcher.caught())


def test_a_signal_ends_the_wait_and_is_told_once() -> None:
    """In the order in which they came; afterwards the loop can wait again."""

    def run() -> list[Any]:
        loop = Loop()
        calm = loop.woken(0.0)
        for number in (USR1, TERM, USR1):
            signal.raise_signal(number)
        return [calm, loop.woken(), loop.caught(), loop.woken(0.0), loop.caught()]

    assert [False, True, [USR1, TERM, USR1], False, []] == in_child(run)


def test_one_that_comes_while_an_earlier_one_is_acted_on() -> None:
    """It is told in the next turn of the loop, which it has woken: a stream of signals must not hold this one."""

    def run() -> list[int]:
        loop = Loop()
        signal.raise_signal(USR1)
        told = []
        for number in loop.catcher.caught():
            told.append(number)
            if number == USR1:
                signal.raise_signal(TERM)
        return [*told, 0, *(loop.caught() if loop.woken() else [])]

    assert [USR1, 0, TERM] == in_child(run)


def test_a_storm_fills_nothing_and_hides_nothing() -> None:
    """Of a kind no more are kept than say something. Of other kinds all, though the wakeup descriptor is full by then.

    Nor does the interpreter complain of the full descriptor, which it would do on stderr.
    """

    def run() -> list[Any]:
        complaints: list[str] = []
        sys.unraisablehook = lambda complaint: complaints.append(str(complaint.exc_value))
        loop = Loop()
        for _ in range(5000):
            signal.raise_signal(HUP)
        signal.raise_signal(TERM)
        return [loop.caught(), loop.woken(), loop.woken(0.0), complaints]

    assert [[HUP] * MOST_OF_A_KIND + [TERM], True, False, []] == in_child(run)


def test_blocked_and_ignored_signals_are_heard() -> None:
    """Both are inherited from whoever starts this; one that waits blocked comes at once. Others stay as they are."""

    def run() -> list[Any]:
        signal.signal(HUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {TERM, USR2})
        signal.raise_signal(TERM)
        loop = Loop()
        signal.raise_signal(HUP)
        return [loop.caught(), sorted(signals_in("self", "SigBlk", {HUP, TERM, USR1, USR2}))]

    assert [[TERM, HUP], [USR2]] == in_child(run)


def test_a_fresh_worker_keeps_nothing_of_it() -> None:
    """Both ends of the wakeup descriptor are closed."""

    def run() -> int:
        def is_a_socket(fd: str) -> bool:
            # the one that listed them is gone
            return os.path.lexists(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")

        def sockets() -> int:
            return sum(map(is_a_socket, os.listdir("/proc/self/fd")))

        before = sockets()
        loop = Loop()
        opened = sockets() - before
        assert opened == 2
        signal.set_wakeup_fd(-1)
        loop.catcher.close()
        return sockets() - before

    assert 0 == in_child(run)


# --- the terminal -------------------------------------------------------------------------------------------------


def hung_up(prepare: Callable[[int], object]) -> Any:
    """Return whether it says so before the other end of a terminal is closed and after; prepare: gets the terminal."""

    def run() -> list[bool]:
        ours, theirs = os.openpty()
        os.setsid()
        prepare(theirs)
        os.close(theirs)
        loop = Loop()
        before = loop.catcher.terminal_hung_up()
        os.close(ours)
        return [before, loop.catcher.terminal_hung_up()]

    return in_child(run)


def stand_on(fd: int, *places: int) -> None:
    """Have this in some of the places 0 to 2, and in the others what is no terminal."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for place in (0, 1, 2):
        os.dup2(fd if place in places else nothing, place)


def test_a_terminal_that_controls_us_is_seen_to_hang_up() -> None:
    """Whichever of stdin, stdout and stderr it is."""

    def own(*places: int) -> Callable[[int], None]:
        def prepare(terminal: int) -> None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            stand_on(terminal, *places)

        return prepare

    assert [[False, True]] * 3 == [hung_up(own(0)), hung_up(own(2)), hung_up(own(0, 1, 2))]


def test_a_terminal_of_another_session_has_not_hung_up() -> None:
    """A daemon in the background may still write to the terminal it was started on, whether it is there or not."""
    assert [False, False] == hung_up(lambda terminal: stand_on(terminal, 0, 1, 2))


def test_without_a_terminal_nothing_hangs_up() -> None:
    """As under a service manager."""
    assert [False, False] == hung_up(lambda terminal: stand_on(terminal))
