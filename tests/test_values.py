"""Values: what people write for times, sizes, modes, names, paths and addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker import values
from wsworker.brokers import BrokerUrl, Server
from wsworker.values import ListenAddress, ProxiedAddress, Sentence


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("30", 30.0),
        ("30s", 30.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("5 m", 300.0),
        ("5M", 300.0),
        (7, 7),
        (None, None),
    ],
)
def test_seconds(written: object, expected: object) -> None:
    """A time has one of four units or none; what is no text goes on as it is."""
    assert expected == values.seconds(written)


@pytest.mark.parametrize("written", ["", "s", "1 minute", "-1s", "1d", "1h30m", "١s", "1" * 20])
def test_no_seconds(written: str) -> None:
    """Anything else is refused with the units."""
    with pytest.raises(ValueError, match="ms, s, m and h"):
        values.seconds(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("65536", 65536),
        ("64k", 65536),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("1MiB", 1024**2),
        ("1m", 1024**2),
        ("1G", 1024**3),
        (5, 5),
        (True, True),
    ],
)
def test_size(written: object, expected: object) -> None:
    """Units of a size are powers of 1024, with or without iB."""
    assert expected == values.size(written)


@pytest.mark.parametrize(
    ("written", "hint"),
    [("1MB", "use MiB"), ("1.5 gb", "use GiB"), ("1.5MiB", "KiB, MiB"), ("1B", "KiB, MiB"), ("ib", "KiB"), ("", "KiB")],
)
def test_no_size(written: str, hint: str) -> None:
    """A decimal unit is told its binary one, because 1MB would be two different sizes to two readers."""
    with pytest.raises(ValueError, match=hint):
        values.size(written)


@pytest.mark.parametrize(
    ("written", "expected"), [("0027", 0o27), ("027", 0o27), ("0o27", 0o27), ("0", 0), (0o27, 0o27), (None, None)]
)
def test_mode(written: object, expected: object) -> None:
    """A mode is octal in each of its spellings."""
    assert expected == values.mode(written)


@pytest.mark.parametrize("written", ["27", "0028", "rwx", "", "0x17", "0o00027"])
def test_no_mode(written: str) -> None:
    """A mode without its leading zero is refused: it could be decimal."""
    with pytest.raises(ValueError, match="leading 0"):
        values.mode(written)


@pytest.mark.parametrize("name", ["hello", "a", "_x", "9.to-5", "x" * 64])
def test_service_name(name: str) -> None:
    """A name is fit for a file name."""
    assert name == values.service_name(name)


@pytest.mark.parametrize("name", ["", ".hello", "-hello", "a/b", "a b", "é", "hello\n", "x" * 65, ".."])
def test_no_service_name(name: str) -> None:
    """What could leave the run directory, look like an option or break a log line is no name."""
    with pytest.raises(ValueError, match=r"^$"):
        values.service_name(name)


@pytest.mark.parametrize("name", ["hello", "chat.rooms", "hello:app", "chat.rooms:app.main"])
def test_app(name: str) -> None:
    """An app is a dotted module and maybe a dotted attribute."""
    assert name == values.app(name)


@pytest.mark.parametrize("name", ["", "hello world", "hello:", ":app", "a..b", "a:b:c", "a/b", "hello\n"])
def test_no_app(name: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r"^$"):
        values.app(name)


def test_app_as_call() -> None:
    """It is wsworker that calls a class."""
    with pytest.raises(ValueError, match=r"^leave out \(\)$"):
        values.app("hello:App()")


def test_app_as_file() -> None:
    """Who names the file is told the module."""
    with pytest.raises(ValueError, match="module's name, hello, and its folder in app_dir"):
        values.app("../src/hello.py")


@pytest.mark.parametrize(
    ("written", "expected"),
    [("/x", "/x"), ("x", "/srv/hello/x"), (".", "/srv/hello"), ("../x", "/srv/x"), ("../../../..", "/")],
)
def test_path(written: str, expected: str) -> None:
    """A relative path starts at the folder."""
    assert expected == values.path(written, "/srv/hello")


def test_path_without_folder() -> None:
    """Without a folder a relative path stays one; an empty path is none."""
    assert values.path("x", "") == "x"
    with pytest.raises(ValueError, match=r"^$"):
        values.path("", "/srv")


def test_socket_path() -> None:
    """The whole path of a socket has at most 107 bytes, not characters."""
    assert values.socket_path("x" * 102, "/srv") == "/srv/" + "x" * 102
    with pytest.raises(Sentence, match="109 bytes"):
        values.socket_path("é" * 52, "/srv")


@pytest.mark.parametrize(
    ("written", "expected", "url"),
    [
        ("127.0.0.1:2346", ListenAddress("127.0.0.1", 2346), "ws://127.0.0.1:2346"),
        ("[::]:2346", ListenAddress("::", 2346), "ws://[::]:2346"),
        ("[0:0::1]:80", ListenAddress("::1", 80), "ws://[::1]:80"),
        ("unix:x.sock", ListenAddress("", 0, "/srv/x.sock"), "ws+unix:/srv/x.sock"),
        ("unix:/x.sock", ListenAddress("", 0, "/x.sock"), "ws+unix:/x.sock"),
    ],
)
def test_listen_address(written: str, expected: ListenAddress, url: str) -> None:
    """An address is read, and its text reads as the same address again."""
    assert expected == values.listen_address(written, "/srv")
    assert url == expected.url
    assert expected == values.listen_address(str(expected), "/elsewhere")
    assert expected == values.listen_address(expected, "")


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        (2346, ""),
        (None, ""),
        ("2346", "host and port"),
        ("127.0.0.1:", "number"),
        ("127.0.0.1:http", "number"),
        ("127.0.0.1:65536", "number"),
        ("127.0.0.1:0", "choose a port"),
        (":80", "0.0.0.0"),
        ("*:80", "0.0.0.0"),
        ("localhost:80", "host names are not"),
        ("[localhost]:80", "host names are not"),
        ("::1:80", "brackets"),
        ("[127.0.0.1]:80", "brackets"),
        ("[::1:80", "host names are not"),
        ("systemd", "host and port"),
        ("websocket://0.0.0.0:2346", "^leave out `websocket://`: `0.0.0.0:2346`$"),
        ("ws://[::]:2346/chat", r"^leave out `ws://`: `\[::\]:2346`$"),
        ("ws://localhost:2346", "host names are not"),
        ("wss://127.0.0.1", "host and port"),
        ("unix:@x", "abstract"),
        ("unix:", ""),
    ],
)
def test_no_listen_address(written: object, hint: str) -> None:
    """Each way to get an address wrong has its own next step."""
    with pytest.raises(ValueError, match=hint or r"^$"):
        values.listen_address(written, "/srv")


@given(st.text(max_size=20))
def test_listen_address_of_any_text(text: str) -> None:
    """Any text is an address or a ValueError."""
    try:
        address = values.listen_address(text, "/srv")
    except ValueError:
        return
    assert address == values.listen_address(str(address), "/srv")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("127.0.0.1:2346=v2", ProxiedAddress(ListenAddress("127.0.0.1", 2346), "v2")),
        ("[0::1]:80=v1", ProxiedAddress(ListenAddress("::1", 80), "v1")),
        ("unix:a=b.sock=v1", ProxiedAddress(ListenAddress("", 0, "/srv/a=b.sock"), "v1")),
    ],
)
def test_proxied_address(written: str, expected: ProxiedAddress) -> None:
    """A listener and a version are read, and their text reads as the same again."""
    assert expected == values.proxied_address(written, "/srv")
    assert expected == values.proxied_address(str(expected), "/elsewhere")
    assert expected == values.proxied_address(expected, "")


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("127.0.0.1:2346", "= and v1 or v2"),
        ("127.0.0.1:2346=", "= and v1 or v2"),
        ("127.0.0.1:2346=v3", "= and v1 or v2"),
        ("127.0.0.1:2346=none", "= and v1 or v2"),
        ("v2", "= and v1 or v2"),
        (2346, "= and v1 or v2"),
        (None, "= and v1 or v2"),
        ("=v2", "host and port"),
        ("localhost:80=v2", "host names are not"),
    ],
)
def test_no_proxied_address(written: object, hint: str) -> None:
    """What is missing is named: the version, or a part of the address."""
    with pytest.raises(ValueError, match=hint):
        values.proxied_address(written, "/srv")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1/32", "127.0.0.1"),
        ("0::1", "::1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("unix", "unix"),
        ("*", "*"),
    ],
)
def test_network(written: str, expected: str) -> None:
    """An address or a network gets its shortest form, which reads as the same again; two words are taken as well."""
    assert expected == values.network(written)
    assert expected == values.network(expected)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8 for the network, or 10.0.0.1 for this address alone"),
        ("2001:db8::1/32", "write 2001:db8::/32 for the network, or 2001:db8::1 for this address alone"),
        ("10.0.0.0/33", "IP address or network"),
        ("10.0.0.0/", "IP address or network"),
        ("10.0.0", "IP address or network"),
        ("10.0.0.1:80", "without port"),
        ("[::1]", "brackets"),
        ("proxy.example.org", "host names are not"),
        ("Unix", "IP address or network"),
        ("10.0.0.1, 10.0.0.2", "IP address or network"),
        ("10.0.0.0/8\n", "IP address or network"),
        ("", "IP address or network"),
    ],
)
def test_no_network(written: str, hint: str) -> None:
    """Bits behind the network are not guessed away: whose word is taken must be plain to see."""
    with pytest.raises(ValueError, match=hint):
        values.network(written)


@given(st.text(alphabet="0123456789abcdef.:/", max_size=20))
def test_network_of_any_text(text: str) -> None:
    """Any text is a network, which then reads as itself, or a ValueError."""
    try:
        network = values.network(text)
    except ValueError:
        return
    assert network == values.network(network)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("example.org", "example.org"),
        ("WWW.Example.org:8080", "www.example.org:8080"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_host(written: str, expected: str) -> None:
    """A host is what a Host header may hold, in lower case."""
    assert expected == values.host(written)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("https://example.org", "without https:// and path"),
        ("example.org/", "without https:// and path"),
        ("*", "an empty list admits all"),
        ("*.example.org", "patterns are not possible"),
        ("::1", "brackets"),
        ("example.org:", "perhaps with :port"),
        ("example.org:http", "perhaps with :port"),
        ("a b", "a name"),
        ("example.org\n", "a name"),
        ("", "a name"),
    ],
)
def test_no_host(written: str, hint: str) -> None:
    """A page, a pattern and a bare IPv6 address each have their own next step."""
    with pytest.raises(ValueError, match=hint):
        values.host(written)


@pytest.mark.parametrize("path", ["/", "/healthz", "/-/health", "/%7Ehello/a=b&c:@!", '/"', "/$", "/>", "/~"])
def test_url_path(path: str) -> None:
    """A path of a URL is what stands in a request line before the query."""
    assert path == values.url_path(path)


@pytest.mark.parametrize("path", ["", "healthz", "/x?y", "/x#y", "/x y", "/é", "/x\n", "/\x7f", "http://x/"])
def test_no_url_path(path: str) -> None:
    """What no request line can hold there is refused: it would never be asked for."""
    with pytest.raises(ValueError, match="starts with /"):
        values.url_path(path)


def test_lower() -> None:
    """The name of a header has no case; what is no text goes on as it is."""
    assert values.lower("X-Forwarded-For") == "x-forwarded-for"
    assert values.lower(5) == 5


def test_token() -> None:
    """A subprotocol is a token of RFC 2616."""
    assert values.token("chat.v2") == "chat.v2"
    for wrong in ("", "a b", "a,b", "a/b", "é", "chat\n"):
        with pytest.raises(ValueError, match="letters"):
            values.token(wrong)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("https://example.org", "https://example.org"),
        ("HTTPS://Example.ORG", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80", "http://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("chrome-extension://abc", "chrome-extension://abc"),
        ("null", "null"),
    ],
)
def test_origin(written: str, expected: str) -> None:
    """An origin becomes what a browser sends."""
    assert expected == values.origin(written)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("https://example.org/", "remove the /"),
        ("example.org", "^$"),
        ("https://*.org", "^$"),
        ("*", "by itself"),
        ("wss://example.org", "begins with https"),
        ("https://example.org:65536", "up to 65535"),
    ],
)
def test_no_origin(written: str, hint: str) -> None:
    """A pattern or a page is no origin."""
    with pytest.raises(ValueError, match=hint):
        values.origin(written)


def test_lists() -> None:
    """Lists become tuples; one value may stand for a list of one; no list holds a value twice."""
    assert values.as_tuple([1, 2]) == (1, 2)
    assert values.as_tuple("ab") == "ab"
    assert values.one_or_more([1, 2]) == (1, 2)
    assert values.one_or_more("ab") == ("ab",)
    assert values.not_empty((1,)) == (1,)
    assert values.no_doubles((1, 2)) == (1, 2)
    with pytest.raises(Sentence, match="empty"):
        values.not_empty(())
    with pytest.raises(Sentence, match="holds 2 twice"):
        values.no_doubles((1, 2, 2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (5, "5"),
        (0.5, "0.5"),
        ("it's", '"it\'s"'),
        ("\x1b", r"'\x1b'"),
        ("x" * 61, f"'{'x' * 60}...'"),
        ("redis://:secret@h", "'redis://*********'"),
        ("ada:secret@h", "'**********@h'"),
        ([1], "a list"),
        ((), "a list"),
        ({}, "a mapping"),
    ],
)
def test_shown(value: object, expected: str) -> None:
    """A value is shown like its YAML, short and without control characters."""
    assert expected == values.shown(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("redis://10.0.0.5:0", "'redis://10.0.0.5:0'"),
        ("redis://ada:secret", "'redis://**********'"),
        ("secret", "'******'"),
        (123456, "'******'"),
        (1.5, "'***'"),
        (True, "true"),
        (["secret"], "a list"),
    ],
)
def test_shown_url(value: object, expected: str) -> None:
    """A wrong URL is shown without what may be a secret, which may be a number to YAML."""
    assert expected == values.shown_url(value)


def test_broker_url() -> None:
    """A text is read; what is none, or was read before, is passed on to the model."""
    url = values.broker_url("redis://:secret@h/1")
    assert BrokerUrl("redis", (Server("h", 6379),), password="secret", db=1) == url
    assert url is values.broker_url(url)
    assert 5 == values.broker_url(5)
    with pytest.raises(ValueError, match="begins with one of"):
        values.broker_url("localhost")


def test_the_socket_of_a_broker() -> None:
    """Its path has a length that the kernel can take."""
    assert values.broker_url("unix:///" + "x" * 106) == BrokerUrl("unix", (), path="/" + "x" * 106)
    with pytest.raises(Sentence, match="has a socket path of 108 bytes"):
        values.broker_url("unix:///" + "x" * 107)


@pytest.mark.parametrize("text", ["a:", "chat:", "prod:chat-2:", "topics:", "x" * 63 + ":"])
def test_prefix(text: str) -> None:
    """Words with a colon behind each."""
    assert text == values.prefix(text)


@pytest.mark.parametrize("text", ["", "chat", ":", "a::", ":a:", "a b:", "a.b:", "a*:", "é:", "a:\n", "x" * 64 + ":"])
def test_no_prefix(text: str) -> None:
    """A subject of NATS has to be able to hold it."""
    with pytest.raises(
        Sentence, match=r"^must be words with a colon behind each, such as chat:, not .*at most 64 charact"
    ):
        values.prefix(text)


def test_a_refusal_by_itself() -> None:
    """Its name comes first; a Sentence goes on behind that, a hint behind a colon."""
    assert "--prefix must be x" == values.refusal("--prefix", Sentence("must be x"))
    assert "--url: it begins with x" == values.refusal("--url", ValueError("it begins with x"))


@pytest.mark.parametrize("text", ["topic:", "a:user:", "broadcast:a:", "a:service:b:"])
def test_prefixes_of_ours(text: str) -> None:
    """No prefix goes on as the channels of a shorter one do."""
    with pytest.raises(Sentence, match="choose another word"):
        values.prefix(text)
