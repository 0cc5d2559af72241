"""The child process in which `check` and `restart` import the user's app: user code never runs in a command itself.

The parent runs it with ENTRY and one argument, a JSON object: path (its own sys.path, since a worker inherits that of
the start), app, app_dir, set_at, and identity: whom to become before any user code runs, as a worker does, or null to
stay. It has the fields of an Identity of master/process.py. Without it, whoever can change the app could wait for root
to look at it.

What comes back on standard output is one JSON object: {"callbacks", "file"} or {"error", "trace"}. What user code
prints meanwhile goes to standard error. Threads that the app has started are not waited for, as they may never end.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ENTRY: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1])['path']; from wsworker.cli.importapp import main; main()"
)

FORKED_WITH: Final = ("wsworker.master.main", "wsworker.worker.main")
"""With them comes what a worker has loaded already when it becomes another user."""


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
        json.dump(import_app(asked["app"], asked["app_dir"], asked["set_at"], asked["identity"]), answer)
    try:
        # as at the end of a worker, which does not wait for threads either
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def import_app(app: str, app_dir: str, set_at: str, identity: Mapping[str, Any] | None) -> dict[str, Any]:
    """Become whom workers run as, import an app as one does, and return what `check` shows of it.

    set_at: where `app` is set; identity: as above.
    """
    from wsworker.errors import AppError, PrivilegeError
    from wsworker.worker.app import load

    try:
        if identity is not None:
            become(identity)
        found = load(app, Path(app_dir), time.monotonic, set_at)
    except AppError as error:
        return {"error": error.message, "trace": error.trace}
    except PrivilegeError as error:
        return {"error": str(error), "trace": ""}
    module = sys.modules.get(app.partition(":")[0])
    return {"callbacks": list(found.names), "file": getattr(module, "__file__", None) or "built in"}


def become(identity: Mapping[str, Any]) -> None:
    """Become whom workers run as, for good. Raises PrivilegeError."""
    from wsworker.master.process import Identity, take_identity

    # who comes next may not be able to read the files of the interpreter
    for module in FORKED_WITH:
        importlib.import_module(module)
    take_identity(Identity(**identity))
