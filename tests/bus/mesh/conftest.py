"""Links that wait for each other, however long the machine gives its time to others."""

from __future__ import annotations

import pytest

from wsworker.bus.mesh import link


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no greeting be late: a process that stands still for a second between two words would end the link."""
    monkeypatch.setattr(link, "GREETING_SECONDS", 600.0)
