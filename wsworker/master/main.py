"""The master's loop: it turns what happens into events, and actions into what happens.

One selectors loop, one thread, no asyncio, no user code, no client byte. A signal, a command, a report of a worker, a
death, a second gone by, a deadline: each becomes one event for the supervisor, and each action that comes back is
performed by the one method that PERFORM names. There is no policy here: nothing below asks how many workers there are,
or whether a reload is under way.

A caught signal ends the wait of the loop and is only noted, so one that comes in the middle of something waits its turn
like everything else.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import setproctitle

from wsworker import configfile, log
from wsworker.cautions import of_root
from wsworker.configfile import Loaded
from wsworker.errors import ConfigError, PlatformError
from wsworker.kinds import GROUP_MODE
from wsworker.listeners import Group
from wsworker.master import events, reload, view
from wsworker.master.admin import Admin
from wsworker.master.berths import Berths
from wsworker.master.cgroup import OomCounter, with_number_of_workers
from wsworker.master.control import Control
from wsworker.master.crew import Crew, EnterWorker
from wsworker.master.estate import Call, Estate, service_of
from wsworker.master.events import Event, Exit, ReloadRefused, ReopenRequested, StopRequested, Token
from wsworker.master.following import Following
from wsworker.master.health import READ_SECONDS
from wsworker.master.inventory import Inventory
from wsworker.master.ports import Ports
from wsworker.master.preconditions import need_permission, need_pidfd
from wsworker.master.presence import Presence
from wsworker.master.process import identity, reap_strangers
from wsworker.master.restarts import RestartPolicy
from wsworker.master.rundir import paths
from wsworker.master.signals import SIGNALS, SILENT_SIGNALS, SignalCatcher
from wsworker.master.succession import Rehearsal, execute
from wsworker.master.supervisor import Supervisor
from wsworker.master.systemd import Notifier, kept_environment, take_descriptors, take_environment
from wsworker.stats import Table
from wsworker.wire import Command

EXTEND_SECONDS: Final = 10.0
"""What the service manager is asked for, once a second, while a start or a stop goes on within its own deadlines."""

FOR_EVERYBODY: Final = frozenset({"status", "connections"})
"""Commands that change nothing: they are answered even if they are asked with the config file of another service."""

logger = logging.getLogger("wsworker.master")


class Master:
    """One service.

    load_again: reads the configuration anew. settled: told once, when the start is over, with "" or with a sentence if
    it did not go well for every worker. leave: called in each forked worker, closes what is the caller's. call: how it
    was started. estate: what a former program of this process has left, whose service this one goes on with; loaded is
    then what that one had accepted.
    """

    def __init__(
        self,
        loaded: Loaded,
        load_again: Callable[[], Loaded],
        enter_worker: EnterWorker,
        settled: Callable[[str], None],
        leave: Callable[[], None],
        version: str,
        call: Call,
        estate: Estate | None = None,
    ) -> None:
        self._estate = estate
        self._following = Following(call.follow)
        self._loaded = loaded
        self._app_set_at = loaded.place("app")
        self._load_again = load_again
        self._leave = leave
        self._settled: Callable[[str], None] | None = settled
        config = with_number_of_workers(loaded.config)
        self._config = config
        folder = Path(estate.folder) if estate else None
        self._paths = paths(config.name, config.control_socket, os.environ, os.geteuid(), folder)
        self._selector = selectors.DefaultSelector()
        draw = random.Random().random  # noqa: S311 - it spreads restarts in time
        before = service_of(estate.facts, config, draw, RestartPolicy()) if estate else None
        self._supervisor = Supervisor(draw, service=before)
        self._table = Table(fd=estate.table if estate else None)
        self._environ = kept_environment(os.environ)
        self._notifier = Notifier(os.environ, os.getpid())
        self._identity = identity(config)
        # who may command the service beside its own user and root; identity.gid: of `group`, or else of `user`
        self._group = None
        if config.control_socket_mode == GROUP_MODE:
            self._group = os.getegid() if self._identity.gid is None else self._identity.gid
        self._control = Control(self._paths.socket, self._selector, self._command, time.monotonic, self._group)
        self._admin = Admin(config.admin.listen, loaded.place("admin.listen"), self._table)
        place = loaded.place("listen")
        self._ports = Ports([Group(address, config.backlog, place) for address in config.listen], self._notifier)
        self._oom = OomCounter()
        self._exit: Exit | None = None
        self._heir: tuple[()] | tuple[Token | None] = ()  # who asked for what is to be executed in our place
        self._catcher = SignalCatcher(self._selector)
        self._now = time.monotonic()
        self._read_at = self._watchdog_at = self._now
        service = view.Service(
            name=config.name,
            pid=os.getpid(),
            version=version,
            config=str(loaded.path),
            listen=view.urls(config),
            log=config.log.file,
            bus=view.broker(config),
            began_at=estate.began_at if estate else self._now,
        )
        self._view = view.View(service, self._table, estate.log_dropped if estate else 0)
        node = estate.meeting.node if estate else f"{socket.gethostname().partition('.')[0]}-{secrets.token_hex(4)}"
        self._berths = Berths(self._paths.bus, node, self._identity, self._group, self._table.members)
        self._crew = Crew(
            name=config.name,
            node=node,
            selector=self._selector,
            table=self._table,
            feed=self._feed,
            identity=self._identity,
            enter_worker=enter_worker,
            leave=self._leave_to,
            sockets=self._ports.sockets,
            lendable=self._ports.lendable,
            rss=self._view.rss,
            oom=self._oom,
            now=time.monotonic,
            changed=self._files_changed,
            desk=lambda: self._admin.desk,
            app_set_at=lambda: self._app_set_at,
            berth=self._berths.berth,
        )
        self._rehearsal = Rehearsal(self._selector, self._feed, time.monotonic)
        self._inventory = Inventory(
            loaded=loaded,
            call=call,
            service=self._supervisor.service,
            view=self._view,
            table=self._table,
            ports=self._ports,
            berths=self._berths,
            admin=self._admin,
            control=self._control,
            crew=self._crew,
            catcher=self._catcher,
            folder=self._paths.folder,
        )

    def run(self) -> Exit:
        """Serve until the end; returns how it ended.

        Raises AlreadyRunning, RunDirError, BindError, ActivationError or PlatformError while nothing has started yet.
        """
        config, left = self._config, self._estate
        if left:
            self._presence = Presence.inherit(
                config.name, self._paths, config.pidfile, self._control, self._group, left.lock
            )
        else:
            self._presence = Presence.claim(config.name, self._paths, config.pidfile, self._control, self._group)
        try:
            if left:
                self._go_on(left)
            else:
                self._feed(events.Started(self._config, self._set_up()))
            while self._exit is None:
                self._turn()
            # nobody else would see to it that it ends
            self._rehearsal.finish("the service stops")
            logger.info("stopped")
            return self._exit
        finally:
            self._control.finish()
            self._ports.close()
            self._berths.close()
            self._admin.close()
            self._rehearsal.close()
            self._notifier.finish()
            self._presence.release()

    # Set-up

    def _set_up(self) -> int:
        """Make ready all that the master itself needs; return the number of slots."""
        need_pidfd()
        need_permission(self._identity, self._loaded)
        self._be_the_master()
        descriptors = take_descriptors(os.environ, os.getpid())
        take_environment(os.environ)
        slots = max(self._slots(), self._ports.take_over(descriptors))
        self._ports.bind(slots)
        self._berths.open(slots)
        self._admin.open()
        self._presence.show()
        logger.info(
            "%s: listening on %s, %s, pid %d, config %s",
            self._config.name,
            ", ".join(self._view.service.listen),
            f"{self._slots()} worker{'' if self._slots() == 1 else 's'}",
            os.getpid(),
            self._loaded.shown,
        )
        if self._admin.url:
            logger.info("metrics and health checks on %s", self._admin.url)
        if caution := of_root(self._config, os.geteuid(), self._loaded.shown):
            logger.warning("%s", caution)
        return slots

    def _be_the_master(self) -> None:
        os.umask(self._config.umask)
        setproctitle.setproctitle(f"wsworker: master [{self._config.name}]")
        self._catcher.catch((*SIGNALS, *SILENT_SIGNALS, signal.SIGHUP, signal.SIGUSR2))

    def _slots(self) -> int:
        assert isinstance(self._config.workers, int)
        return self._config.workers

    # The loop

    def _turn(self) -> None:
        ready = self._selector.select(max(0.0, self._wake_at() - time.monotonic()))
        # the beats come before all else: after a pause of the machine nothing is judged by an old reading
        self._read_if_due()
        for key, _ in ready:
            key.data()
        self._signals()
        # and again, as what was just done may have taken long
        self._read_if_due()
        if self._now >= self._watchdog_at:
            self._notifier.watchdog()
            self._watchdog_at = self._now + (self._notifier.watchdog_seconds or READ_SECONDS)
        deadline = self._supervisor.next_deadline()
        if deadline is not None and deadline <= self._now:
            self._feed(events.DeadlinePassed())
        self._admin.post(self._now, self._look, self._view.samples, self._view.log_dropped())

    def _read_if_due(self) -> None:
        self._now = time.monotonic()
        if self._now >= self._read_at:
            self._read_at = self._now + READ_SECONDS
            self._read_table()

    def _wake_at(self) -> float:
        times = [self._read_at, self._watchdog_at]
        deadline = self._supervisor.next_deadline()
        if deadline is not None:
            times.append(deadline)
        return min(times)

    def _feed(self, event: Event) -> None:
        """Hand an event to the supervisor, perform what it wants, and hand it what that brings, until nothing comes."""
        if not isinstance(event, events.SlotsRead):
            self._admin.outdate()
        waiting = deque([event])
        while waiting:
            event = waiting.popleft()
            logger.debug("event %s", event)
            for action in self._supervisor.handle(event, time.monotonic()):
                logger.debug("action %s", action)
                outcome = PERFORM[type(action)](self, action)
                if outcome:
                    waiting.append(outcome)
            if self._heir and not waiting:
                # last: what else was wanted with it must be done before this program is gone
                waiting.append(self._give_way(*self._heir))

    def _read_table(self) -> None:
        self._control.expire()
        self._rehearsal.expire()
        self._presence.keep()
        self._berths.renew()
        self._notifier.flush()
        self._oom.look(self._now)
        self._crew.send_late()
        self._crew.bury_late()
        reap_strangers(self._crew.pids().values())
        self._crew.read_words()
        log.flush()
        self._feed(events.SlotsRead(self._crew.readings()))
        self._view.measure(self._supervisor.roster.slots, self._crew.pids(), self._now)

    # What happens: signals, commands, reports, deaths

    def _signals(self) -> None:
        for number in self._catcher.caught():
            name = signal.Signals(number).name
            if number in SIGNALS:
                event, meaning = SIGNALS[number]
                logger.info("%s: %s", name, meaning)
                self._feed(event)
            elif number == signal.SIGHUP and self._catcher.terminal_hung_up():
                logger.info("the terminal is gone: stopping")
                self._feed(StopRequested())
            elif number == signal.SIGHUP:
                logger.info("%s: reloading", name)
                self._reload(None)
            elif number == signal.SIGUSR2:
                logger.info("%s: upgrading", name)
                self._feed(events.UpgradeRequested())
            elif number == signal.SIGCHLD:
                reap_strangers(self._crew.pids().values())

    def _command(self, command: Command, token: Token) -> None:
        own = self._view.service
        if command.name not in FOR_EVERYBODY and (
            refused := configfile.objection(command.config, own.config, own.name)
        ):
            logger.info("`%s` refused: asked with another config file", command.name)
            self._control.answer(token, {"error": {"code": "other_config", "message": refused}})
            return
        match command.name:
            case "status":
                self._feed(events.StatusRequested(token))
            case "reload":
                logger.info("`reload` asked")
                self._reload(token)
            case "stop":
                logger.info("`stop%s` asked: stopping", " --quick" if command.quick else "")
                self._feed(StopRequested(command.quick, token))
            case "rebalance":
                logger.info("`rebalance` asked")
                # it is decided by what each worker has now
                self._feed(events.SlotsRead(self._crew.readings()))
                self._feed(events.RebalanceRequested(token))
            case "upgrade":
                logger.info("`upgrade` asked")
                self._feed(events.UpgradeRequested(token))
            case "reopen":
                logger.info("`reopen` asked")
                self._feed(ReopenRequested(token))
            case "bus":
                # straight from here: an action would be logged, and the answer holds a secret
                self._control.answer(token, self._berths.address())
            case "connections":
                assert command.query is not None, "decode_command sees to that"
                self._feed(events.ConnectionsRequested(command.query, token))

    def _files_changed(self, worker: int, names: str, mark: str) -> None:
        """Take a worker's report. names: "" if it only tells which files it is about to load."""
        if not names:
            roll = self._supervisor.service.roll
            self._following.loaded(mark, by_canary=roll is not None and roll.canary == worker)
        elif self._following.changed(mark):
            logger.info("%s changed, reloading", names)
            self._reload(None)

    def _reload(self, token: Token | None) -> None:
        """Read the configuration anew. A bad one ends here: the supervisor never hears of it."""
        try:
            loaded = self._load_again()
        except ConfigError as error:
            self._feed(ReloadRefused(str(error), token))
            return
        self._app_set_at = loaded.place("app")
        wish = reload.wish(self._supervisor.service.config, with_number_of_workers(loaded.config), token)
        for key in wish.restart_needed:
            text = f"{key} changed ({loaded.place(key)}): needs a restart"
            logger.warning("%s", text)
            if token is not None:
                self._control.progress(token, {"event": "note", "text": text})
        self._feed(wish)

    # Another program in this process

    def _go_on(self, left: Estate) -> None:
        """Be the master of a service that a former program of this process has left, and have new workers."""
        self._be_the_master()
        take_environment(os.environ)
        self._inventory.inherit(left)
        for number in left.signals:
            signal.raise_signal(number)
        text = f"wsworker {self._view.service.version} has taken over from {left.version}"
        logger.info("%s", text)
        if left.reply is not None:
            self._control.progress(left.reply, {"event": "note", "text": text})
        self._reload(left.reply)

    def _rehearse(self, action: events.Rehearse) -> Event | None:
        try:
            estate = self._inventory.bequeath(action.reply, self._presence.lock)
            return self._rehearsal.start(action.reply, estate, os.environ | self._environ)
        except (OSError, ValueError) as error:
            return events.UpgradeRehearsed(action.reply, error=_clause(error))

    def _succeed(self, action: events.Succeed) -> None:
        self._heir = (action.reply,)

    def _give_way(self, reply: Token | None) -> Event:
        """Execute the program on disk; it returns only if that fails."""
        self._heir = ()
        self._notifier.flush()
        if self._notifier.waits:
            return events.UpgradeRehearsed(reply, error="systemd reads no messages now; try again")
        log.flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        caught = [*self._catcher.caught()]
        try:
            estate = self._inventory.bequeath(reply, self._presence.lock)
            execute(replace(estate, mask=sorted(mask), signals=caught), os.environ | self._environ)
        except (OSError, ValueError) as error:
            return events.UpgradeRehearsed(reply, error=_clause(error))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number in caught:
                signal.raise_signal(number)

    # Actions

    def _leave_to(self, slot: int) -> None:
        """In a fresh worker: close all that is the master's, and the listeners of the other slots."""
        self._leave()
        self._selector.close()
        self._catcher.close()
        self._control.close()
        self._notifier.close()
        self._presence.close()
        self._ports.keep(slot)
        self._berths.keep(slot)
        self._admin.keep()
        self._rehearsal.close()
        self._table.memory.let_go()

    def _add_slot(self, action: events.AddSlot) -> Event:
        added = self._ports.add(action)
        if isinstance(added, events.SlotAdded):
            try:
                self._berths.add(action.slot)
            except OSError as error:
                self._ports.close_slot(events.CloseSlot(action.slot))
                return events.SlotFailed(action.slot, f"cannot make a socket in {self._paths.bus}: {error.strerror}")
        return added

    def _close_slot(self, action: events.CloseSlot) -> None:
        self._ports.close_slot(action)
        self._berths.close_slot(action.slot)

    def _adopt(self, action: events.Adopt) -> None:
        """Apply the log settings of an accepted configuration; if that fails the log goes on as it was."""
        try:
            log.set_up(action.config.log)
        except PlatformError as error:
            logger.error("%s; the log stays where it was", error)
            return
        self._view.adopt(action.config)

    def _reopen_log(self, action: events.ReopenLog) -> None:
        try:
            descriptor = log.reopen()
        except PlatformError as error:
            logger.error("%s; the log stays where it was", error)
            body: dict[str, Any] = {"result": "failed", "error": {"code": "log_failed", "message": str(error)}}
        else:
            if descriptor is not None:
                self._crew.hand_log(self._view.service.log, descriptor)
                logger.info("the log is reopened")
            body = {"result": "ok", "file": self._view.service.log}
        if action.reply is not None:
            self._control.answer(action.reply, body)

    def _progress(self, action: events.Progress) -> None:
        self._control.progress(action.reply, action.body)

    def _answer(self, action: events.Answer) -> None:
        self._control.answer(action.reply, action.body, action.parts)

    def _show_status(self, action: events.ShowStatus) -> None:
        self._control.answer(action.reply, self._look()[0])

    def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the document of `status`, and what the supervisor knows of it."""
        now = time.monotonic()
        status = self._supervisor.status(now)
        document = self._view.document(
            status,
            now,
            time.time(),
            queues=self._ports.queue,
            steering=self._ports.steering,
            log_dropped=self._view.log_dropped(),
        )
        return document, status

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
            case "extend":
                self._notifier.extend(EXTEND_SECONDS)

    def _tell_settled(self) -> None:
        if self._settled is None:
            return
        settled, self._settled = self._settled, None
        settled(view.shortfall(self._config.name, self._supervisor.status(time.monotonic())))

    def _log(self, action: events.Log) -> None:
        text = f"{action.text}\n{action.trace}".rstrip()
        logger.log(getattr(logging, action.level.upper()), "%s", text)

    def _end(self, action: Exit) -> None:
        self._exit = action


def _clause(error: OSError | ValueError) -> str:
    """Return why the estate cannot be left. A ValueError: it cannot be written, which is a bug and costs nobody."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


PERFORM: Final[Mapping[type, Callable[[Master, Any], Event | None]]] = {
    events.Spawn: lambda master, action: master._crew.spawn(action),
    events.AddSlot: Master._add_slot,
    events.OpenSlot: lambda master, action: master._ports.open(action),
    events.CloseSlot: Master._close_slot,
    events.CloseSlots: lambda master, action: master._ports.close(),
    events.Tell: lambda master, action: master._crew.tell(action),
    events.Handover: lambda master, action: master._crew.hand_over(action),
    events.Signal: lambda master, action: master._crew.signal(action),
    events.Weigh: lambda master, action: master._ports.weigh(action),
    events.Adopt: Master._adopt,
    events.ReopenLog: Master._reopen_log,
    events.Rehearse: Master._rehearse,
    events.Succeed: Master._succeed,
    events.Progress: Master._progress,
    events.Answer: Master._answer,
    events.ShowStatus: Master._show_status,
    events.Notify: Master._notify,
    events.Log: Master._log,
    events.Exit: Master._end,
}
"""The one method that performs each kind of action; an event that it returns is handled next."""
