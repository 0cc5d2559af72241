"""Users: which connections of one worker belong to whom, as the user's code has said by connection.user."""

from __future__ import annotations

from typing import Generic, TypeVar

Item = TypeVar("Item")


class Users(Generic[Item]):
    """Connections by the name of their user. most: how many one user may have, 0 for any number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_name: dict[str, dict[Item, None]] = {}

    def join(self, name: str, item: Item) -> bool:
        """Add a connection to a user; False if the user has as many as allowed, and then it is not added."""
        items = self._by_name.setdefault(name, {})
        if self._most and len(items) >= self._most:
            return False
        items[item] = None
        return True

    def leave(self, name: str, item: Item) -> None:
        """Take a connection away from a user; nothing if it was not added."""
        items = self._by_name.get(name, {})
        items.pop(item, None)
        if not items:
            self._by_name.pop(name, None)

    def of(self, name: str) -> tuple[Item, ...]:
        """Return the connections of a user, oldest first."""
        return tuple(self._by_name.get(name, ()))
