"""Tables for people: which columns are shown, and that no value is cut but those that strangers could make long."""

from __future__ import annotations

import io

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from wsworker.cli import draw
from wsworker.cli.draw import Column, fitting, painted, render, shortened, table
from wsworker.cli.options import Settings

COLUMNS = (
    Column("#", least=2),
    Column("STATE", "<", colors={"ready": "green"}),
    Column("UP", rank=1),
    Column("TOPICS", "<", rank=2),
)
ROWS = (("1", "ready", "2m9s", "news,chat"), ("12", "draining", "3h0m", "-"))
PLAIN = Settings(color="never")
COLORED = Settings(color="always")

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)


def drawn(width: int | None, settings: Settings = PLAIN) -> list[str]:
    """Draw the table of this file."""
    return render(settings, table(COLUMNS, ROWS, width)).split("\n")


def test_a_table() -> None:
    """Figures stand right and words left, two blanks apart, without borders; no line ends in blanks."""
    assert drawn(None) == [
        " #  STATE       UP  TOPICS",
        " 1  ready     2m9s  news,chat",
        "12  draining  3h0m  -",
    ]


@pytest.mark.parametrize("width", [200, 80, 60, 29])
def test_a_wide_terminal(width: int) -> None:
    """What fits is as in a pipe."""
    assert drawn(None) == drawn(width)


def test_a_narrow_terminal() -> None:
    """The highest rank goes first; what is left out is named; rank 0 stays, however narrow it is."""
    assert drawn(28) == [
        " #  STATE       UP",
        " 1  ready     2m9s",
        "12  draining  3h0m",
        "too narrow for: TOPICS",
    ]
    expected = [" #  STATE", " 1  ready", "12  draining", "too narrow for: UP, TOPICS"]
    assert expected == drawn(17)
    assert expected == drawn(1)


def test_of_two_with_one_rank_the_right_one_goes() -> None:
    """So the order of the columns is an order of importance, where nothing else is said."""
    columns = (Column("A", rank=1), Column("B", rank=1), Column("C"))
    assert [0, 2] == fitting(columns, [1, 1, 1], 4)


def test_an_empty_table() -> None:
    """Its headings."""
    assert [" #  STATE  UP  TOPICS"] == render(PLAIN, table(COLUMNS, [])).split("\n")


def test_colours() -> None:
    """Headings are bold, values have the colour of their column, and padding has none."""
    heading, first, *_ = drawn(None, COLORED)
    assert heading == " \x1b[1m#\x1b[0m  \x1b[1mSTATE\x1b[0m       \x1b[1mUP\x1b[0m  \x1b[1mTOPICS\x1b[0m"
    assert first == " 1  \x1b[32mready\x1b[0m     2m9s  news,chat"
    assert drawn(None) == [click.unstyle(line) for line in drawn(None, COLORED)]


def test_the_user_s_word_on_colour_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR takes it out, --color=always beats NO_COLOR, and neither is left to rich."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(Settings(), painted("x", "red"))
    assert "\x1b[31mx\x1b[0m" == render(COLORED, painted("x", "red"))
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "x" == render(PLAIN, painted("x", "red"))


def test_values_are_text() -> None:
    """No markup, no emoji, no control characters: a client chooses some of them."""
    shown = render(PLAIN, table([Column("X", "<")], [["[red]a[/red] :smile: \x1b[31m\r\n\t"]]))
    assert r"[red]a[/red] :smile: \x1b[31m\x0d\x0a\x09" == shown.split("\n")[1]


def test_long_values_are_whole() -> None:
    """Nothing is folded or cut, at whatever width and whatever length."""
    value = "x" * 5000
    for width in (None, 80):
        assert value == render(PLAIN, table([Column("X")], [[value]], width)).split("\n")[1]
    assert value == render(PLAIN, painted(value))


STRANGERS = (Column("A", "<", fewest=5), Column("B", "<", rank=1), Column("C", "<", rank=2, fewest=4))


def test_long_texts_of_strangers_are_shortened_first() -> None:
    """To what is left; the columns go only if that is not enough, and then the rest has their room."""
    row = ("a" * 9, "b" * 9, "c" * 6)
    whole = ["A          B          C", f"{row[0]}  {row[1]}  {row[2]}"]
    for width, expected in {
        None: whole,
        28: whole,
        27: ["A         B          C", f"{'a' * 7}…  {row[1]}  {row[2]}"],
        25: ["A       B          C", f"{'a' * 5}…  {row[1]}  {row[2]}"],
        24: ["A       B          C", f"{'a' * 5}…  {row[1]}  cccc…"],
        22: ["A      B          C", f"aaaa…  {row[1]}  ccc…"],
        21: ["A          B", f"{row[0]}  {row[1]}", "too narrow for: C"],
        17: ["A       B", f"{'a' * 5}…  {row[1]}", "too narrow for: C"],
        15: ["A        C", f"{'a' * 6}…  {row[2]}", "too narrow for: B"],
        10: ["A", f"{row[0]}", "too narrow for: B, C"],
        4: ["A", "aaaa…", "too narrow for: B, C"],
    }.items():
        assert expected == render(PLAIN, table(STRANGERS, [row], width)).split("\n")


def test_a_narrow_column_stays_where_a_wide_one_had_no_room() -> None:
    """So no room is left blank that a column would fit in."""
    columns = (Column("A"), Column("B", rank=1), Column("C", rank=2), Column("D", rank=3))
    assert [0, 2] == fitting(columns, [1, 20, 1, 1], 4)
    assert [0, 2, 3] == fitting(columns, [1, 20, 1, 1], 22)


@given(texts, st.integers(1, 40))
def test_a_shortened_text_fits(text: str, most: int) -> None:
    """It is as before, or its beginning with a mark, in places of the terminal."""
    shown = shortened(text, most)
    assert cell_len(shown) <= most or shown == text
    assert (shown == text) is (cell_len(text) <= most) or text.endswith("…")
    assert shown == text or text.startswith(shown.removesuffix("…").removesuffix(" "))


def test_rich_is_given_lines() -> None:
    """And no table of its own, which would take seconds for ten thousand rows."""
    drawing = table(COLUMNS, ROWS, 28)
    assert isinstance(drawing, Group)
    assert {Text} == {type(part) for part in drawing.renderables}


def test_a_console_that_is_narrower_cuts_lines() -> None:
    """Whoever draws on a screen: a row is never folded below another column."""
    console = Console(file=io.StringIO(), width=12, color_system=None)
    console.print(table(COLUMNS, ROWS))
    assert isinstance(console.file, io.StringIO)
    assert [" #  STATE  …", " 1  ready  …", "12  drainin…"] == console.file.getvalue().splitlines()


def test_wide_characters_take_two_places() -> None:
    """Columns are reckoned in places of the terminal, not in characters."""
    rows = [("日本", "1"), ("abcd", "2")]
    shown = render(PLAIN, table([Column("A"), Column("B")], rows))
    assert ["   A  B", "日本  1", "abcd  2"] == shown.split("\n")


@given(
    rows=st.lists(st.tuples(texts, texts, texts), max_size=5),
    ranks=st.tuples(*[st.integers(0, 3)] * 3),
    width=st.integers(1, 100),
)
def test_what_fits_fits(rows: list[tuple[str, str, str]], ranks: tuple[int, ...], width: int) -> None:
    """Columns keep their order; either they fit, or only those that must stay are left; rank 0 always stays."""
    columns = [Column(name, rank=rank) for name, rank in zip("ABC", ranks, strict=True)]
    widths = draw.natural_widths(columns, rows)
    assert widths == draw.narrowest_widths(columns, widths)
    kept = fitting(columns, widths, width)
    assert sorted(kept) == kept
    assert {index for index, rank in enumerate(ranks) if rank == 0} <= {*kept}
    needed = sum(widths[index] + draw.GAP for index in kept) - draw.GAP
    assert needed <= width or all(ranks[index] == 0 for index in kept)
    assert all(needed + draw.GAP + widths[index] > width for index in {0, 1, 2} - {*kept} if kept)


@given(
    rows=st.lists(st.tuples(texts, texts, texts), max_size=5),
    fewest=st.tuples(*[st.integers(2, 12)] * 3),
    width=st.integers(1, 100),
)
def test_shortened_columns_fill_the_terminal(
    rows: list[tuple[str, str, str]], fewest: tuple[int, ...], width: int
) -> None:
    """None is narrower than it may be nor wider than its text, and no place is left that a shortened one could have."""
    columns = [Column(name, rank=1, fewest=least) for name, least in zip("ABC", fewest, strict=True)]
    natural = draw.natural_widths(columns, rows)
    narrowest = draw.narrowest_widths(columns, natural)
    kept = fitting(columns, narrowest, width)
    widths = draw.shared_widths(natural, narrowest, kept, width)
    assert all(min(natural[index], fewest[index]) <= widths[index] <= natural[index] for index in kept)
    needed = sum(widths[index] + draw.GAP for index in kept) - draw.GAP
    whole = all(widths[index] == natural[index] for index in kept)
    assert needed <= width if whole else needed == width


def test_no_terminal_has_no_width(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is left out of what goes to a file or a pipe."""
    assert None is draw.terminal_width()


def test_a_terminal_has_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is asked for it; COLUMNS goes before, as everywhere."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "123")
    assert 123 == draw.terminal_width()
