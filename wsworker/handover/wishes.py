"""Wishes: what user code asks of a connection while it is between two workers, as bytes.

    u8 kind | what belongs to it

    0 text, 1 binary   a message             5 unsubscribe   the topic
    2 close            u16 code | reason     6 user          the name, nothing for None
    3 terminate        nothing               7 pause         nothing
    4 subscribe        the topic             8 resume        nothing

Texts are UTF-8. It comes from another worker of this machine, so what is wrong is a bug or another version: WireError.
"""

from __future__ import annotations

import struct
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from wsworker.errors import WireError

Kind: TypeAlias = Literal["text", "binary", "close", "terminate", "subscribe", "unsubscribe", "user", "pause", "resume"]
_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_CODE: Final = struct.Struct("!H")


class Wish(NamedTuple):
    """One of them. body: a message as it travels, a reason, or a name; code: of close."""

    kind: Kind
    body: bytes = b""
    code: int = 0

    @property
    def is_message(self) -> bool:
        """Whether it is one to be sent."""
        return self.kind in ("text", "binary")

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def encode(wish: Wish) -> bytes:
    """Return it as bytes."""
    code = _CODE.pack(wish.code) if wish.kind == "close" else b""
    return bytes([_KINDS.index(wish.kind)]) + code + wish.body


def decode(data: bytes) -> Wish:
    """Return the wish in these bytes. Raises WireError for anything else."""
    if not data or data[0] >= len(_KINDS):
        raise WireError(f"{data[:1].hex() or 'nothing'} is no wish")
    kind, body, code = _KINDS[data[0]], data[1:], 0
    if kind == "close":
        if len(body) < _CODE.size:
            raise WireError("a close without a code")
        (code,) = _CODE.unpack_from(body)
        body = body[_CODE.size :]
    if kind != "binary":
        try:
            body.decode()
        except UnicodeDecodeError:
            raise WireError(f"a {kind} that is not UTF-8") from None
    return Wish(kind, body, code)
