"""The JSON Schema of config.yaml: it takes what loads, refuses what a pattern can tell, and the shipped file is it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from tests.test_config import REFUSED, TAKEN
from wsworker import schema
from wsworker.config import KEYS, SECTIONS, Config, takes, value_of
from wsworker.configfile import AS_WRITTEN
from wsworker.judging import validate
from wsworker.schema import document
from wsworker.yamlfile import Items, Node, Scalar, read

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "config"
SHIPPED = [CONFIG / "config.yaml", *sorted(ROOT.glob("examples/*/*.yaml"))]
DOCUMENT = document()
VALIDATOR = Draft7Validator(DOCUMENT)


def faults(key: str, value: object) -> list[ValidationError]:
    """Return what is wrong with a file of this key and app."""
    section, dot, name = key.partition(".")
    return list(VALIDATOR.iter_errors({"app": "hello"} | ({section: {name: value}} if dot else {key: value})))


def schema_of(key: str) -> dict[str, Any]:
    """Return the part of the schema that is about one key."""
    found = DOCUMENT
    for name in key.split("."):
        found = found["properties"][name]
    return found


def test_the_shipped_file_is_current() -> None:
    """config/config.schema.json is what `wsworker schema` prints."""
    shipped = (CONFIG / "config.schema.json").read_text(encoding="utf-8")
    assert schema.text() == shipped, "renew it: python -m wsworker schema > config/config.schema.json"


def test_it_is_a_schema() -> None:
    """It is valid draft 7, which is what yaml-language-server reads, and says so."""
    Draft7Validator.check_schema(document())
    assert "http://json-schema.org/draft-07/schema#" == document()["$schema"]


def test_the_shipped_config_names_it() -> None:
    """An editor that opens config/config.yaml finds the schema beside it."""
    first = (CONFIG / "config.yaml").read_text(encoding="utf-8").partition("\n")[0]
    assert "# yaml-language-server: $schema=./config.schema.json" == first


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_configs(path: Path) -> None:
    """Nothing in a config file that comes with wsworker is underlined."""
    assert [] == list(VALIDATOR.iter_errors(plain(read(path.read_text(encoding="utf-8")).root)))


def plain(node: Node | None) -> Any:
    """Return a tree as an editor sees it."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [plain(item) for item in node.nodes]
        case _:
            assert node is not None
            return {key: plain(entry.node) for key, entry in getattr(node, "entries").items()}  # noqa: B009


def test_every_key_is_in_it() -> None:
    """Each key has its sentence, what it takes, its default and who applies it, and nothing of pydantic's is left."""
    for key, field in KEYS.items():
        found = schema_of(key)
        assert str(found["description"]).startswith(f"{field.description}\n\nTakes: {takes(key).words}\n"), key
        assert field.is_required() == ("default" not in found), key
        assert not {"title", "reload"} & found.keys()
    for section in SECTIONS:
        assert schema_of(section)["description"]
    assert ["app"] == document()["required"]


def test_defaults_are_as_a_person_writes_them() -> None:
    """An editor offers the default, so it has to be what one would type; and it loads and is taken."""
    shown = {key: schema_of(key).get("default") for key in KEYS}
    expected = ("30s", "1MiB", "0027", "127.0.0.1:2346", ["127.0.0.1", "::1"], 0)
    keys = ("worker_timeout", "websocket.max_size", "umask", "listen", "forwarded_allow_ips", "max_worker_age")
    assert expected == tuple(shown[key] for key in keys)
    bare = validate({"app": "hello"}, "/srv")
    assert isinstance(bare, Config)
    for key, default in shown.items():
        if key != "app":
            assert [] == faults(key, default), key
            judged = validate({"app": "hello", key: default}, "/srv")
            assert isinstance(judged, Config), key
            assert value_of(bare, key) == value_of(judged, key), key


def test_examples_load() -> None:
    """Each example of a key is a value that it takes."""
    for key in KEYS:
        for example in schema_of(key).get("examples", []):
            assert [] == faults(key, example), key
            assert isinstance(validate({"app": "hello", key: example}, "/srv"), Config), key


def test_choices_are_explained() -> None:
    """Words that can be chosen have their meaning beside them."""
    found = schema_of("websocket.slow_consumer")
    assert ["drop_newest", "drop_oldest", "disconnect"] == found["enum"]
    assert "the connection, with 3008" == found["enumDescriptions"][2]
    assert ["uvloop", "the fast one", "the one that comes with Python"] == schema_of("loop")["enumDescriptions"]
    assert ["same-origin", "*"] == schema_of("websocket.origins")["anyOf"][0]["enum"]
    assert 2 == len(schema_of("websocket.origins")["anyOf"][0]["enumDescriptions"])


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in TAKEN.items() for value in values])
def test_what_loads_is_taken(key: str, value: object) -> None:
    """No value that loads is underlined."""
    assert [] == [fault.message for fault in faults(key, value)]


# what only the models can tell: the numbers behind a unit, whether a list repeats itself, what fits other keys
MODELS_ONLY: dict[str, list[object]] = {
    "boot_timeout": ["0s"],
    "worker_timeout": ["25h"],
    "drain_window": ["25h"],
    "max_worker_age": ["8761h"],
    "max_worker_rss": [1, 512, "31MiB", 32 * 1024**2 - 1, "1025GiB", 1e9],
    "control_socket": ["/" + "x" * 107],
    "forwarded_allow_ips": [["10.0.0.1/8"], ["::1", "0::1"]],
    "proxy_protocol": [["127.0.0.1:80=v1"]],
    "umask": [0o1000],
    "control_socket_mode": [0o644],
    "websocket.subprotocols": [["a", "a"]],
    "tls.keyfile": ["key.pem"],
    "tls.ca_certs": ["ca.pem"],
    "tls.min_version": [1.2],
    "http.allowed_hosts": [["a", "A"]],
    "bus.url": ["redis://h:0", "nats://a,", "tls://h?ca=x"],
    "bus.prefix": ["x" * 64 + ":", "topic:", "a:user:"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_what_does_not_load_is_underlined(key: str, value: object) -> None:
    """A wrong value shows while it is typed, save those that only the models can tell."""
    known = any(repr(value) == repr(other) for other in MODELS_ONLY.get(key, []))
    assert known == (not faults(key, value)), (key, value)


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"app": "hello", "wrokers": 4},
        {"app": "hello", "websocket": {"maxsize": 1}},
        {"app": "hello", "websocket": "on"},
        ["app"],
    ],
)
def test_keys_are_known(text: object) -> None:
    """The key app has to be there, and a key that does not exist is underlined, on both levels."""
    assert not VALIDATOR.is_valid(text)


def test_an_empty_section_is_fine() -> None:
    """A section whose keys are all commented out is null to an editor."""
    assert VALIDATOR.is_valid({"app": "hello", "websocket": None, "log": {}})


WORDS = ["auto", "none", "v1", "*", "same-origin", "unix", "x-forwarded-for", "Forwarded", "app:chat", "deflate", "-"]
QUOTED = ['"1.2"', '"0600"', '"027"', '""']
VALUES = st.one_of(
    st.sampled_from([*WORDS, *QUOTED, "null", "true", "1.2", "0600", "0o660", "0777", "0o777"]),
    st.builds("{}{}".format, st.integers(0, 2**40), st.sampled_from(["", "s", "ms", " h", "KiB", "m", "G", ".5s"])),
    st.builds("127.0.0.1:{}".format, st.integers(0, 70000)),
    st.builds('"[{}]:80"'.format, st.ip_addresses(v=6)),
    st.builds("[{}]".format, st.lists(st.sampled_from(["10.0.0.0/8", "127.0.0.1:2346=v2", "https://a.b", "a.b"]))),
    st.text("abz09./:-_*@[]", max_size=9),
)


@given(key=st.sampled_from(sorted(KEYS)), text=VALUES)
@settings(max_examples=300, deadline=None)
def test_never_stricter_than_the_models(key: str, text: str) -> None:
    """Whatever YAML text loads, an editor takes it."""
    document = read(text)
    if document.faults or not isinstance(document.root, Scalar | Items):
        return
    node = document.root
    raw = node.text if key in AS_WRITTEN and isinstance(node, Scalar) else plain(node)
    if isinstance(validate({"app": "hello", key: tuple(raw) if isinstance(raw, list) else raw}, "/srv"), Config):
        assert [] == [fault.message for fault in faults(key, plain(node))]
