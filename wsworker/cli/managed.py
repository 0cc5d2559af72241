"""Who looks after a master: the systemd unit it is the main process of, if any; and where its log can be read.

The master's environment would say so (INVOCATION_ID, systemd.exec(5)), but a process title overwrites what
/proc/PID/environ shows, and terminals hand the variable on to everything started in them. So three facts decide, which
nobody inherits by accident: systemd is the parent, the process leads its session (systemd gives each unit one, while
`start -d` ends up in a session that it does not lead), and its control group is a service.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Unit:
    """A systemd service; by_user: of the user's own systemd and not of the system's."""

    name: str
    by_user: bool

    @property
    def systemctl(self) -> str:
        """The command that talks to the systemd of this unit."""
        return "systemctl --user" if self.by_user else "systemctl"

    @property
    def journalctl(self) -> str:
        """The command that shows its log."""
        return f"journalctl --user -u {self.name}" if self.by_user else f"journalctl -u {self.name}"


def unit_of(pid: int, proc: Path = PROC) -> Unit | None:
    """Return the unit that a process is the main process of, or None; also None if it is gone or not ours to see."""
    try:
        # proc(5), /proc/PID/stat: behind the name in brackets come state, parent, process group and session
        _, parent, _, session = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[:4]
        name = unit_name((proc / str(pid) / "cgroup").read_text())
        manager = (proc / parent / "comm").read_text().strip()
    except (OSError, ValueError):
        return None
    if name is None or manager != "systemd" or session != str(pid):
        return None
    return Unit(name, by_user=parent != "1")


def unit_name(cgroup: str) -> str | None:
    """Return the service in the text of /proc/PID/cgroup, or None. cgroups(7); both versions have such lines."""
    paths = [
        line.split(":", 2)[2] for line in cgroup.splitlines() if line.startswith("0::") or ":name=systemd:" in line
    ]
    names = [path.rpartition("/")[2] for path in paths]
    return next((name for name in names if name.endswith(".service")), None)


def log_place(file: str, pid: int, proc: Path = PROC) -> str:
    """Say where the log of a master is. file: `log.file` of its configuration, "-" for its standard error."""
    if file != "-":
        return file
    try:
        target = os.readlink(proc / str(pid) / "fd" / "2")
    except OSError:
        target = ""
    if target.startswith(("/dev/pts/", "/dev/tty")):
        return f"terminal of pid {pid}"
    if target.startswith("/") and not target.startswith("/dev/"):
        return target
    unit = unit_of(pid, proc)
    return unit.journalctl if unit and target.startswith("socket:") else f"standard error of pid {pid}"
