"""What `status` answers: the supervisor's view joined with what the processes and the shared table show.

The supervisor knows states and times on CLOCK_MONOTONIC, the table knows counters, psutil knows memory and CPU.
Nothing is asked of a worker, so a hung one is shown like any other. Sizes are bytes, times seconds; wall-clock time
appears only where a person wants a date.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import psutil

from wsworker import log
from wsworker.config import Config
from wsworker.counters import Adapter, Counters
from wsworker.stats import Reach, Table

SAMPLE_SECONDS: Final = 5.0
"""How often CPU and memory of the workers are measured."""

RATE_SECONDS: Final = 5.0
"""Rates are over so long: workers count once a second, so over less they would jump."""

LATE_SECONDS: Final = 0.5
"""A sample that is a bit older than that still counts: the master reads the table at its leisure."""

SERVING: Final = ("ready", "full")
"""States of the workers that count as ready."""


@dataclass(frozen=True, slots=True)
class Service:
    """The facts about a service; only listen, log and bus may change while it runs.

    bus: URL of the broker, without secrets; None if there is none.
    """

    name: str
    pid: int
    version: str
    config: str
    listen: tuple[str, ...]
    log: str
    bus: str | None
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


class Rates:
    """How many messages a second each slot has had lately."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[float, int, int]]] = {}

    def sample(self, slots: Iterable[int], table: Table, now: float) -> None:
        """Take a sample of every slot there is, and forget the others; to be called about once a second."""
        self._samples = {slot: self._samples.get(slot, deque()) for slot in slots}
        for slot, samples in self._samples.items():
            counted = table.totals(slot)
            samples.append((now, counted.messages_in, counted.messages_out))
            while samples[0][0] < now - RATE_SECONDS - LATE_SECONDS:
                samples.popleft()

    def of(self, slot: int) -> tuple[float, float]:
        """Return the messages a second, in and out, over the last RATE_SECONDS, or since the first of two samples."""
        samples = self._samples.get(slot)
        if not samples or len(samples) == 1:
            return 0.0, 0.0
        (first_at, first_in, first_out), (last_at, last_in, last_out) = samples[0], samples[-1]
        seconds = last_at - first_at
        return (last_in - first_in) / seconds, (last_out - first_out) / seconds


class View:
    """What the master itself sees of a service, and the document that joins it with what the supervisor knows.

    log_dropped: lines of the log that a former program of this process has lost. You must call measure about once a
    second. samples: of the living workers, by id, the newest of each.
    """

    def __init__(self, service: Service, table: Table, log_dropped: int = 0) -> None:
        self._log_dropped = log_dropped
        self.service = service
        self.samples: dict[int, Sample] = {}
        self.rates = Rates()
        self._table = table
        self._sample_at = -math.inf

    def measure(self, slots: Iterable[int], pids: Mapping[int, int], now: float) -> None:
        """Look at the counters of these slots, and now and then at the processes. pids: worker id to pid."""
        self.rates.sample(slots, self._table, now)
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE_SECONDS
            sample(self.samples, pids, now)

    def log_dropped(self) -> int:
        """Return how many lines of the log the master has lost."""
        return self._log_dropped + log.dropped()

    def rss(self, worker: int) -> int:
        """Return the resident bytes of a worker as last measured, 0 of one that was not measured yet."""
        return self.samples[worker].rss if worker in self.samples else 0

    def adopt(self, config: Config) -> None:
        """Show an accepted configuration."""
        self.service = replace(self.service, log=config.log.file, listen=urls(config), bus=broker(config))

    def document(
        self,
        status: Mapping[str, Any],
        now: float,
        wall: float,
        *,
        queues: Callable[[int], int | None],
        steering: str,
        log_dropped: int,
    ) -> dict[str, Any]:
        """Return the JSON document of `status`; docs/json.md says what each key means.

        status: Supervisor.status; now, wall: the same moment on both clocks. queues: from a slot's number to how many
        clients wait at its listeners, None where nobody knows. steering: who picks the slot of a new client: "weights",
        "hash" (the kernel alone) or "shared" (one socket for all slots). log_dropped: log lines that the master lost.
        """
        service = self.service
        # counters never go back, so those of slots that are closed by now count as well
        totals = sum_counters(self._table, range(1, status["slots_ever"] + 1))
        workers = [self._worker(row, wall - now) | {"queue": queues(row["slot"])} for row in status["workers"]]
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
            "handover": status["handover"],
            "workers_configured": status["workers_configured"],
            "workers_ready": status["workers_ready"],
            "over_budget": status["over_budget"],
            "steering": steering,
            "bus": _reached(service.bus, workers),
            "totals": {
                "connections": sum(row["connections"] for row in workers),
                **totals.plain(),
                "log_dropped": totals.log_dropped + log_dropped,
                "restarts": status["restarts"],
            },
            "workers": workers,
        }

    def _worker(self, row: Mapping[str, Any], wall_offset: float) -> dict[str, Any]:
        reading = self._table.read(row["slot"], row["id"]) if row["id"] else None
        measured = memory_and_cpu(row["pid"]) if row["pid"] else None
        cpu = self.samples.get(row["id"])
        rate_in, rate_out = self.rates.of(row["slot"])
        last_exit = row["last_exit"]
        if last_exit:
            at = last_exit["at"] + wall_offset
            last_exit = {key: value for key, value in last_exit.items() if key != "at"} | {"time": at}
        return {
            **row,
            "last_exit": last_exit,
            "connections": reading.connections if reading else 0,
            # the slot's counters, which go on over its workers' deaths
            **self._table.totals(row["slot"]).plain(),
            "rate_in": rate_in,
            "rate_out": rate_out,
            "send_queue": reading.send_buffer if reading else 0,
            "loop_lag": reading.lag_seconds if reading else 0.0,
            **_bus(reading.bus if reading else {}),
            "cpu": cpu.share if cpu else 0.0,
            "rss": measured[0] if measured else 0,
        }


def urls(config: Config) -> tuple[str, ...]:
    """Return the addresses as clients would write them; RFC 6455 section 3."""
    plain = tuple(address.url for address in config.listen)
    return plain if config.tls.certfile is None else tuple(f"wss{url.removeprefix('ws')}" for url in plain)


def broker(config: Config) -> str | None:
    """Return the URL of the broker as anybody may see it, None if there is none."""
    return str(config.bus.url) if config.bus.url else None


def _bus(bus: Mapping[Adapter, Reach]) -> dict[str, Any]:
    """Return what a row shows of the bus. bus: how the adapters in use stand with the worker."""
    none = Reach()
    mesh, through_broker = bus.get("mesh", none), bus.get("broker")
    return {
        "bus_links": mesh.links,
        "bus_connected": through_broker.up if through_broker else None,
        "bus_queued": sum(reach.queued_bytes for reach in bus.values()),
        "bus_lag": (through_broker or mesh).lag_seconds,
    }


def _reached(url: str | None, workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how well the broker is reached. url: None if there is none; workers: their rows."""
    if url is None:
        return {"url": None, "connected": None, "lag": None}
    lags = [row["bus_lag"] for row in workers if row["bus_connected"] and row["state"] in SERVING]
    return {"url": url, "connected": len(lags), "lag": max(lags, default=None)}


def shortfall(name: str, status: Mapping[str, Any]) -> str:
    """Say what a start lacks of the workers that were asked for, "" if nothing. status: Supervisor.status."""
    missing = [row for row in status["workers"] if row["state"] != "ready"]
    if not missing:
        return ""
    first = missing[0]
    reason = first["last_exit"]["reason"] if first["last_exit"] else first["state"]
    return (
        f"{name} runs degraded: {status['workers_ready']} of {status['workers_configured']} workers are ready; "
        f"worker {first['slot']}: {reason}; see `wsworker status`"
    )


def sum_counters(table: Table, slots: range) -> Counters:
    """Return what all workers of these slots, past and present, have counted."""
    total = Counters()
    for slot in slots:
        total = total.plus(table.totals(slot))
    return total


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
