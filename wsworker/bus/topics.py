"""Topics: names, who has subscribed to what in this process, and which other workers want to hear of what.

What is published goes to a key, which is a kind and a name: a topic, the connections of a user, or everybody. The kind
keeps a topic, whose name may come from a client, from ever being a user's key.

A worker is told of by the changes from nobody to somebody and back. Others need no more: they send a message to a
worker once, however many connections want it there. What they want is kept as one number for each key, a bit for each
of them, so that a message nobody else wants costs one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

Item = TypeVar("Item")

Kind: TypeAlias = Literal["topic", "user", "broadcast"]

MAX_NAME_BYTES: Final = 255
_SURELY_SHORT: Final = MAX_NAME_BYTES // 4  # characters; none takes more than four bytes of UTF-8
_SHOWN_CHARACTERS: Final = 40


class Key(NamedTuple):
    """Where a message goes to. name: "" for everybody, else as check_name has it."""

    kind: Kind
    name: str


EVERYBODY: Final = Key("broadcast", "")


class Origin(NamedTuple):
    """Who has published. node: names a run of the service, at most 255 bytes of UTF-8; worker: its id.

    A program outside that publishes by a broker has an empty node, and a random number from 1 instead of the id.
    """

    node: str
    worker: int


class Envelope(NamedTuple):
    """What travels. body: the message; or, if closes, the code and reason with which connections are to be closed.

    number: counts what its origin has published, from 1; 0 if that was not said.
    """

    key: Key
    body: bytes
    binary: bool = False
    closes: bool = False
    number: int = 0


def check_name(name: str, what: str = "a topic") -> None:
    """Raise unless this can be the name of a topic or a user: 1 to 255 bytes of UTF-8, no control characters.

    what: the subject of the error's sentence. TypeError for anything but a str, else ValueError.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} is a str, not {type(name).__name__}")
    if 0 < len(name) <= _SURELY_SHORT and name.isprintable():
        return
    shown = repr(name[:_SHOWN_CHARACTERS])
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} has 1 to {MAX_NAME_BYTES} bytes of UTF-8, and this is no text: {shown}") from None
    if not 1 <= size <= MAX_NAME_BYTES:
        raise ValueError(f"{what} has 1 to {MAX_NAME_BYTES} bytes of UTF-8, not {size}: {shown}")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise ValueError(f"{what} has no control characters: {shown}")


class Subscribers(Generic[Item]):
    """Who has subscribed to which topic in this process. Items are kept in the order in which they came."""

    def __init__(self) -> None:
        self._by_topic: dict[str, dict[Item, None]] = {}

    def add(self, topic: str, item: Item) -> bool:
        """Subscribe an item to a topic; True if it is the first one there. Again is nothing."""
        items = self._by_topic.get(topic)
        if items is None:
            self._by_topic[topic] = {item: None}
            return True
        items[item] = None
        return False

    def discard(self, topic: str, item: Item) -> bool:
        """End a subscription; True if it was the last one of the topic. Nothing if there is none."""
        items = self._by_topic.get(topic)
        if items is None or item not in items:
            return False
        del items[item]
        if items:
            return False
        del self._by_topic[topic]
        return True

    def of(self, topic: str) -> Collection[Item]:
        """Return the items of a topic, oldest first. It may change as they do."""
        items = self._by_topic.get(topic)
        return () if items is None else items.keys()

    def keys(self) -> Collection[str]:
        """Return all topics that somebody has subscribed to. It changes as they do."""
        return self._by_topic.keys()


class Interest:
    """What others want to hear of. A mask is a number with a bit for each of them; the owner deals the bits out."""

    def __init__(self) -> None:
        self._masks: dict[Key, int] = {}
        self._bits = 0  # of those that have wanted something since they were forgotten

    def mask(self, key: Key) -> int:
        """Return who wants this key, 0 for nobody."""
        return self._masks.get(key, 0)

    def add(self, bit: int, keys: Iterable[Key]) -> None:
        """Know that somebody wants these keys; bit: a mask with that one bit."""
        self._bits |= bit
        for key in keys:
            self._masks[key] = self._masks.get(key, 0) | bit

    def remove(self, bit: int, keys: Iterable[Key]) -> None:
        """Know that somebody wants these keys no more; nothing for those that were not wanted."""
        for key in keys:
            left = self._masks.get(key, 0) & ~bit
            if left:
                self._masks[key] = left
            else:
                self._masks.pop(key, None)

    def replace(self, bit: int, keys: Iterable[Key]) -> None:
        """Know that somebody wants these keys and nothing else."""
        self.forget(bit)
        self.add(bit, keys)

    def forget(self, bit: int) -> None:
        """Know that somebody wants nothing."""
        # most often it is one that is new, and all keys need not be looked through
        if self._bits & bit:
            self._bits &= ~bit
            self.remove(bit, [key for key, mask in self._masks.items() if mask & bit])
