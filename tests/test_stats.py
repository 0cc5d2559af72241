"""The shared table: seats, folding, and that a fork shares it."""

import os
import subprocess
import sys

import pytest

from wsworker.bus.mesh.members import Member, Standing
from wsworker.counters import COUNTER_LAYOUT, Adapter, Counters
from wsworker.stats import LAYOUT, MAX_SLOTS, Reach, Reading, Table


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
    seat.write(2_500_000_000, 1500, 3, True, Counters(messages_in=9), 4096)
    assert Reading(2.5, 0.0015, 3, True, Counters(messages_in=9), 4096) == table.read(1, 7)


MESH = Reach(up=False, links=3, queued_bytes=4096, lag_seconds=0.00025, keys=9)
BROKER = Reach(up=True, links=1, queued_bytes=2**40, lag_seconds=1.5, keys=8)


def test_how_the_bus_stands_is_read_back() -> None:
    """Of each adapter in use, and of no other; its words are nobody else's, and go when it does."""
    table = Table(1)
    seat = table.claim(1, 7)
    both: dict[Adapter, Reach] = {"mesh": MESH, "broker": BROKER}
    stages: list[dict[Adapter, Reach]] = [{}, {"mesh": MESH}, {"broker": BROKER}, both, {"broker": Reach()}, {}]
    for bus in stages:
        seat.write(1_000_000_000, 0, 3, False, Counters(accepted=7), 5, bus)
        assert Reading(1.0, 0.0, 3, False, Counters(accepted=7), 5, bus) == table.read(1, 7)


def test_a_broker_that_is_down_is_no_missing_one() -> None:
    """Who cannot reach the broker says so; who has none says nothing."""
    table = Table(2)
    table.claim(1, 1).write(1, 0, 0, False, Counters(), 0, {"broker": Reach(up=False)})
    table.claim(2, 2).write(1, 0, 0, False, Counters(), 0, {"mesh": Reach()})
    assert [{"broker": Reach()}, {"mesh": Reach()}] == [table.readings(slot)[0].bus for slot in (1, 2)]


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


def test_all_that_is_counted_survives_death() -> None:
    """Labels and histograms are folded like the rest, and those of several workers add up."""
    table = Table(2)
    for worker in (1, 2):
        counters = Counters()
        counters.reject("full")
        counters.close(4001)
        counters.accepted = 1
        counters.sync_calls.add(0.25)
        table.claim(2, worker).write(1, 0, 0, False, counters)
    before = table.totals(2)
    table.fold(2, 1)
    assert before == table.totals(2)
    table.fold(2, 2)
    assert before == table.totals(2)
    assert (2, 2) == (before.rejections["full"], before.closed["4xxx"])
    assert (2, 0.5) == (sum(before.sync_calls.counts), before.sync_calls.seconds)


def test_who_was_connected_to_a_dead_worker_counts_as_closed() -> None:
    """Nobody was there to count them, so the fold does: what was opened and not closed was lost, code 1006."""
    table = Table(1)
    counters = Counters(accepted=5)
    counters.close(1000)
    counters.close(1006)
    table.claim(1, 1).write(1, 0, 3, False, counters)
    table.fold(1, 1)
    closed = table.totals(1).closed
    assert (1, 4, 5) == (closed["1000"], closed["1006"], sum(closed.values()))


def test_both_workers_of_a_slot_are_read() -> None:
    """During a reload there are two readings, else one or none."""
    table = Table(2)
    assert [] == table.readings(1)
    table.claim(1, 1).write(1, 0, 3, False, Counters(), 10)
    table.claim(1, 2).write(2, 0, 1, False, Counters(), 20)
    table.claim(2, 3)
    assert [(3, 10), (1, 20)] == [(each.connections, each.send_buffer) for each in table.readings(1)]
    table.fold(1, 1)
    assert [1] == [each.connections for each in table.readings(1)]


def test_a_sum_is_never_taken_in_the_middle_of_a_fold() -> None:
    """A reader in another process sees the same sum all the time while workers come, count and are folded."""
    table = Table(1)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - runs in the child
        wrong = 0
        last = 0
        while last < 20_000:
            now = table.totals(1).accepted
            wrong += now < last or now % 100 != 0
            last = now
        os.write(writer, b"bad" if wrong else b"good")
        os._exit(0)
    for worker in range(1, 201):
        table.claim(1, worker).write(1, 0, 0, False, Counters(accepted=100))
        table.fold(1, worker)
    os.waitpid(pid, 0)
    assert b"good" == os.read(reader, 10)
    os.close(reader)
    os.close(writer)


def test_a_master_that_died_in_a_fold_stops_no_reader() -> None:
    """The number of folds stays odd then; after many tries the reader takes what there is."""
    table = Table(1)
    table.claim(1, 1).write(1, 0, 0, False, Counters(accepted=1))
    table._record(1)[0] = 1
    assert 1 == table.totals(1).accepted


def test_a_seat_taken_again_starts_at_zero() -> None:
    """Nothing of the worker before shows in the reading of the next one."""
    table = Table(1)
    table.claim(1, 1).write(9, 9, 9, True, Counters(9, 9, 9, 9, 9, 9, 9, 9, 9), 9, {"broker": BROKER})
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


def test_who_lives_and_where_each_stands() -> None:
    """A worker starts where it is claimed; it is gone when it is folded, and its successor starts anew."""
    table = Table(3)
    assert [] == table.members()
    first = table.claim(2, 5)
    first.stand(Standing.READY)
    table.claim(3, 6)
    table.claim(2, 7)
    assert [
        Member(5, 2, Standing.READY),
        Member(6, 3, Standing.STARTING),
        Member(7, 2, Standing.STARTING),
    ] == table.members()
    first.stand(Standing.DRAINING)
    assert Member(5, 2, Standing.DRAINING) in table.members()
    table.fold(2, 5)
    assert {6, 7} == {member.worker for member in table.members()}
    table.claim(2, 8)
    assert Member(8, 2, Standing.STARTING) in table.members()


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


def test_a_living_worker_has_its_seat() -> None:
    """Found by its number, in its own slot only, whichever of the two it has."""
    table = Table(2)
    table.claim(1, 7)
    second = table.claim(1, 8)
    second.write(1_000_000_000, 0, 3, False, Counters())
    table.seat(1, 8).count_connections(4, False)
    assert Reading(1.0, 0.0, 4, False, Counters()) == table.read(1, 8)
    assert [7, 8] == [table.seat(1, worker).worker for worker in (7, 8)]
    for slot, worker in ((2, 7), (1, 9)):
        with pytest.raises(ValueError, match=f"worker {worker} has no seat in slot {slot}"):
            table.seat(slot, worker)


def test_a_table_goes_on_by_its_descriptor() -> None:
    """All that is in it is found: living workers, and what dead ones have counted."""
    before = Table(2)
    before.claim(1, 7).write(1_000_000_000, 0, 3, False, Counters(messages_in=5))
    before.claim(2, 8).write(1_000_000_000, 0, 1, False, Counters(messages_in=9))
    before.fold(2, 8)
    fd = os.dup(before.memory.fd)
    before.memory.let_go()
    after = Table(2, fd)
    assert before.read(1, 7) == after.read(1, 7) == Reading(1.0, 0.0, 3, False, Counters(messages_in=5))
    assert before.totals(2) == after.totals(2)
    assert 9 == after.totals(2).messages_in
    # a worker that lives writes to the same memory
    before.seat(1, 7).count_connections(4, False)
    assert 4 == after.readings(1)[0].connections


def test_the_layout_has_a_name_of_its_own() -> None:
    """Room for as many slots as the default table has, and the order of the counters."""
    assert LAYOUT.startswith(f"{MAX_SLOTS} ")
    assert f" {COUNTER_LAYOUT} " in LAYOUT
    code = "from wsworker.stats import LAYOUT; print(LAYOUT)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert LAYOUT == told.strip()
