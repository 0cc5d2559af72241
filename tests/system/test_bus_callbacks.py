"""What a module publishes in a callback of its own: when its worker starts, when it stops, and when it hears of a gap.

And a service of as many workers as a large machine has CPUs, each of which is linked with each other.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from tests.bus.redis import servers
from tests.system.daemon import Daemon, eventually
from tests.system.puppets import APP, heard_until, one_in_each, say, until_heard

TALKATIVE = (
    APP
    + """
def on_worker_start(worker):
    worker.publish("news", f"{worker.id} starts")

def on_worker_stop(worker):
    worker.publish("news", f"{worker.id} stops")

def on_bus_gap(worker, topics):
    worker.publish("news", f"{worker.id} reloads")
"""
)

RESTLESS = (
    APP
    + """
import asyncio

async def talk(worker):
    while True:
        worker.publish("news", "and on")
        await asyncio.sleep(0.001)

def on_worker_start(worker):
    global talking
    talking = asyncio.get_running_loop().create_task(talk(worker))
"""
)
"""A task publishes for as long as there is a loop; nobody ends it."""

MANY = 32


def ids(daemon: Daemon) -> dict[int, int]:
    """Return the id of each slot's worker."""
    return {row["slot"]: row["id"] for row in daemon.status()["workers"]}


def test_what_is_published_in_callbacks() -> None:
    """It reaches the other workers; what is published because of a gap is no gap, so nobody goes round in a circle."""
    with Daemon(TALKATIVE, workers=2) as daemon, ExitStack() as stack:
        daemon.start()
        clients = one_in_each(daemon, stack, 2)
        reader = clients[1]
        say(reader, "sub news")
        until_heard(clients[2], [reader], "news")
        before = ids(daemon)
        os.kill(daemon.workers[1], signal.SIGKILL)
        after = eventually(lambda: found if (found := ids(daemon)).get(2, before[2]) != before[2] else None)
        assert after is not None
        said = heard_until(reader, f"{after[2]} starts")
        # of the death the survivor is told, and nobody else was there
        while f"{before[1]} reloads" not in said:
            said.append(str(reader.recv(10)))
        # its word comes before it is ready, and one that is not ready yet goes without another
        daemon.wait_status(lambda status: status["workers_ready"] == 2)
        daemon.signal(signal.SIGTTOU)
        said += heard_until(reader, f"{after[2]} stops")
        assert [f"{before[1]} reloads"] == said


def test_what_is_published_in_callbacks_at_a_broker() -> None:
    """It reaches the other service too: at its start, at its stop, and when the broker has come back."""
    with (
        servers.valkey() as valkey,
        Daemon(TALKATIVE, workers=1, bus={"url": str(valkey.url)}) as one,
        Daemon(TALKATIVE, workers=1, bus={"url": str(valkey.url)}) as other,
        one.start().connect() as reader,
    ):
        say(reader, "sub news")
        other.start()
        assert "1 starts" == reader.recv(10)
        valkey.kill()
        for service in (one, other):
            service.wait_log("is out of reach")
        valkey.start()
        for service in (one, other):
            # by the log: the status may show for a second what was before
            eventually(lambda service=service: service.log.count("linked with") >= 2, "linked again")  # type: ignore[misc]
        assert 0 == other.cli("stop").code
        # its own worker's word, and that of the other one if it was heard again by then; each is told once or twice
        said = heard_until(reader, "1 stops")
        assert {"1 reloads"} == {*said}
        assert len(said) <= 4


def test_a_task_that_never_ends() -> None:
    """What it says when its worker has ended goes nowhere, which the log tells; nobody elsewhere is told of a loss."""
    with (
        servers.valkey() as valkey,
        Daemon(RESTLESS, workers=2, bus={"url": str(valkey.url)}) as one,
        Daemon(APP, workers=1, bus={"url": str(valkey.url)}) as other,
    ):
        one.start()
        with other.start().connect() as reader:
            say(reader, "sub news")
            for number in range(1, 4):
                assert "and on" == reader.recv(10)
                assert 0 == one.cli("reload").code
                one.wait_status(lambda status, number=number: status["reloads"] == number)  # type: ignore[misc]
            assert 0 == one.cli("stop").code
            assert "what was published after on_worker_stop went nowhere" in one.log
            assert 0 == other.status()["totals"]["bus_gaps"]
            assert "messages of this one are missing" not in one.log


def test_very_many_workers() -> None:
    """Each is linked with each other, hears what any of them publishes, and hears of it when one has died."""
    with Daemon(APP, workers=MANY) as daemon, ExitStack() as stack:
        daemon.launch()
        # many imports, on few CPUs
        daemon.wait_status(lambda status: status["state"] == "running", 60)
        daemon.wait_status(lambda status: all(row["bus_links"] == MANY - 1 for row in status["workers"]))
        clients = one_in_each(daemon, stack, MANY)
        readers = [clients[slot] for slot in range(2, MANY + 1)]
        for reader in readers:
            say(reader, "sub news")
        until_heard(clients[1], readers, "news")
        clients[1].send("pub news all")
        assert [[]] * len(readers) == [heard_until(reader, "all") for reader in readers]
        os.kill(daemon.workers[0], signal.SIGKILL)
        assert ["gap news"] * len(readers) == [reader.recv(20) for reader in readers]
        daemon.wait_status(lambda status: all(row["bus_links"] == MANY - 1 for row in status["workers"]))
