"""The references of docs/ are what would be written now, and what they say of YAML is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from tests.reference import commands, configuration, module
from tests.reference.documents import DOCS, DOCUMENTS
from tests.reference.template import filled, table
from wsworker.cli.main import COMMANDS
from wsworker.config import KEYS, SECTIONS, Config
from wsworker.configfile import AS_WRITTEN
from wsworker.judging import validate
from wsworker.schema import document as schema
from wsworker.worker.app import SIGNATURES
from wsworker.worker.hub import Worker
from wsworker.yamlfile import Items, Node, Scalar, Table, read

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_is_current(name: str) -> None:
    """Each reference is what the program says today."""
    path = DOCS / name
    found = path.read_text(encoding="utf-8") if path.is_file() else ""
    assert DOCUMENTS[name]() == found, "renew it: python -m tests.reference --write"


def test_every_key_has_an_entry() -> None:
    """Each key is in the table, and its link leads to its entry."""
    text = configuration.document()
    for key in KEYS:
        assert f"[`{key}`](#{configuration.anchor(key)})" in text
        assert f"\n### `{key}`\n" in text
    anchors = [configuration.anchor(key) for key in KEYS]
    assert len(anchors) == len(set(anchors))


def test_an_entry() -> None:
    """An entry says what a key means and takes, its default, who applies it, its variable, and other words for it."""
    expected = """\
### `websocket.ping_interval`

Time between pings to a client; 0 sends none.

- Takes 0 or a time up to 24h, such as 20s (kept in seconds).
- Default: `20s`
- A change needs a reload.
- Variable: `WSWORKER_WEBSOCKET__PING_INTERVAL`
- Elsewhere: uvicorn `--ws-ping-interval`
"""
    assert expected == configuration.entry("websocket.ping_interval")
    assert "  - `asyncio`: the one that comes with Python\n" in configuration.entry("loop")
    assert "\n- A change needs a **restart**.\n" in configuration.entry("listen")


def test_every_command_has_an_entry() -> None:
    """Each command is there with its usage, its exit codes and an example."""
    text = commands.document()
    for name in COMMANDS:
        assert f"\n### {name}\n\n```text\nwsworker {name} " in text
        entry = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert "Exit codes: 0 " in entry, name
        assert "\n$ wsworker " in entry or "\n$ " in entry, name


def test_every_member_has_words() -> None:
    """Each member of the objects is there with its signature."""
    text = module.document()
    for of, names in module.MEMBERS.items():
        for name in names:
            assert re.search(rf"\n#### `(await )?{of.__name__.lower()}\.{name}[:(].*`\n\n[A-Z0-9]", text), name
    assert "#### `connection.close(code: int = 1000, reason: str = '') -> None`" in text
    assert "#### `connection.user: str | None`" in text


def test_a_member_that_is_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new member of an object, or a new callback, cannot be forgotten."""
    monkeypatch.setattr(Worker, "later", lambda self: None, raising=False)
    with pytest.raises(ValueError, match=r"Worker has .*'later'"):
        module.entry(Worker)
    monkeypatch.setitem(SIGNATURES, "on_later", ())
    with pytest.raises(ValueError, match="on_later"):
        module.callbacks()


def test_a_template_and_its_parts(tmp_path: Path) -> None:
    """A place without a part, and a part without a place, are noticed."""
    with pytest.raises(ValueError, match=r"commands.md has the places"):
        filled("commands.md", {"overview": ""})


def test_a_table() -> None:
    """A | in a cell does not end it."""
    assert "| a | b |\n| --- | --- |\n| x\\|y | z |" == table(("a", "b"), [("x|y", "z")])


# YAML in the documentation


def yaml_blocks() -> Iterator[tuple[str, str]]:
    """Yield each block of YAML in the documentation, with the place of its first line.

    A file whose name begins with "wrong" is meant to be: the commands below it show what is said of it.
    """
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in re.finditer(r"^(?:<!-- file (\S+) -->\n)?```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if not (block[1] or "").startswith("wrong"):
                yield f"{path.name}:{text.count(chr(10), 0, block.start(2)) + 1}", block[2]


def is_config(node: Node | None) -> bool:
    """Say whether a document looks like a config file, or a part of one: its keys are ours."""
    return isinstance(node, Table) and bool({*KEYS, *SECTIONS} & node.entries.keys())


def raw(node: Node) -> object:
    """Return a node as validate wants it."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return tuple(map(raw, node.nodes))
        case Table():
            return {name: raw(entry.node) for name, entry in node.entries.items()}
        case _:
            raise AssertionError("a fault")


BLOCKS = [(place, block) for place, block in yaml_blocks() if is_config(read(block).root)]


def test_there_are_blocks() -> None:
    """The search finds the blocks that this page of the documentation is known to have."""
    assert len([place for place, _ in BLOCKS if place.startswith("configuration.md:")]) >= 3


@pytest.mark.parametrize(("place", "block"), BLOCKS, ids=[place for place, _ in BLOCKS])
def test_yaml_in_the_documentation(place: str, block: str) -> None:
    """Each config that the documentation shows loads, and no editor underlines any of it."""
    document = read(block)
    assert not document.faults
    assert isinstance(document.root, Table)
    values: dict[str, object] = {"app": "app"}
    for name, entry in document.root.entries.items():
        if name in SECTIONS and isinstance(entry.node, Table):
            for key, one in entry.node.entries.items():
                values[f"{name}.{key}"] = as_written(f"{name}.{key}", one.node)
        else:
            values[name] = as_written(name, entry.node)
    assert not values.keys() - KEYS.keys()
    judged = validate(values, "/srv/app")
    assert isinstance(judged, Config), judged
    shown = {name: plain(raw(entry.node)) for name, entry in document.root.entries.items()}
    assert [] == [fault.message for fault in Draft7Validator(schema()).iter_errors({"app": "app"} | shown)]


def as_written(key: str, node: Node) -> object:
    """Return a value for validate; modes and versions as they stand there."""
    return node.text if isinstance(node, Scalar) and key in AS_WRITTEN else raw(node)


def plain(value: object) -> object:
    """Return a value with lists, as an editor has it."""
    match value:
        case tuple():
            return [plain(one) for one in value]
        case dict():
            return {name: plain(one) for name, one in value.items()}
        case _:
            return value
