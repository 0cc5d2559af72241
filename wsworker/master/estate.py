"""The estate: all that a master leaves to the program that is executed in its place, see upgrade.py.

A process that executes another program keeps its pid, its children and those descriptors that are not closed on exec;
its memory is gone. So this record says what was known, and which descriptor is what. It is JSON: what another version
has written must never run. A program that does not know its format, or that would talk to the workers or read the
shared memory in another way, refuses it before anything has happened.

Only a service at rest has an heir. What is half done, such as a reload, a rebalance or a question, stands in no field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from wsworker.brokers import BrokerUrl
from wsworker.config import KEYS, Config, takes, value_of
from wsworker.errors import PlatformError
from wsworker.judging import validate
from wsworker.master.events import Token
from wsworker.master.moves import Tally
from wsworker.master.restarts import RestartPolicy
from wsworker.master.roster import Roster, ServiceState, Slot
from wsworker.master.service import Service
from wsworker.source import Origin
from wsworker.wire import CHANNEL
from wsworker.writing import written

FORMAT: Final = 1
"""To be raised whenever a field is added, taken or means something else: a field that is not known is passed over."""

Fd = Annotated[int, "descriptor"]
"""A descriptor that the next program goes on with; every field of this type is kept open for it."""

SECRETIVE: Final = "bus.url"
"""A setting that is never written with all that is in it, so here it goes by its parts."""


class Unfit(PlatformError):
    """The estate cannot be taken over; the text is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A Config, as texts that can be read again. origins: where each setting was found."""

    values: dict[str, Any]
    bus_url: BrokerUrl | None
    origins: dict[str, Origin]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the supervisor knows of a service at rest; see Service."""

    generation: int
    target: int
    slots_ever: int
    reloads: int
    last_reload: dict[str, Any] | None
    restarts: int
    restart_reasons: list[tuple[int, str, int]]
    reload_results: dict[str, int]
    handovers: Tally
    deaths: tuple[float, ...]
    over_budget: bool
    spawn_after: float
    weights: tuple[int, ...]
    told: str
    last_worker: int
    slots: list[Slot]


@dataclass(frozen=True, slots=True)
class Listening:
    """The listeners of one address; see listeners.Group.

    slots: in their order; sockets: by slot; common: the one that they share; file: device and inode of a unix socket's.
    """

    activated: bool
    slots: list[int]
    sockets: dict[int, Fd]
    common: Fd | None
    listening: list[int]
    adopted: list[int]
    order_known: bool
    file: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Living:
    """One worker; see crew.Child. words, words_read: what holds its last words, and how much of it was read."""

    worker: int
    slot: int
    pid: int
    pidfd: Fd
    channel: Fd
    words: Fd
    words_read: int
    log_file: str
    rest: str


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where workers meet; see berths.Berths. secret: in hex."""

    node: str
    secret: str
    folder: Fd
    listeners: dict[int, Fd]


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller; see control.Client. rest: what it has sent of a command; output: what it has not read."""

    connection: Fd
    token: Token
    commanded: bool
    answered: bool
    rest: str
    output: str


@dataclass(frozen=True, slots=True)
class Commanding:
    """The control socket and its callers; see control.Control. bound: device and inode of its file.

    next_token: of the next caller; one of those who have left must not be meant by it.
    """

    listener: Fd
    bound: tuple[int, int]
    next_token: Token
    callers: list[Caller]


@dataclass(frozen=True, slots=True)
class Showing:
    """The admin endpoints; see admin.Admin. used, last: CPU time, as in CpuTime."""

    listening: Listening
    board: Fd
    used: dict[int, int]
    last: dict[int, int]
    started: float


@dataclass(frozen=True, slots=True)
class Call:
    """How the service was started.

    path, shown: of the config file, absolute and as it was given. flags: as configfile.load takes them. detached: it
    runs in the background. follow: it reloads when its files change. color: as `--color` says.
    """

    path: str
    shown: str
    flags: dict[str, tuple[str, str]] = field(default_factory=dict)
    detached: bool = False
    follow: bool = False
    color: str = "auto"


@dataclass(frozen=True, slots=True)
class Estate:
    """All of it.

    version: of the program that has left it. reply: of who waits for the outcome. began_at: seconds on CLOCK_MONOTONIC.
    folder: the run directory. terminal: the descriptor that is our controlling terminal. log_dropped: lines of the log
    that the master has lost.
    mask: signals that are to be blocked once it has been taken over; signals: those that were caught and not acted on.
    """

    version: str
    call: Call
    settings: Settings
    facts: Facts
    table: Fd
    layout: str
    ports: list[Listening]
    unweighed: bool
    lock: Fd
    commanding: Commanding
    reply: Token | None
    meeting: Meeting
    living: list[Living]
    began_at: float
    folder: str
    terminal: int | None
    log_dropped: int
    mask: list[int] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    showing: Showing | None = None
    channel: str = CHANNEL
    format: int = FORMAT


@cache
def _adapter() -> TypeAdapter[Estate]:
    # not at the import, which every start would pay for
    return TypeAdapter(Estate)


def encode(estate: Estate) -> bytes:
    """Return the estate as JSON."""
    # not by dump_json, which refuses what Python makes of a path or of words of the app that are no UTF-8
    return json.dumps(_adapter().dump_python(estate, mode="json")).encode()


def decode(data: bytes, layout: str) -> Estate:
    """Return the estate in JSON. layout: of the shared memory, as this program has it.

    Raises Unfit unless this program can go on with it.
    """
    try:
        heads = json.loads(data)
    except ValueError:
        heads = None
    if not isinstance(heads, dict):
        raise Unfit("what it was given is no estate; restart the service instead")
    before = heads.get("version", "an unknown version")
    if (heads.get("format"), heads.get("channel"), heads.get("layout")) != (FORMAT, CHANNEL, layout):
        raise Unfit(f"it speaks otherwise with its workers than {before}, which runs; restart the service instead")
    try:
        return _adapter().validate_python(heads)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise Unfit(f"it does not understand what {before}, which runs, knows ({where}); restart instead") from None


def descriptors(record: object) -> Iterator[int]:
    """Yield every descriptor of an estate."""
    if is_dataclass(record):
        for each in fields(record):
            value = getattr(record, each.name)
            if "Fd" not in str(each.type):
                yield from descriptors(value)
            elif isinstance(value, dict):
                yield from value.values()
            elif value is not None:
                yield value
    elif isinstance(record, list):
        for item in record:
            yield from descriptors(item)


def settings_of(config: Config, origins: Mapping[str, Origin]) -> Settings:
    """Return a Config as texts. origins: as in configfile.Loaded."""
    values = {key: written(value_of(config, key), takes(key).unit) for key in KEYS if key != SECRETIVE}
    return Settings(values, config.bus.url, dict(origins))


def config_of(settings: Settings) -> Config:
    """Return the Config that stands in texts. Raises Unfit if this program would not take it."""
    known = {key: value for key, value in settings.values.items() if key in KEYS}
    if gone := sorted(settings.values.keys() - known.keys()):
        raise Unfit(f"it has no setting {gone[0]!r}, with which the service runs; restart the service instead")
    made = validate({key: tuple(v) if isinstance(v, list) else v for key, v in known.items()}, "/")
    if isinstance(made, list):
        raise Unfit(f"it does not take a setting with which the service runs: {made[0].message}")
    return made.model_copy(update={"bus": made.bus.model_copy(update={"url": settings.bus_url})})


def facts_of(service: Service) -> Facts:
    """Return what is known of a service at rest."""
    same = {each.name: getattr(service, each.name) for each in fields(Facts) if hasattr(service, each.name)}
    reasons = [(slot, reason, count) for (slot, reason), count in service.restart_reasons.items()]
    return Facts(**same | {"restart_reasons": reasons, "slots": [*service.roster.slots.values()]})


def service_of(facts: Facts, config: Config, draw: Callable[[], float], policy: RestartPolicy) -> Service:
    """Return the service that goes on from these facts. config: the accepted one; draw, policy: as in Service."""
    service = Service(draw, policy, state=ServiceState.SERVING, accepted=config)
    for each in fields(Facts):
        if each.name not in ("slots", "restart_reasons", "reload_results"):
            setattr(service, each.name, getattr(facts, each.name))
    service.restart_reasons.update({(slot, reason): count for slot, reason, count in facts.restart_reasons})
    service.reload_results.update(facts.reload_results)
    service.roster = roster_of(facts.slots)
    return service


def roster_of(slots: list[Slot]) -> Roster:
    """Return the roster of these slots and of the workers in them, in the order of their spawning."""
    workers = sorted((worker for slot in slots for worker in slot.workers), key=lambda worker: worker.id)
    return Roster({slot.number: slot for slot in slots}, {worker.id: worker for worker in workers})
