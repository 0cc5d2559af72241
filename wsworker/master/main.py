"""The master's loop: it turns what happens into events, and actions into what happens.

One selectors loop, one thread, no asyncio, no user code, no client byte. A signal, a command, a report of a worker, a
death, a second gone by, a deadline: each becomes one event for the supervisor, and each action that comes back is
performed by the one method that PERFORM names. There is no policy here: nothing below asks how many workers there are,
or whether a reload is under way.

Signal handlers do nothing. The kernel's wakeup descriptor brings their numbers into the loop, so a signal that comes in
the middle of something waits its turn like everything else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import secrets
import selectors
import signal
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import setproctitle

from wsworker.config import Config, carry_over, restart_needed
from wsworker.configfile import Loaded
from wsworker.errors import BindError, ConfigError, PlatformError, RunDirError
from wsworker.listeners import Group
from wsworker.master import events, view
from wsworker.master.control import Control
from wsworker.master.crew import Crew, EnterWorker
from wsworker.master.events import Event, Exit, ReloadRequested, StopRequested, Token
from wsworker.master.process import do_nothing, may_signal_others, usable_cpus
from wsworker.master.rundir import RunDir, paths
from wsworker.master.supervisor import Supervisor
from wsworker.master.systemd import Notifier, take_environment
from wsworker.stats import Table
from wsworker.wire import Command

READ_SECONDS: Final = 1.0
SAMPLE_SECONDS: Final = 5.0

STOPPING_SIGNALS: Final[Mapping[int, StopRequested]] = {
    signal.SIGTERM: StopRequested(),
    signal.SIGINT: StopRequested(),
    signal.SIGQUIT: StopRequested(quick=True),
}
IGNORED_SIGNALS: Final = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,  # a death is seen by its pidfd
    signal.SIGWINCH,
    signal.SIGPIPE,
)
SILENT_SIGNALS: Final = (signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE)

logger = logging.getLogger("wsworker.master")


class Master:
    """One service.

    load_again: reads the configuration anew. settled: told once, when the start is over, with "" or with a sentence if
    it did not go well for every worker. leave: called in each forked worker, closes what is the caller's.
    """

    def __init__(
        self,
        loaded: Loaded,
        load_again: Callable[[], Loaded],
        enter_worker: EnterWorker,
        settled: Callable[[str], None],
        leave: Callable[[], None],
        version: str,
    ) -> None:
        self._loaded = loaded
        self._load_again = load_again
        self._leave = leave
        self._settled: Callable[[str], None] | None = settled
        config = _with_number_of_workers(loaded.config)
        self._config = config
        self._paths = paths(config.name, config.control_socket, os.environ, os.geteuid())
        self._selector = selectors.DefaultSelector()
        self._supervisor = Supervisor(random.Random().random)  # noqa: S311 - it spreads restarts in time
        self._table = Table()
        self._notifier = Notifier(os.environ, os.getpid())
        self._control = Control(self._paths.socket, self._selector, self._command, time.monotonic)
        self._groups = [Group(address, config.backlog, loaded.place("listen")) for address in config.listen]
        self._samples: dict[int, view.CpuSample] = {}
        self._unweighed = False
        self._exit: Exit | None = None
        self._now = time.monotonic()
        self._read_at = self._sample_at = self._watchdog_at = self._now
        self._terminal = next((fd for fd in (0, 1, 2) if os.isatty(fd)), None)
        self._view = view.Service(
            name=config.name,
            pid=os.getpid(),
            version=version,
            config=str(loaded.path),
            listen=tuple(address.url for address in config.listen),
            log=config.log.file,
            began_at=self._now,
        )
        self._crew = Crew(
            name=config.name,
            node=f"{socket.gethostname().partition('.')[0]}-{secrets.token_hex(4)}",
            selector=self._selector,
            table=self._table,
            feed=self._feed,
            enter_worker=enter_worker,
            leave=self._leave_to,
            sockets=lambda slot: [group.socket(slot) for group in self._groups],
        )

    def run(self) -> Exit:
        """Serve until the end; returns how it ended.

        Raises AlreadyRunning, RunDirError, BindError or PlatformError while nothing has been started yet.
        """
        run_dir = RunDir.claim(self._config.name, self._paths)
        try:
            self._set_up(run_dir)
            self._feed(events.Started(self._config))
            while self._exit is None:
                self._turn()
            logger.info("stopped")
            return self._exit
        finally:
            self._control.finish()
            for group in self._groups:
                group.close()
            self._notifier.close()
            self._remove_pidfile()
            run_dir.release()

    # Set-up

    def _set_up(self, run_dir: RunDir) -> None:
        _need_pidfd()
        if (self._config.user or self._config.group) and os.geteuid() == 0 and not may_signal_others():
            raise PlatformError("ending workers of another user needs CAP_KILL; add it, or remove `user` and `group`")
        os.umask(self._config.umask)
        setproctitle.setproctitle(f"wsworker: master [{self._config.name}]")
        self._run_dir = run_dir
        self._catch_signals()
        take_environment(os.environ)
        for group in self._groups:
            group.probe()
            for slot in range(1, self._slots() + 1):
                group.bind(slot)
        try:
            self._control.open()
        except OSError as error:
            raise RunDirError(str(self._paths.socket), error.strerror or str(error), "see `control_socket`") from None
        self._write_pid_files(run_dir)
        listen = ", ".join(self._view.listen)
        logger.info(
            "%s: %s, %d workers, pid %d, config %s",
            self._config.name,
            listen,
            self._slots(),
            os.getpid(),
            self._loaded.shown,
        )
        if os.geteuid() == 0 and self._config.user is None:
            logger.warning("workers run as root; set `user` in %s", self._loaded.shown)

    def _slots(self) -> int:
        assert isinstance(self._config.workers, int)
        return self._config.workers

    def _catch_signals(self) -> None:
        """Set every handler before the first fork: a signal never finds a default action, not even in a child."""
        self._wakeup, wakeup_writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._wakeup_writer = wakeup_writer
        for number in (*STOPPING_SIGNALS, signal.SIGHUP, *IGNORED_SIGNALS):
            signal.signal(number, do_nothing)
        signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._signals)

    def _write_pid_files(self, run_dir: RunDir) -> None:
        writers: dict[Path, Callable[[], None]] = {run_dir.paths.pid: lambda: run_dir.write_pid(os.getpid())}
        if self._config.pidfile:
            pidfile = Path(self._config.pidfile)
            writers[pidfile] = lambda: _write_pidfile(pidfile)
        for file, write in writers.items():
            try:
                write()
            except OSError as error:
                # for people only, the lock decides: a full disk must not keep a service from starting
                logger.warning("cannot write the pid file %s: %s", file, error.strerror)

    def _remove_pidfile(self) -> None:
        """Remove the configured pid file, if it is still ours."""
        if self._config.pidfile:
            with contextlib.suppress(OSError, ValueError):
                file = Path(self._config.pidfile)
                if stat.S_ISREG(file.lstat().st_mode) and int(file.read_text()) == os.getpid():
                    file.unlink()

    # The loop

    def _turn(self) -> None:
        for key, _ in self._selector.select(max(0.0, self._wake_at() - time.monotonic())):
            key.data()
        self._now = time.monotonic()
        if self._now >= self._watchdog_at:
            self._notifier.watchdog()
            self._watchdog_at = self._now + (self._notifier.watchdog_seconds or READ_SECONDS)
        # the beats come before the deadlines: after a pause of the machine no worker is judged by an old reading
        if self._now >= self._read_at:
            self._read_at = self._now + READ_SECONDS
            self._read_table()
        deadline = self._supervisor.next_deadline()
        if deadline is not None and deadline <= self._now:
            self._feed(events.DeadlinePassed())

    def _wake_at(self) -> float:
        times = [self._read_at, self._watchdog_at]
        deadline = self._supervisor.next_deadline()
        if deadline is not None:
            times.append(deadline)
        return min(times)

    def _feed(self, event: Event) -> None:
        """Hand an event to the supervisor, perform what it wants, and hand it what that brings, until nothing comes."""
        waiting = deque([event])
        while waiting:
            event = waiting.popleft()
            logger.debug("event %s", event)
            for action in self._supervisor.handle(event, time.monotonic()):
                logger.debug("action %s", action)
                outcome = PERFORM[type(action)](self, action)
                if outcome:
                    waiting.append(outcome)

    def _read_table(self) -> None:
        self._control.expire()
        self._crew.bury_late()
        self._feed(events.SlotsRead(self._crew.readings()))
        if self._now >= self._sample_at:
            self._sample_at = self._now + SAMPLE_SECONDS
            view.sample(self._samples, self._crew.pids(), self._now)

    # What happens: signals, commands, reports, deaths

    def _signals(self) -> None:
        for number in self._wakeup.recv(256):
            name = signal.Signals(number).name
            if number in STOPPING_SIGNALS:
                logger.info("%s: stopping", name)
                self._feed(STOPPING_SIGNALS[number])
            elif number == signal.SIGHUP and self._terminal_hung_up():
                logger.info("the terminal is gone: stopping")
                self._feed(StopRequested())
            elif number == signal.SIGHUP:
                self._reload(None)
            elif number not in SILENT_SIGNALS:
                logger.info("%s means nothing here and is ignored", name)

    def _terminal_hung_up(self) -> bool:
        """Whether the terminal of a foreground start is gone: the kernel sends HUP then too. tcgetpgrp(3), EIO."""
        if self._terminal is None:
            return False
        try:
            os.tcgetpgrp(self._terminal)
        except OSError as error:
            return error.errno == errno.EIO
        return False

    def _command(self, command: Command, token: Token) -> None:
        match command.name:
            case "status":
                self._feed(events.StatusRequested(token))
            case "reload":
                logger.info("`reload` asked")
                self._reload(token)
            case "stop":
                logger.info("`stop%s` asked: stopping", " --quick" if command.quick else "")
                self._feed(StopRequested(command.quick, token))

    def _reload(self, token: Token | None) -> None:
        """Read the configuration anew. A bad one ends here: the supervisor never hears of it."""
        try:
            loaded = self._load_again()
        except ConfigError as error:
            logger.error("reload refused: the configuration is wrong\n%s", error)
            self._notifier.status("reload refused: the configuration is wrong")
            if token is not None:
                details = {"code": "config_invalid", "message": str(error), "cause": "", "trace": ""}
                self._control.answer(token, {"result": "refused", "error": details})
            return
        old, new = self._config, _with_number_of_workers(loaded.config)
        keys = restart_needed(old, new)
        for key in keys:
            text = f"{key} changed ({loaded.place(key)}): needs a restart"
            logger.warning("%s", text)
            if token is not None:
                self._control.progress(token, {"event": "note", "text": text})
        self._feed(ReloadRequested(carry_over(old, new), token, keys))

    # Actions

    def _leave_to(self, slot: int) -> None:
        """In a fresh worker: close all that is the master's, and the listeners of the other slots."""
        self._leave()
        self._selector.close()
        self._wakeup.close()
        self._wakeup_writer.close()
        self._control.close()
        self._notifier.close()
        self._run_dir.close()
        for group in self._groups:
            group.keep(slot)

    def _open_slot(self, action: events.OpenSlot) -> Event:
        try:
            for group in self._groups:
                group.listen(action.slot)
        except BindError as error:
            return events.SlotFailed(action.slot, str(error))
        return events.SlotOpened(action.slot)

    def _close_slots(self, action: events.CloseSlots) -> None:
        for group in self._groups:
            group.close()

    def _weigh(self, action: events.Weigh) -> None:
        for group in self._groups:
            if not group.weigh(action.weights) and not group.shared and not self._unweighed:
                self._unweighed = True
                logger.warning("cannot steer new connections on %s; the kernel's hash decides", group.address)

    def _progress(self, action: events.Progress) -> None:
        self._control.progress(action.reply, action.body)

    def _answer(self, action: events.Answer) -> None:
        self._control.answer(action.reply, action.body)

    def _show_status(self, action: events.ShowStatus) -> None:
        now = time.monotonic()
        status = self._supervisor.status(now)
        body = view.document(self._view, status, self._table, self._samples, now, time.time())
        self._control.answer(action.reply, body)

    def _notify(self, action: events.Notify) -> None:
        match action.news:
            case "ready":
                self._notifier.ready(action.text)
                self._tell_settled()
            case "reloading":
                self._notifier.reloading(time.monotonic_ns() // 1000, action.text)
            case "stopping":
                self._notifier.stopping(action.text)
            case "status":
                self._notifier.status(action.text)

    def _tell_settled(self) -> None:
        if self._settled is None:
            return
        settled, self._settled = self._settled, None
        status = self._supervisor.status(time.monotonic())
        missing = [row for row in status["workers"] if row["state"] != "ready"]
        error = ""
        if missing:
            reason = missing[0]["last_exit"]["reason"] if missing[0]["last_exit"] else missing[0]["state"]
            error = (
                f"{self._config.name} runs degraded: {status['workers_ready']} of {status['workers_configured']} "
                f"workers are ready; worker {missing[0]['slot']}: {reason}; see `wsworker status`"
            )
        logger.info(error or "ready")
        settled(error)

    def _log(self, action: events.Log) -> None:
        text = f"{action.text}\n{action.trace}".rstrip()
        logger.log(getattr(logging, action.level.upper()), "%s", text)

    def _end(self, action: Exit) -> None:
        self._exit = action


PERFORM: Final[Mapping[type, Callable[[Master, Any], Event | None]]] = {
    events.Spawn: lambda master, action: master._crew.spawn(action),
    events.OpenSlot: Master._open_slot,
    events.CloseSlots: Master._close_slots,
    events.Tell: lambda master, action: master._crew.tell(action),
    events.Signal: lambda master, action: master._crew.signal(action),
    events.Weigh: Master._weigh,
    events.Progress: Master._progress,
    events.Answer: Master._answer,
    events.ShowStatus: Master._show_status,
    events.Notify: Master._notify,
    events.Log: Master._log,
    events.Exit: Master._end,
}
"""The one method that performs each kind of action; an event that it returns is handled next."""


def _write_pidfile(file: Path) -> None:
    """Replace the pid file as a whole, and never write through a link or into a pipe that lies there. OSError."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "w") as output:
        output.write(f"{os.getpid()}\n")
    new.replace(file)


def _with_number_of_workers(config: Config) -> Config:
    """Resolve `workers: auto`."""
    return config if config.workers != "auto" else config.model_copy(update={"workers": usable_cpus()})


def _need_pidfd() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        raise PlatformError("wsworker needs Linux 5.4 or later (pidfd_open(2) is missing here)") from None
