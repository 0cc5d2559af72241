"""The JSON Schema of config.yaml, for editors: completion, hover texts, and wrong values underlined as they are typed.

It is made from the models, so it cannot know more than they do, and what it says of a value is what a person writes:
"30s" and not 30.0. It is kinder than the models where JSON Schema has no words (that an address is one of this machine,
that two keys fit together) and never stricter: what it underlines does not load.

Draft 7, which is what yaml-language-server reads. enumDescriptions is its own keyword: the text beside a word that can
be chosen. Others pass over it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from wsworker.config import KEYS, Config, applies_on_reload, takes
from wsworker.writing import as_yaml, written

DRAFT: Final = "http://json-schema.org/draft-07/schema#"


def document() -> dict[str, Any]:
    """Return the schema, as json.dumps takes it."""
    made = Config.model_json_schema()
    sections = made["$defs"]
    properties = {}
    for name, field in Config.model_fields.items():
        if name in KEYS:
            properties[name] = _of_key(name, made["properties"][name])
        else:
            section = sections[field.annotation.__name__] if field.annotation else {}
            properties[name] = _of_section(name, section)
    return {
        "$schema": DRAFT,
        "title": "config.yaml of wsworker",
        "description": "What a service listens on, how many workers it has, and what its clients may do.",
        "type": "object",
        "required": made["required"],
        "additionalProperties": False,
        "properties": properties,
    }


def text() -> str:
    """Return the schema as a file: config/config.schema.json, and what `wsworker schema` prints."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _of_section(name: str, made: dict[str, Any]) -> dict[str, Any]:
    # null: a section whose keys are all commented out is empty
    return {
        "description": made["description"],
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {key: _of_key(f"{name}.{key}", schema) for key, schema in made["properties"].items()},
    }


def _of_key(key: str, made: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one key. made: pydantic's, of the value that a Config has."""
    field, words = KEYS[key], takes(key)
    kept = {name: value for name, value in made.items() if name not in ("title", "default", "reload")}
    schema = _without_titles(kept) | {"description": _hover(key)}
    if not field.is_required():
        schema["default"] = written(_default(key), words.unit)
    return _with_meanings(schema, words.choices)


def _default(key: str) -> object:
    # the name that is no name: null says so better than ""
    return None if key == "name" else KEYS[key].default


def _hover(key: str) -> str:
    default = "none, required" if KEYS[key].is_required() else as_yaml(_default(key), takes(key).unit)
    applied = "reload" if applies_on_reload(key) else "restart"
    return f"{KEYS[key].description}\n\nTakes: {takes(key).words}\nDefault: {default}\nApplied by: {applied}"


def _without_titles(schema: Any) -> Any:
    """Return a part of a schema without the titles that pydantic makes of the names of keys."""
    match schema:
        case dict():
            return {name: _without_titles(part) for name, part in schema.items() if name != "title"}
        case list():
            return [_without_titles(part) for part in schema]
        case _:
            return schema


def _with_meanings(schema: dict[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema with the meaning of each word beside its enum, wherever that stands."""
    if choices:
        branches = [schema, *schema.get("anyOf", [])]
        branch = next(branch for branch in branches if set(choices) == set(branch.get("enum", ())))
        branch["enumDescriptions"] = [choices[word] for word in branch["enum"]]
    return schema
