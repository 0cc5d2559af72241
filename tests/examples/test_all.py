"""What holds for each example: its files, its length, its config, its own tests, and pages that load nothing else."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import lacking
from tests.examples.conftest import MakeExample
from tests.examples.example import EXAMPLES, NAMES
from tests.examples.test_wss import give_certificate
from wsworker.configfile import load

FILES = ("README.md", "app.py", "config.yaml", "public/index.html", "public/style.css", "test_app.py")
MOST_LINES = 39
HEADER = "# yaml-language-server: $schema=../../config/config.schema.json\n"
FOREIGN = re.compile(r"""(?:https?:|wss?:)?//[\w.\[]|@import|url\(""")
UNSAFE = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")


def test_each_is_listed() -> None:
    """examples/README.md links to each example and to nothing else, in the order to learn from; so do these tests."""
    text = (EXAMPLES / "README.md").read_text()
    assert list(NAMES) == re.findall(r"^\| \[(\w+)\]\(\1/README\.md\) \|", text, re.MULTILINE)
    assert {*NAMES} == {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    tests = Path(__file__).parent
    assert [] == [name for name in NAMES if not (tests / f"test_{name}.py").is_file()]


@pytest.mark.parametrize("name", NAMES)
def test_files(name: str) -> None:
    """Each has its files; app.py is short; README.md says how to run and to try it; common files are the same."""
    folder = EXAMPLES / name
    assert [] == [file for file in FILES if not (folder / file).is_file()]
    assert len((folder / "app.py").read_text().splitlines()) <= MOST_LINES
    readme = (folder / "README.md").read_text().splitlines()
    assert f"# {name}" == readme[0]
    assert [] == [heading for heading in ("## Run it", "## Try it") if heading not in readme]
    assert 15 <= len(readme) <= 33
    for common in ("style.css", "reconnect.js"):
        own = folder / "public" / common
        if own.exists():
            assert (EXAMPLES / "hello" / "public" / common).read_text() == own.read_text(), own


@pytest.mark.parametrize("name", NAMES)
def test_pages(name: str) -> None:
    """No page names another host, is fed foreign markup, or lacks what every page of the examples has."""
    for file in (EXAMPLES / name / "public").iterdir():
        text = file.read_text()
        assert None is FOREIGN.search(re.sub(r"(?m)(?<!:)//\s.*$", "", text)), file
        assert None is UNSAFE.search(text), file
        if file.suffix == ".html":
            assert text.startswith('<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'), file
            assert '<link rel="icon" href="data:,">' in text, file
            assert '<link rel="stylesheet" href="style.css">' in text, file
            assert f"<title>{name}" in text, file


@pytest.mark.parametrize("name", NAMES)
def test_config(name: str, make_example: MakeExample) -> None:
    """Each config has the line for editors, the example's name, four workers, and the port that the document says."""
    example = make_example(name)
    if name == "wss":
        give_certificate(example)
    file = example.config
    assert file.read_text().startswith(HEADER)
    config = load(file, {}, {}).config
    port = 9999 if name == "broadcast" else 2346
    assert (name, 4, f"127.0.0.1:{port}") == (config.name, config.workers, str(config.listen[0]))
    assert ("localhost", "127.0.0.1") == config.http.allowed_hosts


@pytest.mark.parametrize("name", NAMES)
def test_check(name: str, make_example: MakeExample) -> None:
    """`wsworker check` finds nothing to say against it, not even a warning."""
    example = make_example(name)
    if name == "publisher":
        need_module("django")
        (example.folder / "secret.key").write_text("a key")
    if name == "wss":
        give_certificate(example)
    settings = yaml.safe_load(example.config.read_text())
    # whatever else runs on this machine
    example.change(f"listen: {settings['listen']}", f"listen: 127.0.0.1:{example.port}", "config.yaml")
    checked = example.cli("check")
    assert 0 == checked.code, checked.err
    # what it says of this machine, and not of the example
    ours = [line for line in (checked.out + checked.err).splitlines() if re.match("warning: config.yaml:", line)]
    assert [] == ours


@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests(name: str, make_example: MakeExample) -> None:
    """The tests beside each app pass, run as a user would: pytest in that folder."""
    if name == "publisher":
        need_module("django")
    example = make_example(name)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=example.folder,
        env={**os.environ, **example.environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def need_module(name: str) -> None:
    """Skip a test where a package is not installed that only an example needs."""
    if importlib.util.find_spec(name) is None:
        lacking(f"the package {name} is not installed", name)
