"""Redis and Valkey: the way between machines by the pub/sub of either. An adapter of the bus.

A worker has two connections to the server, whatever the number of its clients: over one it publishes, over the other
it hears. Both carry what payload.py describes, in the channels of channels.py. Always subscribed to are the channel of
broadcasts, the service's for gaps, and one of the worker's own for its probes.

A cluster is the same several times over: each of its servers has some of the channels, by sharded pub/sub, and the
worker has two connections to each. A single server is a layout with one server, and the rest is the same. In a cluster
word of a gap goes by one server and the messages by others, so there it may come a moment late.

    publish ---> pipeline.py ---> redis_publisher.py ---.                      up: both lines of all shards are
                                                        |--- redis_wire.py --- server
    the sink <------------------ redis_subscriber.py ---'                      down: any is not

What is published while a server is out of reach is given up and counted, as it is on a loss of its connection, and
owed to all: a GAP says so in the service's channel, before anything newer over that connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic_ns
from typing import Final

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.bus import CAUSES, BusStats, Cause, Settings, Sink
from wsworker.bus.channels import channel as channel_of
from wsworker.bus.channels import service_channel
from wsworker.bus.lookup import Lookup
from wsworker.bus.payload import EXTRA_BYTES, Origin, Writer
from wsworker.bus.pipeline import Debts, Stage
from wsworker.bus.reception import Reception
from wsworker.bus.records import Gap
from wsworker.bus.redis_line import TIMES, Times
from wsworker.bus.redis_publisher import Publisher
from wsworker.bus.redis_shards import Shard, Shards
from wsworker.bus.redis_subscriber import Subscriber
from wsworker.bus.redis_wire import command, dial
from wsworker.bus.topics import EVERYBODY, Envelope, Key
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
        self._service = service_channel(self._prefix)
        self._everybody = channel_of(self._prefix, EVERYBODY)
        self._wanted: dict[bytes, Key] = {}
        self._lookup = Lookup(loop)
        self._shards = Shards(url, self._lookup, f"{self._name}:ask", times, draw, self)
        self._early: deque[Envelope] = deque()  # what came before the layout of a cluster
        self._early_bytes = 0
        self._debts = Debts()
        self._refused_gap = False  # lately: it is paid with the next probe, not at once, or it would go on for ever
        self._sink: Sink | None = None  # from start until close
        self._reception: Reception | None = None
        self._prober: asyncio.TimerHandle | None = None
        self._rest = asyncio.Event()
        self._judged = asyncio.Event()  # the first attempt is over
        self._up: bool | None = None
        self._was_up = False
        self._has_gap = False  # that the worker was not told of
        self._why = ""
        self._dropped: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self._reconnects = 0

    # Its life

    async def start(self, sink: Sink) -> None:
        """Begin to dial."""
        self._sink = sink
        self._reception = Reception(self._loop, self._origin.node, self._max_message, sink)
        self._shards.start()
        self._probe()

    async def linked(self, seconds: float) -> str:
        """Wait, so long at most, until the first attempt is over; return a clause if it has failed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._judged.wait()
        return "" if self._up else f"{self._url} does not answer ({self._why or 'no answer came in time'})"

    async def close(self, grace_seconds: float) -> None:
        """Write what is queued, if that takes no longer than the grace, and close all connections."""
        self._sink = None
        if self._prober is not None:
            self._prober.cancel()
        self._refused_gap = False
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
        new = {channel_of(self._prefix, key): key for key in keys}
        self._wanted |= new
        self._touch(new)

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """Have it sent no more."""
        old = [channel_of(self._prefix, key) for key in keys]
        for channel in old:
            self._wanted.pop(channel, None)
        self._touch(old)

    def publish(self, envelope: Envelope) -> bool:
        """Queue it; False if it is given up."""
        if self._shards.layout is None:
            return self._publish_early(envelope)
        channel = channel_of(self._prefix, envelope.key)
        shard = self._shards.of(channel)
        if shard is None:
            # nobody in the cluster has its slot
            self._debts.add(envelope.key)
            cause: Cause | None = "down"
        else:
            record = command(self._verb, channel, self._writer.envelope(envelope))
            cause = shard.publisher.pipeline.push(record, envelope.key)
        if cause is not None:
            self._dropped[cause] += 1
        return cause is None

    def owe(self) -> None:
        """Tell the others that messages of this machine may be missing."""
        self._debts.add(Gap(0, None))

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
            keys=len(self._wanted),
            dropped=dict(self._dropped),
            reconnects=self._reconnects,
            refused=0 if self._reception is None else self._reception.refused,
            lag_seconds=max((shard.subscriber.lag_seconds for shard in self._shards if self._up), default=0.0),
        )

    @property
    def _queued_bytes(self) -> int:
        return self._early_bytes + sum(shard.publisher.pipeline.size for shard in self._shards)

    def _touch(self, channels: Iterable[bytes]) -> None:
        for shard in self._shards:
            shard.subscriber.touch(channels)

    def _publish_early(self, envelope: Envelope) -> bool:
        """Keep what comes before a cluster is known; give it up once the first attempt to know it has failed."""
        cause: Cause = "down"
        if self._up is None:
            size = EXTRA_BYTES + len(envelope.body)
            if not self._early or self._early_bytes + size <= self._limit:
                self._early.append(envelope)
                self._early_bytes += size
                return True
            cause = "full"
        self._dropped[cause] += 1
        self._debts.add(envelope.key)
        return False

    def _give_up_early(self) -> None:
        self._dropped["down"] += len(self._early)
        for envelope in self._early:
            self._debts.add(envelope.key)
        self._early.clear()
        self._early_bytes = 0
        self._rest.set()

    def _probe(self) -> None:
        self._prober = self._loop.call_later(self._times.probe, self._probe)
        self._refused_gap = False
        self.pay()
        for shard in self._shards:
            if shard.publisher.up and shard.probe is not None:
                record = command(self._verb, shard.probe, self._writer.probe(monotonic_ns()))
                shard.publisher.pipeline.force(record, None)
                shard.publisher.write()

    # What the shards tell

    def lines(self, server: Server) -> tuple[Publisher, Subscriber]:
        """Make the lines to a server."""
        url, times, draw = self._url, self._times, self._draw
        publisher = Publisher(
            lambda: dial(url, server, self._lookup, f"{self._name}:pub", times.connect),
            self,
            times,
            draw,
            self._limit,
            self._debts,
            self._notices,
        )
        subscriber = Subscriber(
            lambda: dial(url, server, self._lookup, f"{self._name}:sub", times.connect),
            self,
            times,
            draw,
            url.kind.cluster,
        )
        return publisher, subscriber

    def probe_channel(self, ending: str) -> bytes:
        """Return the channel of the worker's own with this ending of its name."""
        return service_channel(self._prefix, f"{self._origin.node}.{self._origin.worker}{ending}")

    async def surveyed(self, changed: bool) -> None:
        """Ask each server for what it has now; publish what has waited for that."""
        self._refused_gap = False
        early, self._early, self._early_bytes = self._early, deque(), 0
        for envelope in early:
            self.publish(envelope)
        if changed:
            await self._ask_anew()
        else:
            for shard in self._shards:
                shard.subscriber.touch_homeless()
        self.flush()
        self.risen()

    async def _ask_anew(self) -> None:
        """Have each server asked for what it has, of very many keys in slices; tell then that some may be missing."""
        channels = self.channels()
        subscribers = [shard.subscriber for shard in self._shards]
        for begin in range(0, len(channels), _SLICE):
            for subscriber in subscribers:
                subscriber.touch(channels[begin : begin + _SLICE])
                await asyncio.sleep(0)
        for subscriber in subscribers:
            subscriber.owe()

    def unsurveyed(self, why: str) -> None:
        """Know that nobody could be asked for the layout; why: a clause."""
        self._falls(why)
        self._give_up_early()

    # What the lines tell

    def risen(self) -> None:
        """Tell that the broker can be reached, if all lines are up, and that messages may be missing, if they may."""
        if self._up or not all(shard.up for shard in self._shards):
            return
        self._reconnects += self._was_up
        self._up = self._was_up = True
        self._judged.set()
        if self._sink is not None:
            self._sink.on_state(True, "")
        self._tell_gap()

    def fell(self, why: str) -> None:
        """Tell that it cannot be reached, once; a line was lost, which may be because the layout is another one."""
        self._shards.look()
        self._refused_gap = False
        self._falls(why)

    def _falls(self, why: str) -> None:
        self._why = why
        if self._up is False:
            return
        self._up = False
        self._judged.set()
        if self._sink is not None:
            self._sink.on_state(False, why)

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
        self._refused_gap = True

    def rested(self) -> None:
        """Know that a pipeline is empty."""
        self._rest.set()

    def pay(self) -> None:
        """Tell others what they have lost, if the server that has the service's channel takes it now."""
        shard = self._shards.of(self._service) if self._debts and not self._refused_gap else None
        if shard is None or shard.publisher.pipeline.stage is not Stage.UP or shard.publisher.pipeline.stalled:
            return
        gap = self._debts.take()
        shard.publisher.pipeline.force(command(self._verb, self._service, self._writer.gap(gap)), gap)
        shard.publisher.write()

    def wants(self, subscriber: Subscriber, channel: bytes) -> bool:
        """Return whether a channel is wanted over this line."""
        shard = self._home(subscriber, channel)
        if shard is None:
            return False
        return channel in self._wanted or channel in (self._service, self._everybody, shard.probe)

    def channels(self) -> list[bytes]:
        """Return all channels that may be wanted over some line."""
        probes = [shard.probe for shard in self._shards if shard.probe is not None]
        return [*self._wanted, self._service, self._everybody, *probes]

    def heard(self, subscriber: Subscriber, channel: bytes, payload: bytes) -> None:
        """Hand on what has come, unless the channel has moved: what is late there would come behind what is newer."""
        shard = self._home(subscriber, channel)
        if shard is None or self._sink is None or self._reception is None:
            return
        key = self._wanted.get(channel)
        if key is not None:
            self._reception.message(key, payload)
        elif channel == self._everybody:
            self._reception.message(EVERYBODY, payload)
        elif channel == self._service:
            self._reception.gap(payload)
        elif channel == shard.probe:
            clock = self._reception.probe(payload)
            if clock is not None:
                subscriber.lag_seconds = max(0, monotonic_ns() - clock) / 1e9

    def _home(self, subscriber: Subscriber, channel: bytes) -> Shard | None:
        """Return the shard that has a channel now, if this is its line."""
        shard = self._shards.of(channel)
        return shard if shard is not None and shard.subscriber is subscriber else None

    def missed(self) -> None:
        """Tell the worker that messages may be missing, once it can also publish what it makes of that."""
        self._has_gap = True
        self._tell_gap()

    def _tell_gap(self) -> None:
        if self._has_gap and self._up and self._sink is not None:
            self._has_gap = False
            self._sink.on_gap(None, None)
