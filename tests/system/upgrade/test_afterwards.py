"""After an upgrade all goes on as before it: signals, commands, deaths, files, listeners, and the next upgrade."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect, unix_connect

from tests.bus.redis import servers
from tests.certificates import HOST, Authority
from tests.ports import free_port
from tests.system.daemon import eventually
from tests.system.faults.test_master import check_port_and_lock_are_free
from tests.system.rooms import Chat, Party
from tests.system.upgrade.conftest import MakeReleased
from tests.system.upgrade.releases import NEW, OLD, WHICH, Released, release_of

PROGRAM = """
import subprocess

def on_message(connection, data):
    connection.send(subprocess.run(data.split(), close_fds=False, capture_output=True, text=True).stdout)
"""
"""Starts a program that inherits all that the worker does not keep to itself, and answers with what it says."""

NUMBERS = 12
"""What each guest says."""


@pytest.mark.parametrize("how", ["stop", "quick", "TERM", "INT"])
def test_a_stop_afterwards(make_released: MakeReleased, how: str) -> None:
    """`stop`, TERM and Ctrl-C end it in good order, and nothing is left: no process, no socket, no pid file."""
    daemon = make_released(WHICH, workers=2, pidfile="own.pid").start()
    own = daemon.folder / "own.pid"
    daemon.upgraded()
    assert daemon.master == int(own.read_text())
    with daemon.connect() as client:
        assert NEW == release_of(client)
        if how in ("stop", "quick"):
            outcome = daemon.cli("stop", *(["--quick"] if how == "quick" else []))
            assert 0 == outcome.code, outcome
        else:
            # as a terminal sends it: to the workers as well
            number = signal.Signals[f"SIG{how}"]
            os.killpg(daemon.master, number) if how == "INT" else daemon.signal(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
    assert closed.value.rcvd is not None
    assert 1001 == closed.value.rcvd.code
    assert 0 == daemon.wait_exit()
    daemon.wait_gone()
    assert [f"{daemon.name}.lock"] == sorted(os.listdir(daemon.run_dir))
    assert not own.exists()
    check_port_and_lock_are_free(daemon)


def test_life_goes_on(make_released: MakeReleased) -> None:
    """TTIN, TTOU, a death, USR1, a reload and another upgrade; then the master is killed, and its workers with it."""
    daemon = make_released(WHICH, workers=2, log={"file": "service.log"})
    log = daemon.folder / "service.log"
    daemon.start()
    master = daemon.master
    daemon.upgraded()

    daemon.signal(signal.SIGTTIN)
    daemon.wait_status(lambda status: status["workers_ready"] == 3 == len(status["workers"]))
    daemon.signal(signal.SIGTTOU)
    daemon.wait_status(lambda status: status["workers_ready"] == 2 == len(status["workers"]))

    dead, lives = daemon.workers
    with daemon.connect_to(lives) as client:
        os.kill(dead, signal.SIGKILL)
        daemon.wait_status(lambda status: status["workers_ready"] == 2 and dead not in daemon.workers)
        client.send("who")
        assert str(lives) == str(client.recv(10)).split()[0]
        status = daemon.status()
        assert (1, "SIGKILL") == (status["totals"]["restarts"], status["workers"][0]["last_exit"]["signal"])

        log.rename(daemon.folder / "service.log.1")
        daemon.signal(signal.SIGUSR1)
        eventually(lambda: log.exists() and "the log is reopened" in log.read_text(), "a new log")

        assert 0 == daemon.cli("reload").code
        assert NEW == release_of(client)
        daemon.wait_rested()
        daemon.upgraded("3.0.0")
        assert "3.0.0" == release_of(client)
        assert "wsworker 3.0.0 has taken over from 2.0.0" in log.read_text()
        assert master == daemon.master
        assert 1 == daemon.status()["totals"]["restarts"]

    daemon.signal(signal.SIGKILL)
    assert -9 == daemon.wait_exit()
    daemon.wait_gone()
    check_port_and_lock_are_free(daemon)
    # the next start is of what is installed, and finds its place free
    assert "3.0.0" == daemon.start().release()


def test_in_the_background(make_released: MakeReleased) -> None:
    """`start -d`: the same pid, the same log, no terminal; `status` finds it, and `stop` ends it."""
    daemon = make_released(WHICH, workers=2, log={"file": "service.log"}, pidfile="own.pid")
    started = daemon.cli("start", "-d")
    assert 0 == started.code, started
    master = daemon.master
    outputs = [os.readlink(f"/proc/{master}/fd/{number}") for number in range(3)]
    for version in (NEW, "3.0.0"):
        daemon.upgraded(version)
        assert version == daemon.release()
        assert (master, 0) == (daemon.master, daemon.cli("status").code)
        assert outputs == [os.readlink(f"/proc/{master}/fd/{number}") for number in range(3)]
        assert master == int((daemon.folder / "own.pid").read_text())
    assert 0 == daemon.cli("stop").code
    daemon.wait_gone()
    assert [f"{daemon.name}.lock"] == sorted(os.listdir(daemon.run_dir))
    assert not (daemon.folder / "own.pid").exists()


def test_how_it_was_started(make_released: MakeReleased) -> None:
    """Options of `start` hold on; and what needs a restart is as it was, whatever the configuration says by then."""
    daemon = make_released(WHICH, workers=1)
    daemon.start("-w", "2", "--log-level", "debug")
    daemon.signal(signal.SIGTTIN)
    daemon.wait_status(lambda status: status["workers_ready"] == 3)
    daemon.write_config(workers=1, listen=f"127.0.0.1:{free_port()}", admin={"listen": f"127.0.0.1:{free_port()}"})
    with daemon.connect() as client:
        for version in (NEW, "3.0.0"):
            # another wish is accepted before, and it is still the first one that counts
            assert 0 == daemon.cli("reload").code
            daemon.wait_rested()
            document = daemon.upgraded(version)
            assert ["listen", "admin.listen"] == document["restart_needed"]
            status = daemon.wait_rested()
            assert [f"ws://127.0.0.1:{daemon.port}"] == status["listen"]
            assert version == release_of(client) == daemon.release()
    assert "DEBUG" in daemon.log.rpartition("has taken over")[2]


def test_descriptors(make_released: MakeReleased) -> None:
    """After five upgrades the master has open what it had at first, and no program of the user inherits any of it."""
    daemon = make_released(PROGRAM, workers=2, admin={"listen": "unix:admin.sock"}).start()
    daemon.wait_rested()
    opened, inherited = daemon.open_in_master(), daemon.echo("ls /proc/self/fd")
    of_workers = open_in_workers(daemon)
    for version in (NEW, OLD, NEW, OLD, NEW):
        daemon.upgraded(version)
        daemon.wait_rested()
        eventually(lambda: opened == daemon.open_in_master(), "what was open before")
        assert inherited == daemon.echo("ls /proc/self/fd")
        eventually(lambda: of_workers == open_in_workers(daemon), "what workers had before")
    daemon.check_closed_on_exec()


def open_in_workers(daemon: Released) -> list[int]:
    """Return how many descriptors the workers have open; which one has dialled another is a matter of chance."""
    return sorted(len(os.listdir(f"/proc/{pid}/fd")) for pid in daemon.workers)


def test_a_unix_socket(make_released: MakeReleased) -> None:
    """Its file stays the same one all the time, clients move, new ones come, and a stop removes it."""
    daemon = make_released(WHICH, workers=2)
    file = daemon.folder / "clients.sock"
    daemon.write_config(listen=f"unix:{file}")
    daemon.start()
    inode = file.stat().st_ino
    with unix_connect(str(file), "ws://service/") as client:
        assert OLD == release_of(client)
        for version in (NEW, "3.0.0"):
            daemon.upgraded(version)
            assert version == release_of(client)
            with unix_connect(str(file), "ws://service/") as other:
                assert version == release_of(other)
        assert inode == file.stat().st_ino
    assert 0 == daemon.cli("stop").code
    assert not file.exists()


def test_tls(make_released: MakeReleased, tmp_path: Path) -> None:
    """Connections with TLS cannot move: they get 1012; new ones are served with the same certificate."""
    authority = Authority(tmp_path)
    daemon = make_released(WHICH, workers=2, drain_window=0, tls=authority.issue(HOST).settings).start()

    def client() -> ClientConnection:
        return connect(f"wss://{HOST}:{daemon.port}/", ssl=authority.client(), open_timeout=10, proxy=None)

    with client() as before:
        assert OLD == release_of(before)
        document = daemon.upgraded()
        with pytest.raises(ConnectionClosed) as closed:
            before.recv(10)
        assert closed.value.rcvd is not None
        assert 1012 == closed.value.rcvd.code
        assert (0, 1) == (document["moved"], document["asked"])
    with client() as after:
        assert NEW == release_of(after)


class ReleasedChat(Released, Chat):
    """The chat example, to be upgraded."""


@pytest.mark.timeout(120)
def test_a_broker(tmp_path: Path) -> None:
    """Two services on one Redis, of which one is upgraded: nothing that is said in either is lost."""
    with (
        servers.valkey() as valkey,
        ReleasedChat(2, valkey.url) as one,
        Chat(2, valkey.url) as other,
    ):
        asyncio.run(_upgraded(one, other))
        for service in (one, other):
            assert "may be missing" not in service.log


async def _upgraded(one: ReleasedChat, other: Chat) -> None:
    async with Party((one.start(), other.start()), guests=100) as party:
        talking = asyncio.create_task(party.talk(NUMBERS))
        document = await asyncio.to_thread(one.upgraded)
        assert not talking.done(), "it was talked meanwhile"
        await talking
        await party.settle()
        assert 100 * NUMBERS == party.said()
        assert [] == party.lost()
        assert 0 == party.gaps()
        assert set() == party.left()
    assert (50, {}) == (document["moved"], document["drained"])
