"""The documentation is true: every link leads somewhere, and every block that is marked as runnable runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.consoles import Block, Session, appear, blocks, commands_of_this_python, fits, masked
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
)
RUNNABLE = [path for path in DOCUMENTS if list(blocks(path.read_text()))]

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<(?:a|img)\b[^>]*\b(?:href|src)=\"([^\"]+)\"")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    """Return how a document is called in the name of a test."""
    return path.relative_to(ROOT).as_posix()


def links(text: str) -> list[str]:
    """Return the targets of the links of a document that stand outside of its code."""
    prose = re.sub(r"`[^`]*`", "", _FENCED.sub("", text))
    return [first or second for first, second in _LINK.findall(prose)]


def anchors(text: str) -> set[str]:
    """Return the names under which the headings of a document can be reached, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links(document: Path) -> None:
    """Every relative link leads to a file of the repository, and to a heading in it if it names one."""
    text = document.read_text()
    for link in links(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file) if file else document
        assert target.exists(), f"{name_of(document)} links to {link}, which is not there"
        assert target.resolve().is_relative_to(ROOT), f"{name_of(document)} links to {link}, outside of the repository"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{name_of(document)} links to {link}: no such heading"


@pytest.mark.parametrize("document", RUNNABLE, ids=name_of)
@pytest.mark.timeout(180)
def test_runnable_blocks(document: Path, tmp_path: Path) -> None:
    """What a document tells its reader to type works, and prints what it says."""
    with Session(tmp_path, free_port(), commands_of_this_python()) as session:
        for block in blocks(document.read_text()):
            session.perform(block)


def test_the_first_documents_run() -> None:
    """The readme and the quickstart have blocks that run: a mark with a slip would make none of them run."""
    assert {"README.md", "docs/quickstart.md"} <= {name_of(path) for path in RUNNABLE}


def test_every_document_is_reachable() -> None:
    """From the readme, every page of the documentation can be reached by links."""
    seen, new = set[Path](), {ROOT / "README.md"}
    while new:
        page = new.pop()
        seen.add(page)
        for link in links(page.read_text()):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in seen:
                new.add(target)
    assert [] == [name_of(path) for path in DOCUMENTS if path not in seen]


# The tools themselves


def test_blocks() -> None:
    """A mark makes the block below it runnable; its commands know their lines and what stands below them."""
    text = "a\n<!-- run exit 1 -->\n```console\n$ one\n1\n\n$ two\n> x\n< y\n```\n```console\n$ not marked\n```\n"
    (block,) = blocks(text)
    assert Block(2, "run", "exit 1", ("$ one", "1", "", "$ two", "> x", "< y")) == block
    assert [(4, "one"), (7, "two")] == [(step.line, step.command) for step in block.steps]
    assert ("x",) == block.steps[1].typed
    assert ("< y",) == block.steps[1].printed


def test_a_mark_without_a_block_is_a_mistake() -> None:
    """It would silently run nothing."""
    with pytest.raises(AssertionError, match="no block below the mark"):
        list(blocks("<!-- run -->\n\n```console\n```\n"))


def test_masks() -> None:
    """Figures, ages, sizes and blanks do not count; words do."""
    assert masked("up 2m10s  pid 4242  27 MiB  0.5 msg/s") == masked("up 3s pid 1 1.5 GiB 12.25  msg/s")
    assert masked("1 connection") != masked("1 connections")


def test_comparing_lines() -> None:
    """Lines have to be the same in number and order; "..." stands for any; in the background they have to appear."""
    assert fits(["a 1", "...", "c"], ["a 2", "b", "b", "c"])
    assert fits(["...", "c"], ["c"])
    assert not fits(["a"], ["a", "b"])
    assert not fits(["a", "b"], ["a"])
    assert appear(["a", "c"], ["x", "a", "b", "c"])
    assert not appear(["c", "a"], ["x", "a", "b", "c"])


def test_a_wrong_transcript_is_found(tmp_path: Path) -> None:
    """A command that prints something else, or ends with another exit code, is an error that names its line."""
    with Session(tmp_path, 1, []) as session:
        session.perform(Block(1, "run", "", ("$ mkdir a && cd a", "$ basename $PWD", "a")))
        with pytest.raises(AssertionError, match="line 3: echo b"):
            session.perform(Block(1, "run", "", ("$ echo b", "c")))
        with pytest.raises(AssertionError, match="exit 3"):
            session.perform(Block(1, "run", "", ("$ exit 3",)))
        session.perform(Block(1, "run", "exit 3", ("$ exit 3",)))
        session.perform(Block(1, "file", "hello.txt", ("hello",)))
        session.perform(Block(1, "run", "", ("$ cat hello.txt", "hello", "$ read x; echo got $x", "> 7", "got 7")))
        session.perform(Block(1, "run", "background", ("$ tail -f hello.txt", "hello")))
