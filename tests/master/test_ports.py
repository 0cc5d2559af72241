"""The ports: real listeners on loopback, and a notify socket of the test in the place of systemd's."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.master.forks import DEADLINE_SECONDS, in_child
from tests.master.heirs import inheritable, left
from tests.master.test_systemd import fill
from wsworker.config import ListenAddress
from wsworker.errors import ActivationError, BindError
from wsworker.listeners import Group
from wsworker.master import events
from wsworker.master.ports import Ports
from wsworker.master.systemd import Notifier

PLACE = "config.yaml:3:9"


class Systemd:
    """The other end of NOTIFY_SOCKET; store: what it keeps of the listeners, by name."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        # a datagram on a unix socket is there once sendmsg has returned
        self._socket.setblocking(False)
        self._held: dict[str, list[socket.socket]] = {}

    def fill(self) -> None:
        """Let nobody find room for a datagram until store() is called."""
        fill(self._socket, "FDSTOREREMOVE=1\nFDNAME=filler")

    def store(self) -> dict[str, list[int]]:
        """Do what was asked for until now; return the port of each socket that is kept under each name."""
        while datagram := self._receive():
            lines, descriptors = datagram
            name = next(line.partition("=")[2] for line in lines if line.startswith("FDNAME="))
            if "FDSTORE=1" in lines:
                self._held.setdefault(name, []).extend(socket.socket(fileno=fd) for fd in descriptors)
            else:
                assert "FDSTOREREMOVE=1" in lines
                for sock in self._held.pop(name, []):
                    sock.close()
        return {name: [sock.getsockname()[1] for sock in held] for name, held in self._held.items()}

    def hold(self, name: str, sock: socket.socket) -> None:
        """Keep a socket under a name from the start."""
        self._held.setdefault(name, []).append(sock)

    def descriptors(self) -> list[tuple[str, int]]:
        """Return what a new master gets; they are its own."""
        return [(name, os.dup(sock.fileno())) for name, held in self._held.items() for sock in held]

    def close(self) -> None:
        """Forget all."""
        self.store()
        for sock in (self._socket, *(sock for held in self._held.values() for sock in held)):
            sock.close()

    def _receive(self) -> tuple[list[str], list[int]] | None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(array.array("i").itemsize))
        except BlockingIOError:
            return None
        descriptors = array.array("i")
        for _, _, rights in ancillary:
            descriptors.frombytes(rights)
        return data.decode().split("\n"), descriptors.tolist()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """Keep nothing yet."""
    other_end = Systemd(tmp_path / "notify")
    yield other_end
    other_end.close()


Make = Callable[..., Ports]


@pytest.fixture
def notifier(systemd: Systemd, tmp_path: Path) -> Iterator[Notifier]:
    """Tell this systemd."""
    ours = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, os.getpid())
    yield ours
    ours.close()


@pytest.fixture
def make(notifier: Notifier) -> Iterator[Make]:
    """Give a function that makes the ports of some addresses; they are closed after the test."""
    made: list[Ports] = []

    def ports(*addresses: ListenAddress) -> Ports:
        made.append(Ports([Group(address, 64, PLACE) for address in addresses], notifier))
        return made[-1]

    yield ports
    for one in made:
        one.close()


def tcp() -> ListenAddress:
    """Return an address that nobody has right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return ListenAddress(*sock.getsockname())


def unix(folder: Path) -> ListenAddress:
    """Return the address of a unix socket."""
    return ListenAddress("", 0, str(folder / "hello.ws"))


def serve(ports: Ports, slots: int) -> None:
    """Bring all slots to listening, in the order the master does it."""
    ports.bind(slots)
    for slot in range(1, slots + 1):
        assert events.SlotOpened(slot) == ports.open(events.OpenSlot(slot))


def connect(address: ListenAddress) -> socket.socket:
    """Be a client that waits to be accepted."""
    return socket.create_connection((address.host, address.port), DEADLINE_SECONDS)


def listens(sock: socket.socket) -> bool:
    """Whether a socket queues clients."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


# --- slots --------------------------------------------------------------------------------------------------------


def test_a_slot_listens_on_every_address_and_is_kept(make: Make, systemd: Systemd) -> None:
    """Bound sockets do not listen yet; an opened slot does, in the order of `listen`, and systemd gets its sockets."""
    first, second = tcp(), tcp()
    ports = make(first, second)
    ports.bind(2)
    assert [False] * 4 == [listens(sock) for slot in (1, 2) for sock in ports.sockets(slot)]
    assert {} == systemd.store()
    assert events.SlotOpened(1) == ports.open(events.OpenSlot(1))
    assert [True, True, False, False] == [listens(sock) for slot in (1, 2) for sock in ports.sockets(slot)]
    assert [first.port, second.port] == [sock.getsockname()[1] for sock in ports.sockets(1)]
    assert {"ws-1-1": [first.port], "ws-2-1": [second.port]} == systemd.store()


def test_bind_says_whose_address_it_is(make: Make) -> None:
    """An address in use is a BindError with the place in the configuration."""
    address = tcp()
    with socket.create_server((address.host, address.port)), pytest.raises(BindError, match="address in use") as caught:
        make(address).bind(1)
    assert PLACE in str(caught.value)


def test_open_fails_when_another_program_came_first(make: Make, systemd: Systemd) -> None:
    """The slot has failed with the reason, and systemd keeps nothing of it."""
    address = tcp()
    ports = make(address)
    ports.bind(1)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((address.host, address.port))
        other.listen()
        outcome = ports.open(events.OpenSlot(1))
    assert isinstance(outcome, events.SlotFailed)
    assert 1 == outcome.slot
    assert f"cannot listen on {address}: address in use" in outcome.error
    assert {} == systemd.store()


def test_a_slot_is_added_and_closed_again(make: Make, systemd: Systemd) -> None:
    """The last slot comes and goes on all addresses, and systemd forgets it; the others serve on."""
    first, second = tcp(), tcp()
    ports = make(first, second)
    serve(ports, 1)
    assert events.SlotAdded(2) == ports.add(events.AddSlot(2))
    ports.open(events.OpenSlot(2))
    added = ports.sockets(2)
    assert {"ws-1-1", "ws-2-1", "ws-1-2", "ws-2-2"} == systemd.store().keys()
    ports.close_slot(events.CloseSlot(2))
    assert [-1, -1] == [sock.fileno() for sock in added]
    assert {"ws-1-1", "ws-2-1"} == systemd.store().keys()
    assert [True, True] == [listens(sock) for sock in ports.sockets(1)]


def test_a_slot_that_cannot_be_added_leaves_nothing(make: Make) -> None:
    """What the first address has got is given back, so that the slot can be tried again."""
    first, second = tcp(), tcp()
    ports = make(first, second)
    with socket.create_server((second.host, second.port)):
        outcome = ports.add(events.AddSlot(1))
    assert isinstance(outcome, events.SlotFailed)
    assert f"cannot listen on {second}: address in use" in outcome.error
    assert events.SlotAdded(1) == ports.add(events.AddSlot(1))


def test_a_shared_socket_is_neither_kept_nor_lent(make: Make, systemd: Systemd, tmp_path: Path) -> None:
    """All slots accept from the unix socket, it survives its last slot, and only the TCP listener is a slot's own."""
    address = tcp()
    ports = make(unix(tmp_path), address)
    serve(ports, 2)
    (shared, own), (same, other) = ports.sockets(1), ports.sockets(2)
    assert shared is same
    assert ([own], [other]) == (ports.lendable(1), ports.lendable(2))
    assert {"ws-2-1": [address.port], "ws-2-2": [address.port]} == systemd.store()
    ports.close_slot(events.CloseSlot(2))
    assert listens(shared)
    assert {"ws-2-1"} == systemd.store().keys()


# --- what stands in the queues, and who steers --------------------------------------------------------------------


def test_the_queue_is_the_sum_over_the_addresses(make: Make, tmp_path: Path) -> None:
    """Clients that wait are counted on every listener of the slot's own; with none of these it is not known."""
    first, second = tcp(), tcp()
    ports = make(first, unix(tmp_path), second)
    serve(ports, 1)
    assert 0 == ports.queue(1)
    with connect(first), connect(second), connect(second):
        assert 3 == ports.queue(1)
    assert ports.queue(2) is None


def test_weights_steer_new_clients(make: Make) -> None:
    """A slot that weighs nothing gets nobody, and the status may say so."""
    address = tcp()
    ports = make(address)
    serve(ports, 2)
    ports.weigh(events.Weigh((0, 1)))
    assert "weights" == ports.steering
    clients = [connect(address) for _ in range(8)]
    assert (0, 8) == (ports.queue(1), ports.queue(2))
    for client in clients:
        client.close()


def test_a_unix_socket_alone_is_shared(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing to steer, and so nothing to warn of."""
    ports = make(unix(tmp_path))
    serve(ports, 2)
    ports.weigh(events.Weigh((1, 0)))
    assert "shared" == ports.steering
    assert ports.queue(1) is None
    assert [] == caplog.messages


# --- what systemd keeps, and over a restart -----------------------------------------------------------------------


def test_a_full_notify_socket_costs_no_listener(make: Make, systemd: Systemd, notifier: Notifier) -> None:
    """All listeners of many slots come to be kept when systemd reads, and a slot that was closed meanwhile is not."""
    first, second = tcp(), tcp()
    ports = make(first, second)
    systemd.fill()
    serve(ports, 16)
    ports.close_slot(events.CloseSlot(16))
    for _ in range(40):
        # one datagram may be all that there is room for
        systemd.store()
        notifier.flush()
    expected = {
        f"ws-{number}-{slot}": [port] for number, port in ((1, first.port), (2, second.port)) for slot in range(1, 16)
    }
    assert expected == systemd.store()


def test_a_new_master_goes_on_with_the_kept_listeners(
    make: Make, systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that waits survives the master; the name of an address that moved in `listen` is set right."""
    caplog.set_level("INFO")
    gone, address = tcp(), tcp()
    former = make(gone, address)
    serve(former, 2)
    systemd.store()
    former.close()
    with connect(address):
        ports = make(address)
        assert 2 == ports.take_over(systemd.descriptors())
        serve(ports, 2)
        assert 1 == sum(ports.queue(slot) or 0 for slot in (1, 2))
    assert {"ws-1-1", "ws-1-2"} == systemd.store().keys()
    assert [
        f"the listener that systemd kept for {gone} is of no use any more and is closed",
        "listeners of 2 slots taken over from systemd",
    ] == caplog.messages


def test_without_a_known_order_the_kernel_s_hash_decides(
    make: Make, systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a kept listener of a lower slot is missing nobody knows the kernel's order; that is logged once."""
    address = tcp()
    former = make(address)
    serve(former, 2)
    systemd.hold("ws-1-2", former.sockets(2)[0].dup())
    former.close()
    ports = make(address)
    assert 2 == ports.take_over(systemd.descriptors())
    serve(ports, 2)
    caplog.clear()
    ports.weigh(events.Weigh((0, 1)))
    ports.weigh(events.Weigh((1, 0)))
    assert "hash" == ports.steering
    assert [f"cannot steer new connections on {address}; the kernel's hash decides"] == caplog.messages


def test_a_socket_of_a_unit_that_nobody_wants(make: Make, systemd: Systemd) -> None:
    """A listener of a .socket unit with no place in `listen` is an ActivationError."""
    systemd.hold("chat.socket", socket.create_server(("127.0.0.1", 0)))
    with pytest.raises(ActivationError, match="not in `listen`"):
        make(tcp()).take_over(systemd.descriptors())


# --- in a worker, and the end -------------------------------------------------------------------------------------


def test_a_worker_keeps_its_slot_only(make: Make) -> None:
    """After keep the listeners of other slots are closed in the fork, and stay open in the master."""
    ports = make(tcp(), tcp())
    serve(ports, 2)
    sockets = [*ports.sockets(1), *ports.sockets(2)]

    def fork() -> list[bool]:
        ports.keep(2)
        return [sock.fileno() != -1 for sock in sockets]

    assert [False, False, True, True] == in_child(fork)
    assert [True] * 4 == [listens(sock) for sock in sockets]


def test_close_closes_all(make: Make, tmp_path: Path) -> None:
    """Every listener and the unix socket's file are gone, also when it is called twice."""
    ports = make(tcp(), unix(tmp_path))
    serve(ports, 2)
    sockets = [*ports.sockets(1), *ports.sockets(2)]
    ports.close()
    ports.close()
    assert [-1] * 4 == [sock.fileno() for sock in sockets]
    assert not (tmp_path / "hello.ws").exists()


def test_other_ports_go_on(make: Make, systemd: Systemd, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On every address, without another word to systemd; and what was complained of once is not again."""
    addresses = (tcp(), unix(tmp_path), tcp())
    before = make(*addresses)
    serve(before, 2)
    kept = systemd.store()
    listenings, unweighed = before.bequeath()
    given = inheritable()
    after = make(*addresses)
    after.inherit([left(each) for each in listenings], unweighed)
    assert given == inheritable()
    same = [[sock.getsockname() for sock in ports.sockets(2)] for ports in (before, after)]
    assert same[0] == same[1]
    assert kept == systemd.store()
    assert (listenings[0].slots, unweighed) == ([1, 2], False)
    assert after.bequeath()[1] is False
    other = make(*addresses)
    other.inherit([left(each) for each in listenings], True)
    assert other.bequeath()[1] is True
    for ports in (before, other):
        for slot in (1, 2):
            for sock in ports.sockets(slot):
                sock.close()
    assert events.SlotAdded(3) == after.add(events.AddSlot(3))
    assert events.SlotOpened(3) == after.open(events.OpenSlot(3))


def test_other_addresses_are_none_of_theirs(make: Make) -> None:
    """As many as were left: the configuration is the accepted one, so anything else is a fault of ours."""
    before = make(tcp())
    serve(before, 1)
    listenings, _ = before.bequeath()
    with pytest.raises(ValueError, match="zip"):
        make().inherit(listenings, False)
