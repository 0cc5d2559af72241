"""The systemd units in systemd/: judged by systemd where it is installed, and by what they must hold everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from wsworker.stats import MAX_SLOTS

FOLDER = Path(__file__).parent.parent / "systemd"
PLAIN = FOLDER / "wsworker.service"
TEMPLATE = FOLDER / "wsworker@.service"

BOTH = pytest.mark.parametrize(
    ("unit", "instance"), [(PLAIN, "wsworker.service"), (TEMPLATE, "wsworker@hello.service")], ids=["plain", "template"]
)

# What the template says instead of the plain unit; nothing else differs.
OF_THE_TEMPLATE = {
    "Description=wsworker WebSocket daemon": "Description=wsworker %i",
    "EnvironmentFile=-/etc/default/wsworker": "EnvironmentFile=-/etc/default/wsworker-%i",
    "ExecStart=/usr/bin/wsworker start -c /etc/wsworker/config.yaml": (
        "ExecStart=/usr/bin/wsworker start -c /etc/wsworker/%i.yaml"
    ),
    "ExecReload=/usr/bin/wsworker reload -c /etc/wsworker/config.yaml": (
        "ExecReload=/usr/bin/wsworker reload -c /etc/wsworker/%i.yaml"
    ),
    "RuntimeDirectory=wsworker": "RuntimeDirectory=wsworker/%i",
    "StateDirectory=wsworker": "StateDirectory=wsworker/%i",
    "LogsDirectory=wsworker": "LogsDirectory=wsworker/%i",
}


def assignments(unit: Path) -> list[tuple[str, str, str]]:
    """Return (section, key, value) of each assignment, in order; a key may come more than once."""
    found = []
    section = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.append((section, key, value))
    return found


def installed(unit: Path, folder: Path) -> Path:
    """Return a copy of a unit in folder whose programs exist on this machine."""
    program = shutil.which("true")
    assert program is not None
    copy = folder / unit.name
    copy.write_text(unit.read_text().replace("/usr/bin/wsworker", program))
    return copy


def verify(analyze: str, unit: Path, instance: str) -> str:
    """Return what `systemd-analyze verify` says of a unit; the exit code is 0 even for a Type that it does not know."""
    command = [analyze, "verify", "--man=no", str(unit.with_name(instance))]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@BOTH
def test_systemd_understands_every_line(
    unit: Path, instance: str, tmp_path: Path, require: Callable[[str], str]
) -> None:
    """Nothing at all is said of our units."""
    assert verify(require("systemd-analyze"), installed(unit, tmp_path), instance) == ""


@BOTH
def test_verify_notices_a_mistake(unit: Path, instance: str, tmp_path: Path, require: Callable[[str], str]) -> None:
    """The test above can fail: a misspelt key and an unknown type are reported on stderr."""
    analyze = require("systemd-analyze")
    path = installed(unit, tmp_path)
    path.write_text(path.read_text().replace("Type=notify", "Type=notfiy").replace("KillMode", "KilMode"))
    stderr = verify(analyze, path, instance)
    assert "notfiy" in stderr
    assert "KilMode" in stderr


@pytest.mark.parametrize("unit", [PLAIN, TEMPLATE], ids=["plain", "template"])
def test_the_sandbox_is_tight(unit: Path, tmp_path: Path, require: Callable[[str], str]) -> None:
    """`systemd-analyze security` rates the unit 2.0 or better; the threshold counts tenths."""
    analyze = require("systemd-analyze")
    path = str(installed(unit, tmp_path))
    command = [analyze, "security", "--no-pager", "--offline=true", "--threshold=20", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Overall exposure level" in result.stdout


def test_the_template_differs_only_where_it_must() -> None:
    """Every line is the same, except the ones that name the instance."""
    expected = [OF_THE_TEMPLATE.get(line, line) for line in PLAIN.read_text().splitlines()]
    assert expected == TEMPLATE.read_text().splitlines()
    assert len(OF_THE_TEMPLATE) == sum("%i" in line for line in expected)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("Type", "notify", "start and reload end when the master says so"),
        ("NotifyAccess", "main", "no worker speaks for the service"),
        ("KillMode", "mixed", "TERM reaches the master only, which drains its workers"),
        ("OOMPolicy", "continue", "a worker killed for its memory does not stop the others"),
        ("Restart", "on-failure", "a dead master comes back"),
        ("FileDescriptorStoreMax", "512", "the listeners outlive the master: the default drops them"),
        ("RestartPreventExitStatus", "2 78", "a wrong configuration is not started again and again"),
        ("WatchdogSec", "30", "a stuck master is noticed"),
        ("User", "wsworker", "not root"),
        ("CapabilityBoundingSet", "", "no capability at all"),
        ("NoNewPrivileges", "yes", "none by way of a setuid program either"),
        ("RuntimeDirectoryMode", "0750", "the control socket is nobody else's business"),
        ("UMask", "0027", "files are not world-readable"),
    ],
)
def test_what_the_service_rests_on(key: str, value: str, reason: str) -> None:
    """Each of these keys is set once, in [Service]."""
    found = [(section, text) for section, name, text in assignments(PLAIN) if name == key]
    assert found == [("Service", value)], reason


def test_keys_are_set_once() -> None:
    """A second assignment would silently replace the first; only the system call filter is a list of two."""
    keys = [key for _, key, _ in assignments(PLAIN)]
    assert {key for key in keys if keys.count(key) > 1} == {"SystemCallFilter"}


def test_nothing_breaks_python() -> None:
    """No key stands there that is known to break Python."""
    keys = {key for _, key, _ in assignments(PLAIN)}
    assert not keys & {"MemoryDenyWriteExecute", "ProcSubset"}


def test_the_store_holds_every_listener() -> None:
    """There is room for the listeners of as many workers as there can be, on two TCP addresses."""
    values = {key: value for _, key, value in assignments(PLAIN)}
    assert 2 * MAX_SLOTS == int(values["FileDescriptorStoreMax"])


def test_timeouts_leave_room() -> None:
    """A stop may take the default graceful_timeout of 30 s and the 5 s that the master adds; a start boot_timeout."""
    values = {key: value for _, key, value in assignments(PLAIN)}
    assert int(values["TimeoutStopSec"]) > 35
    assert int(values["TimeoutStartSec"]) > 60


def test_start_and_reload_use_one_configuration() -> None:
    """ExecReload asks the master that ExecStart started."""
    for unit in (PLAIN, TEMPLATE):
        values = {key: value for _, key, value in assignments(unit)}
        start = re.fullmatch(r"/usr/bin/wsworker start -c (\S+)", values["ExecStart"])
        reload = re.fullmatch(r"/usr/bin/wsworker reload -c (\S+)", values["ExecReload"])
        assert start is not None
        assert reload is not None
        assert start[1] == reload[1]
