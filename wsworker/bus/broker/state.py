"""State: whether a broker can be reached, as the worker is told of it.

A change is told once. That messages may be missing is told too, when the broker can be reached: whoever hears of it
asks how things stand, and may publish what comes of that.

A broker may be out of reach in part, and for very long: one server of a cluster, or the line that publishes. What was
missed by the other part is over then, and its clients are not to wait for the rest. So a gap that is over for whom it
concerns is told when the broker can be reached as a whole, or when its patience ends, whatever comes first.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from wsworker.bus.bus import Sink


class State:
    """What one adapter knows of its broker. shown: what the broker is called.

    up: None until the first attempt is over; reconnects: how often it was up again.
    """

    def __init__(self, shown: str) -> None:
        self._shown: Final = shown
        self._sink: Sink | None = None
        self._why = "no answer came in time"
        self._judged = asyncio.Event()
        self._was_up = False
        self._misses = False
        self._patience: asyncio.TimerHandle | None = None
        self.up: bool | None = None
        self.reconnects = 0

    def begin(self, sink: Sink) -> None:
        """Tell the sink from now on."""
        self._sink = sink

    def end(self) -> None:
        """Tell nobody any more; nothing is reached from now on."""
        self._sink = None
        self.up = False
        self._calm()

    async def linked(self, seconds: float) -> str:
        """Wait, so long at most, until the first attempt is over; return a clause if the broker cannot be reached."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._judged.wait()
        return "" if self.up else f"{self._shown} does not answer ({self._why})"

    def rise(self) -> None:
        """Know that it can be reached."""
        if self.up:
            return
        self.reconnects += self._was_up
        self.up = self._was_up = True
        self._judged.set()
        if self._sink is not None:
            self._sink.on_state(True, "")
        if self._misses:
            self._tell()

    def fall(self, why: str) -> None:
        """Know that it cannot. why: a clause."""
        self._why = why
        if self.up is False:
            return
        self.up = False
        self._judged.set()
        if self._sink is not None:
            self._sink.on_state(False, why)

    def miss(self, patience: float | None = None) -> None:
        """Know that messages for this worker may be missing.

        patience: for a gap that is over, the seconds after which it is told though the broker cannot be reached as a
        whole; None for one that lasts as long as the broker cannot.
        """
        if self._sink is None:
            return
        self._misses = True
        if self.up:
            self._tell()
        elif patience is not None and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(patience, self._tell)

    def _tell(self) -> None:
        self._calm()
        if self._sink is not None:
            self._misses = False
            self._sink.on_gap(None, None)

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
