"""What `status` shows: the supervisor's rows joined with the table and with what psutil measures."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from tests.master.forks import Child, in_child
from wsworker import brokers, log
from wsworker.config import Config
from wsworker.counters import Adapter, Counters
from wsworker.judging import validate
from wsworker.master.view import (
    RATE_SECONDS,
    SAMPLE_SECONDS,
    Rates,
    Sample,
    Service,
    View,
    broker,
    memory_and_cpu,
    sample,
    shortfall,
    sum_counters,
    urls,
)
from wsworker.sections import BusConfig, LogConfig, TlsConfig
from wsworker.stats import Reach, Table

SERVICE = Service(
    name="chat",
    pid=41,
    version="1.2.3",
    config="/etc/chat/config.yaml",
    listen=("ws://127.0.0.1:2346", "ws://[::1]:2346"),
    log="-",
    bus=None,
    began_at=900.0,
)
NOW, WALL = 1000.0, 1_700_000_000.0


def row(slot: int, worker: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return a row of Supervisor.status; without a worker it is that of an empty slot."""
    rest = {"pid": None, "generation": None, "state": "waiting", "uptime": 0.0, "weight": 0, "lent_to": None}
    return {"slot": slot, "id": worker} | rest | {"restarts": 0, "last_exit": None} | changes


def status(*workers: dict[str, Any]) -> dict[str, Any]:
    """Return what Supervisor.status returns."""
    return {
        "state": "running",
        "generation": 3,
        "reloads": 2,
        "last_reload": {"result": "ok"},
        "handover": {"moved": 5, "drained": {"tls": 1}, "longest_pause": 0.5, "last_pause": 0.25},
        "workers_configured": 2,
        "workers_ready": 1,
        "slots_ever": 2,
        "restarts": 5,
        "over_budget": False,
        "workers": list(workers),
    }


def shown(
    table: Table,
    *workers: dict[str, Any],
    samples: dict[int, Sample] | None = None,
    rates: Rates | None = None,
    queues: Mapping[int, int | None] = MappingProxyType({}),
    log_dropped: int = 0,
    bus: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return the document, through JSON and back, as a client gets it. queues: slot to waiting clients, else 0."""
    view = View(replace(SERVICE, bus=bus), table)
    view.samples = samples or {}
    view.rates = rates or Rates()
    body = view.document(
        status(*workers) | changes,
        NOW,
        WALL,
        queues=lambda slot: queues.get(slot, 0),
        steering="weights",
        log_dropped=log_dropped,
    )
    made: dict[str, Any] = json.loads(json.dumps(body))
    return made


def test_lost_lines_of_a_former_program_count() -> None:
    """A counter never goes back, whatever runs in the process."""
    assert 5 == View(SERVICE, Table(2), 5).log_dropped() - log.dropped()


def test_the_service_and_the_supervisor_s_view() -> None:
    """Facts of the service and states of the supervisor are passed on; the uptime is counted from the start."""
    body = shown(Table(2), row(1), row(2))
    del body["workers"], body["totals"]
    assert {
        "schema": 1,
        "name": "chat",
        "state": "running",
        "pid": 41,
        "version": "1.2.3",
        "config": "/etc/chat/config.yaml",
        "listen": ["ws://127.0.0.1:2346", "ws://[::1]:2346"],
        "log": "-",
        "uptime": 100.0,
        "generation": 3,
        "reloads": 2,
        "last_reload": {"result": "ok"},
        "handover": {"moved": 5, "drained": {"tls": 1}, "longest_pause": 0.5, "last_pause": 0.25},
        "workers_configured": 2,
        "workers_ready": 1,
        "over_budget": False,
        "steering": "weights",
        "bus": {"url": None, "connected": None, "lag": None},
    } == body


def test_a_worker_shows_its_seat_and_its_slot_s_counters() -> None:
    """Connections and lag are those of the worker; counters go on over the deaths before it."""
    table = Table(2)
    table.claim(1, 6).write(1, 0, 99, True, Counters(accepted=100, messages_in=1000))
    table.fold(1, 6)
    table.claim(1, 7).write(5_000_000_000, 1500, 3, False, Counters(accepted=4, messages_in=40))
    body = shown(
        table,
        row(1, 7, pid=os.getpid(), generation=3, state="ready", uptime=12.5, weight=256, restarts=1),
        row(2),
        samples={7: Sample(999.0, 4.0, 1000, 0.25)},
        queues={1: 5},
    )
    worker = body["workers"][0]
    assert worker["rss"] > 1024 * 1024
    del worker["rss"]
    assert {
        "slot": 1,
        "id": 7,
        "pid": os.getpid(),
        "generation": 3,
        "state": "ready",
        "uptime": 12.5,
        "weight": 256,
        "lent_to": None,
        "restarts": 1,
        "last_exit": None,
        "queue": 5,
        "connections": 3,
        **Counters(accepted=104, messages_in=1040).plain(),
        "rate_in": 0.0,
        "rate_out": 0.0,
        "send_queue": 0,
        "loop_lag": 0.0015,
        "bus_links": 0,
        "bus_connected": None,
        "bus_queued": 0,
        "bus_lag": 0.0,
        "cpu": 0.25,
    } == worker


def test_an_empty_slot_shows_zeros_and_when_it_starts_again() -> None:
    """Nothing is measured of a worker that is not there; the counters of those before it stay."""
    table = Table(2)
    table.claim(2, 6).write(1, 0, 5, False, Counters(messages_in=10))
    table.fold(2, 6)
    worker = shown(table, row(1), row(2, retry_in=1.5))["workers"][1]
    assert 1.5 == worker["retry_in"]
    assert 10 == worker["messages_in"]
    assert (0, 0.0, 0.0, 0) == (worker["connections"], worker["loop_lag"], worker["cpu"], worker["rss"])


def test_a_worker_that_died_just_now_shows_zeros() -> None:
    """The supervisor has not heard of it yet: no seat, no sample, no process, and no error."""
    with Child(lambda: None) as child:
        child.exit_code()
        worker = shown(Table(2), row(1, 7, pid=child.pid, state="ready"), row(2))["workers"][0]
    assert (0, 0.0, 0.0, 0) == (worker["connections"], worker["loop_lag"], worker["cpu"], worker["rss"])


def test_a_worker_that_is_not_forked_yet_shows_zeros() -> None:
    """Between the decision and the fork there is an id without a pid."""
    worker = shown(Table(2), row(1, 7, state="starting"), row(2))["workers"][0]
    assert (None, 0) == (worker["pid"], worker["rss"])


def test_the_last_exit_is_shown_with_its_date() -> None:
    """The supervisor counts on CLOCK_MONOTONIC; a person wants the wall clock. Its own row is not changed."""
    facts = {"reason": "killed by SIGKILL", "class": "crash", "code": None, "signal": "SIGKILL", "error": ""}
    given = row(1, last_exit=facts | {"at": NOW - 60})
    worker = shown(Table(2), given, row(2))["workers"][0]
    assert facts | {"time": WALL - 60} == worker["last_exit"]
    assert NOW - 60 == given["last_exit"]["at"]


def test_the_queue_of_each_slot_is_shown() -> None:
    """Also of a slot without a worker, where it matters most; null where nobody knows."""
    workers = shown(Table(3), row(1, 7), row(2), row(3), queues={2: 12, 3: None})["workers"]
    assert [0, 12, None] == [worker["queue"] for worker in workers]


def test_a_crash_budget_that_is_spent_is_shown() -> None:
    """The supervisor says so."""
    assert shown(Table(2), row(1), row(2), over_budget=True)["over_budget"] is True


def test_totals_count_every_slot_once() -> None:
    """While a worker replaces another, connections of both count, but the slot's counters only once."""
    table = Table(2)
    table.claim(1, 1).write(1, 0, 10, False, Counters(accepted=1, errors=1))
    table.claim(1, 2).write(1, 0, 2, False, Counters(accepted=20, log_dropped=3))
    table.claim(2, 3).write(1, 0, 300, False, Counters(accepted=300))
    rows = [row(1, 1), row(1, 2), row(2, 3)]
    assert {
        **Counters(accepted=321, errors=1, log_dropped=3).plain(),
        "connections": 312,
        "restarts": 5,
    } == shown(table, *rows)["totals"]


def test_totals_never_go_back() -> None:
    """What a slot counted stays in the totals when it is closed; a number that never was a slot counts nothing."""
    table = Table(4)
    for slot, accepted in ((1, 1), (2, 20), (3, 300), (4, 4000)):
        table.claim(slot, slot).write(1, 0, 0, False, Counters(accepted=accepted))
        table.fold(slot, slot)
    assert 321 == shown(table, row(1), row(2), slots_ever=3)["totals"]["accepted"]


def test_dropped_log_lines_are_those_of_the_master_and_the_workers() -> None:
    """Nobody looks for them in two places."""
    table = Table(2)
    table.claim(1, 1).write(1, 0, 0, False, Counters(log_dropped=3))
    table.claim(2, 2).write(1, 0, 0, False, Counters(log_dropped=40))
    table.fold(2, 2)
    assert 543 == shown(table, row(1, 1), row(2), log_dropped=500)["totals"]["log_dropped"]


URL = "redis://10.0.0.5:6379"


def test_a_worker_shows_how_the_bus_stands() -> None:
    """Links are those to other workers, what waits is of all adapters, and the lag that of the longest road."""
    mesh = Reach(False, 3, 100, 0.25, 7)
    stages: list[tuple[dict[Adapter, Reach], list[Any]]] = [
        ({}, [0, None, 0, 0.0]),
        ({"mesh": mesh}, [3, None, 100, 0.25]),
        ({"mesh": mesh, "broker": Reach(True, 1, 20, 0.5, 7)}, [3, True, 120, 0.5]),
        ({"mesh": mesh, "broker": Reach(False, 0, 3, 0.0, 7)}, [3, False, 103, 0.0]),
    ]
    table = Table(2)
    seat = table.claim(1, 7)
    for bus, expected in stages:
        seat.write(1, 0, 0, False, Counters(), 0, bus)
        worker = shown(table, row(1, 7), row(2))["workers"][0]
        assert expected == [worker[key] for key in ("bus_links", "bus_connected", "bus_queued", "bus_lag")]


def test_who_reaches_the_broker() -> None:
    """Of the workers that count as ready; who leaves or hangs does not, and who uses none cannot."""
    table = Table(6)
    up, down = Reach(True, lag_seconds=0.25), Reach(False)
    rows = []
    for slot, (state, reach) in enumerate(
        [("ready", up), ("full", replace(up, lag_seconds=0.5)), ("draining", up), ("hung", up), ("ready", down)], 1
    ):
        table.claim(slot, slot).write(1, 0, 0, False, Counters(), 0, {"mesh": up, "broker": reach})
        rows.append(row(slot, slot, state=state))
    table.claim(6, 6).write(1, 0, 0, False, Counters(), 0, {"mesh": Reach(lag_seconds=9.0)})
    rows.append(row(6, 6, state="ready"))
    assert {"url": URL, "connected": 2, "lag": 0.5} == shown(table, *rows, bus=URL)["bus"]
    assert {"url": None, "connected": None, "lag": None} == shown(table, *rows)["bus"]


def test_a_broker_that_nobody_reaches() -> None:
    """It is none all the same, and has no lag."""
    table = Table(2)
    table.claim(1, 1).write(1, 0, 0, False, Counters(), 0, {"broker": Reach()})
    assert {"url": URL, "connected": 0, "lag": None} == shown(table, row(1, 1, state="ready"), row(2), bus=URL)["bus"]
    assert {"url": URL, "connected": 0, "lag": None} == shown(table, bus=URL)["bus"]


def test_the_sums_of_the_bus_are_those_of_all_adapters() -> None:
    """In the row of a slot and in the totals."""
    table = Table(2)
    for slot in (1, 2):
        counters = Counters(bus_published=9)
        counters.bus_sent |= {"mesh": 10 * slot, "broker": 1}
        counters.bus_dropped["broker:down"] = slot
        table.claim(slot, slot).write(1, 0, 0, False, counters)
    body = shown(table, row(1, 1), row(2, 2))
    sums = [[each["bus_sent"], each["bus_dropped"]] for each in (*body["workers"], body["totals"])]
    assert [[11, 1], [21, 2], [32, 3]] == sums


def count(table: Table, slot: int, messages_in: int, messages_out: int) -> None:
    """Let worker 1 of a slot have counted so much."""
    if not table.read(slot, 1):
        table.claim(slot, 1)
    seat = next(seat for seat in table._seats(slot) if seat.worker == 1)
    seat.write(1, 0, 0, False, Counters(messages_in=messages_in, messages_out=messages_out))


def test_rates_are_over_the_last_seconds() -> None:
    """Of each slot; what was longer ago does not count, and with one sample nothing is known yet."""
    table, rates = Table(2), Rates()
    for second in range(12):
        count(table, 1, 1000 + 10 * second, second**2)
        rates.sample([1, 2], table, 100.0 + second)
        assert second > 0 or rates.of(1) == (0.0, 0.0)
    assert (10.0, (11**2 - 6**2) / RATE_SECONDS) == rates.of(1)
    assert (0.0, 0.0) == rates.of(2)
    assert (0.0, 0.0) == rates.of(3)


def test_rates_survive_a_death_and_end_with_a_slot() -> None:
    """A slot's counters never go back, so neither is its rate ever negative; of a slot that is closed none is kept."""
    table, rates = Table(2), Rates()
    count(table, 1, 100, 0)
    rates.sample([1], table, 100.0)
    table.fold(1, 1)
    rates.sample([1], table, 101.0)
    assert (0.0, 0.0) == rates.of(1)
    count(table, 1, 7, 3)
    rates.sample([1], table, 102.0)
    assert (3.5, 1.5) == rates.of(1)
    rates.sample([], table, 103.0)
    rates.sample([1], table, 104.0)
    assert (0.0, 0.0) == rates.of(1)


def test_a_row_shows_rates_and_what_waits_to_be_sent() -> None:
    """The rates are those of the slot, the queue that of the worker."""
    table, rates = Table(2), Rates()
    for second in range(2):
        count(table, 1, 4 * second, 2 * second)
        rates.sample([1, 2], table, 100.0 + second)
    table.claim(2, 9).write(1, 0, 3, False, Counters(), 4096)
    workers = shown(table, row(1, 1), row(2, 9), rates=rates)["workers"]
    assert [(4.0, 2.0, 0), (0.0, 0.0, 4096)] == [
        (worker["rate_in"], worker["rate_out"], worker["send_queue"]) for worker in workers
    ]


def test_processes_are_measured_now_and_then_and_counters_each_time() -> None:
    """What psutil says of a worker stands until the next sample; the rates do not wait for it."""
    table = Table(1)
    view = View(SERVICE, table)
    assert 0 == view.rss(7)
    pids = {7: os.getpid()}
    seen = []
    for second in range(round(SAMPLE_SECONDS) + 1):
        count(table, 1, second, 0)
        view.measure([1], pids, 100.0 + second)
        seen.append((view.samples[7].at, view.rates.of(1)[0]))
    assert [(100.0, 0.0), *[(100.0, 1.0)] * 4, (105.0, 1.0)] == seen
    assert view.samples[7].rss == view.rss(7) > 1024 * 1024
    view.measure([1], {}, 100.0 + 2 * SAMPLE_SECONDS)
    assert 0 == view.rss(7)


def test_an_accepted_configuration_is_shown() -> None:
    """Its addresses, its log and its broker; what a reload cannot change stays."""
    view = View(SERVICE, Table(1))
    bus = BusConfig(url=brokers.parse("redis://tom:secret@10.0.0.5:6379/0"))
    view.adopt(Config(app="app", log=LogConfig(file="/var/log/chat"), bus=bus))
    assert ("chat", ("ws://127.0.0.1:2346",), "/var/log/chat", URL) == (
        view.service.name,
        view.service.listen,
        view.service.log,
        view.service.bus,
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rediss://:secret@10.0.0.5/1?ca=/etc/ca.pem", "rediss://10.0.0.5:6379/1"),
        ("unix://tom:secret@/run/valkey.sock", "unix:///run/valkey.sock"),
        ("nats://token@a,b:4223", "nats://a:4222,b:4223"),
    ],
)
def test_a_broker_is_shown_without_secrets(url: str, expected: str) -> None:
    """With its port; neither user nor password nor token."""
    assert expected == broker(Config(app="app", bus=BusConfig(url=brokers.parse(url))))


def test_no_broker_is_none() -> None:
    """There is nothing to show."""
    assert broker(Config(app="app")) is None


@pytest.mark.parametrize(("scheme", "certfile"), [("ws", None), ("wss", "/srv/cert.pem")])
def test_addresses_are_shown_as_clients_write_them(scheme: str, certfile: str | None) -> None:
    """With TLS the scheme is another one, also that of a unix socket."""
    made = validate({"app": "app", "app_dir": ".", "listen": ["127.0.0.1:1", "unix:/run/ws"]}, "/srv")
    assert isinstance(made, Config)
    config = made.model_copy(update={"tls": TlsConfig.model_construct(certfile=certfile)})
    assert (f"{scheme}://127.0.0.1:1", f"{scheme}+unix:/run/ws") == urls(config)


def test_a_start_that_goes_well_for_all_lacks_nothing() -> None:
    """There is nothing to say."""
    assert "" == shortfall("chat", status(row(1, 1, state="ready"), row(2, 2, state="ready")))


@pytest.mark.parametrize(
    ("last_exit", "reason"), [(None, "starting"), ({"reason": "no module named 'hello'"}, "no module named 'hello'")]
)
def test_a_start_that_goes_well_for_some(last_exit: dict[str, Any] | None, reason: str) -> None:
    """The first worker that is missing says why: by its last exit, or else by what it does."""
    rows = [row(1, 1, state="ready"), row(2, 2, state="starting", last_exit=last_exit), row(3, state="parked")]
    expected = f"chat runs degraded: 1 of 2 workers are ready; worker 2: {reason}; see `wsworker status`"
    assert expected == shortfall("chat", status(*rows))


def test_counters_are_summed_over_slots() -> None:
    """Only the named slots count; none gives zeros."""
    table = Table(3)
    for slot in (1, 2, 3):
        table.claim(slot, slot).write(1, 0, 0, False, Counters(bytes_out=10**slot))
    assert Counters(bytes_out=110) == sum_counters(table, range(1, 3))
    assert Counters() == sum_counters(table, range(1, 1))


def test_a_sample_gives_a_share_from_the_second_time_on() -> None:
    """The share is CPU seconds by seconds between two samples; the first one has nothing to compare with."""
    samples: dict[int, Sample] = {}
    sample(samples, {7: os.getpid()}, now=10.0)
    first = samples[7]
    assert (10.0, 0.0) == (first.at, first.share)
    samples[7] = Sample(8.0, first.seconds - 1.0, 1000)
    sample(samples, {7: os.getpid()}, now=12.0)
    assert 12.0 == samples[7].at
    assert samples[7].seconds >= first.seconds
    assert (samples[7].seconds - first.seconds + 1.0) / 4.0 == samples[7].share
    sample(samples, {7: os.getpid()}, now=12.0)
    assert 0.0 == samples[7].share


def test_samples_of_the_dead_are_forgotten() -> None:
    """Who is not in the crew has no sample; who has just died keeps the last one until the crew hears of it."""
    with Child(lambda: None) as child:
        child.exit_code()
        samples = {1: Sample(1.0, 1.0, 9), 2: Sample(1.0, 1.0, 9, 0.5)}
        sample(samples, {2: child.pid, 3: child.pid}, now=10.0)
    assert {2: Sample(1.0, 1.0, 9, 0.5)} == samples


def test_memory_and_cpu_of_a_process() -> None:
    """A living process has both, a dead one neither."""
    measured = memory_and_cpu(os.getpid())
    assert measured is not None
    assert measured[0] > 1024 * 1024
    assert 0 < measured[1] <= sum(os.times()[:2])
    with Child(lambda: None) as child:
        child.exit_code()
        assert memory_and_cpu(child.pid) is None


def test_memory_and_cpu_without_descriptors() -> None:
    """A master that has no descriptor left shows no figures, and goes on."""

    def master() -> bool:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        return memory_and_cpu(os.getpid()) is None

    assert in_child(master)
