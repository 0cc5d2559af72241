"""Row 19 of the fault matrix: a file of TLS that cannot be used, at the start and at a reload."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import HOST, Authority
from tests.system.clients import UPGRADE, ask_raw, raw
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, Daemon, eventually
from tests.system.faults.world import NOISE_SECONDS, knock


def missing(file: Path) -> None:
    """Take the file away."""
    file.unlink()


def unreadable(file: Path) -> None:
    """Put something there that even root cannot read."""
    file.unlink()
    file.mkdir()


def broken(file: Path) -> None:
    """Cut the file off in its middle."""
    file.write_text(file.read_text()[:200])


SPOILS = pytest.mark.parametrize("spoil", [missing, unreadable, broken])
KEYS = pytest.mark.parametrize("key", ["certfile", "keyfile"])


def place(daemon: Daemon) -> str:
    """Return the beginning of the place of a key in the section tls, which stands on one line."""
    return f"config.yaml:{[*daemon.settings].index('tls') + 1}:"


@SPOILS
@KEYS
def test_row_19_a_tls_file_is_spoilt_before_the_start(
    make_daemon: MakeDaemon, tmp_path: Path, key: str, spoil: Callable[[Path], None]
) -> None:
    """Exit 78 and one sentence with the place of the setting; the port never listened, nobody is left."""
    pair = Authority(tmp_path).issue("one")
    daemon = make_daemon(WHO, workers=2, tls=pair.settings)
    spoil(Path(pair.settings[key]))
    starting = daemon.launch()
    answers = set()

    def ended() -> bool:
        answers.add(knock(daemon))
        return starting.poll() is not None

    eventually(ended, "the end of the start", 2 + NOISE_SECONDS)
    assert 78 == daemon.wait_exit()
    assert {errno.ECONNREFUSED} == answers
    first, _, _ = daemon.log.partition("\n")
    assert first.startswith(place(daemon))
    assert f": error: tls.{key}: " in first
    assert pair.settings[key] in first
    assert "Traceback" not in daemon.log
    assert not daemon.processes()


@SPOILS
@KEYS
def test_row_19_a_tls_file_is_spoilt_before_a_reload(
    make_daemon: MakeDaemon, tmp_path: Path, key: str, spoil: Callable[[Path], None]
) -> None:
    """The reload is refused with that sentence; every worker goes on with what it has, and none speaks plain text."""
    authority = Authority(tmp_path)
    pair = authority.issue("one")
    daemon = make_daemon(WHO, workers=2, tls=pair.settings).start()
    before = daemon.workers
    spoil(Path(pair.settings[key]))
    refused = daemon.cli("reload")
    assert (1, "") == (refused.code, refused.out)
    assert f"{place(daemon)}" in refused.err
    assert f": error: tls.{key}: " in refused.err
    refused.check_tone()
    assert (before, 1) == (daemon.workers, daemon.status()["generation"])
    for _ in range(10):
        with raw(daemon) as sock, authority.client().wrap_socket(sock, server_hostname=HOST) as client:
            assert "one" in str(client.getpeercert())
        assert b"HTTP" not in ask_raw(daemon, UPGRADE)


def test_row_19_a_tls_file_is_spoilt_for_a_worker(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """A worker that has died comes back with the next start of its slot that finds good files; the others serve."""
    authority = Authority(tmp_path)
    pair = authority.issue("one")
    daemon = make_daemon(WHO, workers=2, tls=pair.settings).start()
    key = pair.keyfile.read_text()
    missing(pair.keyfile)
    first, second = daemon.workers
    os.kill(first, signal.SIGKILL)
    daemon.wait_log("worker 1 does not start: tls.keyfile: there is no file")
    status = daemon.wait_status(lambda status: status["workers"][0]["last_exit"])
    assert ("app", 78) == (status["workers"][0]["last_exit"]["class"], status["workers"][0]["last_exit"]["code"])
    with raw(daemon) as sock, authority.client().wrap_socket(sock, server_hostname=HOST):
        pass
    pair.keyfile.write_text(key)
    status = daemon.wait_status(lambda status: status["state"] == "running")
    assert second == status["workers"][1]["pid"]
