"""The inventory: that nothing of a master is left out, and that another one goes on with all of it."""

from __future__ import annotations

import gc
import os
import selectors
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import in_child, polite, until
from tests.master.test_supervisor import Story
from tests.ports import free_port
from wsworker.config import Config, ListenAddress
from wsworker.configfile import Loaded
from wsworker.listeners import Group
from wsworker.master import events
from wsworker.master.admin import Admin
from wsworker.master.berths import Berths
from wsworker.master.cgroup import OomCounter
from wsworker.master.control import Control
from wsworker.master.crew import Crew
from wsworker.master.estate import Call, Estate, config_of, decode, descriptors, encode, facts_of
from wsworker.master.events import Event
from wsworker.master.inventory import SHARED, Inventory
from wsworker.master.ports import Ports
from wsworker.master.process import identity
from wsworker.master.signals import SignalCatcher
from wsworker.master.systemd import Notifier
from wsworker.master.view import Service as Shown
from wsworker.master.view import View
from wsworker.sections import AdminConfig
from wsworker.stats import Table

CALL = Call("/srv/hello/config.yaml", "config.yaml", {"workers": ("-w", "1")}, detached=True, follow=True)


class House:
    """All that a master has, with one worker that does nothing but what it is told."""

    def __init__(self, folder: Path, config: Config, table: int | None = None) -> None:
        self.fed: list[Event] = []
        self.selector = selectors.DefaultSelector()
        self.table = Table(2, table)
        shown = Shown(
            name="chat",
            pid=os.getpid(),
            version="0.1.0",
            config="config.yaml",
            listen=(),
            log="-",
            bus=None,
            began_at=17.5,
        )
        who = identity(config)
        self.ports = Ports([Group(each, 16, "") for each in config.listen], Notifier({}, os.getpid()))
        self.berths = Berths(folder / "bus", "node", who, None, self.table.members)
        self.admin = Admin(config.admin.listen, "", self.table)
        self.control = Control(folder / "sock", self.selector, lambda *_: None, time.monotonic)
        view = View(shown, self.table)
        self.crew = Crew(
            name="chat",
            node="node",
            selector=self.selector,
            table=self.table,
            feed=self.fed.append,
            identity=who,
            enter_worker=polite,
            leave=self.leave,
            sockets=self.ports.sockets,
            lendable=self.ports.lendable,
            rss=view.rss,
            oom=OomCounter(folder, folder / "none"),
            now=time.monotonic,
            changed=lambda *_: None,
            desk=lambda: self.admin.desk,
            berth=self.berths.berth,
        )
        self.inventory = Inventory(
            loaded=Loaded(config, Path("config.yaml"), "config.yaml", {}),
            call=CALL,
            service=Story(workers=1, app_dir="/srv").serve().supervisor.service,
            view=view,
            table=self.table,
            ports=self.ports,
            berths=self.berths,
            admin=self.admin,
            control=self.control,
            crew=self.crew,
            catcher=SignalCatcher(self.selector),
            folder=folder,
        )

    def open(self) -> None:
        """Open all of it, and have a worker that is ready."""
        self.ports.bind(1)
        self.ports.open(events.OpenSlot(1))
        self.berths.open(1)
        self.admin.open()
        self.control.open()
        self.crew.spawn(events.Spawn(1, 1, 1, self.inventory.service.config))
        self.until(lambda: events.WorkerReady(1) in self.fed)

    def leave(self, slot: int) -> None:
        """Close, in the worker, what is the master's."""
        self.selector.close()
        self.control.close()

    def until(self, condition: Any) -> None:
        """Let the loop turn until a condition holds."""

        def turned() -> object:
            for key, _ in self.selector.select(0):
                key.data()
            return condition()

        until(turned)

    def close(self) -> None:
        """End the worker, and close all."""
        self.crew.signal(events.Signal(1, "SIGKILL"))
        self.until(lambda: not self.crew.pids())
        self.control.finish()
        for part in (self.ports, self.berths, self.admin):
            part.close()
        self.selector.close()


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """Let go of the tables now, which hang in cycles: other tests count descriptors."""
    yield
    gc.collect()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path."""
    made = Path(tempfile.mkdtemp(prefix="ws"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def config() -> Config:
    """Give a configuration with all that can listen."""
    admin = AdminConfig(listen=ListenAddress("127.0.0.1", free_port(), ""))
    return Config(app="hello", name="chat", listen=(ListenAddress("127.0.0.1", free_port(), ""),), admin=admin)


@pytest.fixture
def house(folder: Path, config: Config) -> Iterator[House]:
    """Give one that is open."""
    made = House(folder, config)
    made.open()
    yield made
    made.close()


def kinds(estate: Estate) -> list[str]:
    """Return what the descriptors of an estate are."""
    names = [os.readlink(f"/proc/self/fd/{fd}").partition(":[")[0] for fd in descriptors(estate)]
    return sorted(name.removesuffix(" (deleted)") for name in names)


def test_all_that_outlives_the_program_is_left(house: House, folder: Path) -> None:
    """Facts, settings, how it was started, and a descriptor of each kind."""
    with socket.socket(socket.AF_UNIX) as caller, (folder / "lock").open("w") as lock:
        caller.connect(str(folder / "sock"))
        house.until(lambda: len(house.selector.get_map()) == 4)
        estate = house.inventory.bequeath(7, lock.fileno())
        assert (7, lock.fileno(), CALL, "0.1.0", SHARED, str(folder)) == (
            estate.reply,
            estate.lock,
            estate.call,
            estate.version,
            estate.layout,
            estate.folder,
        )
        service = house.inventory.service
        assert (facts_of(service), service.config) == (estate.facts, config_of(estate.settings))
        # the listener and the admin socket, the berth, the control socket, its caller, the channel
        assert [
            *["/memfd:wsworker-board", "/memfd:wsworker-table", "/memfd:wsworker-words"],
            *[str(folder / "bus"), str(folder / "lock"), "anon_inode"],
            *["socket"] * 6,
        ] == kinds(estate)
        assert estate == decode(encode(estate), SHARED)


def test_another_program_goes_on_with_all_of_it(house: House, folder: Path, config: Config) -> None:
    """Clients, commands, the worker, its counters: all are found, and nothing would be inherited by a third program."""
    house.table.seat(1, 1).count_connections(5, False)
    with (folder / "lock").open("w") as lock:
        estate = house.inventory.bequeath(None, lock.fileno())
        data = encode(estate)

        def heir() -> list[Any]:
            # as behind an execve: the same numbers, and no other object that knows of them
            left = decode(data, SHARED)
            for fd in descriptors(left):
                os.set_inheritable(fd, True)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
            other = House(folder, config, left.table)
            other.inventory.inherit(left)
            inherited = [fd for fd in descriptors(left) if os.get_inheritable(fd) and fd != left.lock]
            reading = other.table.read(1, 1)
            blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            with socket.create_connection((config.listen[0].host, config.listen[0].port), 30):
                accepted = other.ports.sockets(1)[0].accept()[0]
                accepted.close()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(folder / "bus" / "1.sock"))
            return [
                inherited,
                reading.connections if reading else None,
                dict(other.crew.pids()) == {1: house.crew.pids()[1]},
                other.control.is_there(),
                other.admin.url == house.admin.url,
                blocked,
                other.inventory.bequeath(None, left.lock) == left,
            ]

        assert [[], 5, True, True, True, [], True] == in_child(heir)


def test_a_worker_in_the_way_is_an_error(house: House, folder: Path) -> None:
    """It reads no orders, and half of one cannot be left."""
    (pid,) = house.crew.pids().values()
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    with (folder / "log").open("ab") as log:
        for _ in range(400):
            house.crew.hand_log("-", log.fileno())
    with pytest.raises(OSError, match="worker 1 reads no orders now; try again"):
        house.inventory.bequeath(7, 0)
