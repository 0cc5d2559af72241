"""Run as `python -m tests.fuzz`: every target in turn with ever new cases, until the time is over.

What is found is printed with the case, as small as Hypothesis could make it, which belongs into the known cases of its
target. Without a coverage-guided fuzzer behind it, it lives on the grammars: they reach every branch of the parsers.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from typing import Final

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

SECONDS: Final = 120.0
EXAMPLES: Final = 500
"""Cases of one target in a row: enough for Hypothesis to vary what it has, few enough to be fair to the others."""


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="feed the server what no client would send"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long; {SECONDS:g} unless told")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="run only these")
    options = parser.parse_args(arguments)
    chosen = [target for target in TARGETS if not options.targets or target.name in options.targets]
    unknown = {*options.targets} - {target.name for target in chosen}
    if unknown or options.seconds <= 0:
        parser.error(f"targets are {', '.join(repr(target.name) for target in TARGETS)}; seconds are above 0")
    tried = dict.fromkeys((target.name for target in chosen), 0)
    failed: set[str] = set()
    until = time.monotonic() + options.seconds
    while time.monotonic() < until and len(failed) < len(chosen):
        for target in chosen:
            if target.name not in failed and time.monotonic() < until:
                tried[target.name] += fuzz(target, failed)
    for name, count in tried.items():
        print(f"{name:12} {count:8} cases{'  FAILED, see above' if name in failed else ''}")
    return 1 if failed else 0


def fuzz(target: Target, failed: set[str]) -> int:
    """Run a target once; return how many cases were tried. One that fails is named in failed, and has been printed."""
    seed = random.randrange(2**32)
    try:
        return target.run(EXAMPLES, seed)
    except Exception:
        failed.add(target.name)
        print(f"{target.name} FAILED with the seed {seed}:", flush=True)
        traceback.print_exc(file=sys.stdout)
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
