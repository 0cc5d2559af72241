"""The users of one worker: who has which connections, how many, and that nothing is left of who is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsworker.worker.users import Users


def make(most: int) -> Users[int]:
    """Return users of whose coming and going nobody is told."""
    return Users(most, lambda name: None, lambda name: None)


def test_a_user_may_have_many_connections() -> None:
    """They are given oldest first; who has none has an empty tuple."""
    users = make(0)
    assert [True, True, True] == [users.join("ann", 2), users.join("ann", 1), users.join("bob", 3)]
    assert (2, 1) == users.of("ann")
    assert (3,) == users.of("bob")
    assert () == users.of("eve")


def test_the_one_too_many_is_not_added() -> None:
    """It is said so; a place that is given back can be taken again, and others have their own."""
    users = make(2)
    assert [True, True, False] == [users.join("ann", item) for item in (1, 2, 3)]
    assert (1, 2) == users.of("ann")
    assert users.join("bob", 3)
    users.leave("ann", 3)
    assert not users.join("ann", 4)
    users.leave("ann", 1)
    assert users.join("ann", 4)
    assert (2, 4) == users.of("ann")


def test_to_leave_what_one_never_joined_is_nothing() -> None:
    """Neither an unknown user nor somebody else's connection."""
    users = make(1)
    users.leave("eve", 1)
    assert users.join("ann", 1)
    users.leave("ann", 2)
    assert (1,) == users.of("ann")


def test_the_first_and_the_last_connection_are_told_of() -> None:
    """Not those between, nor one that was refused or never joined."""
    told: list[str] = []
    users: Users[int] = Users(2, lambda name: told.append(f"+{name}"), lambda name: told.append(f"-{name}"))
    for item in (1, 2, 3):
        users.join("ann", item)
    users.leave("bob", 1)
    for item in (3, 1, 2, 2):
        users.leave("ann", item)
    users.join("ann", 1)
    assert ["+ann", "-ann", "+ann"] == told


names = st.sampled_from("abc")


@given(st.integers(0, 3), st.lists(st.tuples(st.booleans(), names, st.integers(1, 5))))
def test_it_holds_who_joined_and_has_not_left_and_nothing_else(most: int, moves: list[tuple[bool, str, int]]) -> None:
    """Beside a list by hand; when all have left, nothing is kept, not even their names."""
    users = make(most)
    lists: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for joins, name, item in moves:
        there = lists[name]
        if joins:
            fits = not most or len(there) < most
            assert fits == users.join(name, item)
            if fits and item not in there:
                there.append(item)
        else:
            users.leave(name, item)
            if item in there:
                there.remove(item)
        assert tuple(there) == users.of(name)
    for name, there in lists.items():
        for item in there:
            users.leave(name, item)
    assert {} == users._by_name
