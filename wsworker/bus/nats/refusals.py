"""Refusals: what a server does not take of an adapter, because its account may not have it.

NATS names the subject and not the message. Its word comes before the PONG of the batch that the message was in, so what
is refused between two of them was in the batch in flight: it has been counted by then, and what is left of the batch
when the PONG comes has come through. That others have missed it is told later, all at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from wsworker.bus.broker.channels import key_of_subject, service_subject
from wsworker.bus.broker.pipeline import Item
from wsworker.bus.losses import Debts, Gap
from wsworker.bus.topics import Key

_FORBIDDEN_PUBLISH: Final = re.compile(r'permissions violation for publish to "(.*)"', re.IGNORECASE)


class Refusals:
    """What was refused. prefix: of the bus.

    debts: what others are to be told of it, some time; subscriptions: how often something else was refused than to
    publish.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix: Final = prefix
        self._service: Final = service_subject(prefix)
        self._messages = 0  # of the batch in flight
        self._gap = False
        self.debts: Final = Debts()
        self.subscriptions = 0

    def add(self, text: str) -> bool:
        """Note what a server has said; return whether it is of a message."""
        match = _FORBIDDEN_PUBLISH.match(text)
        if match is None:
            self.subscriptions += 1
        elif match[1] == self._service:
            self._gap = True
        elif (key := key_of_subject(self._prefix, match[1])) is not None:
            self._messages += 1
            self.debts.add(key)
            return True
        return False

    def confirmed(self, batch: Iterable[Item]) -> int:
        """Know that a batch is answered; return how many of its messages have come through."""
        messages = 0
        for item in batch:
            messages += isinstance(item, Key)
            if isinstance(item, Gap) and self._gap:
                self.debts.add(item)
        return self.over(messages)

    def over(self, messages: int) -> int:
        """Know that a batch of so many messages is over; return how many of them were not refused."""
        rest = max(0, messages - self._messages)
        self._messages, self._gap = 0, False
        return rest
