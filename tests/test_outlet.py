"""Outlets over real pipes, terminals, sockets and files: what they write, and that they do not wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ends import EVERY_KIND, LINE, Ends, a_terminal, forbid, have
from tests.master.forks import in_child
from wsworker.outlet import TERMINAL_TRIES, Outlet, _write_beside_others, open_outlet


@contextlib.contextmanager
def over(fd: int) -> Iterator[Outlet]:
    """Give an outlet over a descriptor, and close it afterwards."""
    outlet = open_outlet(fd)
    yield outlet
    outlet.close()


@EVERY_KIND
def test_no_room_is_an_error_and_no_wait(ends: Ends) -> None:
    """Without a reader a write raises BlockingIOError; all that was taken comes, and then there is room again."""

    def full() -> list[object]:
        with contextlib.ExitStack() as stack:
            reader, writer = ends(stack)
            outlet = stack.enter_context(over(writer))
            taken, came = 0, b""
            with contextlib.suppress(BlockingIOError):
                while True:
                    # what follows on a part of a line is the rest of it: a terminal may have room again by then
                    taken += outlet.write((LINE * 2)[taken % len(LINE) :][: len(LINE)])
            while len(came) < taken:
                came += have(reader)
            return [came == (LINE * taken)[:taken], outlet.write(b"\n")]

    assert [True, 1] == in_child(full)


@EVERY_KIND
def test_the_mode_of_the_descriptor_stays(ends: Ends) -> None:
    """Whoever shares it goes on with a descriptor that blocks."""

    def blocking() -> bool:
        with contextlib.ExitStack() as stack:
            _, writer = ends(stack)
            stack.enter_context(over(writer)).write(LINE)
            return os.get_blocking(writer)

    assert in_child(blocking)


def test_a_number_that_means_something_else_by_now(tmp_path: Path) -> None:
    """User code has closed descriptor 2, and the next client's socket has that number: it must not get the log."""
    ours = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    client, server = socket.socketpair()
    with over(ours) as outlet, client:
        os.dup2(server.detach(), ours)
        outlet.write(LINE)
        assert LINE == (tmp_path / "log").read_bytes()
        assert [] == select.select([client], [], [], 0)[0]
        os.close(ours)


# ---- the terminal that controls us


def take_terminal(theirs: int) -> None:
    """Be the leader of a session whose controlling terminal this is, as a shell is; for a forked child."""
    os.setsid()
    # the kernel sends it to the leader when the test closes the other end
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)


def test_a_background_process_on_a_terminal_with_tostop() -> None:
    """After Ctrl-Z and `bg` lines come all the same; no TTOU is sent to the group, and it does not stay blocked."""

    def job(outlet: Outlet, writer: int) -> list[object]:
        os.setpgid(0, 0)
        # a write that is tried for ever must not outlive the test
        signal.alarm(10)
        sent: list[int] = []
        signal.signal(signal.SIGTTOU, lambda number, frame: sent.append(number))
        in_front = os.tcgetpgrp(writer) == os.getpgrp()
        taken = outlet.write(LINE)
        blocked = signal.SIGTTOU in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return [in_front, taken, sent, blocked]

    def shell() -> list[object]:
        with contextlib.ExitStack() as stack:
            reader, writer = a_terminal(stack)
            take_terminal(writer)
            mode = termios.tcgetattr(writer)
            mode[3] |= termios.TOSTOP
            termios.tcsetattr(writer, termios.TCSANOW, mode)
            outlet = stack.enter_context(over(writer))
            told: list[object] = in_child(lambda: job(outlet, writer))
            return [*told, have(reader).decode()]

    assert [False, len(LINE), [], False, LINE.decode()] == in_child(shell)


def test_a_terminal_of_another_user_with_little_room() -> None:
    """Behind su it cannot be opened under its name, but as /dev/tty; then not even a last bit of room makes it wait."""

    def behind_su() -> None:
        with contextlib.ExitStack() as stack:
            reader, writer = a_terminal(stack)
            take_terminal(writer)
            # as terminals are: a newline needs two bytes then, and long pieces never fit where there is little room
            mode = termios.tcgetattr(writer)
            mode[1] |= termios.OPOST
            termios.tcsetattr(writer, termios.TCSANOW, mode)
            # opened while that is allowed: what the test itself writes must not wait
            filler = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            stack.callback(os.close, filler)
            forbid(writer)
            outlet = stack.enter_context(over(writer))
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(filler, b".")
            while not select.select([], [writer], [], 0)[1]:
                os.read(reader, 256)
            left, came = LINE * 100, b""
            while left:
                # nobody reads in between: the last piece before the error finds little room
                with contextlib.suppress(BlockingIOError):
                    while left:
                        left = left[outlet.write(left[: outlet.most]) :]
                came += have(reader)
            while came.count(b"\n") < 100:
                came += have(reader)
            assert LINE * 100 == came.lstrip(b".").replace(b"\r\n", b"\n")

    in_child(behind_su)


@pytest.mark.parametrize("refusals", [3, TERMINAL_TRIES])
def test_a_terminal_that_another_process_writes_to(refusals: int) -> None:
    """It refuses for some microseconds, so it is tried again; but not for ever, as it may have been stopped."""
    tries: list[bytes] = []

    def write(data: bytes) -> int:
        tries.append(data)
        if len(tries) <= refusals:
            raise BlockingIOError
        return len(data)

    gives_up = refusals == TERMINAL_TRIES
    with pytest.raises(BlockingIOError) if gives_up else contextlib.nullcontext():
        assert len(LINE) == _write_beside_others(write, LINE)
    assert min(refusals + 1, TERMINAL_TRIES) == len(tries)
