"""Which files are the user's, and when a change of them is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.worker.sources import Sources, Stamp, Stamps, is_users, mark, named, pause

OLD: Stamp = (1, 10, 100)
NEW: Stamp = (2, 10, 200)
NEWER: Stamp = (2, 12, 300)

STAMPS = st.none() | st.sampled_from([OLD, NEW, NEWER])
TREES = st.dictionaries(st.sampled_from(["/app.py", "/b.py", "/c.py"]), STAMPS)


def test_a_change_is_told_once_it_rests() -> None:
    """The first look sees it, the next one that finds the same tells it, and then it is known."""
    sources = Sources({"/app.py": OLD, "/b.py": OLD}, {})
    assert ({}, False) == (sources.look({"/app.py": OLD, "/b.py": OLD}, {}), sources.restless)
    assert ({}, True) == (sources.look({"/app.py": NEW, "/b.py": OLD}, {}), sources.restless)
    assert ({"/app.py": NEW}, False) == (sources.look({"/app.py": NEW, "/b.py": OLD}, {}), sources.restless)
    assert ({}, False) == (sources.look({"/app.py": NEW, "/b.py": OLD}, {}), sources.restless)


def test_several_saves_are_one_change() -> None:
    """As long as each look finds something else, nothing is told."""
    sources = Sources({"/app.py": OLD, "/b.py": OLD}, {})
    assert {} == sources.look({"/app.py": NEW, "/b.py": OLD}, {})
    assert {} == sources.look({"/app.py": NEWER, "/b.py": OLD}, {})
    assert {} == sources.look({"/app.py": NEWER, "/b.py": NEW}, {})
    assert {"/app.py": NEWER, "/b.py": NEW} == sources.look({"/app.py": NEWER, "/b.py": NEW}, {})


def test_what_is_undone_is_no_change() -> None:
    """A save that brings back what was loaded needs no reload."""
    sources = Sources({"/app.py": OLD}, {})
    sources.look({"/app.py": NEW}, {})
    assert ({}, False) == (sources.look({"/app.py": OLD}, {}), sources.restless)
    assert {} == sources.look({"/app.py": OLD}, {})


def test_files_come_and_go() -> None:
    """A new file of the tree is a change, so is one that is gone, and one that comes back as it was."""
    sources = Sources({"/app.py": OLD}, {})
    both: Stamps = {"/app.py": OLD, "/b.py": OLD}
    sources.look(both, {})
    assert {"/b.py": OLD} == sources.look(both, {})
    sources.look({"/app.py": OLD}, {})
    assert {"/b.py": None} == sources.look({"/app.py": OLD}, {})
    sources.look(both, {})
    assert {"/b.py": OLD} == sources.look(both, {})
    assert 2 == len(sources)


def test_a_module_that_is_imported_late_is_no_change() -> None:
    """Outside the tree, a file is watched from its import on."""
    sources = Sources({"/app.py": OLD}, {})
    tree: Stamps = {"/app.py": OLD}
    assert ({}, False) == (sources.look(tree, {"/lib.py": OLD}), sources.restless)
    assert {} == sources.look(tree, {"/lib.py": OLD})
    sources.look(tree, {"/lib.py": None})
    assert {"/lib.py": None} == sources.look(tree, {"/lib.py": None})
    sources.look(tree, {"/lib.py": OLD})
    assert {"/lib.py": OLD} == sources.look(tree, {"/lib.py": OLD})


@given(first=TREES, looks=st.lists(TREES))
def test_the_last_state_is_always_told(first: Stamps, looks: list[Stamps]) -> None:
    """Whatever came before: what was told, put over what was loaded, is what is there once two looks found the same."""
    sources = Sources(first, {})
    told = {**first}
    for tree in [*looks, *looks[-1:], *looks[-1:]]:
        told |= sources.look(tree, {})
    last = looks[-1] if looks else first
    assert {path: stamp for path, stamp in last.items() if stamp} == {path: one for path, one in told.items() if one}
    assert not sources.restless


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/srv/app/app.py", True),
        ("/srv/lib/mine.py", True),
        ("/srv/app/native.so", False),
        ("/usr/lib/python3.11/json/__init__.py", False),
        ("/usr/lib/python3.11x/mine.py", True),
        ("/srv/app/venv/lib/python3.11/site-packages/django/__init__.py", False),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", False),
    ],
)
def test_whose_file_it_is(path: str, expected: bool) -> None:
    """Python files that are neither the interpreter's nor installed are the user's."""
    assert expected == is_users(path, ["/usr/lib/python3.11"])


def test_names_for_the_log() -> None:
    """Two are named, below the folder without it, and of more the number is told."""
    assert "app.py" == named(["/srv/app.py"], "/srv")
    assert "a/b.py, app.py" == named(["/srv/app.py", "/srv/a/b.py"], "/srv")
    assert "/etc/config.yaml, /srv2/b.py and 2 more" == named(
        ["/srv/c.py", "/srv/b.py", "/srv2/b.py", "/etc/config.yaml"], "/srv"
    )


def test_workers_that_saw_two_saves_differently_agree() -> None:
    """Told one by one, at once, or met at the start: what is there in the end has one mark."""
    old: Stamps = {"/app.py": OLD, "/b.py": OLD, "/gone.py": OLD}
    first: Stamps = {"/app.py": NEW, "/b.py": OLD, "/gone.py": OLD}
    both: Stamps = {"/app.py": NEW, "/b.py": NEW}
    quick, slow = Sources(old, {}), Sources(old, {})
    marks = []
    for tree in (first, first, both, both):
        quick.look(tree, {})
        marks.append(quick.mark)
    for tree in (first, both, both):
        slow.look(tree, {})
    canary = Sources(both, {})
    assert [Sources(old, {}).mark, Sources(first, {}).mark, Sources(first, {}).mark, canary.mark] == marks
    assert slow.mark == canary.mark
    assert 4 == len({*marks, "another"})


def test_what_is_known_by_name_counts_where_it_has_changed() -> None:
    """A module that only one worker has imported makes no difference until it is saved, nor does the config."""
    tree: Stamps = {"/app.py": OLD}
    one, other = Sources(tree, {"/config": OLD}), Sources(tree, {"/config": OLD})
    late: Stamps = {"/config": OLD, "/lib.py": OLD}
    changed: Stamps = {"/config": NEW, "/lib.py": OLD}
    for others in (late, late, changed, changed):
        one.look(tree, others)
    for others in ({"/config": OLD}, {"/config": NEW}, {"/config": NEW}):
        other.look(tree, others)
    assert one.mark == other.mark != Sources(tree, {"/config": NEW}).mark


@given(TREES, TREES, TREES, TREES)
def test_marks_tell_states_apart(tree: Stamps, changed: Stamps, tree2: Stamps, changed2: Stamps) -> None:
    """The same files have the same mark, in whatever order they were found; others do not. Gone is not there."""
    assert mark(tree, changed) == mark(dict(reversed([*tree.items()])), dict(reversed([*changed.items()])))
    there = [{path: stamp for path, stamp in one.items() if stamp} for one in (tree, tree2)]
    assert (mark(tree, changed) == mark(tree2, changed2)) == (there[0] == there[1] and changed == changed2)


def test_a_name_that_is_no_text() -> None:
    """A file name may hold any byte."""
    assert mark({"/srv/\udcff.py": OLD}, {}) != mark({"/srv/\udcfe.py": OLD}, {})


@pytest.mark.parametrize(
    ("restless", "took", "expected"),
    [(False, 0.001, 0.5), (True, 0.001, 0.1), (True, 0.01, 0.2), (False, 0.3, 6.0), (False, 2.0, 10.0)],
)
def test_the_pause_after_a_look(restless: bool, took: float, expected: float) -> None:
    """Twice a second, sooner to see whether a change rests; a twentieth of the time at most, but within ten seconds."""
    assert pytest.approx(expected) == pause(restless, took)
