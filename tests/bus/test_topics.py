"""Names of topics, who has subscribed, and what other workers want."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.topics import EVERYBODY, MAX_NAME_BYTES, Interest, Key, Subscribers, check_name


@pytest.mark.parametrize(
    "name", ["a", "room.1", "a b", "*", ">", "wsworker:x", "é", "💬", "a" * 255, "é" * 127, "💬" * 63, "\xa0", "a" * 64]
)
def test_what_can_be_a_name(name: str) -> None:
    """Whatever has 1 to 255 bytes of UTF-8; dots, stars and blanks mean nothing."""
    check_name(name)


@pytest.mark.parametrize("name", ["", "a" * 256, "é" * 128, "💬" * 64])
def test_a_name_has_1_to_255_bytes(name: str) -> None:
    """The error names the limit and the size, and no more of the name than fits into a line."""
    with pytest.raises(ValueError, match=f"a topic has 1 to 255 bytes of UTF-8, not {len(name.encode())}: ") as caught:
        check_name(name)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("name", ["a\nb", "\0", "\x1b[2J", "\x7f", "\x85", "a\t"])
def test_a_name_has_no_control_characters(name: str) -> None:
    """It would end up in logs and on terminals."""
    with pytest.raises(ValueError, match="a user has no control characters: "):
        check_name(name, "a user")


def test_what_is_no_name_at_all() -> None:
    """A lone surrogate has no UTF-8; other types are a mistake in the program."""
    with pytest.raises(ValueError, match="a topic has 1 to 255 bytes of UTF-8, and this is no text"):
        check_name("\ud800")
    wrong: Any
    for wrong in (b"a", 1, None):
        with pytest.raises(TypeError, match="a topic is a str, not "):
            check_name(wrong)


@given(st.text(max_size=300))
def test_the_short_way_and_the_long_way_agree(name: str) -> None:
    """A name is right by its bytes and its characters, however the check is made quick."""
    controls = any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name)
    right = 1 <= len(name.encode()) <= MAX_NAME_BYTES and not controls
    try:
        check_name(name)
    except ValueError:
        assert not right
    else:
        assert right


topics = st.sampled_from("abc")


@given(st.lists(st.tuples(st.booleans(), topics, st.integers(1, 3))))
def test_subscribers_beside_a_list_by_hand(moves: list[tuple[bool, str, int]]) -> None:
    """Items in the order in which they came; the first and the last of a topic are told; nothing else is kept."""
    subscribers: Subscribers[int] = Subscribers()
    lists: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for adds, topic, item in moves:
        there = lists[topic]
        if adds:
            assert subscribers.add(topic, item) == (not there)
            there += [] if item in there else [item]
        else:
            assert subscribers.discard(topic, item) == (there == [item])
            there[:] = [other for other in there if other != item]
        assert there == list(subscribers.of(topic))
        assert {topic for topic, there in lists.items() if there} == set(subscribers.keys())


keys = st.sampled_from([Key("topic", "a"), Key("user", "a"), Key("topic", "b"), EVERYBODY])
bits = st.sampled_from([1, 2, 4])


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "replace", "forget"]), bits, st.sets(keys))))
def test_interest_beside_sets_by_hand(moves: list[tuple[str, int, set[Key]]]) -> None:
    """A mask has the bit of each that wants the key; a topic and a user of one name are two."""
    interest = Interest()
    sets: dict[int, set[Key]] = {1: set(), 2: set(), 4: set()}
    for move, bit, some in moves:
        if move == "forget":
            interest.forget(bit)
            sets[bit] = set()
        else:
            getattr(interest, move)(bit, some)
            sets[bit] = {"add": sets[bit] | some, "remove": sets[bit] - some, "replace": some}[move]
        for key in (Key("topic", "a"), Key("user", "a"), Key("topic", "b"), EVERYBODY):
            assert sum(bit for bit, wanted in sets.items() if key in wanted) == interest.mask(key)
    assert {key for wanted in sets.values() for key in wanted} == interest._masks.keys()
