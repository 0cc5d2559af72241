"""The connections and handshakes of each address."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.protocol.rates import Bucket
from wsworker.worker import visitors as module
from wsworker.worker.visitors import Visitors, group

HOST, OTHER = "203.0.113.9", "203.0.113.10"
HOSTS = st.sampled_from([HOST, OTHER, "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", f"::ffff:{HOST}", "unix"])


def kept(visitors: Visitors) -> int:
    """Return how many groups are remembered, for counts and for rates."""
    return len(visitors._places) + len(visitors._young) + len(visitors._old)


# groups


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("no:address", "no:address"),
    ],
)
def test_what_counts_as_one_address(host: str, name: str) -> None:
    """An IPv4 address, the /64 of an IPv6 one, unix; what is none of them stands for itself."""
    assert name == group(host)


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_ipv6_addresses_are_one_by_their_first_64_bits(
    one: ipaddress.IPv6Address, other: ipaddress.IPv6Address
) -> None:
    """Whatever the lower half is."""
    if one.ipv4_mapped or other.ipv4_mapped:
        return
    neighbour = ipaddress.IPv6Address(one.packed[:8] + other.packed[8:])
    if not neighbour.ipv4_mapped:
        assert group(str(one)) == group(str(neighbour))
    assert (one.packed[:8] == other.packed[:8]) == (group(str(one)) == group(str(other)))


# connections


def test_an_address_has_so_many_places() -> None:
    """The next one is refused, another address is not, and a place given back is free."""
    visitors = Visitors(2, 0)
    assert [True, True, False] == [visitors.enter(HOST) for _ in range(3)]
    assert visitors.enter(OTHER)
    visitors.leave(HOST)
    assert [True, False] == [visitors.enter(HOST) for _ in range(2)]


def test_a_64_shares_its_places() -> None:
    """So does an IPv4 address with its mapped form."""
    visitors = Visitors(1, 0)
    assert visitors.enter("2001:db8::1")
    assert not visitors.enter("2001:db8::2")
    assert visitors.enter("2001:db8:0:1::1")
    assert visitors.enter(f"::ffff:{HOST}")
    assert not visitors.enter(HOST)


def test_who_comes_from_another_worker_has_its_place() -> None:
    """Also over the limit, as it was let in already; it counts, and gives its place back like others."""
    visitors = Visitors(2, 0)
    assert visitors.enter(HOST)
    for _ in range(2):
        visitors.return_to(HOST)
    assert not visitors.enter(HOST)
    visitors.leave(HOST)
    assert not visitors.enter(HOST)
    visitors.leave(HOST)
    assert visitors.enter(HOST)
    unlimited = Visitors(0, 0)
    unlimited.return_to(HOST)
    unlimited.leave(HOST)
    assert 0 == kept(unlimited)


def test_a_refused_connection_has_no_place_to_give_back() -> None:
    """leave() without enter() is a bug and says so."""
    visitors = Visitors(1, 0)
    with pytest.raises(KeyError):
        visitors.leave(HOST)


@given(st.lists(HOSTS, max_size=60), st.integers(1, 4))
def test_after_the_last_has_left_nothing_is_kept(hosts: list[str], most: int) -> None:
    """And no group ever had more places than it may."""
    visitors = Visitors(most, 0)
    inside = [host for host in hosts if visitors.enter(host)]
    names = [group(host) for host in hosts]
    assert sum(min(most, names.count(name)) for name in set(names)) == len(inside)
    for host in inside:
        visitors.leave(host)
    assert 0 == kept(visitors)


# handshakes


def test_an_address_comes_at_its_rate() -> None:
    """One second's worth at once, then as fast as the rate says; others do not suffer."""
    visitors = Visitors(0, 3)
    assert [True, True, True, False] == [visitors.knock(HOST, 10.0) for _ in range(4)]
    assert visitors.knock(OTHER, 10.0)
    assert [True, False] == [visitors.knock(HOST, 10.5) for _ in range(2)]


def test_a_rate_below_one_lets_one_in() -> None:
    """One handshake every four seconds is one at once, and the next after four."""
    visitors = Visitors(0, 0.25)
    assert [True, False] == [visitors.knock(HOST, 10.0) for _ in range(2)]
    assert not visitors.knock(HOST, 13.5)
    assert visitors.knock(HOST, 14.0)


@given(
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]),
    st.lists(st.tuples(HOSTS, st.integers(0, 40).map(lambda eighths: eighths / 8)), max_size=60),
)
def test_forgetting_changes_no_verdict(rate: float, knocks: list[tuple[str, float]]) -> None:
    """A visitor is told the same as if every bucket were kept for ever."""
    visitors = Visitors(0, rate)
    buckets: dict[str, Bucket] = {}
    now = 100.0
    for host, pause in knocks:
        now += pause
        bucket = buckets.setdefault(group(host), Bucket(rate, max(1.0, rate), now))
        assert bucket.take(1, now) == visitors.knock(host, now)


def test_who_stays_away_is_forgotten() -> None:
    """Once a bucket is full again it need not be kept; two changes of generations later it is gone."""
    visitors = Visitors(0, 1)
    for number in range(1000):
        assert visitors.knock(f"10.0.{number // 250}.{number % 250}", 10.0)
    assert 1000 == kept(visitors)
    assert visitors.knock(HOST, 11.0)
    assert visitors.knock(HOST, 12.0)
    assert 1 == kept(visitors)


@pytest.mark.parametrize("eighth", range(9))
def test_who_came_lately_is_not_forgotten(eighth: int) -> None:
    """A bucket is kept until it is full again, wherever in a generation it was emptied."""
    visitors = Visitors(0, 4)
    assert visitors.knock(OTHER, 10.0)
    emptied_at = 10.0 + eighth / 8
    assert [True] * 4 == [visitors.knock(HOST, emptied_at) for _ in range(4)]
    for passed in range(7):
        visitors.knock(OTHER, emptied_at + passed / 8)
    assert [True] * 3 + [False] == [visitors.knock(HOST, emptied_at + 0.75) for _ in range(4)]


def test_a_crowd_finds_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses come at once, two generations are kept, and all of the crowd are let in once."""
    monkeypatch.setattr(module, "MOST_GROUPS", 50)
    visitors = Visitors(0, 1)
    for number in range(1000):
        assert visitors.knock(f"2001:db8:{number:x}::1", 10.0)
        assert kept(visitors) <= 100
    # who was there lately is still known
    assert not visitors.knock("2001:db8:3e7::2", 10.0)


# off


@given(st.lists(st.tuples(HOSTS, st.floats(0, 1e6)), max_size=20))
def test_both_off_refuses_nobody_and_keeps_nothing(knocks: list[tuple[str, float]]) -> None:
    """0 is no limit."""
    visitors = Visitors(0, 0)
    for host, now in knocks:
        assert visitors.knock(host, now)
        assert visitors.enter(host)
        assert 0 == kept(visitors)
    for host, _ in knocks:
        visitors.leave(host)
    assert 0 == kept(visitors)


def test_one_off_leaves_the_other_on() -> None:
    """The two limits do not know each other."""
    places = Visitors(1, 0)
    assert all(places.knock(HOST, 1.0) for _ in range(10))
    assert [True, False] == [places.enter(HOST) for _ in range(2)]
    rates = Visitors(0, 1)
    assert all(rates.enter(HOST) for _ in range(10))
    assert [True, False] == [rates.knock(HOST, 1.0) for _ in range(2)]
