"""Timers of user code: worker.every() and worker.after().

A timer runs a function without arguments in the event loop. What it raises is logged and the timer goes on: a failed
poll of a database must not end the poll, far less the worker. If the function gives an awaitable back, the run lasts
until that is done, and the next one is planned only then, so a run never overlaps itself. Whether it does is asked at
each run and not found out beforehand: `lambda: refresh(worker)` is the natural way to pass an argument, and no
inspection of a lambda tells that refresh is async.

A repeated timer stays on its beat: the next run is due one interval after the last one was due, not after it ran.
Runs that a blocked loop or a slow run has missed are skipped, never made up for in a burst.

A run is timed like a callback: it keeps the loop from other clients just as well.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from wsworker import speaker
from wsworker.counters import Counters
from wsworker.worker.app import place_of
from wsworker.worker.copies import end_if_copy
from wsworker.worker.stalls import LONG_SECONDS, Stalls


def next_due(due: float, now: float, seconds: float) -> float:
    """Return when a timer that was due at `due` is due again: the first beat after now.

    due, now: seconds on one clock; now may lie before due, as loops fire up to their clock's resolution early.
    seconds: the interval, above 0.
    """
    late = now - due
    # fmod and not a count of missed beats, which overflows for a tiny interval
    beat = due + seconds if late < seconds else now + seconds - math.fmod(late, seconds)
    return beat if beat > now else beat + seconds  # a beat that rounding puts on now has been


class Timer:
    """What every() and after() return; cancel() is all that a user does with it."""

    def __init__(self, owner: Timers, seconds: float, fn: Callable[[], Any], repeats: bool) -> None:
        self._owner = owner
        self._seconds = seconds
        self._fn = fn
        self._repeats = repeats
        self._cancelled = False
        self._run: asyncio.Task[None] | None = None
        self._due = owner.loop.time() + seconds
        # None while a run is going on
        self._handle: asyncio.TimerHandle | None = owner.loop.call_at(self._due, self._fire, context=speaker.aside())

    def cancel(self) -> None:
        """Plan no further run. A run that is going on finishes, as it may hold a half-done piece of work.

        May be called at any time, also by the function itself, and more than once.
        """
        self._cancelled = True
        if self._handle is not None:
            self._handle.cancel()
            self._owner.forget(self)

    def _fire(self) -> None:
        self._handle = None
        outcome = raised = None
        began_at = monotonic()
        try:
            outcome = self._fn()
            end_if_copy(None)
        except BaseException as exc:
            end_if_copy(exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            raised = exc
        seconds = monotonic() - began_at
        if seconds > LONG_SECONDS:
            place = place_of(self._fn, self._owner.app_dir) or "not in Python"
            self._owner.stalls.tell(self._name(), place, seconds)
        if inspect.isawaitable(outcome):
            self._run = self._owner.loop.create_task(_wait_for(outcome, self._owner.counters))
            self._run.add_done_callback(self._finished)
            return
        self._owner.counters.sync_calls.add(seconds)
        if raised is not None:
            self._log(raised)
            # its traceback has this frame
            raised = None
        self._plan()

    def _finished(self, run: asyncio.Task[None]) -> None:
        self._run = None
        # cancelled: something the function awaited was cancelled, which is user code's own doing and no error
        if not run.cancelled() and (exc := run.exception()) is not None:
            self._log(exc)
        self._plan()

    def _plan(self) -> None:
        if self._cancelled or not self._repeats:
            self._owner.forget(self)
            return
        self._due = next_due(self._due, self._owner.loop.time(), self._seconds)
        self._handle = self._owner.loop.call_at(self._due, self._fire)

    def _log(self, exc: BaseException) -> None:
        self._owner.counters.fail("timer")
        self._owner.failed(exc)
        ending = "; the timer goes on" if self._repeats else ""
        self._owner.log.error("%s raised %s%s", self._name(), type(exc).__name__, ending, exc_info=exc)

    def _name(self) -> str:
        kind = "every" if self._repeats else "after"
        return f"{kind}({self._seconds:g}, {getattr(self._fn, '__qualname__', None) or repr(self._fn)})"


class Timers:
    """The timers of one worker.

    loop: where they run; log: where exceptions go; counters: where they and the times are counted; stalls: is told
    which runs took long; app_dir: absolute, what places are relative to; failed: is told exceptions too. Keeps every
    timer until its last run is over, as the loop itself holds tasks only weakly. You must call cancel_all() before the
    loop ends.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: logging.Logger,
        counters: Counters,
        stalls: Stalls,
        app_dir: str,
        failed: Callable[[BaseException], None] = lambda exc: None,
    ) -> None:
        self.loop = loop
        self.log = log
        self.counters = counters
        self.stalls = stalls
        self.app_dir = app_dir
        self.failed = failed
        self._timers: set[Timer] = set()

    def __len__(self) -> int:
        return len(self._timers)

    def every(self, seconds: float, fn: Callable[[], Any]) -> Timer:
        """Call fn() every so many seconds, the first time in `seconds` from now.

        fn: sync or async, without arguments; a sync one must not block. seconds: above 0 and finite, else ValueError.
        TypeError for what cannot be called.
        """
        return self._add(seconds, fn, repeats=True)

    def after(self, seconds: float, fn: Callable[[], Any]) -> Timer:
        """Call fn() once, in `seconds` from now; arguments and errors as for every()."""
        return self._add(seconds, fn, repeats=False)

    def cancel_all(self) -> None:
        """Cancel every timer; runs that are going on finish."""
        for timer in tuple(self._timers):
            timer.cancel()

    def forget(self, timer: Timer) -> None:
        """Let go of a timer that will not run again; called by the timer itself."""
        self._timers.discard(timer)

    def _add(self, seconds: float, fn: Callable[[], Any], repeats: bool) -> Timer:
        if not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(f"a timer takes seconds above 0, not {seconds!r}")
        if not callable(fn):
            raise TypeError(f"a timer takes a function, not {fn!r}")
        timer = Timer(self, seconds, fn, repeats)
        self._timers.add(timer)
        return timer


async def _wait_for(outcome: Awaitable[Any], counters: Counters) -> None:
    began_at = monotonic()
    try:
        await outcome
        end_if_copy(None)
    except BaseException as exc:
        end_if_copy(exc)
        raise
    finally:
        counters.async_calls.add(monotonic() - began_at)
