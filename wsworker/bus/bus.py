"""The seam: what an adapter of the bus is, what it promises, and the plainest one.

An adapter carries what one worker publishes to others. It never delivers to its own worker: that is the hub's, at once,
whether there is an adapter or not. Its promises, which tests/bus/contract.py holds every adapter to:

    order           FIFO from each publisher to each subscriber, a publisher being one worker
    at most once    nothing is stored, sent again or doubled
    never waits     publish neither blocks nor awaits, whatever the others do
    a gap is told   where a message may be missing, on_gap is called in its place in the order
    bytes           a body arrives as it was given, and so does the mark that tells text from binary

A subscription takes effect elsewhere when the others have heard of it; what was published before that is no gap. Who
must know when that is can wait for it: settle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias, get_args

from wsworker.bus.topics import Envelope, Key, Origin

Cause: TypeAlias = Literal["full", "size", "down", "refused"]
"""Why a message was given up: the queue was full; it is too large for who is to get it; nobody can be reached who
takes it; the broker has refused it."""

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)


@dataclass(frozen=True, slots=True)
class BusStats:
    """What an adapter has seen.

    links: others that it can reach now: workers, or servers of the broker; sent: messages that were handed to them, for
    each once; queued_bytes: what waits for them; keys: subscriptions of this worker; dropped: messages that were given
    up, by cause; reconnects: links that were lost and came again; refused: peers that were turned away, and records
    from a broker that were none; lag_seconds: how long a probe took to others and back, the longest of late; 0.0 before
    the first, and while a broker is out of reach.
    """

    links: int = 0
    sent: int = 0
    queued_bytes: int = 0
    keys: int = 0
    dropped: Mapping[Cause, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    reconnects: int = 0
    refused: int = 0
    lag_seconds: float = 0.0


class Settings(Protocol):
    """What an adapter wants to know of the section `bus` of the configuration."""

    @property
    def prefix(self) -> str:
        """What all channels begin with."""

    @property
    def max_message(self) -> int:
        """The largest body, in bytes."""

    @property
    def peer_queue(self) -> int:
        """What may wait for the broker, in bytes."""


class Sink(Protocol):
    """Where an adapter hands on what comes; none of this raises or waits."""

    def on_envelope(self, envelope: Envelope, publisher: Origin) -> None:
        """Deliver what another worker has published, or a program outside by a broker."""

    def on_outside(self, envelope: Envelope) -> bool:
        """Publish, as this worker's own, what a program outside has handed in; False if it cannot be published."""

    def on_gap(self, keys: frozenset[Key] | None, count: int | None) -> None:
        """Know that messages may be missing: of these keys, None being any.

        count: how many; None if a way or a worker was lost, and nobody can know; 0 if another one tells, who does not.
        It comes when the path works again, so what is read or asked then misses nothing.
        """

    def on_debt(self) -> None:
        """Have other machines be told that messages of this one may be missing: a worker that leaves could not.

        Nor could one that has died. It may come until close has returned.
        """

    def on_state(self, up: bool, why: str) -> None:
        """Know that a broker can be reached, with all that is wanted here subscribed to, or cannot.

        why: a clause about what is wrong, "" for up. It comes once for each change. The mesh has no such state.
        """


class Bus(Protocol):
    """An adapter. All but start and close are called in the loop and return at once."""

    async def start(self, sink: Sink) -> None:
        """Begin, and do not wait until others can be reached; what comes goes to the sink."""

    async def linked(self, seconds: float) -> str:
        """Wait, so long at most, until others are reached; return a clause about who is not, "" for all."""

    async def settle(self, seconds: float) -> bool:
        """Wait, so long at most, until what is subscribed to is in effect, and what was published has come.

        That is: until all that is subscribed to here is in effect wherever it can be published, and all that was
        published elsewhere before this call, which is for a broker what its server had taken, has come here and was
        handed to the sink. False if it was not so in time; at once while a broker cannot be reached, as its return is
        a gap anyway.
        """

    def subscribe(self, keys: Iterable[Key]) -> None:
        """Have what others publish to these keys sent here. None of them is subscribed to yet."""

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """Have it sent no more. All of them are subscribed to."""

    def publish(self, envelope: Envelope) -> bool:
        """Send to every other worker that wants it; False if it was dropped for any of them, as far as is known now.

        A broker's own node is left out: the mesh has that. You must not publish while it is closed, or afterwards.
        """

    def owe(self) -> bool:
        """Have other machines be told that messages of this one may be missing. You must call flush as well.

        A broker's adapter tells them, and owes it after its close. The mesh has another worker do so, by the broker's
        adapter of that one; False if there is none that stays.
        """

    @property
    def owes(self) -> bool:
        """Whether other machines are to be told of a loss and were not yet; for a broker, also after close."""

    def flush(self) -> None:
        """Write what was published, subscribed and unsubscribed. You must call it at the end of the tick."""

    def stats(self) -> BusStats:
        """Return what it has seen."""

    async def close(self, grace_seconds: float) -> None:
        """End in good order; what is queued is written if that takes no longer than the grace."""

    def let_go(self) -> None:
        """Close its descriptors, and nothing else, in a process that user code has forked: see forked.py."""


_NOBODY: Final = Origin("", 0)


class Loopback:
    """The adapter between workers that live in one process and one loop.

    circle: those that hear each other, a list that they share; each joins it at its start and leaves it at its end.
    origin: who this one is.
    """

    def __init__(self, circle: list[Loopback], origin: Origin = _NOBODY) -> None:
        self._circle = circle
        self._origin = origin
        self._keys: set[Key] = set()
        self._published: list[Envelope] = []
        self._sink: Sink | None = None

    async def start(self, sink: Sink) -> None:
        """Join the circle."""
        self._sink = sink
        self._circle.append(self)

    async def linked(self, seconds: float) -> str:
        """Return at once: whoever there is can be reached."""
        return ""

    async def settle(self, seconds: float) -> bool:
        """Have what the others have published handed over, which takes a turn of the loop."""
        for other in tuple(self._circle):
            other.flush()
        await asyncio.sleep(0)
        return True

    def subscribe(self, keys: Iterable[Key]) -> None:
        """Want to hear of these keys, at once."""
        self._keys.update(keys)

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """Want to hear of them no more."""
        self._keys.difference_update(keys)

    def publish(self, envelope: Envelope) -> bool:
        """Keep it until flush."""
        self._published.append(envelope)
        return True

    def owe(self) -> bool:
        """Do nothing: there are no other machines."""
        return False

    @property
    def owes(self) -> bool:
        """Whether others are to be told of a loss: there is none."""
        return False

    def flush(self) -> None:
        """Hand everything to the others, in the loop's next turn."""
        published, self._published = self._published, []
        if published:
            asyncio.get_running_loop().call_soon(self._hand_over, published)

    def stats(self) -> BusStats:
        """Return what it has seen: the others are all reachable, and nothing is ever dropped."""
        return BusStats(links=max(0, len(self._circle) - 1), keys=len(self._keys))

    async def close(self, grace_seconds: float) -> None:
        """Leave the circle; what was flushed before still arrives."""
        self.flush()
        if self in self._circle:
            self._circle.remove(self)

    def let_go(self) -> None:
        """Do nothing: it has no descriptors."""

    def _hand_over(self, published: list[Envelope]) -> None:
        for envelope in published:
            for other in tuple(self._circle):
                wanted = envelope.key.kind == "broadcast" or envelope.key in other._keys
                if wanted and other is not self and other._sink is not None:
                    other._sink.on_envelope(envelope, self._origin)
