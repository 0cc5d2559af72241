"""Users: which connections of one worker belong to whom, as the user's code has said by connection.user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Users(Generic[Item]):
    """Connections by the name of their user.

    most: how many one user may have, 0 for any number. arrived: called with a name when its first connection has
    joined; left: called when its last one has gone.
    """

    def __init__(self, most: int, arrived: Callable[[str], None], left: Callable[[str], None]) -> None:
        self._most = most
        self._arrived = arrived
        self._left = left
        self._by_name: dict[str, dict[Item, None]] = {}

    def join(self, name: str, item: Item) -> bool:
        """Add a connection to a user; False if the user has as many as allowed, and then it is not added."""
        items = self._by_name.get(name)
        if items is None:
            self._by_name[name] = {item: None}
            self._arrived(name)
            return True
        if self._most and len(items) >= self._most:
            return False
        items[item] = None
        return True

    def leave(self, name: str, item: Item) -> None:
        """Take a connection away from a user; nothing if it was not added."""
        items = self._by_name.get(name, {})
        if items.pop(item, self) is self:
            return
        if not items:
            del self._by_name[name]
            self._left(name)

    def of(self, name: str) -> tuple[Item, ...]:
        """Return the connections of a user, oldest first."""
        return tuple(self._by_name.get(name, ()))
