"""Row 29: nothing that runs code out of data is anywhere in wsworker, and JSON from strangers is bounded."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import PACKAGE
from tests.system.faults.mischief import call, read_lines
from tests.system.security.hostile import ECHO, steadfast

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "joblib"}
# they pickle what they send
MODULES |= {"multiprocessing", "xmlrpc", "concurrent.futures.process"}
FUNCTIONS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "full_load"),
    ("yaml", "full_load_all"),
    ("yaml", "unsafe_load"),
    ("yaml", "unsafe_load_all"),
    ("os", "system"),
    ("os", "popen"),
    ("logging.config", "listen"),
}
LOADERS = {"Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader", "CFullLoader"}


def dangers(source: str) -> Iterator[str]:
    """Yield a sentence for each thing in a source file that makes code or objects out of data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno}: imports {one.name}" for one in node.names if is_danger(one.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            if is_danger(node.module):
                yield f"{node.lineno}: imports from {node.module}"
            for one in node.names:
                if is_danger(f"{node.module}.{one.name}") or (node.module, one.name) in METHODS:
                    yield f"{node.lineno}: imports {one.name} of {node.module}"
        elif isinstance(node, ast.Attribute):
            if node.attr in LOADERS or (ast.unparse(node.value), node.attr) in METHODS:
                yield f"{node.lineno}: uses {ast.unparse(node)}"
        elif isinstance(node, ast.Name) and node.id in FUNCTIONS:
            yield f"{node.lineno}: uses {node.id}"
        elif isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False":
            yield f"{node.value.lineno}: uses a shell"


def is_danger(module: str) -> bool:
    """Whether a module, or what it is a part of, is one of those."""
    return any(module == name or module.startswith(f"{name}.") for name in MODULES)


def test_row_29_no_code_out_of_data() -> None:
    """No file of the package reads pickles or the like, evaluates text, or hands text to a shell."""
    files = [*PACKAGE.rglob("*.py")]
    assert len(files) > 50
    found = [f"{file.relative_to(PACKAGE)}:{danger}" for file in files for danger in dangers(file.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import json, marshal as m",
        "from shelve import open",
        "from concurrent.futures import process",
        "import multiprocessing.pool",
        "def f():\n    import cloudpickle",
        "eval('1')",
        "run = exec",
        "compile(text, 'f', 'exec')",
        "__import__(name)",
        "yaml.load(text, Loader=SafeLoader)",
        "from yaml import load",
        "yaml.parse(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_row_29_the_scan_finds(source: str) -> None:
    """Each way to do it is found, also within a function or under another name."""
    assert [*dangers(source)]


def test_row_29_the_scan_lets_pass() -> None:
    """What only looks like it is none of these."""
    harmless = (
        "import re, yaml\nre.compile('x')\nyaml.safe_load(x)\nyaml.SafeLoader\nself.load()\nrun(x, shell=False)\n"
    )
    assert [] == [*dangers(harmless)]


def test_row_29_json_from_strangers(make_daemon: MakeDaemon) -> None:
    """What is deep, endless or huge at the control socket is an error to that caller and nothing to the master."""
    with steadfast(make_daemon(ECHO)) as daemon:
        for rubbish in (
            b"[" * 60_000 + b"\n",
            b'{"a":' * 10_000 + b"\n",
            b'{"command": ' + b"9" * 50_000 + b"}\n",
            b'{"command": 1e999999999}\n',
            b'{"command": NaN, "command": "stop"}\n',
            b"[" * 2**20,
            b'"' + b"\\ud800" * 5000 + b'"\n',
        ):
            with call(daemon) as sock:
                try:
                    sock.sendall(rubbish)
                    (reply,) = read_lines(sock)
                except OSError:
                    continue
                assert b'"error"' in reply
        assert "on" == daemon.echo("on")
        assert "Traceback" not in daemon.log
