"""Listeners from systemd: real sockets, handed over as descriptors with names."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.master.forks import Child, Pipe, stay
from wsworker.config import ListenAddress
from wsworker.errors import ActivationError
from wsworker.listeners import Group
from wsworker.master.inherited import TakenOver, store_name, take_over
from wsworker.master.systemd import Notifier

PLACE = "config.yaml:3:9"


class Systemd:
    """What systemd holds for a service: sockets by their names. What it hands out are copies, as after a fork."""

    def __init__(self) -> None:
        self.held: list[tuple[str, socket.socket]] = []

    def hold(self, name: str, sock: socket.socket) -> None:
        """Keep a copy of a socket under a name."""
        self.held.append((name, socket.socket(fileno=os.dup(sock.fileno()))))

    def open(self, name: str, sock: socket.socket, address: tuple[str, int] | str) -> str:
        """Open an address as a .socket unit does; returns how `listen` writes it."""
        self.held.append((name, sock))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        if sock.type == socket.SOCK_STREAM:
            sock.listen()
        found = sock.getsockname()
        return str(ListenAddress(*found[:2])) if isinstance(found, tuple) else f"unix:{found}"

    def descriptors(self) -> list[tuple[str, int]]:
        """Return what a new master gets; they are its own."""
        return [(name, os.dup(sock.fileno())) for name, sock in self.held]

    def obey(self, taken: TakenOver) -> None:
        """Forget and keep as a master asks."""
        for name, sock in self.held:
            if name in taken.unstore:
                sock.close()
        self.held = [(name, sock) for name, sock in self.held if name not in taken.unstore]
        for name, descriptor in taken.store:
            self.held.append((name, socket.socket(fileno=os.dup(descriptor))))

    @property
    def names(self) -> dict[str, list[int]]:
        """The ports that are held under each name."""
        ports: dict[str, list[int]] = {}
        for name, sock in self.held:
            ports.setdefault(name, []).append(sock.getsockname()[1])
        return ports


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    """Hold nothing yet."""
    held = Systemd()
    yield held
    for _, sock in held.held:
        sock.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Group]]:
    """Make groups of addresses; they are closed after the test."""
    groups: list[Group] = []

    def made(port: int = 0, host: str = "127.0.0.1", path: str = "") -> Group:
        if not port and not path:
            with socket.socket() as sock:
                sock.bind((host, 0))
                port = sock.getsockname()[1]
        groups.append(Group(ListenAddress("" if path else host, port, path), 64, PLACE))
        return groups[-1]

    yield made
    for group in groups:
        group.close()


def serve(groups: list[Group], slots: int) -> None:
    """Bring all slots to listening, in the order the master does it."""
    for group in groups:
        group.probe()
        for slot in range(1, slots + 1):
            group.bind(slot)
    for slot in range(1, slots + 1):
        for group in groups:
            group.listen(slot)


def store(systemd: Systemd, groups: list[Group], slots: int) -> None:
    """Serve, let systemd keep all listeners, and die."""
    serve(groups, slots)
    for number, group in enumerate(groups, 1):
        for slot in range(1, slots + 1):
            systemd.hold(store_name(number, slot), group.socket(slot))
        group.close()


def connect(group: Group) -> socket.socket:
    """A client that waits."""
    if not group.address.path:
        return socket.create_connection((group.address.host, group.address.port), 10)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(group.address.path)
    return sock


def accepted(group: Group, slot: int) -> int:
    """Accept who waits at a slot and return how many that were."""
    count = 0
    while True:
        try:
            group.socket(slot).accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def refusal(groups: list[Group], systemd: Systemd) -> str:
    """Return the sentence of the ActivationError; nothing that was handed over stays open."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ActivationError) as caught:
        take_over(groups, systemd.descriptors())
    assert set(os.listdir("/proc/self/fd")) <= before
    return str(caught.value)


# --- stored listeners ---------------------------------------------------------------------------------------------


def test_nothing_was_handed_over(make: Callable[..., Group]) -> None:
    """The usual start: the master binds all by itself."""
    group = make()
    assert TakenOver() == take_over([group], [])
    serve([group], 1)


def test_names() -> None:
    """A name has no colon, which separates names in LISTEN_FDNAMES."""
    assert ["ws-1-1", "ws-2-256"] == [store_name(1, 1), store_name(2, 256)]


def test_a_restart_refuses_nobody(systemd: Systemd, make: Callable[..., Group]) -> None:
    """Clients who come before, between and after two masters are all accepted, each where its weight has sent it."""
    old = [make(), make()]
    store(systemd, old, 3)
    clients = [connect(group) for group in old for _ in range(5)]
    new = [make(group.address.port) for group in old]
    assert TakenOver(stored_slots=3) == take_over(new, systemd.descriptors())
    clients += [connect(group) for group in new for _ in range(5)]
    serve(new, 3)
    for group in new:
        assert sum(accepted(group, slot) for slot in (1, 2, 3)) == 10
        assert group.weigh([0, 1, 0])
        clients += [connect(group) for _ in range(5)]
        assert [0, 5, 0] == [accepted(group, slot) for slot in (1, 2, 3)]
    for client in clients:
        client.close()


def test_a_master_that_is_killed(systemd: Systemd, make: Callable[..., Group], tmp_path: Path, pipe: Pipe) -> None:
    """All that it has sent to systemd goes on listening, and the next master serves who came in between."""
    notify = str(tmp_path / "notify")
    group = make()

    def serve_and_store() -> None:
        notifier = Notifier({"NOTIFY_SOCKET": notify}, os.getpid())
        serve([group], 2)
        assert group.weigh([0, 1])
        for slot in (1, 2):
            notifier.store(store_name(1, slot), group.socket(slot).fileno())
        pipe.tell("stored")
        stay()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as store_of_systemd:
        store_of_systemd.bind(notify)
        with Child(serve_and_store) as master:
            assert pipe.hear() == "stored"
            client = connect(group)
            master.signal(signal.SIGKILL)
            master.exit_code()
        for _ in (1, 2):
            data, (descriptor,), _, _ = socket.recv_fds(store_of_systemd, 4096, 1)
            name = data.decode().split("FDNAME=")[1].split("\n")[0]
            systemd.held.append((name, socket.socket(fileno=descriptor)))
    assert ["ws-1-1", "ws-1-2"] == list(systemd.names)
    late = connect(group)
    assert TakenOver(stored_slots=2) == take_over([group], systemd.descriptors())
    serve([group], 2)
    assert [0, 2] == [accepted(group, slot) for slot in (1, 2)]
    assert group.weigh([1, 0])
    with connect(group):
        assert [1, 0] == [accepted(group, slot) for slot in (1, 2)]
    client.close()
    late.close()


def test_the_order_of_the_descriptors_says_nothing(systemd: Systemd, make: Callable[..., Group]) -> None:
    """Their names have the slots."""
    old = make()
    store(systemd, [old], 3)
    systemd.held.reverse()
    new = make(old.address.port)
    assert TakenOver(stored_slots=3) == take_over([new], systemd.descriptors())
    serve([new], 3)
    assert new.weigh([0, 0, 1])
    with connect(new):
        assert [0, 0, 1] == [accepted(new, slot) for slot in (1, 2, 3)]


def test_listen_has_another_order(systemd: Systemd, make: Callable[..., Group]) -> None:
    """The address decides, not its number; systemd then knows all by their right names."""
    old = [make(), make()]
    first, second = [group.address.port for group in old]
    store(systemd, old, 2)
    new = [make(second), make(first)]
    taken = take_over(new, systemd.descriptors())
    assert (2, ()) == (taken.stored_slots, taken.strangers)
    systemd.obey(taken)
    assert {"ws-1-1": [second], "ws-1-2": [second], "ws-2-1": [first], "ws-2-2": [first]} == systemd.names


def test_an_address_has_gone(systemd: Systemd, make: Callable[..., Group]) -> None:
    """Nobody can reach it any more, and the others move up: no name stands for two sockets."""
    old = [make(), make()]
    gone, stays = [group.address.port for group in old]
    store(systemd, old, 2)
    new = make(stays)
    taken = take_over([new], systemd.descriptors())
    assert (2, (f"127.0.0.1:{gone}",)) == (taken.stored_slots, taken.strangers)
    systemd.obey(taken)
    assert {"ws-1-1": [stays], "ws-1-2": [stays]} == systemd.names
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gone))
    with connect(new):
        pass


def test_a_namesake_that_was_right_is_kept(systemd: Systemd, make: Callable[..., Group]) -> None:
    """Systemd forgets all sockets of a name, so the right one of two is stored once more."""
    one, other = make(), make()
    serve([one, other], 1)
    for group in (one, other):
        systemd.hold("ws-1-1", group.socket(1))
        group.close()
    new = [make(one.address.port), make(other.address.port)]
    taken = take_over(new, systemd.descriptors())
    assert (1, ("ws-1-1",)) == (taken.stored_slots, taken.unstore)
    systemd.obey(taken)
    assert {"ws-1-1": [one.address.port], "ws-2-1": [other.address.port]} == systemd.names


def test_addresses_with_different_numbers_of_slots(systemd: Systemd, make: Callable[..., Group]) -> None:
    """The master opens as many as the longest has; the missing ones are bound anew, and both groups have weights."""
    long, short = make(), make()
    store(systemd, [long], 3)
    serve([short], 2)
    for slot in (1, 2):
        systemd.hold(store_name(2, slot), short.socket(slot))
    short.close()
    new = [make(long.address.port), make(short.address.port)]
    assert TakenOver(stored_slots=3) == take_over(new, systemd.descriptors())
    serve(new, 3)
    for group in new:
        assert group.weigh([0, 0, 1])
        with connect(group):
            assert accepted(group, 3) == 1


def test_a_missing_slot_costs_the_weights(systemd: Systemd, make: Callable[..., Group]) -> None:
    """The slot is bound anew and served, but where the kernel has the others is unknown."""
    old = make()
    store(systemd, [old], 3)
    systemd.held.pop(1)[1].close()
    new = make(old.address.port)
    assert TakenOver(stored_slots=3) == take_over([new], systemd.descriptors())
    serve([new], 3)
    assert not new.weigh([1, 1, 1])


def test_two_sockets_of_one_slot(systemd: Systemd, make: Callable[..., Group]) -> None:
    """One serves, the other is closed here and in systemd."""
    old = make()
    serve([old], 2)
    for slot in (1, 2):
        systemd.hold("ws-1-1", old.socket(slot))
    old.close()
    new = make(old.address.port)
    taken = take_over([new], systemd.descriptors())
    assert (1, ("ws-1-1",), 1) == (taken.stored_slots, taken.unstore, len(taken.store))
    systemd.obey(taken)
    assert {"ws-1-1": [old.address.port]} == systemd.names


def test_stored_sockets_of_no_use(systemd: Systemd, make: Callable[..., Group], tmp_path: Path) -> None:
    """A slot that no service has, a unix socket, one that does not listen: closed and forgotten."""
    old, path = make(), str(tmp_path / "hello.ws")
    serve([old], 1)
    systemd.hold("ws-1-257", old.socket(1))
    old.close()
    systemd.open("ws-2-1", socket.socket(socket.AF_UNIX), path)
    silent = socket.socket()
    systemd.held.append(("ws-3-1", silent))
    silent.bind(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    taken = take_over([make(old.address.port), make(path=path), make(port)], systemd.descriptors())
    assert (0, ()) == (taken.stored_slots, taken.store)
    assert ("ws-1-257", "ws-2-1", "ws-3-1") == taken.unstore
    assert (f"127.0.0.1:{old.address.port}", f"unix:{path}", f"127.0.0.1:{port}") == taken.strangers


# --- sockets of a .socket unit ------------------------------------------------------------------------------------


def test_activated_sockets_are_shared(systemd: Systemd, make: Callable[..., Group], tmp_path: Path) -> None:
    """Each goes to the group that has its address, under any name; nothing of it is stored, systemd has it anyway."""
    path = str(tmp_path / "hello.ws")
    systemd.open("wsworker.socket", socket.socket(socket.AF_UNIX), path)
    address = systemd.open("wsworker.socket", socket.socket(), ("127.0.0.1", 0))
    groups = [make(int(address.rpartition(":")[2])), make(), make(path=path)]
    assert TakenOver() == take_over(groups, systemd.descriptors())
    assert [True, False, True] == [group.activated for group in groups]
    serve(groups, 2)
    for group in groups:
        with connect(group):
            assert accepted(group, 1) + accepted(group, 2) == 1
    groups[2].close()
    assert os.path.exists(path)


def test_an_address_that_systemd_opens_needs_no_store(systemd: Systemd, make: Callable[..., Group]) -> None:
    """A service that has changed to a .socket unit: what the store still has is closed."""
    old = make()
    store(systemd, [old], 2)
    systemd.open("wsworker.socket", socket.socket(), ("127.0.0.1", old.address.port))
    new = make(old.address.port)
    taken = take_over([new], systemd.descriptors())
    assert TakenOver(0, ("ws-1-1", "ws-1-2"), (), (str(old.address),)) == taken
    systemd.obey(taken)
    serve([new], 1)
    with connect(new):
        assert accepted(new, 1) == 1


def test_an_address_that_listen_does_not_have(systemd: Systemd, make: Callable[..., Group]) -> None:
    """The sentence names the socket, the place of `listen` and both ways out."""
    address = systemd.open("wsworker.socket", socket.socket(), ("127.0.0.1", 0))
    sentence = f"systemd passed {address}, which is not in `listen` (config.yaml:3:9); "
    assert sentence + "add it there or change ListenStream=" == refusal([make()], systemd)
    group = make()
    group.place = ""
    assert sentence.replace(" (config.yaml:3:9)", "") + "add it there or change ListenStream=" == refusal(
        [group], systemd
    )


def test_a_socket_for_ipv4_and_ipv6(systemd: Systemd, make: Callable[..., Group]) -> None:
    """`ListenStream=80` opens [::]:80, and clients of 0.0.0.0:80 come there; the sentence says what to write."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    sock = socket.socket(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    address = systemd.open("wsworker.socket", sock, ("::", 0))
    port = int(address.rpartition(":")[2])
    assert refusal([make(), make(port, "0.0.0.0")], systemd) == (
        f"systemd passed [::]:{port}, which is not in `listen` (config.yaml:3:9); "
        f"add it there or change ListenStream= to 0.0.0.0:{port}"
    )
    group = make(port, "::")
    assert TakenOver() == take_over([group], systemd.descriptors())
    assert group.activated


@pytest.mark.parametrize(("address", "shown"), [("hello.ws", "unix:{}/hello.ws"), ("\0hello", "unix:@{}/hello")])
def test_a_unix_socket_that_listen_does_not_have(
    systemd: Systemd, make: Callable[..., Group], tmp_path: Path, address: str, shown: str
) -> None:
    """Also one without a file, which systemd writes with an @."""
    name = f"\0{tmp_path}/hello" if address.startswith("\0") else str(tmp_path / address)
    systemd.open("wsworker.socket", socket.socket(socket.AF_UNIX), name)
    sentence = refusal([make(), make(path=str(tmp_path / "other.ws"))], systemd)
    assert sentence.startswith(f"systemd passed {shown.format(tmp_path)}, which is not in `listen` (")
    assert sentence.endswith("; add it there or change ListenStream=")


def test_the_same_address_twice(systemd: Systemd, make: Callable[..., Group]) -> None:
    """With ReusePort= two units can open it; a worker accepts from one socket only."""
    address = systemd.open("a.socket", socket.socket(), ("127.0.0.1", 0))
    port = int(address.rpartition(":")[2])
    systemd.open("b.socket", socket.socket(), ("127.0.0.1", port))
    assert refusal([make(port)], systemd) == (
        f"systemd passed {address}, which it had passed before; remove one of the two ListenStream= lines"
    )


def test_what_is_no_listener(systemd: Systemd, make: Callable[..., Group], tmp_path: Path) -> None:
    """A datagram socket, one of ListenSequentialPacket=, a connection (Accept=yes), and something else altogether."""
    cure = "which is no listening stream socket; use ListenStream= and Accept=no in its .socket unit"
    datagram = socket.socket(type=socket.SOCK_DGRAM)
    address = systemd.open("wsworker.socket", datagram, ("127.0.0.1", 0))
    assert refusal([make()], systemd) == f"systemd passed {address}, {cure}"

    path = str(tmp_path / "hello.ws")
    packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    packets.bind(path)
    packets.listen()
    systemd.held.insert(0, ("wsworker.socket", packets))
    assert refusal([make(path=path)], systemd) == f"systemd passed unix:{path}, {cure}"

    nameless, other_end = socket.socketpair()
    systemd.held.insert(0, ("connection", nameless))
    assert refusal([make()], systemd) == f"systemd passed connection, {cure}"
    other_end.close()

    reader, writer = os.pipe()
    with pytest.raises(ActivationError) as caught:
        take_over([make()], [*systemd.descriptors(), ("fifo", reader)])
    assert str(caught.value) == f"systemd passed fifo, {cure}"
    os.close(reader)
    os.close(writer)
