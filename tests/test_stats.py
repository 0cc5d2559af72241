"""The shared table: seats, folding, and that a fork shares it."""

import os

import pytest

from wsworker.stats import Counters, Reading, Table


def test_counters_add_field_by_field() -> None:
    """A sum keeps every field apart."""
    added = Counters(accepted=10, log_dropped=20)
    assert Counters(11, 2, 3, 4, 5, 6, 7, 8, 9, 30) == Counters(1, 2, 3, 4, 5, 6, 7, 8, 9, 10).plus(added)


def test_a_new_seat_reads_as_zero() -> None:
    """Before its first beat a worker has a reading, and everything in it is zero."""
    table = Table(2)
    table.claim(1, 7)
    assert Reading(0.0, 0.0, 0, False, Counters()) == table.read(1, 7)
    assert table.read(2, 7) is None


def test_what_a_worker_writes_is_read_back() -> None:
    """Units are turned: nanoseconds and microseconds become seconds."""
    table = Table(1)
    seat = table.claim(1, 7)
    seat.write(2_500_000_000, 1500, 3, True, Counters(messages_in=9))
    assert Reading(2.5, 0.0015, 3, True, Counters(messages_in=9)) == table.read(1, 7)


def test_connections_are_counted_between_beats() -> None:
    """Their number, and whether more may come, is written apart, and nothing else changes by it."""
    table = Table(1)
    seat = table.claim(1, 7)
    seat.count_connections(4, True)
    assert Reading(0.0, 0.0, 4, True, Counters()) == table.read(1, 7)
    seat.count_connections(3, False)
    assert Reading(0.0, 0.0, 3, False, Counters()) == table.read(1, 7)


def test_counters_survive_death_and_never_go_back() -> None:
    """Folding moves a dead worker's counts to the slot's totals and leaves its neighbour alone."""
    table = Table(3)
    table.claim(2, 1).write(1, 0, 5, False, Counters(messages_in=10))
    table.claim(2, 2).write(1, 0, 5, False, Counters(messages_in=1))
    assert Counters(messages_in=11) == table.totals(2)
    table.fold(2, 1)
    assert Counters(messages_in=11) == table.totals(2)
    assert table.read(2, 1) is None
    table.claim(2, 3)
    table.fold(2, 3)
    table.fold(2, 2)
    table.fold(2, 99)
    assert Counters(messages_in=11) == table.totals(2)
    assert Counters() == table.totals(1) == table.totals(3)


def test_a_seat_taken_again_starts_at_zero() -> None:
    """Nothing of the worker before shows in the reading of the next one."""
    table = Table(1)
    table.claim(1, 1).write(9, 9, 9, True, Counters(9, 9, 9, 9, 9, 9, 9, 9, 9))
    table.fold(1, 1)
    table.claim(1, 2)
    assert Reading(0.0, 0.0, 0, False, Counters()) == table.read(1, 2)


def test_a_third_worker_of_a_slot_is_impossible() -> None:
    """Two seats a slot: the supervisor never asks for a third, and the table asserts it."""
    table = Table(1)
    table.claim(1, 1)
    table.claim(1, 2)
    with pytest.raises(AssertionError, match="two workers"):
        table.claim(1, 3)


def test_others_are_those_of_other_slots() -> None:
    """Whichever seat they have; a worker's own slot does not count, with its replacement or without."""
    table = Table(3)
    assert not table.others(2)
    table.claim(2, 4)
    table.claim(2, 5)
    assert not table.others(2)
    assert table.others(1)
    assert table.others(3)
    table.fold(2, 4)
    assert table.others(1)
    table.fold(2, 5)
    assert not table.others(1)
    table.claim(3, 6).write(1, 1, 1, True, Counters(1, 1, 1, 1, 1, 1, 1, 1, 1))
    assert table.others(2)
    assert not table.others(3)


def test_a_forked_child_writes_into_the_same_table() -> None:
    """The memory is shared, not copied: what a child wrote is there after it has died."""
    table = Table(1)
    seat = table.claim(1, 4)
    pid = os.fork()
    if pid == 0:  # pragma: no cover - runs in the child
        seat.write(1_000_000_000, 0, 2, False, Counters(bytes_out=77))
        os._exit(0)
    os.waitpid(pid, 0)
    assert Reading(1.0, 0.0, 2, False, Counters(bytes_out=77)) == table.read(1, 4)
