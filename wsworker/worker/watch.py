"""Watch: the clocks of one open connection, all read at the same moment, so that it needs one deadline and no timers.

    silent       nothing at all came for ping_timeout behind a ping (pulse.py)
    stuck        something waits to be written, and the client has taken nothing of it for write_timeout
    unfinished   a fragmented message has begun and not ended within message_timeout
    unsigned     connection.user was not set within auth_timeout
    idle         no message, either way, for idle_timeout

Times are ticks of the worker's wheel and come in as arguments. While our own side does not read, what the client sends
cannot be known: its silence and its unfinished message are not counted then. What it does not take still is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wsworker.sections import WebSocketConfig
from wsworker.worker.pulse import Pulse
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

    reading: it is read from; heard: something has come since the last check; waits: something is to be written;
    progress: the kernel has taken some of that since the last check; in_message: a fragmented message is open;
    signed: connection.user is set; active_at: tick of the last message.
    """

    reading: bool
    heard: bool
    waits: bool
    progress: bool
    in_message: bool
    signed: bool
    active_at: int


class Watch:
    """The watch over one connection, from its opening at tick now. chance: 0.0 to below 1.0, spreads the pings."""

    __slots__ = ("_message_at", "_opened_at", "_spans", "_stalled_at", "pulse")

    def __init__(self, spans: Spans, now: int, chance: float) -> None:
        self._spans = spans
        self._opened_at = now
        self._message_at = 0  # since when a fragmented message is open, 0: there is none
        self._stalled_at = 0  # since when the client takes nothing, 0: nothing waits
        self.pulse = Pulse(spans.ping_interval, spans.ping_timeout, now, chance) if spans.ping_interval else None

    def message_began(self, now: int) -> int:
        """Know that a fragmented message is open; return in how many ticks it must be over, 0 if it is known or may."""
        if self._message_at or not self._spans.message:
            return 0
        self._message_at = now
        return self._spans.message

    def message_ended(self) -> None:
        """Know that there is none."""
        self._message_at = 0

    def stalled(self, now: int) -> int:
        """Know that the client has stopped taking what waits for it; return when to check, in ticks."""
        self._stalled_at = now
        return self._spans.write

    def check(self, now: int, chance: float, facts: Facts) -> Verdict:
        """Say what is due at tick now: the end, for a reason, a ping, or nothing."""
        spans = self._spans
        if not facts.waits:
            self._stalled_at = 0
        elif facts.progress or not self._stalled_at:
            self._stalled_at = now
        elif now - self._stalled_at >= spans.write:
            return "stuck"
        if not facts.in_message:
            self._message_at = 0
        elif not facts.reading or not self._message_at:
            self._message_at = now
        elif spans.message and now - self._message_at >= spans.message:
            return "unfinished"
        if spans.auth and not facts.signed and now - self._opened_at >= spans.auth:
            return "unsigned"
        if spans.idle and now - facts.active_at >= spans.idle:
            return "idle"
        return self._check_pulse(now, chance, facts)

    def ticks_left(self, now: int, facts: Facts) -> int:
        """Return in how many ticks check is due next; at least 1. It looks at what waits at least once in that span."""
        spans = self._spans
        due = [now + spans.write]
        if facts.waits and self._stalled_at:
            due.append(self._stalled_at + spans.write)
        if self._message_at and spans.message:
            due.append(self._message_at + spans.message)
        if spans.auth and not facts.signed:
            due.append(self._opened_at + spans.auth)
        if spans.idle:
            due.append(facts.active_at + spans.idle)
        left = max(1, min(due) - now)
        return left if self.pulse is None else min(left, self.pulse.ticks_left(now))

    def _check_pulse(self, now: int, chance: float, facts: Facts) -> Verdict:
        pulse = self.pulse
        if pulse is None:
            return "wait"
        if facts.heard:
            pulse.asked_at = 0
        if not facts.reading:
            pulse.resumed(now)
        return pulse.check(now, chance)
