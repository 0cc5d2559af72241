"""Subscriptions: what a server of a broker was asked to send over one connection, and what is still to be asked.

The server takes what it is asked in order. So it is enough to remember what it was asked last of each channel: whatever
is wanted now and was not asked, or the other way round, is asked with the next batch, however often that has changed in
between. How many of the channels are not confirmed yet is bounded, so that the confirmations of very many never fill
what the server keeps for us.

Each channel of a command is confirmed by itself, in order; a refusal answers a command as a whole. A cluster may also
end a subscription by itself, when the slot moves to another server: that answers nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

BATCH: Final = 512
MOST_UNCONFIRMED: Final = 8 * BATCH

Verb: TypeAlias = Literal["subscribe", "unsubscribe"]


class Ask(NamedTuple):
    """A command. channels: one at least."""

    verb: Verb
    channels: list[bytes]


class Subscriptions:
    """Those of one connection. wants: whether a channel is wanted there now; each: channels go in a command each."""

    def __init__(self, wants: Callable[[bytes], bool], each: bool = False) -> None:
        self._wants = wants
        self._each = each
        self._touched: dict[bytes, None] = {}
        self._asked: set[bytes] = set()
        self._unconfirmed: deque[tuple[Verb, deque[bytes]]] = deque()
        self._unconfirmed_count = 0
        self._homeless: set[bytes] = set()  # refused, or ended by the server, and not touched since

    @property
    def complete(self) -> bool:
        """Whether everything is asked and confirmed."""
        return not (self._touched or self._unconfirmed or self._homeless)

    def touch(self, channels: Iterable[bytes]) -> None:
        """Know that it may have changed whether these are wanted."""
        touched = dict.fromkeys(channels)
        self._touched.update(touched)
        if self._homeless:
            self._homeless.difference_update(touched)

    def restart(self, channels: Iterable[bytes]) -> None:
        """Begin with a new connection, over which nothing was asked. channels: those that may be wanted."""
        self._asked = set()
        self._unconfirmed.clear()
        self._unconfirmed_count = 0
        self._homeless.clear()
        self._touched = dict.fromkeys(channels)

    @property
    def pending(self) -> bool:
        """Whether take() may have something: not while too much is unconfirmed."""
        return bool(self._touched) and self._unconfirmed_count < MOST_UNCONFIRMED

    def take(self) -> list[Ask]:
        """Return what is to be asked next; it may be nothing, and yet more be pending."""
        new: dict[Verb, list[bytes]] = {"subscribe": [], "unsubscribe": []}
        for _ in range(min(BATCH, len(self._touched))):
            channel, _ = self._touched.popitem()
            wanted = self._wants(channel)
            if wanted == (channel in self._asked):
                continue
            if wanted:
                self._asked.add(channel)
            else:
                self._asked.discard(channel)
            new["subscribe" if wanted else "unsubscribe"].append(channel)
        self._unconfirmed_count += sum(map(len, new.values()))
        asks = [ask for verb, channels in new.items() for ask in self._commands(verb, channels)]
        self._unconfirmed += ((ask.verb, deque(ask.channels)) for ask in asks)
        return asks

    def confirm(self, verb: Verb, channel: bytes) -> bool:
        """Know of a confirmation; False if it answers nothing: the server has ended that subscription by itself."""
        if self._unconfirmed:
            asked, channels = self._unconfirmed[0]
            if asked == verb and channels[0] == channel:
                channels.popleft()
                self._unconfirmed_count -= 1
                if not channels:
                    self._unconfirmed.popleft()
                return True
        if channel in self._asked:
            self._asked.remove(channel)
            self._homeless.add(channel)
        return False

    def refuse(self) -> list[bytes]:
        """Know that the oldest command is refused; return its channels, none if nothing was asked."""
        if not self._unconfirmed:
            return []
        verb, channels = self._unconfirmed.popleft()
        self._unconfirmed_count -= len(channels)
        if verb == "subscribe":
            self._asked.difference_update(channels)
            self._homeless.update(channels)
        return list(channels)

    def _commands(self, verb: Verb, channels: list[bytes]) -> list[Ask]:
        if self._each:
            return [Ask(verb, [channel]) for channel in channels]
        return [Ask(verb, channels)] if channels else []
