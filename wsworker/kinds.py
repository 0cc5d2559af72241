"""Kinds of settings: what a person may write for a time, a size, a number or a path, and the words for a refusal.

A kind is a type: it reads what was written (values.py), sets the bounds, and carries Takes, from which config.py makes
the one sentence of a refusal. What every section is, and how a field is declared, stands here as well, so that a file
of sections holds nothing but fields.

A JSON Schema (schema.py) is about what is written, and pydantic knows what comes out of it: OrText, OrAlone and
text_schema tell it the difference. The bounds stand in a Field next to the bare type, in front of the reader, where
pydantic knows their names in a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from wsworker import values as read
from wsworker.values import ListenAddress

DAY_SECONDS: Final = 24 * 3600.0
LEAST_WORKER_BYTES: Final = 32 * 1024**2


@dataclass(frozen=True)
class Takes:
    """What a field accepts, in words that fit behind "must be", and the unit of its normalised value or "".

    choices: from each word that can be chosen to what it means, for a field that has such words; shown: how a value
    that is refused looks in the sentence about it.
    """

    words: str
    unit: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    shown: Callable[[object], str] = read.shown


@dataclass(frozen=True)
class OrText:
    """Lets a schema take text of this form as well. pattern: of a regular expression without flags."""

    pattern: str

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(core), {"type": "string", "pattern": self.pattern}]}


@dataclass(frozen=True)
class OrAlone:
    """Lets a schema of a list take one item without a list as well. least: items that the list must have."""

    least: int = 0

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        several = handler(core)
        bounds = {"uniqueItems": True} | ({"minItems": self.least} if self.least else {})
        return {"anyOf": [several["items"], several | bounds]}


def text_schema(pattern: str) -> WithJsonSchema:
    """Return the schema of text that has a form. pattern: of a regular expression without flags."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


def in_any_case(word: str) -> str:
    """Return a pattern that takes a word in capitals, small letters or both: a schema has no flag for that."""
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in word)


def in_folder(reader: Callable[[str, str], str], word: str | None = None) -> AfterValidator:
    """Make a check of a path, which is told the folder of the config file; word is a value that is no path."""

    def check(value: str, info: ValidationInfo) -> str:
        return value if value == word else reader(value, folder_of(info))

    return AfterValidator(check)


def folder_of(info: ValidationInfo) -> str:
    """Return the folder of the config file; "" outside of a file."""
    return info.context["folder"] if info.context else ""


def _off_or_room_for_a_worker(size: int) -> int:
    # below what a worker without any client needs, workers would be replaced for ever
    if size != 0 and size < LEAST_WORKER_BYTES:
        raise ValueError
    return size


# what values.py reads, as far as a pattern can tell
TIME_TEXT: Final = r"^[0-9]{1,9}(\.[0-9]{1,9})?\s?([mM]?[sS]|[mMhH])?$"
SIZE_TEXT: Final = r"^[0-9]{1,15}\s?([kKmMgG]([iI][bB])?)?$"
PATH_TEXT: Final = "^."
MODE_TEXT: Final = "^0o?[0-7]{1,4}$"
FORWARDED_TEXT: Final = f"^({in_any_case('x-forwarded-for')}|{in_any_case('forwarded')})$"
NETWORK_TEXT: Final = r"^(unix|\*|[0-9a-fA-F.:]+(%[^%/]+)?(/[0-9.]+)?)$"
ADDRESS_TEXT: Final = r"^(unix:[^@].*|([0-9.]+|\[[^\]]+\]):[0-9]{1,5})$"

Seconds: TypeAlias = Annotated[
    float,
    Field(gt=0, le=DAY_SECONDS),
    BeforeValidator(read.seconds),
    OrText(TIME_TEXT),
    Takes("a time above 0 and at most 24h, such as 30s", "seconds"),
]
SecondsOrZero: TypeAlias = Annotated[
    float,
    Field(ge=0, le=DAY_SECONDS),
    BeforeValidator(read.seconds),
    OrText(TIME_TEXT),
    Takes("0 or a time up to 24h, such as 20s", "seconds"),
]
BeatSeconds: TypeAlias = Annotated[
    float,
    Field(ge=4, le=DAY_SECONDS),  # signs of life come and are read once a second; three missed ones are suspicious
    BeforeValidator(read.seconds),
    OrText(TIME_TEXT),
    Takes("a time from 4s to 24h, such as 30s", "seconds"),
]
Bytes: TypeAlias = Annotated[
    int,
    Field(ge=1, le=read.GIB),
    BeforeValidator(read.size),
    OrText(SIZE_TEXT),
    Takes("a size from 1 to 1GiB, such as 1MiB or 65536", "bytes"),
]
AgeOrZero: TypeAlias = Annotated[
    float,
    Field(ge=0, le=365 * DAY_SECONDS),
    BeforeValidator(read.seconds),
    OrText(TIME_TEXT),
    Takes("0 or a time up to 8760h, such as 24h", "seconds"),
]
MemoryOrZero: TypeAlias = Annotated[
    int,
    Field(ge=0, le=1024 * read.GIB),
    BeforeValidator(read.size),
    AfterValidator(_off_or_room_for_a_worker),
    OrText(SIZE_TEXT),
    Takes("0 or a size from 32MiB to 1024GiB, such as 512MiB", "bytes"),
]
BytesPerSecond: TypeAlias = Annotated[
    int,
    Field(ge=0, le=read.GIB),
    BeforeValidator(read.size),
    OrText(SIZE_TEXT),
    Takes("0 or a size up to 1GiB, such as 64KiB", "bytes"),
]
PerSecond: TypeAlias = Annotated[
    int, Field(ge=0, le=1_000_000), Takes("0 or a number for each second, up to 1000000", "a second")
]
Limit: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000), Takes("0 or a number up to 1000000", "connections")]
FilePath: TypeAlias = Annotated[str, in_folder(read.path), text_schema(PATH_TEXT)]
FileOrNull: TypeAlias = Annotated[FilePath | None, Takes("the path of a file, or null")]
Address: TypeAlias = Annotated[
    ListenAddress,
    BeforeValidator(lambda value, info: read.listen_address(value, folder_of(info))),
    text_schema(ADDRESS_TEXT),
]


Mode: TypeAlias = Annotated[
    int,
    Field(ge=1, le=0o777),
    BeforeValidator(read.mode),
    # 022 without quotes is the number 22 to an editor, and the mode 022 to us
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": MODE_TEXT}, {"type": "integer", "minimum": 1, "maximum": 777}]}
    ),
    Takes('an octal mode from "0001" to "0777", such as "0027"', "mode"),
]
GROUP_MODE: Final = 0o660
"""The SocketMode that lets a group give commands."""
SocketMode: TypeAlias = Annotated[
    Literal[0o600, 0o660],
    BeforeValidator(read.mode),
    # the words are what an editor offers, the others what it lets pass
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["0600", "0660"]},
                {"type": "string", "pattern": "^0o?6[06]0$"},
                {"type": "integer", "minimum": 0o600, "maximum": 660},
            ]
        }
    ),
    Takes(
        '"0600", or "0660" for the group of the service too',
        "mode",
        {"0600": "root and the user of the service", "0660": "everybody in the group of its workers as well"},
    ),
]
ForwardedHeader: TypeAlias = Annotated[
    Literal["x-forwarded-for", "forwarded"],
    BeforeValidator(read.lower),
    WithJsonSchema(
        {"anyOf": [{"enum": ["x-forwarded-for", "forwarded"]}, {"type": "string", "pattern": FORWARDED_TEXT}]}
    ),
    Takes(
        "x-forwarded-for or forwarded",
        "",
        {"x-forwarded-for": "as nginx, HAProxy and most others do", "forwarded": "RFC 7239"},
    ),
]


def setting(default: Any, description: str, *, reload: bool = True, examples: Sequence[object] = ()) -> Any:
    """Declare a field.

    reload: whether a reload applies a changed value or a restart has to; examples: other values, as they are written.
    """
    return Field(
        default=default, description=description, json_schema_extra={"reload": reload}, examples=list(examples) or None
    )


class Section(BaseModel):
    """A part of the configuration that never changes and knows no other keys than its fields."""

    # strict: the YAML reader has found the type already, so "4" where a number is due is a slip and True is no 1
    # hide_input_in_errors: what is refused may be a URL with its password, and code lets pydantic's own error through
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
