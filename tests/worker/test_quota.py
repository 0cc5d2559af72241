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


# moved to another clock

# powers of two and eighths are exact in binary, so no verdict hangs on rounding
EXACT = WebSocketConfig(rate_messages=16, rate_bytes=2048, max_size=1000)
acts = st.lists(
    st.tuples(
        st.integers(0, 24).map(lambda eighths: eighths / 8),  # seconds until then
        st.sampled_from(["messages", "bytes", "give back", "stops", "goes on", "moves"]),
        st.integers(0, 40),
        st.integers(-(10**6), 10**6).map(lambda eighths: eighths / 8),  # what the other clock shows more
    ),
    max_size=30,
)


@given(acts)
def test_moved_it_gives_the_same_verdicts(acts: list[tuple[float, str, int, float]]) -> None:
    """However often, to whatever clock, and whether it is read or not."""
    stays, now, shift = Quota(EXACT, BEGIN), BEGIN, 0.0
    moves: Quota | None = Quota(EXACT, BEGIN)
    for seconds, act, count, other in acts:
        now += seconds
        assert moves is not None
        if act == "messages":
            assert stays.take_messages(count, now) == moves.take_messages(count, now + shift)
        elif act == "bytes":
            assert stays.take_bytes(count * 128, now) == moves.take_bytes(count * 128, now + shift)
        elif act == "give back":
            taken, _ = stays.take_messages(count, now)
            moves.take_messages(count, now + shift)
            stays.give_back(taken // 2)
            moves.give_back(taken // 2)
        elif act == "moves":
            moves = Quota.thaw(moves.freeze(now + shift), EXACT, now + other)
            shift = other
        else:
            stays.mind_reading(act == "goes on", now)
            moves.mind_reading(act == "goes on", now + shift)


def test_what_is_used_up_stays_so() -> None:
    """A move gives nobody a second's worth again, and takes nothing away either."""
    before = _quota()
    assert (10, None) == before.take_messages(10, BEGIN)
    assert before.take_bytes(10_000, BEGIN) is None
    settings = WebSocketConfig(rate_messages=10, rate_bytes=10_000, max_size=1000)
    quota = Quota.thaw(before.freeze(BEGIN), settings, 5.0)
    assert quota is not None
    assert TOO_MUCH == quota.take_bytes(1, 5.0)
    assert (0, TOO_MANY) == quota.take_messages(1, 5.0)
    assert quota.take_bytes(5_000, 5.5) is None
    assert (5, TOO_MANY) == quota.take_messages(6, 5.5)


def test_a_limit_that_is_off_now_is_none() -> None:
    """Both are off, or one of them."""
    state = _quota().freeze(BEGIN)
    assert Quota.thaw(state, WebSocketConfig(), 5.0) is None
    assert Quota.thaw(None, WebSocketConfig(), 5.0) is None
    messages = Quota.thaw(state, WebSocketConfig(rate_messages=10), 5.0)
    assert messages is not None
    assert messages.take_bytes(10**9, 5.0) is None
    assert (10, TOO_MANY) == messages.take_messages(11, 5.0)


@pytest.mark.parametrize(("rate_messages", "rate_bytes"), [(10, 0), (0, 10_000)])
def test_a_limit_that_is_new_begins_now(rate_messages: int, rate_bytes: int) -> None:
    """Whether there was none at all, or the other one; of the other one nothing is forgotten."""
    settings = WebSocketConfig(rate_messages=10, rate_bytes=10_000, max_size=1000)
    before = Quota(WebSocketConfig(rate_messages=rate_messages, rate_bytes=rate_bytes), BEGIN)
    assert (10, None) == before.take_messages(10, BEGIN)
    assert before.take_bytes(10_000, BEGIN) is None
    for state in (None, before.freeze(BEGIN)):
        quota = Quota.thaw(state, settings, 5.0)
        assert quota is not None
        used_up = state is not None and rate_messages
        assert (0 if used_up else 10, TOO_MANY) == quota.take_messages(11, 5.0)
        assert TOO_MUCH == quota.take_bytes(10_001, 5.0)
        assert quota.take_bytes(10_000, 5.0) is None


@pytest.mark.parametrize(("rate", "max_size"), [(100, 50_000), (100_000, 1000), (200, 1000)])
def test_who_kept_to_the_old_limit_is_not_over_the_new_one(rate: int, max_size: int) -> None:
    """A message of the largest size used up minutes of a low rate; at another one that would be far too much."""
    before = Quota(WebSocketConfig(rate_bytes=100, rate_messages=1000, max_size=60_000), BEGIN)
    assert before.take_bytes(60_000, BEGIN) is None
    assert (1000, None) == before.take_messages(1000, BEGIN)
    quota = Quota.thaw(before.freeze(BEGIN), WebSocketConfig(rate_bytes=rate, rate_messages=1, max_size=max_size), 5.0)
    assert quota is not None
    assert quota.take_bytes(rate, 5.0) is None
    assert (1, None) == quota.take_messages(1, 5.0)


def test_a_new_limit_knows_of_the_pause_before_it() -> None:
    """What waits in the kernel was sent while nobody read, and is not blamed on the client by a move."""
    before = Quota(WebSocketConfig(rate_messages=20), BEGIN)
    before.mind_reading(False, BEGIN)
    quota = Quota.thaw(before.freeze(BEGIN + 60), WebSocketConfig(rate_messages=10), 5.0)
    assert quota is not None
    quota.mind_reading(True, 5.0)
    assert (610, TOO_MANY) == quota.take_messages(700, 5.0)
