"""Slots: which server has a channel."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.brokers import Server
from wsworker.bus.redis.slots import SLOTS, Layout, alone, probe_names, read_layout, slot_of
from wsworker.errors import WireError

ONE, TWO = Server("one", 1), Server("two", 2)
ASKED = Server("asked", 6379)


@pytest.mark.parametrize(
    ("channel", "slot"),
    [
        (b"123456789", 0x31C3),
        (b"{user1000}.following", slot_of(b"user1000")),
        (b"foo{{bar}}zap", slot_of(b"{bar")),
        (b"foo{bar}{zap}", slot_of(b"bar")),
    ],
)
def test_slots(channel: bytes, slot: int) -> None:
    """As the specification has them, with its examples of tags."""
    assert slot == slot_of(channel)


def test_an_empty_tag_is_none() -> None:
    """The whole name counts then, and not what stands in later braces."""
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"foo{}{bar}") != slot_of(b"")


def test_a_layout() -> None:
    """Each slot has one server, or none."""
    slot = slot_of(b"x")
    layout = Layout([(slot, slot, TWO), (0, slot - 1, ONE)])
    assert TWO == layout.server(b"x")
    assert {ONE, TWO} == layout.servers
    assert layout == Layout([(0, slot - 1, ONE), (slot, slot, TWO)])
    assert layout != alone(ONE)
    assert layout != "another thing"
    assert Layout([(0, slot - 1, ONE)]).server(b"x") is None
    assert Layout([(slot + 1, SLOTS - 1, ONE)]).server(b"x") is None
    assert ONE == alone(ONE).server(b"x")


def test_probes() -> None:
    """Each server gets a name of its own, unless a tag sends all of them to one."""
    layout = Layout([(0, 8191, ONE), (8192, SLOTS - 1, TWO)])
    names = probe_names(layout, [ONE, TWO], lambda ending: b"probe" + ending.encode())
    assert {ONE, TWO} == names.keys()
    assert all(server == layout.server(name) for server, name in names.items())
    tagged = probe_names(layout, [ONE, TWO], lambda ending: b"{x}" + ending.encode())
    assert [layout.server(b"{x}")] == [*tagged]
    assert {ONE: b"p"} == probe_names(alone(ONE), [ONE], lambda ending: b"p" + ending.encode())


def test_what_a_server_answers() -> None:
    """The primaries count; who does not know its name is the one that was asked."""
    reply = [
        [0, 5, [b"10.0.0.1", 7000, b"id", []], [b"10.0.0.9", 7009, b"id", []]],
        [6, 7, [b"", 7001, b"id", []]],
        [8, 9, [b"?", 7002, b"id", []]],
        [10, 11, [None, 7003]],
    ]
    expected = [
        (0, 5, Server("10.0.0.1", 7000)),
        (6, 7, Server("asked", 7001)),
        (8, 9, Server("asked", 7002)),
        (10, 11, Server("asked", 7003)),
    ]
    assert Layout(expected) == read_layout(reply, ASKED)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        b"x",
        [1],
        [[]],
        [[0, 1]],
        [[0, 1, []]],
        [[0, 1, [b"x"]]],
        [[0, 1, [b"x", b"y"]]],
        [[b"0", 1, [b"x", 1]]],
        [[0, SLOTS, [b"x", 1]]],
        [[2, 1, [b"x", 1]]],
        [[-1, 1, [b"x", 1]]],
        [[0, 1, [b"x", 0]]],
        [[0, 1, [b"x", 65536]]],
        [[0, 1, [b"\xff", 1]]],
    ],
)
def test_an_answer_that_is_none(reply: object) -> None:
    """It is malformed, and nothing else is raised."""
    with pytest.raises(WireError):
        read_layout(reply, ASKED)


ANYTHING: Any = st.recursive(st.none() | st.integers(-9, 20000) | st.binary(max_size=9), lambda each: st.lists(each))


@given(ANYTHING)
def test_any_answer(reply: object) -> None:
    """It is a layout, or malformed."""
    try:
        layout = read_layout(reply, ASKED)
    except WireError:
        return
    assert layout.servers
