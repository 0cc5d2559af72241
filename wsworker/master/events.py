"""The supervisor's vocabulary: what it is told, what it wants done.

An event is a fact: main.py makes one of every signal, command, report, death and timeout. An action is a wish: main.py
performs it and, where performing it has an outcome, feeds that back as the next event. Both are frozen data and name
workers by ids that the supervisor invents. A pid appears once, in Spawned, and only to be shown.

Times are seconds on CLOCK_MONOTONIC and stand in no event: handle(event, now) takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from wsworker.config import Config
from wsworker.query import Query
from wsworker.wire import FailureKind, Order

WorkerId: TypeAlias = int
Token: TypeAlias = int
"""Names one caller of the control socket; None stands for a signal, which nobody waits for."""

SignalName: TypeAlias = Literal["SIGTERM", "SIGABRT", "SIGKILL", "SIGUSR2", "SIGCONT"]
ServiceNews: TypeAlias = Literal["ready", "reloading", "stopping", "status", "extend"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the shared table and the kernel say of one worker.

    beat_at: its last sign of life, 0.0 before the first; full: it accepts nobody for now; lag_seconds: how late its
    loop was; messages: received so far; rss_bytes: resident memory, sampled every few seconds, 0 before the first
    sample; stopped: it is in state T, by SIGSTOP or a debugger, see proc_pid_stat(5).
    """

    beat_at: float
    connections: int = 0
    full: bool = False
    lag_seconds: float = 0.0
    messages: int = 0
    rss_bytes: int = 0
    stopped: bool = False


# Events


@dataclass(frozen=True, slots=True)
class Started:
    """The master is set up; sockets are bound and do not listen yet. config.workers is a number here.

    slots: how many slots there are, which is more than config.workers if the service manager kept the listeners of
    more: the rest is closed in good order.
    """

    config: Config
    slots: int


@dataclass(frozen=True, slots=True)
class Spawned:
    """The fork of a worker worked."""

    worker: WorkerId
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The fork of a worker failed; no process exists."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class SlotAdded:
    """The listeners of a slot are made."""

    slot: int


@dataclass(frozen=True, slots=True)
class SlotOpened:
    """The listeners of a slot listen."""

    slot: int


@dataclass(frozen=True, slots=True)
class SlotFailed:
    """The listeners of a slot cannot be made, or cannot listen; error is a whole sentence."""

    slot: int
    error: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker has loaded the user's module and waits for go."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """A worker says that it cannot boot, or what it dies of; its exit follows."""

    worker: WorkerId
    kind: FailureKind
    error: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class WorkerLeaving:
    """A worker was told to go by a signal from outside and wants a replacement first."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class HandoverFinished:
    """A hand-over is over, and the worker that gave tells what came of it; what it told of one before is not in this.

    moved: connections that others serve now. left: those that could not move, by UNMOVED; a worker that leaves has told
    them to reconnect. pause_seconds: the longest that one of the moved was not read. waits: connections that it serves
    on and could hand over if there was another taker, as this one has died or broken off.
    """

    worker: WorkerId
    moved: int
    left: Mapping[str, int]
    pause_seconds: float
    waits: int = 0


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """A worker is dead and reaped: by a signal (its name) or with an exit code, the other one is None.

    oom: the kernel killed it for want of memory. words: the stacks that it wrote when it died, or "". dropped: its
    connections that ended without a goodbye, as it cut them at the end of its time, or took them with it.
    """

    worker: WorkerId
    code: int | None = None
    signal: str | None = None
    oom: bool = False
    words: str = ""
    dropped: int = 0

    def __str__(self) -> str:
        if self.oom:
            return f"killed by {self.signal}, out of memory"
        return f"killed by {self.signal}" if self.signal else f"exit {self.code}"


@dataclass(frozen=True, slots=True)
class WorkerDumped:
    """A living worker has written its stacks, asked by SIGUSR2."""

    worker: WorkerId
    words: str


@dataclass(frozen=True, slots=True)
class SlotsRead:
    """The table was read, as it is once a second. Workers that have no seat are absent."""

    readings: Mapping[WorkerId, Reading]


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The time that next_deadline() named has come."""


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """Someone wants the code and config that are on disk now. config is valid.

    applied, restart_needed: the settings that changed, which the caller is told.
    """

    config: Config
    reply: Token | None = None
    restart_needed: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """Someone wanted a reload, and the configuration on disk is wrong; message: all that is wrong with it."""

    message: str
    reply: Token | None = None


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Someone wants the service to end."""

    quick: bool = False
    reply: Token | None = None


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """Someone wants so many workers more, or fewer if delta is negative."""

    delta: int


@dataclass(frozen=True, slots=True)
class RebalanceRequested:
    """Someone wants the fullest workers to hand connections to the emptiest."""

    reply: Token


@dataclass(frozen=True, slots=True)
class UpgradeRequested:
    """Someone wants the version of wsworker that is on disk now to take over."""

    reply: Token | None = None


@dataclass(frozen=True, slots=True)
class UpgradeRehearsed:
    """The program on disk has shown whether it can take over: it is of this version, or why it cannot."""

    reply: Token | None
    version: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReopenRequested:
    """Someone has moved the log file away and wants a new one."""

    reply: Token | None = None


@dataclass(frozen=True, slots=True)
class StatusRequested:
    """Someone asks how things stand."""

    reply: Token


@dataclass(frozen=True, slots=True)
class ConnectionsRequested:
    """Someone wants to see open connections, which the workers alone know."""

    query: Query
    reply: Token


@dataclass(frozen=True, slots=True)
class WorkerAnswered:
    """A worker has sent some of the connections it was asked for, in the order of the query.

    reply: whose question it was; total: how many connections fit, however many rows come; last: these were the last.
    """

    worker: WorkerId
    reply: Token
    total: int
    rows: tuple[Mapping[str, Any], ...] = field(repr=False)
    last: bool


Event: TypeAlias = (
    Started
    | Spawned
    | SpawnFailed
    | SlotAdded
    | SlotOpened
    | SlotFailed
    | WorkerReady
    | WorkerFailed
    | WorkerLeaving
    | HandoverFinished
    | WorkerExited
    | WorkerDumped
    | SlotsRead
    | DeadlinePassed
    | ReloadRequested
    | ReloadRefused
    | StopRequested
    | ScaleRequested
    | RebalanceRequested
    | UpgradeRequested
    | UpgradeRehearsed
    | ReopenRequested
    | StatusRequested
    | ConnectionsRequested
    | WorkerAnswered
)

# Actions


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a worker into a slot. You must answer with Spawned or SpawnFailed."""

    worker: WorkerId
    slot: int
    generation: int
    config: Config


@dataclass(frozen=True, slots=True)
class AddSlot:
    """Make the listeners of one slot more, which do not listen yet. You must answer with SlotAdded or SlotFailed."""

    slot: int


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """Make the listeners of a slot listen. You must answer with SlotOpened or SlotFailed."""

    slot: int


@dataclass(frozen=True, slots=True)
class CloseSlot:
    """Close the master's listeners of the last slot for good; nobody waits at them any more."""

    slot: int


@dataclass(frozen=True, slots=True)
class CloseSlots:
    """Close the master's listeners for good: once no worker holds them either, whoever comes is refused."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Send an order over the worker's channel; a broken channel is no error, its death follows.

    lend: the listeners of order.slot go along.
    """

    worker: WorkerId
    order: Order


@dataclass(frozen=True, slots=True)
class Handover:
    """Tell a worker to hand connections over, and others to take them, each by a pair of sockets of their own.

    takers: each with its share, as in Order. order: what the giver is told, `drain` or `give`. The giver reports, which
    is HandoverFinished; you must answer with that if no pair is to be had, and a `drain` is then told as it stands.
    """

    giver: WorkerId
    takers: tuple[tuple[WorkerId, int], ...]
    order: Order


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to a worker."""

    worker: WorkerId
    name: SignalName


@dataclass(frozen=True, slots=True)
class Weigh:
    """Steer new connections: one weight per slot, 0 for none; all 0 leaves it to the kernel's hash."""

    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rehearse:
    """Have the program on disk show whether it can take over. You must answer with UpgradeRehearsed."""

    reply: Token | None


@dataclass(frozen=True, slots=True)
class Succeed:
    """Let the program on disk take over, in this process and with all that is in it; it then answers the caller.

    If it cannot be executed you must answer with UpgradeRehearsed, which says why.
    """

    reply: Token | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Tell a waiting caller how far its command is."""

    reply: Token
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """Give a caller the one result of its command.

    parts: what goes before it, in lines of their own, each as the caller has read the one before.
    """

    reply: Token
    body: Mapping[str, Any]
    parts: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Adopt:
    """A configuration is accepted: apply what of it concerns the master, which is the log."""

    config: Config


@dataclass(frozen=True, slots=True)
class ReopenLog:
    """Open the log file anew, hand it to every worker, and answer the caller."""

    reply: Token | None


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """Answer a status command: status() joined with what only the shell knows (pids, counters, memory)."""

    reply: Token


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the service manager, and whoever waits in `start -d`; text is one line for people."""

    news: ServiceNews
    text: str


@dataclass(frozen=True, slots=True)
class Log:
    """Write one line to the log; trace, if any, is a user's traceback that goes below it."""

    level: LogLevel
    text: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """End the master. error: a sentence and perhaps a user's traceback, printed once by `start`; "" after a stop."""

    code: int
    error: str = ""


Action: TypeAlias = (
    Spawn
    | AddSlot
    | OpenSlot
    | CloseSlot
    | CloseSlots
    | Tell
    | Handover
    | Signal
    | Weigh
    | Rehearse
    | Succeed
    | Adopt
    | ReopenLog
    | Progress
    | Answer
    | ShowStatus
    | Notify
    | Log
    | Exit
)
