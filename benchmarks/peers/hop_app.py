"""What the hop benchmark asks wsworker for: when a message was published, and what publishing costs.

A client says what it wants: "where", "listen", "tell", "nobody" and a number, or "storm" and a number.
"""

from __future__ import annotations

import asyncio
from time import monotonic, monotonic_ns, process_time
from typing import Final

from wsworker import Connection, Worker

MESSAGE: Final = "x" * 200
AT_ONCE: Final = 100
# of bus.peer_queue, which is larger: nothing may be dropped
QUEUED_BYTES: Final = 1024 * 1024
TASKS: set[asyncio.Task[None]] = set()


def on_message(connection: Connection, data: str) -> None:
    """Do what a client wants."""
    worker = connection.worker
    what, _, number = data.partition(" ")
    if what == "where":
        connection.send(str(worker.slot))
    elif what == "listen":
        connection.subscribe("hop")
        connection.send("listening")
    elif what == "tell":
        worker.publish("hop", str(monotonic_ns()))
    elif what == "nobody":
        began_at = process_time()
        for _ in range(int(number)):
            worker.publish("nobody", MESSAGE)
        connection.send(str(process_time() - began_at))
    elif what == "storm":
        task = asyncio.get_running_loop().create_task(storm(connection, int(number)))
        TASKS.add(task)
        task.add_done_callback(TASKS.discard)


async def storm(connection: Connection, count: int) -> None:
    """Publish as fast as the broker takes it; answer with seconds, seconds of CPU, and how many were dropped."""
    worker = connection.worker
    dropped_before, began_at, cpu_began_at = dropped(worker), monotonic(), process_time()
    for _ in range(count // AT_ONCE):
        for _ in range(AT_ONCE):
            worker.publish("nobody", MESSAGE)
        await asyncio.sleep(0)
        while queued(worker) > QUEUED_BYTES:
            await asyncio.sleep(0.001)
    while queued(worker):
        await asyncio.sleep(0.001)
    lost = dropped(worker) - dropped_before
    connection.send(f"{monotonic() - began_at} {process_time() - cpu_began_at} {lost}")


# Users are not told how much waits, since publish never waits. Here it has to be known, or most would be dropped.
def queued(worker: Worker) -> int:
    """Return how much waits to be written to the broker."""
    return sum(stats.queued_bytes for stats, _ in worker._hub.post.exchange.count().values())


def dropped(worker: Worker) -> int:
    """Return how many messages were dropped."""
    return sum(sum(stats.dropped.values()) for stats, _ in worker._hub.post.exchange.count().values())
