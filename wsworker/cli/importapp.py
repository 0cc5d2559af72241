"""The child process in which `check` imports the user's app, so that user code never runs in the command itself.

The parent runs it with ENTRY and one argument, a JSON object: path (its own sys.path, since a worker inherits that of
the start), app, app_dir and set_at. What comes back on standard output is one JSON object: {"callbacks", "file"} or
{"error", "trace"}. What user code prints meanwhile goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

ENTRY: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; from wsworker.cli.importapp import main; main()"
)


def main() -> None:
    """Import the app that the first argument names and write what was found."""
    asked = json.loads(sys.argv[1])
    # Ctrl-C ends this process at once, as it does the command that waits for it; a KeyboardInterrupt is the app's own.
    # It stays ignored where it is, as in the background of a shell without job control.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # what belongs to us gets a descriptor of its own, then standard output becomes standard error
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with answer:
        json.dump(import_app(asked["app"], asked["app_dir"], asked["set_at"]), answer)


def import_app(app: str, app_dir: str, set_at: str) -> dict[str, Any]:
    """Import an app, as a worker does, and return what `check` shows of it. set_at: where `app` is set."""
    from wsworker.errors import AppError
    from wsworker.worker.app import load

    try:
        found = load(app, Path(app_dir), time.monotonic, set_at)
    except AppError as error:
        return {"error": error.message, "trace": error.trace}
    module = sys.modules.get(app.partition(":")[0])
    return {"callbacks": list(found.names), "file": getattr(module, "__file__", None) or "built in"}
