"""`wsworker stop`: ask the master to stop, and wait until it has gone.

It has gone when its lock is free: from then on `start` works. The connection to it stays open for the whole stop, and
its answer comes when the last worker has left.

A master that does not answer may be stopped itself (Ctrl-Z), or hang, or speak another version's language. It gets TERM
and CONT then, by its pid file. That a pid file names a living process proves little, so three things have to fit: the
process started when the file says, the lock of this service is held, and the process belongs to the owner of the run
directory. The last one keeps a pid file that somebody else wrote from aiming root's signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from wsworker import configfile
from wsworker.cli import ask
from wsworker.cli.bar import bar, draining
from wsworker.cli.failures import BAD_CONFIG, FAILED, NOTHING_RUNNING, OK, SCHEMA, Failed, Interrupted
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import counted
from wsworker.errors import ConfigError, ControlError, NotRunning
from wsworker.master.rundir import Paths, read_pid
from wsworker.wire import Command

QUICK_SECONDS: Final = 3.0
MARGIN_SECONDS: Final = 10.0
DEFAULT_GRACEFUL_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02
LOOK_SECONDS: Final = 0.5
WITHOUT_FILE: Final = (
    "a service can be stopped without its file: `kill -TERM PID` with the pid that `pgrep -af 'wsworker: master'` shows"
)

EXITS: Final[Mapping[int, str]] = {
    OK: "stopped",
    FAILED: "stop incomplete",
    NOTHING_RUNNING: "nothing running",
    BAD_CONFIG: "no config",
}


@click.command(epilog=epilog(EXITS, "wsworker stop --quick"))
@click.option("--quick", is_flag=True, help="Close every connection and end now, without a graceful drain.")
@global_options
@click.pass_obj
def stop(settings: Settings, quick: bool) -> int:
    """Stop the service and wait for its end."""
    stop_service(settings, settings.config_path(), quick).show(settings)
    return OK


@dataclass(frozen=True)
class Stopped:
    """A service that has come to its end.

    connections: how many were told so, None if nobody can say. cut: how many were not; killed: workers that had to be.
    """

    name: str
    pid: int
    connections: int | None
    seconds: float
    cut: int = 0
    killed: int = 0

    def show(self, settings: Settings) -> None:
        """Print the result."""
        document = {"schema": SCHEMA, "result": "stopped", "name": self.name, "pid": self.pid}
        document |= {"connections": self.connections, "cut": self.cut, "killed": self.killed, "seconds": self.seconds}
        settings.result(self.line(), document)

    def line(self) -> str:
        """Return the result as text."""
        closed = "" if self.connections is None else f"{counted(self.connections, 'connection')} closed (1001), "
        cut = f"{self.cut} cut, " if self.cut else ""
        killed = f"{counted(self.killed, 'worker')} killed, " if self.killed else ""
        return f"stopping {self.name} (pid {self.pid}): {closed}{cut}{killed}stopped in {self.seconds:.1f} s"


def stop_service(settings: Settings, config: Path, quick: bool) -> Stopped:
    """Stop the service of a config file and return when its lock is free.

    Raises NotRunning, ControlError (permission, other_config), Failed if it is still there when its time is over, or
    Interrupted.
    """
    try:
        service = ask.locate(config, os.environ)
    except ConfigError:
        if os.path.isfile(config):
            settings.progress(f"note: {WITHOUT_FILE}")
        raise
    began_at = time.monotonic()
    give_up_at = began_at + patience(config, quick)
    try:
        document: dict[str, Any] | None = ask.status(service)
    except ControlError as error:
        if error.code == "permission":
            raise
        # it is silent, or busy with other callers, or of a version that speaks another language
        document = None
    if document is None:
        pid = _signal_master(service, quick)
        settings.progress(f"{service.name} (pid {pid}) does not answer; sent it {'QUIT' if quick else 'TERM'} and CONT")
    else:
        pid = document["pid"]
    answer: Mapping[str, Any] = {}
    try:
        if document is not None:
            answer, give_up_at = ask_to_stop(settings, service, quick, give_up_at)
        wait_until_gone(service, pid, give_up_at)
    except KeyboardInterrupt:
        message = f"{service.name} (pid {pid}) goes on stopping; `wsworker status` shows how far it is"
        raise Interrupted(message) from None
    seconds = time.monotonic() - began_at
    if document is None or not answer:
        return Stopped(service.name, pid, None, seconds)
    # a master of an earlier version does not count
    cut = answer.get("cut", 0)
    told = max(0, document["totals"]["connections"] - cut)
    return Stopped(service.name, pid, told, seconds, cut, answer.get("killed", 0))


def wait_until_gone(service: ask.Service, pid: int, give_up_at: float) -> None:
    """Return when the lock is free. Raises Failed if it still is held at give_up_at (CLOCK_MONOTONIC)."""
    while ask.holder(service):
        if time.monotonic() > give_up_at:
            message = f"stop incomplete: {service.name} (pid {pid}) is still there; use `wsworker stop --quick`"
            raise Failed("timeout", f"{message}, or `kill -KILL {pid}`, which ends its workers too")
        time.sleep(POLL_SECONDS)


def patience(config: Path, quick: bool) -> float:
    """Return how many seconds a stop may take: what the master gives its workers, and a margin for itself.

    It is a guess, for a service that does not tell: a variable may have given it more. A file that is wrong by now must
    not keep it from being stopped, as long as its name can be read: then it is the default's time.
    """
    if quick:
        return QUICK_SECONDS + MARGIN_SECONDS
    try:
        graceful = configfile.load(config, os.environ, {}).config.graceful_timeout
    except ConfigError:
        graceful = DEFAULT_GRACEFUL_SECONDS
    return graceful + MARGIN_SECONDS


def ask_to_stop(
    settings: Settings, service: ask.Service, quick: bool, give_up_at: float
) -> tuple[Mapping[str, Any], float]:
    """Ask for a stop and wait for it until give_up_at, or for as long as the service gives its workers and a margin.

    Return the answer, or nothing if the time is over or the master has gone: then the lock decides. Also return until
    when to wait for that (CLOCK_MONOTONIC). Raises ControlError (other_config).
    """
    with contextlib.closing(ask.Call(service, Command("stop", quick), give_up_at)) as call, bar(settings) as draw:
        most = 1
        try:
            while (now := time.monotonic()) < give_up_at:
                reply = call.reply(min(now + LOOK_SECONDS, give_up_at))
                if reply and reply.final:
                    return reply.body, give_up_at
                left = draining(ask.status(service))
                if left and left.seconds:
                    give_up_at = max(give_up_at, now + left.seconds + MARGIN_SECONDS)
                if left and left.connections:
                    most = max(most, left.connections)
                    draw(left.line, 1 - left.connections / most)
        except (ControlError, NotRunning) as error:
            if isinstance(error, ControlError) and error.code == ask.OTHER_CONFIG:
                raise
            # the end of the connection: it was killed
    return {}, give_up_at


def _signal_master(service: ask.Service, quick: bool) -> int:
    """Send TERM (quick: QUIT) and CONT to a master that does not answer; return its pid. Raises Failed."""
    at = ask.holder(service)
    with _process(at) as process:
        if at is None or process is None:
            message = f"{service.name} does not answer, and no pid file says which process it is; look for it with ps"
            raise Failed("timeout", message)
        pid, pidfd = process
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGQUIT if quick else signal.SIGTERM)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        except PermissionError:
            message = f"no permission to signal {service.name} (pid {pid}); run this as its user, or as root"
            raise Failed("permission", message) from None
        except ProcessLookupError:
            pass
        return pid


@contextlib.contextmanager
def _process(at: Paths | None) -> Iterator[tuple[int, int] | None]:
    """Yield pid and pidfd of the master that a pid file names, or None if it cannot be trusted to name one."""
    pid = read_pid(at.pid) if at else None
    if at is None or pid is None:
        yield None
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        # the start time again, now that the pidfd holds on to the process: no other one can have got its pid
        owned = os.stat(f"/proc/{pid}").st_uid == os.stat(at.folder).st_uid
        yield (pid, pidfd) if owned and read_pid(at.pid) == pid else None
    finally:
        os.close(pidfd)
