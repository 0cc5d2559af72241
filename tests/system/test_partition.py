"""Two machines of one service, and the road between them is cut: each goes on by itself, and what is missing is told.

The machines are network namespaces with a veth pair between them, ip-netns(8). The broker is on the left one. Guests
come by other pairs, which are never cut.

Whatever is wrong with the road is first seen by a silence of many seconds, so all that may be is tried at once.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import pytest

from tests.bus.nats.server import NatsServer
from tests.bus.redis.servers import Valkey
from tests.conftest import lacking
from tests.system.rooms import Chat, Party

LEFT_ADDRESS: Final = "203.0.113.1"
RIGHT_ADDRESS: Final = "203.0.113.2"

LATE_SECONDS: Final = 5
"""By then the kernel has tried once more to send what was given up: 12.6 or 25.4 s after the first time, RFC 6298
section 5."""

Way: TypeAlias = Literal["left", "right"]


def ip(*words: str) -> None:
    """Run the command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Machine(NamedTuple):
    """A network namespace. address: where clients find it; inside: what a command begins with that is to run there."""

    name: str
    address: str

    @property
    def inside(self) -> list[str]:
        """What a command begins with that is to run in it."""
        return ["ip", "netns", "exec", self.name]


class Site(Chat):
    """The chat on one machine."""

    def __init__(self, machine: Machine, bus_url: str) -> None:
        self.machine = machine
        self.host = machine.address
        super().__init__(2, bus_url)

    def _command(self, command: str, *arguments: str) -> list[str]:
        return [*self.machine.inside, *super()._command(command, *arguments)]


class ValkeyThere(Valkey):
    """A Valkey on one machine. Its unix socket is a file, so it can be asked from anywhere."""

    scheme = "redis"

    def __init__(self, machine: Machine, folder: Path) -> None:
        super().__init__(bind=f"{LEFT_ADDRESS} 127.0.0.1", protected_mode="no")
        self._binary = str(_program_inside(machine, self._binary, folder))


class NatsThere(NatsServer):
    """A NATS server on one machine, asked by the way that clients take."""

    scheme = "nats"

    def __init__(self, machine: Machine, folder: Path) -> None:
        super().__init__(folder)
        self._settings = {"listen": f"0.0.0.0:{self.port}"}
        self._machine = machine
        self._program = _program_inside(machine, str(self._program), folder)

    def close(self) -> None:
        """End it."""
        self.kill()

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((self._machine.address, self.port)) == 0


Kind: TypeAlias = type[ValkeyThere] | type[NatsThere]


def _program_inside(machine: Machine, program: str, folder: Path) -> Path:
    """Return a program that runs another one on a machine."""
    path = folder / f"{machine.name}.sh"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(machine.inside)} {shlex.quote(program)} "$@"\n')
    path.chmod(0o755)
    return path


class Road:
    """What is between two machines."""

    def __init__(self, left: Machine, right: Machine) -> None:
        self._left = left
        self._right = right

    def cut(self) -> None:
        """Let nothing pass."""
        ip("-n", self._left.name, "link", "set", "road", "down")

    def lose(self, *ways: Way) -> None:
        """Lose what goes to these sides, so that nobody sees it: it is sent to a card that is not there."""
        card = ("lladdr", "02:00:00:00:00:01", "dev", "road", "nud", "permanent")
        if "left" in ways:
            ip("-n", self._right.name, "neigh", "replace", LEFT_ADDRESS, *card)
        if "right" in ways:
            ip("-n", self._left.name, "neigh", "replace", RIGHT_ADDRESS, *card)

    def mend(self) -> None:
        """Let all pass again."""
        for machine in (self._left, self._right):
            ip("-n", machine.name, "link", "set", "road", "up")
            ip("-n", machine.name, "neigh", "flush", "dev", "road", "nud", "permanent")


class Fault(NamedTuple):
    """What may be wrong with a road. late_seconds: how long to go on after its end."""

    name: str
    begin: Callable[[Road], None]
    late_seconds: float = 0.0


FAULTS: Final = (
    Fault("is cut", Road.cut),
    # what a kernel sends once more, long after it was given up, comes nowhere behind what is newer
    Fault("loses everything", lambda road: road.lose("left", "right"), LATE_SECONDS),
    # all that is published arrives, and only what the broker says does not
    Fault("loses what goes one way", lambda road: road.lose("right")),
)


@contextmanager
def two_machines(pair: int) -> Iterator[tuple[Machine, Machine]]:
    """Make them, and take them away; skip the test where that is not allowed. pair: which of this test."""
    if os.geteuid() != 0:
        lacking("only root may make network namespaces")
    if shutil.which("ip") is None:
        lacking("ip (iproute2) is not installed", "ip")
    # from the networks for tests of devices, RFC 2544; of its own for each run of the tests
    block = (os.getpid() * len(FAULTS) + pair) % 8192 * 8
    network = f"198.18.{block // 256}"
    machines = []
    with ExitStack() as stack:
        for side, at in (("l", block % 256), ("r", block % 256 + 4)):
            name = f"ws{os.getpid()}{side}{pair}"
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                lacking(f"no network namespace can be made here: {error.stderr.strip()}")
            stack.callback(ip, "netns", "del", name)
            ip("link", "add", "name", name, "type", "veth", "peer", "name", "clients", "netns", name)
            # the namespace goes a little later than its name, and would keep it
            stack.callback(ip, "link", "del", name)
            ip("address", "add", f"{network}.{at + 1}/30", "dev", name)
            ip("link", "set", name, "up")
            ip("-n", name, "address", "add", f"{network}.{at + 2}/30", "dev", "clients")
            for device in ("lo", "clients"):
                ip("-n", name, "link", "set", device, "up")
            machines.append(Machine(name, f"{network}.{at + 2}"))
        left, right = machines
        ip("-n", left.name, "link", "add", "name", "road", "type", "veth", "peer", "name", "road", "netns", right.name)
        for machine, address in ((left, LEFT_ADDRESS), (right, RIGHT_ADDRESS)):
            ip("-n", machine.name, "address", "add", f"{address}/30", "dev", "road")
            ip("-n", machine.name, "link", "set", "road", "up")
        yield left, right


@pytest.mark.parametrize("kind", [ValkeyThere, NatsThere], ids=["valkey", "nats"])
def test_the_road_is_cut_or_loses(kind: Kind, tmp_path: Path) -> None:
    """Each machine goes on by itself; what they miss of each other is told on both sides when all flows again."""
    with ExitStack() as stack:
        trials = [stack.enter_context(_trial(kind, tmp_path, pair)) for pair in range(len(FAULTS))]
        asyncio.run(_try_all(trials))
        for trial in trials:
            assert "is out of reach" not in trial.one.log


class Trial(NamedTuple):
    """Two services, with a fault of the road between them."""

    one: Site
    other: Site
    road: Road
    fault: Fault


@contextmanager
def _trial(kind: Kind, folder: Path, pair: int) -> Iterator[Trial]:
    with two_machines(pair) as (left, right), ExitStack() as stack:
        broker = kind(left, folder)
        stack.callback(broker.close)
        broker.start()
        # the address on the road is gone with the road
        one = stack.enter_context(Site(left, f"{kind.scheme}://127.0.0.1:{broker.port}"))
        other = stack.enter_context(Site(right, f"{kind.scheme}://{LEFT_ADDRESS}:{broker.port}"))
        yield Trial(one.start(), other.start(), Road(left, right), FAULTS[pair])


async def _try_all(trials: list[Trial]) -> None:
    async with asyncio.TaskGroup() as group:
        for trial in trials:
            group.create_task(_go_on(*trial))


async def _go_on(one: Site, other: Site, road: Road, fault: Fault) -> None:
    try:
        async with Party([one, other], guests=10, rooms=1) as party:
            async with party.talking(0.2):
                await asyncio.sleep(0.5)
                fault.begin(road)
                await asyncio.to_thread(other.wait_log, "is out of reach", 60)
                road.mend()
                seconds = await party.greet()
                await asyncio.sleep(fault.late_seconds)
            await party.settle()
            lost = await party.check_told()
            print(f"{fault.name}: all flows {seconds:.2f} s after it; {lost} lost, {party.gaps()} times told")
            assert lost > 0
            assert [] == party.lost_between(lambda reader, publisher: reader.guest.service is publisher.guest.service)
            for service in (one, other):
                assert party.gaps(service) > 0
    except AssertionError as error:
        error.add_note(f"the road {fault.name}")
        raise
