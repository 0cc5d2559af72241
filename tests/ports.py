"""Ports for what the tests start, which nobody else gets in between.

One that the kernel gives away (bind to 0, or a client's own) may be somebody's again before the server has it that it
was chosen for: about one run of all tests in a hundred would fail by that.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FIRST: Final = 11_000
"""Chromium goes to no port 10080, and calls it unsafe."""
COUNT: Final = 1000
"""So many has a process that runs tests."""


def _own() -> Iterator[int]:
    """Return, for ever, ports that no other process of the tests is given, nor any client or binder of port 0.

    They are below those that the kernel gives away, ip(7). Whose they are is settled by an abstract name, which is
    there as long as this process, unix(7).
    """
    given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for first in range(FIRST, given_away - COUNT + 1, COUNT):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0wsworker-tests-{first}")
        except OSError:
            claim.close()
        else:
            claim.detach()
            return itertools.cycle(range(first, first + COUNT))
    return itertools.repeat(0)


_PORTS: Final = _own()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody has at this moment, nor gets by chance soon."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in itertools.islice(_PORTS, COUNT):
        with socket.socket(family) as probe:
            try:
                probe.bind((host, wanted))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("all ports are taken")
