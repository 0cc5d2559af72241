"""`wsworker check`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from tests.bare import bare_command, bare_path
from tests.cli.conftest import STATUS, Answering, Place, Result, Script
from tests.cli.test_findings import loaded
from wsworker import configfile
from wsworker.cli.check import finding_lines, setting_rows
from wsworker.cli.findings import Finding


def test_the_picture(place: Place, wsworker: Callable[..., Result]) -> None:
    """A row for each thing that is in order: 0."""
    place.config.write_text(place.config.read_text() + "worker_connections: 10\n")
    result = wsworker("check")
    assert (0, "") == (result.code, result.err)
    # root is warned of being root
    found = [line for line in result.out.splitlines() if "workers run as root" not in line]
    rows = [line.split(maxsplit=2) for line in found]
    assert [["config.yaml", "ok"], ["app", "ok"], ["listen", "ok"], ["files", "ok"]] == [row[:2] for row in rows]
    assert ["4 keys", f"on_message   {place.folder / 'app.py'}"] == [rows[0][2], rows[1][2]]
    assert f"unix:{place.folder / 'cli.ws'} is free" == rows[2][2]


def test_root_is_warned_of_being_root(place: Place, wsworker: Callable[..., Result]) -> None:
    """As each start does; nothing speaks against one: 0."""
    result = wsworker("check")
    warned = "warning: workers run as root; set `user` in config.yaml" in result.out.splitlines()
    assert (0, os.geteuid() == 0) == (result.code, warned)


def test_order_of_findings() -> None:
    """What is in order comes first, errors come last, where a person looks."""
    findings = [Finding("a", "failed", "bad"), Finding("b", "warning", "so so"), Finding("long", "ok", "fine")]
    expected = ["long   ok   fine", "\x1b[33mwarning:\x1b[0m so so", "\x1b[31merror:\x1b[0m bad"]
    assert expected == finding_lines(findings)


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


def test_a_path_that_is_no_text(place: Place, program: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown with its bytes spelt out, also where standard output takes UTF-8 and nothing else."""
    path = os.fsdecode(b"\xff.yaml")
    place.config.rename(path)
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    result = program("check", "-c", path, "--print")
    assert (0, "") == (result.code, result.err)
    rows = [line.split() for line in result.out.splitlines()]
    assert ["app", "app", "\\udcff.yaml:2:6"] in rows
    assert ["\\udcff.yaml", "ok"] in [row[:2] for row in rows]
    assert 0 == program("check", "-c", path, "--json").code


def test_a_wrong_config(place: Place, wsworker: Callable[..., Result]) -> None:
    """Without a configuration there is nothing else to look at: the problems, and 78."""
    place.config.write_text("wrokers: 4\n")
    result = wsworker("check")
    assert (78, "") == (result.code, result.out)
    assert "did you mean 'workers'?" in result.err
    assert "config_invalid" == json.loads(wsworker("check", "--json").out)["error"]["code"]


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
    assert "is in use, most probably by this service" in result.out
    assert [] == master.heard


def test_addresses_in_json(place: Place) -> None:
    """They are shown as they are written, wherever they stand in a list."""
    config = loaded(place, 'listen: ["127.0.0.1:2346"]\nproxy_protocol: ["127.0.0.1:2346=v2"]\n')
    rows = {row["key"]: row["value"] for row in setting_rows(config)}
    assert (["127.0.0.1:2346"], ["127.0.0.1:2346=v2"]) == (rows["listen"], rows["proxy_protocol"])
    assert "none" == {row["key"]: row["value"] for row in setting_rows(loaded(place))}["proxy_protocol"]


def test_what_is_printed_can_be_read_again(
    place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of --print, put into variables one by one, give the same configuration."""
    config = loaded(place, "workers: auto\numask: 022\nwebsocket: {origins: [https://a.example, https://b.example]}\n")
    rows = [line.split("  ", 1) for line in wsworker("check", "--print").out.split("\n\n")[0].splitlines()]
    shown = {key: rest.strip().rpartition("  ")[0].strip() for key, rest in rows}
    assert shown.pop("listen") == "127.0.0.1:2346"
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


SECRET = "hunter2"


def test_a_password_is_shown_nowhere(
    place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the values, right or wrong, from file or environment, for people or programs."""
    ways = (["check"], ["check", "--print"], ["check", "--json", "--print"], ["unit"], ["unit", "--json"])
    right = f"rediss://ada:{SECRET}@127.0.0.1:6390/2"
    wrong = [f"redis://{SECRET}@h", f"redis://ada:{SECRET}", f"redis://h?password={SECRET}", f"nats://{SECRET}@h:0"]
    for url in (right, *wrong, f"{SECRET} ", f"http://:{SECRET}@h"):
        for text, variable in ((f'bus: {{prefix: 5, url: "{url}"}}\n', ""), (f"bus:\n  url: {url}\n", ""), ("", url)):
            place.config.write_text(f"app: app\nlisten: unix:cli.ws\n{text}")
            monkeypatch.setenv("WSWORKER_BUS__URL", variable)
            if not variable:
                monkeypatch.delenv("WSWORKER_BUS__URL")
            for way in ways:
                result = wsworker(*way)
                assert SECRET not in result.out + result.err
                assert (url == right and "prefix" not in text) == (result.code == 0), (way, text, result)
    monkeypatch.setenv("WSWORKER_BUS__URL", right)
    row = next(line for line in wsworker("check", "--print").out.splitlines() if line.startswith("bus.url"))
    assert ["bus.url", "rediss://127.0.0.1:6390/2", "environment", "WSWORKER_BUS__URL"] == row.split()
    settings = json.loads(wsworker("check", "--print", "--json").out)["settings"]
    assert "rediss://127.0.0.1:6390/2" == {row["key"]: row["value"] for row in settings}["bus.url"]


def test_an_extra_that_is_missing(place: Place) -> None:
    """It is a mistake in the settings, with its line and with the command that puts it right."""
    place.config.write_text("app: app\nbus:\n  url: valkey://127.0.0.1\n")
    environ = os.environ | {"PYTHONPATH": bare_path(place.folder / "bare")}
    for command in ("check", "start"):
        run = subprocess.run(
            bare_command("-m", "wsworker", command),
            env=environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        sentence = 'config.yaml:3:8: error: bus.url needs the package redis: pip install "wsworker[redis]"'
        assert (78, sentence) == (run.returncode, run.stderr.splitlines()[0])
