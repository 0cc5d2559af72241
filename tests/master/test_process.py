"""Processes: what a fork takes along, what a signal does, how an end is told, who a worker becomes."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.master.forks import (
    NOBODY,
    Child,
    Pipe,
    become_able,
    become_nobody,
    in_child,
    libc,
    needs_root,
    readable,
    set_capabilities,
    signals_in,
    stay,
    until,
)
from wsworker import signalstack
from wsworker.config import Config
from wsworker.errors import PlatformError, PrivilegeError
from wsworker.master.process import (
    IGNORED_BY_WORKERS,
    Identity,
    Process,
    die_with_parent,
    do_nothing,
    identity,
    is_stopped,
    may_signal_others,
    reap_strangers,
    spawn,
    take_identity,
)

GROUPS_OF_NOBODY = tuple(os.getgrouplist("nobody", NOBODY.pw_gid))
AS_WE_ARE = Identity(None, None, None, 0o027)
AS_NOBODY = Identity(NOBODY.pw_uid, NOBODY.pw_gid, GROUPS_OF_NOBODY, 0o027)
AS_ROOT = Identity(0, 0, (0,), 0o027)
EVERY_SIGNAL = signal.valid_signals()


def nothing() -> None:
    """Have nothing to close."""


def start(run: Callable[[], int], who: Identity = AS_WE_ARE, prepare: Callable[[], None] = nothing) -> Process:
    """Fork a worker."""
    return spawn(prepare, who, run, lambda reason, trace: print(f"failed: {reason}\n{trace}", file=sys.stderr, end=""))


def end(process: Process) -> tuple[int | None, str | None]:
    """Wait for its end; return how it came."""
    assert readable(process.pidfd), "the worker does not end"
    status = process.reap()
    assert status is not None
    return status


def end_of(run: Callable[[], int], who: Identity = AS_WE_ARE) -> tuple[int | None, str | None]:
    """Fork a worker and return how it ended."""
    return end(start(run, who))


# --- exit, reap, signal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 255])
def test_what_run_returns_is_the_exit_code(code: int) -> None:
    """The exit code of a worker is told by reap, without a signal."""
    assert (code, None) == end_of(lambda: code)


def test_a_living_worker_has_nothing_to_reap(pipe: Pipe) -> None:
    """Reap returns None while the worker lives, and closes the pidfd when it is dead."""

    def run() -> int:
        pipe.tell("runs")
        stay()

    process = start(run)
    assert "runs" == pipe.hear()
    assert process.reap() is None
    process.signal("SIGKILL")
    assert (None, "SIGKILL") == end(process)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(process.pidfd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_deadly_signal_is_told_by_its_name(number: signal.Signals) -> None:
    """Whoever dies of a signal has no exit code but that signal's name."""

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # faulthandler of pytest holds some of them
        if number is not signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        stay()

    assert (None, number.name) == end_of(run)


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    """Python has no names for real-time signals; a worker that dies of one must not take the master along."""

    def run() -> int:
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
        stay()

    assert (None, f"signal {signal.SIGRTMIN + 1}") == end_of(run)


def test_a_signal_to_the_dead_is_harmless() -> None:
    """Nothing is raised, neither before the dead is reaped nor after somebody else has reaped it."""
    process = start(lambda: 0)
    assert readable(process.pidfd)
    process.signal("SIGTERM")
    os.waitpid(process.pid, 0)
    process.signal("SIGKILL")
    os.close(process.pidfd)


def leave_by(code: object) -> Callable[[], int]:
    """Make a worker that calls sys.exit."""

    def run() -> int:
        sys.exit(code)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize(("code", "expected"), [(7, 7), (None, 0), (0, 0), (256 + 5, 5), (2**40 + 6, 6), (-1, 255)])
def test_sys_exit_means_what_it_means_elsewhere(code: int | None, expected: int) -> None:
    """The exit code is what the interpreter would give, of a number its low byte."""
    assert (expected, None) == end_of(leave_by(code))


def test_sys_exit_with_a_text_prints_it(capfd: pytest.CaptureFixture[str]) -> None:
    """As in any program: the text goes to stderr and the code is 1."""
    assert (1, None) == end_of(leave_by("no database"))
    assert "no database\n" == capfd.readouterr().err


def fail() -> int:
    """Raise."""
    raise RuntimeError("out of luck")


def test_an_exception_ends_with_1_and_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """What run raises is told once, and the child does not come back into the caller's stack."""
    pid = os.getpid()
    assert (1, None) == end_of(fail)
    assert pid == os.getpid()
    error = capfd.readouterr().err
    assert error.startswith("failed: a worker ended with RuntimeError\nTraceback ")
    assert error.endswith("RuntimeError: out of luck\n")
    assert 1 == error.count("Traceback")


class Unspeakable(Exception):
    """An exception of user code that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_printed_is_told_too(capfd: pytest.CaptureFixture[str]) -> None:
    """Its class is named, and the worker ends as with any other."""

    def run() -> int:
        raise Unspeakable

    assert (1, None) == end_of(run)
    assert capfd.readouterr().err.startswith("failed: a worker ended with Unspeakable\nTraceback ")


def test_a_log_that_cannot_be_opened_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """A documented condition needs no traceback."""

    def prepare() -> None:
        raise PlatformError("cannot open the log file")

    assert (1, None) == end(start(lambda: 0, prepare=prepare))
    assert "failed: cannot open the log file\n" == capfd.readouterr().err


def test_an_exception_in_prepare_ends_with_1(capfd: pytest.CaptureFixture[str]) -> None:
    """A worker that could not close what is the master's does not run."""

    def run() -> int:
        print("runs", file=sys.stderr)
        return 0

    def prepare() -> None:
        fail()

    assert (1, None) == end(start(run, prepare=prepare))
    error = capfd.readouterr().err
    assert "RuntimeError: out of luck" in error
    assert "runs" not in error


def test_a_worker_ends_even_if_its_output_cannot_be_written() -> None:
    """A broken pipe behind stdout does not send the child back into the master's code."""

    def master() -> list[Any]:
        def run() -> int:
            reader, writer = os.pipe()
            os.close(reader)
            sys.stdout = os.fdopen(writer, "w")
            print("lost")
            return 4

        return list(end_of(run))

    assert [4, None] == in_child(master)


def test_what_is_printed_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    """What waits in the buffer of stdout at the fork is the master's, what a worker leaves there is written."""
    sys.stdout.write("master ")

    def run() -> int:
        sys.stdout.write("worker ")
        return 0

    assert (0, None) == end_of(run)
    assert "master worker " == capfd.readouterr().out


def test_only_the_worker_s_own_exit_functions_run(pipe: Pipe) -> None:
    """What the master registered to run at its end is not run by a worker; what user code registers is."""

    def master() -> list[Any]:
        import atexit

        atexit.register(pipe.tell, "the master's")

        def run() -> int:
            atexit.register(pipe.tell, "the worker's")
            return 0

        return list(end_of(run))

    assert [0, None] == in_child(master)
    assert "the worker's" == pipe.hear()
    assert pipe.silent()


# --- strangers, and who stands still ------------------------------------------------------------------------------

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def orphan(pipe: Pipe, run: Callable[[], Any]) -> int:
    """Leave a process behind that is given to this one, which must be a subreaper; return its pid."""
    if (parent := os.fork()) == 0:
        if os.fork() == 0:
            pipe.tell(os.getpid())
            run()
            os._exit(5)
        os._exit(0)
    os.waitpid(parent, 0)
    return int(pipe.hear())


def test_strangers_are_reaped(pipe: Pipe) -> None:
    """Orphans that were given to us are reaped when they are dead; one that lives and a worker are not touched."""

    def master() -> dict[str, Any]:
        seen: dict[str, Any] = {"without children": reap_strangers([])}
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        living, dead = orphan(pipe, stay), [orphan(pipe, lambda: None) for _ in range(3)]
        fds = [os.pidfd_open(pid) for pid in dead]
        seen["dead"] = all(readable(fd) for fd in fds)
        worker = start(lambda: 7)
        seen["reaped"] = reap_strangers([worker.pid])
        seen["gone"] = [pid for pid in dead if Path(f"/proc/{pid}").exists()]
        seen["worker"] = end(worker)
        seen["left"] = [reap_strangers([]), int(Path(f"/proc/{living}/stat").read_text().split()[3]) == os.getpid()]
        os.kill(living, signal.SIGKILL)
        until(lambda: reap_strangers([]))
        return seen

    assert {
        "without children": 0,
        "dead": True,
        "reaped": 3,
        "gone": [],
        "worker": [7, None],
        "left": [0, True],
    } == in_child(master)


def test_a_dead_worker_is_left_to_its_pidfd(pipe: Pipe) -> None:
    """It may stand in front of strangers: those wait until it is reaped, and its exit code is not lost."""

    def master() -> list[Any]:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        worker = start(lambda: 7)
        readable(worker.pidfd)
        stranger = os.pidfd_open(orphan(pipe, lambda: None))
        readable(stranger)
        before = reap_strangers([worker.pid])
        return [before, end(worker), before + reap_strangers([])]

    assert [0, [7, None], 1] == in_child(master)


def test_a_stopped_process_is_seen(pipe: Pipe) -> None:
    """State T is told from all others, whatever the process calls itself."""

    def named() -> NoReturn:
        pipe.tell(libc.prctl(PR_SET_NAME, b"x) T (y", 0, 0, 0))
        stay()

    with Child(named) as child:
        assert 0 == pipe.hear()
        assert not is_stopped(child.pid)
        child.signal(signal.SIGSTOP)
        until(lambda: is_stopped(child.pid))
        child.signal(signal.SIGCONT)
        until(lambda: not is_stopped(child.pid))
        child.signal(signal.SIGKILL)
        child.exit_code()
        assert not is_stopped(child.pid)


# --- the fork -----------------------------------------------------------------------------------------------------


def test_signals_are_blocked_around_the_fork_and_free_on_both_sides() -> None:
    """Until the child has its own handlers no signal reaches it; afterwards nothing is left blocked."""

    def master() -> dict[str, Any]:
        seen: dict[str, Any] = {}
        told = Pipe()
        signal.signal(signal.SIGHUP, lambda *_: told.tell(f"the master's handler ran in {os.getpid()}"))
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2})

        def just_forked() -> None:
            told.tell(sorted(EVERY_SIGNAL - signal.pthread_sigmask(signal.SIG_BLOCK, ())))
            # pending from here on: it must meet the child's handler and not the master's
            os.kill(os.getpid(), signal.SIGHUP)

        def still_master() -> None:
            seen["free in the master"] = sorted(EVERY_SIGNAL - signal.pthread_sigmask(signal.SIG_BLOCK, ()))

        os.register_at_fork(after_in_child=just_forked, after_in_parent=still_master)

        def run() -> int:
            told.tell(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
            return 0

        seen["end"] = end_of(run)
        seen["free in the child"] = told.hear()
        seen["blocked in run"] = told.hear()
        seen["told else"] = None if told.silent() else told.hear()
        seen["blocked after"] = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return seen

    unblockable = [signal.SIGKILL, signal.SIGSTOP]
    assert {
        "free in the master": unblockable,
        "end": [0, None],
        "free in the child": unblockable,
        "blocked in run": [],
        "told else": None,
        "blocked after": [signal.SIGUSR2],
    } == in_child(master)


def test_a_worker_ignores_by_handlers_and_dies_of_term(pipe: Pipe) -> None:
    """What is the master's business does nothing in a worker, but is not ignored in programs it executes."""

    def run() -> int:
        # as in boot.py: pytest has faulthandler on
        signalstack.widen()
        pipe.tell("runs")
        stay()

    process = start(run)
    assert "runs" == pipe.hear()
    assert set() == signals_in(process.pid, "SigIgn", IGNORED_BY_WORKERS)
    assert set(IGNORED_BY_WORKERS) == signals_in(process.pid, "SigCgt", IGNORED_BY_WORKERS)
    default = {signal.SIGTERM, signal.SIGCHLD}
    assert set() == signals_in(process.pid, "SigIgn", default) | signals_in(process.pid, "SigCgt", default)
    for number in IGNORED_BY_WORKERS:
        os.kill(process.pid, number)
    # none of them waits any more: each has met its handler
    until(lambda: not signals_in(process.pid, "ShdPnd", EVERY_SIGNAL))
    assert process.reap() is None
    process.signal("SIGTERM")
    assert (None, "SIGTERM") == end(process)


def test_a_worker_lets_go_of_the_wakeup_descriptor() -> None:
    """A signal to a worker must not arrive in the master's loop, whose pipe the worker has inherited."""

    def master() -> list[Any]:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.signal(signal.SIGHUP, do_nothing)
        signal.set_wakeup_fd(writer)

        def run() -> int:
            os.kill(os.getpid(), signal.SIGHUP)
            return 0

        ended = end_of(run)
        arrived_from_worker = readable(reader, 0.0)
        os.kill(os.getpid(), signal.SIGHUP)
        return [ended, arrived_from_worker, readable(reader)]

    assert [[0, None], False, True] == in_child(master)


def test_a_second_thread_is_a_bug() -> None:
    """It could hold a lock at the fork, so spawn asserts that there is none."""

    def master() -> str:
        stop = threading.Event()
        threading.Thread(target=stop.wait, daemon=True).start()
        with pytest.raises(AssertionError, match="one thread") as caught:
            start(lambda: 0)
        stop.set()
        return str(caught.value)

    assert in_child(master).startswith("the master runs one thread")


def failing_spawn() -> list[Any]:
    """Return the error number of a spawn that cannot work, the signals still blocked, and whether a child is left."""
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        start(stay)
    left = False
    with contextlib.suppress(ChildProcessError):
        left = os.waitpid(-1, os.WNOHANG) is not None
    return [caught.value.errno, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), left]


def test_no_child_is_left_if_the_pidfd_is_not_to_be_had() -> None:
    """Descriptors are exhausted: the child, which could not be watched, is killed and reaped."""

    def master() -> list[Any]:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
        return failing_spawn()

    assert [errno.EMFILE, [], False] == in_child(master)


def test_a_failing_fork_raises_and_unblocks() -> None:
    """Too many processes: an OSError for the caller, and the master's signals are free again."""

    def master() -> list[Any]:
        if os.geteuid() == 0:
            become_nobody()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        return failing_spawn()

    assert [errno.EAGAIN, [], False] == in_child(master)


# --- death of the master ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [AS_WE_ARE, pytest.param(AS_NOBODY, marks=needs_root)], ids=["as it is", "as nobody"])
def test_a_worker_dies_with_its_master(pipe: Pipe, who: Identity) -> None:
    """SIGKILL to the master ends a worker that looks at nothing, also one that has changed its uid before."""

    def run() -> int:
        pipe.tell(os.getpid())
        stay()

    def master() -> NoReturn:
        start(run, who)
        stay()

    with Child(master) as child:
        worker = os.pidfd_open(pipe.hear())
        try:
            assert not readable(worker, 0.0)
            child.signal(signal.SIGKILL)
            assert readable(worker), "the worker outlives its master"
        finally:
            signal.pidfd_send_signal(worker, signal.SIGKILL)
            os.close(worker)


def test_an_orphan_ends_at_once() -> None:
    """A worker whose master died before prctl was called would never hear of it, so it compares pids."""

    def orphan() -> int:
        # the right pid changes nothing, any other one ends this process
        die_with_parent(os.getppid())
        if (pid := os.fork()) == 0:
            die_with_parent(os.getpid())
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert 1 == in_child(orphan)


# --- identity -----------------------------------------------------------------------------------------------------


def taken(who: Identity) -> dict[str, Any]:
    """Take an identity and return what came of it."""
    take_identity(who)
    umask = os.umask(0)
    return {"uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(), "umask": umask}


@needs_root
def test_user_group_and_umask_are_taken_for_good() -> None:
    """All three uids and gids change, the groups of root are gone, and there is no way back."""

    def worker() -> dict[str, Any]:
        os.setgroups([0, 1, 2])
        seen = taken(Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid, 12345), 0o137))
        ways_back: list[Callable[[], None]] = [lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])]
        for back in ways_back:
            with pytest.raises(PermissionError):
                back()
        return seen

    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    groups = [12345, gid]
    assert {"uids": [uid] * 3, "gids": [gid] * 3, "groups": groups, "umask": 0o137} == in_child(worker)


@needs_root
def test_the_groups_of_the_user_are_taken_over() -> None:
    """A user who is in more groups than one gets all of them, and the configured one as the main group."""
    names = {name: os.getgrouplist(name, pwd.getpwnam(name).pw_gid) for name in (one.pw_name for one in pwd.getpwall())}
    name, groups = max(names.items(), key=lambda item: len(item[1]))
    group = grp.getgrgid(NOBODY.pw_gid).gr_name
    seen = in_child(lambda: taken(identity(Config(app="app", user=name, group=group))))
    assert [NOBODY.pw_gid] * 3 == seen["gids"]
    assert set(os.getgrouplist(name, NOBODY.pw_gid)) == set(seen["groups"])
    assert len(seen["groups"]) >= len(groups)


@needs_root
def test_a_group_alone_leaves_the_user() -> None:
    """The gid changes and no other group is kept; the uid stays."""

    def worker() -> dict[str, Any]:
        os.setgroups([0, 1, 2])
        return taken(identity(Config(app="app", group=grp.getgrgid(NOBODY.pw_gid).gr_name)))

    assert {"uids": [0] * 3, "gids": [NOBODY.pw_gid] * 3, "groups": [], "umask": 0o027} == in_child(worker)


@needs_root
def test_without_user_and_group_only_the_umask_changes() -> None:
    """Nothing else is touched, not even the groups."""

    def worker() -> dict[str, Any]:
        os.setgroups([0, 1, 2])
        return taken(AS_WE_ARE)

    assert {"uids": [0] * 3, "gids": [0] * 3, "groups": [0, 1, 2], "umask": 0o027} == in_child(worker)


def test_who_is_there_already_needs_no_permission() -> None:
    """A master that is started as the configured user has nothing to change, so nothing fails."""

    def worker() -> dict[str, Any]:
        if os.geteuid() == 0:
            become_nobody()
        who = Identity(os.getuid(), os.getgid(), (os.getgid(), 12345), 0o077)
        seen = taken(who)
        return {"same": seen["uids"] == (os.getuid(),) * 3, "umask": seen["umask"], "takes_root": who.takes_root}

    assert {"same": True, "umask": 0o077, "takes_root": False} == in_child(worker)


@pytest.mark.parametrize(
    "who", [AS_ROOT, Identity(0, None, None, 0o027), Identity(None, 0, (), 0o027)], ids=["both", "user", "group"]
)
def test_only_root_becomes_somebody_else(who: Identity) -> None:
    """Everybody else is refused, for the user and for the group alike."""

    def worker() -> list[Any]:
        if os.geteuid() == 0:
            become_nobody()
        with pytest.raises(PrivilegeError) as caught:
            take_identity(who)
        return [who.takes_root, caught.value.step, caught.value.reason]

    assert [True, "the change of user or group", "only root can make it for good"] == in_child(worker)


@needs_root
def test_capabilities_alone_make_nobody_somebody_else() -> None:
    """Who may change its uid without being root would keep that right, and every group: the change is refused."""

    def worker() -> list[Any]:
        become_able(1000, [4, 27])
        # it is not for want of permission
        os.setresgid(1001, 1001, 1001)
        with pytest.raises(PrivilegeError):
            take_identity(AS_NOBODY)
        return [os.getresuid(), os.getresgid()]

    assert [[1000] * 3, [1001] * 3] == in_child(worker)


@needs_root
@pytest.mark.parametrize(
    ("kept", "step"), [((), "setgroups"), ((6,), "setresuid")], ids=["neither capability", "CAP_SETGID"]
)
def test_what_is_not_permitted_to_root_is_a_privilege_error(kept: tuple[int, ...], step: str) -> None:
    """A root without the capabilities for it is refused too; the error names the call that failed."""

    def worker() -> list[str]:
        set_capabilities(sum(1 << number for number in kept))
        with pytest.raises(PrivilegeError) as caught:
            take_identity(AS_NOBODY)
        return [caught.value.step, caught.value.reason]

    assert [step, "Operation not permitted"] == in_child(worker)


@needs_root
def test_who_may_signal_others() -> None:
    """Root may, unless CAP_KILL was taken from it; nobody may not."""

    def nobody() -> bool:
        become_nobody()
        return may_signal_others()

    assert may_signal_others()
    assert not in_child(nobody)


def test_a_worker_never_runs_on_as_somebody_else(capfd: pytest.CaptureFixture[str]) -> None:
    """If the identity cannot be taken, run is not called: one sentence for the master, no traceback, exit code 1."""

    def master() -> list[Any]:
        if os.geteuid() == 0:
            become_nobody()

        def run() -> int:
            print("runs", file=sys.stderr)
            return 0

        return list(end_of(run, AS_ROOT))

    assert [1, None] == in_child(master)
    sentence = "the change of user or group failed (only root can make it for good)"
    advice = "start as root or remove `user` and `group`"
    assert f"failed: cannot drop privileges: {sentence}; {advice}\n" == capfd.readouterr().err


def test_identity_of_a_configuration() -> None:
    """User, group and the user's groups are looked up; a user without a group takes its own; neither stays as it is."""
    group = next(one for one in grp.getgrall() if one.gr_gid not in (0, NOBODY.pw_gid))
    assert identity(Config(app="app")) == Identity(None, None, None, 0o027)
    assert identity(Config(app="app", user="nobody")) == AS_NOBODY
    both = identity(Config(app="app", user="nobody", group=group.gr_name, umask=0o077))
    groups = tuple(os.getgrouplist("nobody", group.gr_gid))
    assert both == Identity(NOBODY.pw_uid, group.gr_gid, groups, 0o077)
    assert identity(Config(app="app", group=group.gr_name)) == Identity(None, group.gr_gid, (), 0o027)


@pytest.mark.parametrize(("user", "group"), [("no-such-user", None), (None, "no-such-group")])
def test_an_account_that_was_removed_is_a_platform_error(user: str | None, group: str | None) -> None:
    """The configuration was good when it was read; the caller hears that it is not any more."""
    with pytest.raises(PlatformError, match=r"name not found: 'no-such-.*'; create the account, or change "):
        identity(Config(app="app", user=user, group=group))
