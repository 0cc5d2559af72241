"""The subscriber: the line over which one Redis or Valkey sends a worker what it wants.

Over each new wire everything is asked for anew; the line is up when all of it is confirmed, whatever else is asked for
meanwhile. Only then is it told that messages may be missing, so that whoever reads the state of things then misses
nothing after it.

A connection may stand and yet bring nothing: after a failover it may lead to a server at which nobody publishes any
more. So each worker publishes probes to a channel of its own. A probe that the server has taken and that does not come
back ends the connection, unless something else has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Protocol

from wsworker.bus.redis.line import Keeper, Line, Times, Turns, together, watch
from wsworker.bus.redis.subscriptions import Ask, Subscriptions, Verb
from wsworker.bus.redis.wire import Lost, Refusal, Wire, command


class SubscriberKeeper(Keeper, Protocol):
    """Whom a subscriber tells what becomes of it."""

    def missed(self) -> None:
        """Tell the worker that messages may be missing."""


class Audience(Protocol):
    """Who knows what is wanted, and takes what comes."""

    def wants(self, subscriber: Subscriber, channel: bytes) -> bool:
        """Return whether a channel is wanted over this line."""

    def channels(self) -> Iterable[bytes]:
        """Return all channels that may be wanted over some line."""

    def heard(self, subscriber: Subscriber, channel: bytes, payload: bytes) -> None:
        """Handle what has come."""


class Subscriber(Line):
    """The line. sharded: by the commands of a cluster. lag_seconds: of the last probe, 0.0 before the first."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[Wire]],
        keeper: SubscriberKeeper,
        audience: Audience,
        times: Times,
        draw: Callable[[], float],
        sharded: bool,
    ) -> None:
        super().__init__(dial, keeper, times, draw)
        self._owner = keeper
        self._audience = audience
        self._subscriptions = Subscriptions(lambda channel: audience.wants(self, channel), each=sharded)
        self._wake = asyncio.Event()
        letter = b"s" if sharded else b""
        self._message = letter + b"message"
        self._verbs: dict[bytes, Verb] = {letter + b"subscribe": "subscribe", letter + b"unsubscribe": "unsubscribe"}
        self._commands = {verb: name.upper() for name, verb in self._verbs.items()}
        self._owes = False  # word that messages may be missing
        self._asked_at = 0.0  # or confirmed, whatever was last
        self._probed_at: float | None = None  # since when a probe is on its way
        self._settling: list[asyncio.Future[bool]] = []
        self.lag_seconds = 0.0

    def touch(self, channels: Iterable[bytes]) -> None:
        """Know that it may have changed whether these are wanted here. You must call write afterwards."""
        if self._wire is not None:
            self._subscriptions.touch(channels)

    def touch_homeless(self) -> None:
        """Ask once more for what was refused, or ended by the server. You must call write afterwards."""
        self._subscriptions.touch_homeless()

    def write(self) -> None:
        """Ask soon for what has changed, if anything has."""
        if self._subscriptions.pending:
            self._wake.set()

    def owe(self) -> None:
        """Have told that messages may be missing, as soon as all that is wanted now is confirmed."""
        self._owes = True
        self._subscriptions.need()
        # it may all be confirmed, and nothing more be asked
        self._wake.set()

    def settle(self) -> asyncio.Future[bool]:
        """Return what is True once all that is wanted now is confirmed, and what the server had taken has come.

        It is False if the line is not up, or is lost meanwhile.
        """
        settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.up:
            self._settling.append(settled)
            self._subscriptions.ask_again()
            self._wake.set()
        else:
            settled.set_result(False)
        return settled

    def expect_probe(self) -> None:
        """Know that a probe is on its way."""
        if self._probed_at is None and self.up:
            self._probed_at = monotonic()

    async def serve(self, wire: Wire) -> None:
        """Subscribe and listen."""
        self._asked_at = monotonic()
        self._probed_at = None
        self._subscriptions.restart(self._audience.channels())
        self._wake.set()
        span = min(self._times.answer, self._times.silence)
        await together(self._ask(wire), self._hear(wire), watch(span, self._overdue))

    def lost(self, lost: Lost) -> None:
        """Owe word of it."""
        self._owes = True
        self._settled(False)

    async def _ask(self, wire: Wire) -> None:
        subscriptions = self._subscriptions
        while True:
            await self._wake.wait()
            self._wake.clear()
            while subscriptions.pending:
                asks = subscriptions.take()
                if asks:
                    self._asked_at = monotonic()
                    await wire.send(b"".join(map(self._command, asks)))
                await asyncio.sleep(0)
            # what is wanted may have been so all the time, and nothing is asked
            self._settle()

    def _command(self, ask: Ask) -> bytes:
        return command(self._commands[ask.verb], *ask.channels)

    async def _hear(self, wire: Wire) -> None:
        turns = Turns(wire)
        while True:
            said = await turns.next()
            self._probed_at = None
            if isinstance(said, Refusal):
                self._refused(said)
                continue
            if not (isinstance(said, list) and len(said) == 3 and isinstance(said[1], bytes)):
                raise Lost("it sends what is no message")
            kind, channel, payload = said
            if kind == self._message and isinstance(payload, bytes):
                self._audience.heard(self, channel, payload)
            elif kind in self._verbs:
                self._confirm(self._verbs[kind], channel)
            else:
                raise Lost("it sends what is no message")

    def _confirm(self, verb: Verb, channel: bytes) -> None:
        self._asked_at = monotonic()
        if not self._subscriptions.confirm(verb, channel):
            # the slot moves away
            self._owes = True
            self._keeper.moved()
        if self._subscriptions.pending:
            self._wake.set()
        self._settle()

    def _refused(self, refusal: Refusal) -> None:
        if not self._subscriptions.refuse():
            raise Lost("it says what nobody has asked")
        if not refusal.moved:
            raise Lost(f"it refuses to subscribe: {refusal.text}")
        # asked again when the layout is known anew
        self._owes = True
        self._keeper.moved()

    def _settle(self) -> None:
        """Be up if all that was needed is confirmed, and tell what is owed."""
        if not self._subscriptions.ready:
            return
        if not self.up:
            self.rise()
            self._keeper.risen()
        if self._owes:
            self._owes = False
            self._owner.missed()
        self._settled(True)

    def _settled(self, truth: bool) -> None:
        settling, self._settling = self._settling, []
        for settled in settling:
            # who has waited may have given up
            if not settled.done():
                settled.set_result(truth)

    def _overdue(self) -> Lost | None:
        now = monotonic()
        if not self._subscriptions.complete and now - self._asked_at > self._times.answer:
            return Lost("no answer came in time", silent=True)
        if self._probed_at is not None and now - self._probed_at > self._times.silence:
            return Lost("nothing comes from it any more")
        return None
