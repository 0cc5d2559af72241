"""Lookup: the addresses of a broker's name, asked for in a thread of their own.

Where no name server answers, each question keeps its thread for as long as the system tries, which is half a minute
easily, and who dials again every second would soon have many of them. So there is one question at a time for each
name; who asks again meanwhile waits for the same answer. Dial what it returns and not the name: the loop would ask once
more, in the pool that user code shares.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

from wsworker.brokers import Server
from wsworker.bus.broker.aside import aside


class Lookup:
    """The questions of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: dict[Server, asyncio.Future[list[str]]] = {}

    async def addresses(self, server: Server) -> list[str]:
        """Return the IP addresses of a server, one at least, such as "10.0.0.5" or "fe80::1", the best one first.

        You should dial each in turn until one takes you, with the name as the host of TLS; a loop or a library that is
        handed one looks up nothing. It may take very long: you must not wait for longer than you can. Raises OSError,
        or UnicodeError for what is no name.
        """
        with contextlib.suppress(OSError, UnicodeError):
            return _ask(server, socket.AI_NUMERICHOST)
        answer = self._asked.get(server)
        if answer is None:
            # nothing is noted if no thread can be begun
            answer = aside(self._loop, lambda: _ask(server), "wsworker-lookup")
            self._asked[server] = answer
            answer.add_done_callback(lambda _: self._asked.pop(server))
        # who gives up leaves it to the others
        await asyncio.wait((answer,))
        return answer.result()


def in_turn(addresses: Sequence[str], seconds: float, clock: Callable[[], float]) -> Iterator[tuple[str, float, bool]]:
    """Yield each address, with its share of the time in seconds and whether it is the last one.

    One that says nothing leaves their share to those behind it; one that refuses at once leaves them its own as well.
    clock: returns seconds that only grow.
    """
    until = clock() + seconds
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        yield address, (until - clock()) / left, left == 1


def _ask(server: Server, flags: int = 0) -> list[str]:
    found = socket.getaddrinfo(*server, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
