"""Channels: each key has one at a broker, and from each the key is found again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.broker.channels import (
    channel,
    key_of_channel,
    key_of_subject,
    service_channel,
    service_subject,
    subject,
)
from wsworker.bus.topics import EVERYBODY, Key
from wsworker.values import prefix as checked

PREFIX = "chat:"

names = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=60),
    st.text("ab.*>%: 2E", min_size=1, max_size=12),
)
keys = st.builds(Key, st.sampled_from(["topic", "user"]), names) | st.just(EVERYBODY)
words = st.text("ab-_1", min_size=1, max_size=3) | st.sampled_from(["topics", "use", "a-user"])
prefixes = st.lists(words, min_size=1, max_size=3).map(lambda parts: "".join(f"{part}:" for part in parts)).map(checked)


@pytest.mark.parametrize(
    ("key", "in_redis", "in_nats"),
    [
        (Key("topic", "news"), b"chat:topic:news", "chat.topic.news"),
        (Key("topic", "a:b"), b"chat:topic:a:b", "chat.topic.a%3Ab"),
        (Key("user", "ada.l *>%"), b"chat:user:ada.l *>%", "chat.user.ada%2El%20%2A%3E%25"),
        (Key("user", "é"), b"chat:user:\xc3\xa9", "chat.user.%C3%A9"),
        (EVERYBODY, b"chat:broadcast:", "chat.broadcast"),
    ],
)
def test_what_a_key_is_called(key: Key, in_redis: bytes, in_nats: str) -> None:
    """As the documentation says, for programs in other languages."""
    assert (in_redis, in_nats) == (channel(PREFIX, key), subject(PREFIX, key))


def test_the_channels_of_the_service() -> None:
    """One for all, and one for each worker; none of them is a key's."""
    assert (b"chat:service:", "chat.service") == (service_channel(PREFIX), service_subject(PREFIX))
    assert b"chat:service:srv.1" == service_channel(PREFIX, "srv.1")
    assert "chat.service.srv%2E1" == service_subject(PREFIX, "srv.1")
    for name in ("", "srv.1"):
        assert key_of_channel(PREFIX, service_channel(PREFIX, name)) is None
        assert key_of_subject(PREFIX, service_subject(PREFIX, name)) is None


@given(prefixes, keys)
def test_keys_come_back(prefix: str, key: Key) -> None:
    """The key of a key's channel is that key, for every name and prefix."""
    assert key == key_of_channel(prefix, channel(prefix, key))
    assert key == key_of_subject(prefix, subject(prefix, key))


@given(keys)
def test_subjects_are_plain(key: Key) -> None:
    """Three tokens at most, of characters that mean nothing to NATS, so none of them matches more than itself."""
    assert re.fullmatch(r"chat\.(topic|user)\.[A-Za-z0-9_%-]+|chat\.broadcast", subject(PREFIX, key))


@given(prefixes, keys, prefixes, keys)
def test_no_two_share_one(prefix: str, key: Key, other_prefix: str, other: Key) -> None:
    """Keys of one service, or of two whose prefixes differ, never meet in a channel."""
    same = (prefix, key) == (other_prefix, other)
    assert same == (channel(prefix, key) == channel(other_prefix, other))
    assert same == (subject(prefix, key) == subject(other_prefix, other))


@pytest.mark.parametrize("word", ["topic", "user", "broadcast", "service"])
def test_what_no_prefix_may_be(word: str) -> None:
    """One that goes on as the channels of a shorter one do would share them."""
    assert channel("chat:topic:", Key("topic", "x")) == channel("chat:", Key("topic", "topic:x"))
    with pytest.raises(ValueError, match=f"holds {word}:"):
        checked(f"chat:{word}:")


@given(prefixes, keys, prefixes)
def test_other_services_are_strangers(prefix: str, key: Key, other: str) -> None:
    """What stands in a channel of another service belongs to no key of this one."""
    if prefix != other:
        assert key_of_channel(other, channel(prefix, key)) is None
        assert key_of_subject(other, subject(prefix, key)) is None


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"chat:",
        b"chat:topic",
        b"chat:topic:",
        b"chat:topic:" + b"x" * 256,
        b"chat:topic:a\x00",
        b"chat:topic:\xff",
        b"chat:user:\xed\xa0\x80",
        b"chat:broadcast:x",
        b"chat:Topic:x",
        b"chat:service:",
        b"topic:x",
        b"chats:topic:x",
    ],
)
def test_channels_of_nobody(name: bytes) -> None:
    """A name that no key has is nobody's."""
    assert key_of_channel(PREFIX, name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "chat",
        "chat.",
        "chat.topic",
        "chat.topic.",
        "chat.topic.a.b",
        "chat.topic.a%2eb",
        "chat.topic.%41",
        "chat.topic.a%",
        "chat.topic.%FF",
        "chat.topic.%00",
        "chat.topic.é",
        "chat.topic.\ud800",
        "chat.\ud800.a",
        "chat.topic." + "x" * 256,
        "chat.broadcast.",
        "chat.broadcast.x",
        "chat:topic:x",
        "topic.x",
    ],
)
def test_subjects_of_nobody(name: str) -> None:
    """Nor is a second way to write a name that somebody has."""
    assert key_of_subject(PREFIX, name) is None


@given(st.binary(max_size=40), st.text(max_size=40))
def test_any_name(some: bytes, text: str) -> None:
    """It is a key's that has it as its channel, or nobody's."""
    for found in (key_of_channel(PREFIX, some), key_of_channel(PREFIX, b"chat:topic:" + some)):
        assert found is None or channel(PREFIX, found) in (some, b"chat:topic:" + some)
    for subject_text in (text, f"chat.user.{text}"):
        key = key_of_subject(PREFIX, subject_text)
        assert key is None or subject_text == subject(PREFIX, key)
