"""Interest: the channels that a worker wants to hear, over which line, and what becomes of what comes in them.

Beside those of its keys there are three from the first moment on: of broadcasts, of the service, where others tell what
they could not publish, and for each line one of the worker's own, for its probes.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic_ns
from typing import Final

from wsworker.bus.broker.channels import channel as channel_of
from wsworker.bus.broker.channels import service_channel
from wsworker.bus.broker.reception import Reception
from wsworker.bus.redis.shards import Shard, Shards
from wsworker.bus.redis.subscriber import Subscriber
from wsworker.bus.topics import EVERYBODY, Key


class Interest:
    """Of one worker. prefix: of all channels. service: the channel of the service."""

    def __init__(self, prefix: str, shards: Shards) -> None:
        self._prefix = prefix
        self._shards = shards
        self._keys: dict[bytes, Key] = {}
        self._everybody = channel_of(prefix, EVERYBODY)
        self._reception: Reception | None = None
        self.service: Final = service_channel(prefix)

    def __len__(self) -> int:
        return len(self._keys)

    def begin(self, reception: Reception) -> None:
        """Hand on what comes from now on."""
        self._reception = reception

    def end(self) -> None:
        """Hand on nothing any more."""
        self._reception = None

    def add(self, keys: Iterable[Key]) -> list[bytes]:
        """Want these; return their channels."""
        new = {channel_of(self._prefix, key): key for key in keys}
        self._keys |= new
        return [*new]

    def discard(self, keys: Iterable[Key]) -> list[bytes]:
        """Want these no more; return their channels."""
        old = [channel_of(self._prefix, key) for key in keys]
        for channel in old:
            self._keys.pop(channel, None)
        return old

    def channels(self) -> list[bytes]:
        """Return all channels that may be wanted over some line."""
        probes = [shard.probe for shard in self._shards if shard.probe is not None]
        return [*self._keys, self.service, self._everybody, *probes]

    def wants(self, subscriber: Subscriber, channel: bytes) -> bool:
        """Return whether a channel is wanted over this line."""
        shard = self._home(subscriber, channel)
        if shard is None:
            return False
        return channel in self._keys or channel in (self.service, self._everybody, shard.probe)

    def heard(self, subscriber: Subscriber, channel: bytes, payload: bytes) -> None:
        """Hand on what has come, unless the channel has moved: what is late there would come behind what is newer."""
        shard = self._home(subscriber, channel)
        if shard is None or self._reception is None:
            return
        key = self._keys.get(channel)
        if key is not None:
            self._reception.message(key, payload)
        elif channel == self._everybody:
            self._reception.message(EVERYBODY, payload)
        elif channel == self.service:
            self._reception.gap(payload)
        elif channel == shard.probe:
            clock = self._reception.probe(payload)
            if clock is not None:
                subscriber.lag_seconds = max(0, monotonic_ns() - clock) / 1e9

    def _home(self, subscriber: Subscriber, channel: bytes) -> Shard | None:
        """Return the shard that has a channel now, if this is its line."""
        shard = self._shards.of(channel)
        return shard if shard is not None and shard.subscriber is subscriber else None
