"""Whether a report of changed files means a reload."""

from __future__ import annotations

import pytest

from wsworker.master.following import Following


def test_the_first_report_of_a_change_means_a_reload() -> None:
    """The others see the same files and have the same mark; the next save has another one."""
    following = Following(on=True)
    reports = [("app.py", "one"), ("app.py", "one"), ("app.py", "two"), ("app.py", "one")]
    assert [True, False, True, True] == [following.wants_reload(*report, by_canary=False) for report in reports]


@pytest.mark.parametrize(("by_canary", "expected"), [(True, False), (False, True)])
def test_what_the_canary_has_loaded_needs_no_other_reload(by_canary: bool, expected: bool) -> None:
    """Whoever tells of it; what a worker behind the canary has loaded is in no reload yet."""
    following = Following(on=True)
    assert not following.wants_reload("", "one", by_canary=by_canary)
    assert expected == following.wants_reload("app.py", "one", by_canary=False)


def test_what_a_canary_has_loaded_is_remembered_until_the_next_one() -> None:
    """A worker that starts in between says nothing of it."""
    following = Following(on=True)
    for mark, by_canary in (("one", True), ("two", False)):
        following.wants_reload("", mark, by_canary=by_canary)
    assert not following.wants_reload("app.py", "one", by_canary=False)
    following.wants_reload("", "two", by_canary=True)
    assert following.wants_reload("app.py", "one, again", by_canary=False)
    assert not following.wants_reload("app.py", "two", by_canary=False)


def test_a_service_that_does_not_follow() -> None:
    """Nothing that a worker says is listened to."""
    following = Following(on=False)
    assert not following.wants_reload("", "one", by_canary=True)
    assert not following.wants_reload("app.py", "two", by_canary=False)
    assert Following(on=False) == following
