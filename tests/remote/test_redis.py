"""What is said to Redis and Valkey, and what they answer: real ones, and such as answer what no real one would."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.bus.redis.servers import Valkey
from tests.bus.redis.servers import valkey as run_valkey
from tests.certificates import Authority
from tests.remote.peer import HOST, Peer, Talk, soon, until
from wsworker.brokers import BrokerUrl, Server, parse
from wsworker.bus.topics import Key
from wsworker.errors import PublishError, WireError
from wsworker.remote.redis import RedisLink, command

NEWS = Key("topic", "news")


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """Run a Valkey with a password."""
    with run_valkey(password="s/p@x") as server:
        server.run("ACL", "SETUSER", "ada", "on", ">pässword", "resetchannels", "&chat:*", "-@all", "+publish")
        yield server


def linked(url: str | BrokerUrl) -> RedisLink:
    """Return a connection to the first server of a URL."""
    url = parse(url) if isinstance(url, str) else url
    return RedisLink(url, url.servers[0] if url.servers else url.path, soon())


def test_what_others_get(valkey: Valkey) -> None:
    """A message is in the channel of its topic byte for byte, whatever bytes it has; in the clear, by a unix socket."""
    payload = struct.pack("!BBBBI", 1, 4, 1, 0, 0) + b"\r\n\0\xff"
    with redis.Redis(port=valkey.port, password=valkey.password) as client, client.pubsub() as reader:
        reader.subscribe("chat:topic:ö\r\n{x}")
        assert reader.get_message(timeout=10)["type"] == "subscribe"
        for url in (f"redis://:s%2Fp%40x@{HOST}:{valkey.port}/3", f"unix://:s%2Fp%40x@{valkey.socket}"):
            link = linked(url)
            link.send("chat:", Key("topic", "ö\r\n{x}"), payload)
            assert link.answer() is None
            assert link.stays()
            link.stream.close()
            assert payload == reader.get_message(timeout=10)["data"]


def test_a_user_may_publish_to_its_prefix_alone(valkey: Valkey) -> None:
    """A refusal says what Redis says; the connection goes on."""
    link = linked(f"redis://ada:p%C3%A4ssword@{HOST}:{valkey.port}")
    link.send("other:", NEWS, b"x")
    with pytest.raises(PublishError, match="does not take the message: NOPERM ") as told:
        link.answer()
    assert "refused" == told.value.code
    link.send("chat:", NEWS, b"x")
    assert link.answer() is None
    link.stream.close()


def test_who_is_not_let_in(valkey: Valkey) -> None:
    """A wrong password and none at all are refused; a password stands in no sentence."""
    with pytest.raises(PublishError, match="does not let this program in") as told:
        linked(f"redis://ada:geheim@{HOST}:{valkey.port}")
    assert ("refused", False) == (told.value.code, "geheim" in str(told.value))
    link = linked(f"redis://{HOST}:{valkey.port}")
    link.send("chat:", NEWS, b"x")
    with pytest.raises(PublishError, match="does not take the message: NOAUTH Authentication required"):
        link.answer()
    link.stream.close()


def test_a_server_that_quotes_the_password() -> None:
    """As one does that knows no AUTH: it is not repeated."""
    answer = b"-ERR unknown command 'AUTH', with args beginning with: 'geheim' \r\n"

    def script(talk: Talk) -> None:
        talk.hear(b"geheim\r\n")
        talk.say(answer)

    with Peer(script) as peer, pytest.raises(PublishError, match=r"let this program in \(ERR unknown command\)"):
        linked(f"redis://:geheim@{HOST}:{peer.port}")


def test_a_connection_that_has_ended(valkey: Valkey) -> None:
    """That is seen before the next message."""
    link = linked(f"redis://:s%2Fp%40x@{HOST}:{valkey.port}")
    assert link.stays()
    valkey.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    until(lambda: not link.stays())
    link.stream.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"x" * 100_000,
        b"-MOVED 1 h:x\r\n",
        b"-MOVED 1 h:70000\r\n",
        b"-MOVED 1 \x1b[31mEVIL\x07:1\r\n",
        b"-MOVED 1 " + b"h" * 1000 + b":1\r\n",
        b"",
    ],
)
def test_no_answer_of_redis(answer: bytes) -> None:
    """Nobody can tell what became of the message."""

    def script(talk: Talk) -> None:
        talk.hear(b"hello\r\n")
        talk.say(answer)

    with Peer(script) as peer:
        link = linked(f"redis://{HOST}:{peer.port}")
        link.send("x:", NEWS, b"hello")
        with pytest.raises(WireError):
            link.answer()
        link.stream.close()


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (b"-MOVED 3999 10.0.0.7:6381\r\n", Server("10.0.0.7", 6381)),
        (b"-MOVED 3999 ::1:6381\r\n", Server("::1", 6381)),
        (b"-MOVED 3999 :6381\r\n", Server(HOST, 6381)),
        (b"-MOVED 3999 ?:6381\r\n", Server(HOST, 6381)),
    ],
)
def test_another_server_of_a_cluster(answer: bytes, where: Server) -> None:
    """It is named; a server that does not know its own name means itself. In a cluster the channels are sharded."""
    heard = []

    def script(talk: Talk) -> None:
        heard.append(talk.hear(b"hello\r\n"))
        talk.say(answer)

    with Peer(script) as peer:
        link = linked(f"valkey+cluster://{HOST}:{peer.port}")
        link.send("x:", NEWS, b"hello")
        assert where == link.answer()
        link.stream.close()
    assert [command(b"SPUBLISH", b"x:topic:news", b"hello")] == heard


def test_tls(tmp_path: Path) -> None:
    """A server that the URL vouches for gets the password, and no other one."""
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server"))
    heard = []

    def script(talk: Talk) -> None:
        heard.append(talk.hear(b"geheim\r\n"))
        talk.say(b"+OK\r\n")
        talk.hear(b"hello\r\n")
        talk.say(b":0\r\n")
        talk.hear()

    with Peer(script, context=context) as peer:
        with pytest.raises(ssl.SSLCertVerificationError):
            linked(f"rediss://:geheim@{HOST}:{peer.port}")
        link = linked(f"valkeys://:geheim@{HOST}:{peer.port}?ca={authority.file}")
        link.send("x:", NEWS, b"hello")
        assert link.answer() is None
        assert link.stays()
        link.stream.close()
    assert [command(b"AUTH", b"geheim")] == heard


def test_the_words_of_a_command() -> None:
    """Each has its length in bytes before it."""
    assert b"*2\r\n$4\r\nAUTH\r\n$2\r\n\xc3\xb6\r\n" == command(b"AUTH", "ö".encode())
    assert b"*1\r\n$0\r\n\r\n" == command(b"")
