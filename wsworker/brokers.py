"""Brokers: the servers that carry messages between machines, and what the URL of one says.

    redis://[[user]:password@]host[:6379][/db]     Redis or Valkey; rediss with TLS; valkey and valkeys are the same
    unix://[[user]:password@]/path/of.sock[?db=0]  Redis or Valkey on this machine
    redis+cluster://host[:6379][,host[:6379]...]   a cluster; any of these are asked; also rediss+, valkey+, valkeys+
    nats://[user:password@|token@]host[:4222][,host[:4222]...]   NATS; tls with TLS

    ?ca=FILE&cert=FILE&key=FILE                    with TLS: whom to trust, and who this is; verified in any case

A user, a password and a token are percent-encoded (RFC 3986 section 2.1), and are never shown. A URL is read without
any of the libraries that speak to brokers: they come with extras, and need not be there to judge a config file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote

Adapter: TypeAlias = Literal["redis", "nats"]

SECRET_IN_URL: Final = re.compile(r"(?<=://)\S*(?=@)")
"""What stands before the last @ of a URL, also of one that is not right."""


class Scheme(NamedTuple):
    """What a scheme means. port: if the URL has none; takes: keys of the query."""

    adapter: Adapter
    tls: bool
    cluster: bool
    port: int
    takes: tuple[str, ...] = ()


_TLS: Final = ("ca", "cert", "key")
_PLAIN_REDIS: Final = Scheme("redis", tls=False, cluster=False, port=6379)
_TLS_REDIS: Final = Scheme("redis", tls=True, cluster=False, port=6379, takes=_TLS)

SCHEMES: Final[Mapping[str, Scheme]] = {
    "redis": _PLAIN_REDIS,
    "rediss": _TLS_REDIS,
    "valkey": _PLAIN_REDIS,
    "valkeys": _TLS_REDIS,
    "unix": _PLAIN_REDIS._replace(takes=("db",)),
    "redis+cluster": _PLAIN_REDIS._replace(cluster=True),
    "rediss+cluster": _TLS_REDIS._replace(cluster=True),
    "valkey+cluster": _PLAIN_REDIS._replace(cluster=True),
    "valkeys+cluster": _TLS_REDIS._replace(cluster=True),
    "nats": Scheme("nats", tls=False, cluster=False, port=4222),
    "tls": Scheme("nats", tls=True, cluster=False, port=4222, takes=_TLS),
}

_URL: Final = re.compile(r"([a-z+]+)://(?:([^/?#\s]*)@)?([^@/?#\s]*)(/[^?#\s]*)?(?:\?([^#\s]*))?")
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class Server(NamedTuple):
    """Where one server is. host: a name or an address, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """A URL as it was read.

    servers: at least one, but for a unix socket; path: of that, else ""; user: "" for none; password: "" for none; for
    NATS a user without a password is a token. db: number of the database. ca, cert, key: files, "" for none.
    """

    scheme: str
    servers: tuple[Server, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    path: str = ""
    db: int = 0
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def kind(self) -> Scheme:
        """What the scheme means."""
        return SCHEMES[self.scheme]

    def __str__(self) -> str:
        """Return it without user, password and token, as it may be shown to anybody."""
        where = self.path or ",".join(map(str, self.servers))
        return f"{self.scheme}://{where}" + (f"/{self.db}" if self.db and not self.path else "")

    def __repr__(self) -> str:
        # a user may be a token
        return f"<BrokerUrl {self}>"


def parse(text: str) -> BrokerUrl:
    """Read a URL. Raises ValueError with a clause about what is wrong, in which no secret stands."""
    match = _URL.fullmatch(text)
    if match is None or match[1] not in SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"a broker's URL begins with one of {schemes}, and has no blanks; ? # / in a password are %XX")
    scheme, userinfo, authority, path, query = match.groups(default="")
    kind = SCHEMES[scheme]
    user, colon, password = userinfo.partition(":")
    if kind.adapter == "redis" and user and not colon:
        raise ValueError("a password stands behind a colon, as in redis://:password@host")
    options = _options(scheme, query)
    facts = {"user": unquote(user), "password": unquote(password)} | options
    if scheme == "unix":
        if authority or len(path) < 2:
            raise ValueError("a unix socket has an absolute path, as in unix:///run/valkey/valkey.sock")
        return BrokerUrl(scheme, (), path=unquote(path), db=_db(facts.pop("db", "")), **facts)
    servers = tuple(_server(each, kind.port) for each in authority.split(","))
    if len(servers) > 1 and kind.adapter == "redis" and not kind.cluster:
        raise ValueError(f"{scheme}:// has one server; for a cluster it is {scheme}+cluster://")
    number = path.removeprefix("/")
    if number and (kind.adapter != "redis" or kind.cluster):
        raise ValueError(f"{scheme}:// has nothing behind its servers")
    return BrokerUrl(scheme, servers, db=_db(number), **facts)


def hide_secrets(text: str) -> str:
    """Return text in which what stands before the @ of a URL is written as stars, one for each character."""
    return SECRET_IN_URL.sub(lambda match: "*" * len(match[0]), text)


def _options(scheme: str, query: str) -> dict[str, str]:
    takes = SCHEMES[scheme].takes
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in takes:
            allowed = f"takes {', '.join(takes)}" if takes else "takes none"
            raise ValueError(f"there is no option {name!r}; {scheme}:// {allowed}")
        if not value or name in options:
            raise ValueError(f"the option {name!r} has one value")
        options[name] = value
    if "key" in options and "cert" not in options:
        raise ValueError("a key belongs to a certificate; add cert=FILE")
    return options


def _db(number: str) -> int:
    if number and not re.fullmatch("[0-9]{1,4}", number):
        raise ValueError("a database is a number, as in redis://host/0")
    return int(number or 0)


def _server(text: str, port: int) -> Server:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError("a server is host or host:port, an IPv6 address in brackets")
    number = int(match[2] or port)
    if not 1 <= number <= 65535:
        raise ValueError(f"a port is a number from 1 to 65535, not {number}")
    return Server(match[1].strip("[]"), number)
