"""Ports: all listeners of the service as the master's loop sees them, one group per address, one socket per slot.

A slot is bound, opened and closed on all addresses together. What listens is also given to systemd to keep, so that
neither a restart nor a crash of the master refuses a client. Nothing is decided here: the supervisor says which slot
opens or closes, and what each one weighs.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from wsworker.errors import BindError
from wsworker.listeners import Group
from wsworker.master import events
from wsworker.master.estate import Listening
from wsworker.master.events import Event
from wsworker.master.inherited import store_name, take_over
from wsworker.master.systemd import Notifier

Steering: TypeAlias = Literal["weights", "hash", "shared"]

logger = logging.getLogger("wsworker.master")


class Ports:
    """The listeners of all addresses, in the order of `listen`. notifier: where they are kept over a restart."""

    def __init__(self, groups: Sequence[Group], notifier: Notifier) -> None:
        self._groups = groups
        self._notifier = notifier
        self._unweighed = False

    def take_over(self, descriptors: Iterable[tuple[str, int]]) -> int:
        """Use what systemd has kept or opened; return how many slots there are to be at least.

        Raises ActivationError for a socket that the configuration has no use for.
        """
        taken = take_over(self._groups, descriptors)
        for name in taken.unstore:
            self._notifier.unstore(name)
        for name, descriptor in taken.store:
            self._notifier.store(name, descriptor)
        for stranger in taken.strangers:
            logger.warning("the listener that systemd kept for %s is of no use any more and is closed", stranger)
        if taken.stored_slots:
            logger.info("listeners of %d slots taken over from systemd", taken.stored_slots)
        return taken.stored_slots

    def bequeath(self) -> tuple[list[Listening], bool]:
        """Return the listeners of each address, and whether it was logged that they cannot be steered."""
        return [group.bequeath() for group in self._groups], self._unweighed

    def inherit(self, left: Sequence[Listening], unweighed: bool) -> None:
        """Take over what a former program of this process has left, instead of take_over and bind."""
        for group, listening in zip(self._groups, left, strict=True):
            group.inherit(listening)
        self._unweighed = unweighed

    def bind(self, slots: int) -> None:
        """Make the listeners of the first slots, which do not listen yet; raises BindError."""
        for group in self._groups:
            group.probe()
            for slot in range(1, slots + 1):
                group.bind(slot)

    def add(self, action: events.AddSlot) -> Event:
        """Make the listeners of one slot more."""
        try:
            for group in self._groups:
                group.bind(action.slot)
        except BindError as error:
            for group in self._groups:
                group.close_slot(action.slot)
            return events.SlotFailed(action.slot, str(error))
        return events.SlotAdded(action.slot)

    def open(self, action: events.OpenSlot) -> Event:
        """Let a slot's listeners listen, and have them kept."""
        try:
            for group in self._groups:
                group.listen(action.slot)
        except BindError as error:
            return events.SlotFailed(action.slot, str(error))
        for number, group in enumerate(self._groups, 1):
            if not group.shared:
                self._notifier.store(store_name(number, action.slot), group.socket(action.slot).fileno())
        return events.SlotOpened(action.slot)

    def close_slot(self, action: events.CloseSlot) -> None:
        """Close the last slot's listeners for good."""
        for number, group in enumerate(self._groups, 1):
            if not group.shared:
                self._notifier.unstore(store_name(number, action.slot))
            group.close_slot(action.slot)

    def weigh(self, action: events.Weigh) -> None:
        """Steer new clients; where that is impossible it is logged once, and the kernel's hash decides."""
        for group in self._groups:
            if not group.weigh(action.weights) and not group.shared and not self._unweighed:
                self._unweighed = True
                logger.warning("cannot steer new connections on %s; the kernel's hash decides", group.address)

    @property
    def steering(self) -> Steering:
        """Who picks the slot of a new client."""
        if all(group.shared for group in self._groups):
            return "shared"
        return "hash" if self._unweighed else "weights"

    def sockets(self, slot: int) -> list[socket.socket]:
        """Return the listeners that the slot's worker accepts from."""
        return [group.socket(slot) for group in self._groups]

    def lendable(self, slot: int) -> list[socket.socket]:
        """Return those that are the slot's own, so that nobody else accepts from them unless they are lent."""
        return [group.socket(slot) for group in self._groups if not group.shared]

    def queue(self, slot: int) -> int | None:
        """Return how many clients wait at the slot's own listeners; None where that is not known."""
        lengths = [length for group in self._groups if (length := group.queue(slot)) is not None]
        return sum(lengths) if lengths else None

    def keep(self, slot: int) -> None:
        """Close, in a forked worker, every listener but the slot's."""
        for group in self._groups:
            group.keep(slot)

    def close(self) -> None:
        """Close all; harmless when repeated."""
        for group in self._groups:
            group.close()
