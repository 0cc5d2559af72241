"""The user's module: imported after the fork, its callbacks found by name and checked once.

A target is `module` or `module:attribute`. A module, or any object, offers callbacks by their names; there are no
decorators and nothing to register. Whatever is wrong becomes an AppError before the worker takes a connection: a
module that is not there, an exception in user code, a callback with a wrong name or a wrong signature. A misspelt
on_mesage would otherwise be a service that starts, accepts and never answers.

The user sees their own traceback, without the frames of wsworker and importlib around it. Only a ModuleNotFoundError
for the target itself is told as "no such app"; one for a module that the app imports is the app's own problem.

Sync or async is decided here, once, so that no message pays for the question.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from wsworker.errors import AppError
from wsworker.worker.copies import end_if_copy

SIGNATURES: dict[str, tuple[str, ...]] = {
    "on_worker_start": ("worker",),
    "on_handshake": ("request",),
    "on_connect": ("connection",),
    "on_message": ("connection", "data"),
    "on_close": ("connection", "code", "reason"),
    "on_error": ("connection", "exc"),
    "on_handover": ("connection",),
    "on_resume": ("connection", "state"),
    "on_buffer_full": ("connection",),
    "on_buffer_drain": ("connection",),
    "on_bus_gap": ("worker", "topics"),
    "on_worker_reload": ("worker",),
    "on_worker_stop": ("worker",),
}
"""Every callback and what it is called with, in the order of a worker's life."""

# what the name means elsewhere (Workerman, browsers, Socket.IO), where spelling alone does not lead to our name
FOREIGN_NAMES = {
    "on_web_socket_connect": "on_handshake",
    "on_web_socket_connected": "on_connect",
    "on_web_socket_close": "on_close",
    "on_open": "on_connect",
    "on_disconnect": "on_close",
    "on_start": "on_worker_start",
    "on_reload": "on_worker_reload",
    "on_stop": "on_worker_stop",
}

TRACE_CHARACTERS = 10_000
OUR_FRAMES = (
    str(Path(__file__).parents[1]) + os.sep,
    str(Path(importlib.__file__).parent) + os.sep,
    "<frozen importlib",
)
LOOP_FRAMES = (str(Path(importlib.__file__).parents[1] / "asyncio") + os.sep, "uvloop/")


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback of the user; place is where it is written, such as "app.py:9", relative to app_dir if inside."""

    function: Callable[..., Any]
    is_async: bool
    place: str


@dataclass(frozen=True)
class App:
    """What the user's module offers; a callback it does not define is None. seconds: how long the import took."""

    target: str
    seconds: float
    on_worker_start: Callback | None = None
    on_handshake: Callback | None = None
    on_connect: Callback | None = None
    on_message: Callback | None = None
    on_close: Callback | None = None
    on_error: Callback | None = None
    on_handover: Callback | None = None
    on_resume: Callback | None = None
    on_buffer_full: Callback | None = None
    on_buffer_drain: Callback | None = None
    on_bus_gap: Callback | None = None
    on_worker_reload: Callback | None = None
    on_worker_stop: Callback | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The callbacks that exist, in the order of a worker's life."""
        return tuple(name for name in SIGNATURES if getattr(self, name) is not None)


def load(target: str, app_dir: Path, clock: Callable[[], float], set_at: str = "") -> App:
    """Import the user's app and check its callbacks.

    target: `module` or `module:attribute`, both may be dotted; a class or function is called once without arguments,
    any other object is used as it is. app_dir: becomes the first entry of sys.path. clock: seconds, monotonic.
    set_at: where the target is set, such as "config.yaml:2:6", or "", for errors that are about what it names.
    Call it once per process, in the worker: user code runs here, and a second import would find the first one cached.
    Raises AppError for everything that user code can do wrong; trace is then the user's part of the traceback.
    """
    module_name, attribute = _parse(target)
    folder = os.path.abspath(app_dir)
    sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
    importlib.invalidate_caches()
    began_at = clock()
    named = f"{target!r} ({set_at})" if set_at else repr(target)
    module = _import(module_name, target, named, folder)
    with _user_code(f"cannot use app {target!r}", folder):
        subject = _subject(module, attribute, named, folder)
        seconds = clock() - began_at
        callbacks = _checked(subject, module, folder)
    if not callbacks:
        raise AppError(_nothing_found(module, target, folder))
    return App(target, seconds, **callbacks)


def of(subject: object, app_dir: Path) -> App:
    """Check the callbacks of a module or another object that is loaded already; a class or function is called once.

    app_dir: what the places of callbacks are relative to. Errors as for load.
    """
    folder = os.path.abspath(app_dir)
    called = inspect.isclass(subject) or inspect.isroutine(subject)
    home = subject if called or isinstance(subject, ModuleType) else type(subject)
    module = home if isinstance(home, ModuleType) else sys.modules[home.__module__]
    name = getattr(home, "__qualname__", module.__name__)
    with _user_code(f"cannot use app {name!r}", folder):
        if called:
            subject = _made(subject, name, module, folder)
        callbacks = _checked(subject, module, folder)
    if not callbacks:
        raise AppError(_nothing_found(module, name, folder))
    return App(name, 0.0, **callbacks)


def _parse(target: str) -> tuple[str, str]:
    module_name, colon, attribute = target.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        raise AppError(f"app {target!r} names a file; name the module instead, such as {Path(module_name).stem!r}")
    parts = module_name.split(".") + (attribute.split(".") if colon else [])
    if not all(part.isidentifier() for part in parts):
        raise AppError(f"app {target!r} is neither module nor module:attribute; write for example 'app' or 'app:chat'")
    return module_name, attribute


def _import(module_name: str, target: str, named: str, folder: str) -> ModuleType:
    """Import the module. named: the target and where it is set."""
    with _user_code(f"cannot import app {target!r}", folder):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as exc:
            # a module that the app imports is missing: that is an exception in user code, not a missing app
            if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
                raise
            raise AppError(f"cannot import app {named}: {_not_found(exc.name, folder)}") from None


def _not_found(name: str, folder: str) -> str:
    """Say what was looked for, what lies there instead, and which of it was probably meant."""
    parent, _, last = name.rpartition(".")
    inside = Path(folder, *parent.split(".")) if parent else Path(folder)
    if not inside.is_dir():
        return f"no module {name!r}: {inside} is not a folder; set `app` and `app_dir`"
    # what nobody serves is not offered: tests, conftest.py, __init__.py
    paths = [path for path in sorted(inside.iterdir()) if not path.name.startswith(("_", ".", "test_", "conftest"))]
    # os.path.isfile: one that we may not look at, or a link that leads nowhere, is none
    files = {path.stem: path.name for path in paths if path.suffix == ".py" and os.path.isfile(path)}
    files |= {path.name: f"{path.name}/" for path in paths if os.path.isfile(path / "__init__.py")}
    if not files:
        return f"no module {name!r} in {inside}, and no Python file either; set `app_dir`"
    shown = ", ".join(list(files.values())[:5]) + (", ..." if len(files) > 5 else "")
    meant = list(files) if len(files) == 1 else difflib.get_close_matches(last, files, 1)
    hint = f"Did you mean {'.'.join(filter(None, (parent, meant[0])))!r}?" if meant else "Set `app` to one of them"
    return f"no module {name!r} in {inside}; found {shown}. {hint}"


def _subject(module: ModuleType, attribute: str, named: str, folder: str) -> object:
    """Return the object that has the callbacks: the module, its attribute, or what the attribute makes."""
    subject: Any = module
    for name in filter(None, attribute.split(".")):
        if not hasattr(subject, name):
            close = difflib.get_close_matches(name, dir(subject), 1)
            hint = f"did you mean {close[0]!r}?" if close else "correct `app`"
            raise AppError(f"cannot use app {named}: {_home(module, folder)} has no {name!r}; {hint}")
        subject = getattr(subject, name)
    if inspect.isclass(subject) or inspect.isroutine(subject):
        return _made(subject, attribute, module, folder)
    return subject


def _made(maker: Any, name: str, module: ModuleType, folder: str) -> object:
    """Return what a class or function makes, called without arguments."""
    place = _place(maker, module, folder)
    if inspect.iscoroutinefunction(maker):
        raise AppError(f"{place}: {name} is async; make it a plain function and await in on_worker_start")
    _check_signature(name, maker, (), place)
    made: object = maker()
    if made is None:
        raise AppError(f"{place}: {name} returned None; return the object that has the callbacks")
    return made


def _checked(subject: object, module: ModuleType, folder: str) -> dict[str, Callback]:
    """Return the callbacks of an object; raises AppError for one with a wrong name or signature."""
    _refuse_unknown_names(subject, module, folder)
    return _callbacks(subject, module, folder)


def _refuse_unknown_names(subject: object, module: ModuleType, folder: str) -> None:
    """Raise AppError for the first callable that is named like a callback and is none.

    Only what the app itself defines is judged: `from library import on_thing` is the library's name, not a typo.
    """
    if isinstance(subject, ModuleType):
        names, homes = list(vars(subject)), {subject.__name__}
    else:
        names, homes = dir(subject), {type(subject).__module__, module.__name__}
    for name in names:
        if name in SIGNATURES or not re.match("on(_|[A-Z])", name):
            continue
        value = inspect.getattr_static(subject, name)  # static: a property of the user must not run for its name
        if callable(value) and not inspect.isclass(value) and getattr(value, "__module__", None) in homes:
            raise AppError(f"{_place(value, module, folder)}: {_unknown(name)}")


def _unknown(name: str) -> str:
    snake = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    close = [snake] if snake in SIGNATURES else difflib.get_close_matches(snake, SIGNATURES, 1, cutoff=0.75)
    meant = FOREIGN_NAMES.get(snake) or next(iter(close), None)
    if meant:
        return f"{name!r} is not a callback; did you mean {meant!r}?"
    known = ", ".join(SIGNATURES)
    return f"{name!r} is not a callback; name it '_{name}' if it is your own, the callbacks are {known}"


def _callbacks(subject: object, module: ModuleType, folder: str) -> dict[str, Callback]:
    found = {}
    for name, arguments in SIGNATURES.items():
        if not hasattr(subject, name):
            continue
        value = getattr(subject, name)
        if not callable(value):
            place, kind = _assigned_at(name, module, folder), type(value).__name__
            raise AppError(f"{place}: {name!r} is a callback's name, but of type {kind} here; rename it")
        place = _place(value, module, folder)
        _check_signature(name, value, arguments, place)
        runs = _unwrapped(value)
        if inspect.isgeneratorfunction(runs) or inspect.isasyncgenfunction(runs):
            raise AppError(f"{place}: {name} has a `yield`, so calling it would run nothing; use def or async def")
        found[name] = Callback(value, inspect.iscoroutinefunction(runs), place)
    return found


def _check_signature(name: str, function: Callable[..., Any], arguments: tuple[str, ...], place: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # written in C without a signature: nothing to check, the call itself will tell
    try:
        signature.bind(*arguments)
    except TypeError:
        bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
        takes = inspect.Signature(bare)
        called = f"it with ({', '.join(arguments)})" if arguments else "it without arguments"
        raise AppError(f"{place}: {name} takes {takes}, wsworker calls {called}") from None


def _nothing_found(module: ModuleType, target: str, folder: str) -> str:
    same_name = Path(folder, *module.__name__.split(".")).with_suffix(".py")
    file = getattr(module, "__file__", None)
    if same_name.is_file() and file != str(same_name):
        return f"app {target!r} is {file or 'built into Python'}, which was loaded before {same_name}; rename your file"
    home = _home(module, folder)
    if target == module.__name__ and len(classes := _classes(module)) == 1:
        (name,) = classes
        return f"app {target!r} ({home}) has no callback, but its class {name} has; write `app: {target}:{name}`"
    return f"app {target!r} ({home}) has no callback; define at least one, such as def on_message(connection, data)"


def _classes(module: ModuleType) -> list[str]:
    """Return the names of the classes of a module that have callbacks."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and any(callback in vars(base) for base in value.__mro__ for callback in SIGNATURES)
    ]


def _unwrapped(function: Any) -> Any:
    """Return the function whose code runs when this one is called: behind partial, and behind an object's __call__."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__


def place_of(function: Any, folder: str) -> str | None:
    """Return where a function is written, such as "app.py:9", relative to the folder if inside; None: not in Python."""
    # inspect.unwrap goes behind functools.wraps as well: users look for their function, not for its decorator
    code = getattr(inspect.unwrap(_unwrapped(function)), "__code__", None)
    return f"{_relative(code.co_filename, folder)}:{code.co_firstlineno}" if code else None


def _place(function: Any, module: ModuleType, folder: str) -> str:
    return place_of(function, folder) or _home(module, folder)


def _assigned_at(name: str, module: ModuleType, folder: str) -> str:
    """Return where a module gives a value to a name; the module alone if that cannot be seen."""
    try:
        nodes = [*ast.walk(ast.parse(inspect.getsource(module)))]
    except (OSError, TypeError, SyntaxError):
        nodes = []
    stores = (node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    lines = [f":{node.lineno}" for node in stores if node.id == name]
    return _home(module, folder) + next(iter(lines), "")


def _home(module: ModuleType, folder: str) -> str:
    file = getattr(module, "__file__", None)
    return _relative(file, folder) if file else module.__name__


def _relative(file: str, folder: str) -> str:
    return file.removeprefix(folder.rstrip(os.sep) + os.sep)


@contextmanager
def _user_code(doing: str, folder: str) -> Iterator[None]:
    """Turn what user code raises into an AppError: `doing`, where it happened, and the trimmed traceback.

    Whatever it is: a sys.exit() in the module would end the worker without a word. So you must not let a Ctrl-C become
    a KeyboardInterrupt, which is user code's own here; a worker ignores it, and `check` dies of it.
    """
    try:
        yield
        end_if_copy(None)
    except AppError:
        raise
    except BaseException as exc:
        end_if_copy(exc)
        raise AppError(f"{doing}: {_cause(exc, folder)}", trace(exc)) from None


def _cause(exc: BaseException, folder: str) -> str:
    if isinstance(exc, SyntaxError) and exc.filename and not exc.filename.startswith("<"):
        return f"{_relative(exc.filename, folder)}:{exc.lineno or 1} is not valid Python"
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if not _ours(frame)]
    own = [frame for frame in frames if _relative(frame.filename, folder) != frame.filename] or frames
    if isinstance(exc, PermissionError) and not own and isinstance(exc.filename, str):
        file = _relative(exc.filename, folder)
        return f"{file} cannot be read: permission denied; make it readable for the user with id {os.geteuid()}"
    place = f"{_relative(own[-1].filename, folder)}:{own[-1].lineno}" if own else "its file"
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        return f"{place} needs the module {exc.name!r}, which {sys.executable} does not have; install it there"
    return f"{place} raised {type(exc).__name__}"


def trace(exc: BaseException) -> str:
    """Return the traceback as the interpreter prints it, at most TRACE_CHARACTERS long.

    It lacks our frames, and at its beginning those of the loop; further on they tell what user code was waiting for.
    """
    report = traceback.TracebackException.from_exception(exc)
    pending: list[traceback.TracebackException | None] = [report]
    while pending:
        one = pending.pop()
        if one is not None:
            one.stack = traceback.StackSummary.from_list([frame for frame in one.stack if not _ours(frame)])
            pending += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
    frames = itertools.dropwhile(lambda frame: frame.filename.startswith(LOOP_FRAMES), report.stack)
    report.stack = traceback.StackSummary.from_list([*frames])
    # without a frame of the user, as for a syntax error in the app's own file, "Traceback:" would announce nothing
    lines = report.format() if report.stack else report.format_exception_only()
    text = "".join(lines).rstrip()
    if len(text) <= TRACE_CHARACTERS:
        return text
    # the end says what happened, the beginning where it started
    head, gap = TRACE_CHARACTERS // 4, "\n  ...\n"
    return text[:head] + gap + text[head + len(gap) - TRACE_CHARACTERS :]


def _ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(OUR_FRAMES)
