"""The import rule: a file imports files of a smaller layer, and files of its own layer that stand above it.

The order is written down here, so a new file has to be placed on purpose. The files are read with ast and none of them
is imported. An import counts wherever it stands, also inside a function or under TYPE_CHECKING.

    0  what everything may use         3  the master: decides and forks, never imports user code
    1  rules without input or output   4  the worker: one event loop, the user's module
    2  what both kinds of process use  5  the command line and the package's own face

A ★ marks a pure file: bytes or events in, bytes or decisions out; no descriptor, no clock, nothing to wait for.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "wsworker"


class Place(NamedTuple):
    """Where a file stands. star: "★" for a pure file."""

    layer: int
    star: str
    file: str


ORDER = [
    Place(0, "★", "errors.py"),
    Place(0, "★", "visible.py"),
    Place(0, "★", "brokers.py"),
    Place(0, "★", "values.py"),
    Place(0, "★", "kinds.py"),
    Place(0, "★", "sections.py"),
    Place(0, "★", "config.py"),
    Place(0, "★", "judging.py"),
    Place(0, "★", "cautions.py"),
    Place(0, " ", "yamlfile.py"),
    Place(0, "★", "writing.py"),
    Place(0, "★", "schema.py"),
    Place(0, "★", "spelling.py"),
    Place(0, " ", "source.py"),
    Place(0, " ", "surroundings.py"),
    Place(0, " ", "configfile.py"),
    Place(0, "★", "query.py"),
    Place(0, "★", "wire.py"),
    Place(0, "★", "counters.py"),
    Place(1, "★", "protocol/frames.py"),
    Place(1, "★", "protocol/events.py"),
    Place(1, "★", "protocol/fragments.py"),
    Place(1, "★", "protocol/request.py"),
    Place(1, "★", "protocol/rates.py"),
    Place(1, "★", "protocol/forwarded.py"),
    Place(1, "★", "protocol/proxy.py"),
    Place(1, "★", "protocol/plain.py"),
    Place(1, "★", "protocol/admission.py"),
    Place(1, "★", "protocol/handshake.py"),
    Place(1, "★", "protocol/frozen.py"),
    Place(1, "★", "protocol/greeting.py"),
    Place(1, "★", "protocol/session.py"),
    Place(1, "★", "bus/topics.py"),
    Place(1, "★", "bus/losses.py"),
    Place(1, "★", "bus/ledger.py"),
    Place(1, "★", "bus/records.py"),
    Place(1, "★", "bus/mesh/members.py"),
    Place(1, "★", "bus/mesh/outbox.py"),
    Place(1, "★", "bus/broker/channels.py"),
    Place(1, "★", "bus/broker/payload.py"),
    Place(1, "★", "bus/broker/early.py"),
    Place(1, "★", "bus/broker/pipeline.py"),
    Place(1, "★", "bus/redis/slots.py"),
    Place(1, "★", "bus/redis/subscriptions.py"),
    Place(1, "★", "bus/nats/wire.py"),
    Place(1, "★", "bus/nats/refusals.py"),
    Place(1, "★", "handover/jsonable.py"),
    Place(1, "★", "handover/packets.py"),
    Place(1, "★", "handover/wishes.py"),
    Place(2, " ", "forked.py"),
    Place(2, " ", "signalstack.py"),
    Place(2, " ", "notices.py"),
    Place(2, " ", "bus/bus.py"),
    Place(2, " ", "bus/gaps.py"),
    Place(2, " ", "bus/exchange.py"),
    Place(2, " ", "bus/mesh/link.py"),
    Place(2, " ", "bus/mesh/berth.py"),
    Place(2, " ", "bus/mesh/outside.py"),
    Place(2, " ", "bus/mesh/gate.py"),
    Place(2, " ", "bus/mesh/peers.py"),
    Place(2, " ", "bus/mesh/barrier.py"),
    Place(2, " ", "bus/mesh/ties.py"),
    Place(2, " ", "bus/mesh/adapter.py"),
    Place(2, " ", "bus/broker/state.py"),
    Place(2, " ", "bus/broker/reception.py"),
    Place(2, " ", "bus/broker/ending.py"),
    Place(2, " ", "bus/broker/reasons.py"),
    Place(2, " ", "bus/broker/aside.py"),
    Place(2, " ", "bus/broker/lookup.py"),
    Place(2, " ", "bus/broker/certificates.py"),
    Place(2, " ", "bus/nats/link.py"),
    Place(2, " ", "bus/nats/dialler.py"),
    Place(2, " ", "bus/nats/adapter.py"),
    Place(2, " ", "bus/redis/wire.py"),
    Place(2, " ", "bus/redis/dialler.py"),
    Place(2, " ", "bus/redis/line.py"),
    Place(2, " ", "bus/redis/publisher.py"),
    Place(2, " ", "bus/redis/subscriber.py"),
    Place(2, " ", "bus/redis/shards.py"),
    Place(2, " ", "bus/redis/interest.py"),
    Place(2, " ", "bus/redis/adapter.py"),
    Place(2, " ", "bus/choice.py"),
    Place(2, " ", "outlet.py"),
    Place(2, " ", "sink.py"),
    Place(2, " ", "speaker.py"),
    Place(2, " ", "lines.py"),
    Place(2, " ", "capture.py"),
    Place(2, " ", "log.py"),
    Place(2, " ", "memory.py"),
    Place(2, " ", "stats.py"),
    Place(2, " ", "board.py"),
    Place(2, " ", "assignment.py"),
    Place(2, " ", "steering.py"),
    Place(2, " ", "occupant.py"),
    Place(2, " ", "listeners.py"),
    Place(2, " ", "tls.py"),
    Place(1, "★", "master/events.py"),
    Place(1, "★", "master/restarts.py"),
    Place(1, "★", "master/balance.py"),
    Place(1, "★", "master/recycling.py"),
    Place(1, "★", "master/roster.py"),
    Place(1, "★", "master/moves.py"),
    Place(1, "★", "master/rows.py"),
    Place(1, "★", "master/roll.py"),
    Place(1, "★", "master/census.py"),
    Place(1, "★", "master/service.py"),
    Place(1, "★", "master/estate.py"),
    Place(1, "★", "master/stopping.py"),
    Place(1, "★", "master/reload.py"),
    Place(1, "★", "master/deaths.py"),
    Place(1, "★", "master/health.py"),
    Place(1, "★", "master/boot.py"),
    Place(1, "★", "master/scaling.py"),
    Place(1, "★", "master/lending.py"),
    Place(1, "★", "master/inquiry.py"),
    Place(1, "★", "master/rebalance.py"),
    Place(1, "★", "master/handover.py"),
    Place(1, "★", "master/upgrade.py"),
    Place(1, "★", "master/supervisor.py"),
    Place(1, "★", "master/following.py"),
    Place(1, "★", "master/stacks.py"),
    Place(3, " ", "master/cgroup.py"),
    Place(3, " ", "master/process.py"),
    Place(3, " ", "master/preconditions.py"),
    Place(3, " ", "master/detach.py"),
    Place(3, " ", "master/signals.py"),
    Place(3, " ", "master/rundir.py"),
    Place(3, " ", "master/berths.py"),
    Place(3, " ", "master/pidfile.py"),
    Place(3, " ", "master/control.py"),
    Place(3, " ", "master/presence.py"),
    Place(3, " ", "master/systemd.py"),
    Place(3, " ", "master/inherited.py"),
    Place(3, " ", "master/ports.py"),
    Place(3, " ", "master/words.py"),
    Place(3, " ", "master/orders.py"),
    Place(3, " ", "master/crew.py"),
    Place(3, " ", "master/view.py"),
    Place(3, " ", "master/admin.py"),
    Place(3, " ", "master/inventory.py"),
    Place(3, " ", "master/invocation.py"),
    Place(3, " ", "master/succession.py"),
    Place(3, " ", "master/main.py"),
    Place(4, " ", "worker/copies.py"),
    Place(4, " ", "worker/app.py"),
    Place(4, " ", "worker/stalls.py"),
    Place(4, " ", "worker/delivery.py"),
    Place(4, " ", "worker/cork.py"),
    Place(4, " ", "worker/gone.py"),
    Place(4, " ", "worker/parting.py"),
    Place(4, " ", "worker/limbo.py"),
    Place(4, " ", "worker/pair.py"),
    Place(4, "★", "worker/pulse.py"),
    Place(4, "★", "worker/wheel.py"),
    Place(4, "★", "worker/watch.py"),
    Place(4, "★", "worker/quota.py"),
    Place(4, "★", "handover/state.py"),
    Place(4, "★", "worker/users.py"),
    Place(4, "★", "worker/visitors.py"),
    Place(4, " ", "worker/arrival.py"),
    Place(4, " ", "worker/site.py"),
    Place(4, " ", "worker/access.py"),
    Place(4, " ", "worker/home.py"),
    Place(4, " ", "worker/door.py"),
    Place(4, " ", "worker/intake.py"),
    Place(4, " ", "worker/link.py"),
    Place(4, " ", "worker/entry.py"),
    Place(4, " ", "worker/vigil.py"),
    Place(4, " ", "worker/connection.py"),
    Place(4, " ", "worker/timers.py"),
    Place(4, " ", "worker/post.py"),
    Place(4, " ", "worker/hub.py"),
    Place(4, " ", "worker/reserve.py"),
    Place(4, " ", "worker/waiting.py"),
    Place(4, " ", "worker/entrance.py"),
    Place(4, " ", "worker/accept.py"),
    Place(4, " ", "worker/drain.py"),
    Place(4, " ", "worker/channel.py"),
    Place(4, " ", "worker/listing.py"),
    Place(4, " ", "worker/hooks.py"),
    Place(4, " ", "worker/freezing.py"),
    Place(4, " ", "worker/lane.py"),
    Place(4, " ", "worker/giving.py"),
    Place(4, " ", "worker/taking.py"),
    Place(4, " ", "worker/leaving.py"),
    Place(4, " ", "worker/loops.py"),
    Place(4, "★", "worker/routes.py"),
    Place(4, " ", "worker/metrics.py"),
    Place(4, " ", "worker/admin.py"),
    Place(4, "★", "worker/sources.py"),
    Place(4, " ", "worker/watcher.py"),
    Place(4, " ", "worker/heartbeat.py"),
    Place(4, " ", "worker/boot.py"),
    Place(4, " ", "worker/main.py"),
    Place(5, " ", "fakes.py"),
    Place(5, " ", "rig.py"),
    Place(5, " ", "testing.py"),
    Place(5, " ", "cli/streams.py"),
    Place(5, " ", "cli/version.py"),
    Place(5, " ", "cli/failures.py"),
    Place(5, " ", "cli/text.py"),
    Place(5, " ", "cli/options.py"),
    Place(5, " ", "cli/draw.py"),
    Place(5, " ", "cli/bar.py"),
    Place(5, " ", "cli/ask.py"),
    Place(5, " ", "remote/stream.py"),
    Place(5, " ", "remote/link.py"),
    Place(5, " ", "remote/redis.py"),
    Place(5, " ", "remote/nats.py"),
    Place(5, " ", "remote/road.py"),
    Place(5, " ", "client.py"),
    Place(5, " ", "cli/managed.py"),
    Place(5, " ", "cli/importapp.py"),
    Place(5, " ", "cli/rights.py"),
    Place(5, " ", "cli/reach.py"),
    Place(5, " ", "cli/findings.py"),
    Place(5, " ", "cli/check.py"),
    Place(5, " ", "cli/schema.py"),
    Place(5, " ", "cli/init.py"),
    Place(5, " ", "cli/unit.py"),
    Place(5, " ", "cli/start.py"),
    Place(5, " ", "cli/stop.py"),
    Place(5, " ", "cli/restart.py"),
    Place(5, " ", "cli/reload.py"),
    Place(5, " ", "cli/upgrade.py"),
    Place(5, " ", "cli/takeover.py"),
    Place(5, " ", "cli/connections.py"),
    Place(5, "★", "cli/history.py"),
    Place(5, " ", "cli/status.py"),
    Place(5, " ", "cli/top.py"),
    Place(5, " ", "cli/rebalance.py"),
    Place(5, " ", "cli/reopen.py"),
    Place(5, " ", "cli/publish.py"),
    Place(5, " ", "cli/main.py"),
    Place(5, " ", "__main__.py"),
    Place(5, " ", "__init__.py"),
]

# What a pure file must do without.
IMPURE = frozenset(
    ["asyncio", "logging", "mmap", "os", "random", "selectors", "signal", "socket", "subprocess", "threading", "time"]
)

# Where a package from outside may be imported: files, or folders with a slash at the end.
HOMES = {
    "_typeshed": ("capture.py",),  # types alone: nothing of that name can be imported at run time
    "click": ("cli/",),
    "prometheus_client": ("worker/metrics.py",),
    "psutil": ("occupant.py", "master/", "cli/"),
    "pydantic": ("kinds.py", "sections.py", "config.py", "judging.py", "master/estate.py"),
    "pydantic_core": ("kinds.py", "judging.py"),
    "pytest": ("testing.py",),
    "redis": ("bus/redis/wire.py", "bus/redis/dialler.py"),
    "rich": ("cli/",),
    "setproctitle": ("master/main.py", "master/crew.py", "worker/main.py"),
    "uvloop": ("worker/loops.py",),
    "websockets": ("protocol/", "rig.py"),
    "yaml": ("configfile.py", "yamlfile.py"),
}

# The modules of websockets that neither read nor write a socket.
SANS_IO = frozenset(
    [
        "websockets.datastructures",
        "websockets.exceptions",
        "websockets.extensions",
        "websockets.extensions.permessage_deflate",
        "websockets.frames",
        "websockets.headers",
        "websockets.http11",
        "websockets.protocol",
        "websockets.server",
        "websockets.speedups",
        "websockets.streams",
        "websockets.typing",
        "websockets.utils",
    ]
)


class Import(NamedTuple):
    """One import: module is its dotted name, name what a `from` takes out of it, or ""."""

    line: int
    module: str
    name: str


def imports(root: Path, file: str) -> Iterator[Import]:
    """Yield every import of a file, relative ones spelt out."""
    for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = [root.name, *Path(file).parts[: -node.level]]
                module = ".".join([*package, module]).rstrip(".")
            if module == "websockets":
                # its modules are taken out of the package, like http11; so are its lazy names, like serve
                yield from (Import(node.lineno, f"websockets.{alias.name}", "") for alias in node.names)
            else:
                yield from (Import(node.lineno, module, alias.name) for alias in node.names)


def target(root: Path, found: Import) -> str:
    """Return the file, relative to root, that an import of our own package loads."""
    folders = found.module.split(".")[1:]
    # what a `from` takes out may be a module of the folder, or something inside the module
    for path in (Path(*folders, f"{found.name}.py"), Path(*folders).with_suffix(".py") if folders else Path()):
        if (root / path).is_file():
            return path.as_posix()
    return Path(*folders, "__init__.py").as_posix()


def holds_only_a_docstring(path: Path) -> bool:
    """Say whether a file does nothing."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def violations(root: Path, order: Sequence[Place]) -> list[str]:
    """Return one sentence for each place where a package breaks the rules; root is the folder of the package."""
    places = {place.file: (position, place) for position, place in enumerate(order)}
    found = [f"{place.file} stands twice in the order" for n, place in enumerate(order) if places[place.file][0] != n]
    in_tree = {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    found += [f"{file} stands in the order but not in the tree" for file in places if file not in in_tree]
    for file in sorted(in_tree):
        if file in places:
            found += [sentence for one in imports(root, file) for sentence in judge(root, places, file, one)]
        elif not (file.endswith("/__init__.py") and holds_only_a_docstring(root / file)):
            found.append(f"{file} stands in the tree but not in the order")
    # an import of three names is one mistake
    return list(dict.fromkeys(found))


def judge(root: Path, places: dict[str, tuple[int, Place]], file: str, one: Import) -> list[str]:
    """Return what is wrong with one import of a file that has a place."""
    position, place = places[file]
    importer = f"{file}:{one.line} ({place.layer})"
    top = one.module.split(".")[0]
    if top == root.name:
        imported = target(root, one)
        if imported not in places:
            return [f"{importer} imports {imported}, which has no place"]
        above, other = places[imported]
        folders = {file.split("/")[0], imported.split("/")[0]}
        allowed = other.layer < place.layer or (other.layer == place.layer and above < position)
        if not allowed or folders == {"master", "worker"}:
            return [f"{importer} imports {imported} ({other.layer})"]
    elif top in sys.stdlib_module_names:
        if place.star == "★" and top in IMPURE:
            return [f"{importer} is pure and imports {top}"]
    elif not any(file == home or (home.endswith("/") and file.startswith(home)) for home in HOMES.get(top, ())):
        return [f"{importer} imports {top}, whose home is {' '.join(HOMES.get(top, ())) or 'nowhere'}"]
    elif top == "websockets" and one.module not in SANS_IO and file != "rig.py":
        # a client for tests is the one thing of websockets that may have a socket
        return [f"{importer} imports {one.module}, which is not one of the Sans-I/O modules of websockets"]
    return []


def test_the_package_obeys() -> None:
    """Every file of wsworker has a place, and imports only what its place allows."""
    found = violations(PACKAGE, ORDER)
    assert not found, "\n".join(found)


def test_every_home_is_lived_in() -> None:
    """A home of a package from outside that imports it no longer is deleted, together with the dependency."""
    used = {one.module.split(".")[0] for path in PACKAGE.rglob("*.py") for one in imports(PACKAGE, path_in(path))}
    assert set(HOMES) - used == set()


def path_in(path: Path) -> str:
    """Return a path below the package as it stands in the order."""
    return path.relative_to(PACKAGE).as_posix()


# ---- the checker itself, on small trees

SMALL = [
    Place(0, "★", "errors.py"),
    Place(0, " ", "config.py"),
    Place(1, "★", "protocol/frames.py"),
    Place(1, "★", "protocol/greeting.py"),
    Place(1, "★", "protocol/session.py"),
    Place(1, "★", "master/events.py"),
    Place(3, " ", "master/main.py"),
    Place(4, " ", "worker/hub.py"),
    Place(4, " ", "worker/loops.py"),
    Place(4, " ", "worker/main.py"),
    Place(5, " ", "__init__.py"),
]


def check(tmp_path: Path, code: dict[str, str], order: Sequence[Place] = SMALL) -> list[str]:
    """Return the violations of a small package; code: file to what it holds, the other files are empty."""
    root = tmp_path / "wsworker"
    folders = {f"{folder}/__init__.py": '"""A folder."""' for folder in ("protocol", "master", "worker")}
    for file, text in ({place.file: "" for place in SMALL} | folders | code).items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text, encoding="utf-8")
    return violations(root, order)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("worker/hub.py", "from wsworker import errors"),
        ("worker/hub.py", "import wsworker.errors"),
        ("worker/hub.py", "from ..protocol.session import Session"),
        ("worker/main.py", "from wsworker.worker.hub import Worker"),
        ("worker/main.py", "from . import hub"),
        ("worker/main.py", "import os, asyncio"),
        ("worker/loops.py", "def new_loop():\n    import uvloop"),
        ("protocol/session.py", "from websockets.protocol import State"),
        ("protocol/session.py", "from websockets import http11"),
        ("protocol/session.py", "import json\nfrom wsworker.protocol import frames"),
        ("config.py", "import pydantic"),
        ("config.py", "import os"),
    ],
)
def test_what_is_allowed(tmp_path: Path, file: str, code: str) -> None:
    """Imports that go down or up the page, the standard library, and packages in their home."""
    assert check(tmp_path, {file: code}) == []


@pytest.mark.parametrize(
    ("file", "code", "sentence"),
    [
        ("errors.py", "from wsworker import config", "errors.py:1 (0) imports config.py (0)"),
        ("errors.py", "import wsworker.worker.hub", "errors.py:1 (0) imports worker/hub.py (4)"),
        ("errors.py", "from wsworker.worker.hub import X, Y", "errors.py:1 (0) imports worker/hub.py (4)"),
        ("errors.py", "from .worker import hub", "errors.py:1 (0) imports worker/hub.py (4)"),
        ("errors.py", "def f():\n  from .worker import hub", "errors.py:2 (0) imports worker/hub.py (4)"),
        (
            "protocol/frames.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from wsworker.protocol.session import Session",
            "protocol/frames.py:3 (1) imports protocol/session.py (1)",
        ),
        ("worker/hub.py", "from . import main", "worker/hub.py:1 (4) imports worker/main.py (4)"),
        ("worker/hub.py", "from ..worker import hub", "worker/hub.py:1 (4) imports worker/hub.py (4)"),
        ("worker/hub.py", "from wsworker.master.events import X", "worker/hub.py:1 (4) imports master/events.py (1)"),
        ("worker/hub.py", "from wsworker.master import main", "worker/hub.py:1 (4) imports master/main.py (3)"),
        ("master/main.py", "from wsworker.worker import main", "master/main.py:1 (3) imports worker/main.py (4)"),
        ("worker/hub.py", "from wsworker import Worker", "worker/hub.py:1 (4) imports __init__.py (5)"),
        ("worker/hub.py", "import wsworker", "worker/hub.py:1 (4) imports __init__.py (5)"),
        (
            "worker/hub.py",
            "import wsworker.worker",
            "worker/hub.py:1 (4) imports worker/__init__.py, which has no place",
        ),
        ("errors.py", "import os.path", "errors.py:1 (0) is pure and imports os"),
        ("protocol/session.py", "from time import time", "protocol/session.py:1 (1) is pure and imports time"),
        ("config.py", "import click", "config.py:1 (0) imports click, whose home is cli/"),
        ("config.py", "import requests", "config.py:1 (0) imports requests, whose home is nowhere"),
        ("worker/hub.py", "import uvloop", "worker/hub.py:1 (4) imports uvloop, whose home is worker/loops.py"),
        (
            "protocol/session.py",
            "from websockets.sync import server",
            "protocol/session.py:1 (1) imports websockets.sync, which is not one of the Sans-I/O modules of websockets",
        ),
        (
            "protocol/session.py",
            "from websockets import http11, sync",
            "protocol/session.py:1 (1) imports websockets.sync, which is not one of the Sans-I/O modules of websockets",
        ),
        (
            "protocol/session.py",
            "import websockets",
            "protocol/session.py:1 (1) imports websockets, which is not one of the Sans-I/O modules of websockets",
        ),
    ],
)
def test_what_is_not_allowed(tmp_path: Path, file: str, code: str, sentence: str) -> None:
    """The sentence names both files and their layers, and the line."""
    assert check(tmp_path, {file: code}) == [sentence]


def test_a_file_without_a_place(tmp_path: Path) -> None:
    """A new file has to be placed; the folder's own file only once it does something."""
    assert check(tmp_path, {"worker/new.py": ""}) == ["worker/new.py stands in the tree but not in the order"]
    sentence = "worker/__init__.py stands in the tree but not in the order"
    assert check(tmp_path / "other", {"worker/__init__.py": "import os"}) == [sentence]


def test_a_place_without_a_file(tmp_path: Path) -> None:
    """A file that is gone has to leave the order."""
    order = [*SMALL, Place(5, " ", "cli/main.py")]
    assert check(tmp_path, {}, order) == ["cli/main.py stands in the order but not in the tree"]


def test_a_place_taken_twice(tmp_path: Path) -> None:
    """No file can be both above and below another."""
    assert check(tmp_path, {}, [*SMALL, SMALL[0]]) == ["errors.py stands twice in the order"]
