"""Losses: which messages others have missed, counted until they can be told.

Who drops a message notes whose it was. Of very many keys it is only noted that they were many: then it may be any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from wsworker.bus.topics import Key

MOST_NAMES: Final = 1024
"""Of which it is noted that they have lost something; beyond that it may be any."""


class Gap(NamedTuple):
    """What the sender has dropped. lost: how many messages, 0 if nobody knows; keys: whose, None for any."""

    lost: int
    keys: frozenset[Key] | None


class Losses:
    """What was dropped and is not told yet."""

    def __init__(self) -> None:
        self._count = 0
        self._by_key: dict[Key, int] | None = {}

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, key: Key) -> None:
        """Note one message more."""
        self._count += 1
        if self._by_key is not None:
            self._by_key[key] = self._by_key.get(key, 0) + 1
            if len(self._by_key) > MOST_NAMES:
                self._by_key = None

    def take(self) -> Gap:
        """Return all of it, and begin anew."""
        gap = Gap(self._count, None if self._by_key is None else frozenset(self._by_key))
        self._count, self._by_key = 0, {}
        return gap

    def keep(self, wants: Callable[[Key], bool]) -> None:
        """Forget what nobody has missed; all of it is kept if it is not known any more whose it was."""
        if self._by_key is not None:
            self._by_key = {key: count for key, count in self._by_key.items() if wants(key)}
            self._count = sum(self._by_key.values())


class Debts:
    """What others have lost and were not told yet; one for all servers of a broker."""

    def __init__(self) -> None:
        self._losses = Losses()
        self._again: Gap | None = None

    def __bool__(self) -> bool:
        return bool(self._losses) or self._again is not None

    def add(self, item: Key | Gap) -> None:
        """Owe word of a message that was given up, or word once more that has not come through."""
        if isinstance(item, Key):
            self._losses.add(item)
        else:
            self._again = item if self._again is None else join(self._again, item)

    def take(self) -> Gap:
        """Return all of it, and begin anew. There must be some."""
        again, self._again = self._again, None
        if again is None:
            return self._losses.take()
        return join(again, self._losses.take()) if self._losses else again


def join(one: Gap, other: Gap) -> Gap:
    """Return one gap for two; of too many keys it is a gap of any, and nobody knows how many one and some are."""
    lost = one.lost + other.lost if one.lost and other.lost else 0
    if one.keys is None or other.keys is None:
        return Gap(lost, None)
    keys = one.keys | other.keys
    return Gap(lost, keys if len(keys) <= MOST_NAMES else None)
