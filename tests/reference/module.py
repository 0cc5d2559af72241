"""docs/module.md: the callbacks of a user's module and the members of what they get, from signatures and docstrings."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator

from tests.reference.template import filled, folded, table
from wsworker.errors import Reject
from wsworker.protocol.frames import CloseCode
from wsworker.protocol.request import Address, Request
from wsworker.worker.app import FOREIGN_NAMES, SIGNATURES
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Worker
from wsworker.worker.timers import Timer

CALLBACKS = {
    "on_worker_start": (
        "After the import, before this worker takes connections: open pools, start timers.",
        "the worker counts as crashed; a reload is refused",
    ),
    "on_handshake": (
        "The request is complete, the answer is due within `websocket.open_timeout`. `raise Reject(403)` refuses.",
        "500 without details",
    ),
    "on_connect": ("The client is connected: `connection.send()` works from here on.", "`on_error`, then 1011"),
    "on_message": ("One whole message: `str` is text, `bytes` is binary.", "`on_error`, then 1011"),
    "on_close": (
        "The connection is over; once for each that reached on_connect. 1006 is an end without a close frame.",
        "`on_error`",
    ),
    "on_error": (
        "A callback of this connection raised; behind it the connection is closed with 1011. The worker lives on.",
        "logged",
    ),
    "on_handover": (
        (
            "The connection is about to move to another worker. Return a `dict` of JSON values, or None: what the new "
            "code is to know beside `connection.data`, which moves by itself."
        ),
        "it does not move: the client is told to reconnect (1012)",
    ),
    "on_resume": (
        (
            "The connection has come from another worker; `state` is what on_handover has returned, or `{}`. "
            "on_connect is not called again."
        ),
        "it does not move: the client is told to reconnect (1012)",
    ),
    "on_buffer_full": ("What waits for a slow client has reached `websocket.send_buffer`.", "`on_error`, then 1011"),
    "on_buffer_drain": ("All of it has been taken.", "`on_error`, then 1011"),
    "on_bus_gap": (
        "Messages of these topics (a frozenset of `str`) may be lost: load afresh what they told of.",
        "logged",
    ),
    "on_worker_reload": (
        "This worker is told to leave because of a reload; its connections are still there.",
        "logged",
    ),
    "on_worker_stop": ("The very last call: every connection is closed, every on_close done.", "logged"),
}
"""When each callback is called, and what an exception in it does, save calling on_error where there is a connection."""

MEMBERS: dict[type, tuple[str, ...]] = {
    Connection: (
        "send", "drain", "close", "terminate", "pause", "resume", "subscribe", "unsubscribe", "topics", "id", "user",
        "data", "request", "subprotocol", "remote", "worker", "buffered", "state",
    ),
    Worker: (
        "publish", "broadcast", "send_to", "close_user", "count", "every", "after", "id", "slot", "connections", "log",
    ),
    Request: ("path", "query", "headers", "cookies", "remote", "subprotocols"),
    Address: ("host", "port"),
    Timer: ("cancel",),
}  # fmt: skip
"""What a user may touch, in the order of importance."""

ATTRIBUTES: dict[type, dict[str, str]] = {
    Connection: {
        "id": "str",
        "data": "dict",
        "request": "Request",
        "subprotocol": "str | None",
        "remote": "Address",
        "worker": "Worker",
    },
    Worker: {"id": "int", "slot": "int", "connections": "Mapping[str, Connection]", "log": "logging.Logger"},
    Request: {"remote": "Address"},
    Address: {"host": "str", "port": "int"},
}
"""The types of what has no docstring of its own; the words on it stand in that of the class."""

_NAMES = re.compile(
    r"(?<![`\w.])(?:(?:websocket|bus|connection|worker)\.[a-z_]+|on_[a-z_]+|wsworker\.app|(?:resume|pause|close|send|"
    r"publish|subscribe|every|cancel)\(\))(?![`\w(])"
)

BASES = (asyncio.Protocol, Exception, object)
"""What these have is no member of ours."""


def document() -> str:
    """Return the page."""
    return filled(
        "module.md",
        {
            "callbacks": callbacks(),
            "foreign names": table(("you wrote", "it is"), ((f"`{a}`", f"`{b}`") for a, b in FOREIGN_NAMES.items())),
            "objects": "\n".join(entry(of) for of in MEMBERS),
            "reject": _docstring(Reject),
            "close codes": close_codes(),
        },
    )


def callbacks() -> str:
    """Return the table of callbacks. Raises ValueError if one is not described."""
    if list(SIGNATURES) != list(CALLBACKS):
        raise ValueError(f"the callbacks are {list(SIGNATURES)}, described are {list(CALLBACKS)}")
    rows = ((f"`{name}({', '.join(SIGNATURES[name])})`", *words) for name, words in CALLBACKS.items())
    return table(("callback", "when", "if it raises"), rows)


def entry(of: type) -> str:
    """Return what there is to know of one class. Raises ValueError if a member is missing or has no words."""
    summary, attributes = _class_words(of)
    found = public_members(of) | set(attributes)
    if found != set(MEMBERS[of]):
        raise ValueError(f"{of.__name__} has {sorted(found)}, described are {sorted(MEMBERS[of])}")
    lines = [f"### {of.__name__}\n", f"{summary}\n"]
    for name in MEMBERS[of]:
        lines += _member(of, name, attributes.get(name))
    return "\n".join(lines)


def public_members(of: type) -> set[str]:
    """Return the names that a user sees at the class."""
    return {name for name in dir(of) if not name.startswith("_") and not any(hasattr(base, name) for base in BASES)}


def _member(of: type, name: str, words: str | None) -> Iterator[str]:
    subject = of.__name__.lower()
    member = inspect.getattr_static(of, name, None)
    if inspect.isfunction(member):
        signature = inspect.signature(member)
        shown = _shown(signature.replace(parameters=list(signature.parameters.values())[1:]))
        wait = "await " if inspect.iscoroutinefunction(member) else ""
        yield f"#### `{wait}{subject}.{name}{shown}`\n"
        yield f"{_docstring(member)}\n"
        return
    getter = getattr(member, "func", None) or getattr(member, "fget", None)  # of a cached_property, or a property
    if getter is None:
        assert words is not None, f"the docstring of {of.__name__} says nothing of {name}"
        yield f"#### `{subject}.{name}: {ATTRIBUTES[of][name]}`\n"
        yield f"{_markdown(words[0].upper() + words[1:])}.\n"
        return
    yield f"#### `{subject}.{name}: {getter.__annotations__['return']}`\n"
    yield f"{_docstring(getter)}\n"
    if isinstance(member, property) and member.fset is not None:
        yield f"May be set. {_docstring(member.fset)}\n"


def _shown(signature: inspect.Signature) -> str:
    """Return a signature whose annotations have no quotes, though they are text."""

    class Bare(str):
        """A text that is shown as it is."""

        def __repr__(self) -> str:
            return str(self).replace("Data", "str | bytes")

    bare = [one.replace(annotation=Bare(one.annotation)) for one in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=Bare(signature.return_annotation)))


def _class_words(of: type) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a class's docstring, and of its second the words on each attribute."""
    summary, _, rest = (inspect.getdoc(of) or "").partition("\n\n")
    found = {}
    for piece in re.split(r"[;.] (?=[a-z_]+: )", " ".join(rest.split()).rstrip(".")):
        name, colon, words = piece.partition(": ")
        if colon and name.isidentifier():
            found[name] = words
    return _markdown(summary), found


def close_codes() -> str:
    """Return the table of the codes that have a name."""
    return table(("name", "code"), ((f"`CloseCode.{code.name}`", f"{code.value}") for code in CloseCode))


def _docstring(of: object) -> str:
    return _markdown(inspect.getdoc(of) or "")


def _markdown(text: str) -> str:
    """Return a docstring as Markdown, folded anew, with our names as code."""
    return folded(_NAMES.sub(r"`\g<0>`", text))
