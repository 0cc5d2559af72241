"""Calling the user's callbacks: timed, one at a time per connection, and never at the cost of the worker.

A sync callback runs inline, in the read that brought its message: no task, no thread, no waiting. An async one costs a
task, and while it runs, everything else for its connection waits in line behind it, sync callbacks included; other
connections go on. So a user may await in on_message and still sees the messages of one client in order.

What a callback raises ends here: it is counted, and logged once with the part of the traceback that is the user's.
Then on_error has its turn, and after it the connection is closed; what waited in line is dropped. SystemExit and
KeyboardInterrupt are meant for the process and pass. A cancellation passes only if it is ours, which its message tells:
user code cancels tasks as well, its own among them, and that must not take the connection's line along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Final, Protocol

from wsworker.counters import QUICK_SECONDS, Counters
from wsworker.speaker import Speaker, begin_task, floor, of_task
from wsworker.worker import copies
from wsworker.worker.app import App, Callback
from wsworker.worker.copies import end_if_copy
from wsworker.worker.stalls import LONG_SECONDS, Stalls

MESSAGES_WAITING: Final = 16
"""So many may wait for an async callback; then their client is not read from."""

OURS: Final = "wsworker ends this task"
"""What we hand to Task.cancel, so that a callback's CancelledError can be told from the user's own."""


HIDDEN_COROUTINE: Final = "it returned a coroutine; make it `async def`, or use functools.wraps in its decorator"


class Turn(Protocol):
    """What is asked between two messages. _stopped: the next one must wait, or is not wanted any more."""

    _stopped: bool


class Caller:
    """Runs the callbacks of one app for one worker. stalls: is told which took long; log: for tracebacks.

    failed: is told what they raise, beside the log. times: of the sync ones, which Delivery.deliver counts itself.
    """

    def __init__(
        self,
        app: App,
        stalls: Stalls,
        counters: Counters,
        log: logging.Logger,
        failed: Callable[[BaseException], None] = lambda exc: None,
    ) -> None:
        self.app = app
        self._failed = failed
        self._stalls = stalls
        self._counters = counters
        self.times = counters.sync_calls
        self._log = log

    def run(self, callback: Callback, *args: object) -> BaseException | None:
        """Call a sync callback; return what it raised, which you must report() unless it is an answer to you."""
        # not loop.time(), which uvloop has in whole milliseconds
        began_at = monotonic()
        try:
            self.examine(callback.function(*args))
        except BaseException as exc:
            end_if_copy(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            return exc
        finally:
            self.mind_time(callback, monotonic() - began_at)
        return None

    def examine(self, result: object) -> None:
        """Look at what a sync callback has returned; raise TypeError for a coroutine. A copy ends here."""
        end_if_copy(None)
        if result is not None and asyncio.iscoroutine(result):
            # a decorator without functools.wraps hid the async def; left alone, nothing would ever run it
            result.close()
            raise TypeError(HIDDEN_COROUTINE)

    def mind_time(self, callback: Callback, seconds: float) -> None:
        """Count how long a callback has kept the loop, and tell it if that is long."""
        self.times.add(seconds)
        self.complain(callback, seconds)

    def complain(self, callback: Callback, seconds: float) -> None:
        """Tell that a callback, or a run of its calls, has kept the loop for so long, if that is long."""
        if seconds > LONG_SECONDS:
            self._stalls.tell(self._name(callback), callback.place, seconds)

    async def wait(self, callback: Callback, *args: object) -> BaseException | None:
        """Call any callback and wait until it is done; return what it raised, as run() does."""
        if not callback.is_async:
            return self.run(callback, *args)
        began_at = monotonic()
        try:
            await callback.function(*args)
            end_if_copy(None)
        except BaseException as exc:
            end_if_copy(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            return await self._judge(exc)
        finally:
            self._counters.async_calls.add(monotonic() - began_at)
        return await self._judge(None)

    async def _judge(self, raised: BaseException | None) -> BaseException | None:
        """Return what an async callback has raised, its own cancellation included; raise ours."""
        task = asyncio.current_task()
        assert task is not None
        if task.cancelling() and not isinstance(raised, asyncio.CancelledError):
            # a callback that cancels its own task and awaits nothing any more leaves that to the next callback
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as exc:
                raised = raised or exc
        if isinstance(raised, asyncio.CancelledError) and OURS in raised.args:
            raise raised
        while task.cancelling():
            task.uncancel()
        return raised

    def report(self, callback: Callback, exc: BaseException) -> None:
        """Count an exception and log it with the user's traceback."""
        name = self._name(callback)
        self._counters.fail(name)
        self._failed(exc)
        trace = (type(exc), exc, _users_part(exc.__traceback__))
        self._log.error("%s raised %s (%s)", name, type(exc).__name__, callback.place, exc_info=trace)

    def _name(self, callback: Callback) -> str:
        return next(name for name in self.app.names if getattr(self.app, name) is callback)


class Client(Speaker, Protocol):
    """What the delivery of a connection tells it; it is also the first argument of every callback."""

    def _turn_over(self) -> None:
        """A callback that had to wait is done; the next, if any waits, has not begun."""

    def _crowded(self) -> None:
        """MESSAGES_WAITING callbacks wait: deliver nothing until a turn is over."""

    def _idle(self) -> None:
        """Nothing runs and nothing waits any more."""

    def _broke(self) -> None:
        """A callback raised and on_error will have its turn: deliver nothing until then."""

    def _fail(self) -> None:
        """A callback raised, and on_error has had its turn if there is one: close."""

    def _not_resumed(self) -> None:
        """An async on_resume raised: close as a reload without a hand-over does."""


class Delivery:
    """The callbacks of one connection, in order."""

    __slots__ = ("_caller", "_client", "_held", "_loop", "_task", "_waiting")

    def __init__(self, client: Client, caller: Caller, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._caller = caller
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._held = False
        # a list, as it is short, and an empty deque takes more memory than all else of an idle connection's delivery
        self._waiting: list[tuple[Callback, tuple[Any, ...]]] = []

    @property
    def waiting(self) -> int:
        """How many callbacks wait; one that runs is not counted."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a callback runs in its task or waits, so that another one has to wait behind it."""
        return self._task is not None or bool(self._waiting)

    @property
    def only_messages_wait(self) -> bool:
        """Whether nothing but messages waits, if anything: those can be taken elsewhere."""
        if not self._waiting:
            # nearly all who are asked: they move
            return True
        on_message = self._caller.app.on_message
        return all(callback is on_message for callback, _ in self._waiting)

    @property
    def rests(self) -> bool:
        """Whether nothing runs, and nothing waits but messages, so that take_waiting has all there is."""
        return self._task is None and self.only_messages_wait

    def take_waiting(self) -> list[str | bytes]:
        """Return the messages that wait, which are yours from now on; only while it rests."""
        waiting, self._waiting = self._waiting, []
        return [data for _, (data,) in waiting]

    def call(self, callback: Callback | None, *args: object) -> None:
        """Call back with the connection and args: at once if that is possible, else in turn. None: nobody listens."""
        if callback is None:
            return
        if callback.is_async or self.busy:
            self._waiting.append((callback, args))
            self._begin()
        else:
            self._run(callback, *args)

    def deliver(self, messages: list[str | bytes], turn: Turn) -> int:
        """Call on_message with each message, at once or in turn, until the turn is stopped; return how many were taken.

        This is what a worker does all day, so it repeats Caller.run without its calls. The time is taken once for all
        messages: others are blocked by the sum of them anyway. You must stop the turn in _crowded and in _broke.

        You must call it from no callback, and in a context that speaks for nobody, as reads and the worker's own rounds
        have it: so there is neither a holder of the floor to be put back, nor anything to be cleared.
        """
        caller = self._caller
        callback = caller.app.on_message
        if callback is None:
            return len(messages)
        if callback.is_async or self._task is not None or self._waiting:
            return self._line_up(callback, messages, turn)
        function, client, count, raised = callback.function, self._client, 0, None
        floor.holder = client
        try:
            began_at = monotonic()
            try:
                for message in messages:
                    count += 1
                    result = function(client, message)
                    if result is not None or copies.is_copy:
                        caller.examine(result)
                    if turn._stopped:
                        break
            except BaseException as exc:
                end_if_copy(exc)
                if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                    raise
                raised = exc
            seconds = monotonic() - began_at
            if seconds <= QUICK_SECONDS:
                # what add() does, without the call: nearly all reads are like this
                caller.times.quick += count
                caller.times.seconds += seconds
            elif count:
                caller.times.add(seconds, count)
                caller.complain(callback, seconds)
            if raised is not None:
                self._done(callback, raised)
                # its traceback has this frame, and with it the messages
                raised = None
            return count
        finally:
            floor.holder = None

    def _line_up(self, callback: Callback, messages: list[str | bytes], turn: Turn) -> int:
        for count, message in enumerate(messages, 1):
            self.call(callback, message)
            if len(self._waiting) >= MESSAGES_WAITING:
                self._client._crowded()
            if turn._stopped:
                return count
        return len(messages)

    def signal(self, callback: Callback | None) -> None:
        """Call back about the buffer: a sync callback at once, past all that waits, since that may be what fills it."""
        if callback is None or callback.is_async:
            self.call(callback)
        else:
            self._run(callback)

    def hold(self) -> None:
        """Begin no further turn; the one that runs goes on."""
        self._held = True

    def release(self) -> None:
        """Take turns again."""
        self._held = False
        self._begin()

    def drop(self) -> None:
        """Forget the messages that wait; the turn that runs goes on, and on_connect and on_close are never lost."""
        app = self._caller.app
        self._waiting = [turn for turn in self._waiting if turn[0] is app.on_connect or turn[0] is app.on_close]

    def stop(self) -> None:
        """Forget what waits and cancel the turn that runs: the worker ends and can wait for it no longer."""
        self.drop()
        if self._task is not None:
            self._task.cancel(OURS)

    def _run(self, callback: Callback, *args: object) -> None:
        before, floor.holder = floor.holder, self._client
        if outer := of_task.get():
            # another connection's task has brought this about; the tasks that the callback starts are not its own
            of_task.set("")
        try:
            exc = self._caller.run(callback, self._client, *args)
            if exc is not None or callback is self._caller.app.on_error:
                self._done(callback, exc)
        finally:
            floor.holder = before
            if outer:
                of_task.set(outer)

    def _done(self, callback: Callback, exc: BaseException | None) -> None:
        on_error = self._caller.app.on_error
        if exc is not None and callback is self._caller.app.on_resume:
            self._caller.report(callback, exc)
            self.drop()
            self._client._not_resumed()
            return
        if exc is not None:
            self._caller.report(callback, exc)
            self.drop()
            self._held = False  # a pause must not keep on_error back, nor the end
        if callback is on_error or (exc is not None and on_error is None):
            self._client._fail()
        elif exc is not None:
            self._client._broke()
            self.call(on_error, exc)

    def _begin(self) -> None:
        if self._task is None and self._waiting and not self._held:
            self._task = self._loop.create_task(self._take_turns())
            # not in a finally of the task: one that is cancelled before its first step never gets there
            self._task.add_done_callback(self._rest)

    async def _take_turns(self) -> None:
        begin_task(self._client)
        while self._waiting and not self._held:
            callback, args = self._waiting.pop(0)
            exc = await self._caller.wait(callback, self._client, *args)
            self._done(callback, exc)
            self._client._turn_over()

    def _rest(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if self._waiting:
            self._begin()
        else:
            self._client._idle()


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
