"""Notices: one line of a kind in a minute, with how many were left out."""

from __future__ import annotations

import logging

import pytest

from wsworker.notices import LOG_SECONDS, Notices

logger = logging.getLogger("wsworker.worker")


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_of_a_kind_in_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The first is told, the others are counted, and the next one after the minute says how many."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    notices = Notices(logger, clock)
    for number in range(4):
        notices.tell("origin", "%s: refused %d", "192.0.2.1", number)
    notices.tell("rate", "another kind", level=logging.WARNING)
    clock.now += LOG_SECONDS
    notices.tell("origin", "%s: refused %d", "192.0.2.1", 4)
    clock.now += LOG_SECONDS
    notices.tell("origin", "%s: refused %d", "192.0.2.1", 5)
    assert [
        (logging.INFO, "192.0.2.1: refused 0"),
        (logging.WARNING, "another kind"),
        (logging.INFO, "192.0.2.1: refused 4 (and 3 more like it since the last such line)"),
        (logging.INFO, "192.0.2.1: refused 5"),
    ] == [(record.levelno, record.getMessage()) for record in caplog.records]


def test_whoever_debugs_sees_all(caplog: pytest.LogCaptureFixture) -> None:
    """What is left out is there at DEBUG; each says which connection it is about, or that it is about none."""
    caplog.set_level(logging.DEBUG)
    notices = Notices(logger, Clock())
    notices.tell("origin", "one")
    notices.tell("origin", "two", connection="srv-1.1.1")
    assert [("INFO", "one", None), ("DEBUG", "two", "srv-1.1.1")] == [
        (record.levelname, record.getMessage(), vars(record)["connection"]) for record in caplog.records
    ]
