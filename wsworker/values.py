"""What a person writes in a setting, read into the value that the program uses: times, sizes, modes, addresses, paths.

Each function takes one value as the YAML reader made it and returns the normalised one: float seconds, int bytes, an
int mode, a ListenAddress, an absolute path. config.py says which setting has which kind and between which bounds.

A refusal is a ValueError. Its text is a hint for the next step, put behind "KEY must be ..., not VALUE; ", or is empty
when that says enough. A Sentence is a ValueError whose text follows the key alone, for all that is no wrong spelling.
A type that a function does not read is passed on as it is: the model refuses it.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import dataclass
from typing import Final, TypeVar

from wsworker import brokers

GIB: Final = 1024**3
SOCKET_PATH_BYTES: Final = 107  # sun_path has 108, one of them the closing NUL (unix(7))
SHOWN_CHARS: Final = 60
MAX_PREFIX_CHARS: Final = 64
PREFIX_WORDS: Final = "words with a colon behind each, such as chat:"

_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?(ms|s|m|h|)", re.IGNORECASE)
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]{1,15})\s?(?:([kmg])(?:ib)?)?", re.IGNORECASE)
_SIZE_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": GIB}
_DECIMAL_SIZE = re.compile(r"[0-9.]+\s?([kmg])b", re.IGNORECASE)
_MODE = re.compile(r"0o?[0-7]{0,4}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
# RFC 6455 section 4.1, item 10: the characters U+0021 to U+007E without the separators of RFC 2616 section 2.2
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_HOST = re.compile(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_URL_PATH = re.compile(r"/[!-\"$->@-~]*")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-]+:)+")
_CHANNEL_WORDS: Final = ("topic", "user", "broadcast", "service")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

Value = TypeVar("Value")


class Sentence(ValueError):
    """A refusal whose text, put behind the key, is the whole sentence."""


@dataclass(frozen=True)
class ListenAddress:
    """Where clients connect: host and port, or path for a unix socket (then host is "" and port 0).

    host: an IP address without brackets; port: 1 to 65535; path: absolute in a loaded Config, "" for TCP.
    """

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a client would write it."""
        return f"ws+{self}" if self.path else f"ws://{self}"


@dataclass(frozen=True)
class ProxiedAddress:
    """An address of `listen` whose clients begin with a PROXY protocol header of this version: "v1" or "v2"."""

    address: ListenAddress
    version: str

    def __str__(self) -> str:
        return f"{self.address}={self.version}"


def seconds(value: object) -> object:
    """Return seconds for "30s", "250ms", "5m", "1h" or "30"."""
    if not isinstance(value, str):
        return value
    match = _TIME.fullmatch(value)
    if not match:
        raise ValueError("the units are ms, s, m and h")
    return float(match[1]) * _TIME_UNITS[match[2].lower()]


def size(value: object) -> object:
    """Return bytes for "64KiB", "64k", "1MiB", "1g" or "65536"; k, m and g mean powers of 1024, as in nginx."""
    if not isinstance(value, str):
        return value
    if decimal := _DECIMAL_SIZE.fullmatch(value):
        raise ValueError(f"use {decimal[1].upper()}iB")
    match = _SIZE.fullmatch(value)
    if not match:
        raise ValueError("it is a whole number, perhaps with KiB, MiB or GiB behind it")
    return int(match[1]) * _SIZE_UNITS[(match[2] or "").lower()]


def mode(value: object) -> object:
    """Return a file mode for "0027", "027" or "0o27"; a number is the mode itself."""
    if not isinstance(value, str):
        return value
    # without the leading zero nobody can tell 22 from 022
    if not _MODE.fullmatch(value):
        raise ValueError("write it with a leading 0")
    return int(value.replace("o", ""), 8)


def service_name(value: str) -> str:
    """Return a name that is fit for a file name, a process title and a log tag."""
    if not _NAME.fullmatch(value):
        raise ValueError
    return value


def app(value: str) -> str:
    """Return "module" or "module:attribute", both of them dotted names; imports nothing."""
    if value.endswith(".py"):
        module = value.removesuffix(".py").rpartition("/")[2]
        raise ValueError(f"write the module's name, {module}, and its folder in app_dir")
    if value.endswith("()"):
        raise ValueError("leave out ()")
    module, colon, attribute = value.partition(":")
    parts = module.split(".") + (attribute.split(".") if colon else [])
    if not all(part.isidentifier() for part in parts):
        raise ValueError
    return value


def path(value: str, folder: str) -> str:
    """Return the path, which starts at folder unless it is absolute; with folder "" it may stay relative."""
    if not value:
        raise ValueError
    # posixpath works on text alone; normpath takes the ".." of "../app" out, as a shell's cd does
    return posixpath.normpath(posixpath.join(folder, value))


def socket_path(value: str, folder: str) -> str:
    """Return the path of a unix socket, as path() does, if the kernel can take it."""
    full = path(value, folder)
    length = len(full.encode())
    if length > SOCKET_PATH_BYTES:
        raise Sentence(f"has a socket path of {length} bytes, Linux takes {SOCKET_PATH_BYTES}; choose a shorter one")
    return full


def listen_address(value: object, folder: str) -> ListenAddress:
    """Return the address in "127.0.0.1:2346", "[::]:2346" or "unix:hello.ws"."""
    if isinstance(value, ListenAddress):
        return value
    if not isinstance(value, str):
        raise ValueError
    if value.startswith("unix:@"):
        raise ValueError("an abstract socket would be open to every local user, give a path")
    if value.startswith("unix:"):
        return ListenAddress("", 0, socket_path(value.removeprefix("unix:"), folder))
    if url := re.fullmatch(r"([A-Za-z]+://)([^/]*)(/.*)?", value):
        # what is wrong with the rest is told first
        raise ValueError(f"leave out `{url[1]}`: `{listen_address(url[2], folder)}`")
    host, colon, port = value.rpartition(":")
    if not colon:
        raise ValueError("write host and port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("the port is a number up to 65535")
    if int(port) == 0:
        # the sockets of all slots share one port, and clients have to know it
        raise ValueError("choose a port, 0 would be a different one for each worker")
    return ListenAddress(_host(host), int(port))


def _host(text: str) -> str:
    """Return the IP address in text in its shortest form; IPv6 needs its brackets, as in a URL."""
    if text in ("", "*"):
        raise ValueError("for all addresses write 0.0.0.0 or [::] in front of the port")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        # a name may mean several addresses, or others tomorrow, and a listener must not depend on a name server
        raise ValueError("write an IP address such as 127.0.0.1, host names are not possible here") from None
    if (address.version == 6) == (bare == text):
        raise ValueError("an IPv6 address, and only that, stands in brackets")
    return str(address)


def proxied_address(value: object, folder: str) -> ProxiedAddress:
    """Return the listener and version in "127.0.0.1:2346=v2"."""
    if isinstance(value, ProxiedAddress):
        return value
    address, equals, version = value.rpartition("=") if isinstance(value, str) else ("", "", "")
    if not equals or version not in ("v1", "v2"):
        raise ValueError("write an address of `listen`, = and v1 or v2")
    return ProxiedAddress(listen_address(address, folder), version)


def network(value: str) -> str:
    """Return an IP address or network in its shortest form, "unix" or "*"."""
    if value in ("unix", "*"):
        return value
    try:
        found = ipaddress.ip_network(value)
    except ValueError:
        try:
            found = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError(
                "write an IP address or network without port and brackets, host names are not possible here"
            ) from None
        # one machine or its whole network: not ours to guess whose word is to be taken
        address = value.partition("/")[0]
        raise ValueError(f"write {found} for the network, or {address} for this address alone") from None
    return str(found.network_address) if found.num_addresses == 1 else str(found)


def host(value: str) -> str:
    """Return the host of a Host header, with or without a port, in lower case."""
    if "/" in value:
        raise ValueError("write the host alone, without https:// and path")
    if "*" in value:
        raise ValueError("patterns are not possible, name each host; an empty list admits all")
    if not _HOST.fullmatch(value.lower()):
        raise ValueError("write a name or an IP address, IPv6 in brackets, perhaps with :port")
    return value.lower()


def url_path(value: str) -> str:
    """Return a path of a URL, without query."""
    if not _URL_PATH.fullmatch(value):
        raise ValueError("it starts with / and has no space, ? or #")
    return value


def broker_url(value: object) -> object:
    """Return what the URL of a broker says; see brokers.py."""
    if not isinstance(value, str):
        return value
    url = brokers.parse(value)
    if url.path:
        socket_path(url.path, "")
    return url


def prefix(value: str) -> str:
    """Return what all channels at a broker begin with."""
    if len(value) > MAX_PREFIX_CHARS or not _PREFIX.fullmatch(value):
        hint = f"a word is of A-Z a-z 0-9 _ -, and all has at most {MAX_PREFIX_CHARS} characters"
        # said here, as --prefix and client.publish know nothing of the words of the setting
        raise Sentence(f"must be {PREFIX_WORDS}, not {shown(value)}; {hint}")
    # chat:topic:news would be a topic of the service chat: and another one of the service chat:topic:
    if taken := next((word for word in value.split(":") if word in _CHANNEL_WORDS), None):
        raise Sentence(f"holds {taken}:, which wsworker puts behind the prefix itself; choose another word")
    return value


def token(value: str) -> str:
    """Return the name of a subprotocol."""
    if not _TOKEN.fullmatch(value):
        raise ValueError("a name holds letters, digits and !#$%&'*+-.^_`|~")
    return value


def origin(value: str) -> str:
    """Return the origin as a browser sends it (RFC 6454 section 6.2): lower case, without the scheme's own port.

    "null" is what a page without an origin sends, such as a file or a sandboxed frame.
    """
    if value == "null":
        return value
    if value == "*":
        raise ValueError('write "*" by itself, not in a list')
    match = _ORIGIN.fullmatch(value.lower())
    if not match:
        raise ValueError("remove the / at its end" if _ORIGIN.fullmatch(value.lower().rstrip("/")) else "")
    if match["scheme"] in ("ws", "wss"):
        raise ValueError("the origin of a page begins with https:// or http://")
    if match["port"] and int(match["port"]) > 65535:
        raise ValueError("the port is a number up to 65535")
    if match["port"] == _DEFAULT_PORTS.get(match["scheme"]):
        return f"{match['scheme']}://{match['host']}"
    return match[0]


def refusal(name: str, error: ValueError) -> str:
    """Return what a refusal by one of these says about a value, where nothing else is known of it. name: its name."""
    return f"{name} {error}" if isinstance(error, Sentence) else f"{name}: {error}"


def lower(value: object) -> object:
    """Return the name of a header, which has no case, in lower case."""
    return value.lower() if isinstance(value, str) else value


def as_tuple(value: object) -> object:
    """Return a list as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def one_or_more(value: object) -> object:
    """Return a list as a tuple, and one value that stands alone as a tuple of one."""
    several = as_tuple(value)
    return several if isinstance(several, tuple) else (several,)


def not_empty(several: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the values if there are any."""
    if not several:
        raise Sentence("is an empty list; give at least one")
    return several


def no_doubles(several: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the values if no two of them are equal."""
    seen: set[Value] = set()
    for value in several:
        if value in seen:
            raise Sentence(f"holds {value} twice; remove one")
        seen.add(value)
    return several


def shown(value: object) -> str:
    """Return a value the way its YAML looks, short enough for a message."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            # a URL with its password may have got to any place
            text = brokers.hide_secrets(value)
            return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}...")
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return str(value)


def shown_url(value: object) -> str:
    """Return a value as shown does, without what may be a secret if it was meant as a URL."""
    # a password made of digits is a number to YAML
    return shown(brokers.shown(str(value)) if type(value) in (str, int, float) else value)
