"""`wsworker check`."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.cli.conftest import STATUS, Answering, Place, Result, Script
from wsworker import configfile
from wsworker.cli.check import (
    Finding,
    address_findings,
    as_written,
    backlog_findings,
    config_finding,
    files_findings,
    finding_lines,
    setting_rows,
    tls_findings,
)
from wsworker.config import ListenAddress


def loaded(place: Place, text: str = "", **environ: str) -> configfile.Loaded:
    """Load the test's config file with more lines."""
    place.config.write_text(f"app: app\n{text}")
    return configfile.load(Path("config.yaml"), environ, {})


def test_the_picture(place: Place, wsworker: Callable[..., Result]) -> None:
    """A row for each thing that is in order: 0."""
    place.config.write_text(place.config.read_text() + "worker_connections: 10\n")
    result = wsworker("check")
    assert (0, "") == (result.code, result.err)
    rows = [line.split(maxsplit=2) for line in result.out.splitlines()]
    assert [["config.yaml", "ok"], ["app", "ok"], ["listen", "ok"], ["files", "ok"]] == [row[:2] for row in rows]
    assert ["4 keys", f"on_message   {place.folder / 'app.py'}"] == [rows[0][2], rows[1][2]]
    assert f"unix:{place.folder / 'cli.ws'} is free" == rows[2][2]


def test_order_of_findings() -> None:
    """What is in order comes first, errors come last, where a person looks."""
    findings = [Finding("a", "failed", "bad"), Finding("b", "warning", "so so"), Finding("long", "ok", "fine")]
    expected = ["long   ok   fine", "\x1b[33mwarning:\x1b[0m so so", "\x1b[31merror:\x1b[0m bad"]
    assert expected == finding_lines(findings)


def test_where_keys_are_from(place: Place) -> None:
    """Keys of the environment are counted apart."""
    assert "1 key" == config_finding(loaded(place)).facts
    assert "2 keys (1 from environment)" == config_finding(loaded(place, WSWORKER_WORKERS="2")).facts


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def on_mesage(connection, data): pass\n", "'on_mesage' is not a callback; did you mean 'on_message'?"),
        ("import os\nos._exit(3)\n", "ended the process that imported it (exit 3)"),
    ],
)
def test_a_broken_app(place: Place, wsworker: Callable[..., Result], code: str, words: str) -> None:
    """What the app does wrong is told, and nothing it does ends the command: 78."""
    (place.folder / "app.py").write_text(code)
    result = wsworker("check")
    assert 78 == result.code
    assert words in result.out[result.out.index("error:") :]


def test_an_app_that_never_ends(place: Place, wsworker: Callable[..., Result]) -> None:
    """An import has the time that it would have in a worker."""
    place.config.write_text(place.config.read_text() + "boot_timeout: 500ms\n")
    (place.folder / "app.py").write_text("import signal\nsignal.pause()\n")
    result = wsworker("check")
    assert 78 == result.code
    assert "app 'app' was not imported within 0.5 s; see `boot_timeout`" in result.out


def test_a_wrong_config(place: Place, wsworker: Callable[..., Result]) -> None:
    """Without a configuration there is nothing else to look at: the problems, and 78."""
    place.config.write_text("wrokers: 4\n")
    result = wsworker("check")
    assert (78, "") == (result.code, result.out)
    assert "did you mean 'workers'?" in result.err
    assert "config_invalid" == json.loads(wsworker("check", "--json").out)["error"]["code"]


def test_an_address_in_use(place: Place) -> None:
    """It is an error, unless this service runs: then it is most probably its own."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = loaded(place, f"listen: 127.0.0.1:{other.getsockname()[1]}\n")
        failed, warned = [*address_findings(config, running=False)], [*address_findings(config, running=True)]
    assert [("listen", "failed")] == [(one.what, one.verdict) for one in failed]
    assert "address in use" in failed[0].facts
    assert "config.yaml:2:9" in failed[0].facts
    assert [("listen", "warning")] == [(one.what, one.verdict) for one in warned]


def test_an_address_of_another_machine(place: Place) -> None:
    """Whatever runs, an address that cannot be had is an error."""
    found = [*address_findings(loaded(place, "listen: 192.0.2.1:2346\n"), running=True)]
    assert ["failed"] == [one.verdict for one in found]


def test_while_the_service_runs(
    place: Place, wsworker: Callable[..., Result], running: Callable[[Script], Answering]
) -> None:
    """Its own addresses cost nothing."""
    master = running({"status": [STATUS]})
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(place.folder / "cli.ws"))
        own.listen()
        result = wsworker("check")
    assert 0 == result.code
    assert "is in use, as this service runs" in result.out
    assert [] == master.heard


def test_open_files(place: Place) -> None:
    """A worker needs a descriptor for each connection, and some more."""
    config = loaded(place)
    assert [("ok", "open-file limit 10064 >= 10000 connections + 64 in each worker")] == [
        (one.verdict, one.facts) for one in files_findings(config, 10064)
    ]
    assert "ok" == next(files_findings(config, resource.RLIM_INFINITY)).verdict
    short = next(files_findings(config, 10063))
    assert ("warning", True) == (short.verdict, short.facts.startswith("open-file limit 10063 is below 10000 "))
    short = next(files_findings(loaded(place, "worker_connections: 20000\n"), 10064))
    assert short.facts.startswith("config.yaml:2:21: open-file limit 10064 is below 20000 ")


def test_backlog(place: Place) -> None:
    """The kernel cuts a backlog in silence, so we say it."""
    config = loaded(place, "backlog: 8192\n")
    assert [] == [*backlog_findings(config, 8192)]
    expected = "config.yaml:2:10: backlog 8192 is above net.core.somaxconn 4096; the kernel will use 4096"
    assert [Finding("backlog", "warning", expected)] == [*backlog_findings(config, 4096)]


def test_certificates(place: Place) -> None:
    """Good files are a row, an expired certificate is a warning, and what cannot be used an error with its place."""
    assert [] == [*tls_findings(loaded(place))]
    authority = Authority(place.folder)
    pair = authority.issue("one")
    section = "tls:\n  keyfile: one.key\n  certfile: one.crt\n"
    assert [Finding("tls", "ok", f"{pair.certfile}, TLS 1.2 or newer")] == [*tls_findings(loaded(place, section))]
    authority.expired("one")
    (warned,) = tls_findings(loaded(place, section))
    text = f"config.yaml:4:13: clients will not take the certificate in {pair.certfile}: certificate has expired"
    assert ("tls", "warning", True) == (warned.what, warned.verdict, warned.facts.startswith(text))
    pair.keyfile.unlink()
    (failed,) = tls_findings(loaded(place, section))
    text = f"config.yaml:3:12: tls.keyfile: there is no file {pair.keyfile}; create it, or correct the path"
    assert Finding("tls", "failed", text) == failed


def test_addresses_in_json(place: Place) -> None:
    """They are shown as they are written, wherever they stand in a list."""
    config = loaded(place, 'listen: ["127.0.0.1:2346"]\nproxy_protocol: ["127.0.0.1:2346=v2"]\n')
    rows = {row["key"]: row["value"] for row in setting_rows(config)}
    assert (["127.0.0.1:2346"], ["127.0.0.1:2346=v2"]) == (rows["listen"], rows["proxy_protocol"])
    assert "none" == {row["key"]: row["value"] for row in setting_rows(loaded(place))}["proxy_protocol"]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (30.0, "seconds", "30s"),
        (0.25, "seconds", "0.25s"),
        (0.0, "seconds", "0"),
        (1048576, "bytes", "1MiB"),
        (3 * 1024**3, "bytes", "3GiB"),
        (65536, "bytes", "64KiB"),
        (1000, "bytes", "1000"),
        (0o27, "mode", '"0027"'),
        (4, "processes", "4"),
        (None, "", "null"),
        (True, "", "true"),
        ("auto", "processes", "auto"),
        ("-", "", '"-"'),
        ("*", "", '"*"'),
        ((), "", "[]"),
        ((ListenAddress("::", 2346),), "", '"[::]:2346"'),
        (("a", "b"), "", '["a", "b"]'),
    ],
)
def test_values_as_written(value: Any, unit: str, expected: str) -> None:
    """A value is shown as a person would write it in config.yaml."""
    assert expected == as_written(value, unit)


def test_what_is_printed_can_be_read_again(
    place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of --print, put into variables one by one, give the same configuration."""
    config = loaded(place, "workers: auto\numask: 022\nwebsocket: {origins: [https://a.example, https://b.example]}\n")
    rows = [line.split("  ", 1) for line in wsworker("check", "--print").out.split("\n\n")[0].splitlines()]
    shown = {key: rest.strip().rpartition("  ")[0].strip() for key, rest in rows}
    assert shown.pop("listen") == '"127.0.0.1:2346"'
    variables = {f"WSWORKER_{key.upper().replace('.', '__')}": value for key, value in shown.items()}
    assert configfile.load(place.config, variables, {}).config == config.config


def test_where_values_are_from(place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value has its origin: file with line and column, environment, default."""
    monkeypatch.setenv("WSWORKER_BACKLOG", "100")
    lines = [line.split() for line in wsworker("check", "--print").out.split("\n\n")[0].splitlines()]
    origins = {words[0]: " ".join(words[2:]) for words in lines}
    expected = ("config.yaml:2:6", "environment WSWORKER_BACKLOG", "default")
    assert expected == (origins["app"], origins["backlog"], origins["workers"])


def test_json(place: Place, wsworker: Callable[..., Result]) -> None:
    """The document has the findings, and with --print the settings as raw values."""
    document = json.loads(wsworker("check", "--json").out)
    assert {"schema", "result", "findings"} == document.keys()
    assert ["config.yaml", "app", "listen"] == [one["what"] for one in document["findings"]][:3]
    settings = json.loads(wsworker("check", "--json", "--print").out)["settings"]
    values = {row["key"]: row["value"] for row in settings}
    assert [f"unix:{place.folder / 'cli.ws'}"] == values["listen"]
    assert (30.0, 1048576, None) == (values["graceful_timeout"], values["websocket.max_size"], values["user"])
