"""URLs of brokers: what they say, what is refused, and that no password, user or token is ever shown."""

from __future__ import annotations

import string
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.brokers import SCHEMES, BrokerUrl, Server, hide_secrets, hide_value, inside_secrets, parse, shown

LOCAL = (Server("127.0.0.1", 6379),)


def refusal(text: str) -> str:
    """Return why a URL is refused."""
    with pytest.raises(ValueError, match=r"[a-z]") as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://127.0.0.1", BrokerUrl("redis", LOCAL)),
        ("redis://127.0.0.1/", BrokerUrl("redis", LOCAL)),
        ("valkey://127.0.0.1:6379/15", BrokerUrl("valkey", LOCAL, db=15)),
        ("redis://:secret@127.0.0.1", BrokerUrl("redis", LOCAL, password="secret")),
        ("redis://ada:@127.0.0.1", BrokerUrl("redis", LOCAL, "ada")),
        ("redis://ada:a:b@c@127.0.0.1", BrokerUrl("redis", LOCAL, "ada", "a:b@c")),
        ("redis://a%40b:p%2F%3F%23%25%C3%A9@127.0.0.1", BrokerUrl("redis", LOCAL, "a@b", "p/?#%é")),
        ("redis://[2001:DB8::0:5]:1", BrokerUrl("redis", (Server("2001:db8::5", 1),))),
        ("redis://cache.example.org.:65535", BrokerUrl("redis", (Server("cache.example.org.", 65535),))),
        ("redis://my_cache-1", BrokerUrl("redis", (Server("my_cache-1", 6379),))),
        (
            "rediss://h?ca=/a%20b&cert=/c&key=/k",
            BrokerUrl("rediss", (Server("h", 6379),), ca="/a b", cert="/c", key="/k"),
        ),
        ("redis+cluster://a,b:1", BrokerUrl("redis+cluster", (Server("a", 6379), Server("b", 1)))),
        ("valkeys+cluster://a/", BrokerUrl("valkeys+cluster", (Server("a", 6379),))),
        ("unix:///run/x.sock", BrokerUrl("unix", (), path="/run/x.sock")),
        ("unix://ada:p@/run/%40x?db=2", BrokerUrl("unix", (), "ada", "p", "/run/@x", 2)),
        ("nats://a", BrokerUrl("nats", (Server("a", 4222),))),
        (
            "nats://token@a,b:1,[::1]",
            BrokerUrl("nats", (Server("a", 4222), Server("b", 1), Server("::1", 4222)), "token"),
        ),
        ("nats://a:1,nats://b:2", BrokerUrl("nats", (Server("a", 1), Server("b", 2)))),
        ("tls://u:p@a,tls://b?ca=/c", BrokerUrl("tls", (Server("a", 4222), Server("b", 4222)), "u", "p", ca="/c")),
    ],
)
def test_what_a_url_says(text: str, expected: BrokerUrl) -> None:
    """Parts that are left out have their defaults, and what is percent-encoded is decoded."""
    assert expected == parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with one of redis://"),
        ("redis", "begins with one of"),
        ("redis:/h", "begins with one of"),
        ("\udce9", "begins with one of"),
        ("REDIS://h", "begins with one of"),
        ("http://h", "begins with one of"),
        ("redis+sentinel://h", "begins with one of"),
        ("redis://:a\udce9@h", "not UTF-8"),
        ("redis://a b", "no blanks"),
        ("redis://:a b@h", "no blanks"),
        ("redis://h/0#x", "%23"),
        ("rediss://h?ca=/a@b", "@ is %40"),
        ("redis://:a/b@h", "anywhere else @ is %40"),
        ("redis://", "host or host:port"),
        ("redis://:p@", "host or host:port"),
        ("redis://ada:secret", "host or host:port"),
        ("redis://h:", "host or host:port"),
        ("redis://h:123456", "host or host:port"),
        ("redis://::1", "host or host:port"),
        ("redis://a..b", "host or host:port"),
        ("redis://-a", "host or host:port"),
        ("redis://" + "a" * 64, "host or host:port"),
        ("redis://" + "a." * 126 + "aa", "host or host:port"),
        ("redis://bücher.example", "xn--"),
        ("redis://h:0", "from 1 to 65535"),
        ("redis://h:65536", "from 1 to 65535"),
        ("redis://[1:2]", "IPv6"),
        ("redis://[fe80::1%25eth0]", "host or host:port"),
        ("redis://h/x", "redis://host/0"),
        ("redis://h/12345", "redis://host/0"),
        ("redis://h/0/1", "redis://host/0"),
        ("redis://ada@h", "redis://:password@host"),
        ("redis://a,b", "redis+cluster://"),
        ("valkeys://a,b", "valkeys+cluster://"),
        ("redis+cluster://a/1", "no path"),
        ("nats://a/x", "no path"),
        ("nats://a,,b", "host or host:port"),
        ("nats://a,tls://b", "host or host:port"),
        ("nats://u:p@a,nats://u:p@b", "stand once"),
        ("nats://:p@a", "user:password@ or token@"),
        ("nats://u:@a", "user:password@ or token@"),
        ("redis://h?db=1", "redis:// takes nothing behind a ?"),
        ("rediss://h?ssl_cert_reqs=none", "takes only ca, cert, key behind a ?"),
        ("rediss://h?ca=/a&ca=/b", "has one value"),
        ("rediss://h?ca", "has one value"),
        ("rediss://h?key=/k", "add cert=FILE"),
        ("rediss://h?ca=a.pem", "absolute path"),
        ("rediss://h?ca=/a%00", "absolute path"),
        ("unix://run/x", "absolute path"),
        ("unix:///", "absolute path"),
        ("unix:///run/%0a", "absolute path"),
        ("unix:///x?db=a", "a database is a number"),
        ("redis://:50%@h", "a % is written as %25"),
        ("redis://:%zz@h", "a % is written as %25"),
        ("redis://:%ff@h", "not UTF-8"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    """The clause says what to write instead."""
    assert words in refusal(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://ada:secret@h/3", "redis://h:6379/3"),
        ("redis://:secret@[::1]", "redis://[::1]:6379"),
        ("unix://:secret@/run/x?db=3", "unix:///run/x"),
        ("nats://token@a,b", "nats://a:4222,b:4222"),
        ("tls://u:p@a?ca=/c", "tls://a:4222"),
    ],
)
def test_how_it_is_shown(text: str, expected: str) -> None:
    """User, password and token are left out, wherever it is shown."""
    url = parse(text)
    assert (expected, f"<BrokerUrl {expected}>") == (str(url), repr(url))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("redis://h", False),
        ("redis://ada:@h", False),
        ("redis://:p@h", True),
        ("nats://h", False),
        ("nats://token@h", True),
        ("nats://u:p@h", True),
    ],
)
def test_secrets_are_known(text: str, told: bool) -> None:
    """A password is one, and so is the token of NATS."""
    assert told == parse(text).has_secret


def test_files() -> None:
    """All files that a URL names; it need not name any."""
    assert ("/a", "/c", "/k") == parse("rediss://h?key=/k&ca=/a&cert=/c").files
    assert () == parse("redis://h").files


# Whatever is written: it is read as the libraries read it

plain = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
secrets = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
hosts = st.one_of(plain, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda address: f"[{address}]"))
ports = st.integers(1, 65535)


def encoded(text: str) -> str:
    """Return a part of a URL as people are told to write it."""
    return quote(text, safe="")


@given(st.sampled_from(["redis", "rediss"]), secrets | st.just(""), secrets, hosts, ports, st.integers(0, 9999))
def test_redis_reads_the_same(scheme: str, user: str, password: str, host: str, port: int, db: int) -> None:
    """What redis-py makes of a URL is what we make of it."""
    theirs = pytest.importorskip("redis.connection").parse_url
    text = f"{scheme}://{encoded(user)}:{encoded(password)}@{host}:{port}/{db}"
    url, known = parse(text), theirs(text)
    assert (known.get("username", ""), known["password"]) == (url.user, url.password)
    assert (Server(known["host"], known["port"]),) == url.servers
    assert known["db"] == url.db


@given(secrets, secrets, st.lists(st.tuples(hosts, ports), min_size=1, max_size=4))
def test_what_is_written_comes_back(user: str, password: str, servers: list[tuple[str, int]]) -> None:
    """Users and passwords of any characters, and all servers in their order."""
    where = ",".join(f"{host}:{port}" for host, port in servers)
    url = parse(f"nats://{encoded(user)}:{encoded(password)}@{where}")
    assert (user, password) == (url.user, url.password)
    assert [(host.strip("[]"), port) for host, port in servers] == [tuple(server) for server in url.servers]
    assert f"nats://{where}" == str(url)


@given(st.text() | st.text("redis:/@,?=%[]. 01", max_size=20).map("redis://{}".format))
def test_any_text(text: str) -> None:
    """It is read or refused, and never anything else."""
    try:
        url = parse(text)
    except ValueError:
        return
    assert url == parse(text)
    assert url.kind is SCHEMES[url.scheme]


# Whatever is written: no secret is shown

SECRET = "hunter2"
secretive = st.builds("{}{}{}".format, st.text("ab:/?#@%= ,'", max_size=3), st.just(SECRET), st.text("aA0:/?#@%= ,'"))


@st.composite
def urls_with_secrets(draw: Any) -> str:
    """A URL that has a secret in it, right or wrong, encoded or not."""
    scheme = draw(st.sampled_from([*SCHEMES, "reddis", "REDIS", "https"]))
    secret = draw(secretive | secretive.map(encoded))
    login = draw(st.sampled_from(["{}@", ":{}@", "ada:{}@", "{0}:{0}@", ":{}", "h?password={}", "h:1/0?{}"]))
    where = draw(st.sampled_from(["", "h", "h:0", "a,b", "[::1]:5", "h:1/0", "/run/x", "é", "h?ca=x"]))
    return f"{scheme}://{login.format(secret)}{where}"


@given(urls_with_secrets())
def test_no_secret_is_shown(text: str) -> None:
    """Not of a right URL, not in the refusal of a wrong one, nor in any line in which it stands."""
    try:
        told = repr([parse(text)]) + str(parse(text))
    except ValueError as error:
        told = str(error) + shown(text)
    lines = [f"  url: {text}", f"  url: '{text}'", f"url:{text}", f'bus: {{"url":"{text}"}}', f'"URL" : {text} # x']
    if not text.startswith("https"):
        lines += [f"# {text}", f"app: {text}", f"['{text}', 5]"]
    for shown_text in [told, *map(hide_secrets, lines)]:
        assert SECRET not in shown_text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  url: redis://10.0.0.5:6379/0  # ours", "  url: redis://10.0.0.5:6379/0  # ours"),
        ("  url: rediss://a?ca=/x.pem", "  url: rediss://a?ca=/x.pem"),
        ("bus: {url: nats://a:1,b:2, prefix: 5}", "bus: {url: nats://a:1,b:2, prefix: 5}"),
        ("  url: 'unix:///run/x.sock'", "  url: 'unix:///run/x.sock'"),
        ("  url: reddis://[::1]:1", "  url: reddis://[::1]:1"),
        ("  url: redis://:pw@h  # x", "  url: redis://**********"),
        ("  url: 'redis://u:pw'", "  url: 'redis://*****"),
        ("  url: redis://my pw@h", "  url: redis://*******"),
        ("  url: redis://h?password=pw", "  url: redis://*************"),
        ("  url: secret", "  url: ******"),
        ("  url: 123456", "  url: ******"),
        ("  url: ", "  url: "),
        ("# was: nats://token@h", "# was: nats://*******"),
        ("app: http://ada:pw@h", "app: *************@h"),
        ("app: ada:pw@h", "app: ******@h"),
        ("  password: hunter2", "  password: *******"),
        ("bus: {url: redis://h, password: hunter2}", "bus: {url: redis://h, password: ********"),
        ("redis_url: hunter2@host", "redis_url: ************"),
        ('"API-Token" : "hunter2"', '"API-Token" : "********'),
        ("# DB_PASS=hunter2, client_secret : x", "# DB_PASS=**************************"),
        ("  passwd: hunter2", "  passwd: *******"),
        ("bus: {pwd: hunter2}", "bus: {pwd: ********"),
        ("# NATS_AUTH=hunter2", "# NATS_AUTH=*******"),
        ("auth_timeout: 5, authors: x", "auth_timeout: 5, authors: x"),
        ("passes: 5, urls: x", "passes: 5, urls: x"),
        ("origins: [https://a.org/, 'https://*.b']", "origins: [https://a.org/, 'https://*.b']"),
        ("# ask ops@example.org, listen: unix:@x", "# ask ops@example.org, listen: unix:@x"),
        ("", ""),
    ],
)
def test_hidden_in_a_line(line: str, expected: str) -> None:
    """Stars stand for all that may be a secret, so many that carets still point where they did."""
    assert expected == hide_secrets(line)
    assert len(line) == len(hide_secrets(line))


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("bus:\n  url:\n    hunter2\n  prefix: x", [2]),
        ("bus:\n  url:\n\n# why\n    hunter2\n    too\nname: x", [2, 3, 4, 5]),
        ("bus:\n  url: |\n    a\n   b\n  prefix:\n    x", [2, 3]),
        ("bus:\n  url:\n    host: h\n    password: hunter2\n      x\n  prefix: x", [2, 3, 4]),
        ("bus:\n  url:\n  - hunter2\n  - hunter3\n  prefix: x", [2, 3]),
        ("bus:\n  url:\n  prefix: x", []),
        ("bus:\n  url:\nhunter2\nname: x", [2]),
        ("- url: redis://h\n  password: hunter2\n  name:\n    x", []),
        ("bus: {url:\n  hunter2}\nname: x", [1]),
        ("bus:\n  ? url\n  : hunter2\n  prefix: x", [2]),
        ("bus:\n  ? 'url'  # x\n  :\n    hunter2\n  ? prefix\n  : x", [2, 3]),
        ("bus: {? url\n  : hunter2}\nname: x", [1]),
        ("", []),
    ],
)
def test_values_that_begin_above(text: str, hidden: list[int]) -> None:
    """All lines that belong to a key which may be that of a secret, by how far they are indented, and no others."""
    lines = text.split("\n")
    inside = inside_secrets(lines)
    assert hidden == [number for number, each in enumerate(inside) if each]
    for line in (lines[number] for number in hidden):
        assert "*" * len(line.strip("- ")) == hide_secrets(line, inside=True).strip("- ")


@pytest.mark.parametrize(
    ("line", "shown_line"),
    [
        (": redis://h:0  # ours", ": redis://h:0  # ours"),
        (": 'redis://ada:pw@h'", ": 'redis://*********"),
        (": hunter2", ": *******"),
        (': "hunter2"', ': "********'),
        (": redis://****", ": redis://****"),
        (": ", ": "),
    ],
)
def test_a_value_whose_key_is_elsewhere(line: str, shown_line: str) -> None:
    """What was meant as a URL is hidden as in a line that says so."""
    assert shown_line == hide_value(line, 2)


@given(st.text(), st.booleans())
def test_any_line_keeps_its_length(line: str, inside: bool) -> None:
    """Whatever it holds."""
    assert len(line) == len(hide_secrets(line, inside))
    assert len(line) == len(inside_secrets(line))
    assert len(line) == len(shown(line))
    assert len(line) == len(hide_value(line, len(line) // 2))


def test_what_is_shown_of_a_wrong_url() -> None:
    """Servers, for a look beside the hint; what has no scheme may be anything, the password alone above all."""
    assert "redis://10.0.0.5:0" == shown("redis://10.0.0.5:0")
    assert "nats://*" == shown("nats://@")
    assert "*********" == shown("localhost")
