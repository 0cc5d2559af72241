"""`wsworker start`: become the master, in the foreground or (-d) in the background.

Everything that can be wrong with the configuration is told before anything is started or stopped, which is why loading
(prepare) and running (Prepared.run) are two steps: `restart` stops the old service between them.

In the background the process that the shell waits for ends when the service is settled. What the daemon has to tell it
goes through the pipe of master/detach.py as one JSON object, so that --json has the same error codes as in the
foreground: {"name", "pid", "workers"} or {"error": {"code", "message"}}. A service that settles with a slot missing
goes on, as systemd is told too, but -d fails: who goes on after it must be able to rely on what was asked for.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from wsworker import configfile
from wsworker.cli import ask
from wsworker.cli.failures import (
    BAD_CONFIG,
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    OK,
    PARKED,
    SCHEMA,
    Failed,
    Failure,
    Interrupted,
    describe,
    failure,
)
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import counted
from wsworker.cli.version import banner, version
from wsworker.errors import AlreadyRunning, ConfigError, ControlError, NotRunning, PlatformError, Problem, TlsError

if TYPE_CHECKING:
    from wsworker.configfile import Loaded
    from wsworker.master.estate import Estate
    from wsworker.master.events import Exit
    from wsworker.master.main import Master

Command = TypeVar("Command", bound=Callable[..., Any])

FOLLOW_TIMEOUT: Final = "2s"
FOLLOW_HANDOVER: Final = "1s"
EXITS: Final[Mapping[int, str]] = {
    OK: "stopped in good order, or ready with -d",
    FAILED: "failed (already running, cannot listen)",
    PARKED: "no worker stays alive",
    BAD_CONFIG: "bad config or app",
}
LEVELS: Final = ("debug", "info", "warning", "error")

logger = logging.getLogger("wsworker.cli")


def start_options(command: Command) -> Command:
    """Give a command the options of `start`; `restart` has them too."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option("-d", "--daemon", is_flag=True, help="Run in the background; return when the service is ready."),
    click.option("-w", "--workers", metavar="N", help="Number of workers, or auto; instead of `workers`."),
    click.option(
        "-b",
        "--bind",
        metavar="ADDR",
        multiple=True,
        help="Address to listen on; may be repeated; instead of `listen`.",
    ),
    click.option(
        "--reload",
        "follow",
        is_flag=True,
        help="For development: load the app anew when one of its files, or the config, is saved.",
    ),
    click.option("--log-level", type=click.Choice(LEVELS), help="Least important messages; instead of `log.level`."),
)


@click.command(epilog=epilog(EXITS, "wsworker start -d -c /etc/wsworker/config.yaml"))
@start_options
@global_options
@click.pass_obj
def start(
    settings: Settings, daemon: bool, workers: str | None, bind: tuple[str, ...], follow: bool, log_level: str | None
) -> int:
    """Run the service in the foreground, or in the background (-d)."""
    return prepare(settings, daemon, workers, bind, follow, log_level).run()


def prepare(
    settings: Settings, daemon: bool, workers: str | None, bind: tuple[str, ...], follow: bool, log_level: str | None
) -> Prepared:
    """Read the configuration and check all that can be checked before anything is started.

    Raises PlatformError, ConfigError, click.UsageError for -d or --reload where they do not belong, or Failed for -d
    without a log file.
    """
    need_linux(sys.platform)
    if daemon and os.environ.get("NOTIFY_SOCKET"):
        raise click.UsageError("-d is not for systemd, which watches the foreground; remove -d from ExecStart")
    if follow and (daemon or os.environ.get("NOTIFY_SOCKET")):
        where = "with -d" if daemon else "under systemd"
        raise click.UsageError(f"--reload is for development in a terminal and not {where}; use `wsworker reload`")
    path, environ, given = settings.config_path(), dict(os.environ), flags(workers, bind, log_level, follow)
    loaded = load(path, environ, given)
    if daemon and loaded.config.log.file == "-":
        raise Failed("config_invalid", "-d needs `log.file`: there will be no terminal to log to", BAD_CONFIG)
    return Prepared(settings, loaded, path, environ, given, daemon, follow)


def load(path: Path, environ: Mapping[str, str], given: Mapping[str, tuple[str, str]]) -> Loaded:
    """Read the configuration, and look at the files of `tls`; raises ConfigError, in the latter case with one problem.

    Each worker loads the files once more. Here the line of the setting is known, and nothing has been started.
    """
    loaded = configfile.load(path, environ, given)
    if loaded.config.tls.certfile is not None:
        from wsworker import tls

        try:
            tls.context(loaded.config.tls)
        except TlsError as error:
            origin = loaded.origins[error.key]
            raise ConfigError(loaded.shown, (Problem(origin.place, origin.line, origin.column, str(error)),)) from None
    return loaded


def need_linux(platform: str) -> None:
    """Raise PlatformError unless platform, sys.platform, is Linux."""
    if platform != "linux":
        raise PlatformError(f"wsworker runs on Linux only, this is {platform}; use a container or a virtual machine")


def flags(
    workers: str | None, bind: tuple[str, ...], log_level: str | None, follow: bool = False
) -> dict[str, tuple[str, str]]:
    """Return the options that were given as configfile.load wants them: key to flag and value in YAML."""
    found = {}
    if follow:
        # who has just saved a file does not wait for long goodbyes
        found["drain_window"] = ("--reload", "0")
        found["graceful_timeout"] = ("--reload", FOLLOW_TIMEOUT)
        # connections move as ever; one that is busy has to be told to reconnect before its time is over
        found["handover_timeout"] = ("--reload", FOLLOW_HANDOVER)
    if workers is not None:
        found["workers"] = ("-w", workers)
    if bind:
        # a string in JSON is one in YAML too; without its quotes [::]:2346 would be a list
        found["listen"] = ("-b", json.dumps(bind if len(bind) > 1 else bind[0]))
    if log_level is not None:
        found["log.level"] = ("--log-level", log_level)
    return found


@dataclass(frozen=True)
class Prepared:
    """A service that could be started: its configuration is good."""

    settings: Settings
    loaded: Loaded
    path: Path
    environ: Mapping[str, str]
    flags: Mapping[str, tuple[str, str]]
    daemon: bool
    follow: bool = False

    def run(self) -> int:
        """Run the service, or with -d wait until it is ready; return the exit code."""
        return self._run_in_background() if self.daemon else self._run_in_foreground()

    def _run_in_foreground(self) -> int:
        from wsworker import log

        on_terminal = sys.stderr.isatty()
        if on_terminal:
            self.settings.progress(banner())
        log.prefer_color(self.settings.colored())
        log.set_up(self.loaded.config.log)

        look = status_command(self.settings.config)

        def settled(degraded: str) -> None:
            hint = f". Ctrl+C stops; `{look}` in another terminal" if on_terminal else ""
            logger.info("%s", degraded or f"ready{hint}")

        ended = self._serve(settled, leave=lambda: None)
        if ended.error:
            self.settings.failure(_failure_of(ended.code, ended.error))
        return ended.code

    def go_on(self, estate: Estate) -> int:
        """Be the master of a service that runs, as a former program of this process was; return the exit code."""
        from wsworker import log

        self.settings.color = estate.call.color
        log.prefer_color(self.settings.colored())
        descriptor = log.set_up(self.loaded.config.log)
        if self.daemon:
            log.redirect_output(descriptor)
        ended = self._master(lambda degraded: None, lambda: None, estate).run()
        if ended.error and self.daemon:
            logger.error("%s", ended.error)
        elif ended.error:
            self.settings.failure(_failure_of(ended.code, ended.error))
        return ended.code

    def _run_in_background(self) -> int:
        from wsworker.master.detach import detach

        code, text = detach(self._run_detached)
        if code == INTERRUPTED:
            raise Interrupted(text)
        if code == OK:
            outcome = json.loads(text)
            self.settings.result(ready_line(outcome), {"schema": SCHEMA, **outcome})
            return OK
        self.settings.failure(told(code, text))
        return code

    def _run_detached(self, pipe: int) -> int:
        """Be the master, without a terminal. Until the service is settled, whatever ends it goes through the pipe."""
        from wsworker import log
        from wsworker.master.cgroup import with_number_of_workers
        from wsworker.master.detach import announce

        config, waiting = self.loaded.config, [pipe]

        def settled(degraded: str) -> None:
            logger.info("%s", degraded or "ready")
            if degraded:
                announce(waiting.pop(), FAILED, json.dumps({"error": {"code": "degraded", "message": degraded}}))
                return
            workers = with_number_of_workers(config).workers
            announce(waiting.pop(), OK, json.dumps({"name": config.name, "pid": os.getpid(), "workers": workers}))

        def leave() -> None:
            for descriptor in waiting:
                os.close(descriptor)

        try:
            log.redirect_output(log.set_up(config.log))
            ended = self._serve(settled, leave)
        except Exception as error:
            # told and not logged: the log may be that of the service that runs already
            failed = describe(error)
            if failed is None:
                raise
        else:
            # a stop before the service was ready is a failed start too, though the master ends with 0
            if not ended.error and not waiting:
                return ended.code
            failed = _failure_of(ended.code, ended.error)
            logger.error("%s", failed.details["message"])
        if waiting:
            announce(waiting.pop(), failed.exit_code, json.dumps({"error": dict(failed.details)}))
        return failed.exit_code

    def _serve(self, settled: Callable[[str], None], leave: Callable[[], None]) -> Exit:
        """Be the master to the end. Raises as Master.run; AlreadyRunning says so if the other one is not ours."""
        try:
            return self._master(settled, leave).run()
        except AlreadyRunning as error:
            raise AlreadyRunning(error.name, error.pid, other_config(self.path, self.environ)) from None

    def _master(
        self, settled: Callable[[str], None], leave: Callable[[], None], estate: Estate | None = None
    ) -> Master:
        from wsworker.master.estate import Call
        from wsworker.master.main import Master
        from wsworker.worker.boot import preload
        from wsworker.worker.main import run

        preload(self.loaded.config)
        if estate is None:
            # else the reload that follows does, with what is on disk
            warn(self.loaded)

        def load_again() -> Loaded:
            loaded = load(self.path, self.environ, self.flags)
            warn(loaded)
            return loaded

        path, shown = str(self.loaded.path), self.loaded.shown
        call = Call(path, shown, dict(self.flags), self.daemon, self.follow, self.settings.color)
        return Master(
            self.loaded,
            load_again,
            enter_worker=partial(run, watched=os.path.abspath(self.path)) if self.follow else run,
            settled=settled,
            leave=leave,
            version=version(),
            call=call,
            estate=estate,
        )


def other_config(path: Path, environ: Mapping[str, str]) -> str:
    """Return the config file of the service that runs, if that is another one than this, and the service says so."""
    try:
        service = ask.locate(path, environ)
        document = ask.status(service)
    except (ConfigError, ControlError, NotRunning):
        return ""
    runs_with = str(document["config"])
    return runs_with if configfile.objection(service.config, runs_with, service.name) else ""


def warn(loaded: Loaded) -> None:
    """Log what is right and yet may be a mistake: a certificate that no client would take, and the cautions."""
    from wsworker import tls
    from wsworker.cautions import warnings

    for key, sentence in warnings(loaded.config).items():
        logger.warning("%s: %s", loaded.place(key), sentence)
    if objection := tls.objection(loaded.config.tls):
        logger.warning("%s: %s", loaded.place("tls.certfile"), objection)


def ready_line(outcome: Mapping[str, Any]) -> str:
    """Return what `start -d` prints when the service is settled."""
    return f"{outcome['name']} is ready: {counted(outcome['workers'], 'worker')}, pid {outcome['pid']}"


def status_command(config: str | None) -> str:
    """Return how to ask for the status, from the same folder. config: as typed behind -c, or None."""
    program = os.path.abspath(sys.argv[0])
    if program.endswith("__main__.py"):
        words = [sys.executable, "-m", "wsworker"]
    elif os.path.abspath(shutil.which("wsworker") or "") == program:
        words = ["wsworker"]
    else:
        words = [min(program, os.path.relpath(program), key=len)]
    return shlex.join([*words, "status", *(["-c", config] if config else [])])


def told(exit_code: int, text: str) -> Failure:
    """Return the failure that came through the pipe: ours as JSON, or a sentence of detach itself."""
    try:
        details = json.loads(text)["error"]
    except ValueError:
        return failure(exit_code, EXIT_CODES[FAILED], text)
    return failure(exit_code, details["code"], details["message"])


def _failure_of(exit_code: int, error: str) -> Failure:
    """Return the failure of a master that ended by itself or was stopped while it started."""
    return failure(exit_code or FAILED, EXIT_CODES[exit_code or FAILED], error or "stopped before it was ready")
