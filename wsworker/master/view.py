"""What `status` answers: the supervisor's view joined with what the processes and the shared table show.

The supervisor knows states and times on CLOCK_MONOTONIC, the table knows counters, psutil knows memory and CPU.
Nothing is asked of a worker, so a hung one is shown like any other. Sizes are bytes, times seconds; wall-clock time
appears only where a person wants a date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from wsworker.stats import Counters, Table


@dataclass(frozen=True, slots=True)
class Service:
    """The facts about a service that never change while it runs."""

    name: str
    pid: int
    version: str
    config: str
    listen: tuple[str, ...]
    log: str
    began_at: float


@dataclass(slots=True)
class Sample:
    """What a worker had used at one moment: CPU seconds, and resident bytes; share: of a CPU, since the one before."""

    at: float
    seconds: float
    rss: int
    share: float = 0.0


def sample(samples: dict[int, Sample], pids: Mapping[int, int], now: float) -> None:
    """Renew the samples of the living workers and forget the dead. pids: worker id to pid; now: CLOCK_MONOTONIC."""
    for worker in [*samples]:
        if worker not in pids:
            del samples[worker]
    for worker, pid in pids.items():
        measured = memory_and_cpu(pid)
        if measured:
            last = samples.get(worker)
            share = (measured[1] - last.seconds) / (now - last.at) if last and now > last.at else 0.0
            samples[worker] = Sample(now, measured[1], measured[0], share)


def document(
    service: Service,
    status: Mapping[str, Any],
    table: Table,
    samples: Mapping[int, Sample],
    now: float,
    wall: float,
    *,
    queues: Callable[[int], int | None],
    steering: str,
    log_dropped: int,
) -> dict[str, Any]:
    """Return the JSON document of `status`.

    status: Supervisor.status; now, wall: the same moment on both clocks. queues: from a slot's number to how many
    clients wait at its listeners, None where nobody knows. steering: who picks the slot of a new client: "weights",
    "hash" (the kernel alone) or "shared" (one socket for all slots). log_dropped: log lines that the master lost.
    """
    # counters never go back, so those of slots that are closed by now count as well
    totals = sum_counters(table, range(1, status["slots_ever"] + 1))
    workers = [_worker(row, table, samples, wall - now) | {"queue": queues(row["slot"])} for row in status["workers"]]
    return {
        "schema": 1,
        "name": service.name,
        "state": status["state"],
        "pid": service.pid,
        "version": service.version,
        "config": service.config,
        "listen": list(service.listen),
        "log": service.log,
        "uptime": now - service.began_at,
        "generation": status["generation"],
        "reloads": status["reloads"],
        "last_reload": status["last_reload"],
        "workers_configured": status["workers_configured"],
        "workers_ready": status["workers_ready"],
        "over_budget": status["over_budget"],
        "steering": steering,
        "totals": {
            "connections": sum(row["connections"] for row in workers),
            **asdict(totals),
            "log_dropped": totals.log_dropped + log_dropped,
            "restarts": status["restarts"],
        },
        "workers": workers,
    }


def sum_counters(table: Table, slots: range) -> Counters:
    """Return what all workers of these slots, past and present, have counted."""
    total = Counters()
    for slot in slots:
        total = total.plus(table.totals(slot))
    return total


def _worker(row: Mapping[str, Any], table: Table, samples: Mapping[int, Sample], wall_offset: float) -> dict[str, Any]:
    reading = table.read(row["slot"], row["id"]) if row["id"] else None
    measured = memory_and_cpu(row["pid"]) if row["pid"] else None
    cpu = samples.get(row["id"])
    last_exit = row["last_exit"]
    if last_exit:
        at = last_exit["at"] + wall_offset
        last_exit = {key: value for key, value in last_exit.items() if key != "at"} | {"time": at}
    return {
        **row,
        "last_exit": last_exit,
        "connections": reading.connections if reading else 0,
        # the slot's counters, which go on over its workers' deaths
        **asdict(table.totals(row["slot"])),
        "loop_lag": reading.lag_seconds if reading else 0.0,
        "cpu": cpu.share if cpu else 0.0,
        "rss": measured[0] if measured else 0,
    }


def memory_and_cpu(pid: int) -> tuple[int, float] | None:
    """Return (resident bytes, CPU seconds so far) of a process, or None if it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return process.memory_info().rss, times.user + times.system
    except (psutil.Error, OSError):
        # OSError: out of descriptors, which psutil does not translate
        return None
