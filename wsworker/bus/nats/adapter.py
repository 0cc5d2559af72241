"""The adapter to NATS: one connection of each worker to one of the servers of the URL.

Each key is a subject, see channels.py, and each subject that is wanted here a subscription. Beside those of the hub
there are two from the first moment on: everybody, and the service, in which others tell what they could not publish.

    round     every server of the URL is tried once, beginning behind the last one; if none takes us, a pause
    linked    logged in: what others have missed is told, then what waits is published, and all keys are subscribed to
    up        the server has confirmed all that; only now a gap is told here, so who reads its state misses nothing
    lost      what the server had not confirmed is owed to the others; the next round begins after a pause

What is published goes out in batches with a PING behind each, whose PONG confirms it; meanwhile the next one gathers.
So it is known at any time what may not have come through, see pipeline.py. All that comes over one connection is
handled in its order, over all subjects: FIFO from each publisher, and a gap stands where the messages are missing.

The protocol is spoken here and not by nats-py, although that is the usual client. It keeps a queue and a task for each
subscription, so there is no order between a message and a gap; its flush() may overtake what was published before; it
subscribes again to everything in one go, which stops the loop; with TLS in the URL it logs in without TLS if the server
offers none; a header that is none ends its reader; and a stopped server that has taken half a buffer is waited for
without end. What is left of such a client, when all this is done otherwise, is wire.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from wsworker.brokers import BrokerUrl
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.channels import service_subject, subject
from wsworker.bus.broker.early import Early
from wsworker.bus.broker.payload import Writer
from wsworker.bus.broker.pipeline import Pipeline, Stage
from wsworker.bus.broker.reasons import reason
from wsworker.bus.broker.reception import Reception
from wsworker.bus.broker.state import State
from wsworker.bus.bus import CAUSES, BusStats, Cause, Settings, Sink
from wsworker.bus.losses import Debts, Gap
from wsworker.bus.nats.dialler import Dialler
from wsworker.bus.nats.link import Link
from wsworker.bus.nats.refusals import Refusals
from wsworker.bus.nats.wire import publish, subscribe, unsubscribe
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin
from wsworker.notices import Notices

BATCH: Final = 512
_SERVICE: Final = 1
_EVERYBODY: Final = 2
_FIRST_FREE: Final = 3

logger = logging.getLogger("wsworker.bus")


class Patience(NamedTuple):
    """Times, in seconds.

    connect: for one server to take us; first_pause, most_pause: between rounds, doubled after each; ping: between looks
    whether the server answers; silence: after which it is given up.
    """

    connect: float = 3.0
    first_pause: float = 0.25
    most_pause: float = 1.0
    ping: float = 5.0
    silence: float = 20.0


PATIENCE: Final = Patience()


class Nats:
    """One worker's way to other machines by NATS.

    url: one of NATS; origin: who we are; draw: returns a random number from 0.0 to below 1.0, each time another.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: BrokerUrl,
        origin: Origin,
        settings: Settings,
        draw: Callable[[], float],
        patience: Patience = PATIENCE,
    ) -> None:
        self._loop = loop
        self._url = url
        self._origin = origin
        self._settings = settings
        self._draw = draw
        self._patience = patience
        self._writer = Writer(origin)
        self._notices = Notices(logger, loop.time)
        self._sids: dict[Key, int] = {}
        self._keys: dict[int, Key] = {_EVERYBODY: EVERYBODY}
        self._service = service_subject(settings.prefix)
        self._next_sid = itertools.count(_FIRST_FREE)
        self._debts = Debts()
        self._refusals = Refusals(settings.prefix)  # told with the next ping, or each would be told by itself
        self._pipeline = Pipeline(settings.peer_queue, self._debts)
        self._early = Early(settings.peer_queue)
        self._state = State(str(url))
        self._commands: list[bytes] = []  # subscriptions of this tick
        self._certificates = Certificates(loop, url)
        name = f"wsworker {origin.node} {origin.worker}"
        self._dialler = Dialler(loop, url, name, draw, patience.connect, self._new_link)
        self._link: Link | None = None  # also while it is being opened
        self._reception: Reception | None = None
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._dropped: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self._sent = 0
        self._lag = 0.0
        self._lag_was_read = True

    async def start(self, sink: Sink) -> None:
        """Begin to connect."""
        self._reception = Reception(self._loop, self._origin.node, self._settings.max_message, sink)
        self._state.begin(sink)
        self._task = self._loop.create_task(self._run())

    async def linked(self, seconds: float) -> str:
        """Wait, so long at most, until the first round is over; return a clause about why nobody takes us, or ""."""
        return await self._state.linked(seconds)

    async def settle(self, seconds: float) -> bool:
        """Have the server answer; what it has taken before, from whomever, it has sent before."""
        if not self._state.up or self._link is None:
            return False
        self.flush()
        try:
            await self._link.round_trip(seconds)
        except OSError:
            return False
        return True

    def subscribe(self, keys: Iterable[Key]) -> None:
        """Have what others publish to these keys sent here."""
        for key in keys:
            sid = self._sids[key] = next(self._next_sid)
            self._keys[sid] = key
            if self._pipeline.stage is Stage.UP:
                self._commands.append(subscribe(self._subject(key), sid))

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """Have it sent no more."""
        for key in keys:
            sid = self._sids.pop(key)
            del self._keys[sid]
            if self._pipeline.stage is Stage.UP:
                self._commands.append(unsubscribe(sid))

    def publish(self, envelope: Envelope) -> bool:
        """Queue a message; False if it is dropped."""
        if self._pipeline.stage is Stage.BEGINNING:
            return self._early.push(envelope) or self._drop(envelope.key, "full")
        data = self._writer.envelope(envelope)
        if self._pipeline.stage is Stage.UP:
            self._tell_debts()
            assert self._link is not None, "it is up"
            if len(data) > self._link.info.max_payload:
                text = "a message of %d bytes is too large for %s, whose max_payload is %d; it stays on this machine"
                self._notices.tell("size", text, len(envelope.body), self._url, self._link.info.max_payload)
                return self._drop(envelope.key, "size")
        cause = self._pipeline.push(publish(self._subject(envelope.key), data), envelope.key)
        if cause:
            self._dropped[cause] += 1
        return not cause

    def owe(self) -> bool:
        """Tell the others that messages of this machine may be missing."""
        self._debts.add(Gap(0, None))
        return True

    @property
    def owes(self) -> bool:
        """Whether others are to be told of a loss and were not, as far as is known; also after close."""
        return bool(self._debts or self._refusals.debts) or self._pipeline.tells

    def flush(self) -> None:
        """Write the commands of this tick, and the next batch unless one is in flight."""
        if self._pipeline.stage is not Stage.UP or self._link is None:
            return
        if self._commands:
            self._link.write(b"".join(self._commands))
            self._commands.clear()
        self._tell_debts()
        if not self._pipeline.in_flight:
            batch = self._pipeline.take()
            if batch:
                self._link.write(batch)
                self._link.ping(self._confirmed)

    def stats(self) -> BusStats:
        """Return what it has seen; the lag is that since it was asked last."""
        waits = 0.0 if self._link is None else self._link.waits_seconds
        self._lag_was_read = True
        return BusStats(
            links=int(bool(self._state.up)),
            sent=self._sent,
            queued_bytes=self._pipeline.size + self._early.size,
            keys=len(self._sids),
            dropped=dict(self._dropped),
            reconnects=self._state.reconnects,
            refused=self._refusals.subscriptions + (0 if self._reception is None else self._reception.refused),
            # who hangs has answered quickly, before
            lag_seconds=max(self._lag, waits) if self._state.up else 0.0,
        )

    async def close(self, grace_seconds: float) -> None:
        """End in good order; what is queued is written if that takes no longer than the grace."""
        until = self._loop.time() + grace_seconds
        self._tell_refused()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while self._task is not None and (self._early.size or self._pipeline.size):
                    self.flush()
                    self._moved.clear()
                    await self._moved.wait()
        self.flush()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        link, self._link = self._link, None
        if link is not None:
            await link.close(max(0.0, until - self._loop.time()))
        self._pass_on(Stage.DOWN)
        self._state.end()

    def let_go(self) -> None:
        """Close the socket in a process that user code has forked."""
        if self._link is not None:
            self._link.let_go()

    # What goes out

    def _subject(self, key: Key) -> str:
        return subject(self._settings.prefix, key)

    def _drop(self, key: Key, cause: Cause) -> bool:
        self._dropped[cause] += 1
        self._debts.add(key)
        return False

    def _tell_debts(self) -> None:
        """Tell the others what they have missed, if there is room again."""
        if self._debts and not self._pipeline.stalled and self._link is not None:
            gap = self._debts.take()
            data = self._writer.gap(gap)
            if len(data) > self._link.info.max_payload:
                data = self._writer.gap(Gap(gap.lost, None))
            self._pipeline.force(publish(self._service, data), gap)

    def _tell_refused(self) -> None:
        if self._refusals.debts:
            self._debts.add(self._refusals.debts.take())
            self.flush()

    def _confirmed(self, seconds: float) -> None:
        self._measured(seconds)
        self._sent += self._refusals.confirmed([self._pipeline.answered() for _ in range(self._pipeline.in_flight)])
        self.flush()
        self._moved.set()

    def _pass_on(self, stage: Stage) -> None:
        """Publish from now on, or give up all that waits; so with what has waited until it was known which."""
        if stage is Stage.DOWN:
            self._dropped["down"] += self._refusals.over(self._pipeline.fail())
            self._commands.clear()
        else:
            self._pipeline.stage = stage
        for envelope in self._early.take():
            self.publish(envelope)
        self.flush()

    # What a link tells

    def received(self, sid: int, data: bytes) -> None:
        """Handle a message; one to a subscription that was just given up is nobody's."""
        assert self._reception is not None, "it was started"
        if sid == _SERVICE:
            self._reception.gap(data)
        elif sid in self._keys:
            self._reception.message(self._keys[sid], data)

    def refused(self, text: str) -> None:
        """Tell that the account at the server is not allowed what it should be."""
        cure = "raise this limit at the server"
        if text.lower().startswith("permissions"):
            cure = f"give its user publish and subscribe for {self._settings.prefix.removesuffix(':')}.>"
        self._notices.tell("refused", "%s refuses something: %r; %s", self._url, text, cure, level=logging.WARNING)
        self._dropped["refused"] += self._refusals.add(text)

    # The connection

    async def _run(self) -> None:
        pause = self._patience.first_pause
        while True:
            try:
                link = await self._dialler.round()
                if link is None:
                    why = self._dialler.why
                else:
                    was_up, why = await self._serve(link)
                    pause = self._patience.first_pause if was_up else pause
            except Exception:
                # a mistake of ours; nothing would be published any more, and nobody would know
                logger.exception("the connection to %s is given up", self._url)
                why = "a mistake of wsworker's own, which is in the log"
            self._end(why)
            await asyncio.sleep(pause * (0.5 + self._draw() / 2))
            pause = min(2 * pause, self._patience.most_pause)

    def _new_link(self) -> Link:
        self._link = Link(self._loop, self, self._certificates)
        return self._link

    async def _serve(self, link: Link) -> tuple[bool, str]:
        """Use a link until its end; return whether it was up, and a clause about that end."""
        up = False
        try:
            self._pass_on(Stage.UP)
            await self._subscribe_all(link)
            self._lag, self._lag_was_read = await link.round_trip(self._patience.silence), False
            up = True
            self._state.rise()
            self._moved.set()
            while True:
                await asyncio.wait((link.over,), timeout=self._patience.ping)
                self._tell_refused()
                self._measured(await link.round_trip(self._patience.silence))
        except OSError as error:
            return up, reason(error)

    async def _subscribe_all(self, link: Link) -> None:
        link.write(subscribe(self._service, _SERVICE))
        sids = list(self._keys)
        for begin in range(0, len(sids), BATCH):
            wanted = [(sid, self._keys[sid]) for sid in sids[begin : begin + BATCH] if sid in self._keys]
            link.write(b"".join(subscribe(self._subject(key), sid) for sid, key in wanted))
            # very many must not stop the loop
            await asyncio.sleep(0)

    def _measured(self, seconds: float) -> None:
        self._lag = seconds if self._lag_was_read else max(self._lag, seconds)
        self._lag_was_read = False

    def _end(self, why: str) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort()
        self._pass_on(Stage.DOWN)
        self._state.fall(why)
        # also if no topic is wanted: who only broadcasts has clients too
        self._state.miss()
        self._moved.set()
