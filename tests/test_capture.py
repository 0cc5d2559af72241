"""Captured prints: line by line, each with its connection, whoever prints and however."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ends import a_pipe, a_terminal
from tests.master.forks import in_child
from wsworker.capture import MOST_BYTES, MOST_PARTS, Stream
from wsworker.speaker import floor


class Paper:
    """What was said, and a stream as a worker has it."""

    def __init__(self, fd: int = 1) -> None:
        self.lines: list[str] = []
        self.speakers: list[str | None] = []
        self.stream = io.TextIOWrapper(Stream(fd, self._say), "utf-8", "backslashreplace", write_through=True)

    def _say(self, line: str, connection: str | None) -> None:
        self.lines.append(line)
        self.speakers.append(connection)


def test_a_line_is_said_when_it_is_whole() -> None:
    """Not before, however many writes it takes; a flush ends it too, and nothing is said of empty ones."""
    paper = Paper()
    print("Grüße", 1, end="", file=paper.stream)
    assert [] == paper.lines
    print(" \udc80\n\nnext\r\n  ", end="", file=paper.stream)
    assert ["Grüße 1 \\udc80", "next"] == paper.lines
    print("half", end="", flush=True, file=paper.stream)
    paper.stream.flush()
    print(file=paper.stream)
    assert ["Grüße 1 \\udc80", "next", "  half"] == paper.lines


def test_bytes_that_are_no_text() -> None:
    """They become visible, and may come by the buffer, in any piece."""
    paper = Paper()
    assert 3 == paper.stream.buffer.write(b"\xffa\xc3")
    paper.stream.buffer.write(memoryview(b"\xbc\n"))
    assert ["\\xffaü"] == paper.lines


def test_an_endless_line() -> None:
    """It is cut, as nothing may grow for ever."""
    paper = Paper()
    for _ in range(3):
        paper.stream.write("x" * (MOST_BYTES // 2))
    assert ["x" * MOST_BYTES] == paper.lines


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_long_line(end: str) -> None:
    """It is cut also if it comes at once and whole, and never in the midst of a character; no record is too long."""
    for text in ("x" * (3 * MOST_BYTES), "x" + "é" * MOST_BYTES, "xy" + "😀" * MOST_BYTES, "x" * MOST_BYTES + "y"):
        paper = Paper()
        print(text, end=end, flush=True, file=paper.stream)
        sizes = [len(line.encode()) for line in paper.lines]
        assert text == "".join(paper.lines)
        assert max(sizes) <= MOST_BYTES
        assert min(sizes[:-1]) > MOST_BYTES - 4


def test_a_long_line_of_bytes_that_are_no_text() -> None:
    """It is cut wherever it is."""
    paper = Paper()
    paper.stream.buffer.write(b"\x80" * (MOST_BYTES + 1) + b"\n")
    assert ["\\x80" * MOST_BYTES, "\\x80"] == paper.lines


def test_a_traceback_stays_readable() -> None:
    """It is said line by line, as it was printed."""
    paper = Paper()
    try:
        raise ValueError("bad")
    except ValueError:
        traceback.print_exc(file=paper.stream)
        expected = traceback.format_exc().splitlines()
    assert expected == paper.lines


def test_each_line_has_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that speaks when it is printed; half lines of two do not meet."""

    class Somebody:
        def __init__(self, name: str) -> None:
            self.id = name

    paper = Paper()
    print("import", file=paper.stream)
    monkeypatch.setattr(floor, "holder", Somebody("a"))
    print("half of a", end="", file=paper.stream)
    monkeypatch.setattr(floor, "holder", Somebody("b"))
    print("b", flush=True, file=paper.stream)
    print("half of b", end="", file=paper.stream)
    monkeypatch.setattr(floor, "holder", Somebody("a"))
    print(" and the other", file=paper.stream)
    expected = [("import", None), ("b", "b"), ("half of a and the other", "a")]
    assert expected == list(zip(paper.lines, paper.speakers, strict=True))


def test_threads_do_not_tear_each_others_lines() -> None:
    """print() with many arguments is many writes: a line goes on where its thread left it, whatever others flush."""
    paper = Paper()
    print("half", end=" ", file=paper.stream)
    thread = threading.Thread(target=lambda: print("whole", flush=True, file=paper.stream))
    thread.start()
    thread.join()
    print("done", file=paper.stream)
    assert ["whole", "half done"] == paper.lines


def test_the_last_flush_ends_the_lines_of_all() -> None:
    """The process flushes at its end, in the main thread and for nobody: nothing is lost."""
    paper = Paper()
    thread = threading.Thread(target=lambda: print("half", end="", file=paper.stream))
    thread.start()
    thread.join()
    print("mine", end="", file=paper.stream)
    paper.stream.flush()
    assert ["half", "mine"] == paper.lines


def test_lines_without_an_end_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than MOST_PARTS the oldest is ended, as each connection may leave one behind."""

    class Somebody:
        def __init__(self, name: str) -> None:
            self.id = name

    paper = Paper()
    for number in range(MOST_PARTS + 2):
        monkeypatch.setattr(floor, "holder", Somebody(str(number)))
        print("half of", number, end="", file=paper.stream)
    assert [("half of 0", "0"), ("half of 1", "1")] == list(zip(paper.lines, paper.speakers, strict=True))


def test_a_progress_bar() -> None:
    r"""It begins each step with \r and flushes it; a \r inside a line does not hide what stands before it."""
    paper = Paper()
    for step in (" 10%|#", " 20%|##", "       "):
        paper.stream.write(f"\r{step}")
        paper.stream.flush()
    print("\r", end="", flush=True, file=paper.stream)
    print("refused tom\rwelcomed tom", file=paper.stream)
    assert [" 10%|#", " 20%|##", "refused tom\rwelcomed tom"] == paper.lines


def test_a_fork_says_only_its_own() -> None:
    """The half line that was there is its parent's."""
    paper = Paper()
    print("parent", end="", file=paper.stream)

    def child() -> None:
        print("child", file=paper.stream)
        assert ["child"] == paper.lines

    def flushing() -> None:
        paper.stream.flush()
        assert [] == paper.lines

    in_child(child)
    in_child(flushing)
    paper.stream.flush()
    assert ["parent"] == paper.lines


@given(st.lists(st.text()))
def test_nothing_is_lost(pieces: list[str]) -> None:
    """Whatever is written in whatever pieces: its lines are said, but for those of blanks."""
    paper = Paper()
    for piece in pieces:
        paper.stream.write(piece)
    paper.stream.flush()
    whole = "".join(pieces).encode(errors="backslashreplace").decode()
    expected = [line.strip("\r") for line in whole.split("\n")]
    assert [line for line in expected if line.strip()] == paper.lines


def test_a_stream_knows_its_descriptor() -> None:
    """Programs started with stdout=sys.stdout get the real one; it is never a terminal, so nobody colours lines."""
    with contextlib.ExitStack() as stack:
        _, pipe = a_pipe(stack)
        _, terminal = a_terminal(stack)
        on_pipe, on_terminal = (Paper(fd).stream for fd in (pipe, terminal))
        assert (pipe, False) == (on_pipe.fileno(), on_pipe.isatty())
        assert (terminal, False) == (on_terminal.fileno(), on_terminal.isatty())
        assert (True, False, False) == (on_pipe.writable(), on_pipe.readable(), on_pipe.seekable())
        assert ["<stdout>", "<stderr>"] == [Paper(number).stream.name for number in (1, 2)]
        subprocess.run([sys.executable, "-c", ""], stdout=on_pipe, check=True)


def test_a_closed_stream() -> None:
    """Closing it, as user code or what it has wrapped around may, ends the line; printing goes on."""
    with contextlib.ExitStack() as stack:
        _, writer = a_pipe(stack)
        paper = Paper(writer)
        print("half", end="", file=paper.stream)
        paper.stream.close()
        os.fstat(writer)
        assert ["half"] == paper.lines
        print("x", file=paper.stream)
        assert ["half", "x"] == paper.lines
