"""Weight: how much memory hangs on an object, to see that no client can make it grow.

Everything that can be reached counts, save what belongs to the program: classes, functions, modules. To measure the
whole process with tracemalloc was rejected: it makes everything several times slower, and it sees Hypothesis as well.
"""

from __future__ import annotations

import enum
import gc
import sys
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType, TracebackType
from typing import Any, Final

_PROGRAM: Final = (
    type,
    enum.Enum,
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
    TracebackType,
)


def weight(root: object) -> int:
    """Return the bytes of root and of everything that it reaches."""
    total = 0
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _PROGRAM):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        if type(item).__name__ == "Decompress":
            # zlib's does not take part in garbage collection, so its two buffers are asked for by name
            total += len(item.unused_data) + len(item.unconsumed_tail)
        waiting += gc.get_referents(item)
    return total
