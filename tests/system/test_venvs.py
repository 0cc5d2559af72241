"""An upgrade by a link that leads to another virtual environment: its script names another interpreter."""

from __future__ import annotations

import re
import shutil
import signal
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.system.daemon import PACKAGE, Daemon


class Linked(Daemon):
    """A service that is started by a script in a virtual environment to which a link leads.

    head: of the script, in which PYTHON stands for the environment's own.
    """

    def __init__(self, head: str) -> None:
        super().__init__()
        self._head = head
        del self.environ["PYTHONPATH"]
        for version in ("1.0.0", "2.0.0"):
            self._make(self.folder / version)
        self.lead_to("1.0.0")

    def lead_to(self, version: str) -> None:
        """Have the link lead to an environment."""
        half = self.folder / "half"
        half.symlink_to(version)
        half.replace(self.folder / "current")

    def _make(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        shutil.copytree(PACKAGE, packages / "wsworker")
        (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
        metadata = packages / f"wsworker-{folder.name}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: wsworker\nVersion: {folder.name}\n")
        script = folder / "bin" / "wsworker"
        head = self._head.replace("PYTHON", str(folder / "bin" / "python"))
        script.write_text(f"{head}\nimport sys\nfrom wsworker.__main__ import main\nsys.exit(main())\n")
        script.chmod(0o755)

    def _command(self, command: str, *arguments: str) -> Sequence[str]:
        return [str(self.folder / "current" / "bin" / "wsworker"), command, "-c", self.config.name, *arguments]


@pytest.mark.parametrize(
    "head",
    ["#!PYTHON", "#!PYTHON -P", "#!/bin/sh\n'''exec' PYTHON \"$0\" \"$@\"\n' '''"],
    ids=["plain", "option", "shell"],
)
def test_the_script_that_a_link_leads_to(head: str) -> None:
    """It is run by its own interpreter, so the version of that environment takes over; as pip writes such scripts."""
    with Linked(head) as daemon:
        daemon.start()
        before = daemon.status()
        daemon.lead_to("2.0.0")
        done = daemon.cli("upgrade")
        assert 0 == done.code, (done.err, daemon.log)
        after = daemon.status()
        assert ("1.0.0", "2.0.0") == (before["version"], after["version"])
        assert before["pid"] == after["pid"]
        assert "note: wsworker 2.0.0 has taken over from 1.0.0" in done.err
        shutil.rmtree(daemon.folder / "1.0.0")
        again = daemon.cli("upgrade")
        assert (0, "2.0.0") == (again.code, daemon.status()["version"])


def test_an_environment_that_is_incomplete() -> None:
    """The upgrade is refused with what Python has said, and where; the version that runs goes on."""
    with Linked("#!PYTHON") as daemon:
        daemon.start()
        daemon.lead_to("2.0.0")
        (file,) = daemon.folder.glob("2.0.0/lib/python*/site-packages/wsworker/master/view.py")
        file.write_text(f"{file.read_text()}\nimport nothing_there\n")
        done = daemon.cli("upgrade")
        assert (1, "", "1.0.0") == (done.code, done.out, daemon.status()["version"])
        *_, line = done.err.splitlines()
        assert line.startswith("error: not upgraded, and nothing has changed: the new program does not start: ")
        assert "ModuleNotFoundError: No module named 'nothing_there' (File " in line
        assert re.search(r'/wsworker/master/view\.py", line \d+, in <module>\)$', line), line


def test_an_environment_without_its_interpreter() -> None:
    """The upgrade is refused, and nothing has changed; once the environment is whole, another one goes well."""
    with Linked("#!PYTHON") as daemon:
        daemon.start()
        before = daemon.status()
        daemon.lead_to("2.0.0")
        python = daemon.folder / "2.0.0" / "bin" / "python"
        python.rename(python.with_name("away"))
        daemon.signal(signal.SIGUSR2)
        script = daemon.folder / "current" / "bin" / "wsworker"
        daemon.wait_log(f"upgrade refused: {script} cannot be executed: No such file or directory")
        after = daemon.status()
        assert [before[key] for key in ("version", "pid", "generation")] == [
            after[key] for key in ("version", "pid", "generation")
        ]
        python.with_name("away").rename(python)
        assert 0 == daemon.cli("upgrade").code
        assert "2.0.0" == daemon.status()["version"]
