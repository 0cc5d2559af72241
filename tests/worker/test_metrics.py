"""The metrics: what the table and the notice become, and that documents and dashboards speak of nothing else."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from wsworker.bus.bus import CAUSES
from wsworker.config import Config
from wsworker.counters import (
    ADAPTERS,
    BUS_DROPS,
    BUS_NAMES,
    CALLBACKS,
    CLOSE_CODES,
    PLAIN_NAMES,
    REJECTIONS,
    UNMOVED,
    Adapter,
    Counters,
)
from wsworker.master.roster import ServiceState
from wsworker.stats import Reach, Table
from wsworker.worker.metrics import (
    BY_ADAPTER,
    BY_LABEL,
    COUNTED,
    DIRECTIONS,
    ELSEWHERE,
    REASONS,
    RESULTS,
    SAMPLES_PER_PIECE,
    SERVICE_STATES,
    SLOTS_PER_STEP,
    WORKER_STATES,
    compress,
    families,
    render,
)

DOCS = Path(__file__).parent.parent.parent / "docs"
OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def row(slot: int, worker: int | None, state: str = "ready", **more: Any) -> dict[str, Any]:
    """Return a worker as the document of `status` has it."""
    living = {"pid": 100 + worker if worker else None, "rss": 1000 if worker else 0, "uptime": 10.0, "queue": 0}
    return {"slot": slot, "id": worker, "state": state} | living | more


def notice(*rows: dict[str, Any], slots: int = 2, broker: str | None = None, **more: Any) -> dict[str, Any]:
    """Return what the master posts. broker: its URL."""
    status = {
        "version": "1.2.3",
        "state": "running",
        "uptime": 100.0,
        "workers_configured": 2,
        "workers_ready": 2,
        "handover": {"moved": 5, "drained": {"tls": 1}, "longest_pause": 0.5, "last_pause": 0.125},
        "bus": {"url": broker, "connected": None, "lag": None},
        "workers": list(rows),
    }
    facts = {
        "status": status,
        "started": 1000.0,
        "slots": slots,
        "restart_reasons": [],
        "reload_results": {},
        "cpu_seconds": {},
        "log_dropped": 0,
    }
    return facts | more


def table() -> Table:
    """Return a table of two slots, with a worker each."""
    table = Table(2)
    for slot in (1, 2):
        table.claim(slot, slot)
    return table


def shown(table: Table, facts: Mapping[str, Any]) -> list[Metric]:
    """Return all metrics."""
    return [metric for metric in families(table, facts, 500, 0.25) if metric is not None]


BUS: dict[Adapter, Reach] = {"mesh": Reach(False, 3, 100, 0.002, 7), "broker": Reach(True, 1, 30, 0.005, 7)}
BROKER = "redis://10.0.0.5:6379"


def joined() -> list[Metric]:
    """Return all metrics of two workers that use a broker."""
    table = Table(2)
    for slot in (1, 2):
        table.claim(slot, slot).write(1, 0, 0, False, Counters(), 0, BUS)
    return shown(table, notice(row(1, 1), row(2, 2), broker=BROKER))


def samples(metrics: list[Metric], name: str) -> dict[tuple[str, ...], float]:
    """Return all samples of a metric, by the values of its labels in their order; name: without the prefix."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == f"wsworker_{name}"
    }


def value(metrics: list[Metric], name: str, **labels: str) -> float:
    """Return one sample; name: without the prefix."""
    (found,) = [
        sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == f"wsworker_{name}" and sample.labels == labels
    ]
    return float(found)


def test_gauges_are_those_of_the_workers_that_live() -> None:
    """Of two in a slot they are added up, and the later beat is no excuse for the other."""
    table = Table(2)
    table.claim(1, 1).write(1, 30_000, 5, False, Counters(), 100)
    table.claim(1, 2).write(1, 2_000, 1, False, Counters(), 20)
    facts = notice(row(1, 1, "draining"), row(1, 2, uptime=3.0), row(2, None, "waiting", queue=4))
    metrics = shown(table, facts)
    assert 6 == value(metrics, "connections", slot="1")
    assert 120 == value(metrics, "send_buffer_bytes", slot="1")
    assert 0.03 == value(metrics, "loop_lag_seconds", slot="1")
    assert 0 == value(metrics, "loop_lag_seconds", slot="2")
    assert 2000 == value(metrics, "worker_resident_memory_bytes", slot="1")
    assert 0 == value(metrics, "worker_resident_memory_bytes", slot="2")
    assert 1000 + 100 - 3 == value(metrics, "worker_start_time_seconds", slot="1")
    assert 4 == value(metrics, "listen_queue_length", slot="2")
    assert [1, 1, 1, 0] == [
        value(metrics, "workers", state=state) for state in ("draining", "ready", "waiting", "parked")
    ]


def test_a_slot_without_a_worker_or_a_queue_shows_none() -> None:
    """A start that never was and a queue that nobody knows are no zeros."""
    metrics = shown(table(), notice(row(1, None, "parked"), row(2, 2, queue=None)))
    for name in ("worker_start_time_seconds", "listen_queue_length"):
        (metric,) = [metric for metric in metrics if metric.name == f"wsworker_{name}"]
        assert 1 == len(metric.samples)


def test_how_the_bus_stands() -> None:
    """By adapter; of two workers in a slot it is added up, the keys of both adapters are the same, one lag counts."""
    table = Table(2)
    table.claim(1, 1).write(1, 0, 0, False, Counters(), 0, BUS)
    table.claim(1, 2).write(1, 0, 0, False, Counters(), 0, {"mesh": Reach(False, 2, 11, 0.003, 4)})
    table.claim(2, 3).write(1, 0, 0, False, Counters(), 0, {"broker": Reach(False, 0, 5, 0.0, 2)})
    metrics = shown(table, notice(row(1, 1, "draining"), row(1, 2), row(2, 3), broker=BROKER))
    assert {("1", "mesh"): 5, ("1", "broker"): 1, ("2", "broker"): 0} == samples(metrics, "bus_links")
    assert {("1", "mesh"): 111, ("1", "broker"): 30, ("2", "broker"): 5} == samples(metrics, "bus_queued_bytes")
    assert {("1", "mesh"): 0.003, ("1", "broker"): 0.005, ("2", "broker"): 0.0} == samples(metrics, "bus_lag_seconds")
    assert {("1",): 11, ("2",): 2} == samples(metrics, "bus_keys")
    assert {("1",): 1, ("2",): 0} == samples(metrics, "bus_connected")


def test_a_slot_reaches_the_broker_if_all_its_workers_do() -> None:
    """One that does not is not hidden behind its successor."""
    table = Table(1)
    for worker, up in ((1, False), (2, True)):
        table.claim(1, worker).write(1, 0, 0, False, Counters(), 0, {"broker": Reach(up)})
    assert {("1",): 0} == samples(shown(table, notice(row(1, 2), slots=1, broker=BROKER)), "bus_connected")


def test_without_a_broker_there_is_nothing_of_one() -> None:
    """No sample has its name, whatever was counted before the configuration has changed."""
    table, counters = Table(1), Counters()
    counters.bus_sent["broker"] = 7
    table.claim(1, 1).write(1, 0, 0, False, counters, 0, {"mesh": Reach()})
    metrics = shown(table, notice(row(1, 1), slots=1))
    assert {"mesh"} == {
        sample.labels["adapter"] for metric in metrics for sample in metric.samples if "adapter" in sample.labels
    }
    assert {} == samples(metrics, "bus_connected")


def test_what_the_bus_has_counted() -> None:
    """Each number has its own series, and no series is missing or shows another's number."""
    table, counters = Table(1), Counters()
    number, expected = 0, {}
    for name in BUS_NAMES:
        labels = getattr(counters, name)
        for label in labels:
            labels[label] = number = number + 1
            expected[(name, "1", *label.split(":"))] = number
    table.claim(1, 1).write(1, 0, 0, False, counters, 0, BUS)
    metrics = shown(table, notice(row(1, 1), slots=1, broker=BROKER))
    assert expected == {
        (name, *labels): count for name in BUS_NAMES for labels, count in samples(metrics, f"{name}_total").items()
    }
    assert {*BUS_NAMES} == {*BY_ADAPTER, "bus_dropped"}
    assert len(BUS_DROPS) == len(samples(metrics, "bus_dropped_total"))


def test_what_the_master_says() -> None:
    """Restarts, reloads, CPU time, its own log, and the service itself."""
    facts = notice(
        row(1, 1),
        row(2, 2),
        restart_reasons=[[2, "oom", 3]],
        reload_results={"refused": 4},
        cpu_seconds={"1": 2.5},
        log_dropped=7,
    )
    metrics = shown(table(), facts)
    assert 3 == value(metrics, "worker_restarts_total", slot="2", reason="oom")
    assert 0 == value(metrics, "worker_restarts_total", slot="1", reason="oom")
    assert 4 == value(metrics, "reloads_total", result="refused")
    assert [2.5, 0] == [value(metrics, "worker_cpu_seconds_total", slot=slot) for slot in "12"]
    assert [7, 0] == [value(metrics, "log_dropped_total", slot=slot) for slot in "01"]
    assert [1, 0] == [value(metrics, "service_state", state=state) for state in ("running", "stopping")]
    assert 500 == value(metrics, "worker_connections_limit")
    assert 0.25 == value(metrics, "status_age_seconds")
    assert 1000 == value(metrics, "start_time_seconds")
    assert 0.125 == value(metrics, "handover_pause_seconds")


def test_counters_have_every_label_from_the_start() -> None:
    """So a rate is right from the first event on, and a series never appears late."""
    metrics = shown(table(), notice(row(1, 1), row(2, 2)))
    labels = {
        "connections_closed": ("code", CLOSE_CODES),
        "handshakes_rejected": ("reason", REJECTIONS),
        "callback_errors": ("callback", CALLBACKS),
        "connections_unmoved": ("reason", UNMOVED),
        "connections_moved": ("direction", ("in", "out")),
    }
    for name, (label, words) in labels.items():
        assert [0] * len(words) == [value(metrics, f"{name}_total", slot="2", **{label: word}) for word in words]


def test_each_counter_is_shown_under_its_own_name() -> None:
    """Every field of Counters has a metric, and none shows another's number."""
    for name, (metric, _) in COUNTED.items():
        table, counters = Table(1), Counters()
        setattr(counters, name, 9)
        table.claim(1, 1).write(1, 0, 0, False, counters)
        assert 9 == value(shown(table, notice(row(1, 1), slots=1)), f"{metric}_total", slot="1")
    for name, direction in DIRECTIONS.items():
        table, counters = Table(1), Counters()
        setattr(counters, name, 9)
        table.claim(1, 1).write(1, 0, 0, False, counters)
        moved = shown(table, notice(row(1, 1), slots=1))
        other = "out" if direction == "in" else "in"
        assert (9, 0) == (
            value(moved, "connections_moved_total", slot="1", direction=direction),
            value(moved, "connections_moved_total", slot="1", direction=other),
        )
    assert {*COUNTED} | {*DIRECTIONS} | ELSEWHERE == {*PLAIN_NAMES}
    assert 4 == len(BY_LABEL)


def test_histograms_add_up() -> None:
    """A bucket holds all below it, the last one everything; the sum is in seconds."""
    table = Table(1)
    counters = Counters()
    for seconds in (0.00001, 0.02, 0.02, 7.0):
        counters.sync_calls.add(seconds)
    counters.async_calls.add(0.3)
    table.claim(1, 1).write(1, 0, 0, False, counters)
    metrics = shown(table, notice(row(1, 1), slots=1))
    buckets = [
        value(metrics, "callback_seconds_bucket", slot="1", kind="sync", le=bound)
        for bound in ("0.0001", "0.01", "0.025", "5.0", "+Inf")
    ]
    assert [1, 1, 3, 3, 4] == buckets
    assert 4 == value(metrics, "callback_seconds_count", slot="1", kind="sync")
    assert abs(7.04001 - value(metrics, "callback_seconds_sum", slot="1", kind="sync")) < 1e-6
    assert 1 == value(metrics, "callback_seconds_count", slot="1", kind="async")
    assert 0 == value(metrics, "handshake_seconds_count", slot="1")


@pytest.mark.parametrize(("accept", "parser"), [("", parse), ("text/plain", parse), (OPEN_METRICS, parse_open)])
def test_both_formats_are_written(accept: str, parser: Any) -> None:
    """Prometheus' own parsers read all of it, the strict one among them; it comes in pieces with one end."""
    kind, pieces = render(families(table(), notice(row(1, 1), row(2, 2)), 500, 0.0), accept)
    text = b"".join(pieces).decode()
    assert kind.startswith("application/openmetrics-text" if parser is parse_open else "text/plain")
    names = {metric.name.removesuffix("_total") for metric in parser(text)}
    assert {metric.name for metric in shown(table(), notice())} == names
    assert (1 if parser is parse_open else 0) == text.count("# EOF")


@pytest.mark.parametrize("version", ["x.y", "1.0.0é", '"1.0.0"', "1!1.0.0rc1+a.b", "9" * 5000, "1.é", ""])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_a_version_that_is_none(kind: str, version: str) -> None:
    """The client gets what one gets that asks for nothing."""
    answer, pieces = render(families(table(), notice(row(1, 1), row(2, 2)), 500, 0.0), f"{kind}; version={version}")
    assert "text/plain; version=0.0.4; charset=utf-8" == answer
    assert list(parse(b"".join(pieces).decode()))


def test_a_version_that_is_one() -> None:
    """It counts beside others, in whatever order."""
    accepts = ("text/plain;version=1,application/openmetrics-text; version=1.0.0 ;q=0.1", OPEN_METRICS)
    for accept in accepts:
        assert render([], accept)[0].startswith("application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize(("accept", "parser"), [("", parse), (OPEN_METRICS, parse_open)])
def test_many_slots_come_in_small_pieces(accept: str, parser: Any) -> None:
    """Each is some milliseconds of work; together they are one metric with one head, and nothing is missing."""
    many = Table(40)
    facts = notice(*(row(slot, slot) for slot in range(1, 41)), slots=40)
    pieces = [*render(families(many, facts, 500, 0.0), accept)[1]]
    assert max(piece.count(b"\n") for piece in pieces) <= SAMPLES_PER_PIECE + 2
    # all readings, three counters and the histograms: after each 16 slots
    assert 5 * (40 // SLOTS_PER_STEP) <= pieces.count(b"")
    text = b"".join(pieces).decode()
    metrics = shown(many, facts)
    assert len(metrics) == text.count("# HELP ") == text.count("# TYPE ")
    samples = {(sample.name, *sorted(sample.labels.items())) for metric in metrics for sample in metric.samples}
    found = [sample for metric in parser(text) for sample in metric.samples]
    assert samples == {(sample.name, *sorted(sample.labels.items())) for sample in found}
    assert len(samples) == len(found)


def test_what_is_compressed_is_the_same() -> None:
    """Only for whom it is asked."""
    assert b"text" == gzip.decompress(compress(b"text", "deflate, gzip") or b"")
    assert compress(b"text", "") is None
    assert compress(b"text", "br") is None


@pytest.mark.parametrize(
    ("accept_encoding", "taken"),
    [
        ("gzip;q=0", False),
        ("br, GZIP ; Q=0.000", False),
        ("identity, gzip;q=0.0", False),
        ("gzip;q=0.001", True),
        ("deflate;q=0, gzip; q=1.0", True),
        ("Gzip", True),
    ],
)
def test_who_refuses_gzip_gets_none(accept_encoding: str, taken: bool) -> None:
    """A weight of 0 is a refusal."""
    assert taken == (compress(b"text", accept_encoding) is not None)


def test_states_and_reasons_are_those_that_the_master_knows() -> None:
    """A state that no list has would not be shown at all."""
    states = {state.value for state in ServiceState} - {"ended"} | {"degraded"}
    assert states == {*SERVICE_STATES}
    assert ("ok", "refused", "partial") == RESULTS
    assert sorted(REASONS) == [*REASONS]
    assert len({*WORKER_STATES}) == len(WORKER_STATES)


# The documents


def kinds() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return name -> (type, labels, help) of all metrics, as they are exposed."""
    found = {}
    for metric in joined():
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        order = tuple(sorted(labels, key=lambda label: (label != "slot", label)))
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found[name] = (metric.type, order, metric.documentation)
    return found


def exposed() -> set[str]:
    """Return every name that a query may use."""
    names = set()
    for name, (kind, _, _) in kinds().items():
        names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return names


def used(expression: str) -> set[str]:
    """Return the metrics that an expression of PromQL names."""
    return set(re.findall(r"wsworker_\w+", re.sub(r'"[^"]*"', '""', expression)))


def labels_used(expression: str) -> dict[str, set[str]]:
    """Return the labels of ours that selectors of an expression compare, by metric."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"(wsworker_\w+)\{([^}]*)\}", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))
    return found


def check(expression: str) -> None:
    """Fail if an expression names a metric or a label that there is not, or if its brackets do not fit."""
    assert used(expression) <= exposed() | {"wsworker"}, expression
    known = {name: {*labels} for name, (_, labels, _) in kinds().items()}
    for name, labels in labels_used(expression).items():
        base = re.sub("_(bucket|count|sum)$", "", name) if name not in known else name
        assert labels <= known[base] | {"job", "instance", "le"}, expression
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), expression


def test_the_document_names_every_metric() -> None:
    """docs/metrics.md has a line for each, in the same order, with its type, labels and help."""
    text = (DOCS / "metrics.md").read_text()
    lines = re.findall(r"^\| `(wsworker_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", text, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), said) for name, kind, labels, said in lines}
    assert [*kinds().items()] == [*documented.items()]
    for query in re.findall(r"^\| [^|`]* \| `(.*wsworker.*)` \|$", text, re.MULTILINE):
        check(query)


def test_the_document_explains_every_label_value() -> None:
    """No reason or state is left to guessing."""
    text = (DOCS / "metrics.md").read_text().partition("## Label values")[2]
    for word in (*REJECTIONS, *REASONS, *SERVICE_STATES, *WORKER_STATES, *RESULTS, *ADAPTERS, *CAUSES):
        assert f"`{word}`" in text, word
    for word in ("timer", "sync", "async", "4xxx"):
        assert f"`{word}`" in text, word


def test_the_dashboard_can_be_imported() -> None:
    """It asks for the data source, every panel uses that one, ids differ, and no panel lies upon another."""
    board = json.loads((DOCS / "grafana.json").read_text())
    assert ["datasource", "job", "instance"] == [variable["name"] for variable in board["templating"]["list"]]
    panels = board["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    places: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, panel["title"]
        assert place["x"] + place["w"] <= 24
        places |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert all({"type": "prometheus", "uid": "${datasource}"} == source for source in sources)
    assert "__inputs" not in board


def test_the_dashboard_shows_only_what_there_is() -> None:
    """Every expression names metrics and labels that exist, and the legends labels that are left."""
    board = json.loads((DOCS / "grafana.json").read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(targets) > 40
    for target in targets:
        check(target["expr"])
        assert used(target["expr"])
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            by = re.search(r"by \(([^)]*)\)", target["expr"])
            assert label in (by[1] if by else "instance slot")
        if "slot" in target["legendFormat"]:
            # two machines have the same slots
            assert "{{instance}}" in target["legendFormat"]
    for variable in board["templating"]["list"][1:]:
        assert used(variable["query"]["query"]) == {"wsworker_build_info"}
    shown = {name for target in targets for name in used(target["expr"])}
    missing = {re.sub("_(bucket|count|sum)$", "", name) for name in exposed()} - {
        re.sub("_bucket$", "", name) for name in shown
    }
    assert {"build_info", "start_time_seconds", "service_state", "worker_start_time_seconds", "status_age_seconds"} | {
        "connections_cut_total"
    } == {name.removeprefix("wsworker_") for name in missing}


SCRAPE_SECONDS = 60
"""How often Prometheus looks, where nobody says otherwise: scrape_interval."""

LASTING = {"ready", "full", "stopped", "waiting", "parked"}
"""States of workers that last until somebody does something; the others pass by themselves."""


def rules() -> list[dict[str, Any]]:
    """Return the rules for alerts."""
    (group,) = yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def seconds(duration: str) -> int:
    """Return a duration of Prometheus."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def test_no_alert_waits_for_longer_than_what_it_waits_for() -> None:
    """A worker is hung for worker_timeout at most: Prometheus has to look twice within that, `for` apart."""
    config = Config(app="app")
    lasts = {"hung": config.worker_timeout, "draining": config.graceful_timeout}
    for rule in rules():
        for state in re.findall(r'wsworker_workers\{state="(\w+)"\}', rule["expr"]):
            if state not in LASTING:
                assert seconds(rule.get("for", "0s")) + SCRAPE_SECONDS < lasts[state], rule["alert"]
    assert {*lasts, *LASTING} <= {*WORKER_STATES}


def test_no_alert_of_missing_workers_while_the_service_stops() -> None:
    """A drain may take long, and is what somebody wanted; who stops for good is seen by `up`."""
    alerts = {rule["alert"]: rule["expr"] for rule in rules() if "wsworker_workers_ready " in rule["expr"]}
    assert {"WsworkerDegraded", "WsworkerNoWorkerReady"} == alerts.keys()
    for expression in alerts.values():
        assert expression.endswith(' unless on (instance, job) wsworker_service_state{state="stopping"} == 1')


def test_the_alerts_are_rules() -> None:
    """As Prometheus reads them: known keys, names once, durations, and texts whose labels the expression keeps."""
    found = rules()
    assert len(found) == len({rule["alert"] for rule in found}) > 10
    for rule in found:
        assert (
            {"alert", "expr", "labels", "annotations"}
            <= rule.keys()
            <= {"alert", "expr", "for", "labels", "annotations"}
        )
        assert re.fullmatch(r"[A-Z]\w+", rule["alert"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} == rule["annotations"].keys()
        check(rule["expr"])
        by = re.search(r"sum by \(([^)]*)\)", rule["expr"])
        kept = {*by[1].replace(" ", "").split(",")} if by else {"instance"}
        for text in rule["annotations"].values():
            assert text.count("{{") == text.count("}}")
            assert {*re.findall(r"\$labels\.(\w+)", text)} <= kept, rule["alert"]
