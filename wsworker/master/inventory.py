"""The inventory: who in the master has which part of the estate, so that it is taken and given in one place."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wsworker import board, stats
from wsworker.configfile import Loaded
from wsworker.master.admin import Admin
from wsworker.master.berths import Berths
from wsworker.master.control import Control
from wsworker.master.crew import Crew
from wsworker.master.estate import Call, Estate, facts_of, settings_of
from wsworker.master.events import Token
from wsworker.master.ports import Ports
from wsworker.master.service import Service
from wsworker.master.signals import SignalCatcher
from wsworker.master.view import View
from wsworker.stats import Table

SHARED: Final = f"{stats.LAYOUT} {board.LAYOUT}"
"""How the memory that the master shares with its workers is laid out."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that outlives the program of the master. loaded, call: what it was started with."""

    loaded: Loaded
    call: Call
    service: Service
    view: View
    table: Table
    ports: Ports
    berths: Berths
    admin: Admin
    control: Control
    crew: Crew
    catcher: SignalCatcher
    folder: Path

    def bequeath(self, reply: Token | None, lock: int) -> Estate:
        """Return all that another program in this process needs.

        reply: of who waits for the outcome; lock: the descriptor of the lock. Raises OSError if a worker is in the way.
        """
        ports, unweighed = self.ports.bequeath()
        return Estate(
            version=self.view.service.version,
            call=self.call,
            settings=settings_of(self.service.config, self.loaded.origins),
            facts=facts_of(self.service),
            table=self.table.memory.lasting(),
            layout=SHARED,
            ports=ports,
            unweighed=unweighed,
            lock=lock,
            commanding=self.control.bequeath(),
            reply=reply,
            meeting=self.berths.bequeath(),
            living=self.crew.bequeath(),
            began_at=self.view.service.began_at,
            folder=str(self.folder),
            terminal=self.catcher.terminal,
            log_dropped=self.view.log_dropped(),
            showing=self.admin.bequeath(),
        )

    def inherit(self, left: Estate) -> None:
        """Take over what a former program of this process has left, but for what each part was made with."""
        os.set_inheritable(left.table, False)
        self.ports.inherit(left.ports, left.unweighed)
        self.berths.inherit(left.meeting)
        self.admin.inherit(left.showing)
        self.crew.inherit(left.living)
        self.control.inherit(left.commanding)
        self.catcher.terminal = left.terminal
        signal.pthread_sigmask(signal.SIG_SETMASK, left.mask)
