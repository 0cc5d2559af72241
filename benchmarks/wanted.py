"""What wsworker has to reach, in one place; the programs beside this file print whether it does."""

from __future__ import annotations

ONE_IN_FLIGHT = "32 bytes, 64 connections, 1 in flight"
SIXTEEN_IN_FLIGHT = "32 bytes, 64 connections, 16 in flight"
LARGE = "64 KiB, 64 connections, 1 in flight"

# how many times as many echoes as a peer, for each second of server CPU
RATIOS = {
    (ONE_IN_FLIGHT, "uvicorn"): 2.0,
    (ONE_IN_FLIGHT, "websockets"): 2.5,
    (ONE_IN_FLIGHT, "granian"): 2.0,
    (ONE_IN_FLIGHT, "picows"): 0.95,
    (SIXTEEN_IN_FLIGHT, "uvicorn"): 8.0,
    (SIXTEEN_IN_FLIGHT, "picows"): 5.0,
    (LARGE, "uvicorn"): 1.3,
}

# memory of the worker for an idle connection, at most
IDLE_KIB = 4.0

# server CPU for a handshake, at most
HANDSHAKE_MICROSECONDS = 80.0


def at_least(wanted: float, actual: float) -> str:
    """Return the cell of a table for a figure that must not be smaller."""
    return f">= {wanted:g}: {'reached' if actual >= wanted else 'MISSED'}"


def at_most(wanted: float, actual: float) -> str:
    """Return the cell of a table for a figure that must not be larger."""
    return f"<= {wanted:g}: {'reached' if actual <= wanted else 'MISSED'}"
