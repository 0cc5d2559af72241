"""Redis and Valkey: the way between machines by the pub/sub of either. An adapter of the bus.

A worker has two connections to the server, whatever the number of its clients: over one it publishes, over the other
it hears. Both carry what broker/payload.py describes, in the channels of broker/channels.py.

A cluster is the same several times over: each of its servers has some of the channels, by sharded pub/sub, and the
worker has two connections to each. A single server is a layout with one server, and the rest is the same. In a cluster
word of a gap goes by one server and the messages by others, so there it may come a moment late.

    publish ---> broker/pipeline.py ---> publisher.py ---.                up: both lines of all shards are
                                                         |--- wire.py --- server
    the sink <---- interest.py <------- subscriber.py ---'                down: any is not

What is published while a server is out of reach is given up and counted, as it is on a loss of its connection, and
owed to all: a GAP says so in the service's channel, before anything newer over that connection. While one server of a
cluster is away and the others are not, something more is lost at each tick: a GAP goes at once, then one with each
probe, and one when the server is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic_ns
from typing import Final

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.channels import channel as channel_of
from wsworker.bus.broker.channels import service_channel
from wsworker.bus.broker.early import Early
from wsworker.bus.broker.lookup import Lookup
from wsworker.bus.broker.payload import Writer
from wsworker.bus.broker.pipeline import Stage
from wsworker.bus.broker.reception import Reception
from wsworker.bus.broker.state import State
from wsworker.bus.bus import CAUSES, BusStats, Cause, Settings, Sink
from wsworker.bus.losses import Debts, Gap
from wsworker.bus.redis.dialler import Dialler
from wsworker.bus.redis.interest import Interest
from wsworker.bus.redis.line import TIMES, Times
from wsworker.bus.redis.publisher import Publisher
from wsworker.bus.redis.shards import Shards
from wsworker.bus.redis.subscriber import Subscriber
from wsworker.bus.redis.wire import command
from wsworker.bus.topics import Envelope, Key, Origin
from wsworker.notices import Notices

logger: Final = logging.getLogger("wsworker.bus")

_SLICE: Final = 2048
"""So many keys are looked at without a pause when the layout of a cluster has changed."""


class Redis:
    """The adapter of one worker; see Bus for what the public methods mean.

    url: of the scheme redis or one like it; draw: gives a random number from 0 to 1 at each call; times: for tests.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: BrokerUrl,
        origin: Origin,
        settings: Settings,
        draw: Callable[[], float],
        times: Times = TIMES,
    ) -> None:
        self._loop = loop
        self._url = url
        self._origin = origin
        self._prefix = settings.prefix
        self._max_message = settings.max_message
        self._limit = settings.peer_queue
        self._draw = draw
        self._times = times
        self._name = f"wsworker:{origin.worker}"
        self._writer = Writer(origin)
        self._notices = Notices(logger, loop.time)
        self._verb = b"SPUBLISH" if url.kind.cluster else b"PUBLISH"
        self._dialler = Dialler(url, Lookup(loop), Certificates(loop, url), times.connect)
        self._shards = Shards(url, self._dialler, f"{self._name}:ask", times, draw, self)
        self._interest = Interest(settings.prefix, self._shards)
        self._state = State(str(url))
        self._early = Early(settings.peer_queue)  # what comes before the layout of a cluster is known
        self._debts = Debts()
        self._hushed = False  # what is owed waits for the next probe: a gap was told lately, or refused
        self._reception: Reception | None = None
        self._prober: asyncio.TimerHandle | None = None
        self._rest = asyncio.Event()
        self._dropped: dict[Cause, int] = dict.fromkeys(CAUSES, 0)

    # Its life

    async def start(self, sink: Sink) -> None:
        """Begin to dial."""
        self._state.begin(sink)
        self._reception = Reception(self._loop, self._origin.node, self._max_message, sink)
        self._interest.begin(self._reception)
        self._shards.start()
        self._probe()

    async def linked(self, seconds: float) -> str:
        """Wait, so long at most, until the first attempt is over; return a clause if it has failed."""
        return await self._state.linked(seconds)

    async def settle(self, seconds: float) -> bool:
        """Have each server confirm something more."""
        if not self._state.up:
            return False
        self.flush()
        settled = [shard.subscriber.settle() for shard in self._shards]
        try:
            async with asyncio.timeout(seconds):
                return all(await asyncio.gather(*settled))
        except TimeoutError:
            return False

    async def close(self, grace_seconds: float) -> None:
        """Write what is queued, if that takes no longer than the grace, and close all connections."""
        self._state.end()
        self._interest.end()
        if self._prober is not None:
            self._prober.cancel()
        self._hushed = False
        self.flush()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while self._queued_bytes:
                    self._rest.clear()
                    await self._rest.wait()
        if self._queued_bytes:
            logger.warning("some of what was published last could not be written to %s", self._url)
        await self._shards.close()
        self._give_up_early()
        # a transport closes its socket in the next turn, that of TLS in the one after
        for _ in range(3):
            await asyncio.sleep(0)

    def let_go(self) -> None:
        """Close the connections, in a process that user code has forked."""
        for shard in self._shards:
            for line in shard.lines:
                line.let_go()

    # What is published and wanted here

    def subscribe(self, keys: Iterable[Key]) -> None:
        """Have what others publish to these keys sent here."""
        self._touch(self._interest.add(keys))

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """Have it sent no more."""
        self._touch(self._interest.discard(keys))

    def publish(self, envelope: Envelope) -> bool:
        """Queue it; False if it is given up."""
        if self._shards.layout is None:
            return self._publish_early(envelope)
        return self._push(envelope)

    def owe(self) -> bool:
        """Tell the others that messages of this machine may be missing."""
        self._debts.add(Gap(0, None))
        self._hushed = False
        return True

    @property
    def owes(self) -> bool:
        """Whether others are to be told of a loss and were not, as far as is known; also after close."""
        return bool(self._debts) or any(shard.publisher.pipeline.tells for shard in self._shards)

    def flush(self) -> None:
        """Write what was published, subscribed and unsubscribed."""
        self.pay()
        for shard in self._shards:
            shard.publisher.write()
            shard.subscriber.write()

    def stats(self) -> BusStats:
        """Return what it has seen."""
        return BusStats(
            links=sum(shard.up for shard in self._shards),
            sent=self._shards.sent + sum(shard.publisher.sent for shard in self._shards),
            queued_bytes=self._queued_bytes,
            keys=len(self._interest),
            dropped=dict(self._dropped),
            reconnects=self._state.reconnects,
            refused=0 if self._reception is None else self._reception.refused,
            lag_seconds=max((shard.subscriber.lag_seconds for shard in self._shards if self._state.up), default=0.0),
        )

    @property
    def _queued_bytes(self) -> int:
        return self._early.size + sum(shard.publisher.pipeline.size for shard in self._shards)

    def _touch(self, channels: Iterable[bytes]) -> None:
        for shard in self._shards:
            shard.subscriber.touch(channels)

    def _push(self, envelope: Envelope) -> bool:
        channel = channel_of(self._prefix, envelope.key)
        shard = self._shards.of(channel)
        if shard is None:
            # nobody in the cluster has its slot
            return self._give_up(envelope, "down")
        record = command(self._verb, channel, self._writer.envelope(envelope))
        cause = shard.publisher.pipeline.push(record, envelope.key)
        if cause is not None:
            self._dropped[cause] += 1
        return cause is None

    def _give_up(self, envelope: Envelope, cause: Cause) -> bool:
        self._dropped[cause] += 1
        self._debts.add(envelope.key)
        return False

    def _publish_early(self, envelope: Envelope) -> bool:
        """Keep what comes before a cluster is known; give it up once the first attempt to know it has failed."""
        if self._state.up is None and self._early.push(envelope):
            return True
        return self._give_up(envelope, "full" if self._state.up is None else "down")

    def _give_up_early(self) -> None:
        for envelope in self._early.take():
            self._give_up(envelope, "down")
        self._rest.set()

    def _probe(self) -> None:
        self._prober = self._loop.call_later(self._times.probe, self._probe)
        self._hushed = False
        self.pay()
        for shard in self._shards:
            if shard.publisher.up and shard.probe is not None:
                record = command(self._verb, shard.probe, self._writer.probe(monotonic_ns()))
                shard.publisher.pipeline.force(record, None)
                shard.publisher.write()

    # What the shards tell

    def lines(self, server: Server) -> tuple[Publisher, Subscriber]:
        """Make the lines to a server."""
        dialler, times, draw = self._dialler, self._times, self._draw
        publisher = Publisher(
            lambda: dialler.dial(server, f"{self._name}:pub"),
            self,
            times,
            draw,
            self._limit,
            self._debts,
            self._notices,
        )
        subscriber = Subscriber(
            lambda: dialler.dial(server, f"{self._name}:sub"),
            self,
            self._interest,
            times,
            draw,
            self._url.kind.cluster,
        )
        return publisher, subscriber

    def probe_channel(self, ending: str) -> bytes:
        """Return the channel of the worker's own with this ending of its name."""
        return service_channel(self._prefix, f"{self._origin.node}.{self._origin.worker}{ending}")

    async def surveyed(self, changed: bool) -> None:
        """Ask each server for what it has now; publish what has waited for that."""
        for envelope in self._early.take():
            self._push(envelope)
        for shard in self._shards:
            # also if all is asked anew: what nobody wants any more, such as an old probe, is not among that
            shard.subscriber.touch_homeless()
        if changed:
            self._hushed = False
            await self._ask_anew()
        self.flush()
        self.risen()

    async def _ask_anew(self) -> None:
        """Have each server asked for what it has, of very many keys in slices; tell then that some may be missing."""
        channels = self._interest.channels()
        subscribers = [shard.subscriber for shard in self._shards]
        for begin in range(0, len(channels), _SLICE):
            for subscriber in subscribers:
                subscriber.touch(channels[begin : begin + _SLICE])
                await asyncio.sleep(0)
        for subscriber in subscribers:
            subscriber.owe()

    def unsurveyed(self, why: str) -> None:
        """Know that nobody could be asked for the layout; why: a clause."""
        self._state.fall(why)
        self._give_up_early()

    # What the lines tell

    def risen(self) -> None:
        """Tell that the broker can be reached, if all lines are up, and that messages may be missing, if they may."""
        if all(shard.up for shard in self._shards):
            self._state.rise()

    def fell(self, why: str) -> None:
        """Tell that it cannot be reached, once; a line was lost, which may be because the layout is another one."""
        self._shards.look()
        self._state.fall(why)

    def missed(self) -> None:
        """Tell the worker that messages may be missing; the line that would have brought them is up again."""
        self._state.miss(self._times.patience)

    def moved(self) -> None:
        """Know that the layout of the cluster may be another one."""
        self._shards.look()

    def gave_up(self, cause: Cause, count: int) -> None:
        """Count messages that were given up."""
        self._dropped[cause] += count

    def probed(self, publisher: Publisher) -> None:
        """Know that a probe should come back."""
        for shard in self._shards:
            if shard.publisher is publisher:
                shard.subscriber.expect_probe()

    def hangs(self, publisher: Publisher) -> None:
        """Throw the other line to a server away that hangs: it may hang there for much longer."""
        for shard in self._shards:
            if shard.publisher is publisher:
                shard.subscriber.cut("no answer came in time")

    def unpaid(self, gap: Gap) -> None:
        """Owe it again, and wait a while: whoever refuses it now would do so again at once."""
        self._debts.add(gap)
        self._hushed = True

    def rested(self) -> None:
        """Know that a pipeline is empty."""
        self._rest.set()

    def recovered(self) -> None:
        """Know that what is published goes out again over some line: before it, others are told what they have lost."""
        self._hushed = False
        self.pay()

    def pay(self) -> None:
        """Tell others what they have lost, if the server that has the service's channel takes it now.

        Not again before the next probe, unless something has recovered: whoever is told at each tick loads its state
        again and again for a gap that is not over.
        """
        shard = self._shards.of(self._interest.service) if self._debts and not self._hushed else None
        if shard is None or shard.publisher.pipeline.stage is not Stage.UP or shard.publisher.pipeline.stalled:
            return
        self._hushed = True
        gap = self._debts.take()
        shard.publisher.pipeline.force(command(self._verb, self._interest.service, self._writer.gap(gap)), gap)
        shard.publisher.write()
