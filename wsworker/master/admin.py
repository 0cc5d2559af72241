"""The master's part of the admin endpoints: one listening socket, and the notice on the board.

The socket is a single one that all workers inherit, not one for each slot: whichever worker is free answers for all of
them, so a hung one keeps nobody waiting. It is opened before the first fork, hence before privileges are dropped, and
listens from then on; who comes before a worker runs waits in its queue.

The notice is the document of `status`, and beside it what only metrics show: restarts and reloads by their kinds, and
the CPU time of each slot. That is the sum over its workers, past and present, so it never goes back; what a worker has
used since it was last sampled is lost when it dies.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from wsworker.assignment import Desk
from wsworker.board import Board
from wsworker.listeners import Group
from wsworker.master.estate import Showing
from wsworker.master.view import Sample
from wsworker.stats import Table
from wsworker.values import ListenAddress

BACKLOG: Final = 128
POST_SECONDS: Final = 1.0

_SLOT: Final = 1  # of a group that has but one socket


class CpuTime:
    """CPU time of each slot since the start of the service.

    used: of each slot so far; last: of each worker that lives, as it was sampled last.

    Counted in whole microseconds: sums of floats are rounded, now and then downwards, and Prometheus takes a counter
    that goes back by a trillionth for one that began anew.
    """

    def __init__(self, used: Mapping[int, int] | None = None, last: Mapping[int, int] | None = None) -> None:
        self.used = dict(used or {})
        self.last = dict(last or {})

    @property
    def seconds(self) -> dict[int, float]:
        """The seconds of each slot."""
        return {slot: used / 1_000_000 for slot, used in self.used.items()}

    def add(self, slots: Mapping[int, int], samples: Mapping[int, Sample]) -> None:
        """Take the newest samples. slots: worker id to slot, of the living; samples: by worker id."""
        before, self.last = self.last, {}
        for worker, slot in slots.items():
            last = before.get(worker, 0)
            newest = round(samples[worker].seconds * 1_000_000) if worker in samples else last
            self.last[worker] = max(last, newest)
            self.used[slot] = self.used.get(slot, 0) + self.last[worker] - last


def notice(
    document: Mapping[str, Any], status: Mapping[str, Any], cpu: CpuTime, started: float, log_dropped: int
) -> bytes:
    """Return the text of the notice, JSON in ASCII.

    document: of `status`; status: Supervisor.status; started: seconds since the epoch; log_dropped: log lines that the
    master lost.
    """
    facts = {
        "status": document,
        "restart_reasons": status["restart_reasons"],
        "reload_results": status["reload_results"],
        "started": started,
        "slots": status["slots_ever"],
        "cpu_seconds": cpu.seconds,
        "log_dropped": log_dropped,
    }
    return json.dumps(facts).encode("ascii")


class Admin:
    """The socket and the board; nothing of both where admin.listen is null.

    address: of admin.listen; place: where it was set. The master calls open, then post in every turn of its loop; a
    forked child calls keep. Errors are BindErrors.
    """

    def __init__(self, address: ListenAddress | None, place: str, table: Table) -> None:
        self._group = Group(address, BACKLOG, place, "admin.listen") if address else None
        self._board = Board() if address else None
        self._table = table
        self._cpu = CpuTime()
        self._started = time.time()
        self._post_at = 0.0

    def open(self) -> None:
        """Listen from now on; raises BindError."""
        if self._group:
            self._group.probe()
            self._group.bind(_SLOT)
            self._group.listen(_SLOT)

    def bequeath(self) -> Showing | None:
        """Return all of it, for the program that goes on in this process; None where there is none."""
        if self._group is None or self._board is None:
            return None
        return Showing(
            self._group.bequeath(), self._board.memory.lasting(), self._cpu.used, self._cpu.last, self._started
        )

    def inherit(self, left: Showing | None) -> None:
        """Take over what a former program of this process has left, instead of open."""
        if left and self._group:
            os.set_inheritable(left.board, False)
            self._group.inherit(left.listening)
            self._board, self._cpu, self._started = Board(left.board), CpuTime(left.used, left.last), left.started

    @property
    def url(self) -> str:
        """The address as operators would write it, "" if there is none."""
        return self._group.address.url.replace("ws", "http", 1) if self._group else ""

    @property
    def desk(self) -> Desk | None:
        """What a worker gets of it."""
        if self._group is None or self._board is None:
            return None
        return Desk(self._group.socket(_SLOT), self._board, self._table)

    def outdate(self) -> None:
        """Something has changed: post in this turn."""
        self._post_at = 0.0

    def post(
        self,
        now: float,
        look: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]],
        samples: Mapping[int, Sample],
        log_dropped: int,
    ) -> None:
        """Renew the notice if that is due. now: CLOCK_MONOTONIC; look: gives the document, and Supervisor.status."""
        if self._board is None or now < self._post_at:
            return
        self._post_at = now + POST_SECONDS
        document, status = look()
        self._cpu.add({row["id"]: row["slot"] for row in status["workers"] if row["id"]}, samples)
        self._board.post(notice(document, status, self._cpu, self._started, log_dropped), int(now * 1e9))

    def keep(self) -> None:
        """Leave the file of a unix socket to the master, in a forked child."""
        if self._group:
            self._group.keep(_SLOT)
        if self._board:
            self._board.memory.let_go()

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        if self._group:
            self._group.close()
