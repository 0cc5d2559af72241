"""Whether a report of changed files means a reload."""

from __future__ import annotations

import pytest

from wsworker.master.following import Following


def test_the_first_report_of_a_change_means_a_reload() -> None:
    """The others see the same files and have the same mark; the next save has another one."""
    following = Following(on=True)
    assert [True, False, True, True] == [following.changed(mark) for mark in ("one", "one", "two", "one")]


@pytest.mark.parametrize(("by_canary", "expected"), [(True, False), (False, True)])
def test_what_the_canary_has_loaded_needs_no_other_reload(by_canary: bool, expected: bool) -> None:
    """Whoever tells of it; what a worker behind the canary has loaded is in no reload yet."""
    following = Following(on=True)
    following.loaded("one", by_canary)
    assert expected == following.changed("one")


def test_what_a_canary_has_loaded_is_remembered_until_the_next_one() -> None:
    """A worker that starts in between says nothing of it."""
    following = Following(on=True)
    for mark, by_canary in (("one", True), ("two", False)):
        following.loaded(mark, by_canary)
    assert not following.changed("one")
    following.loaded("two", by_canary=True)
    assert following.changed("one, again")
    assert not following.changed("two")


def test_a_service_that_does_not_follow() -> None:
    """Nothing that a worker says is listened to."""
    following = Following(on=False)
    following.loaded("one", by_canary=True)
    assert not following.changed("two")
    assert Following(on=False) == following
