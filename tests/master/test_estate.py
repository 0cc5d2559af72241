"""The estate: that nothing of it is lost on the way, what is refused, and which descriptors are kept."""

from __future__ import annotations

import json
import shutil
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.master.test_supervisor import Story
from wsworker import brokers, configfile
from wsworker.config import KEYS, Config
from wsworker.master import events
from wsworker.master.estate import (
    FORMAT,
    Call,
    Caller,
    Commanding,
    Estate,
    Fd,
    Listening,
    Living,
    Meeting,
    Showing,
    Unfit,
    config_of,
    decode,
    descriptors,
    encode,
    facts_of,
    service_of,
    settings_of,
)
from wsworker.master.inventory import SHARED
from wsworker.master.restarts import RestartPolicy
from wsworker.master.roster import ServiceState
from wsworker.master.service import Service
from wsworker.sections import AdminConfig, BusConfig
from wsworker.source import Origin
from wsworker.wire import CHANNEL

ROOT = Path(__file__).parents[2]
CONFIG = Config(app="hello", app_dir="/srv/hello")

FDS = st.integers(1000, 2000)
NUMBERS = st.integers(0, 999)
"""Of all that is no descriptor."""
TIMES = st.floats(allow_nan=False)
TEXTS = st.text(st.characters(), max_size=5).map(
    lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
"""With surrogates, which stand for what is no UTF-8 in a path, and which any app may put into its errors.

Two that make a pair are joined to the character they stand for, as JSON does it.
"""
WORDS = st.text(max_size=5)
"""Of keys, which are ours."""
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=3,
)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBERS,
    float: TIMES,
    str: TEXTS,
    bool: st.booleans(),
    type(None): st.none(),
    Any: VALUES,
}


def fitting(hint: Any) -> st.SearchStrategy[Any]:
    """Give values of a type, as the fields of an estate have it."""
    if hint in LEAVES:
        return LEAVES[hint]
    kind = get_origin(hint)
    if kind is Annotated:
        assert get_args(Fd) == get_args(hint), hint
        return FDS
    if kind in (Union, types.UnionType):
        return st.one_of([fitting(each) for each in get_args(hint)])
    if kind is Literal:
        return st.sampled_from(get_args(hint))
    if kind is tuple and get_args(hint)[-1] is not ...:
        return st.tuples(*map(fitting, get_args(hint)))
    if kind is Counter:
        return st.dictionaries(WORDS, NUMBERS, max_size=2).map(Counter)
    if kind is dict:
        key, value = get_args(hint)
        return st.dictionaries(WORDS if key is str else fitting(key), fitting(value), max_size=2)
    if kind in (tuple, list, frozenset):
        return st.lists(fitting(get_args(hint)[0]), max_size=2).map(kind)
    if issubclass(hint, Enum):
        return st.sampled_from(hint)
    assert is_dataclass(hint) or hasattr(hint, "_fields"), hint
    return st.builds(hint, **{name: fitting(each) for name, each in get_type_hints(hint, include_extras=True).items()})


UNSHRUNK = [phase for phase in Phase if phase is not Phase.shrink]
"""To make one smaller takes longer than any test may."""
ESTATES = fitting(Estate).map(lambda estate: replace(estate, format=FORMAT, channel=CHANNEL, layout=SHARED))


def made(**changes: Any) -> Estate:
    """Return an estate whose descriptors are those from 100 to 116, in no order."""
    listening = Listening(False, [1, 2], {1: 101, 2: 102}, None, [1, 2], [], True, None)
    shared = Listening(False, [1, 2], {}, 103, [1, 2], [], True, (1, 2))
    living = [Living(7, 1, 4242, 104, 105, 106, 0, "-", ""), Living(8, 2, 4243, 107, 108, 109, 0, "-", "")]
    estate = Estate(
        version="0.1.0",
        call=Call("/srv/hello/config.yaml", "config.yaml"),
        settings=settings_of(CONFIG, {"app": Origin("config.yaml", 1, 6)}),
        facts=facts_of(Story(workers=2).serve().supervisor.service),
        table=100,
        layout=SHARED,
        ports=[listening, shared],
        unweighed=False,
        lock=110,
        commanding=Commanding(111, (1, 3), 6, [Caller(112, 5, True, False, "", "")]),
        reply=5,
        meeting=Meeting("node", "00", 113, {1: 114}),
        living=living,
        began_at=9.5,
        folder="/run/wsworker",
        terminal=0,
        log_dropped=3,
        showing=Showing(replace(shared, common=115), 116, {1: 20}, {7: 20}, 17.0),
    )
    return replace(estate, **changes)


def unfit(data: bytes, layout: str = SHARED) -> str:
    """Return why an estate cannot be taken over."""
    with pytest.raises(Unfit) as caught:
        decode(data, layout)
    return str(caught.value)


def integers(value: Any) -> Iterator[int]:
    """Yield all that are in a document."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from integers(inner)
    elif isinstance(value, int):
        yield value


# --- on the way ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, phases=UNSHRUNK)
@given(ESTATES)
def test_nothing_is_lost_on_the_way(estate: Estate) -> None:
    """Any estate that is encoded is decoded to an equal one, and that in one line of ASCII."""
    data = encode(estate)
    assert estate == decode(data, SHARED)
    assert data.isascii()


@settings(max_examples=30, phases=UNSHRUNK)
@given(ESTATES)
def test_all_descriptors_are_known(estate: Estate) -> None:
    """Those in records inside of records and in mappings too, none twice, and nothing else is taken for one."""
    in_it = [number for number in integers(json.loads(encode(estate))) if number >= 1000]
    assert sorted(in_it) == sorted(descriptors(estate))


def test_the_descriptors_of_a_whole_service() -> None:
    """What may be missing is, where it is None."""
    assert [*range(100, 117)] == sorted(descriptors(made()))
    assert [*range(100, 115)] == sorted(descriptors(made(showing=None)))


def test_what_is_no_utf_8_arrives() -> None:
    """A path may hold any byte, and an app any error."""
    estate = made(call=Call("/srv/caf\udce9/config.yaml", "caf\udce9", {"workers": ("-w", "\udcff")}))
    estate = replace(estate, facts=replace(estate.facts, last_reload={"error": {"trace": "\ud800"}}))
    assert estate == decode(encode(estate), SHARED)


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"format": FORMAT + 1}, {"format": None}, {"channel": "2 17"}, {"layout": "other"}, {"layout": 7}]
)
def test_what_speaks_another_language_is_refused(changes: dict[str, Any]) -> None:
    """By its head, whatever else is in it: the rest of another format may be of any shape."""
    heads = {key: json.loads(encode(made()))[key] for key in ("version", "format", "channel", "layout")}
    reason = "it speaks otherwise with its workers than 0.1.0, which runs; restart the service instead"
    assert reason == unfit(json.dumps(heads | changes).encode())


def test_another_table_is_refused() -> None:
    """Whose layout is this program's own."""
    assert "it speaks otherwise with its workers than 0.1.0" in unfit(encode(made()), "another")


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff", b"[]", b"7", b'{"version": '])
def test_garbage_is_refused(data: bytes) -> None:
    """By the same kind of error as all else."""
    assert "what it was given is no estate; restart the service instead" == unfit(data)


def test_an_object_that_is_no_estate_is_refused() -> None:
    """Nobody knows whose it is."""
    assert "otherwise with its workers than an unknown version, which runs" in unfit(b"{}")


@pytest.mark.parametrize("field", [each.name for each in fields(Estate) if each.name not in ("mask", "signals")])
def test_a_field_that_is_missing_is_refused(field: str) -> None:
    """Of those without a default, with its name."""
    document = json.loads(encode(made()))
    del document[field]
    if field == "showing":
        assert decode(json.dumps(document).encode(), SHARED).showing is None
    elif field in ("format", "channel", "layout"):
        assert "it speaks otherwise" in unfit(json.dumps(document).encode())
    else:
        before = "an unknown version" if field == "version" else "0.1.0"
        reason = f"it does not understand what {before}, which runs, knows ({field}); restart instead"
        assert reason == unfit(json.dumps(document).encode())


def test_a_value_of_another_kind_is_refused() -> None:
    """With the way to it."""
    document = json.loads(encode(made()))
    document["facts"]["slots"][1]["workers"][0]["state"] = "dancing"
    assert "knows (facts.slots.1.workers.0.state)" in unfit(json.dumps(document).encode())


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*ROOT.glob("examples/*/config.yaml"), ROOT / "config" / "config.yaml"], ids=str)
def test_the_settings_of_every_example_come_back(path: Path, tmp_path: Path) -> None:
    """With the place of each."""
    # where the files stand that some of them name
    shutil.copytree(path.parent, tmp_path / "service")
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / "service" / name).touch()
    loaded = configfile.load(tmp_path / "service" / "config.yaml", {}, {})
    estate = decode(encode(made(settings=settings_of(loaded.config, loaded.origins))), SHARED)
    assert loaded.config == config_of(estate.settings)
    assert loaded.origins == estate.settings.origins


EVERY_KIND = """
app: chat.rooms:app
name: chat
listen: ["127.0.0.1:2346", "[::1]:2346", "unix:chat.ws"]
workers: 3
drain_window: 250ms
graceful_timeout: 90
handover_timeout: 1.5
max_worker_age: 24h
max_worker_rss: 512MiB
umask: "0077"
pidfile: run/chat.pid
control_socket: chat.sock
control_socket_mode: "0660"
forwarded_allow_ips: ["10.0.0.0/8", unix]
proxy_protocol: ["127.0.0.1:2346=v2", "unix:chat.ws=v1"]
admin: {listen: "127.0.0.1:9100"}
log: {file: chat.log, level: debug}
"""


@pytest.mark.parametrize("lines", [EVERY_KIND, "app: hello\nname: x\nforwarded_allow_ips: '*'\nproxy_protocol: v1\n"])
def test_settings_of_every_kind_come_back(tmp_path: Path, lines: str) -> None:
    """Addresses, times, sizes, modes, lists; paths that were relative are found from anywhere."""
    (tmp_path / "config.yaml").write_text(lines)
    loaded = configfile.load(tmp_path / "config.yaml", {}, {})
    estate = decode(encode(made(settings=settings_of(loaded.config, loaded.origins))), SHARED)
    assert loaded.config == config_of(estate.settings)


def test_the_broker_s_url_comes_back_with_its_secret() -> None:
    """It is never written with that, so it goes by its parts."""
    url = brokers.parse("rediss://ada:se%2Fcret@cache:6380/4?ca=/etc/ca.pem")
    config = CONFIG.model_copy(update={"bus": BusConfig(url=url)})
    settings = settings_of(config, {})
    assert "bus.url" not in settings.values
    back = config_of(decode(encode(made(settings=settings)), SHARED).settings)
    assert (config, "se/cret") == (back, back.bus.url.password if back.bus.url else "")
    assert config_of(settings_of(CONFIG, {})).bus.url is None


def test_a_setting_that_is_gone_is_refused() -> None:
    """What it did would be lost in silence."""
    settings = settings_of(CONFIG, {})
    settings.values["turbo"] = True
    with pytest.raises(Unfit) as caught:
        config_of(settings)
    assert "it has no setting 'turbo', with which the service runs; restart the service instead" == str(caught.value)


def test_a_setting_that_is_new_takes_its_default() -> None:
    """The former program knew nothing of it."""
    settings = settings_of(CONFIG.model_copy(update={"drain_window": 3.0}), {})
    del settings.values["drain_window"]
    assert Config(app="hello").drain_window == config_of(settings).drain_window


def test_a_setting_that_is_not_taken_any_more_is_refused() -> None:
    """With the sentence that a config file would get."""
    settings = settings_of(CONFIG, {})
    settings.values["workers"] = 100_000
    with pytest.raises(Unfit) as caught:
        config_of(settings)
    assert (
        "it does not take a setting with which the service runs: workers must be a number from 1 to 256, or auto, "
        "not 100000"
    ) == str(caught.value)


def test_every_setting_is_left() -> None:
    """All that there are, but for the one that goes by its parts."""
    assert KEYS.keys() == settings_of(CONFIG, {}).values.keys() | {"bus.url"}
    assert config_of(settings_of(CONFIG, {})).admin == AdminConfig()


# --- facts --------------------------------------------------------------------------------------------------------

NOT_LEFT = {
    "draw",
    "policy",
    "state",
    "accepted",
    "roll",
    "waiting",
    "stop_replies",
    "stop_cut",
    "stop_killed",
    "censuses",
    "exit",
    "rebalance",
    "read_at",
    "opening",
    "actions",
}
"""Of a service at rest there is none of these, or it is known from elsewhere."""


def eventful() -> Service:
    """Return a service that has seen a reload, a refused one, deaths, and a hand-over."""
    story = Story(workers=3).serve()
    story.tell(events.WorkerExited(2, signal="SIGSEGV"))
    story.later(1.0)
    story.tell(events.WorkerReady(4))
    story.tell(events.ReloadRequested(story.config))
    for worker in (5, 6, 7):
        story.tell(events.WorkerReady(worker))
        old = next(each for each, state in story.states().items() if state == "draining")
        story.tell(events.HandoverFinished(old, 12, {"tls": 2}, 0.25))
        story.tell(events.WorkerExited(old, code=0))
    story.tell(events.ReloadRefused("config.yaml:1:1: error: no"))
    return story.supervisor.service


def test_the_story_of_the_facts_is_eventful() -> None:
    """Whatever can be counted has been."""
    facts = facts_of(eventful())
    assert (3, 2, 1, 1, 7) == (len(facts.slots), facts.generation, facts.reloads, facts.restarts, facts.last_worker)
    assert {"ok": 1, "refused": 1} == facts.reload_results
    assert (36, {"tls": 6}) == (facts.handovers.moved, facts.handovers.drained)
    assert [True] == [slot.last_exit["reason"] == "killed by SIGSEGV" for slot in facts.slots if slot.last_exit]
    assert facts.deaths
    assert (2, 1) == facts.restart_reasons[0][::2]


def test_a_service_goes_on_from_its_facts() -> None:
    """All of it is as before, and its workers are the same in the roster and in their slots."""
    before = eventful()
    facts = decode(encode(made(facts=facts_of(before))), SHARED).facts
    after = service_of(facts, before.config, before.draw, before.policy)
    assert ServiceState.SERVING is after.state
    for each in fields(Service):
        if each.name != "read_at":
            assert getattr(before, each.name) == getattr(after, each.name), each.name
    assert [*before.roster.workers] == [*after.roster.workers]
    for worker in after.roster.workers.values():
        assert any(worker is one for one in after.roster.slots[worker.slot].workers)


def test_what_counts_goes_on_counting() -> None:
    """Counters are counters again, also for what has not been counted before."""
    before = eventful()
    facts = decode(encode(made(facts=facts_of(before))), SHARED).facts
    after = service_of(facts, before.config, before.draw, RestartPolicy())
    after.restart_reasons[9, "crash"] += 1
    after.end_reload({"result": "partial"})
    after.handovers.add(1, {"busy": 1}, 0.5)
    assert {"ok": 1, "refused": 1, "partial": 1} == after.reload_results
    assert (37, {"tls": 6, "busy": 1}) == (after.handovers.moved, after.handovers.drained)


def test_every_fact_is_left_or_known_not_to_be() -> None:
    """A new one cannot be forgotten."""
    left = {each.name for each in fields(made().facts)} - {"slots"} | {"roster"}
    assert {each.name for each in fields(Service)} == left | NOT_LEFT
    assert not left & NOT_LEFT
