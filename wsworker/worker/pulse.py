"""Pulse: when to ping a client, and when its silence has lasted too long.

A TCP connection whose other end lost its network looks alive until something is sent, and then for minutes. So each
client gets a Ping every interval; whoever sends nothing at all, no pong and no byte of anything else, for the timeout
behind a Ping is gone. Any byte counts, because a large message that trickles in keeps its pong waiting behind it.

While our own side has stopped reading, the pong may well lie in the kernel: silence then proves nothing, and the wait
starts again when reading does. Time is counted in ticks of the worker's wheel and comes in as an argument.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

Verdict: TypeAlias = Literal["wait", "ping", "silent"]

SPREAD: Final = 0.1
"""Intervals vary by this part in each direction, so that clients that came together are not pinged together."""


class PulseState(NamedTuple):
    """A pulse that is moved to another worker, whose ticks are others.

    left: ticks until the next ping, below 1 if it is late; asked: ticks since the first one since the last sign of
    life, None if there was none; pings: how many so far; sent: when the last one was, seconds on CLOCK_MONOTONIC, which
    is that of all workers, None if its pong has come; round_trip: as that of Pulse.
    """

    left: int
    asked: int | None
    pings: int
    sent: float | None
    round_trip: float | None


class Pulse:
    """The heartbeat of one connection. interval, timeout: ticks, at least 1; now: the tick; chance: 0.0 to below 1.0.

    asked_at is the tick of the first Ping since the last sign of life, or None, to which you must set it upon each such
    sign. No tick stands for None: behind a move, all that was before the worker began has ticks from 0 downwards.
    round_trip: seconds from the last Ping that was answered to its pong, None before.
    """

    __slots__ = ("_interval", "_ping_at", "_sent_at", "_timeout", "asked_at", "count", "round_trip")

    def __init__(self, interval: int, timeout: int, now: int, chance: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._ping_at = now + _varied(interval, chance)
        self.asked_at: int | None = None
        self.count = 0
        self._sent_at: float | None = None
        self.round_trip: float | None = None

    def freeze(self, now: int) -> PulseState:
        """Return what go_on needs to go on from here, whatever its tick."""
        return PulseState(
            left=self._ping_at - now,
            asked=None if self.asked_at is None else now - self.asked_at,
            pings=self.count,
            sent=self._sent_at,
            round_trip=self.round_trip,
        )

    def go_on(self, state: PulseState, now: int) -> None:
        """Go on where another pulse was frozen; only one that was made at this tick.

        A ping that would be later than the interval allows is not: that of this one stays.
        """
        if state.left <= _varied(self._interval, 1.0):
            self._ping_at = now + state.left
        self.asked_at = None if state.asked is None else now - state.asked
        self.count = state.pings
        self._sent_at = state.sent
        self.round_trip = state.round_trip

    def check(self, now: int, chance: float) -> Verdict:
        """Say what is due at tick now: a ping that you must send with payload(), the end for silence, or nothing."""
        if self.asked_at is not None and now >= self.asked_at + self._timeout:
            return "silent"
        if now < self._ping_at:
            return "wait"
        self._ping_at = now + _varied(self._interval, chance)
        if self.asked_at is None:
            self.asked_at = now
        self.count += 1
        return "ping"

    def resumed(self, now: int) -> None:
        """Start the wait for a sign of life anew: reading goes on after a pause of our own."""
        if self.asked_at is not None:
            self.asked_at = now

    def ticks_left(self, now: int) -> int:
        """Return in how many ticks check is due next; at least 1."""
        due = self._ping_at if self.asked_at is None else min(self._ping_at, self.asked_at + self._timeout)
        return max(1, due - now)

    def payload(self) -> bytes:
        """Return the payload of the ping just decided: its number, which tells its pong from an unsolicited one."""
        return str(self.count).encode()

    def sent(self, at: float) -> None:
        """Know that the ping just decided is sent. at: seconds on CLOCK_MONOTONIC."""
        self._sent_at = at

    def answered(self, payload: bytes, at: float) -> None:
        """Know that a pong came, at a time on that clock; only that of the last ping counts, once."""
        if self._sent_at is not None and payload == self.payload():
            self.round_trip = at - self._sent_at
            self._sent_at = None


def _varied(interval: int, chance: float) -> int:
    return max(1, round(interval * (1 - SPREAD + 2 * SPREAD * chance)))
