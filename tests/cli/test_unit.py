"""`wsworker unit`: what stands in it, and that systemd reads the paths as they are."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Place, Result
from wsworker.cli.failures import Failed
from wsworker.cli.rights import Worker
from wsworker.cli.unit import (
    PACKAGED,
    Here,
    account,
    argument,
    here,
    hindrances,
    notes,
    plain,
    read_by,
    render,
    values,
    word,
)
from wsworker.config import Config
from wsworker.judging import validate

STRANGER = Worker("nosuchuser", -1, frozenset())
ROOT = Path(__file__).parents[2]
HERE = Here(("/srv/env/bin/wsworker",), ("/srv/env", "/usr"), "ann")


def config(**settings: Any) -> Config:
    """Return a configuration whose file lies in /srv/hello."""
    made = validate({"name": "hello", "app": "app", "app_dir": ".", **settings}, "/srv/hello")
    assert not isinstance(made, list), made
    return made


def lines(given: dict[str, str | None]) -> list[str]:
    """Return the lines of a unit without the comments."""
    return [line for line in render(given).splitlines() if not line.startswith("#")]


def test_the_shipped_unit_is_made_from_the_same_template() -> None:
    """systemd/wsworker.service is the template with the paths of a distribution."""
    assert (ROOT / "systemd" / "wsworker.service").read_text() == render(PACKAGED)


def test_the_unit_of_a_service() -> None:
    """Its own program, config, folders and user; everything else is as shipped."""
    mine = lines(values(config(), "/srv/hello/config.yaml", HERE))
    shipped = lines({**PACKAGED})
    assert [
        "Description=wsworker hello",
        "User=ann",
        "Group=ann",
        "WorkingDirectory=/srv/hello",
        "EnvironmentFile=-/etc/default/wsworker-hello",
        "ExecStart=/srv/env/bin/wsworker start -c /srv/hello/config.yaml",
        "ExecReload=/srv/env/bin/wsworker reload -c /srv/hello/config.yaml",
        "RuntimeDirectory=wsworker/hello",
        "StateDirectory=wsworker/hello",
        "LogsDirectory=wsworker/hello",
    ] == [line for line in mine if line not in shipped]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"user": "nobody"}, ["User=nobody"]),
        ({"graceful_timeout": "5m"}, ["TimeoutStopSec=315"]),
        ({"boot_timeout": "5m"}, ["TimeoutStartSec=615"]),
        (
            {"listen": "127.0.0.1:80"},
            [
                "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
                "AmbientCapabilities=CAP_NET_BIND_SERVICE",
                "PrivateUsers=no",
            ],
        ),
        ({"app_dir": "/home/ann/app"}, ["ProtectHome=read-only"]),
        ({"tls.certfile": "/home/ann/hello.pem"}, ["ProtectHome=read-only"]),
        ({"app_dir": "/home2/app"}, []),
        ({"http.static": "/var/tmp/public"}, ["PrivateTmp=no"]),
        (
            {"admin.listen": "127.0.0.1:443"},
            [
                "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
                "AmbientCapabilities=CAP_NET_BIND_SERVICE",
                "PrivateUsers=no",
            ],
        ),
        ({"admin.listen": "unix:/run/hello/admin.sock"}, ["ReadWritePaths=-/run/hello"]),
        ({"log.file": "/var/log/wsworker/hello/log"}, []),
        ({"log.file": "/var/log/wsworker/hello.log"}, ["LogsDirectory=wsworker wsworker/hello"]),
        ({"log.file": "/var/log/wsworker/other/log"}, ["ReadWritePaths=-/var/log/wsworker/other"]),
        ({"listen": "unix:/run/wsworker/hello/ws"}, []),
        (
            {"listen": "unix:/run/wsworker/hello.ws", "pidfile": "/run/wsworker/hello.pid"},
            ["RuntimeDirectory=wsworker wsworker/hello", "RuntimeDirectoryPreserve=yes"],
        ),
        ({"pidfile": "/var/lib/wsworker/hello.pid"}, ["StateDirectory=wsworker wsworker/hello"]),
        (
            {"log.file": "/srv/my logs/log", "pidfile": "/srv/hello/pid", "listen": "unix:/run/hello/ws"},
            ['ReadWritePaths="-/srv/my logs" -/srv/hello -/run/hello'],
        ),
    ],
)
def test_what_a_configuration_asks_of_the_sandbox(settings: dict[str, Any], expected: list[str]) -> None:
    """It is granted, and nothing else."""
    base = lines(values(config(), "/srv/hello/config.yaml", HERE))
    mine = lines(values(config(**settings), "/srv/hello/config.yaml", HERE))
    assert expected == [line for line in mine if line not in base and not line.startswith("Group=")]


def test_words_and_lines() -> None:
    """What means something to systemd is kept from it, in each of the three places where a path may stand."""
    path = '/srv/a b/100%/"x"\\y/$HOME'
    assert '/srv/a b/100%%/"x"\\y/$HOME' == plain(path)
    assert '"/srv/a b/100%%/\\"x\\"\\\\y/$HOME"' == word(path)
    assert '"/srv/a b/100%%/\\"x\\"\\\\y/$$HOME"' == argument(path)
    assert "/srv/hello" == word("/srv/hello") == argument("/srv/hello") == plain("/srv/hello")
    assert "/srv/100%%" == word("/srv/100%")


@pytest.mark.parametrize("path", ["/srv/a\nExecStart=/bin/sh", "/srv/a ", "/srv/a\\", "/srv/\udcff", "/srv/a\x1b"])
def test_what_no_unit_can_hold(path: str) -> None:
    """A path that would end its line, or lose its end, is refused."""
    for written in (plain, word, argument):
        with pytest.raises(Failed, match="cannot be written in a systemd unit; rename it"):
            written(path)


def test_programs_that_systemd_does_not_start() -> None:
    """It takes no quotes in the name of a program."""
    with pytest.raises(Failed, match="cannot be started by systemd; move the virtual environment"):
        values(config(), "/srv/hello/config.yaml", Here(("/srv/ann's/bin/wsworker",), (), "ann"))


def test_systemd_reads_it(tmp_path: Path, require: Callable[[str], str]) -> None:
    """Nothing is said of the unit of a service whose paths have everything that a path may have."""
    analyze = require("systemd-analyze")
    folder = tmp_path / "a b 100% $HOME ü"
    folder.mkdir()
    program = folder / "wsworker"
    shutil.copy(shutil.which("true") or "", program)
    where = Here((str(program),), (), "root")
    folder = tmp_path / "a b 100% \"x\" '$HOME' \\y ü"
    settings = {"listen": "127.0.0.1:80", "log.file": str(folder / "log")}
    unit = tmp_path / "hello.service"
    unit.write_text(render(values(config(**settings), str(folder / "config.yaml"), where)))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert "" == done.stderr
    # it finds the program by what it read, so another path is noticed
    unit.write_text(unit.read_text().replace("100%%", "101%%"))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert "101%" in done.stderr


def test_who_calls() -> None:
    """The program of this environment; without one, the interpreter with the package, which is no part of a folder."""
    found = here()
    script = Path(sys.executable).with_name("wsworker")
    if script.exists():
        assert (str(script),) == found.program
    else:
        assert ("-P", "-m", "wsworker") == found.program[1:]
    assert (sys.prefix, sys.base_prefix) == found.interpreter


def test_notes() -> None:
    """What is set here and not there is named, and a user who is not there."""
    environ = {"WSWORKER_LISTEN": "x", "WSWORKER_CONFIG": "x", "WSWORKER_TEST_REQUIRE": "x", "PATH": "x"}
    text = "WSWORKER_LISTEN is set here and not in the unit; write it into /etc/default/wsworker-hello"
    assert [text] == [*notes(config(), environ, "root")]
    assert [text] == [*notes(config(user="root"), environ, "nosuchuser")]
    assert ["there is no user nosuchuser yet; create it with: useradd --system nosuchuser"] == [
        *notes(config(), {}, "nosuchuser")
    ]


def test_files_of_the_broker() -> None:
    """The service reads what its URL names, also where systemd has to open a folder for that."""
    made = config(**{"bus.url": "tls://h?ca=/home/ann/ca.pem"})
    assert "/home/ann/ca.pem" in read_by(made, "/srv/hello/config.yaml", HERE)
    assert "read-only" == values(made, "/srv/hello/config.yaml", HERE)["home"]
    made = config(**{"bus.url": "unix:///tmp/valkey.sock"})
    assert "no" == values(made, "/srv/hello/config.yaml", HERE)["tmp"]


def test_what_the_user_cannot_get_at(tmp_path: Path) -> None:
    """A folder that is closed to the user, and a file, are notes with their cures; to root nothing is closed."""
    key = tmp_path / "key.pem"
    key.touch(0o600)
    tmp_path.chmod(0o700)
    (closed,) = hindrances(config(), [str(tmp_path / "env"), str(key)], STRANGER)
    assert re.fullmatch(r"user nosuchuser cannot read /\S+; move the service to /opt/hello, or set User=", closed)
    ann = Worker("ann", tmp_path.stat().st_uid, frozenset())
    assert [] == [*hindrances(config(), [str(key)], ann)]
    assert [] == [*hindrances(config(), [str(key)], Worker("root", 0, frozenset()))]
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        text = f"user nosuchuser cannot read {file.name}; give nosuchuser the right to, or set User="
        assert [text] == [*hindrances(config(), [file.name], STRANGER)]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that everybody gets at; tmp_path lies below one that is closed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_an_interpreter_that_the_user_cannot_get_at(open_folder: Path) -> None:
    """A service that lies elsewhere already need not move: a virtual environment of another Python is the cure."""
    home, service = open_folder / "home", open_folder / "service"
    python = home / "pyenv" / "bin" / "python3.11"
    python.parent.mkdir(parents=True)
    python.touch()
    (service / "env" / "bin").mkdir(parents=True)
    program = service / "env" / "bin" / "python"
    program.symlink_to(python)
    home.chmod(0o700)
    paths = [str(path) for path in (program, service / "env", home / "pyenv", service)]
    told = f"user nosuchuser cannot read {home}"
    cure = "make the virtual environment with a system Python, such as /usr/bin/python3"
    expected = [f"{told}, and the interpreter {python} is below it; {cure}"]
    assert expected == [*hindrances(config(), paths, STRANGER, str(python))]
    # what else is there has to move
    expected = [f"{told}; move the service to /opt/hello, or set User="]
    assert expected == [*hindrances(config(), [*paths, str(home / "app.py")], STRANGER, str(python))]
    assert os.path.realpath(sys.executable) == here().python


def test_a_home_that_is_seen_to_is_not_spoken_of() -> None:
    """The comment on ProtectHome= is for those who have yet to do something."""
    comment = "# An app or virtualenv under /home needs ProtectHome=read-only."
    assert comment in render(values(config(), "/srv/hello/config.yaml", HERE))
    assert comment not in render(values(config(app_dir="/home/ann"), "/srv/hello/config.yaml", HERE))
    assert comment in (ROOT / "systemd" / "wsworker@.service").read_text()


def test_whom_the_service_runs_as() -> None:
    """The configured user comes before who calls; one who is not there has no rights of his own."""
    where = Here(("/srv/env/bin/wsworker",), (), "nosuchuser")
    assert STRANGER == account(config(), where)
    found = account(config(user="root"), where)
    assert ("root", 0, True) == (found.name, found.uid, 0 in found.groups)


def test_the_command(place: Place, wsworker: Callable[..., Result]) -> None:
    """The unit alone on standard output; --json has it with the place where it belongs."""
    result = wsworker("unit")
    assert 0 == result.code
    assert result.out.startswith("[Unit]\nDescription=wsworker cli-test\n")
    assert result.out.endswith("[Install]\nWantedBy=multi-user.target\n")
    (start,) = (line for line in result.out.splitlines() if line.startswith("ExecStart="))
    assert ["start", "-c", str(place.config)] == shlex.split(start)[-3:]
    document = json.loads(wsworker("unit", "--json").out)
    assert {"schema": 1, "name": "cli-test", "path": "/etc/systemd/system/cli-test.service", "unit": result.out} == (
        document
    )


def test_a_wrong_config(place: Place, wsworker: Callable[..., Result]) -> None:
    """A service that does not start has no unit."""
    place.config.write_text("app: app\nworkers: none\n")
    result = wsworker("unit")
    assert (78, "") == (result.code, result.out)
    assert "config.yaml:2:10: error: " in result.err


def test_root_needs_a_user(place: Place, wsworker: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants a service to run as root because root has asked for its unit."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "\nUser=wsworker\n" in wsworker("unit").out
