"""Steering: which of a group's listeners the kernel gives a new client to.

All TCP sockets that share an address by SO_REUSEPORT are one group. A classic BPF program, which needs no privilege,
can be attached to any socket of the group and then chooses for all of them: it returns the index of a socket, and an
index that no socket has leaves the choice to the kernel's own hash. Ours draws a random number and compares it with the
running sums of the weights. See SO_ATTACH_REUSEPORT_CBPF in socket(7).

The index is the order in which the sockets began to listen. When one is closed, the kernel puts the last one into its
place (reuseport_detach_sock in net/core/sock_reuseport.c), hence only the last one may be closed.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

Instruction: TypeAlias = tuple[int, int, int, int]

# linux/filter.h and asm-generic/socket.h; Python's socket module has none of them
BPF_LD_W_ABS: Final = 0x20
BPF_ALU_MOD_K: Final = 0x94
BPF_JMP_JGE_K: Final = 0x35
BPF_RET_K: Final = 0x06
SKF_AD_RANDOM: Final = 0xFFFFF000 + 56
NO_SOCKET: Final = 0xFFFFFFFF
SO_ATTACH_REUSEPORT_CBPF: Final = 51
SO_DETACH_REUSEPORT_BPF: Final = 68


def program(weights: Sequence[int]) -> list[Instruction]:
    """Return the BPF program that picks index i of a group with probability weights[i] / sum(weights).

    weights: one per socket, 0 or more. Returns (code, jt, jf, k) each, 2m + 1 instructions for m weights above 0.
    With all weights 0 it names no socket, upon which the kernel spreads by its own hash. Source: linux/filter.h.
    """
    chosen = [(index, weight) for index, weight in enumerate(weights) if weight > 0]
    if not chosen:
        return [(BPF_RET_K, 0, 0, NO_SOCKET)]
    # the kernel does not reduce the result to the size of the group, so the random number is reduced here
    instructions = [(BPF_LD_W_ABS, 0, 0, SKF_AD_RANDOM), (BPF_ALU_MOD_K, 0, 0, sum(weights))]
    below = 0
    for index, weight in chosen[:-1]:
        below += weight
        instructions += [(BPF_JMP_JGE_K, 1, 0, below), (BPF_RET_K, 0, 0, index)]
    return [*instructions, (BPF_RET_K, 0, 0, chosen[-1][0])]


def attach(sock: socket.socket, weights: Sequence[int]) -> bool:
    """Steer the group of a socket by weights, one per index; False if that is impossible and the hash decides."""
    instructions = program(weights)
    code = array.array("B", b"".join(struct.pack("=HBBI", *one) for one in instructions))
    address, _ = code.buffer_info()  # valid as long as `code` lives, which is to the end of this function
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(instructions), address))
    except OSError:
        # a program from before would go on sending clients to slots as they were then
        detach(sock)
        return False
    return True


def detach(sock: socket.socket) -> None:
    """Leave the group of a socket to the kernel's hash; harmless if it is."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
