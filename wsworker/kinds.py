"""Kinds of settings: what a person may write for a time, a size, a number or a path, and the words for a refusal.

A kind is a type: it reads what was written (values.py), sets the bounds, and carries Takes, from which config.py makes
the one sentence of a refusal. What every section is, and how a field is declared, stands here as well, so that a file
of sections holds nothing but fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from wsworker import values as read
from wsworker.values import ListenAddress

DAY_SECONDS: Final = 24 * 3600.0
LEAST_WORKER_BYTES: Final = 32 * 1024**2


@dataclass(frozen=True)
class Takes:
    """What a field accepts, in words that fit behind "must be", and the unit of its normalised value or ""."""

    words: str
    unit: str = ""


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


Seconds: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(gt=0, le=DAY_SECONDS),
    Takes("a time above 0 and at most 24h, such as 30s", "seconds"),
]
SecondsOrZero: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(ge=0, le=DAY_SECONDS),
    Takes("0 or a time up to 24h, such as 20s", "seconds"),
]
BeatSeconds: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(ge=4, le=DAY_SECONDS),  # signs of life come and are read once a second; three missed ones are suspicious
    Takes("a time from 4s to 24h, such as 30s", "seconds"),
]
Bytes: TypeAlias = Annotated[
    int,
    BeforeValidator(read.size),
    Field(ge=1, le=read.GIB),
    Takes("a size from 1 to 1GiB, such as 1MiB or 65536", "bytes"),
]
AgeOrZero: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(ge=0, le=365 * DAY_SECONDS),
    Takes("0 or a time up to 8760h, such as 24h", "seconds"),
]
MemoryOrZero: TypeAlias = Annotated[
    int,
    BeforeValidator(read.size),
    AfterValidator(_off_or_room_for_a_worker),
    Field(le=1024 * read.GIB),
    Takes("0 or a size from 32MiB to 1024GiB, such as 512MiB", "bytes"),
]
BytesPerSecond: TypeAlias = Annotated[
    int,
    BeforeValidator(read.size),
    Field(ge=0, le=read.GIB),
    Takes("0 or a size up to 1GiB, such as 64KiB", "bytes"),
]
PerSecond: TypeAlias = Annotated[
    int, Field(ge=0, le=1_000_000), Takes("0 or a number for each second, up to 1000000", "a second")
]
Limit: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000), Takes("0 or a number up to 1000000", "connections")]
FileOrNull: TypeAlias = Annotated[Annotated[str, in_folder(read.path)] | None, Takes("the path of a file, or null")]
Address: TypeAlias = Annotated[
    ListenAddress, BeforeValidator(lambda value, info: read.listen_address(value, folder_of(info)))
]


def setting(default: Any, description: str, *, reload: bool = True) -> Any:
    """Declare a field; reload says whether a reload applies a changed value or a restart has to."""
    return Field(default=default, description=description, json_schema_extra={"reload": reload})


class Section(BaseModel):
    """A part of the configuration that never changes and knows no other keys than its fields."""

    # strict: the YAML reader has found the type already, so "4" where a number is due is a slip and True is no 1
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
