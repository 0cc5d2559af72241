"""What comes back from JSON as it was, and what is refused, by name and place."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import datetime
from enum import IntEnum
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.handover.jsonable import MOST_DEPTH, MOST_VALUES, Checked, check

ADVICE = "; keep dict, list, str, int, float, bool and None, and make the rest anew in on_resume"

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters())
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)
others = st.one_of(
    st.binary(max_size=3),
    st.tuples(st.integers()),
    st.sets(st.integers(), max_size=2),
    st.complex_numbers(),
    st.just(object()),
)


class Color(IntEnum):
    """An int that would come back as a plain one."""

    RED = 1


class Name(str):
    """A str that would come back as a plain one."""

    __slots__ = ()


def there_and_back(value: object) -> object:
    """Return what a value is behind JSON as the hand-over writes it."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    return json.loads(text.decode(errors="surrogatepass"))


def same(one: object, other: object) -> bool:
    """Tell whether two values are equal in type as well, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        others = cast(dict[Any, Any], other)
        return list(one) == list(others) and all(same(one[key], others[key]) for key in one)
    if isinstance(one, list):
        others_in_order = cast(list[Any], other)
        return len(one) == len(others_in_order) and all(map(same, one, others_in_order))
    return repr(one) == repr(other)


def refused(value: object, kind: type[Exception] = TypeError) -> str:
    """Return the sentence with which it is refused."""
    with pytest.raises(kind) as caught:
        check(value)
    assert type(caught.value) is kind
    return str(caught.value)


@given(values)
def test_what_passes_comes_back_as_it_was(value: object) -> None:
    """In value and in type; lone surrogates too."""
    check(value)
    assert same(value, there_and_back(value))


@given(values, others, st.data())
def test_one_value_that_is_none_is_found_anywhere(value: object, other: object, data: st.DataObject) -> None:
    """However deep, and the sentence names the way to it."""
    place = "connection.data"
    inner = other
    for step in data.draw(st.lists(st.sampled_from(["a", "b"]) | st.sampled_from([0, 2]), max_size=6)):
        inner = {"z": value, step: inner} if isinstance(step, str) else [*[value] * step, inner]
    way, here = place, inner
    while here is not other:
        if isinstance(here, dict):
            step, here = list(here.items())[-1]
            way += f'["{step}"]'
        else:
            assert isinstance(here, list)
            way, here = f"{way}[{len(here) - 1}]", here[-1]
    assert refused(inner).startswith(f"{way} is a")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 10**4000, "\ud83d\ude00", "😀", "", [], {}])
def test_what_is_odd_and_comes_back(value: object) -> None:
    """NaN, infinities, long numbers, and two surrogates that could be one character and are not."""
    check({"a": [value]})
    assert same([value], there_and_back([value]))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"since": datetime(2026, 1, 1)}, '["since"] is a datetime, which is no JSON'),
        ({"cart": [1, 2, 3, {"since": {1}}]}, '["cart"][3]["since"] is a set, which is no JSON'),
        ([object()], "[0] is an object, which is no JSON"),
        ({"a": b"x"}, '["a"] is a bytes, which is no JSON'),
        ({"at": (1, 2)}, '["at"] is a tuple, which would come back as a list'),
        ({"a": Color.RED}, '["a"] is a Color, which would come back as an int'),
        ({"a": Name("x")}, '["a"] is a Name, which would come back as a str'),
        ({"a": defaultdict(int)}, '["a"] is a defaultdict, which would come back as a dict'),
        (OrderedDict(), " is an OrderedDict, which would come back as a dict"),
        ([Checked()], "[0] is a Checked, which would come back as a dict"),
        ((), " is a tuple, which would come back as a list"),
    ],
)
def test_what_is_no_json(value: object, sentence: str) -> None:
    """The place, the type, what would become of it, and what to do."""
    assert f"connection.data{sentence}{ADVICE}" == refused(value)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (3, "the key 3, which is an int"),
        (10**30, "the key, which is an int"),
        (None, "the key, which is a NoneType"),
        (True, "the key, which is a bool"),
        ((1,), "the key, which is a tuple"),
        (Name("x"), "the key, which is a Name"),
    ],
)
def test_keys(key: object, sentence: str) -> None:
    """JSON would make a str of each of them, or fail, and two of them could become one."""
    assert f'connection.data["a"] has {sentence}; keys of JSON are str' == refused({"a": {"b": 1, key: 2}})


def test_the_name_is_that_of_the_caller() -> None:
    """What a hook returned is no connection.data."""
    with pytest.raises(TypeError, match=r'^what on_handover gave\["a"\] is a set, '):
        check({"a": set()}, "what on_handover gave")


def test_a_key_is_shown_with_care() -> None:
    """It may be a stranger's: cut, and without what acts on a terminal."""
    assert refused({'a"\x1b[2J\u202e': set()}).startswith(r'connection.data["a\"\u001b[2J\u202e"] is a set')
    assert refused({"k" * 50: set()}).startswith(f'connection.data["{"k" * 40}..."] is a set')


def test_what_contains_itself() -> None:
    """A loop has no end; the same list in two places is no loop."""
    loop: dict[str, Any] = {"a": [1]}
    loop["a"].append({"b": loop})
    assert 'connection.data["a"][1]["b"] contains itself, so it has no end as JSON' == refused(loop, ValueError)
    shared = [1]
    check({"a": shared, "b": [shared, shared]})


def nested(depth: int) -> list[Any]:
    """Return lists in lists, so many in all."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth() -> None:
    """MOST_DEPTH levels come back, one more is refused, and so are very many."""
    check(nested(MOST_DEPTH))
    for depth in (MOST_DEPTH + 1, 10_000):
        value = {"a": nested(depth - 1)}
        sentence = 'connection.data["a"][0][0]... is nested more than 100 deep'
        assert sentence == refused(value, ValueError)
        # the interpreter takes lists apart level by level, too
        del value


def test_a_few_lists_that_are_very_many_values() -> None:
    """Each level doubles what is below it: it would be told for years."""
    value: list[Any] = [0]
    for _ in range(60):
        value = [value, value]
    sentence = f"connection.data has more than {MOST_VALUES} values, those in two places counted twice"
    assert sentence == refused(value, ValueError)
    check([0] * MOST_VALUES)


def test_an_int_that_python_would_not_read() -> None:
    """One of 4300 digits is the longest."""
    check({"a": 2**14_284 - 1})
    there_and_back([2**14_284 - 1])
    sentence = 'connection.data["a"] is an int of more digits than can be read again'
    assert sentence == refused({"a": 10**4300}, ValueError)
    assert "connection.data is an int of more digits than can be read again" == refused(-(2**14_284), ValueError)


# a dict that checks when it is set


def checked() -> Checked:
    """Return one that has something in it."""
    return Checked({"a": 1}, b=[2])


@pytest.mark.parametrize(
    "act",
    [
        lambda data, value: data.__setitem__("x", value),
        lambda data, value: data.update({"y": 1, "x": value}),
        lambda data, value: data.update([("y", 1), ("x", value)]),
        lambda data, value: data.update(y=1, x=value),
        lambda data, value: data.setdefault("x", value),
        lambda data, value: data.__ior__({"y": 1, "x": value}),
        lambda data, value: Checked({"x": value}),
        lambda data, value: Checked(x=value),
        lambda data, value: Checked.fromkeys(["x"], value),
    ],
)
def test_what_is_set_is_checked(act: Callable[[Checked, object], object]) -> None:
    """By every way to set it, with the error of check; and then nothing was set at all."""
    data = checked()
    with pytest.raises(TypeError, match=r'^connection.data\["x"\]\[0\] is a set, which is no JSON'):
        act(data, [set()])
    assert {"a": 1, "b": [2]} == data
    act(data, [1])


def test_keys_are_checked() -> None:
    """Before the line is left that sets them."""
    with pytest.raises(TypeError, match=r"^connection.data has the key 3, which is an int; keys of JSON are str$"):
        checked()[cast(str, 3)] = "x"


def test_it_is_a_dict() -> None:
    """Whatever is set is there, and what is there already stays by setdefault."""
    data = checked()
    data["c"] = None
    data |= {"d": 4}
    data.update(e=5)
    assert 1 == data.setdefault("a", 9)
    assert data.setdefault("f") is None
    assert 7 == data.setdefault("g", 7)
    assert type(data) is Checked
    assert {"a": 1, "b": [2], "c": None, "d": 4, "e": 5, "f": None, "g": 7} == data
    assert data == json.loads(json.dumps(data))
    check(data)


def test_it_cannot_be_set_inside_of_itself() -> None:
    """It would have no end, and its values are no Checked."""
    data = checked()
    with pytest.raises(TypeError, match="is a Checked, which would come back as a dict"):
        data["self"] = data


@pytest.mark.parametrize(
    "act",
    [
        lambda data: data.copy(),
        copy.copy,
        copy.deepcopy,
        lambda data: pickle.loads(pickle.dumps(data)),
        lambda data: data | {},
        dict,
    ],
)
def test_copies_are_plain(act: Callable[[Checked], dict[str, Any]]) -> None:
    """What is not connection.data any more takes what it likes."""
    data = checked()
    other = act(data)
    assert type(other) is dict
    assert data == other
    other["x"] = {1}
    assert "x" not in data


def test_a_deep_copy_is_one() -> None:
    """The lists inside are others."""
    data = checked()
    copy.deepcopy(data)["b"].append(3)
    assert [2] == data["b"]
