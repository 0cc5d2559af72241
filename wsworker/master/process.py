"""Processes: the one file that forks workers, signals and reaps them, and drops privileges.

A worker is known here by its pid and a pidfd. Signals go through the pidfd (pidfd_send_signal(2)) and the exit status
is taken through it (waitid(2), P_PIDFD), so neither ever hits a stranger that got the same pid.

The fork is plain os.fork, since a worker shares the master's sockets and table, and the master runs one thread. All
signals are blocked around it: until the child has its own handlers it must not run the master's, whose wakeup pipe it
shares. The child never returns into the master's stack: it leaves by os._exit.

Two nets make a worker die with its master. PR_SET_PDEATHSIG kills it at once, even when its loop is blocked; the end of
file on its channel, which worker/main.py watches, is for the case that prctl(2) is not to be had.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import grp
import os
import pwd
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from wsworker.config import Config
from wsworker.errors import PlatformError, PrivilegeError
from wsworker.master.events import SignalName

PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h. The setting follows the thread that forked, and a change of uid or gid clears it: prctl(2)."""

PR_SET_NO_NEW_PRIVS: Final = 38

CAP_KILL: Final = 5
"""Its bit, from linux/capability.h."""

IGNORED_BY_WORKERS: Final = (
    signal.SIGINT,  # Ctrl-C reaches the whole process group, the master decides
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGWINCH,
    signal.SIGPIPE,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is to be. uid, gid and groups are None to stay as the master is; groups: the supplementary ones."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    umask: int

    @property
    def takes_root(self) -> bool:
        """Whether only root can take it: it is somebody else than this process, in uid or gid."""
        other_user = self.uid is not None and (self.uid,) * 3 != os.getresuid()
        other_group = self.gid is not None and (self.gid,) * 3 != os.getresgid()
        return other_user or other_group


def identity(config: Config) -> Identity:
    """Return who the workers of a configuration are; its user and group exist, as loading it has checked.

    A user without a group takes that user's own group; a group without a user has no others beside it.
    You should call this once: it asks the account databases, and a directory server that hangs would hold the caller at
    every fork. nsswitch.conf(5). Raises PlatformError if an account was removed since.
    """
    try:
        account = pwd.getpwnam(config.user) if config.user is not None else None
        gid = grp.getgrnam(config.group).gr_gid if config.group is not None else account.pw_gid if account else None
    except KeyError as error:
        raise PlatformError(f"{error.args[0]}; create the account, or change `user` and `group`") from None
    if gid is None:
        return Identity(None, None, None, config.umask)
    # what initgroups(3) takes over
    groups = tuple(os.getgrouplist(account.pw_name, gid)) if account else ()
    return Identity(account.pw_uid if account else None, gid, groups, config.umask)


@dataclass(frozen=True, slots=True)
class Process:
    """A forked worker; pidfd becomes readable when it is dead and is closed by reap."""

    pid: int
    pidfd: int

    def signal(self, name: SignalName) -> None:
        """Send a signal; nothing happens if the process is dead already."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, getattr(signal, name))

    def reap(self) -> tuple[int | None, str | None] | None:
        """Return (exit code, None) or (None, signal name) and close the pidfd; None while it lives. waitid(2)."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        os.close(self.pidfd)
        if result.si_code == os.CLD_EXITED:
            return result.si_status, None
        return None, _signal_name(result.si_status)


def reap_strangers(known: Collection[int]) -> int:
    """Reap dead children that are no workers and return how many; known: the pids of the workers not reaped yet.

    Process 1 of a container is given every orphan, and an exec(3) may inherit children of the program before. Nobody
    asks for their exit status. The kernel shows one dead child at a time; when that is a worker its pidfd tells of it,
    and whoever is dead behind it is found at the next call: you should call this about once a second. waitid(2).
    """
    count = 0
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return count
        if dead is None or dead.si_pid in known:
            return count
        os.waitid(os.P_PID, dead.si_pid, os.WEXITED | os.WNOHANG)
        count += 1


def is_stopped(pid: int) -> bool:
    """Whether a process stands still by SIGSTOP or a debugger; False if it cannot be seen. proc_pid_stat(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # the name before the state may hold blanks and brackets
    return fields.rpartition(b")")[2].split()[0] in (b"T", b"t")


def _signal_name(number: int) -> str:
    """Return a name such as SIGKILL; Python knows none for most of the real-time signals, and any of them kills."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def spawn(
    prepare: Callable[[], None], identity: Identity, run: Callable[[], int], failed: Callable[[str, str], None]
) -> Process:
    """Fork a worker. In the child: prepare closes what is the master's, then identity is taken, then run runs.

    run returns the exit code. Whatever prepare, the change of identity or run raises ends the child with 1; failed is
    told why, in the child: one sentence, and the traceback or "" where it says no more.
    Raises OSError when the fork or the pidfd is not to be had; then no child is left.
    """
    # a second thread could hold a lock that the child would wait for for ever
    assert threading.active_count() == 1, "the master runs one thread"
    master_pid = os.getpid()
    every_signal = set(signal.valid_signals())
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, every_signal)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _become_worker(master_pid, prepare, identity, run, failed)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    try:
        return Process(pid, os.pidfd_open(pid))
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _become_worker(
    master_pid: int,
    prepare: Callable[[], None],
    identity: Identity,
    run: Callable[[], int],
    failed: Callable[[str, str], None],
) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        _take_worker_signals()
        # what the master registered to run at its end is not the worker's to run
        atexit._clear()
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        prepare()
        take_identity(identity)
        die_with_parent(master_pid)
        code = run()
        atexit._run_exitfuncs()
    except SystemExit as exit_:
        code = _code_of(exit_)
    except (PlatformError, PrivilegeError) as error:
        failed(str(error), "")
    except BaseException as error:
        # its own text stands in the traceback, which survives a __str__ that raises
        failed(f"a worker ended with {type(error).__name__}", "".join(traceback.format_exception(error)))
    finally:
        leave_child(code)


def _code_of(exit_: SystemExit) -> int:
    """Return what the interpreter would exit with: sys.exit() means 0, and a text is printed and means 1."""
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code
    print(exit_.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def leave_child(code: int) -> NoReturn:
    """End a forked child, also when its output is a broken pipe: going on would be in the parent's stack."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # os._exit raises for a number that is no C int; wait(2) shows the low byte in any case
        os._exit(code & 0xFF)


def _take_worker_signals() -> None:
    """Replace the master's handlers: TERM ends it until it is READY, CHLD is as in any program, the rest does nothing.

    "Does nothing" is a handler and not SIG_IGN, which programs that the user's code executes would inherit.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in IGNORED_BY_WORKERS:
        signal.signal(number, do_nothing)


def do_nothing(number: int, frame: object) -> None:
    """Be the handler of a signal that means nothing to a worker."""


def take_identity(identity: Identity) -> None:
    """Take umask, groups, gid and uid for good, in the order in which each is still permitted; no privilege comes anew.

    Only root becomes somebody else. Who may do so by CAP_SETUID and CAP_SETGID alone would keep both, and with them the
    way back: the kernel takes capabilities away when the uid leaves 0, and not from one other uid to the next.
    Raises PrivilegeError; the caller must end the process then, it never runs on as somebody else. setresuid(2),
    capabilities(7) "Effect of user ID changes on capabilities".
    """
    os.umask(identity.umask)
    uid, gid, groups = identity.uid, identity.gid, identity.groups
    if os.geteuid() != 0:
        if identity.takes_root:
            raise PrivilegeError("the change of user or group", "only root can make it for good")
        return
    steps: list[tuple[str, Callable[[], None]]] = []
    if groups is not None:
        steps.append(("setgroups", lambda: os.setgroups(groups)))
    if gid is not None:
        steps.append(("setresgid", lambda: os.setresgid(gid, gid, gid)))
    if uid is not None:
        steps.append(("setresuid", lambda: os.setresuid(uid, uid, uid)))
        steps.append(("PR_SET_NO_NEW_PRIVS", _forbid_new_privileges))
    for name, step in steps:
        try:
            step()
        except OSError as error:
            raise PrivilegeError(name, error.strerror or str(error)) from None


def _forbid_new_privileges() -> None:
    """Let no program that user code starts gain rights by being setuid, or in any other way. prctl(2)."""
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def may_signal_others() -> bool:
    """Whether this process may signal one of another user: without CAP_KILL not even root may. capabilities(7).

    PR_SET_PDEATHSIG is bound by the same rule.
    """
    status = Path("/proc/self/status").read_text()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> CAP_KILL & 1)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; end it now if the parent is dead already.

    The parent is compared with the pid it had and not with 1, because an orphan may go to a subreaper. A kernel or a
    sandbox without prctl(2) leaves the other net: end of file on the channel.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
