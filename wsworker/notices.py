"""Notices: lines of which strangers decide how often they are due, of each kind at most one a minute.

Who may connect decides how often something is refused, broken, not found or short, and so could fill the log. The first
line of a kind is worth reading, and how many followed it; the others are there for whoever asks for `log.level: debug`.
What is wanted for every single client is the access log's to tell, see worker/access.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

LOG_SECONDS: Final = 60.0


class Notices:
    """The notices of one worker. log: where they go; clock: seconds, monotonic."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}  # when the last line of a kind came, and how many since

    def tell(
        self,
        kind: str,
        text: str,
        *facts: object,
        level: int = logging.INFO,
        connection: str | None = None,
        exc_info: bool = False,
    ) -> None:
        """Log a line, or count it and log it for debugging only.

        kind: one of few, never made of what a client sends. text: as logging takes it, with its facts. connection: the
        id of the one that it is about, if it has one. exc_info: with the traceback of what was just raised.
        """
        now = self._clock()
        said_at, left_out = self._told.get(kind, (-math.inf, 0))
        if now - said_at < LOG_SECONDS:
            self._told[kind] = (said_at, left_out + 1)
            level = logging.DEBUG
        else:
            self._told[kind] = (now, 0)
            text += f" (and {left_out} more like it since the last such line)" if left_out else ""
        self._log.log(level, text, *facts, exc_info=exc_info, extra={"connection": connection})
