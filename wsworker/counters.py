"""What one worker counts: plain attributes on the hot path, and a row of numbers for the shared table.

Nothing here knows of memory or processes. A worker adds to the attributes of its Counters; once a second they are
written as words into its seat, see stats.py. All of them only grow, so sums over workers, living and dead, do as well.

Everything has a fixed number of words. So what is told apart (close codes, reasons, callbacks) is told apart by a
list that stands here, never by something that a client or an app has made up.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from operator import add
from typing import Final, Literal, TypeAlias, get_args

CLOSE_CODES: Final = (*map(str, range(1000, 1015)), "3xxx", "4xxx")
"""By what a connection ended. 1015 is TLS, and never heard of here. RFC 6455 section 7.4."""

Rejection: TypeAlias = Literal[
    "address",
    "app",
    "bad_request",
    "descriptors",
    "draining",
    "error",
    "full",
    "host",
    "origin",
    "plain_http",
    "proxy",
    "rate",
    "timeout",
    "tls",
]
"""Why a client was turned away before it had a WebSocket: docs/metrics.md says what each means."""

REJECTIONS: Final[tuple[Rejection, ...]] = get_args(Rejection)

CALLBACKS: Final = (
    "on_handshake",
    "on_connect",
    "on_handover",
    "on_resume",
    "on_message",
    "on_close",
    "on_error",
    "on_buffer_full",
    "on_buffer_drain",
    "on_bus_gap",
    "on_worker_reload",
    "on_worker_stop",
    "timer",
)
"""What may raise while the worker lives on. A worker whose on_worker_start raises ends."""

Adapter: TypeAlias = Literal["mesh", "broker"]

ADAPTERS: Final[tuple[Adapter, ...]] = get_args(Adapter)
"""By which road a message of the bus travels: between workers of this machine, or between machines."""

BUS_DROPS: Final = (
    "mesh:full",
    "mesh:size",
    "mesh:down",
    "broker:full",
    "broker:size",
    "broker:down",
    "broker:refused",
)
"""Why which adapter has given up a message, see Cause in bus/bus.py."""

Unmoved: TypeAlias = Literal[
    "busy",
    "data",
    "descriptors",
    "error",
    "fragment",
    "full",
    "no_taker",
    "on_handover",
    "on_resume",
    "time",
    "tls",
    "version",
]
"""Why a connection did not move to another worker in a hand-over: docs/metrics.md says what each means."""

UNMOVED: Final[tuple[Unmoved, ...]] = get_args(Unmoved)


def by_reason(counts: Mapping[str, int]) -> str:
    """Return counts in words, the largest first: "2 busy, 1 tls"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda each: -each[1]))


BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the buckets of every histogram, in seconds; above the last there is one more."""

QUICK_SECONDS: Final = BOUNDS[0]


@dataclass(slots=True)
class Histogram:
    """How long something took, how often.

    quick: how often at most QUICK_SECONDS, apart from the others, because hot paths add to it by themselves; slower:
    how often at most each further bound, and above the last; seconds: all together.
    """

    quick: int = 0
    slower: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    seconds: float = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count something that took so long; times, above 0: how often it was done in these seconds."""
        each = seconds / times
        if each <= QUICK_SECONDS:
            self.quick += times
        else:
            self.slower[bisect_left(BOUNDS, each) - 1] += times
        self.seconds += seconds

    @property
    def counts(self) -> list[int]:
        """One for each of BOUNDS, and one for what took longer than the last."""
        return [self.quick, *self.slower]

    @property
    def words(self) -> list[int]:
        """All of it as HISTOGRAM_WORDS whole numbers; the sum in nanoseconds."""
        return [self.quick, *self.slower, round(self.seconds * 1e9)]

    @staticmethod
    def of(words: Sequence[int]) -> Histogram:
        """Return what has these words."""
        return Histogram(words[0], list(words[1:-1]), words[-1] / 1e9)


HISTOGRAM_WORDS: Final = len(Histogram().words)


@dataclass(slots=True)
class Counters:
    """What one worker counts; all only grow.

    accepted, rejected: handshakes answered with 101, and clients turned away before; messages in and out; bytes in and
    out, as they are read and written, heads and frames and all; refused: sends that gave False; dropped: messages that
    were accepted and gave way to others; errors: exceptions of callbacks; log_dropped: lines for the log that were
    lost; slow_callbacks: times a sync callback has kept the loop for too long; cut: connections that were still open
    when the time to drain was over. moved_in, moved_out: connections that came from another worker in a hand-over, and
    that went to one. bus_published: messages for all who want them, in this worker and others.

    By ADAPTERS: bus_sent: messages handed on, to each of the workers that want it, or to the broker once; bus_received:
    those that came; bus_gaps: times that some may have been missing; bus_reconnects: lost links that came again;
    bus_refused: peers that were turned away, and what came and was no message. By BUS_DROPS: bus_dropped: what was
    given up on its way to others.

    closed: ended connections by CLOSE_CODES; rejections: rejected by REJECTIONS; raised: errors by CALLBACKS;
    unmoved: connections that were to move and could not, by UNMOVED.
    handshakes: from accept to 101; sync_calls: sync callbacks; async_calls: async ones, from the first step to the
    last; lags: how late the beats of the loop were.
    """

    accepted: int = 0
    rejected: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    refused: int = 0
    dropped: int = 0
    errors: int = 0
    log_dropped: int = 0
    slow_callbacks: int = 0
    cut: int = 0
    moved_in: int = 0
    moved_out: int = 0
    bus_published: int = 0
    bus_sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ADAPTERS, 0))
    bus_received: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ADAPTERS, 0))
    bus_gaps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ADAPTERS, 0))
    bus_reconnects: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ADAPTERS, 0))
    bus_refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ADAPTERS, 0))
    bus_dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUS_DROPS, 0))
    closed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLOSE_CODES, 0))
    rejections: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REJECTIONS, 0))
    raised: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CALLBACKS, 0))
    unmoved: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UNMOVED, 0))
    handshakes: Histogram = field(default_factory=Histogram)
    sync_calls: Histogram = field(default_factory=Histogram)
    async_calls: Histogram = field(default_factory=Histogram)
    lags: Histogram = field(default_factory=Histogram)

    def reject(self, reason: Rejection) -> None:
        """Count a client that was turned away."""
        self.rejected += 1
        self.rejections[reason] += 1

    def close(self, code: int) -> None:
        """Count a connection that has ended. code: as RFC 6455 allows it in a frame, or 1005 or 1006."""
        self.closed[str(code) if code < 3000 else f"{code // 1000}xxx"] += 1

    def fail(self, callback: str) -> None:
        """Count an exception. callback: one of CALLBACKS."""
        self.errors += 1
        self.raised[callback] += 1

    def plain(self) -> dict[str, int]:
        """Return those that are one number each, and the sums of those of the bus, by name."""
        sums = {name: sum(getattr(self, name).values()) for name in BUS_NAMES}
        return {name: getattr(self, name) for name in PLAIN_NAMES} | sums

    def words(self) -> list[int]:
        """Return all of it as COUNTER_WORDS whole numbers."""
        return [
            *(getattr(self, name) for name in PLAIN_NAMES),
            *chain.from_iterable(getattr(self, name).values() for name in _LABELS),
            *chain.from_iterable(getattr(self, name).words for name in _HISTOGRAMS),
        ]

    @staticmethod
    def of(words: Iterable[int]) -> Counters:
        """Return what has these words."""
        left = iter(words)
        counters = Counters()
        for name in PLAIN_NAMES:
            setattr(counters, name, next(left))
        for name, labels in _LABELS.items():
            setattr(counters, name, {label: next(left) for label in labels})
        for name in _HISTOGRAMS:
            setattr(counters, name, Histogram.of([next(left) for _ in range(HISTOGRAM_WORDS)]))
        return counters

    def plus(self, other: Counters) -> Counters:
        """Return the sum, number by number."""
        return Counters.of(map(add, self.words(), other.words()))


BUS_NAMES: Final = ("bus_sent", "bus_received", "bus_gaps", "bus_reconnects", "bus_refused", "bus_dropped")

_LABELS: Final = {
    **dict.fromkeys(BUS_NAMES[:-1], ADAPTERS),
    "bus_dropped": BUS_DROPS,
    "closed": CLOSE_CODES,
    "rejections": REJECTIONS,
    "raised": CALLBACKS,
    "unmoved": UNMOVED,
}
_HISTOGRAMS: Final = ("handshakes", "sync_calls", "async_calls", "lags")

PLAIN_NAMES: Final = tuple(each.name for each in fields(Counters) if each.type == "int")
COUNTER_WORDS: Final = len(PLAIN_NAMES) + sum(map(len, _LABELS.values())) + len(_HISTOGRAMS) * HISTOGRAM_WORDS
COUNTER_LAYOUT: Final = zlib.crc32(repr((PLAIN_NAMES, _LABELS, _HISTOGRAMS, HISTOGRAM_WORDS)).encode())
"""Tells one order of the words from another."""
