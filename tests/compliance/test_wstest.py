"""wstest is run with a deadline, and what it leaves undone is told. A script of the shell stands in for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.compliance import wstest

BEGIN = "Running test case ID {} for agent wsworker from peer tcp4:127.0.0.1:9001"


def test_the_output_is_kept(tmp_path: Path) -> None:
    """All that wstest prints is in the log."""
    wstest.fuzz(["echo", BEGIN.format("1.1.1")], 1, tmp_path / "log", 60)
    assert f"{BEGIN.format('1.1.1')}\n" == (tmp_path / "log").read_text()


def test_progress_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From time to time a line says how far it is."""
    monkeypatch.setattr(wstest, "PROGRESS_SECONDS", 0)
    wstest.fuzz(["printf", f"hello\n{BEGIN.format('1.1.1')}\n{BEGIN.format('6.4.3')}\n"], 2, tmp_path / "log", 60)
    assert "  1 of 2, now 1.1.1\n  2 of 2, now 6.4.3\n" == capsys.readouterr().out


def test_a_run_without_end_is_given_up(tmp_path: Path) -> None:
    """It is killed at its deadline, and the case that hangs is named."""
    command = ["sh", "-c", f"echo {BEGIN.format('7.1.5')}; exec sleep 60"]
    with pytest.raises(wstest.RunError, match=r"not done after 4 s; the last case that it began is 7\.1\.5"):
        wstest.fuzz(command, 2, tmp_path / "log", 4)


def test_a_failure_is_told(tmp_path: Path) -> None:
    """The sentence names the log."""
    with pytest.raises(wstest.RunError, match=re.escape(f"wstest has failed; see {tmp_path / 'log'}")):
        wstest.fuzz(["sh", "-c", "exit 3"], 2, tmp_path / "log", 60)
