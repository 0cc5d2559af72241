"""Watch: the clocks of one open connection, all read at the same moment, so that it needs one deadline and no timers.

    silent       nothing at all came for ping_timeout behind a ping (pulse.py)
    stuck        something waits to be written, and the client has taken nothing of it for write_timeout
    unfinished   a message has begun and not ended within message_timeout
    unsigned     connection.user was not set when auth_timeout had passed
    idle         no message, either way, for idle_timeout

Times are ticks of the worker's wheel and come in as arguments. While our own side does not read, what the client sends
cannot be known: its silence, its unfinished message and its idleness are not counted then, and anew behind it. What it
does not take still is. A client that takes something is not silent: its pong cannot come before it has our ping.

What is stuck is seen at a check only, as nobody tells when the kernel takes a byte. So it is cut after write_timeout at
the earliest and twice that at the latest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from wsworker.sections import WebSocketConfig
from wsworker.worker.pulse import Pulse, PulseState
from wsworker.worker.wheel import ticks

Verdict: TypeAlias = Literal["wait", "ping", "silent", "stuck", "unfinished", "unsigned", "idle"]


@dataclass(frozen=True, slots=True)
class Spans:
    """How long each may take, in ticks; 0: for ever. One for all connections of a worker."""

    ping_interval: int
    ping_timeout: int
    write: int
    message: int
    auth: int
    idle: int

    @classmethod
    def of(cls, settings: WebSocketConfig) -> Spans:
        """Return the spans that the configuration says."""

        def span(seconds: float) -> int:
            return ticks(seconds) if seconds else 0

        return cls(
            ping_interval=span(settings.ping_interval),
            ping_timeout=span(settings.ping_timeout),
            write=span(settings.write_timeout),
            message=span(settings.message_timeout),
            auth=span(settings.auth_timeout),
            idle=span(settings.idle_timeout),
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """How a connection is at this moment.

    reading: it is read from; heard: something has come since the last check; waits: the kernel has not taken all that
    it was offered; progress: it has taken something since the last check; signed: connection.user is set; active_at:
    tick of the last message, either way, or of the moment since when it is read from again, if that was later.
    """

    reading: bool
    heard: bool
    waits: bool
    progress: bool
    signed: bool
    active_at: int


class WatchState(NamedTuple):
    """A watch that is moved to another worker: how many ticks ago something was.

    checked: the last check; unsigned: since then it is waited for its user, 0 if it never was, None if that is over;
    message: one began that has not ended; stuck: since then the client takes nothing; pulse: there are pings; or None.
    """

    checked: int
    unsigned: int | None
    message: int | None
    stuck: int | None
    pulse: PulseState | None


class Watch:
    """The watch over one connection, from its opening at tick now. chance: 0.0 to below 1.0, spreads the pings.

    pulse: None if there are no pings.
    """

    __slots__ = ("_auth_at", "_checked_at", "_message_at", "_spans", "_stuck_at", "pulse")

    def __init__(self, spans: Spans, now: int, chance: float) -> None:
        self._spans = spans
        self._checked_at = now
        self._auth_at = now + spans.auth if spans.auth else None  # when it is asked who this is, once
        self._message_at: int | None = None  # since when a message is under way
        self._stuck_at: int | None = None  # since when the client is known to take nothing
        self.pulse = Pulse(spans.ping_interval, spans.ping_timeout, now, chance) if spans.ping_interval else None

    def freeze(self, now: int) -> WatchState:
        """Return what thaw needs to go on from here, whatever its tick."""
        unsigned = None if self._auth_at is None else now - (self._auth_at - self._spans.auth)
        return WatchState(
            checked=now - self._checked_at,
            unsigned=unsigned if self._spans.auth else 0,
            message=None if self._message_at is None else now - self._message_at,
            stuck=None if self._stuck_at is None else now - self._stuck_at,
            pulse=None if self.pulse is None else self.pulse.freeze(now),
        )

    @classmethod
    def thaw(cls, state: WatchState, spans: Spans, now: int, chance: float) -> Watch:
        """Return a watch that goes on where another was frozen: what was late under those spans is judged by these.

        What has no span now is watched no more, what had none begins now. chance: as for a new one.
        """
        watch = cls(spans, now, chance)
        watch._checked_at = now - state.checked
        watch._auth_at = now - state.unsigned + spans.auth if spans.auth and state.unsigned is not None else None
        watch._message_at = now - state.message if spans.message and state.message is not None else None
        watch._stuck_at = None if state.stuck is None else now - state.stuck
        if watch.pulse is not None and state.pulse is not None:
            watch.pulse.go_on(state.pulse, now)
        return watch

    def message_began(self, now: int) -> bool:
        """Know that a message is under way; True if this is new, and then ticks_left may have become less."""
        if self._message_at is not None or not self._spans.message:
            return False
        self._message_at = now
        return True

    def message_ended(self) -> None:
        """Know that none is, or that the next one has begun."""
        self._message_at = None

    def resumed(self, now: int) -> None:
        """Know that reading goes on after a pause of our own: what the client owes us, it owes us from now on."""
        if self._message_at is not None:
            self._message_at = now
        if self.pulse is not None:
            self.pulse.resumed(now)

    def check(self, now: int, chance: float, facts: Facts) -> Verdict:
        """Say what is due at tick now: the end, for a reason, a ping, or nothing."""
        spans = self._spans
        self._checked_at = now
        if not facts.reading:
            self.resumed(now)
        if not facts.waits:
            self._stuck_at = None
        elif facts.progress or self._stuck_at is None:
            self._stuck_at = now
        elif now - self._stuck_at >= spans.write:
            return "stuck"
        if self._message_at is not None and now - self._message_at >= spans.message:
            return "unfinished"
        if self._auth_at is not None and now >= self._auth_at:
            self._auth_at = None
            if not facts.signed:
                return "unsigned"
        if spans.idle and facts.reading and now - facts.active_at >= spans.idle:
            return "idle"
        return self._check_pulse(now, chance, facts)

    def ticks_left(self, now: int, active_at: int) -> int:
        """Return in how many ticks check is due next; at least 1. active_at: as in Facts; now while it is not read.

        Nobody says when something begins to wait, so there is a check at least once in the span for it.
        """
        spans = self._spans
        due = (self._checked_at if self._stuck_at is None else self._stuck_at) + spans.write
        if self._message_at is not None:
            due = min(due, self._message_at + spans.message)
        if self._auth_at is not None:
            due = min(due, self._auth_at)
        if spans.idle:
            due = min(due, active_at + spans.idle)
        left = max(1, due - now)
        return left if self.pulse is None else min(left, self.pulse.ticks_left(now))

    def _check_pulse(self, now: int, chance: float, facts: Facts) -> Verdict:
        pulse = self.pulse
        if pulse is None:
            return "wait"
        if facts.heard:
            pulse.asked_at = None
        elif facts.waits and facts.progress:
            # the client is there, and our ping may stand behind what it is taking
            pulse.resumed(now)
        return pulse.check(now, chance)
