"""Listeners that systemd hands to a new master: those that it kept for us, and those of a .socket unit.

Both come as descriptors with a name. `ws-ADDRESSNUMBER-SLOT` is one that a former master has put into the descriptor
store; it has listened ever since, with its clients in its queue and its place in the kernel's group, so neither a
restart nor a crash refuses anybody. The address number, counted from 1 in the order of `listen`, only keeps the names
apart: `listen` may have changed, and getsockname(2) tells where a socket really belongs.

Any other name is of a .socket unit, where systemd has opened the address itself. All slots share that one socket.

Only TCP listeners with a slot of their own are stored. A unix socket that should outlive a restart needs a .socket
unit: without one its file goes, at the latest with the RuntimeDirectory= of the service.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsworker.config import ListenAddress
from wsworker.errors import ActivationError
from wsworker.listeners import Group
from wsworker.stats import MAX_SLOTS

_STORED = re.compile(r"ws-[1-9][0-9]{0,3}-([1-9][0-9]{0,2})")


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What came of the descriptors.

    stored_slots: how many slots the master must open at least, 0 without stored listeners. An address that had fewer
    is bound anew for the missing slots; slots beyond `workers` are then closed in good order.
    unstore, store: names that systemd must forget, and then (name, descriptor) that it must keep: with an address
    gone from `listen`, or with another order, the names of before are wrong or stand for two sockets.
    strangers: addresses of stored listeners that the service does not use any more; they are closed.
    """

    stored_slots: int = 0
    unstore: tuple[str, ...] = ()
    store: tuple[tuple[str, int], ...] = ()
    strangers: tuple[str, ...] = ()


def store_name(address_number: int, slot: int) -> str:
    """Return the name under which systemd keeps a listener; both count from 1, the address by its place in `listen`."""
    return f"ws-{address_number}-{slot}"


def take_over(groups: Sequence[Group], descriptors: Iterable[tuple[str, int]]) -> TakenOver:
    """Give each descriptor to the group that it belongs to; what nobody can use is closed.

    groups: in the order of `listen`, nothing bound yet; descriptors: as take_descriptors returned them. You must then
    unstore and store what the result says, in that order. Raises ActivationError for a socket of a .socket unit that
    `listen` has no use for: its clients would wait for ever.
    """
    with contextlib.ExitStack() as on_error:
        sockets = [(name, on_error.enter_context(_opened(name, descriptor))) for name, descriptor in descriptors]
        # activated ones first: an address that systemd opens itself has no more use for stored listeners
        for name, sock in sockets:
            if not _slot(name):
                _activate(groups, name, sock)
        taken = _adopt(groups, [(name, sock) for name, sock in sockets if _slot(name)])
        on_error.pop_all()
    return taken


def _opened(name: str, descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        raise _no_listener(name) from None


def _activate(groups: Sequence[Group], name: str, sock: socket.socket) -> None:
    shown = _shown(sock) or name
    if not _listens(sock):
        raise _no_listener(shown)
    group = _group_of(groups, sock)
    if group is None:
        place = f" ({groups[0].place})" if groups[0].place else ""
        raise ActivationError(shown, f"which is not in `listen`{place}", _cure(groups, sock))
    if group.activated:
        raise ActivationError(shown, "which it had passed before", "remove one of the two ListenStream= lines")
    group.adopt_shared(sock)


def _adopt(groups: Sequence[Group], stored: Sequence[tuple[str, socket.socket]]) -> TakenOver:
    adopted: list[tuple[str, str, int, int]] = []  # the name it had, the right name, slot, descriptor
    unstore: dict[str, None] = {}
    strangers: dict[str, None] = {}
    for name, sock in stored:
        slot = _slot(name)
        group = _group_of(groups, sock)
        if group is None or group.shared or slot > MAX_SLOTS or not _listens(sock):
            unstore[name] = strangers[_shown(sock) or name] = None
            sock.close()
        elif not group.adopt(slot, sock):
            unstore[name] = None
        else:
            right_name = store_name(groups.index(group) + 1, slot)
            adopted.append((name, right_name, slot, sock.fileno()))
            if name != right_name:
                unstore[name] = None
    return TakenOver(
        stored_slots=max((slot for _, _, slot, _ in adopted), default=0),
        unstore=tuple(unstore),
        # systemd forgets by name, and so also a namesake that was right
        store=tuple((right_name, descriptor) for name, right_name, _, descriptor in adopted if name in unstore),
        strangers=tuple(strangers),
    )


def _slot(name: str) -> int:
    """Return the slot in a name, 0 if it is none of ours."""
    match = _STORED.fullmatch(name)
    return int(match[1]) if match else 0


def _group_of(groups: Iterable[Group], sock: socket.socket) -> Group | None:
    return next((group for group in groups if group.owns(sock)), None)


def _listens(sock: socket.socket) -> bool:
    return (
        sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        and sock.type == socket.SOCK_STREAM
        and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    )


def _shown(sock: socket.socket) -> str:
    """Return the address of a socket as `listen` writes it, "" if it has none."""
    name = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return str(ListenAddress(name[0], name[1]))
    if sock.family == socket.AF_UNIX and name:
        # an abstract name comes as bytes; systemd writes its leading NUL as @
        return f"unix:{name if isinstance(name, str) else name.decode(errors='replace').replace(chr(0), '@')}"
    return ""


def _no_listener(shown: str) -> ActivationError:
    cure = "use ListenStream= and Accept=no in its .socket unit"
    return ActivationError(shown, "which is no listening stream socket", cure)


def _cure(groups: Iterable[Group], sock: socket.socket) -> str:
    """Return the next step: most often the unit says `ListenStream=80`, which is [::]:80, and `listen` 0.0.0.0:80."""
    is_tcp = sock.family != socket.AF_UNIX
    addresses = [group.address for group in groups if is_tcp and group.address.port == sock.getsockname()[1]]
    return f"add it there or change ListenStream={f' to {addresses[0]}' if addresses else ''}"
