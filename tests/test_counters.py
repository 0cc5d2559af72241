"""What a worker counts: sums, words, and labels that stand in fixed lists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.bus import CAUSES
from wsworker.counters import (
    ADAPTERS,
    BOUNDS,
    BUS_DROPS,
    BUS_NAMES,
    CALLBACKS,
    CLOSE_CODES,
    COUNTER_WORDS,
    HISTOGRAM_WORDS,
    PLAIN_NAMES,
    QUICK_SECONDS,
    REJECTIONS,
    Counters,
    Histogram,
    by_reason,
)
from wsworker.worker.app import SIGNATURES

WORDS = st.binary(min_size=4 * COUNTER_WORDS, max_size=4 * COUNTER_WORDS).map(lambda b: list(memoryview(b).cast("I")))


def test_a_new_one_has_counted_nothing() -> None:
    """All words are zero, and there are as many as room is made for."""
    assert [0] * COUNTER_WORDS == Counters().words()


@given(WORDS)
def test_words_make_the_same_counters_again(words: list[int]) -> None:
    """Nothing is lost on the way through the table."""
    assert words == Counters.of(words).words()


@given(WORDS, WORDS)
def test_sums_are_taken_number_by_number(ours: list[int], theirs: list[int]) -> None:
    """Every word is the sum of two, whatever it stands for."""
    total = Counters.of(ours).plus(Counters.of(theirs))
    assert [one + other for one, other in zip(ours, theirs, strict=True)] == total.words()


def test_each_number_keeps_its_place() -> None:
    """A word of one field is found in that field alone."""
    for number, name in enumerate(PLAIN_NAMES):
        words = [0] * COUNTER_WORDS
        words[number] = 7
        counters = Counters.of(words)
        assert {name: 7} == {key: value for key, value in counters.plain().items() if value}
        assert not any(counters.closed.values())


def test_what_the_bus_counts_is_told_apart_and_summed() -> None:
    """By adapter in its dictionaries, over all of them in what is shown as one number."""
    for name in BUS_NAMES:
        counters = Counters()
        labels = getattr(counters, name)
        for number, label in enumerate(labels, 1):
            labels[label] = number
        expected = {name: sum(range(len(labels) + 1))}
        assert expected == {key: value for key, value in counters.plain().items() if value}
        assert labels == getattr(Counters.of(counters.words()), name)


def test_every_cause_of_every_adapter_can_be_counted() -> None:
    """The mesh has no broker that could refuse; down is what was held too long for a worker that does not answer."""
    no_such = {"mesh:refused"}
    assert {f"{adapter}:{cause}" for adapter in ADAPTERS for cause in CAUSES} - no_such == {*BUS_DROPS}


def test_reasons_are_counted_with_their_sum() -> None:
    """A rejection and an exception are counted under their names, and all together."""
    counters = Counters()
    counters.reject("origin")
    counters.reject("origin")
    counters.reject("full")
    counters.fail("timer")
    assert (3, 2, 1) == (counters.rejected, counters.rejections["origin"], counters.rejections["full"])
    assert (1, 1) == (counters.errors, counters.raised["timer"])


@pytest.mark.parametrize(
    ("code", "label"),
    [(1000, "1000"), (1006, "1006"), (1014, "1014"), (3000, "3xxx"), (3999, "3xxx"), (4000, "4xxx"), (4999, "4xxx")],
)
def test_close_codes_of_apps_are_counted_by_their_thousand(code: int, label: str) -> None:
    """So the number of labels is fixed, whatever codes clients send."""
    counters = Counters()
    counters.close(code)
    assert {label: 1} == {key: value for key, value in counters.closed.items() if value}


@pytest.mark.parametrize("act", [lambda c: c.reject("no such reason"), lambda c: c.fail("on_nothing")])
def test_a_label_that_is_in_no_list_is_a_bug(act: Any) -> None:
    """It raises and adds no label."""
    counters = Counters()
    with pytest.raises(KeyError):
        act(counters)
    assert len(REJECTIONS) == len(counters.rejections)


def test_two_counters_share_nothing() -> None:
    """Each has its own dictionaries and histograms."""
    one, other = Counters(), Counters()
    one.close(1000)
    one.lags.add(9.0)
    assert [0] * COUNTER_WORDS == other.words()


def test_every_callback_that_may_raise_has_its_counter() -> None:
    """All of the app's but on_worker_start, whose exception ends the worker, and the timers."""
    assert {*SIGNATURES} - {"on_worker_start"} | {"timer"} == {*CALLBACKS}


def test_names_are_there_once() -> None:
    """No label stands twice in its list."""
    for names in (CLOSE_CODES, REJECTIONS, CALLBACKS, ADAPTERS, BUS_DROPS, PLAIN_NAMES):
        assert len(names) == len({*names})


# Histograms


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (QUICK_SECONDS, 0),
        (0.00011, 1),
        (0.00025, 1),
        (0.1, BOUNDS.index(0.1)),
        (5.0, 14),
        (5.1, 15),
        (9e9, 15),
    ],
)
def test_a_bound_belongs_to_its_bucket(seconds: float, bucket: int) -> None:
    """Upper bounds are inclusive, as Prometheus has it; what is above all has a bucket of its own."""
    histogram = Histogram()
    histogram.add(seconds)
    assert [int(number == bucket) for number in range(len(BOUNDS) + 1)] == histogram.counts
    assert seconds == histogram.seconds


def test_several_at_once_count_by_their_mean() -> None:
    """What was timed together counts as often as it was done, and its time once."""
    histogram = Histogram()
    histogram.add(0.004, 4)
    assert (4, 0.004) == (histogram.counts[BOUNDS.index(0.001)], histogram.seconds)
    histogram.add(0.0001, 100)
    assert 100 == histogram.quick


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_everything_once(times: list[float]) -> None:
    """All buckets together are the number of additions, and the words keep the sum to a nanosecond."""
    histogram = Histogram()
    for seconds in times:
        histogram.add(seconds)
    assert len(times) == sum(histogram.counts)
    again = Histogram.of(histogram.words)
    assert histogram.counts == again.counts
    assert abs(histogram.seconds - again.seconds) < 1e-8
    assert HISTOGRAM_WORDS == len(histogram.words)


def test_counts_in_words() -> None:
    """The most frequent reason first; equal ones as they came."""
    assert "3 tls, 2 busy, 2 data" == by_reason({"busy": 2, "data": 2, "tls": 3})
    assert "" == by_reason({})
