"""Chaos: random faults, one after the other, on a daemon with four workers, under a crowd that never stops talking.

200 clients are connected all the time and each sends something every few hundred milliseconds; every answer is checked.
Beside them, clients connect, talk and leave without a pause. The crowd knows by the answers which worker a client is
connected to, so that a client that loses its connection without a goodbye can be held against the worker: it may lose
it only if that very worker was killed.

The faults are the methods of Chaos whose names begin with "fault_". They are drawn like cards, so that each comes once
before any comes twice. After each, the service must be whole again in time. The order comes from a seed, which is
printed: WSWORKER_CHAOS_SEED gives it back, WSWORKER_CHAOS_SECONDS says how long it goes on.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.system.clients import ConnectLoop
from tests.system.conftest import MakeDaemon
from tests.system.crowd import Crowd
from tests.system.daemon import WHO, Daemon, eventually
from tests.system.faults.mischief import lift, limit, serving

SEED: Final = int(os.environ.get("WSWORKER_CHAOS_SEED") or random.randrange(10**6))
SECONDS: Final = float(os.environ.get("WSWORKER_CHAOS_SECONDS") or 60)

WORKERS: Final = 4
CLIENTS: Final = 200
HEALED_SECONDS: Final = 20.0
MASTER_GROWTH_BYTES: Final = 8 * 1024**2
"""What the master may grow after it has seen some faults; one leaked object for each client would be more."""

BROKEN: Final = ("import no_such_module\n", "def on_message(connection, data)\n", "raise RuntimeError('not today')\n")

Fault = Callable[[], str]


class Journal:
    """What was done and when, for whoever has to understand a failure."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()

    def note(self, text: str) -> None:
        """Print a line; pytest shows it when the test fails."""
        print(f"{time.monotonic() - self._began_at:7.1f} s  {text}", flush=True)


class Chaos:
    """The faults, on one daemon. draw: the seeded source of all that is random here.

    wanted: how many workers there must be once a fault is over; victims: pids of the workers that were killed.
    """

    def __init__(self, daemon: Daemon, draw: random.Random) -> None:
        self.daemon = daemon
        self.draw = draw
        self.wanted = WORKERS
        self.victims: set[int] = set()
        self._loop: ConnectLoop | None = None

    def faults(self) -> Iterator[tuple[str, Fault]]:
        """Yield faults for ever, name and method: all of them in a random order, then all of them in another one."""
        names = sorted(name for name in dir(self) if name.startswith("fault_"))
        while True:
            for name in self.draw.sample(names, len(names)):
                yield name.removeprefix("fault_"), getattr(self, name)

    def suffer(self, fault: Fault) -> str:
        """Do one fault under constant connects, wait until the service is whole again, and return what it did."""
        with ConnectLoop(self.daemon) as self._loop:
            done = fault()
            self.heal()
            served = self._loop.echoed
            eventually(lambda: self._loop and self._loop.echoed > served + 20, "clients after the fault")
        self._loop.check()
        return f"{done}; {self._loop.echoed} clients came, {self._loop.told_to_go} were told to come again"

    def heal(self) -> None:
        """Wait until there are as many workers as there should be, and no other."""
        self.wait(
            lambda status: (
                status["state"] == "running"
                and len(status["workers"]) == self.wanted
                and [row["state"] for row in status["workers"]] == ["ready"] * self.wanted
            )
        )

    def wait(self, fact: Callable[[Mapping[str, Any]], object]) -> None:
        """Wait until a fact holds of the status document."""
        self.daemon.wait_status(fact, HEALED_SECONDS)

    def one_worker(self) -> int:
        """Return the pid of a worker that chance has chosen."""
        return self.draw.choice([*serving(self.daemon.status()).values()])

    def is_gone(self, *pids: int) -> Callable[[Mapping[str, Any]], bool]:
        """Return a fact for wait: none of these workers lives."""
        return lambda status: not {*pids} & {row["pid"] for row in status["workers"]}

    @contextmanager
    def nobody_arrives(self) -> Iterator[None]:
        """Keep clients from connecting: those in a handshake with a worker that is killed cannot know whose they were.

        The crowd as a whole is connected whenever a fault begins.
        """
        assert self._loop is not None
        with self._loop.between_clients():
            yield

    def reload(self) -> None:
        """Have new workers in all slots."""
        reloaded = self.daemon.cli("reload", seconds=60)
        assert 0 == reloaded.code, reloaded.err

    # The faults; each returns what it did

    def fault_kill(self) -> str:
        """SIGKILL of a worker."""
        pid = self.one_worker()
        self.victims.add(pid)
        with self.nobody_arrives():
            os.kill(pid, signal.SIGKILL)
        self.wait(self.is_gone(pid))
        return f"killed {pid}"

    def fault_stand_still(self) -> str:
        """SIGSTOP of a worker, until the master has noticed; then it goes on as if nothing had been."""
        pid = self.one_worker()
        os.kill(pid, signal.SIGSTOP)
        try:
            self.wait(lambda status: pid not in ready(status))
        finally:
            os.kill(pid, signal.SIGCONT)
        self.wait(lambda status: pid in ready(status))
        return f"stopped and continued {pid}"

    def fault_reload(self) -> str:
        """A reload of good code."""
        before = serving(self.daemon.status())
        self.daemon.write_app(WHO)
        self.reload()
        self.wait(self.is_gone(*before.values()))
        return "reloaded"

    def fault_broken_reload(self) -> str:
        """A reload of code that does not start; no worker is touched."""
        before = serving(self.daemon.status())
        self.daemon.write_app(self.draw.choice(BROKEN))
        refused = self.daemon.cli("reload", seconds=60)
        self.daemon.write_app(WHO)
        assert 1 == refused.code, refused
        assert before == serving(self.daemon.status())
        return "was refused a reload"

    def fault_scale(self) -> str:
        """A few workers more, then as many fewer."""
        more = self.draw.randint(1, 3)
        for number, step in ((signal.SIGTTIN, 1), (signal.SIGTTOU, -1)):
            for _ in range(more):
                self.daemon.signal(number)
                self.wanted += step
                wanted = self.wanted
                self.wait(lambda status, wanted=wanted: status["workers_configured"] == wanted)  # type: ignore[misc]
            self.heal()
        return f"scaled by {more}, up and down"

    def fault_replace(self) -> str:
        """TERM to a worker from outside."""
        pid = self.one_worker()
        os.kill(pid, signal.SIGTERM)
        self.wait(self.is_gone(pid))
        return f"replaced {pid}"

    def fault_age(self) -> str:
        """Workers that become too old all at once; none is replaced any more after the limit is gone."""
        self.daemon.write_config(max_worker_age="2s")
        self.reload()
        old = serving(self.daemon.status())
        self.wait(self.is_gone(*old.values()))
        self.daemon.write_config(max_worker_age=0)
        self.reload()
        return f"recycled {[*old.values()]}"

    def fault_full_disk(self) -> str:
        """A log that cannot be written, while workers come and go."""
        for pid in self.daemon.processes():
            limit(pid, resource.RLIMIT_FSIZE, 0)
        try:
            self.reload()
        finally:
            # first the master, of which those that are forked meanwhile have the limit
            lift(self.daemon.master, resource.RLIMIT_FSIZE)
            for pid in self.daemon.processes():
                lift(pid, resource.RLIMIT_FSIZE)
        assert self.daemon.status()["totals"]["log_dropped"] > 0
        return "reloaded on a full disk"


def ready(status: Mapping[str, Any]) -> set[int]:
    """Return the pids of the workers that are ready and heard of."""
    return {row["pid"] for row in status["workers"] if row["state"] == "ready"}


class Size:
    """How big the master is: descriptors, threads, resident memory in bytes."""

    def __init__(self, pid: int) -> None:
        self.descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        self.threads = len(os.listdir(f"/proc/{pid}/task"))
        self.rss = psutil.Process(pid).memory_info().rss

    def __repr__(self) -> str:
        return f"{self.descriptors} descriptors, {self.threads} threads, {self.rss / 1024**2:.1f} MiB"

    def within(self, before: Size) -> bool:
        """Whether it is no bigger than it was, as far as that can be told; what a caller just used may count."""
        return (
            self.descriptors <= before.descriptors
            and self.threads <= before.threads
            and self.rss <= before.rss + MASTER_GROWTH_BYTES
        )


@pytest.mark.timeout(SECONDS * 2 + 120)
def test_chaos(make_daemon: MakeDaemon) -> None:
    """Whatever happens to the service, only clients of a killed worker notice, and it is whole again in time."""
    journal = Journal()
    journal.note(f"seed {SEED}, {SECONDS:g} s")
    daemon = make_daemon(
        WHO,
        workers=WORKERS,
        drain_window="1s",
        graceful_timeout="10s",
        # so a client knows which worker it was lost with; hand-overs among faults are those of handover/test_stress.py
        reload_strategy="drain",
        log={"file": "log.txt"},
    ).start()
    master = daemon.master
    chaos = Chaos(daemon, random.Random(SEED))
    threads = threading.active_count()
    before: Size | None = None
    with Crowd(daemon.port, CLIENTS) as crowd:
        eventually(crowd.is_whole, "the whole crowd is connected", 30)
        end_at = time.monotonic() + SECONDS
        for number, (name, fault) in enumerate(chaos.faults()):
            if time.monotonic() > end_at:
                break
            journal.note(f"{name}: {chaos.suffer(fault)}")
            eventually(crowd.is_whole, "the whole crowd is connected again", 30)
            crowd.check(chaos.victims)
            assert master == daemon.master
            if number == 2:
                # it has seen a bit of everything that makes a process grow once
                before = Size(master)
                journal.note(f"the master: {before}")
        echoes = crowd.echoes
        eventually(lambda: crowd.echoes > echoes + CLIENTS, "echoes after all")
    crowd.check(chaos.victims)
    journal.note(f"{crowd}")

    assert before is not None, f"{SECONDS} s are not enough for three faults"
    journal.note(f"the master: {Size(master)}")
    eventually(lambda: Size(master).within(before), f"the master is as before: {before}")
    assert 1 == Size(master).threads
    assert 0 == daemon.cli("stop").code
    assert 0 == daemon.wait_exit()
    assert {} == daemon.processes()
    assert threads == threading.active_count()
    assert "Traceback" not in without_broken_code(daemon.folder / "log.txt")


def without_broken_code(log: Path) -> str:
    """Return the log without what the broken code of this file has to say: its tracebacks are the user's."""
    text = log.read_text(errors="replace")
    return "\n".join(block for block in text.split("\n20") if 'app.py", line' not in block and "app.py:" not in block)
