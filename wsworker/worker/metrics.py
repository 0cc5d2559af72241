"""Metrics: the shared table and the master's notice, as Prometheus wants them.

Whichever worker is asked answers for all slots: it reads what every process has written into shared memory and asks
nobody. prometheus-client writes the text; its own counters and its files for several processes are not used, as they
keep what every dead process has counted for ever. A slot's counters are sums over its workers, past and present, so
they never go back, and begin at 0 only with a new master.

The labels are the slot, and words from lists of fixed length: nothing that a client or an app has made up, and no
process id, or every restart would begin new series. docs/metrics.md has a line for each metric.
"""

from __future__ import annotations

import gzip
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from wsworker.counters import ADAPTERS, BOUNDS, Adapter, Counters, Histogram
from wsworker.stats import Reading, Table

PREFIX: Final = "wsworker_"
OPEN_METRICS_END: Final = b"# EOF\n"

SERVICE_STATES: Final = ("starting", "running", "degraded", "reloading", "stopping")
WORKER_STATES: Final = (
    "starting",
    "ready",
    "full",
    "hung",
    "stopped",
    "draining",
    "killed",
    "waiting",
    "parked",
    "closing",
    "left",
)
RESULTS: Final = ("ok", "refused", "partial")
REASONS: Final = ("boot", "exit", "hung", "oom", "recycled", "signal")

COUNTED: Final[Mapping[str, tuple[str, str]]] = {
    "accepted": ("connections_opened", "Handshakes answered with 101."),
    "messages_in": ("messages_received", "Messages handed to on_message."),
    "messages_out": ("messages_sent", "Messages written to clients."),
    "bytes_in": ("received_bytes", "Bytes read from clients, with all heads and frames, after TLS."),
    "bytes_out": ("sent_bytes", "Bytes written to clients, with all frames, before TLS."),
    "refused": ("messages_refused", "Messages that were not sent: send() gave False."),
    "dropped": ("messages_dropped", "Messages that were accepted and gave way, see websocket.slow_consumer."),
    "cut": ("connections_cut", "Connections still open when the time to drain was over."),
    "slow_callbacks": ("slow_callbacks", "Times that a sync callback kept the loop for more than 100 ms."),
    "bus_published": ("bus_published", "Messages published, for this worker's clients and for others."),
}
"""Field of Counters: name and help of a metric with the slot as its only label."""

BY_ADAPTER: Final[Mapping[str, str]] = {
    "bus_sent": "Published messages handed on: to each other worker that wants it, and to the broker once.",
    "bus_received": "Published messages that came from other workers, and from other machines.",
    "bus_gaps": "Times that published messages may have been missed; see on_bus_gap.",
    "bus_reconnects": "Lost links, to other workers or to the broker, that came back.",
    "bus_refused": "Strangers that were turned away, and what came over the bus and was no message.",
}
"""Field of Counters, which is the name of its metric too: help. The labels are slot and adapter."""

BY_LABEL: Final[Mapping[str, tuple[str, str, str]]] = {
    "closed": ("connections_closed", "code", "Connections that ended, by the code of the Close, 1006 without one."),
    "rejections": ("handshakes_rejected", "reason", "Clients turned away before they had a WebSocket, by reason."),
    "raised": ("callback_errors", "callback", "Exceptions that callbacks and timers have raised."),
    "unmoved": ("connections_unmoved", "reason", "Connections that were to move to another worker and could not."),
}
"""Field of Counters: name, second label and help."""

DIRECTIONS: Final[Mapping[str, str]] = {"moved_in": "in", "moved_out": "out"}
"""Field of Counters: label of wsworker_connections_moved_total."""

_ROAD: Final = ("slot", "adapter")

_VERSION: Final = re.compile(r"version=([^;,]*)")
_PLAIN_VERSION: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}")
_NO_WEIGHT: Final = re.compile(r"q=0(\.0*)?")

SAMPLES_PER_PIECE: Final = 256
SLOTS_PER_STEP: Final = 16
"""Some milliseconds of work either, after which the loop is free for others."""

ELSEWHERE: Final = frozenset({"rejected", "errors", "log_dropped"})
"""Fields of Counters that need no metric here: sums of others, and one that has the master's beside it."""


def render(metrics: Iterable[Metric | None], accept: str) -> tuple[str, Iterator[bytes]]:
    """Return the Content-Type of the format that a client likes best, and the text in it, in pieces that may be empty.

    metrics: as families yields them; accept: the header, or "". With 256 slots all of it takes half a second, so let
    others run between the pieces.
    """
    # choose_encoder raises for a version that is none, or writes it into the Content-Type as it came
    is_plain = all(_PLAIN_VERSION.fullmatch(version.strip()) for version in _VERSION.findall(accept))
    encoder, content_type = choose_encoder(accept if is_plain else "")
    return content_type, _pieces(metrics, encoder)


def _pieces(metrics: Iterable[Metric | None], encoder: Callable[[Collector], bytes]) -> Iterator[bytes]:
    end = b""
    for metric in metrics:
        if metric is None:
            yield b""
            continue
        for begin in range(0, max(1, len(metric.samples)), SAMPLES_PER_PIECE):
            piece = encoder(_Part(metric, begin))
            if piece.endswith(OPEN_METRICS_END):
                end = OPEN_METRICS_END
            text = piece.removesuffix(OPEN_METRICS_END)
            # HELP and TYPE stand above the first part only
            yield text.split(b"\n", 2)[2] if begin else text
    yield end


def compress(body: bytes, accept_encoding: str) -> bytes | None:
    """Return the body compressed, None if the client does not say that it takes that."""
    # a quick level: the text is full of repetitions, and the loop waits
    return gzip.compress(body, compresslevel=1) if _takes_gzip(accept_encoding) else None


def _takes_gzip(accept_encoding: str) -> bool:
    for each in accept_encoding.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() == "gzip":
            # RFC 9110 section 12.5.3: with a qvalue of 0 it is "not acceptable"
            return not _NO_WEIGHT.fullmatch(weight.strip())
    return False


class _Part(Collector):
    """A collector of one metric with some of its samples, from the one at `begin` on."""

    def __init__(self, metric: Metric, begin: int) -> None:
        self._metric = copy(metric)
        self._metric.samples = metric.samples[begin : begin + SAMPLES_PER_PIECE]

    def collect(self) -> Iterator[Metric]:
        """Return it."""
        return iter([self._metric])


def families(table: Table, notice: Mapping[str, Any], limit: int, age_seconds: float) -> Iterator[Metric | None]:
    """Yield every metric, in the order of docs/metrics.md, and None where others may run meanwhile.

    Of the broker nothing is shown where none is configured.

    notice: as the master posts it; limit: worker_connections; age_seconds: since that post.
    """
    yield from _service(notice, limit, age_seconds)
    yield from _processes(notice)
    readings: dict[int, list[Reading]] = {}
    totals: dict[int, Counters] = {}
    for slot in range(1, notice["slots"] + 1):
        readings[slot], totals[slot] = table.readings(slot), table.totals(slot)
        yield from _rest_after(slot)
    yield from _gauges(readings)
    yield from _bus_gauges(readings)
    yield from _counters(totals)
    yield from _bus_counters(totals, ADAPTERS if notice["status"]["bus"]["url"] else ("mesh",))
    yield _log_dropped(totals, notice["log_dropped"])
    yield from _histograms(totals)


def _rest_after(slot: int) -> Iterator[None]:
    """Let others run if that was one slot too many for one step."""
    if slot % SLOTS_PER_STEP == 0:
        yield None


def _service(notice: Mapping[str, Any], limit: int, age_seconds: float) -> Iterator[Metric]:
    status = notice["status"]
    build = _gauge("build_info", "What runs; always 1.", "version", "python")
    build.add_metric([status["version"], platform.python_version()], 1)
    yield build
    yield _gauge("start_time_seconds", "When the master started, in seconds since the epoch.", value=notice["started"])
    state = _gauge("service_state", "1 for the state that the service is in, 0 for the others.", "state")
    for name in SERVICE_STATES:
        state.add_metric([name], name == status["state"])
    yield state
    yield _gauge("workers_configured", "Workers that there should be.", value=status["workers_configured"])
    yield _gauge("workers_ready", "Slots with a worker that serves.", value=status["workers_ready"])
    workers = _gauge("workers", "Workers by state, and slots without one: waiting, parked, closing, left.", "state")
    states = [row["state"] for row in status["workers"]]
    for name in WORKER_STATES:
        workers.add_metric([name], states.count(name))
    yield workers
    yield _gauge("worker_connections_limit", "Most connections that one worker takes: worker_connections.", value=limit)
    yield _gauge(
        "status_age_seconds",
        "Age of what the master has last said; it does so each second.",
        value=age_seconds,
    )
    reloads = _counter("reloads", "Reloads by their result.", "result")
    for name in RESULTS:
        reloads.add_metric([name], notice["reload_results"].get(name, 0))
    yield reloads
    yield _gauge(
        "handover_pause_seconds",
        "Longest that a connection was not read when a worker last handed some over.",
        value=status["handover"]["last_pause"],
    )


def _processes(notice: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield what the master knows of each slot."""
    slots = [str(slot) for slot in range(1, notice["slots"] + 1)]
    reasons = {(str(slot), reason): count for slot, reason, count in notice["restart_reasons"]}
    restarts = _counter(
        "worker_restarts", "Workers started in place of another one, by what became of that.", "slot", "reason"
    )
    cpu = _counter("worker_cpu_seconds", "CPU time of the slot's workers, user and system.", "slot")
    for slot in slots:
        for reason in REASONS:
            restarts.add_metric([slot, reason], reasons.get((slot, reason), 0))
        cpu.add_metric([slot], notice["cpu_seconds"].get(slot, 0.0))
    yield restarts
    yield cpu
    memory = _gauge("worker_resident_memory_bytes", "Resident memory of the slot's workers.", "slot")
    started = _gauge("worker_start_time_seconds", "When the slot's newest worker started or became ready.", "slot")
    queue = _gauge(
        "listen_queue_length", "Clients that wait to be accepted; none for listeners that slots share.", "slot"
    )
    status = notice["status"]
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in status["workers"]:
        rows.setdefault(str(row["slot"]), []).append(row)
    for slot, both in rows.items():
        living = [row for row in both if row["pid"]]
        memory.add_metric([slot], sum(row["rss"] for row in living))
        if living:
            uptime = min(row["uptime"] for row in living)
            started.add_metric([slot], notice["started"] + status["uptime"] - uptime)
        if both[0]["queue"] is not None:
            queue.add_metric([slot], both[0]["queue"])
    yield from (memory, started, queue)


def _gauges(readings: Mapping[int, list[Reading]]) -> Iterator[Metric]:
    connections = _gauge("connections", "Open connections.", "slot")
    buffers = _gauge("send_buffer_bytes", "Bytes that were sent and that the kernel has not taken yet.", "slot")
    lag = _gauge("loop_lag_seconds", "Longest that the event loop was kept, from one beat to the next.", "slot")
    for slot, both in readings.items():
        connections.add_metric([str(slot)], sum(reading.connections for reading in both))
        buffers.add_metric([str(slot)], sum(reading.send_buffer for reading in both))
        lag.add_metric([str(slot)], max((reading.lag_seconds for reading in both), default=0.0))
    yield from (connections, buffers, lag)


def _bus_gauges(readings: Mapping[int, list[Reading]]) -> Iterator[Metric]:
    connected = _gauge("bus_connected", "1 if the slot's workers reach the broker, 0 if one does not.", "slot")
    keys = _gauge("bus_keys", "Topics and users that the slot's workers have asked others for.", "slot")
    links = _gauge("bus_links", "Other workers, or servers of the broker, that the slot's workers reach.", *_ROAD)
    queued = _gauge("bus_queued_bytes", "Published messages that wait to be handed on, in bytes.", *_ROAD)
    lag = _gauge("bus_lag_seconds", "Longest that a probe has lately taken to others and back.", *_ROAD)
    for slot, both in readings.items():
        keys.add_metric([str(slot)], sum(_keys(reading) for reading in both))
        for adapter in ADAPTERS:
            used = [reading.bus[adapter] for reading in both if adapter in reading.bus]
            if not used:
                continue
            links.add_metric([str(slot), adapter], sum(reach.links for reach in used))
            queued.add_metric([str(slot), adapter], sum(reach.queued_bytes for reach in used))
            lag.add_metric([str(slot), adapter], max(reach.lag_seconds for reach in used))
            if adapter == "broker":
                connected.add_metric([str(slot)], all(reach.up for reach in used))
    yield from (connected, keys, links, queued, lag)


def _keys(reading: Reading) -> int:
    """Return how many keys a worker has asked for: the same ones from each of its adapters."""
    return max((reach.keys for reach in reading.bus.values()), default=0)


def _counters(totals: Mapping[int, Counters]) -> Iterator[Metric | None]:
    for field, (name, text) in COUNTED.items():
        plain = _counter(name, text, "slot")
        for slot, counters in totals.items():
            plain.add_metric([str(slot)], getattr(counters, field))
        yield plain
    moved = _counter(
        "connections_moved",
        "Connections that came from another worker (in), or went to one (out).",
        "slot",
        "direction",
    )
    for slot, counters in totals.items():
        for field, direction in DIRECTIONS.items():
            moved.add_metric([str(slot), direction], getattr(counters, field))
    yield moved
    for field, (name, label, text) in BY_LABEL.items():
        labelled = _counter(name, text, "slot", label)
        for slot, counters in totals.items():
            for word, count in getattr(counters, field).items():
                labelled.add_metric([str(slot), word], count)
            yield from _rest_after(slot)
        yield labelled


def _bus_counters(totals: Mapping[int, Counters], adapters: Sequence[Adapter]) -> Iterator[Metric | None]:
    for field, text in BY_ADAPTER.items():
        by_adapter = _counter(field, text, *_ROAD)
        for slot, counters in totals.items():
            for adapter in adapters:
                by_adapter.add_metric([str(slot), adapter], getattr(counters, field)[adapter])
        yield by_adapter
    dropped = _counter(
        "bus_dropped", "Published messages given up on their way, for each that they were for.", *_ROAD, "cause"
    )
    for slot, counters in totals.items():
        for label, count in counters.bus_dropped.items():
            by, _, cause = label.partition(":")
            if by in adapters:
                dropped.add_metric([str(slot), by, cause], count)
        yield from _rest_after(slot)
    yield dropped


def _log_dropped(totals: Mapping[int, Counters], of_master: int) -> Metric:
    dropped = _counter(
        "log_dropped", "Lines of the log that were lost, as nobody took them; slot 0 is the master.", "slot"
    )
    dropped.add_metric(["0"], of_master)
    for slot, counters in totals.items():
        dropped.add_metric([str(slot)], counters.log_dropped)
    return dropped


def _histograms(totals: Mapping[int, Counters]) -> Iterator[Metric | None]:
    handshakes = _histogram("handshake_seconds", "From accept to the 101, TLS and on_handshake included.", "slot")
    calls = _histogram(
        "callback_seconds", "Time in callbacks: sync ones keep the loop, async ones may wait.", "slot", "kind"
    )
    delays = _histogram("loop_delay_seconds", "How late the beats of the event loop were, one each second.", "slot")
    for slot, counters in totals.items():
        _add(handshakes, [str(slot)], counters.handshakes)
        _add(calls, [str(slot), "sync"], counters.sync_calls)
        _add(calls, [str(slot), "async"], counters.async_calls)
        _add(delays, [str(slot)], counters.lags)
        yield from _rest_after(slot)
    yield from (handshakes, calls, delays)


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    buckets, seen = [], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
        seen += count
        buckets.append((bound, seen))
    family.add_metric(labels, buckets, histogram.seconds)


def _gauge(name: str, text: str, *labels: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value, labels=labels or None)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=labels)


def _histogram(name: str, text: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(PREFIX + name, text, labels=labels)
