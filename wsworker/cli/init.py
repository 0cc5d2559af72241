"""`wsworker init`: a folder with a service that runs, to be changed into one's own.

Five files, from templates that ship with the package; the schema is made from the settings themselves. Nothing of the
user's is ever overwritten: if any of the five is there already, or any of them cannot be written, nothing is left of
the try.

The service is named after its folder, and the name is written down: a default that followed the folder would change
with its next move, and with it the control socket.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import string
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Final

import click

from wsworker.cli.failures import FAILED, OK, SCHEMA, Failed
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import lines, visible

FILES: Final = {
    "app.py": "on_connect, on_message, on_close",
    "config.yaml": "4 workers, ws://127.0.0.1:2346",
    "config.schema.json": "completion in editors",
    "public/index.html": "test page, served at http://127.0.0.1:2346/",
    "test_app.py": "2 tests, run with pytest",
}
"""What is written, and what is said of it."""

MAX_NAME: Final = 64
WORDS_OF_YAML: Final = frozenset({"true", "false", "null"})


@click.command(epilog=epilog({OK: "written", FAILED: "nothing written"}, "wsworker init hello"))
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path())
@global_options
@click.pass_obj
def init(settings: Settings, folder: str) -> int:
    """Write a small service to start from."""
    if settings.config:
        raise click.UsageError("init writes a config.yaml of its own; remove -c")
    if not folder:
        raise click.UsageError("DIR is empty; name a folder, or leave it out for this one")
    return make(settings, Path(folder))


def make(settings: Settings, folder: Path) -> int:
    """Write the files, and tell of each."""
    try:
        own_name = Path(os.path.abspath(folder)).name
    except FileNotFoundError:
        # from getcwd(3)
        raise Failed("failed", "this folder is gone; cd to another one") from None
    name = service_name(own_name)
    write(folder, contents(name))
    following = "wsworker start" if folder == Path() else f"cd {shell_word(str(folder))} && wsworker start"
    # a name that nobody has chosen is told
    told = {**FILES, "config.yaml": FILES["config.yaml"] + ("" if name == own_name else f", named {name}")}
    rows = [("created", visible(folder / file), words) for file, words in told.items()]
    document = {
        "schema": SCHEMA,
        "folder": str(folder.absolute()),
        "created": [str(folder / file) for file in FILES],
        "next": following,
    }
    settings.result("\n".join([*lines(rows, ("<", "<", "<")), f"next:    {following}"]), document)
    return OK


def shell_word(path: str) -> str:
    """Return a path as one word for bash: printable, and none that a command would take for an option."""
    if path.startswith("-"):
        path = f"./{path}"
    if path.isprintable():
        return shlex.quote(path)
    # bash(1), QUOTING: in $'...' the bytes of a name can be written as numbers
    plain = string.ascii_letters + string.digits + "/._-"
    shown = [chr(byte) if chr(byte) in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)]
    return f"$'{''.join(shown)}'"


def service_name(folder: str) -> str:
    """Return a name for the service in a folder of that name: what no name may have becomes a hyphen.

    A name of which nothing is left that way is "service".
    """
    name = re.sub("[^A-Za-z0-9._-]+", "-", folder).strip("-.")
    return name[:MAX_NAME] or "service"


def contents(name: str) -> dict[str, str]:
    """Return the text of each of FILES. name: of the service."""
    from wsworker import schema

    # digits or a word of YAML would be no text without quotes
    plain = re.match("[A-Za-z_]", name) and name.lower() not in WORDS_OF_YAML
    return {
        "app.py": template("app.py.txt"),
        "config.yaml": template("config.yaml").replace("@name@", name if plain else json.dumps(name)),
        "config.schema.json": json.dumps(schema.document(), indent=2) + "\n",
        "public/index.html": template("index.html"),
        "test_app.py": template("test_app.py.txt"),
    }


def template(file: str) -> str:
    """Return one of the texts that ship with the package."""
    return (resources.files("wsworker") / "templates" / file).read_text(encoding="utf-8")


def write(folder: Path, texts: dict[str, str]) -> None:
    """Write files below a folder, which is made if need be: all of them or none. Raises Failed."""
    for file in texts:
        if os.path.lexists(folder / file):
            _refuse(folder / file)
    with ExitStack() as undo:
        try:
            for file, text in texts.items():
                _make_folder((folder / file).parent, undo)
                # "x": somebody else may have made it since
                with (folder / file).open("x", encoding="utf-8") as stream:
                    undo.callback((folder / file).unlink)
                    stream.write(text)
        except FileExistsError as error:
            _refuse(Path(error.filename))
        except OSError as error:
            place = visible(error.filename or folder)
            raise Failed("failed", f"cannot write {place}: {error.strerror}; name another folder") from None
        undo.pop_all()


def _make_folder(folder: Path, undo: ExitStack) -> None:
    """Make a folder and those above it; undo gets what removes each of them."""
    for each in [*reversed(folder.parents), folder]:
        if not each.is_dir():
            each.mkdir()
            undo.callback(each.rmdir)


def _refuse(existing: Path) -> None:
    text = (
        f"{visible(existing)} is there already, and nothing was written; name a new folder, as in `wsworker init DIR`"
    )
    if existing.name == "app.py":
        text += "; for an app of your own, write config.yaml with `app: MODULE`"
    raise Failed("failed", text)
