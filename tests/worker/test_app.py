"""The user's module: what is found in it, and the sentence for everything that can be wrong with it."""

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsworker.errors import AppError
from wsworker.worker import app as app_module
from wsworker.worker.app import SIGNATURES, TRACE_CHARACTERS, App, load, of, trace

MESSAGE = "def on_message(connection, data): pass\n"


class Project:
    """A folder with an app in it, under a module name that no other test uses."""

    numbers = count()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"app_{next(self.numbers)}"
        self.file = f"{self.name}.py"

    def write(self, text: str, file: str = "") -> None:
        """Write a file of the project; "APP" in the text stands for the module's name."""
        path = self.folder / (file or self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("APP", self.name), encoding="utf-8")

    def load(self, text: str, attribute: str = "") -> App:
        """Write the app and load it."""
        self.write(text)
        return load(self.name + attribute, self.folder, clock=iter((10.0, 10.25)).__next__)

    def error(self, text: str, attribute: str = "") -> AppError:
        """Write the app, load it, and return why that failed."""
        with pytest.raises(AppError) as caught:
            self.load(text, attribute)
        return caught.value

    def message(self, text: str, attribute: str = "") -> str:
        """The error's sentence, with "app" for the module's name."""
        return self.error(text, attribute).message.replace(self.name, "app")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project; sys.path and sys.modules are put back afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    yield Project(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_callbacks_are_found_by_name(project: Project) -> None:
    """Each has its function, its kind and its place; what is not defined is None; the clock gives the seconds."""
    app = project.load("""
def on_connect(connection):
    return "connected"

async def on_message(connection, data):
    pass
""")
    assert app.target == project.name
    assert app.seconds == 0.25
    assert app.names == ("on_connect", "on_message")
    assert app.on_connect is not None
    assert app.on_connect.function(None) == "connected"
    assert app.on_connect.is_async is False
    assert app.on_connect.place == f"{project.file}:2"
    assert app.on_message is not None
    assert app.on_message.is_async is True
    assert app.on_message.place == f"{project.file}:5"
    assert app.on_close is None


def test_every_callback_has_a_field_and_a_signature() -> None:
    """The table of signatures and the fields of App name the same callbacks, in the same order."""
    assert tuple(SIGNATURES) == tuple(field.name for field in fields(App) if field.name.startswith("on_"))


def test_a_module_may_define_every_callback(project: Project) -> None:
    """The signatures of the table are those that a user would write."""
    text = "".join(f"def {name}({', '.join(arguments)}): pass\n" for name, arguments in SIGNATURES.items())
    assert project.load(text).names == tuple(SIGNATURES)


def test_app_dir_is_the_first_entry_of_sys_path(project: Project) -> None:
    """And it stands there once, however often it was there before."""
    sys.path.append(str(project.folder))
    project.load(MESSAGE)
    assert sys.path[0] == str(project.folder)
    assert sys.path.count(str(project.folder)) == 1


def test_a_module_in_a_package(project: Project) -> None:
    """The target may be dotted; the place keeps the folder."""
    project.write("", f"{project.name}/__init__.py")
    project.write(MESSAGE, f"{project.name}/chat.py")
    app = load(f"{project.name}.chat", project.folder, clock=lambda: 0.0)
    assert app.on_message is not None
    assert app.on_message.place == f"{project.name}/chat.py:1"


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [(":Chat", "class"), (":make", "function"), (":chat", "object"), (":nested.chat", "object behind a dot")],
)
def test_an_attribute_may_be_a_class_a_function_or_an_object(project: Project, attribute: str, kind: str) -> None:
    """A class and a function are called once, an object is used as it is; its methods are the callbacks."""
    app = project.load(
        """
from types import SimpleNamespace
made = []
class Chat:
    on_something = 5
    def __init__(self): made.append(self)
    def on_message(self, connection, data): return made
def make(): return Chat()
chat = Chat()
nested = SimpleNamespace(chat=chat)
""",
        attribute,
    )
    assert app.names == ("on_message",)
    assert app.on_message is not None
    expected = 2 if kind in ("class", "function") else 1
    assert len(app.on_message.function(None, "")) == expected
    assert app.on_message.place == f"{project.file}:7"


def test_a_module_may_be_the_attribute(project: Project) -> None:
    """`package:module` is a module like any other, judged by its own names."""
    project.write("from . import chat", f"{project.name}/__init__.py")
    project.write("def on_mesage(connection, data): pass", f"{project.name}/chat.py")
    with pytest.raises(AppError, match=r"chat\.py:1: 'on_mesage' is not a callback; did you mean 'on_message'\?"):
        load(f"{project.name}:chat", project.folder, clock=lambda: 0.0)


@pytest.mark.parametrize(
    ("text", "is_async"),
    [
        ("def plain(e, connection, data): pass\non_message = functools.partial(plain, 1)", False),
        ("async def plain(e, connection, data): pass\non_message = functools.partial(plain, 1)", True),
        ("class Call:\n  def __call__(self, connection, data): pass\non_message = Call()", False),
        ("class Call:\n  async def __call__(self, connection, data): pass\non_message = Call()", True),
        ("class Call:\n  @staticmethod\n  async def on(connection, data): pass\non_message = Call.on", True),
        ("class Call:\n  async def __call__(self, e, c, d): pass\non_message = functools.partial(Call(), 1)", True),
        ("def on_message(*args, **more): pass", False),
        ("async def on_message(connection, data, extra=None): pass", True),
        ("on_message = lambda connection, data: None", False),
    ],
)
def test_the_kind_is_found_behind_partial_and_call(project: Project, text: str, is_async: bool) -> None:
    """Async is decided by the function that runs in the end."""
    app = project.load(f"import functools\n{text}")
    assert app.on_message is not None
    assert app.on_message.is_async is is_async
    assert app.on_message.place in (f"{project.file}:2", f"{project.file}:3", f"{project.file}:4")


def test_the_place_of_a_decorated_callback_is_the_users_function(project: Project) -> None:
    """functools.wraps leads back to it."""
    app = project.load("""
import functools
def logged(function):
    @functools.wraps(function)
    def inner(*args): return function(*args)
    return inner

def plain(connection, data): pass
on_message = logged(plain)
""")
    assert app.on_message is not None
    assert app.on_message.place == f"{project.file}:8"


def test_a_callback_without_python_code_has_the_file_as_its_place(project: Project) -> None:
    """A function written in C, here without a signature too, cannot say its line."""
    app = project.load("on_message = max\n")
    assert app.on_message is not None
    assert app.on_message.place == project.file


def test_a_callback_from_outside_app_dir_shows_its_whole_path(project: Project) -> None:
    """A known name that was imported is a callback like any other."""
    inner = Project(project.folder / "inner")
    project.write(MESSAGE, f"library_{project.name}.py")
    sys.path.append(str(project.folder))
    app = inner.load(f"from library_{project.name} import on_message")
    assert app.on_message is not None
    assert app.on_message.place == f"{project.folder}/library_{project.name}.py:1"


# --- the app is not there -----------------------------------------------------------------------------------------


def missing(target: str, folder: Path) -> str:
    """The sentence for an app that is not there, with DIR for its folder."""
    with pytest.raises(AppError) as caught:
        load(target, folder, clock=lambda: 0.0)
    assert caught.value.trace == ""
    return caught.value.message.replace(str(folder), "DIR")


def test_a_missing_app_names_the_one_that_is_there(project: Project) -> None:
    """With one candidate there is nothing to guess; tests and private files are none."""
    project.write(MESSAGE, "app.py")
    project.write("", "test_app.py")
    project.write("", "conftest.py")
    project.write("", "__init__.py")
    expected = "cannot import app 'hello': no module 'hello' in DIR; found app.py. Did you mean 'app'?"
    assert missing("hello", project.folder) == expected


def test_a_missing_app_names_the_place_of_the_setting(project: Project) -> None:
    """Who knows where `app` is set has it told; so it is for an attribute."""
    project.write(MESSAGE, "app.py")
    for target, words in {"hello": "no module 'hello' in ", "app:chat": "app.py has no 'chat'; "}.items():
        with pytest.raises(AppError) as caught:
            load(target, project.folder, lambda: 0.0, "config.yaml:2:6")
        assert f" app {target!r} (config.yaml:2:6): {words}" in caught.value.message


def test_a_missing_app_names_the_nearest_of_several(project: Project) -> None:
    """Packages are candidates as well."""
    for file in ("chatter.py", "game/__init__.py", "data/notes.txt"):
        project.write("", file)
    expected = "cannot import app 'chater': no module 'chater' in DIR; found chatter.py, game/. Did you mean 'chatter'?"
    assert missing("chater", project.folder) == expected


def test_a_missing_app_names_no_link_that_leads_nowhere(project: Project) -> None:
    """Nor a folder with the name of a file."""
    project.write(MESSAGE, "app.py")
    (project.folder / "dang.py").symlink_to("nowhere")
    (project.folder / "selfl.py").symlink_to("selfl.py")
    (project.folder / "folder.py").mkdir()
    expected = "cannot import app 'dang': no module 'dang' in DIR; found app.py. Did you mean 'app'?"
    assert missing("dang", project.folder) == expected


def test_a_missing_app_like_none_of_several(project: Project) -> None:
    """The list is cut after five, and no guess is made."""
    for letter in "abcdef":
        project.write("", f"{letter * 3}.py")
    expected = (
        "cannot import app 'zzz': no module 'zzz' in DIR; "
        "found aaa.py, bbb.py, ccc.py, ddd.py, eee.py, .... Set `app` to one of them"
    )
    assert missing("zzz", project.folder) == expected


def test_a_missing_module_of_a_package_is_looked_for_inside_it(project: Project) -> None:
    """The package is found, so its folder is listed."""
    project.write("", f"{project.name}/__init__.py")
    project.write("", f"{project.name}/chat.py")
    expected = (
        f"cannot import app '{project.name}.chart': no module '{project.name}.chart' in DIR/{project.name}; "
        f"found chat.py. Did you mean '{project.name}.chat'?"
    )
    assert missing(f"{project.name}.chart", project.folder) == expected


def test_a_missing_package_is_a_missing_app(project: Project) -> None:
    """The name in the exception is a parent of the target, not the target itself."""
    project.write("", "game.py")
    expected = "cannot import app 'gone.chat': no module 'gone' in DIR; found game.py. Did you mean 'game'?"
    assert missing("gone.chat", project.folder) == expected


def test_a_folder_without_python_or_no_folder(project: Project) -> None:
    """Then it is app_dir that wants correcting."""
    no_file = "cannot import app 'hello': no module 'hello' in DIR, and no Python file either; set `app_dir`"
    assert missing("hello", project.folder) == no_file
    no_folder = "cannot import app 'hello': no module 'hello': DIR is not a folder; set `app` and `app_dir`"
    assert missing("hello", project.folder / "gone") == no_folder


@pytest.mark.parametrize("target", ["app.py", "src/app.py", "app.py:chat", "src/app"])
def test_a_file_name_is_not_a_target(project: Project, target: str) -> None:
    """The usual slip gets the module's name."""
    assert missing(target, project.folder) == f"app {target!r} names a file; name the module instead, such as 'app'"


@pytest.mark.parametrize("target", ["", ":chat", "app:", "my-app", "app..chat", "app:chat()", "app:a:b", "app "])
def test_a_target_is_made_of_identifiers(project: Project, target: str) -> None:
    """Anything else is refused before the import system sees it."""
    expected = f"app {target!r} is neither module nor module:attribute; write for example 'app' or 'app:chat'"
    assert missing(target, project.folder) == expected


def test_a_missing_attribute(project: Project) -> None:
    """It is told with the nearest name, or none."""
    text = "class Chat:\n    def on_message(self, connection, data): pass\n"
    assert project.message(text, ":Chatt") == "cannot use app 'app:Chatt': app.py has no 'Chatt'; did you mean 'Chat'?"
    expected = "cannot use app 'app:zzzzzz': app.py has no 'zzzzzz'; correct `app`"
    assert project.message(text, ":zzzzzz") == expected


# --- user code raises ---------------------------------------------------------------------------------------------


def test_an_exception_while_importing_shows_the_users_traceback(project: Project) -> None:
    """The sentence has the innermost place in the app; the trace has no frame of ours or of importlib."""
    project.write("def connect():\n    raise ValueError('no database')\n", f"lib_{project.name}.py")
    error = project.error("import lib_APP\nlib_APP.connect()\n")
    assert error.message == f"cannot import app '{project.name}': lib_{project.name}.py:2 raised ValueError"
    assert error.trace.splitlines()[:3] == [
        "Traceback (most recent call last):",
        f'  File "{project.folder}/{project.file}", line 2, in <module>',
        f"    lib_{project.name}.connect()",
    ]
    assert error.trace.endswith("ValueError: no database")
    assert "importlib" not in error.trace
    assert "wsworker" not in error.trace


def test_our_frames_are_trimmed_from_causes_and_groups_too(project: Project) -> None:
    """An exception's cause and the members of a group carry tracebacks of their own."""
    error = project.error("""
import importlib
def fail():
    importlib.import_module("APP_gone")
try:
    try:
        fail()
    except ImportError as exc:
        raise ExceptionGroup("all", [exc])
except ExceptionGroup as exc:
    raise RuntimeError("start") from exc
""")
    assert error.message.endswith(f"{project.file}:11 raised RuntimeError")
    assert "ModuleNotFoundError: No module named" in error.trace
    assert "The above exception was the direct cause" in error.trace
    assert "importlib/__init__.py" not in error.trace
    assert "<frozen importlib" not in error.trace


def test_an_exception_in_a_library_is_placed_in_the_app(project: Project) -> None:
    """The user's line is the one to look at, not the library's."""
    error = project.error("import json\n\njson.loads('{')\n")
    assert error.message == f"cannot import app '{project.name}': {project.file}:3 raised JSONDecodeError"


def test_a_syntax_error_is_shown_as_the_interpreter_does(project: Project) -> None:
    """File, line, caret and sentence, without the word Traceback."""
    error = project.error("\ndef on_message(connection, data)\n    pass\n")
    assert error.message == f"cannot import app '{project.name}': {project.file}:2 is not valid Python"
    assert error.trace.splitlines()[:2] == [
        f'  File "{project.folder}/{project.file}", line 2',
        "    def on_message(connection, data)",
    ]
    assert error.trace.splitlines()[-1] == "SyntaxError: expected ':'"


def test_a_syntax_error_in_an_imported_file_keeps_the_way_there(project: Project) -> None:
    """The app's import line is part of the trace, and the sentence names the broken file."""
    project.write("x = = 1\n", f"lib_{project.name}.py")
    error = project.error("import lib_APP\n")
    assert error.message == f"cannot import app '{project.name}': lib_{project.name}.py:1 is not valid Python"
    assert f'File "{project.folder}/{project.file}", line 1, in <module>' in error.trace
    assert error.trace.endswith("SyntaxError: invalid syntax")


def test_a_syntax_error_of_eval_is_the_line_that_evaluates(project: Project) -> None:
    """There is no file to be invalid."""
    error = project.error("\neval('1 +')\n")
    assert error.message == f"cannot import app '{project.name}': {project.file}:2 raised SyntaxError"


def test_a_file_that_is_no_text_is_still_one_sentence(project: Project) -> None:
    """Here the interpreter names neither a line nor, in some versions, the file."""
    message = project.error("x = 1\0").message
    assert message.startswith(f"cannot import app '{project.name}': ")
    assert "\n" not in message


def test_a_module_that_the_app_needs_is_not_a_missing_app(project: Project) -> None:
    """The sentence says which interpreter lacks it, as that is what a separate virtualenv gets wrong."""
    error = project.error("import no_such_library\n")
    assert error.message == (
        f"cannot import app '{project.name}': {project.file}:1 needs the module 'no_such_library', "
        f"which {sys.executable} does not have; install it there"
    )
    assert error.trace.endswith("ModuleNotFoundError: No module named 'no_such_library'")


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise type('Odd', (BaseException,), {'__str__': 5})", "Odd"),
        ("from json import no_such_name", "ImportError"),
        ("raise ModuleNotFoundError('made by hand')", "ModuleNotFoundError"),
        ("def again(): again()\nagain()", "RecursionError"),
    ],
)
def test_whatever_the_import_raises_is_an_app_error(project: Project, statement: str, name: str) -> None:
    """sys.exit() in the module does not end the worker without a word."""
    error = project.error(statement)
    assert error.message.startswith(f"cannot import app '{project.name}': {project.file}:1 raised {name}")
    assert name in error.trace


def test_frames_of_the_loop_are_trimmed_where_they_lead_to_the_user(project: Project) -> None:
    """What called user code is of no use to them; what it has called is."""
    project.load(
        f"{MESSAGE}import asyncio\nasync def main(): await asyncio.wait_for(fail(), 1)\nasync def fail(): 1 / 0"
    )
    with pytest.raises(ZeroDivisionError) as caught:
        asyncio.run(sys.modules[project.name].main())
    assert caught.tb.tb_next, "the first frame is this one"
    told = trace(caught.value.with_traceback(caught.tb.tb_next))
    assert ["main", "wait_for", "fail"] == [line.split()[-1] for line in told.splitlines() if line[:6] == "  File"]


def test_a_long_trace_keeps_its_two_ends(project: Project) -> None:
    """A trace has a limit, as it travels to the master and into the log."""
    error = project.error("raise ValueError('x' * 100_000 + ' the end')")
    assert len(error.trace) == TRACE_CHARACTERS
    assert error.trace.startswith("Traceback (most recent call last):")
    assert error.trace.endswith("xxx the end")
    assert "\n  ...\n" in error.trace


def test_a_class_that_raises_when_called(project: Project) -> None:
    """Calling the attribute is user code as well."""
    error = project.error("class Chat:\n    def __init__(self):\n        raise OSError('no disk')\n", ":Chat")
    assert error.message == f"cannot use app '{project.name}:Chat': {project.file}:3 raised OSError"
    assert error.trace.endswith("OSError: no disk")


def test_a_property_that_raises(project: Project) -> None:
    """Looking at a known name may run user code; for an unknown one nothing runs."""
    text = """
class Chat:
    @property
    def on_unknown(self): raise SystemExit
    @property
    def on_message(self): raise OSError
chat = Chat()
"""
    assert project.message(text, ":chat") == "cannot use app 'app:chat': app.py:6 raised OSError"


# --- wrong names and signatures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_mesage", "on_message"),
        ("on_messages", "on_message"),
        ("on_open", "on_connect"),
        ("onWorkerStart", "on_worker_start"),
        ("onWorkerReload", "on_worker_reload"),
        ("onWorkerStop", "on_worker_stop"),
        ("onConnect", "on_connect"),
        ("onWebSocketConnect", "on_handshake"),
        ("onWebSocketConnected", "on_connect"),
        ("onWebSocketClose", "on_close"),
        ("onMessage", "on_message"),
        ("onClose", "on_close"),
        ("onError", "on_error"),
        ("onBufferFull", "on_buffer_full"),
        ("onBufferDrain", "on_buffer_drain"),
        ("onBusGap", "on_bus_gap"),
        ("onMesage", "on_message"),
    ],
)
def test_a_name_like_a_callback_gets_the_right_name(project: Project, name: str, meant: str) -> None:
    """Typos, Workerman's names and those of browsers stop the start."""
    message = project.message(f"{MESSAGE}\nasync def {name}(connection): pass")
    assert message == f"app.py:3: {name!r} is not a callback; did you mean {meant!r}?"


def test_a_name_like_no_callback_gets_the_list(project: Project) -> None:
    """There is nothing to guess; an underscore makes it the user's own."""
    message = project.message(f"def on_zzzzzzzz(): pass\n{MESSAGE}")
    assert message.startswith("app.py:1: 'on_zzzzzzzz' is not a callback; name it '_on_zzzzzzzz' if it is your own")
    assert message.endswith(", ".join(SIGNATURES))


@pytest.mark.parametrize(
    "text",
    [
        "def _on_mesage(): pass",
        "class OnThing: pass\nclass on_thing: pass",
        "on_thing = 5",
        "def once(): pass\ndef only(): pass\ndef onward(): pass",
        "from json import loads as on_thing",
    ],
)
def test_what_is_not_the_apps_own_callable_is_not_judged(project: Project, text: str) -> None:
    """Helpers, classes, values and imported names are the user's business."""
    assert project.load(f"{MESSAGE}{text}").names == ("on_message",)


def test_a_wrong_method_name_is_found_as_well(project: Project) -> None:
    """The methods of a class are judged like the functions of a module; inherited ones of a library are not."""
    text = "class Chat:\n    def on_message(self, c, d): pass\n    def onOpen(self, c): pass\n"
    assert project.message(text, ":Chat") == "app.py:3: 'onOpen' is not a callback; did you mean 'on_connect'?"


def test_a_known_name_must_be_callable(project: Project) -> None:
    """`on_message = None` is a mistake, not a way to switch it off."""
    said = "'on_message' is a callback's name, but of type NoneType here; rename it"
    assert project.message("on_message = None") == f"app.py:1: {said}"
    assert project.message("import sys\nsetattr(sys.modules[__name__], 'on_message', None)") == f"app.py: {said}"


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """It is no exception of the user's; who has to read it is named."""
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "app.py"))
    text = f"app.py cannot be read: permission denied; make it readable for the user with id {os.geteuid()}"
    assert text == app_module._cause(error, str(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "def on_message(connection): pass",
            "on_message takes (connection), wsworker calls it with (connection, data)",
        ),
        (
            "async def on_close(connection: 'C', code: int = 1000) -> None: pass",
            "on_close takes (connection, code=1000), wsworker calls it with (connection, code, reason)",
        ),
        (
            "def on_connect(connection, *, user): pass",
            "on_connect takes (connection, *, user), wsworker calls it with (connection)",
        ),
    ],
)
def test_a_wrong_signature_shows_both(project: Project, text: str, expected: str) -> None:
    """What the function takes and what it would get."""
    assert project.message(text) == f"app.py:1: {expected}"


@pytest.mark.parametrize("start", ["def", "async def"])
def test_a_generator_is_refused(project: Project, start: str) -> None:
    """Calling it would run none of its lines."""
    message = project.message(f"{start} on_message(connection, data):\n    yield data")
    assert message == "app.py:1: on_message has a `yield`, so calling it would run nothing; use def or async def"


def test_an_app_without_callbacks(project: Project) -> None:
    """At least one must exist, and the sentence shows one."""
    assert project.message("x = 1") == (
        "app 'app' (app.py) has no callback; define at least one, such as def on_message(connection, data)"
    )


CLASS = "class Chat:\n    def on_message(self, connection, data): pass\n"


def test_callbacks_in_a_class(project: Project) -> None:
    """The target that was meant is shown; classes without any do not matter, nor what is imported."""
    imported = "from enum import Enum\nfrom tests.worker.test_app import Chat as Another\n"
    text = f"{imported}{CLASS}class Room(Enum):\n    ONE = 1\n"
    assert project.message(text) == "app 'app' (app.py) has no callback, but its class Chat has; write `app: app:Chat`"


@pytest.mark.parametrize(("more", "attribute"), [("class Other(Chat): pass\n", ""), ("x = 1\n", ":x")])
def test_callbacks_in_a_class_that_was_hardly_meant(project: Project, more: str, attribute: str) -> None:
    """There are several, or another object is named."""
    assert "has no callback; define at least one" in project.message(CLASS + more, attribute)


def test_a_package_without_a_file_has_no_callbacks(project: Project) -> None:
    """A folder is importable even without __init__.py."""
    (project.folder / project.name).mkdir()
    assert missing(project.name, project.folder) == (
        f"app '{project.name}' ({project.name}) has no callback; "
        "define at least one, such as def on_message(connection, data)"
    )


@pytest.mark.parametrize("name", ["json", "sys"])
def test_a_file_with_the_name_of_a_loaded_module_is_told_so(project: Project, name: str) -> None:
    """The import finds the loaded module instead of the user's file; no sentence about callbacks would help."""
    project.write(MESSAGE, f"{name}.py")
    loaded = sys.modules[name].__dict__.get("__file__", "built into Python")
    expected = f"app {name!r} is {loaded}, which was loaded before DIR/{name}.py; rename your file"
    assert missing(name, project.folder) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("async def make(): pass", "make is async; make it a plain function and await in on_worker_start"),
        ("def make(config): pass", "make takes (config), wsworker calls it without arguments"),
        ("def make(): pass", "make returned None; return the object that has the callbacks"),
    ],
)
def test_a_factory_is_a_plain_function_that_returns_an_object(project: Project, text: str, expected: str) -> None:
    """Each way to get it wrong has its own sentence."""
    assert project.message(text, ":make") == f"app.py:1: {expected}"


def test_callbacks_of_an_object_that_answers_for_any_name(project: Project) -> None:
    """Known names are asked for, not listed, so a proxy works."""
    text = """
class Proxy:
    def __getattr__(self, name):
        if name == "on_message":
            return lambda connection, data: None
        raise AttributeError(name)
proxy = Proxy()
"""
    assert project.load(text, ":proxy").names == ("on_message",)


def test_an_app_made_by_hand_has_no_names() -> None:
    """Tests of other modules make an App with the callbacks they need, and all others are None."""
    assert App("app", 0.0).names == ()


def on_message(connection: object, data: object) -> None:
    """Be the callback of this module."""


class Chat:
    """An app whose callback has a wrong signature until it is mended by whoever makes it."""

    def on_message(self, connection: object) -> None:
        """Take too little."""


def test_a_module_that_is_loaded(tmp_path: Path) -> None:
    """Its callbacks are found without another import."""
    app = of(sys.modules[__name__], tmp_path)
    assert (("on_message",), __name__, 0.0) == (app.names, app.target, app.seconds)
    assert app.on_message is not None
    assert on_message is app.on_message.function


def test_an_object_that_is_loaded(tmp_path: Path) -> None:
    """Any object will do; a class or a function is called once, without arguments."""
    assert ("on_connect", "on_close") == of(SimpleNamespace(on_close=print, on_connect=print), tmp_path).names
    assert ("on_message",) == of(lambda: sys.modules[__name__], tmp_path).names


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        (Chat, ": on_message takes (connection), wsworker calls it with (connection, data)"),
        (Chat(), ": on_message takes (connection), wsworker calls it with (connection, data)"),
        (lambda: None, " returned None; return the object that has the callbacks"),
        (object(), "has no callback; define at least one"),
        (lambda argument: None, "calls it without arguments"),
    ],
)
def test_an_object_that_is_no_app(subject: object, sentence: str) -> None:
    """It is refused as one of a configuration is."""
    with pytest.raises(AppError) as caught:
        of(subject, Path(__file__).parent)
    assert sentence in caught.value.message
