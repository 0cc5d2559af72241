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

ONE_AT_ONCE = "128 bytes to 1,000 clients, 1 at once"
TEN_AT_ONCE = "128 bytes to 1,000 clients, 10 at once"
ONE_WORKER = "wsworker"
FOUR_WORKERS = "wsworker, 4 workers"

# how many times as many deliveries as a peer, for each second of server CPU
BROADCAST_RATIOS = {
    (ONE_AT_ONCE, "picows"): 0.95,
    (ONE_AT_ONCE, "websockets"): 1.3,
    (TEN_AT_ONCE, "picows"): 5.0,
    (TEN_AT_ONCE, "websockets"): 5.0,
}

# CPU for a delivery by four workers that share the clients, of what one worker takes for it, at most
MESH_RATIO = 1.2

# from publish() in one worker to the client of another one, 99 of 100 at most, while nothing else happens
HOP_MS = 2.0

# for a publish() of what nobody wants, at most
NOBODY_MICROSECONDS = 2.0

# publishes a second of one worker over Valkey
VALKEY_PUBLISHES = 80_000.0

# memory of the worker for an idle connection, at most
IDLE_KIB = 4.0

# server CPU for a handshake, at most
HANDSHAKE_MICROSECONDS = 80.0

# CPU of old and new workers for a reload with 5,000 idle connections, which all move, at most
HANDOVER_CPU_SECONDS = 1.0

# the longest that a busy client waits for an echo while connections move, 99 of 100 clients at most
HANDOVER_PAUSE_MS = 100.0


def at_least(wanted: float, actual: float) -> str:
    """Return the cell of a table for a figure that must not be smaller."""
    return f">= {wanted:g}: {'reached' if actual >= wanted else 'MISSED'}"


def at_most(wanted: float, actual: float) -> str:
    """Return the cell of a table for a figure that must not be larger."""
    return f"<= {wanted:g}: {'reached' if actual <= wanted else 'MISSED'}"
