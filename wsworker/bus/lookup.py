"""Lookup: the addresses of a broker's name, asked for in a thread of their own.

A loop asks in a thread of the pool that asyncio.to_thread uses as well. Where no name server answers, each question
keeps its thread for as long as the system tries, which is half a minute easily, and who dials again every second soon
has them all wait: nothing that user code hands to a thread would begin any more. So there is one question at a time for
each name; who asks again meanwhile waits for the same answer. An end of the worker waits for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any, TypeAlias

from wsworker.brokers import Server

Found: TypeAlias = list[tuple[Any, ...]]
"""As socket.getaddrinfo has it."""


class Lookup:
    """The questions of one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: dict[Server, asyncio.Future[Found | Exception]] = {}

    async def addresses(self, server: Server) -> Found:
        """Return the addresses of a server, one at least. Raises OSError, or UnicodeError for what is no name.

        It may take very long: you must not wait for longer than you can.
        """
        with contextlib.suppress(OSError, UnicodeError):
            return _ask(server, socket.AI_NUMERICHOST)
        answer = self._asked.get(server)
        if answer is None:
            answer = self._asked[server] = self._loop.create_future()
            threading.Thread(target=self._run, args=(server,), name="wsworker-lookup", daemon=True).start()
        # who gives up leaves it to the others
        found = await asyncio.shield(answer)
        if isinstance(found, Exception):
            raise found
        return found

    def _run(self, server: Server) -> None:
        found: Found | Exception
        try:
            found = _ask(server)
        # UnicodeError: a part of the name is too long
        except (OSError, UnicodeError) as error:
            found = error
        # the loop may be closed by now
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answered, server, found)

    def _answered(self, server: Server, found: Found | Exception) -> None:
        self._asked.pop(server).set_result(found)


def _ask(server: Server, flags: int = 0) -> Found:
    return [*socket.getaddrinfo(*server, type=socket.SOCK_STREAM, flags=flags)]
