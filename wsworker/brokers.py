"""Brokers: the servers that carry messages between machines, and what the URL of one says.

    redis://[[user]:password@]host[:6379][/db]     Redis or Valkey; rediss with TLS; valkey and valkeys are the same
    unix://[[user]:password@]/path/of.sock[?db=0]  Redis or Valkey on this machine
    redis+cluster://host[:6379][,host[:6379]...]   a cluster; any of these are asked; also rediss+, valkey+, valkeys+
    nats://[user:password@|token@]host[:4222][,host[:4222]...]   NATS; tls with TLS

    ?ca=FILE&cert=FILE&key=FILE                    with TLS: whom to trust, and who this is; verified in any case

User, password, token, path and file are percent-encoded (RFC 3986 section 2.1). A URL is read without any of the
libraries that speak to brokers: they come with extras, and need not be there to judge a config file.

User, password and token are never shown. So no refusal quotes anything of a URL: in a wrong one nobody can tell what
was meant as a password, such as `redis://ada:secret`, whose host was forgotten. For the same reason a text that was
meant as a URL is shown only if it has a scheme and nothing behind it but servers, a path and the options above.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

Adapter: TypeAlias = Literal["redis", "nats"]


class Scheme(NamedTuple):
    """What a scheme means. port: if the URL has none; takes: keys of the query."""

    adapter: Adapter
    tls: bool
    cluster: bool
    port: int
    takes: tuple[str, ...] = ()


_FILES: Final = ("ca", "cert", "key")
_PLAIN_REDIS: Final = Scheme("redis", tls=False, cluster=False, port=6379)
_TLS_REDIS: Final = Scheme("redis", tls=True, cluster=False, port=6379, takes=_FILES)

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
    "tls": Scheme("nats", tls=True, cluster=False, port=4222, takes=_FILES),
}

# a raw @ stands in a password at most, as whoever pastes one forgets to encode it; so it never ends up in what is shown
_BEHIND_SCHEME: Final = re.compile(r"(?:([^/?#\s]*)@)?([^@/?#\s]*)(/[^@?#\s]*)?(?:\?([^@#\s]*))?")
_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_SERVER: Final = re.compile(rf"(?:({_LABEL}(?:\.{_LABEL})*\.?)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{{1,5}}))?")
_MOST_HOST_CHARS: Final = 253
_STRAY_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")

_SHOWN_SERVER: Final = r"(?:[\w.*-]+|\[[0-9A-Fa-f:.]*\])(?::[0-9]{1,5})?"
_SHOWN_OPTION: Final = r"(?:ca|cert|key|db)=[\w./-]*"
_HARMLESS: Final = re.compile(
    rf"(?:{_SHOWN_SERVER}(?:,{_SHOWN_SERVER})*)?(?:/[\w./-]*)?(?:\?{_SHOWN_OPTION}(?:&{_SHOWN_OPTION})*)?"
    # its end: of a word, of quotes, of an item in brackets, with nothing behind it that may belong to a password
    r"""(?=["'\]}]|,?\s|,?$)(?!.*[@?])"""
)
_ANY_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# behind a key that ends in url, or a scheme that is none of the web's
_MEANT: Final = re.compile(
    r"""(url["']?\s*:\s*["']?|\b(?=[a-z][a-z0-9+.-]*://)(?!(?:http|ws)s?:))(\S.*)""", re.IGNORECASE
)
_SECRETIVE: Final = "password|passwd|pass|pwd|auth|token|secret"
_SECRET: Final = re.compile(rf"""((?:{_SECRETIVE})["']?\s*[:=]\s*["']?)(\S.*)""", re.IGNORECASE)
_SECRETIVE_KEY: Final = re.compile(rf"""(?:url|{_SECRETIVE})["']?\s*:(\s*$)?""", re.IGNORECASE)
# `? url`, whose colon and value stand below it
_LONE_KEY: Final = re.compile(rf"""\?\s+["']?[\w.-]*(?:url|{_SECRETIVE})["']?(\s*(?:\#.*)?$)""", re.IGNORECASE)
_ANY_KEY: Final = re.compile(r"\s*[\w.]+:(?:\s|$)")
_INDENT: Final = re.compile(r"\s*(?:-\s+)*")
_LOGIN: Final = re.compile(r"""[^\s"':@]*:[^\s"']+(?=@)""")


class Server(NamedTuple):
    """Where one server is. host: a name or an address, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """A URL as it was read.

    servers: at least one, but for a unix socket; path: of that, absolute, else ""; user: "" for none; password: "" for
    none; for NATS a user without a password is a token. db: number of the database. ca, cert, key: absolute paths of
    files, "" for none, no key without a cert.
    """

    scheme: str
    servers: tuple[Server, ...]
    user: str = ""
    password: str = ""
    path: str = ""
    db: int = 0
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def kind(self) -> Scheme:
        """What the scheme means."""
        return SCHEMES[self.scheme]

    @property
    def has_secret(self) -> bool:
        """Whether a password or a token stands in it."""
        return bool(self.password or (self.user and self.kind.adapter == "nats"))

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it names."""
        return tuple(filter(None, (self.ca, self.cert, self.key)))

    def __str__(self) -> str:
        """Return it without user, password and token, as it may be shown to anybody."""
        where = self.path or ",".join(map(str, self.servers))
        return f"{self.scheme}://{where}" + (f"/{self.db}" if self.db and not self.path else "")

    def __repr__(self) -> str:
        # wherever it may be shown, in a traceback too
        return f"<BrokerUrl {self}>"


def parse(text: str) -> BrokerUrl:
    """Read a URL. Raises ValueError with a clause about what is wrong, in which nothing of the text stands."""
    scheme, sign, behind = text.partition("://")
    if scheme not in SCHEMES or not sign:
        raise ValueError(f"it begins with one of {', '.join(f'{known}://' for known in SCHEMES)}")
    if _SURROGATE.search(text):
        # what Python makes of bytes of a command line or a variable that are not UTF-8
        raise ValueError("it holds bytes that are not UTF-8")
    kind = SCHEMES[scheme]
    # many people write several servers as several URLs
    first, *others = behind.split(f",{scheme}://")
    if any("@" in each for each in others):
        raise ValueError("user and password are those of all servers and stand once, in front of the first one")
    match = _BEHIND_SCHEME.fullmatch(",".join([first, *others]))
    if match is None:
        raise ValueError("it has no blanks; in a user or a password / ? # are %2F %3F %23, anywhere else @ is %40")
    userinfo, authority, path, query = match.groups(default="")
    user, password = _login(kind, userinfo)
    options = _options(scheme, query)
    files = {name: _file(options[name]) for name in _FILES if name in options}
    if scheme == "unix":
        if authority or len(path) < 2:
            raise ValueError("a unix socket has an absolute path, as in unix:///run/valkey/valkey.sock")
        return BrokerUrl(scheme, (), user, password, _file(path), _db(options.get("db", "0")))
    servers = tuple(server(each, kind.port) for each in authority.split(","))
    if len(servers) > 1 and kind.adapter == "redis" and not kind.cluster:
        raise ValueError(f"{scheme}:// has one server; of a cluster it is {scheme}+cluster://")
    number = path.removeprefix("/")
    if number and (kind.adapter != "redis" or kind.cluster):
        raise ValueError(f"{scheme}:// has no path behind its servers")
    return BrokerUrl(scheme, servers, user, password, "", _db(number or "0"), **files)


def shown(text: str) -> str:
    """Return a text that was meant as a URL, right or wrong, with stars for all of it in which a secret may be."""
    scheme = _ANY_SCHEME.match(text)
    behind = scheme.end() if scheme else 0
    if scheme and _HARMLESS.match(text, behind):
        return text
    # without a scheme it may be anything, such as the password alone
    return text[:behind] + "*" * (len(text) - behind)


def hide_secrets(line: str, inside: bool = False) -> str:
    """Return a line of a config file with a star for each character that may be one of a secret; inside: see there."""
    if inside:
        begin = _depth(line)
        return line[:begin] + "*" * (len(line) - begin)
    line = _MEANT.sub(lambda match: match[1] + shown(match[2]), line)
    line = _SECRET.sub(lambda match: match[1] + "*" * len(match[2]), line)
    return _LOGIN.sub(lambda match: "*" * len(match[0]), line)


def hide_value(line: str, begin: int) -> str:
    """Return a line with stars for what may be a secret in a value that was meant as a URL. begin: of the value."""
    begin += line[begin : begin + 1] in ("'", '"')
    return line[:begin] + shown(line[begin:])


def inside_secrets(lines: Iterable[str]) -> list[bool]:
    """Return for each line of a config file whether it is part of a value whose key stands above and may be a secret's.

    They are judged by how they are indented, since what has a fault is no YAML, and is shown.
    """
    found: list[bool] = []
    key_depth: float = math.inf
    value_follows = False
    for line in lines:
        depth = _depth(line)
        inside = depth > key_depth or (value_follows and not _ANY_KEY.match(line))
        found.append(inside)
        if line[depth : depth + 1] in ("", "#"):
            continue
        key = _SECRETIVE_KEY.search(line) or _LONE_KEY.search(line)
        value_follows = key is not None and key[1] is not None
        if not inside:
            key_depth = depth if key else math.inf
    return found


def _depth(line: str) -> int:
    """Return how far a line is indented; the dash of a list is a part of that."""
    match = _INDENT.match(line)
    assert match is not None, "it matches anything"
    return match.end()


def _login(kind: Scheme, userinfo: str) -> tuple[str, str]:
    """Return user and password."""
    user, colon, password = userinfo.partition(":")
    if kind.adapter == "redis" and user and not colon:
        raise ValueError("a password stands behind a colon, as in redis://:password@host")
    if kind.adapter == "nats" and colon and not (user and password):
        raise ValueError("nats takes user:password@ or token@ in front of the server")
    return _decoded(user), _decoded(password)


def _options(scheme: str, query: str) -> dict[str, str]:
    takes = SCHEMES[scheme].takes
    options: dict[str, str] = {}
    for each in query.split("&") if query else ():
        name, _, value = each.partition("=")
        if name not in takes:
            known = f"only {', '.join(takes)}" if takes else "nothing"
            raise ValueError(f"{scheme}:// takes {known} behind a ?")
        if not value or name in options:
            raise ValueError(f"the option {name} has one value")
        options[name] = value
    if "key" in options and "cert" not in options:
        raise ValueError("a key belongs to a certificate; add cert=FILE")
    return options


def _file(encoded: str) -> str:
    path = _decoded(encoded)
    # a worker runs in another folder than the one who writes this, and it may be another user's
    if not path.startswith("/") or not path.isprintable():
        raise ValueError("a file is named by its absolute path, as in ?ca=/etc/ssl/broker.pem")
    return path


def _decoded(encoded: str) -> str:
    if _STRAY_PERCENT.search(encoded):
        raise ValueError("a % is written as %25")
    try:
        return unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("what is written with % is not UTF-8") from None


def _db(number: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", number):
        raise ValueError("a database is a number, as in redis://host/0")
    return int(number)


def server(text: str, port: int) -> Server:
    """Read host or host:port; port: if it has none. Raises ValueError as parse."""
    match = _SERVER.fullmatch(text)
    if match is None or len(match[1] or "") > _MOST_HOST_CHARS:
        raise ValueError("a server is host or host:port, a host of another script in its ASCII form (xn--)")
    number = int(match[3] or port)
    if not 1 <= number <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return Server(match[1] or _ipv6(match[2]), number)


def _ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise ValueError("only an IPv6 address stands in brackets, as in redis://[2001:db8::5]:6379") from None
