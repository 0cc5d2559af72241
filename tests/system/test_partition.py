"""Two machines of one service, and the road between them is cut: each goes on by itself, and what is missing is told.

The machines are network namespaces with a veth pair between them, ip-netns(8). The broker is on the left one. Guests
come by other pairs, which are never cut.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Literal, NamedTuple, TypeAlias

from tests.bus.servers import Valkey
from tests.conftest import lacking
from tests.system.rooms import Chat, Party

LEFT_ADDRESS: Final = "203.0.113.1"
RIGHT_ADDRESS: Final = "203.0.113.2"

LATE_SECONDS: Final = 5
"""By then the kernel has tried once more to send what was given up: 12.6 s after the first time, RFC 6298 section 5."""

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


class Broker(Valkey):
    """A Valkey on one machine. Its unix socket is a file, so it can be asked from anywhere."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(bind=f"{LEFT_ADDRESS} 127.0.0.1", protected_mode="no")
        program = self.folder / "valkey"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(machine.inside)} {shlex.quote(self._binary)} "$@"\n')
        program.chmod(0o755)
        self._binary = str(program)


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


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Make them, and take them away; skip the test where that is not allowed."""
    if os.geteuid() != 0:
        lacking("only root may make network namespaces")
    if shutil.which("ip") is None:
        lacking("ip (iproute2) is not installed", "ip")
    # from the networks for tests of devices, RFC 2544; of its own for each run of the tests
    block = os.getpid() % 8192 * 8
    network = f"198.18.{block // 256}"
    machines = []
    with ExitStack() as stack:
        for side, at in (("l", block % 256), ("r", block % 256 + 4)):
            name = f"ws{os.getpid()}{side}"
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


def test_the_road_is_cut() -> None:
    """Each machine goes on by itself; what they miss of each other is told on both sides when all flows again."""
    with two_machines() as (left, right):
        road = Road(left, right)
        _part(left, right, road.cut, road.mend)


def test_the_road_loses_everything() -> None:
    """So it is; what a kernel sends once more, long after it was given up, comes nowhere behind what is newer."""
    with two_machines() as (left, right):
        road = Road(left, right)
        _part(left, right, lambda: road.lose("left", "right"), road.mend, LATE_SECONDS)


def test_the_road_loses_what_goes_one_way() -> None:
    """So it is if all that is published arrives, and only what the broker says does not."""
    with two_machines() as (left, right):
        road = Road(left, right)
        _part(left, right, lambda: road.lose("right"), road.mend)


def _part(
    left: Machine, right: Machine, cut: Callable[[], None], mend: Callable[[], None], late_seconds: float = 0.0
) -> None:
    with ExitStack() as stack:
        broker = Broker(left)
        stack.callback(broker.close)
        broker.start()
        # the address on the road is gone with the road
        one = stack.enter_context(Site(left, f"redis://127.0.0.1:{broker.port}"))
        other = stack.enter_context(Site(right, f"redis://{LEFT_ADDRESS}:{broker.port}"))
        asyncio.run(_go_on(one.start(), other.start(), cut, mend, late_seconds))
        assert "is out of reach" not in one.log


async def _go_on(
    one: Site, other: Site, cut: Callable[[], None], mend: Callable[[], None], late_seconds: float
) -> None:
    async with Party([one, other], guests=20, rooms=1) as party:
        async with party.talking(0.1):
            await asyncio.sleep(0.5)
            cut()
            await asyncio.to_thread(other.wait_log, "is out of reach", 60)
            mend()
            seconds = await party.greet(0.1)
            await asyncio.sleep(late_seconds)
        await party.settle()
        lost = await party.check_told()
        print(f"all flows {seconds:.2f} s after the end; {lost} of {party.said()} lost, {party.gaps()} times told")
        assert lost > 0
        assert [] == party.lost_between(lambda reader, publisher: reader.guest.service is publisher.guest.service)
        for service in (one, other):
            assert party.gaps(service) > 0
