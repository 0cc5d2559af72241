"""Queries: what is taken for one, which addresses are in a network, and how rows are put in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.query import LONGEST, MAX_LIMIT, SORTS, Query, check_text, network, query_of, rank, within

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


def test_a_query_survives_the_way() -> None:
    """The values of a query make that query."""
    query = Query(slot=2, ip="192.0.2.0/24", path="/chat", user="tom", topic="news", sort="sendq", limit=MAX_LIMIT)
    assert query == query_of(vars(query))
    assert Query() == query_of(vars(Query()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slot": True}, "slot is a bool"),
        ({"slot": "1"}, "slot is a str"),
        ({"ip": 1}, "ip is a int"),
        ({"ip": "300.1"}, "'300.1' is neither an address nor a network such as 192.0.2.0/24 or 2001:db8::/32"),
        (
            {"ip": "fe80::1%eth0"},
            "'fe80::1%eth0' has a zone, and clients are listed without: leave it out",
        ),
        ({"ip": "::1" + " " * 98}, "ip is longer than 100 characters"),
        ({"path": "x" * 4097}, "path is longer than 4096 characters"),
        ({"user": "x" * 256}, "user is longer than 255 characters"),
        ({"topic": "x" * 256}, "topic is longer than 255 characters"),
        ({"path": []}, "path is a list"),
        ({"user": 7}, "user is a int"),
        ({"topic": {}}, "topic is a dict"),
        ({"sort": None}, "sort is a NoneType"),
        ({"sort": "size"}, "sort is none of worker, remote, path, user, since, idle, in, out, sendq, ping"),
        ({"limit": 0}, "limit is not from 1 to 10000"),
        ({"limit": MAX_LIMIT + 1}, "limit is not from 1 to 10000"),
        ({"limit": 1.0}, "limit is a float"),
        ({"more": 1}, "a query has the fields slot, ip, path, user, topic, sort, limit"),
    ],
)
def test_what_is_no_query(changes: dict[str, Any], reason: str) -> None:
    """Each is refused with a reason."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        query_of(vars(Query()) | changes)
    assert reason == str(caught.value)


@given(st.dictionaries(st.sampled_from([*vars(Query())]), VALUES))
def test_any_values_are_a_query_or_an_error(changes: dict[str, Any]) -> None:
    """Nothing but ValueError comes of them."""
    values = vars(Query()) | changes
    try:
        query = query_of(values)
    except ValueError:
        return
    assert values == vars(query)


@pytest.mark.parametrize(
    ("host", "where", "expected"),
    [
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.2.7", "192.0.2.9/24", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "2001:db8::/32", False),
        ("2001:db8::7", "2001:db8::/32", True),
        ("unix", "0.0.0.0/0", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "::ffff:192.0.2.0/120", True),
        ("192.0.2.7", "::ffff:c000:208", False),
        ("192.0.2.7", "::ffff:0:0/96", True),
        ("192.0.2.7", "::ffff:0:0/95", False),
        ("2001:db8::7", "::/0", True),
    ],
)
def test_addresses_in_networks(host: str, where: str, expected: bool) -> None:
    """One address is a network too, IPv4-mapped ones are IPv4; the peer of a unix socket is in none."""
    assert expected is within(host, network(where))


@pytest.mark.parametrize("name", [name for name in LONGEST if name != "ip"])
def test_a_text_of_the_greatest_length(name: str) -> None:
    """It is taken; what JSON makes of it does not matter here."""
    text = "\x00" * LONGEST[name]
    check_text(name, text)
    assert text == getattr(query_of(vars(Query()) | {name: text}), name)


def test_a_query_without_a_network() -> None:
    """It lets everybody through."""
    assert Query().network is None
    assert network("192.0.2.0/24") == Query(ip="192.0.2.0/24").network


def order(sort: str, values: list[Any]) -> list[Any]:
    """Sort values as rows are."""
    return sorted(values, key=lambda value: rank(Query(sort=sort), value))


def test_the_order_of_rows() -> None:
    """Numbers from the largest, workers and names from the first; who has no value comes last."""
    assert [9, 5.5, 0, None] == order("sendq", [5.5, None, 9, 0])
    assert [1, 2, 3] == order("worker", [2, 1, 3])
    assert ["a", "b", None] == order("user", ["b", None, "a"])


@given(st.lists(VALUES), st.sampled_from([*SORTS]))
def test_any_values_can_be_put_in_order(values: list[Any], sort: str) -> None:
    """A row that is not what it should be never breaks the comparison."""
    assert len(values) == len(order(sort, values))
