"""Bad moments: a signal, a death or a caller that leaves while an upgrade is under way.

The release that takes over waits where a test wants it to: in its rehearsal, or when it has been executed and knows
nothing yet. A stop has its way whenever it comes; all else finds the service in good order.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

import pytest
from websockets.exceptions import ConnectionClosed

from tests.system.daemon import eventually
from tests.system.faults.mischief import call, ended
from tests.system.faults.test_master import check_port_and_lock_are_free
from tests.system.upgrade.conftest import MakeReleased
from tests.system.upgrade.releases import NEW, OLD, WHICH, Released, release_of, waits
from tests.system.upgrade.test_refused import ask_bare, told
from wsworker.wire import Command, encode

BOTH = ("rehearsal", "takeover")
HARMLESS = (signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGPIPE)


@pytest.mark.parametrize("where", BOTH)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_in_the_middle_of_it(make_released: MakeReleased, where: str, number: signal.Signals) -> None:
    """TERM, INT and QUIT stop it in good order: clients get 1001, the caller is told, and nothing is left."""
    daemon = make_released(WHICH, workers=2).start()
    master = daemon.master
    daemon.install(NEW, waits(where))
    with daemon.connect() as client, ask_bare(daemon, "upgrade") as caller:
        with daemon.hold(where):
            daemon.wait_held(where)
            os.kill(master, number)
            if where == "rehearsal":
                # whose end it does not wait for
                assert 0 == daemon.wait_exit()
                daemon.wait_gone()
        assert 0 == daemon.wait_exit()
        daemon.wait_gone()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
        assert closed.value.rcvd is not None
        assert 1001 == closed.value.rcvd.code
        result = told(caller)[-1].body
        if where == "rehearsal":
            assert "not upgraded, and nothing has changed: the service stops" == result["error"]["message"]
        else:
            assert "stopping" == result["result"]
    assert [f"{daemon.name}.lock"] == sorted(os.listdir(daemon.run_dir))
    check_port_and_lock_are_free(daemon)


@pytest.mark.parametrize("where", BOTH)
def test_a_storm_of_signals(make_released: MakeReleased, where: str) -> None:
    """HUP, CHLD, USR1, USR2 and others come all the time: the service goes on, its client too, and TERM stops it."""
    daemon = make_released(WHICH, workers=2).start()
    master = daemon.master
    daemon.install(NEW, waits(where))
    over = threading.Event()

    def storm() -> None:
        while not over.wait(0.002):
            for number in HARMLESS:
                os.kill(master, number)

    thread = threading.Thread(target=storm)
    with daemon.connect() as client:
        with daemon.hold(where):
            daemon.signal(signal.SIGUSR2)
            daemon.wait_held(where)
            thread.start()
            # as many as come until the loop of a master, or of the one before it, has seen some
            over.wait(0.5)
        over.wait(0.5)
        over.set()
        thread.join()
        daemon.wait_rested()
        assert (master, True) == (daemon.master, release_of(client) in (OLD, NEW))
        if where == "takeover":
            assert NEW == daemon.status()["version"] == release_of(client)
    daemon.signal(signal.SIGTERM)
    assert 0 == daemon.wait_exit()


@pytest.mark.parametrize("where", BOTH)
def test_a_worker_dies(make_released: MakeReleased, where: str) -> None:
    """A worker is killed: it is replaced and counted, and clients of the other one go on, upgraded or not."""
    daemon = make_released(WHICH, workers=2).start()
    daemon.install(NEW, waits(where))
    dead, lives = daemon.workers
    with daemon.connect_to(lives) as client, ask_bare(daemon, "upgrade") as caller:
        with daemon.hold(where):
            daemon.wait_held(where)
            os.kill(dead, signal.SIGKILL)
            eventually(lambda: ended(dead), "its end")
            if where == "rehearsal":
                daemon.wait_rested()
        assert "ok" == told(caller)[-1].body["result"]
        status = daemon.wait_rested()
        assert NEW == status["version"] == release_of(client)
        # when it has taken over, it is the reload by which the dead one has a successor
        assert (where == "rehearsal") == status["totals"]["restarts"]
        assert "SIGKILL" == status["workers"][0]["last_exit"]["signal"]
    # nobody is left unreaped
    assert not [pid for pid in (dead, lives) if os.path.exists(f"/proc/{pid}")]


@pytest.mark.parametrize("where", BOTH)
def test_the_caller_leaves(make_released: MakeReleased, where: str) -> None:
    """Who has asked is gone: the upgrade goes on, and others are answered."""
    daemon = make_released(WHICH, workers=2).start()
    daemon.install(NEW, waits(where))
    with daemon.hold(where):
        ask_bare(daemon, "upgrade").close()
        daemon.wait_held(where)
        # asked of the one and answered by the other
        waiting = ask_bare(daemon, "status")
    (answer,) = told(waiting)
    assert (OLD if where == "rehearsal" else NEW) == answer.body["version"]
    daemon.wait_status(lambda status: status["version"] == NEW and status["generation"] == 2)
    daemon.wait_rested()
    assert NEW == daemon.release()


@pytest.mark.parametrize("where", BOTH)
def test_the_master_is_killed_in_the_middle_of_it(make_released: MakeReleased, where: str) -> None:
    """SIGKILL in the middle: no worker and no rehearsal outlives it, and the next start finds its place free."""
    daemon = make_released(WHICH, workers=2).start()
    daemon.install(NEW, waits(where))
    master = daemon.master
    with ask_bare(daemon, "upgrade") as caller:
        with daemon.hold(where):
            daemon.wait_held(where)
            os.kill(master, signal.SIGKILL)
            assert -9 == daemon.wait_exit()
        assert [] == told(caller)
    daemon.wait_gone()
    check_port_and_lock_are_free(daemon)
    daemon.start()
    assert NEW == daemon.release()


def test_callers_in_the_middle(make_released: MakeReleased) -> None:
    """Who has said half a command completes it, and who has asked nothing yet asks, when another has taken over."""
    daemon = make_released(WHICH, workers=2).start()
    daemon.install(NEW, waits("takeover"))
    whole = encode(Command("status"))
    with call(daemon) as half, call(daemon) as silent, ask_bare(daemon, "upgrade") as caller:
        half.sendall(whole[:9])
        with daemon.hold("takeover"):
            daemon.wait_held("takeover")
        for sock, rest in ((half, whole[9:]), (silent, whole)):
            sock.sendall(rest)
            (answer,) = told(sock)
            assert NEW == answer.body["version"]
        assert "ok" == told(caller)[-1].body["result"]


LOADED = "import pathlib, sys; pathlib.Path('loaded-NAME').write_text(' '.join(sys.modules))\n"
SAYS = '    click.echo(json.dumps({"version": version()}))\n'


def test_what_takes_over_has_been_loaded_in_the_rehearsal(make_released: MakeReleased) -> None:
    """So whatever of it cannot be loaded is found while there is still a way back."""
    inherit = "        self._inventory.inherit(left)\n"
    daemon = make_released(WHICH).start()
    daemon.upgraded(
        NEW,
        {
            "cli/takeover.py": (SAYS, f"{SAYS}    {LOADED.replace('NAME', 'rehearsal')}"),
            "master/main.py": (inherit, f"{inherit}        {LOADED.replace('NAME', 'takeover')}"),
        },
    )
    rehearsed, needed = ({*(daemon.folder / f"loaded-{name}").read_text().split()} for name in BOTH)
    assert "wsworker.worker.main" in needed
    assert set() == needed - rehearsed


class Scripted(Released):
    """A service that is started by `python SCRIPT start`."""

    def __init__(self) -> None:
        super().__init__(WHICH)
        (self.folder / "ws").write_text("from wsworker.__main__ import main\nmain()\n")

    def _command(self, command: str, *arguments: str) -> Sequence[str]:
        others = super()._command(command, *arguments)
        return [sys.executable, "ws", command, "-c", self.config.name] if command == "start" else others


def test_the_script_goes_between_rehearsal_and_takeover() -> None:
    """It is not executed then, and nothing has changed; with the script back it takes over."""
    with Scripted() as daemon:
        daemon.start()
        edits = (SAYS, f"    os.rename('ws', 'away')\n{SAYS}")
        daemon.install(NEW, {"cli/takeover.py": edits})
        (result,) = told(ask_bare(daemon, "upgrade"))
        script = "ws cannot be read any more; install it again"
        assert f"not upgraded, and nothing has changed: {script}" == result.body["error"]["message"]
        assert OLD == daemon.status()["version"] == daemon.release()
        (daemon.folder / "away").rename(daemon.folder / "ws")
        daemon.upgraded(NEW, {})


def test_it_breaks_once_it_has_taken_over(make_released: MakeReleased) -> None:
    """There is no way back then: the service ends, loudly and whole, and the next start finds its place free."""
    daemon = make_released(WHICH, workers=2).start()
    inherit = "        self._inventory.inherit(left)\n"
    daemon.install(NEW, {"master/main.py": (inherit, f"{inherit}        raise ValueError('not rehearsed')\n")})
    with daemon.connect() as client:
        outcome = daemon.upgrade()
        assert 1 == outcome.code, outcome
        assert "closed the connection without an answer; see its log" in outcome.err
        outcome.check_tone()
        assert 1 == daemon.wait_exit()
        daemon.wait_gone()
        assert "ValueError: not rehearsed" in daemon.log
        with pytest.raises(ConnectionClosed):
            client.recv(10)
    check_port_and_lock_are_free(daemon)
    daemon.install(OLD)
    assert OLD == daemon.start().release()
