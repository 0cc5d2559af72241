"""`python -m tests.reference` names the references that are stale, and --write writes them."""

from __future__ import annotations

import sys

from tests.reference.documents import DOCS, DOCUMENTS, stale


def main() -> int:
    """Be the program; returns 1 if something is stale and was not written."""
    found = stale()
    for name in found:
        if "--write" in sys.argv[1:]:
            (DOCS / name).write_text(DOCUMENTS[name](), encoding="utf-8")
        print(f"docs/{name} {'written' if '--write' in sys.argv[1:] else 'is stale'}")
    return 1 if found and "--write" not in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
