"""The quota: what a client may send at once and over time, and what it is not blamed for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.sections import WebSocketConfig
from wsworker.worker.quota import FRAME_BYTES, Quota

BEGIN = 1000.0
TOO_MANY = "more than websocket.rate_messages = 10"
TOO_MUCH = "more than websocket.rate_bytes = 10000"


def _quota(*, rate_messages: int = 10, rate_bytes: int = 10_000, max_size: int = 1000) -> Quota:
    return Quota(WebSocketConfig(rate_messages=rate_messages, rate_bytes=rate_bytes, max_size=max_size), BEGIN)


# messages


def test_a_second_of_messages_may_come_at_once() -> None:
    """The one behind them is over, and the reason names the setting."""
    quota = _quota()
    assert (10, None) == quota.take_messages(10, BEGIN)
    assert (0, TOO_MANY) == quota.take_messages(1, BEGIN)


def test_a_run_is_taken_as_far_as_it_goes() -> None:
    """The verdict is on the first one that is too many, so those before it can be handled."""
    quota = _quota()
    assert (7, None) == quota.take_messages(7, BEGIN)
    assert (3, TOO_MANY) == quota.take_messages(200, BEGIN)


def test_the_right_to_send_comes_back_with_time_and_does_not_grow_beyond_a_second() -> None:
    """A tenth of a second is one message of ten a second; an hour of silence is ten of them."""
    quota = _quota()
    assert (10, None) == quota.take_messages(10, BEGIN)
    assert (1, TOO_MANY) == quota.take_messages(2, BEGIN + 0.1)
    assert (10, TOO_MANY) == quota.take_messages(11, BEGIN + 3600)


def test_one_message_a_second_is_a_rate_too() -> None:
    """The lowest rate lets the first message in."""
    quota = _quota(rate_messages=1)
    assert (1, None) == quota.take_messages(1, BEGIN)
    assert (0, "more than websocket.rate_messages = 1") == quota.take_messages(1, BEGIN + 0.9)
    assert (1, None) == quota.take_messages(1, BEGIN + 1)


def test_what_is_given_back_was_not_taken() -> None:
    """A run that is stopped in the middle comes again and is not counted twice."""
    quota = _quota()
    for _ in range(50):
        assert (10, TOO_MANY) == quota.take_messages(200, BEGIN)
        quota.give_back(10)
    assert (10, None) == quota.take_messages(10, BEGIN)
    assert (0, TOO_MANY) == quota.take_messages(1, BEGIN)


def test_a_rate_that_is_off_lets_everything_through() -> None:
    """Each of the two is off by itself."""
    messages, size = _quota(rate_bytes=0), _quota(rate_messages=0)
    assert messages.take_bytes(10**9, BEGIN) is None
    assert (10**6, None) == size.take_messages(10**6, BEGIN)
    size.give_back(10**6)
    assert TOO_MUCH == size.take_bytes(10**9, BEGIN)


# bytes


def test_a_second_of_bytes_may_come_at_once() -> None:
    """The read with the first byte above that is over."""
    quota = _quota()
    assert quota.take_bytes(9_999, BEGIN) is None
    assert TOO_MUCH == quota.take_bytes(2, BEGIN)
    assert quota.take_bytes(1, BEGIN) is None
    assert TOO_MUCH == quota.take_bytes(1, BEGIN)
    assert quota.take_bytes(10_000, BEGIN + 1) is None


def test_one_message_of_max_size_may_always_come_at_once() -> None:
    """Even if it is more than a second of bytes; its header is not held against it."""
    quota = _quota(max_size=50_000)
    assert quota.take_bytes(50_000 + FRAME_BYTES, BEGIN) is None
    assert TOO_MUCH == quota.take_bytes(1, BEGIN)
    assert quota.take_bytes(10_000, BEGIN + 1) is None
    assert TOO_MUCH == quota.take_bytes(1, BEGIN + 1)


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=30), later=st.floats(0, 2))
def test_the_verdict_does_not_depend_on_how_bytes_are_split(sizes: list[int], later: float) -> None:
    """What may come in one read may come in many, and what may not may not."""
    whole, split = _quota(), _quota()
    for quota in (whole, split):
        assert quota.take_bytes(8_000, BEGIN) is None
    verdicts = [split.take_bytes(size, BEGIN + later) for size in sizes]
    assert whole.take_bytes(sum(sizes), BEGIN + later) == next(filter(None, verdicts), None)


# over time

steps = st.lists(
    st.tuples(st.floats(0, 3), st.integers(0, 40), st.sampled_from(["", "stops", "goes on"])), min_size=1, max_size=20
)


@given(steps)
def test_over_time_no_more_than_the_rate_comes_through(steps: list[tuple[float, int, str]]) -> None:
    """In all time since the begin: a second's worth, and the rate; pauses of ours make it no more."""
    quota, now = _quota(), BEGIN
    messages = size = 0
    for seconds, count, change in steps:
        now += seconds
        if change:
            quota.mind_reading(change == "goes on", now)
        messages += quota.take_messages(count, now)[0]
        if quota.take_bytes(count * 500, now) is None:
            size += count * 500
        assert messages <= 10 * (1 + now - BEGIN) + 0.01
        assert size <= 10_000 * (1 + now - BEGIN) + 10


@given(
    pauses=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 20)), max_size=6),
    looks=st.floats(0.1, 0.9),
)
def test_who_keeps_to_the_rate_is_never_over(pauses: list[tuple[float, float]], looks: float) -> None:
    """However long our side does not read, and how often: all of it comes at once when it does."""
    quota, now = _quota(), BEGIN
    handled = 0

    def read() -> None:
        nonlocal handled
        sent = int((now - BEGIN) * 10)
        assert (sent - handled, None) == quota.take_messages(sent - handled, now)
        assert quota.take_bytes((sent - handled) * 1000, now) is None
        handled = sent

    for reading, stopped in pauses:
        for _ in range(int(reading / looks)):
            now += looks
            read()
        quota.mind_reading(False, now)
        now += stopped
        quota.mind_reading(True, now)
        read()


def test_the_messages_that_wait_may_be_handled_while_the_socket_is_not_read() -> None:
    """They were sent before it was stopped, or by and by since: a slow on_message is not the client's fault."""
    quota = _quota()
    assert (10, None) == quota.take_messages(10, BEGIN)
    quota.mind_reading(False, BEGIN)
    assert (0, TOO_MANY) == quota.take_messages(1, BEGIN)
    assert (30, TOO_MANY) == quota.take_messages(100, BEGIN + 3)


def test_what_a_pause_allows_is_lost_when_it_is_not_used() -> None:
    """A second after reading goes on the kernel is empty, and a client that comes later has a second's worth."""
    quota = _quota()
    quota.mind_reading(False, BEGIN)
    quota.mind_reading(True, BEGIN + 60)
    assert (600, None) == quota.take_messages(600, BEGIN + 60.9)
    assert (10, TOO_MANY) == quota.take_messages(600, BEGIN + 70)


def test_one_pause_behind_the_other_counts_as_one() -> None:
    """A handler that is always a little slow stops its client again and again; what waits for it adds up."""
    quota, now = _quota(), BEGIN
    for _ in range(100):
        quota.mind_reading(False, now)
        now += 0.5
        quota.mind_reading(True, now)
        now += 0.1
    assert (600, None) == quota.take_messages(600, now)


@pytest.mark.parametrize("rate", [1, 3, 7, 1000, 10**6])
def test_no_message_is_lost_to_rounding(rate: int) -> None:
    """At any time of a clock that has run for years, a full second's worth is exactly that."""
    for begin in (0.1, 12345.678, 10**8 + 1 / 3):
        quota = Quota(WebSocketConfig(rate_messages=rate), begin)
        assert (rate, None) == quota.take_messages(rate, begin)
        assert (0, f"more than websocket.rate_messages = {rate}") == quota.take_messages(1, begin)
