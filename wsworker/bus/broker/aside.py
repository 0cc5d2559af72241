"""Aside: what may take long and cannot be awaited, done in a thread of its own.

Not in the pool of the loop, which asyncio.to_thread uses as well: where the system tries for half a minute, as it does
for a name that no name server answers for, a few attempts would fill that pool. Nothing that user code hands to a
thread would begin any more; and where user code has filled it, a broker that is well could not be reached. An end of
the worker waits for none of these threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

Result = TypeVar("Result")

NO_THREAD: Final = "this process may begin no thread more; see pids.max and ulimit -u"


def aside(loop: asyncio.AbstractEventLoop, work: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """Have this called in a fresh thread; return the future of what it returns or raises. name: of the thread.

    You may await it at once, and cancel it at any time: the thread goes on then, and what comes of it is forgotten. How
    many there are at a time is yours to bound. Raises OSError with a clause if no thread can be begun; nothing is left
    of the attempt then.
    """
    future: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        tell: Callable[[], None]
        try:
            tell = partial(_succeed, future, work())
        except Exception as error:
            tell = partial(_fail, future, error)
        # the loop may be closed by now
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        raise OSError(NO_THREAD) from None
    return future


def _succeed(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # so that it is no matter for the log if nobody waits any more
        future.exception()
