"""The census: answers of many workers become one list."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from wsworker.master.census import FRESH_ROWS, ROWS_PER_PART, Census
from wsworker.master.events import WorkerAnswered
from wsworker.query import Query


def census(awaited: dict[int, int], **query: Any) -> Census:
    """Return a new one. awaited: worker to slot."""
    return Census(Query(**query), 10.0, awaited, set())


def answer(worker: int, *rows: Any, total: int | None = None, last: bool = True) -> WorkerAnswered:
    """Return a part of an answer; a row that is a number is one of so many bytes in send_queue."""
    made = tuple({"slot": worker, "send_queue": row} if isinstance(row, int) else row for row in rows)
    return WorkerAnswered(worker, 7, len(rows) if total is None else total, made, last)


def shown(one: Census) -> tuple[dict[str, Any], list[Any]]:
    """Return the result and all rows."""
    body, parts = one.result()
    assert all(0 < len(part["connections"]) <= ROWS_PER_PART for part in parts)
    return body, [row for part in parts for row in part["connections"]]


def test_answers_are_put_together() -> None:
    """In the order of the query, whichever comes first; then nobody is awaited."""
    one = census({1: 1, 2: 2}, sort="sendq")
    one.take(answer(2, 7, 3))
    assert {1: 1} == one.awaited
    one.take(answer(1, 9, 5))
    assert {} == one.awaited
    body, rows = shown(one)
    assert {"total": 4, "shown": 4, "missing": []} == body
    assert [9, 7, 5, 3] == [row["send_queue"] for row in rows]


def test_a_limit_cuts_and_the_total_does_not() -> None:
    """Who asks for the first ten still hears how many there are."""
    one = census({1: 1, 2: 2}, sort="sendq", limit=3)
    one.take(answer(1, 9, 5, 1, total=100))
    one.take(answer(2, 7, 3, total=2))
    body, rows = shown(one)
    assert {"total": 102, "shown": 3, "missing": []} == body
    assert [9, 7, 5] == [row["send_queue"] for row in rows]


def test_an_answer_in_parts() -> None:
    """The total stands in each of them and counts once."""
    one = census({1: 1})
    one.take(answer(1, 1, 2, total=3, last=False))
    assert {1: 1} == one.awaited
    one.take(answer(1, 3, total=3))
    body, rows = shown(one)
    assert {"total": 3, "shown": 3, "missing": []} == body
    assert [1, 2, 3] == [row["send_queue"] for row in rows]


def test_who_is_lost_is_missing_and_what_it_said_counts() -> None:
    """Slots are named, each once."""
    one = census({1: 1, 2: 1, 3: 3})
    one.take(answer(1, 5, total=9, last=False))
    for worker in (1, 2, 3):
        one.lose(worker)
    body, rows = shown(one)
    assert {"total": 9, "shown": 1, "missing": [1, 3]} == body
    assert 1 == len(rows)


def test_who_was_not_asked_is_not_heard() -> None:
    """Nor is one that has sent its last part."""
    one = census({1: 1})
    one.take(answer(2, 5))
    one.take(answer(1, 6))
    one.take(answer(1, 7))
    assert {"total": 1, "shown": 1, "missing": []} == shown(one)[0]


def test_a_row_without_the_key_comes_last() -> None:
    """A worker that sends nonsense harms nobody else."""
    one = census({1: 1}, sort="sendq")
    one.take(answer(1, {"slot": 1}, {"slot": 1, "send_queue": "much"}, 4))
    assert [4, "much", None] == [row.get("send_queue") for row in shown(one)[1]]


def test_no_more_is_kept_than_is_shown() -> None:
    """Beside as many as may wait to be sorted in."""
    one = census({1: 1}, sort="sendq", limit=5)
    for number in range(30):
        one.take(answer(1, *range(number * 100, number * 100 + 100), last=False))
        assert len(one._best) + len(one._fresh) <= 5 + FRESH_ROWS
    assert [2999, 2998, 2997, 2996, 2995] == [row["send_queue"] for row in shown(one)[1]]


@given(st.lists(st.lists(st.integers(0, 20), max_size=30), max_size=5), st.integers(1, 40))
def test_it_is_the_sorted_whole(answers: list[list[int]], limit: int) -> None:
    """Whatever each worker sends, sorted and cut as it is, the list is that of all rows, sorted and cut."""
    one = census({worker: worker for worker in range(len(answers))}, sort="sendq", limit=limit)
    for worker, values in enumerate(answers):
        one.take(answer(worker, *sorted(values, reverse=True)[:limit], total=len(values)))
    body, rows = shown(one)
    everything = sorted((value for values in answers for value in values), reverse=True)
    assert len(everything) == body["total"]
    assert everything[:limit] == [row["send_queue"] for row in rows]
