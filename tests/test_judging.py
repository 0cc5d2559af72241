"""Judging: from raw values to a Config, or to one sentence for each mistake."""

from __future__ import annotations

from wsworker.config import Config, ListenAddress
from wsworker.judging import Mistake, validate

FOLDER = "/srv/hello"


def mistakes(**values: object) -> list[Mistake]:
    """Return what is wrong with these keys, sections with two underscores, beside app: hello."""
    judged = validate({"app": "hello"} | {key.replace("__", "."): value for key, value in values.items()}, FOLDER)
    assert isinstance(judged, list)
    return judged


def test_a_config() -> None:
    """Good values give a Config: keys of sections are put into them, paths start at the folder."""
    judged = validate({"app": "hello", "listen": "unix:x", "log.level": "debug"}, FOLDER)
    assert isinstance(judged, Config)
    assert ("debug", (ListenAddress("", 0, "/srv/hello/x"),)) == (judged.log.level, judged.listen)


def test_a_union_is_reported_once() -> None:
    """A wrong number of workers is one mistake, though it fits neither branch."""
    message = "workers must be a number from 1 to 256, or auto, not 0"
    assert [Mistake("workers", None, message)] == mistakes(workers=0)


def test_items_are_reported_each() -> None:
    """Wrong items of a list are told by position, also where the list is one of two possibilities."""
    wrong = mistakes(websocket__origins=["https://a", "b", "https://c/"])
    assert [1, 2] == [mistake.item for mistake in wrong]
    assert wrong[0].message.endswith("not 'b'")
    assert wrong[1].message.endswith("not 'https://c/'; remove the / at its end")


def test_one_value_instead_of_a_list() -> None:
    """An address that stands alone is shown as it was written."""
    (mistake,) = mistakes(listen="x")
    assert mistake.message.endswith("not 'x'; write host and port")


def test_sentences() -> None:
    """What is no question of spelling has a sentence of its own."""
    (mistake,) = mistakes(listen=["[::1]:80", "[0::1]:80"])
    assert Mistake("listen", None, "listen holds [::1]:80 twice; remove one") == mistake
    (mistake,) = mistakes(tls__keyfile="key.pem")
    sentence = "tls.keyfile has no effect without tls.certfile; set that as well, or remove this key"
    assert Mistake("tls.keyfile", None, sentence) == mistake


def test_digits_want_quotes() -> None:
    """A name made of digits is a number to YAML, and its writer is told so."""
    (mistake,) = mistakes(name=2024)
    assert mistake.message.endswith("not 2024; text made of digits needs quotes")
    (mistake,) = mistakes(name=True)
    assert mistake.message.endswith("not true")
    (mistake,) = mistakes(workers="4")
    assert mistake.message.endswith("not '4'; a number has no quotes")
    (mistake,) = mistakes(backlog="many")
    assert mistake.message.endswith("not 'many'")


def test_all_mistakes_at_once() -> None:
    """Mistakes come together, in the order of the documentation, and a missing app is one of them."""
    judged = validate({"log.level": "x", "backlog": 0, "websocket.max_size": 0}, FOLDER)
    assert isinstance(judged, list)
    assert ["app", "backlog", "websocket.max_size", "log.level"] == [mistake.key for mistake in judged]
    assert judged[0].message == "app is missing; add `app: module`, the module with your on_message"


def test_a_mistake_between_sections() -> None:
    """What is wrong with two keys beside each other is told of one of them."""
    sentence = "admin.listen is 127.0.0.1:2346, which is in `listen` already; choose another port"
    assert [Mistake("admin.listen", None, sentence)] == mistakes(admin__listen="127.0.0.1:2346")


def test_an_unknown_kind_of_value() -> None:
    """A value that no hint fits is shown as it is."""
    assert [Mistake("backlog", None, "backlog must be a number from 1 to 65535, not null")] == mistakes(backlog=None)
    assert [Mistake("name", None, mistakes(name=["a"])[0].message)] == mistakes(name=["a"])
    assert mistakes(name=["a"])[0].message.endswith(", not a list")


def test_a_wrong_url_is_no_secret_told() -> None:
    """Of a URL that may hold a password nothing is shown but its scheme."""
    (mistake,) = mistakes(bus__url="redis://ada:secret")
    assert mistake.message.startswith("bus.url must be a URL such as redis://10.0.0.5:6379 or ")
    assert "not 'redis://**********'; a server is host or host:port" in mistake.message
    (mistake,) = mistakes(bus__url=20240101)
    assert "not '********'" in mistake.message
