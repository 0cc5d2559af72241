"""Event loops: which one a worker runs, what it does of its own accord, and how it ends.

uvloop is the default and asyncio the choice of those who need it. Where the two differ, the difference ends here: user
code that wants the process to end is heard by both, and a connection with TLS costs no more on one than on the other.
"""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from typing import Any, Final

from wsworker.worker.delivery import OURS

TLS_BUFFER_BYTES: Final = 32 * 1024
"""Of a connection with TLS on asyncio: a record of 16 KiB, the most there may be, is read at once. RFC 8446, 5.1."""


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a loop; auto is uvloop, which is a dependency."""
    if kind == "asyncio":
        # each connection with TLS has a buffer of this size, all of it written at once; as it comes it is 256 KiB
        sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
        return asyncio.SelectorEventLoop()
    import uvloop

    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_let_exits_pass)
    return loop


def _let_exits_pass(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process when user code wants that in a read: uvloop takes it for a fault of the transport and goes on.

    That a task has wanted it is no news: the loop ends of it, and what follows is that nobody asks the task any more.
    """
    exception = context.get("exception")
    if not isinstance(exception, (SystemExit, KeyboardInterrupt)):
        loop.default_exception_handler(context)
    elif "transport" in context:
        loop.call_soon(_throw, exception)


def _throw(exception: BaseException) -> None:
    raise exception


def end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what user code left running and give it a second to end."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel(OURS)
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())
