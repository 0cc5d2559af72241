"""Subscriptions: what a server of a broker was asked to send over one connection, and what is still to be asked.

The server takes what it is asked in order. So it is enough to remember what it was asked last of each channel: whatever
is wanted now and was not asked, or the other way round, is asked with the next batch, however often that has changed in
between. How many of the channels are not confirmed yet is bounded, so that the confirmations of very many never fill
what the server keeps for us.

Channels are asked for in the order in which they were touched first. So all that is needed, for a line to be up or word
of a gap to be true, has its place before whatever comes and goes later, and is confirmed however busy that is.

Each channel of a command is confirmed by itself, in order; a refusal answers a command as a whole. A cluster may also
end a subscription by itself, when the slot moves to another server: that answers nothing.

A confirmation also stands behind every message that the server had taken before. So what it is asked once more, though
it was asked, is answered as a ping would be, which not every user of a server may send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, Literal, NamedTuple, TypeAlias

BATCH: Final = 512
MOST_UNCONFIRMED: Final = 8 * BATCH
_AGAIN: Final = b""
"""No channel: stands where one that was asked is asked once more."""

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
        self._asked_count = 0
        self._answered_count = 0
        self._needed = 0  # so many of the first ones that are touched
        self._needed_answers = 0
        self._homeless: set[bytes] = set()  # refused, or ended by the server, and not touched since

    @property
    def complete(self) -> bool:
        """Whether everything is asked and confirmed."""
        return not (self._touched or self._unconfirmed or self._homeless)

    @property
    def ready(self) -> bool:
        """Whether everything that was needed is asked and confirmed, see need."""
        return not (self._needed or self._homeless) and self._answered_count >= self._needed_answers

    def need(self) -> None:
        """Be ready again only when all that is touched or asked now is confirmed, whatever comes later."""
        self._needed = len(self._touched)
        self._needed_answers = self._asked_count

    def touch(self, channels: Iterable[bytes]) -> None:
        """Know that it may have changed whether these are wanted."""
        touched = dict.fromkeys(channels)
        self._touched.update(touched)
        if not self._homeless.isdisjoint(touched):
            self._homeless.difference_update(touched)
            self.need()

    def touch_homeless(self) -> None:
        """Ask once more for what was refused, or ended by the server, as far as it is wanted."""
        self.touch([*self._homeless])

    def ask_again(self) -> None:
        """Be ready again only when one thing more is confirmed, behind all that is touched or asked now."""
        self._touched.pop(_AGAIN, None)
        self._touched[_AGAIN] = None
        self.need()

    def restart(self, channels: Iterable[bytes]) -> None:
        """Begin with a new connection, over which nothing was asked. channels: those that may be wanted."""
        self._asked = set()
        self._unconfirmed.clear()
        self._asked_count = self._answered_count = 0
        self._homeless.clear()
        self._touched = dict.fromkeys(channels)
        self.need()

    @property
    def pending(self) -> bool:
        """Whether take() may have something: not while too much is unconfirmed."""
        return bool(self._touched) and self._asked_count - self._answered_count < MOST_UNCONFIRMED

    def take(self) -> list[Ask]:
        """Return what is to be asked next; it may be nothing, and yet more be pending."""
        new: dict[Verb, list[bytes]] = {"subscribe": [], "unsubscribe": []}
        # all at once: to find the first entry of a dict takes the longer the more before it are gone
        batch = list(islice(self._touched, BATCH))
        for channel in batch:
            del self._touched[channel]
            if channel == _AGAIN:
                continue
            wanted = self._wants(channel)
            if wanted == (channel in self._asked):
                continue
            if wanted:
                self._asked.add(channel)
            else:
                self._asked.discard(channel)
            new["subscribe" if wanted else "unsubscribe"].append(channel)
        if _AGAIN in batch and self._asked:
            # behind what is new; if nothing is asked, nothing can come
            new["subscribe"].append(next(iter(self._asked)))
        self._asked_count += sum(map(len, new.values()))
        if self._needed:
            self._needed -= min(self._needed, len(batch))
            self._needed_answers = self._asked_count
        asks = [ask for verb, channels in new.items() for ask in self._commands(verb, channels)]
        self._unconfirmed += ((ask.verb, deque(ask.channels)) for ask in asks)
        return asks

    def confirm(self, verb: Verb, channel: bytes) -> bool:
        """Know of a confirmation; False if it answers nothing: the server has ended that subscription by itself."""
        if self._unconfirmed:
            asked, channels = self._unconfirmed[0]
            if asked == verb and channels[0] == channel:
                channels.popleft()
                self._answered_count += 1
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
        self._answered_count += len(channels)
        if verb == "subscribe":
            self._asked.difference_update(channels)
            self._homeless.update(channels)
        return list(channels)

    def _commands(self, verb: Verb, channels: list[bytes]) -> list[Ask]:
        if self._each:
            return [Ask(verb, [channel]) for channel in channels]
        return [Ask(verb, channels)] if channels else []
