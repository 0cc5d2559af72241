"""What `top` remembers: how many messages a second went through each slot, and through the service, at its last looks.

The rates of the status document are means over some seconds. Here each look counts for itself: the counters of two
documents are compared, over the time between them on the master's own clock. Another master, or one that has gone for
a while, begins a new history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

SAMPLES: Final = 60
BLOCKS: Final = "▁▂▃▄▅▆▇█"


@dataclass
class History:
    """Messages a second, in and out together, the newest last. slots: by the number of the slot; service: all slots."""

    slots: dict[int, deque[float]] = field(default_factory=dict)
    service: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    _pid: int | None = None
    _uptime: float = 0.0
    _counted: dict[int, int] = field(default_factory=dict)

    def add(self, document: Mapping[str, Any]) -> None:
        """Take a look. document: that of `status`; one that is no later than the last one changes nothing."""
        # a slot's counters stand in the row of each of its workers
        counted = {row["slot"]: row["messages_in"] + row["messages_out"] for row in document["workers"]}
        if document["pid"] != self._pid:
            self.forget()
        elif document["uptime"] > self._uptime:
            self._compare(counted, document["uptime"] - self._uptime)
        else:
            return
        self._pid, self._uptime, self._counted = document["pid"], document["uptime"], counted

    def forget(self) -> None:
        """Begin anew."""
        self.slots.clear()
        self.service.clear()
        self._pid = None

    def _compare(self, counted: Mapping[int, int], seconds: float) -> None:
        # a slot that is new had counted nothing; counters never go back, unless the number was used anew
        rates = {slot: max(0, count - self._counted.get(slot, 0)) / seconds for slot, count in counted.items()}
        for slot in [*self.slots]:
            if slot not in rates:
                del self.slots[slot]
        for slot, rate in rates.items():
            self.slots.setdefault(slot, deque(maxlen=SAMPLES)).append(rate)
        self.service.append(sum(rates.values()))

    @property
    def busiest(self) -> float:
        """The highest rate of any slot: the top of the scale that they share."""
        return max((max(rates) for rates in self.slots.values() if rates), default=0.0)


def sparkline(rates: Sequence[float], top: float, width: int) -> str:
    """Return the newest rates as blocks, one character each, at most width of them. top: the rate of a full block."""
    shown = list(rates)[-width:] if width > 0 else []
    if top <= 0:
        return BLOCKS[0] * len(shown)
    highest = len(BLOCKS) - 1
    return "".join(BLOCKS[round(min(1.0, rate / top) * highest)] for rate in shown)
