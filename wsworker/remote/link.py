"""Link: what can be done with a connection to a broker, whatever language it speaks.

A message is handed over in two steps, since they fail differently. What send() raises means that nobody has it: it may
be sent again. What answer() raises means that nobody knows, unless it is a PublishError, with which the broker has
refused it.
"""

from __future__ import annotations

from typing import Protocol

from wsworker.brokers import BrokerUrl
from wsworker.bus.topics import Key
from wsworker.errors import PublishError
from wsworker.remote.stream import Stream, Where
from wsworker.visible import escape


class Link(Protocol):
    """A connection to one server of a broker, which has been greeted. stream: what it goes over."""

    stream: Stream

    def stays(self) -> bool:
        """Whether it can be used still."""

    def send(self, prefix: str, key: Key, payload: bytes) -> None:
        """Send a message to the channel of a key. Raises OSError, or PublishError: nobody has it."""

    def answer(self) -> Where | None:
        """Wait until the server has taken it. Returns who is to be asked instead, if this one says so.

        Raises PublishError if it refuses, OSError or WireError if it does not answer.
        """


def refusal(url: BrokerUrl, why: str) -> PublishError:
    """Return the error for a message that the broker does not take. why: as the broker says it."""
    return PublishError("refused", f"{url} does not take the message: {escape(why)}")


def no_entry(url: BrokerUrl, why: str) -> PublishError:
    """Return the error for a program that the broker does not let in. why: as for refusal."""
    return PublishError("refused", f"{url} does not let this program in ({escape(why)}); see who the URL says it is")
