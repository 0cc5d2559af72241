"""Jsonable: whether a value comes back from JSON as it was, which is what `connection.data` must do to be moved.

json.dumps is no such check. It makes a list of a tuple, a str of a key that is a number and a number of an IntEnum, all
without a word, and the code that finds them in the next process fails far from the line that put them there. So only
the types that JSON gives back are let through, and those that look like them are named with what they would become.

Code that is being written wants to know at once: a Checked is a dict that refuses such a value when it is set. It looks
no deeper than that: who appends to a list inside of it hears of it at the hand-over.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from wsworker.visible import escape_json

MOST_DEPTH: Final = 100
"""Levels of lists and dicts, the outermost being one."""

MOST_VALUES: Final = 1_000_000
"""In all. A list that stands in two places comes back as two, so a few small ones may be told to be very many."""

MOST_INT_BITS: Final = 14_284
"""More may be too many digits for Python to read, see sys.get_int_max_str_digits."""

DATA: Final = "connection.data"
_PLAIN: Final = frozenset([str, float, bool, type(None)])
_BACK: Final = (("dict", dict), ("list", list), ("list", tuple), ("str", str), ("int", int), ("float", float))
_ADVICE: Final = "keep dict, list, str, int, float, bool and None, and make the rest anew in on_resume"
_SMALL_BITS: Final = 64
_SHOWN_CHARACTERS: Final = 40
_SHOWN_STEPS: Final = 3


def check(value: object, name: str = DATA) -> None:
    """Raise unless the value comes back from JSON as it is. name: what it is called in the sentence.

    TypeError for a type that JSON does not have, ValueError for what has no end, is deeper than MOST_DEPTH, larger than
    MOST_VALUES, or an int of thousands of digits; each names the place. Subclasses and tuples are no JSON either, save
    that the value itself may be a Checked. NaN and the infinities come back.
    """
    _Search(name).enter(dict(value) if type(value) is Checked else value)


class Checked(dict[str, Any]):
    """A dict that takes only what check lets through, for code that is being written. Errors as for check.

    Copies and pickles are plain dicts.
    """

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.update(*args, **kwargs)

    def __setitem__(self, key: str, value: Any) -> None:
        check({key: value})
        super().__setitem__(key, value)

    def __ior__(self, other: Any) -> Checked:  # type: ignore[override, misc]
        self.update(other)
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several, or none if one of them is refused."""
        new = dict(*args, **kwargs)
        check(new)
        super().update(new)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, after setting it if there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same values."""
        return dict(self)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class _Search:
    """One look through a value. The steps to where it looks are kept, and made into words when they are needed."""

    __slots__ = ("_left", "_name", "_steps", "_within")

    def __init__(self, name: str) -> None:
        self._name = name
        self._steps: list[str | int] = []
        self._within: set[int] = set()  # ids of the lists and dicts on the way
        self._left = MOST_VALUES

    def enter(self, value: Any) -> None:
        """Look at a value and at all that is in it."""
        kind = type(value)
        if kind is dict or kind is list:
            if id(value) in self._within:
                raise ValueError(f"{self._place()} contains itself, so it has no end as JSON")
            if len(self._steps) >= MOST_DEPTH:
                raise ValueError(f"{self._place(_SHOWN_STEPS)} is nested more than {MOST_DEPTH} deep")
            self._within.add(id(value))
            self._look(value)
            self._within.discard(id(value))
        elif kind is int:
            if value.bit_length() > MOST_INT_BITS:
                raise ValueError(f"{self._place()} is an int of more digits than can be read again")
        elif kind not in _PLAIN:
            self._refuse(value)

    def _look(self, value: dict[Any, Any] | list[Any]) -> None:
        self._left -= len(value)
        if self._left < 0:
            raise ValueError(f"{self._name} has more than {MOST_VALUES} values, those in two places counted twice")
        steps = self._steps
        is_dict = type(value) is dict
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if is_dict and type(step) is not str:
                self._refuse_key(step)
            kind = type(inner)
            # nearly all values are plain, and their way is not needed
            if kind not in _PLAIN and not (kind is int and inner.bit_length() <= _SMALL_BITS):
                steps.append(step)
                self.enter(inner)
                steps.pop()

    def _place(self, most: int | None = None) -> str:
        steps = self._steps[:most]
        shown = "".join(f"[{step if isinstance(step, int) else _shown(step)}]" for step in steps)
        return f"{self._name}{shown}" + ("..." if len(steps) < len(self._steps) else "")

    def _refuse(self, value: object) -> NoReturn:
        kind = type(value)
        back = next((name for name, base in _BACK if isinstance(value, base)), "")
        why = f"which would come back as {_article(back)}" if back else "which is no JSON"
        raise TypeError(f"{self._place()} is {_article(kind.__name__)}, {why}; {_ADVICE}")

    def _refuse_key(self, key: object) -> NoReturn:
        # not of any type: its __repr__ may do what it likes
        shown = f" {key}" if type(key) is int and key.bit_length() <= _SMALL_BITS else ""
        kind = _article(type(key).__name__)
        raise TypeError(f"{self._place()} has the key{shown}, which is {kind}; keys of JSON are str")


def _shown(key: str) -> str:
    """Return a key in quotes, cut, and without what acts on a terminal."""
    cut = key if len(key) <= _SHOWN_CHARACTERS else key[:_SHOWN_CHARACTERS] + "..."
    return escape_json(json.dumps(cut, ensure_ascii=False))


def _article(word: str) -> str:
    return f"an {word}" if word[:1].lower() in "aeiou" else f"a {word}"
