"""The listeners: probing, binding, queueing across a death, weights; all with real sockets on loopback."""

import errno
import os
import select
import signal
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import setproctitle

from tests.master.heirs import inheritable, left
from tests.ports import free_port
from wsworker import listeners
from wsworker.config import ListenAddress
from wsworker.errors import BindError
from wsworker.listeners import Group

DEADLINE_SECONDS = 30
PLACE = "config.yaml:3:9"


def can_bind(host: str) -> bool:
    """Whether this machine has the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


HOSTS = [
    "127.0.0.1",
    pytest.param("::1", marks=pytest.mark.skipif(not can_bind("::1"), reason="this machine has no IPv6 loopback")),
]


@pytest.fixture
def make() -> Iterator[Callable[..., Group]]:
    """Make groups that are closed after the test."""
    groups: list[Group] = []

    def made(host: str = "127.0.0.1", port: int = 0, path: str = "", backlog: int = 64) -> Group:
        port = 0 if path else port or free_port(host)
        groups.append(Group(ListenAddress("" if path else host, port, path), backlog, PLACE))
        return groups[-1]

    yield made
    for group in groups:
        group.close()


def serve(group: Group, slots: int) -> None:
    """Bring all slots to listening, in the order the master does it."""
    group.probe()
    for slot in range(1, slots + 1):
        group.bind(slot)
    for slot in range(1, slots + 1):
        group.listen(slot)


def connect(group: Group) -> socket.socket:
    """A client that waits in the queue of one of the group's sockets."""
    address = group.address
    if not address.path:
        return socket.create_connection((address.host, address.port), DEADLINE_SECONDS)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE_SECONDS)
    try:
        sock.connect(address.path)
    except OSError:
        sock.close()
        raise
    return sock


def accept_all(sock: socket.socket) -> int:
    """Accept what waits and return how many that were."""
    accepted = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return accepted
        accepted += 1


def spread(group: Group, slots: int, clients: int) -> Counter[int]:
    """Connect so many clients and count who got them."""
    waiting = [connect(group) for _ in range(clients)]
    counted = Counter({slot: accept_all(group.socket(slot)) for slot in range(1, slots + 1)})
    for client in waiting:
        client.close()
    assert counted.total() == clients
    return counted


def failure(action: Callable[[], object]) -> BindError:
    """The BindError that the action raises."""
    with pytest.raises(BindError) as caught:
        action()
    assert caught.value.place == PLACE
    return caught.value


class Child:
    """Another process: runs a function, then stays until it is killed; the function's result is told to the parent."""

    def __init__(self, function: Callable[[], str]) -> None:
        reader, writer = os.pipe()
        alive, self._life = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._life)
            try:
                os.write(writer, function().encode())
            except BaseException as exc:
                os.write(writer, f"failed: {exc!r}".encode())
            finally:
                os.close(writer)
                os.read(alive, 1)  # until it is killed, or the parent is gone
                os._exit(0)
        os.close(writer)
        os.close(alive)
        ready, _, _ = select.select([reader], [], [], DEADLINE_SECONDS)
        self.told = os.read(reader, 4096).decode() if ready else "nothing"
        os.close(reader)

    def kill(self) -> None:
        """End it as the kernel's OOM killer would."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._life)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


def other_program(host: str, port: int, kept: list[socket.socket]) -> str:
    """Do what a second daemon of the same user does: join the port and listen."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.listen()
    kept.append(sock)
    return "listens"


# --- weights in the kernel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_the_kernel_spreads_by_weight(make: Callable[..., Group], host: str) -> None:
    """Weights 1:0:0:3 give slot 4 three times what slot 1 gets, within six sigma, and the others nothing."""
    group = make(host, backlog=512)
    serve(group, 4)
    assert group.weigh([1, 0, 0, 3])
    counted = spread(group, 4, 400)
    assert counted[2] == counted[3] == 0
    assert 48 <= counted[1] <= 152


def test_weights_can_be_changed_and_taken_back(make: Callable[..., Group]) -> None:
    """A later program replaces the earlier one; with all weights 0 the kernel's own spread reaches every slot."""
    group = make(backlog=512)
    serve(group, 2)
    assert group.weigh([1, 0])
    assert Counter({1: 20}) == spread(group, 2, 20)
    assert group.weigh([0, 5])
    assert Counter({2: 20}) == spread(group, 2, 20)
    assert group.weigh([0, 0])
    counted = spread(group, 2, 100)
    assert min(counted[1], counted[2]) > 0


def test_256_slots_can_be_weighed(make: Callable[..., Group]) -> None:
    """The largest service: the program attaches, and the index of the last slot is right."""
    group = make()
    serve(group, 256)
    assert group.weigh([256] * 256)
    assert group.weigh([0] * 255 + [1])
    assert Counter({256: 8}) == +spread(group, 256, 8)


def test_weights_need_all_slots_to_listen_in_order(make: Callable[..., Group]) -> None:
    """The kernel counts sockets in the order of listen(), so another order is a bug of the caller."""
    group = make()
    for slot in (1, 2):
        group.bind(slot)
    for slot in (2, 1):
        group.listen(slot)
    with pytest.raises(AssertionError):
        group.weigh([1, 1])


def test_weights_that_cannot_be_attached_are_told(make: Callable[..., Group]) -> None:
    """The caller logs it once and lives with the kernel's spread: here the socket is gone."""
    group = make()
    serve(group, 1)
    group.socket(1).close()
    assert not group.weigh([1])


# --- probe, bind, listen ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_nobody_can_connect_before_listen(make: Callable[..., Group], host: str) -> None:
    """A bound socket refuses clients; once it listens, a client waits in its queue."""
    group = make(host)
    group.probe()
    group.bind(1)
    with pytest.raises(ConnectionRefusedError):
        connect(group)
    group.listen(1)
    assert Counter({1: 1}) == spread(group, 1, 1)


@pytest.mark.parametrize("host", HOSTS)
def test_the_sockets_have_the_options_of_a_group(make: Callable[..., Group], host: str) -> None:
    """Non-blocking, closed on exec, shared port, quick restart, and no IPv4 through IPv6."""
    group = make(host)
    group.bind(1)
    sock = group.socket(1)
    assert sock.getblocking() is False
    assert sock.get_inheritable() is False
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
    if sock.family == socket.AF_INET6:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_the_backlog_is_what_was_asked(make: Callable[..., Group]) -> None:
    """For a listener, tcpi_sacked of TCP_INFO is the limit of its queue (net/ipv4/tcp.c, tcp_get_info)."""
    group = make(backlog=37)
    serve(group, 1)
    info = group.socket(1).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    assert struct.unpack_from("I", info, 28) == (37,)


def test_a_probe_leaves_no_trace(make: Callable[..., Group]) -> None:
    """It may be repeated, also beside bound sockets that do not listen."""
    group = make()
    group.probe()
    group.bind(1)
    group.probe()
    group.bind(2)
    group.listen(1)
    group.listen(2)


def test_another_program_that_shares_the_port_is_seen(make: Callable[..., Group]) -> None:
    """With SO_REUSEPORT the bind would succeed; the probe finds it and names the process."""
    group = make()
    kept: list[socket.socket] = []
    with Child(lambda: other_program(group.address.host, group.address.port, kept)) as child:
        assert child.told == "listens"
        error = failure(group.probe)
        assert error.reason == "address in use"
        assert error.owner == f"pid {child.pid} ({psutil.Process(child.pid).name()})"
        assert str(error).endswith(f"; change `listen` ({PLACE})")


def test_another_program_that_came_after_the_bind_is_seen(make: Callable[..., Group]) -> None:
    """Between start and the first READY anybody may take the port; the first listen finds it."""
    group = make()
    group.probe()
    group.bind(1)
    kept: list[socket.socket] = []
    with Child(lambda: other_program(group.address.host, group.address.port, kept)) as child:
        assert child.told == "listens"
        error = failure(lambda: group.listen(1))
        assert (error.reason, error.owner[: len(f"pid {child.pid} ")]) == ("address in use", f"pid {child.pid} ")


def test_a_listener_on_all_addresses_is_named_too(make: Callable[..., Group]) -> None:
    """0.0.0.0 takes the port of 127.0.0.1 as well."""
    group = make()
    kept: list[socket.socket] = []
    with Child(lambda: other_program("0.0.0.0", group.address.port, kept)) as child:
        assert failure(group.probe).owner.startswith(f"pid {child.pid} (")


def test_a_service_that_has_changed_its_name_is_told_as_one(make: Callable[..., Group]) -> None:
    """The address is the last that the two have in common, so the way to stop the old one is in the sentence."""
    group = make()
    kept: list[socket.socket] = []

    def old_one() -> str:
        setproctitle.setproctitle("wsworker: master [old name]")
        return other_program(group.address.host, group.address.port, kept)

    with Child(old_one) as child:
        assert child.told == "listens"
        assert str(failure(group.probe)) == (
            f"cannot listen on {group.address}: address in use by pid {child.pid} (wsworker: master [old name]), "
            "another wsworker service; "
            f"if `name` was changed, stop it with `kill -TERM {child.pid}`, else change `listen` ({PLACE})"
        )


def test_two_addresses_of_one_service_in_conflict(make: Callable[..., Group]) -> None:
    """Then no other process is to blame."""
    first = make()
    serve(first, 1)
    error = failure(make("0.0.0.0", first.address.port).probe)
    assert str(error) == (
        f"cannot listen on 0.0.0.0:{first.address.port}: address in use by this service itself; "
        f"change `listen` ({PLACE})"
    )


def test_an_exclusive_socket_blocks_the_bind(make: Callable[..., Group]) -> None:
    """A program without SO_REUSEPORT that is bound and does not listen cannot be named, but is noticed."""
    group = make()
    with socket.socket() as other:
        other.bind((group.address.host, group.address.port))
        error = failure(lambda: group.bind(1))
        assert (error.reason, error.owner) == ("address in use", "")


def test_an_address_of_another_machine(make: Callable[..., Group]) -> None:
    """192.0.2.0/24 is for documentation (RFC 5737): nobody has it."""
    assert failure(make("192.0.2.1", 2346).probe).reason == "no such address on this machine"


def test_an_interface_that_does_not_exist(make: Callable[..., Group]) -> None:
    """A link-local address names its interface."""
    assert failure(make("fe80::1%nosuch0", 2346).probe).reason == "no such address on this machine"


def test_a_privileged_port_says_what_it_needs(make: Callable[..., Group]) -> None:
    """Tried in a child without privileges; the limit is the machine's own setting."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("every port of this machine may be bound without privileges")
    group = make("127.0.0.1", 1)

    def probe() -> str:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        return failure(group.probe).reason

    with Child(probe) as child:
        assert child.told == f"permission denied: ports below {first} need root or CAP_NET_BIND_SERVICE"


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "no text"])
def test_a_limit_that_cannot_be_read_is_the_usual_one(
    make: Callable[..., Group], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    """Without /proc, or without a descriptor for it, a refused port is still a BindError in words."""
    file = tmp_path / "first"
    if content:
        file.write_bytes(content)
    monkeypatch.setattr(listeners, "UNPRIVILEGED_PORTS", file)
    reason = make("127.0.0.1", 1)._reason(OSError(errno.EACCES, ""))
    assert reason == "permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE"


def test_a_family_that_is_switched_off_or_any_other_error_has_words(make: Callable[..., Group]) -> None:
    """What has no words of ours has those of the system."""
    group = make()
    assert group._reason(OSError(errno.EAFNOSUPPORT, "")) == "IPv6 is switched off on this machine"
    assert group._reason(OSError(errno.ENOBUFS, "")) == "no buffer space available"


def test_a_slot_is_bound_once_and_listens_once(make: Callable[..., Group]) -> None:
    """Twice is a bug of the caller."""
    group = make()
    serve(group, 1)
    with pytest.raises(AssertionError):
        group.bind(1)
    with pytest.raises(AssertionError):
        group.listen(1)


# --- growing and shrinking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_group_grows_while_it_listens(make: Callable[..., Group], host: str) -> None:
    """A new last slot gets the next index; until it is weighed it gets nobody, as the program does not name it."""
    group = make(host)
    serve(group, 2)
    assert group.weigh([1, 1])
    group.bind(3)
    group.listen(3)
    assert spread(group, 3, 20)[3] == 0
    assert group.weigh([1, 1])
    assert spread(group, 3, 20)[3] == 0
    assert group.weigh([0, 0, 1])
    assert Counter({3: 20}) == +spread(group, 3, 20)


def test_a_group_that_cannot_grow_says_why(make: Callable[..., Group]) -> None:
    """The slots that listen are not touched by it: here the machine has lost the right to the address."""
    group = make()
    serve(group, 1)

    def grow() -> str:
        os.setgid(65534)
        os.setuid(65534)
        return failure(lambda: group.bind(2)).reason  # a group of SO_REUSEPORT is of one uid: socket(7)

    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    with Child(grow) as child:
        assert child.told == "address in use"
    assert Counter({1: 2}) == spread(group, 1, 2)


def test_closing_the_last_slot_resets_nobody(make: Callable[..., Group]) -> None:
    """Weighed 0 and emptied before, it takes no client with it; those that it had accepted live on, as do the rest."""
    group = make()
    serve(group, 3)
    assert group.weigh([0, 0, 1])
    waiting = [connect(group) for _ in range(10)]
    assert group.weigh([1, 1, 0])
    others = [connect(group) for _ in range(10)]
    accepted = []
    for _ in waiting:
        server, _ = group.socket(3).accept()
        server.setblocking(True)
        accepted.append(server)
    group.close_slot(3)
    assert group.weigh([1, 1])
    for server in accepted:
        server.sendall(b"alive")
    assert [b"alive"] * 10 == [client.recv(5) for client in waiting]
    assert accept_all(group.socket(1)) + accept_all(group.socket(2)) == 10
    assert spread(group, 2, 20).total() == 20
    for sock in (*waiting, *others, *accepted):
        sock.close()


def test_a_group_grows_again_after_it_shrank(make: Callable[..., Group]) -> None:
    """The new socket of a slot has the index of the old one."""
    group = make()
    serve(group, 3)
    assert group.weigh([1, 1, 0])
    group.close_slot(3)
    group.bind(3)
    group.listen(3)
    assert group.weigh([0, 0, 1])
    assert Counter({3: 20}) == +spread(group, 3, 20)


def test_only_the_last_slot_can_be_closed(make: Callable[..., Group]) -> None:
    """Closing another one would give its index to the last one. A slot that was never bound is closed already."""
    group = make()
    serve(group, 2)
    with pytest.raises(AssertionError):
        group.close_slot(1)
    group.close_slot(3)
    assert group.weigh([1, 1])


def test_a_bound_slot_that_does_not_listen_can_be_closed(make: Callable[..., Group]) -> None:
    """So that another address, which could not be bound for this slot, leaves nothing behind."""
    group = make()
    serve(group, 1)
    group.bind(2)
    sock = group.socket(2)
    group.close_slot(2)
    assert sock.fileno() == -1
    assert group.weigh([1])


# --- queues -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_the_queue_of_each_slot(make: Callable[..., Group], host: str) -> None:
    """It counts who waits and was not accepted; a slot without a listener has none."""
    group = make(host)
    serve(group, 2)
    assert group.weigh([0, 1])
    waiting = [connect(group) for _ in range(5)]
    assert (0, 5, None) == (group.queue(1), group.queue(2), group.queue(3))
    accept_all(group.socket(2))
    assert group.queue(2) == 0
    for client in waiting:
        client.close()


# --- taking over --------------------------------------------------------------------------------------------------


def kept_for(successor: Group, group: Group, slots: Sequence[int]) -> None:
    """Give copies of a group's listeners to its successor and close the group, as systemd and a restart do."""
    copies = {slot: socket.socket(fileno=os.dup(group.socket(slot).fileno())) for slot in slots}
    group.close()
    for slot, copy in copies.items():
        assert successor.adopt(slot, copy)


@pytest.mark.parametrize("host", HOSTS)
def test_a_successor_has_the_queues_and_the_places(make: Callable[..., Group], host: str) -> None:
    """Who waited before is accepted after, new clients come at any time, and new weights hit the right slots."""
    group = make(host)
    serve(group, 3)
    assert group.weigh([0, 0, 1])
    successor = make(host, group.address.port, backlog=512)
    waiting = [connect(group) for _ in range(10)]
    kept_for(successor, group, [1, 2, 3])
    waiting.append(connect(successor))
    assert successor.queue(3) == 11
    serve(successor, 3)
    assert not successor.socket(3).getblocking()
    assert accept_all(successor.socket(3)) == 11
    for slot in (1, 2, 3):
        weights = [int(slot == other) for other in (1, 2, 3)]
        assert successor.weigh(weights)
        assert Counter({slot: 20}) == +spread(successor, 3, 20)
    for client in waiting:
        client.close()


def test_a_successor_has_its_own_backlog(make: Callable[..., Group]) -> None:
    """A changed `backlog` holds for listeners that were taken over too."""
    group = make(backlog=64)
    serve(group, 1)
    successor = make(port=group.address.port, backlog=37)
    kept_for(successor, group, [1])
    serve(successor, 1)
    info = successor.socket(1).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    assert struct.unpack_from("I", info, 28) == (37,)


def test_a_successor_with_more_slots(make: Callable[..., Group]) -> None:
    """The slots that nobody has kept are bound anew and come last, so their indices are known too."""
    group = make()
    serve(group, 2)
    successor = make(port=group.address.port)
    kept_for(successor, group, [1, 2])
    serve(successor, 4)
    assert successor.weigh([0, 0, 1, 0])
    assert Counter({3: 20}) == +spread(successor, 4, 20)
    assert successor.weigh([0, 1, 0, 0])
    assert Counter({2: 20}) == +spread(successor, 4, 20)


def test_a_successor_can_shrink(make: Callable[..., Group]) -> None:
    """A slot that was taken over closes like any other, and is bound anew when it is wanted again."""
    group = make()
    serve(group, 2)
    successor = make(port=group.address.port)
    kept_for(successor, group, [1, 2])
    serve(successor, 2)
    assert successor.weigh([1, 0])
    sock = successor.socket(2)
    successor.close_slot(2)
    assert sock.fileno() == -1
    successor.bind(2)
    successor.listen(2)
    assert successor.weigh([0, 1])
    assert Counter({2: 20}) == +spread(successor, 2, 20)


def test_a_slot_is_missing(make: Callable[..., Group]) -> None:
    """Then nobody knows the indices: no weights for good, and those of before no longer hold."""
    group = make(backlog=512)
    serve(group, 3)
    assert group.weigh([0, 0, 1])
    successor = make(port=group.address.port, backlog=512)
    kept_for(successor, group, [1, 3])
    serve(successor, 3)
    assert not successor.weigh([1, 1, 1])
    counted = spread(successor, 3, 200)
    assert min(counted[slot] for slot in (1, 2, 3)) > 0


def test_two_listeners_for_one_slot(make: Callable[..., Group]) -> None:
    """The second one is closed, as nobody would accept there; its index was one of ours, so weights are over."""
    group = make()
    serve(group, 2)
    successor = make(port=group.address.port)
    copies = [socket.socket(fileno=os.dup(group.socket(slot).fileno())) for slot in (1, 2)]
    group.close()
    assert [True, False] == [successor.adopt(1, copy) for copy in copies]
    assert copies[1].fileno() == -1
    serve(successor, 1)
    assert not successor.weigh([1])
    assert Counter({1: 4}) == spread(successor, 1, 4)


def test_which_socket_has_the_address(make: Callable[..., Group], tmp_path: Path) -> None:
    """Address and port are compared as the kernel has them, and nothing is said to include anything else."""
    group = make()
    with socket.socket() as same, socket.socket() as all_addresses, socket.socket(socket.AF_UNIX) as unix:
        same.bind((group.address.host, group.address.port))
        all_addresses.bind(("0.0.0.0", 0))
        unix.bind(str(tmp_path / "hello.ws"))
        assert [True, False, False] == [group.owns(sock) for sock in (same, all_addresses, unix)]
        wildcard = make("0.0.0.0", all_addresses.getsockname()[1])
        assert [False, True, False] == [wildcard.owns(sock) for sock in (same, all_addresses, unix)]
        path = make(path=str(tmp_path / "hello.ws"))
        assert [False, False, True] == [path.owns(sock) for sock in (same, all_addresses, unix)]
        assert not make("fe80::1%nosuch0", 2346).owns(same)


def test_ipv6_is_compared_in_its_shortest_form(make: Callable[..., Group]) -> None:
    """The kernel knows an address and not its spelling; [::] is not 0.0.0.0, also where it takes IPv4 too."""
    if not can_bind("::1"):
        pytest.skip("this machine has no IPv6 loopback")
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        port = sock.getsockname()[1]
        owners = [make(host, port).owns(sock) for host in ("::", "0:0::0", "0.0.0.0", "::1")]
        assert [True, True, False, False] == owners


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_socket_of_a_socket_unit_is_shared(make: Callable[..., Group], path: Path, kind: str) -> None:
    """All slots accept from it; its backlog and its file are systemd's, and nothing here ends its clients."""
    systemd = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    systemd.bind(str(path) if kind == "unix" else ("127.0.0.1", 0))
    systemd.listen(7)
    group = make(path=str(path)) if kind == "unix" else make(port=systemd.getsockname()[1])
    group.adopt_shared(socket.socket(fileno=os.dup(systemd.fileno())))
    assert (True, True) == (group.shared, group.activated)
    serve(group, 2)
    assert group.socket(1) is group.socket(2)
    assert not group.socket(1).getblocking()
    assert not group.weigh([1, 1])
    assert group.queue(1) is None
    if kind == "tcp":
        info = group.socket(1).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert struct.unpack_from("I", info, 28) == (7,)
    group.close_slot(2)
    with connect(group):
        assert accept_all(group.socket(1)) == 1
    group.close()
    with connect(group):
        systemd.accept()[0].close()
    systemd.close()


def test_a_shared_socket_that_nobody_used_is_closed(make: Callable[..., Group]) -> None:
    """A start that fails before any slot is bound leaves no descriptor open."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    group = make(port=sock.getsockname()[1])
    group.adopt_shared(sock)
    group.close()
    assert sock.fileno() == -1


# --- across processes ---------------------------------------------------------------------------------------------


def test_the_queue_survives_the_borrowers_death(make: Callable[..., Group]) -> None:
    """Clients that wait when a worker is killed are accepted from the master's descriptor afterwards."""
    group = make()
    serve(group, 2)
    assert group.weigh([1, 0])

    def borrow() -> str:
        group.keep(1)
        select.select([group.socket(1)], [], [], DEADLINE_SECONDS)
        group.socket(1).accept()
        return "accepted one"

    early = connect(group)
    with Child(borrow) as child:
        assert child.told == "accepted one"
        waiting = [connect(group) for _ in range(40)]
    assert accept_all(group.socket(1)) == 40
    for client in (early, *waiting):
        client.close()


@pytest.mark.parametrize(("slot", "expected"), [(1, "open closed"), (2, "closed open"), (None, "closed closed")])
def test_a_child_keeps_its_slots_socket_only(make: Callable[..., Group], slot: int | None, expected: str) -> None:
    """Every other descriptor of the group is closed in the child, and only there."""
    group = make()
    serve(group, 2)
    numbers = [group.socket(slot).fileno() for slot in (1, 2)]

    def state(number: int) -> str:
        try:
            os.fstat(number)
        except OSError:
            return "closed"
        return "open"

    def keep() -> str:
        group.keep(slot)
        return " ".join(map(state, numbers))

    with Child(keep) as child:
        assert child.told == expected
    assert [state(number) for number in numbers] == ["open", "open"]
    assert spread(group, 2, 4).total() == 4


def test_close_frees_the_address_and_may_be_repeated(make: Callable[..., Group]) -> None:
    """Clients are refused, and another group may have the port."""
    group = make()
    serve(group, 2)
    group.close()
    group.close()
    with pytest.raises(ConnectionRefusedError):
        connect(group)
    serve(make(port=group.address.port), 2)


# --- unix sockets -------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test puts its socket."""
    return tmp_path / "hello.ws"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask and put it back."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def test_all_slots_share_a_unix_socket(make: Callable[..., Group], path: Path) -> None:
    """One socket, which listens with the first slot, has no weights, and whose file goes with it."""
    group = make(path=str(path))
    assert group.shared
    group.probe()
    assert not path.exists()
    group.bind(1)
    group.bind(2)
    assert group.socket(1) is group.socket(2)
    with pytest.raises(ConnectionRefusedError):
        connect(group)
    group.listen(1)
    group.listen(2)
    assert not group.weigh([1, 1])
    assert group.queue(1) is None
    group.bind(3)
    group.close_slot(3)
    client = connect(group)
    assert accept_all(group.socket(2)) == 1
    client.close()
    group.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("mask", "expected"), [(0o000, 0o660), (0o022, 0o660), (0o027, 0o660), (0o077, 0o600), (0o177, 0o600)]
)
def test_the_mode_of_the_file(
    make: Callable[..., Group], path: Path, umask: Callable[[int], int], mask: int, expected: int
) -> None:
    """Owner and group may connect, nobody else; not the group either if the umask hides files from it."""
    umask(mask)
    make(path=str(path)).bind(1)
    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_stale_socket_is_replaced(make: Callable[..., Group], path: Path) -> None:
    """A file that a dead service has left answers nobody."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    group = make(path=str(path))
    group.probe()
    assert path.is_socket()
    group.bind(1)
    group.listen(1)
    connect(group).close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_answers_is_left_alone(make: Callable[..., Group], path: Path, kind: socket.SocketKind) -> None:
    """It is in use, by a stream or any other type; neither probe nor bind touches the file."""
    with socket.socket(socket.AF_UNIX, kind) as alive:
        alive.bind(str(path))
        if kind == socket.SOCK_STREAM:
            alive.listen()
        group = make(path=str(path))
        for action in (group.probe, lambda: group.bind(1)):
            error = failure(action)
            assert (error.reason, error.owner) == ("address in use", "this service itself")
        group.close()
        assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(make: Callable[..., Group], path: Path) -> None:
    """Nobody's data is removed because of a slip in the config."""
    path.write_text("data")
    assert failure(lambda: make(path=str(path)).bind(1)).reason == "a file that is no socket has this path"
    assert path.read_text() == "data"


def test_a_path_that_cannot_be(make: Callable[..., Group], tmp_path: Path) -> None:
    """The folder must exist, and the kernel takes 107 bytes."""
    gone = tmp_path / "gone"
    assert failure(make(path=f"{gone}/hello.ws").probe).reason == f"the folder {gone} does not exist"
    long = tmp_path / ("x" * 108)
    assert failure(lambda: make(path=str(long)).bind(1)).reason == "AF_UNIX path too long"


def test_a_folder_or_socket_that_permits_nothing(make: Callable[..., Group], tmp_path: Path) -> None:
    """Tried in a child without privileges, once for a new file and once for somebody's live socket."""
    if os.getuid() != 0:
        pytest.skip("needs root to make what others may not use")
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    taken = tmp_path / "taken.ws"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(taken))
        alive.listen()
        taken.chmod(0o600)
        groups = [make(path=str(tmp_path / "new.ws")), make(path=str(taken))]

        def bind() -> str:
            os.setgid(65534)
            os.setuid(65534)
            return ", ".join(failure(lambda group=group: group.bind(1)).reason for group in groups)  # type: ignore[misc]

        with Child(bind) as child:
            assert child.told == "permission denied, permission denied"


def test_a_file_that_was_replaced_before_listen(make: Callable[..., Group], path: Path) -> None:
    """Two services on one path, neither listening yet: the one whose file is gone says so and removes nothing."""
    first, second = make(path=str(path)), make(path=str(path))
    first.bind(1)
    second.bind(1)
    assert failure(lambda: first.listen(1)).reason == "another program has replaced the socket's file"
    second.listen(1)
    first.close()
    connect(second).close()


def test_a_child_keeps_the_shared_socket_and_never_removes_the_file(make: Callable[..., Group], path: Path) -> None:
    """The file belongs to the master."""
    group = make(path=str(path))
    serve(group, 2)

    def borrow() -> str:
        group.keep(2)
        alive = group.socket(2).fileno() >= 0
        group.close()
        return str(alive)

    with Child(borrow) as child:
        assert child.told == "True"
    connect(group).close()


def test_a_file_that_cannot_be_removed_does_not_fail_a_stop(make: Callable[..., Group], path: Path) -> None:
    """A master that has become another user may lack the right; the file is stale then, and replaced later."""
    if os.getuid() != 0:
        pytest.skip("needs root to become a user without rights in the folder")
    group = make(path=str(path))
    serve(group, 1)

    def close() -> str:
        os.setgid(65534)
        os.setuid(65534)
        group.close()
        return "closed"

    with Child(close) as child:
        assert child.told == "closed"
    assert path.is_socket()


def test_a_file_that_is_gone_does_not_fail_a_stop(make: Callable[..., Group], path: Path) -> None:
    """Somebody has cleaned up before: the sockets are closed all the same."""
    group = make(path=str(path))
    serve(group, 1)
    sock = group.socket(1)
    path.unlink()
    group.close()
    assert sock.fileno() == -1


# The next program in this process


def test_another_group_goes_on(make: Callable[..., Group]) -> None:
    """Who waits is not lost; it can be weighed, grow and shrink as if it were the one that was opened."""
    before = make()
    serve(before, 2)
    before.weigh([0, 1])
    waiting = [connect(before) for _ in range(4)]
    given = inheritable()
    after = make(port=before.address.port)
    after.inherit(left(before.bequeath()))
    # as it is when the process has executed another program
    before.keep(None)
    assert given == inheritable()
    assert (0, 4) == (after.queue(1), after.queue(2))
    assert 4 == accept_all(after.socket(2))
    assert Counter({2: 8}) == spread(after, 2, 8)
    assert after.weigh([1, 0])
    assert Counter({1: 8, 2: 0}) == spread(after, 2, 8)
    after.bind(3)
    after.listen(3)
    assert after.weigh([0, 0, 1])
    assert Counter({1: 0, 2: 0, 3: 8}) == spread(after, 3, 8)
    after.weigh([1, 0, 0])
    after.close_slot(3)
    assert Counter({1: 8, 2: 0}) == spread(after, 2, 8)
    for client in waiting:
        client.close()


def test_another_group_goes_on_with_a_unix_socket(make: Callable[..., Group], tmp_path: Path) -> None:
    """All slots share it still, and its file is removed at the end: it is ours."""
    path = tmp_path / "hello.ws"
    before = make(path=str(path))
    serve(before, 2)
    waiting = connect(before)
    after = make(path=str(path))
    given = inheritable()
    after.inherit(left(before.bequeath()))
    before.keep(None)
    assert given == inheritable()
    assert after.shared
    assert after.socket(1) is after.socket(2)
    assert 1 == accept_all(after.socket(1))
    after.close_slot(2)
    after.bind(2)
    after.close()
    assert not path.exists()
    waiting.close()


def test_another_group_goes_on_with_what_systemd_has_opened(make: Callable[..., Group]) -> None:
    """It is activated still: nothing is probed, bound or made to listen."""
    before = make()
    opened = socket.create_server((before.address.host, before.address.port))
    before.adopt_shared(opened)
    serve(before, 2)
    after = make(port=before.address.port)
    after.inherit(left(before.bequeath()))
    before.keep(None)
    assert (True, True, None) == (after.activated, after.shared, after.queue(1))
    after.probe()
    after.bind(3)
    after.listen(3)
    with connect(after):
        assert 1 == accept_all(after.socket(3))


def test_another_group_knows_that_the_order_is_not_known(make: Callable[..., Group]) -> None:
    """What was adopted from a former master in another order cannot be weighed later either."""
    before = make()
    serve(before, 2)
    third = make(port=before.address.port)
    third.adopt(2, before.socket(2).dup())
    third.bind(1)
    for slot in (1, 2):
        third.listen(slot)
    assert not third.weigh([1, 0])
    after = make(port=before.address.port)
    after.inherit(left(third.bequeath()))
    third.keep(None)
    assert not after.weigh([1, 0])
    after.probe()
