"""docs/configuration.md: every key, from the models."""

from __future__ import annotations

from collections.abc import Iterator

from tests.reference.template import filled, table
from wsworker.config import KEYS, SECTIONS, Config, applies_on_reload, takes
from wsworker.configfile import PREFIX
from wsworker.schema import document as schema
from wsworker.spelling import FOREIGN, NOT_KEYS
from wsworker.writing import as_yaml

SCHEMA = schema()
UNITS = ("seconds", "bytes")
"""The units of raw numbers, as they stand in the output of --json; the others say no more than the name."""


def document() -> str:
    """Return the page."""
    foreign = table(("word", "here"), ((f"`{word}`", advice) for word, advice in NOT_KEYS.items()))
    return filled(
        "configuration.md", {"overview": overview(), "keys": "\n".join(_sections()), "foreign words": foreign}
    )


def overview() -> str:
    """Return the table of all keys, each a link to its entry."""
    rows = (
        (f"[`{key}`](#{anchor(key)})", f"`{_default(key)}`", "reload" if applies_on_reload(key) else "restart")
        for key in KEYS
    )
    return table(("key", "default", "a change needs a"), rows)


def anchor(key: str) -> str:
    """Return the anchor that GitHub makes of a heading with this key: lower case, without dots."""
    return key.replace(".", "")


def _sections() -> Iterator[str]:
    yield "## Service\n\nKeys of the top level.\n"
    yield from (entry(key) for key in KEYS if "." not in key)
    for section in SECTIONS:
        yield f"## {section}\n\n{Config.model_fields[section].description}\n"
        yield from (entry(key) for key in KEYS if key.startswith(f"{section}."))


def entry(key: str) -> str:
    """Return what there is to know of one key."""
    words = takes(key)
    unit = f" (kept in {words.unit})" if words.unit in UNITS else ""
    lines = [f"### `{key}`\n", f"{KEYS[key].description}\n", f"- Takes {words.words}{unit}."]
    lines += [f"  - `{choice}`: {meaning}" for choice, meaning in words.choices.items()]
    lines.append(f"- Default: {f'`{_default(key)}`' if not KEYS[key].is_required() else 'none, it has to be set'}")
    if examples := _examples(key):
        lines.append(f"- For example: {', '.join(f'`{example}`' for example in examples)}")
    lines.append(f"- A change needs a {'reload' if applies_on_reload(key) else '**restart**'}.")
    lines.append(f"- Variable: `{variable(key)}`")
    if elsewhere := ", ".join(_elsewhere(key)):
        lines.append(f"- Elsewhere: {elsewhere}")
    return "\n".join([*lines, ""])


def variable(key: str) -> str:
    """Return the environment variable of a key."""
    return PREFIX + key.upper().replace(".", "__")


def _default(key: str) -> str:
    # null says better than "" that the name is the folder's
    default = None if key == "name" else KEYS[key].default
    return "" if KEYS[key].is_required() else as_yaml(default, takes(key).unit)


def _examples(key: str) -> list[str]:
    found = SCHEMA
    for name in key.split("."):
        found = found["properties"][name]
    return [as_yaml(tuple(one) if isinstance(one, list) else one, "") for one in found.get("examples", [])]


def _elsewhere(key: str) -> Iterator[str]:
    for program, words in FOREIGN.items():
        written = [
            f"`--{word.replace('_', '-')}`" if program == "uvicorn" else f"`{word}`" for word in words.get(key, ())
        ]
        if written:
            yield f"{program} {' '.join(written)}"
