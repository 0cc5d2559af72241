"""Sinks over real pipes, terminals, sockets and files, full ones and broken ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ends import EVERY_KIND, LINE, Ends, a_pipe, have
from tests.master.forks import in_child
from wsworker.sink import ROOM_BYTES, Sink


def report(count: int) -> bytes:
    """Return the line about lost records."""
    return b"%d lost\n" % count


@contextlib.contextmanager
def over(fd: int) -> Iterator[Sink]:
    """Give a sink over a descriptor; what it opened for itself is closed afterwards."""
    sink = Sink(fd, report)
    yield sink
    sink._outlet.close()


def drained(sink: Sink, fd: int) -> bytes:
    """Return what comes when a reader reads until nothing waits any more."""
    came = b""
    while part := have(fd):
        came += part
        sink.flush()
    return came


# ---- what may be stuck


@EVERY_KIND
def test_a_reader_that_comes_back(ends: Ends) -> None:
    """Without a reader nothing blocks: records wait, then are lost; with one, what waited comes in order and whole."""

    def stuck() -> None:
        with contextlib.ExitStack() as stack:
            reader, writer = ends(stack)
            sink = stack.enter_context(over(writer))
            for number in range(6000):
                sink.write(b"%09d %s" % (number, LINE))
            lost = sink.dropped
            came = drained(sink, reader)
            sink.write(b"goodbye\n")
            came += have(reader)
            kept = 6000 - lost
            assert ROOM_BYTES // 110 <= kept < 6000
            expected = [b"%09d %s" % (number, LINE) for number in range(kept)]
            assert [*expected, b"%d lost\n" % lost, b"goodbye\n"] == came.splitlines(keepends=True)
            assert lost == sink.dropped

    in_child(stuck)


def test_a_pipe_takes_records_whole() -> None:
    """A record up to PIPE_BUF goes out as a whole or not at all, so lines of other processes cannot come between."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        sink = stack.enter_context(over(writer))
        os.write(writer, b"y" * 4000 + b"\n")
        sink.write(LINE)
        sink.write(LINE)
        assert 4001 == len(have(reader))
        os.write(writer, b"between\n")
        sink.flush()
        assert b"between\n" + LINE + LINE == have(reader)


def test_a_long_record_goes_out_line_by_line() -> None:
    """What is longer than PIPE_BUF is cut where a line ends, so what comes between is never inside a line."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        sink = stack.enter_context(over(writer))
        record = (b"z" * 1499 + b"\n") * 5
        sink.write(record)
        first = have(reader)
        assert record[:3000] == first
        os.write(writer, b"between\n")
        sink.flush()
        assert b"between\n" + record[3000:6000] == have(reader)
        sink.flush()
        assert record[6000:] == have(reader)


def test_a_line_longer_than_a_pipe() -> None:
    """It goes out in parts, and the next record waits for its end."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        sink = stack.enter_context(over(writer))
        line = b"long" * 200_000 + b"\n"
        sink.write(line)
        sink.write(LINE)
        assert 1 == sink.dropped
        came = drained(sink, reader)
        sink.write(LINE)
        assert line + b"1 lost\n" + LINE == came + have(reader)


def test_room_again() -> None:
    """Records are taken again as soon as there is room, and the loss is told at its place among them."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        sink = stack.enter_context(over(writer))
        while not sink.dropped:
            sink.write(LINE)
        os.read(reader, 8192)
        sink.write(b"new\n")
        came = drained(sink, reader)
        assert came.endswith(LINE + b"1 lost\nnew\n")


def test_nobody_reads_any_more() -> None:
    """Records are lost then, also those that waited."""
    with contextlib.ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, writer)
        sink = stack.enter_context(over(writer))
        for _ in range(1000):
            sink.write(LINE)
        assert 0 == sink.dropped
        os.close(reader)
        sink.flush()
        assert 300 < sink.dropped < 1000


def test_a_named_pipe_that_nobody_reads(tmp_path: Path) -> None:
    """It cannot be opened anew, but it is written to as soon as somebody reads it."""
    with contextlib.ExitStack() as stack:
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(tmp_path / "pipe", os.O_WRONLY)
        stack.callback(os.close, writer)
        os.close(reader)
        sink = stack.enter_context(over(writer))
        sink.write(LINE)
        assert 1 == sink.dropped
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, reader)
        sink.write(LINE)
        assert b"1 lost\n" + LINE == have(reader)


def test_a_torn_line_is_mended(tmp_path: Path) -> None:
    """A named pipe whose reader left in the middle of a line: what its next reader gets after that is whole lines."""
    with contextlib.ExitStack() as stack:
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(tmp_path / "pipe", os.O_WRONLY)
        stack.callback(os.close, writer)
        sink = stack.enter_context(over(writer))
        sink.write(b"long" * 200_000 + b"\n")
        assert have(reader)
        os.close(reader)
        sink.write(LINE)
        assert 2 == sink.dropped
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, reader)
        sink.write(LINE)
        assert b"\n2 lost\n" + LINE == have(reader)


def test_a_socket_nobody_reads_any_more() -> None:
    """What cannot be sent is lost, and no signal ends the process."""
    ours, theirs = socket.socketpair()
    with ours, over(ours.fileno()) as sink:
        theirs.close()
        sink.write(LINE)
        assert 1 == sink.dropped


def test_an_output_that_takes_nothing() -> None:
    """What is written then is lost, and counted."""
    fd = os.open(os.devnull, os.O_RDONLY)
    with over(fd) as sink:
        sink.write(LINE)
        assert 1 == sink.dropped
        os.close(fd)


# ---- a full disk


def test_a_full_device() -> None:
    """Records are lost and counted; a flush finds nothing to do."""
    fd = os.open("/dev/full", os.O_WRONLY)
    with over(fd) as sink:
        for _ in range(3):
            sink.write(LINE)
        sink.flush()
        assert 3 == sink.dropped
    os.close(fd)


def on_a_small_disk(file: Path, limit: int, write: Callable[[Sink], None]) -> int:
    """Write in a process whose files may have limit bytes; return how many records it has lost."""

    def child() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with over(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)) as sink:
            write(sink)
            return sink.dropped

    lost: int = in_child(child)
    return lost


def make_room() -> None:
    """Let the disk have room again."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def write_beyond_the_end(sink: Sink) -> None:
    """Write five lines, of which some do not fit, and another one when there is room again."""
    for _ in range(5):
        sink.write(LINE)
    make_room()
    sink.write(b"new\n")


def test_a_full_disk(tmp_path: Path) -> None:
    """The line that the disk's end cuts is ended before the next one, when there is room again."""
    assert 3 == on_a_small_disk(tmp_path / "log", 250, write_beyond_the_end)
    assert LINE + LINE + LINE[:50] + b"\n3 lost\nnew\n" == (tmp_path / "log").read_bytes()


def test_a_full_disk_without_a_torn_line(tmp_path: Path) -> None:
    """Where a line fits exactly, no empty one follows."""
    assert 3 == on_a_small_disk(tmp_path / "log", 200, write_beyond_the_end)
    assert LINE + LINE + b"3 lost\nnew\n" == (tmp_path / "log").read_bytes()


def test_room_without_a_new_record(tmp_path: Path) -> None:
    """The loss is told by a flush too, once."""

    def write(sink: Sink) -> None:
        for _ in range(2):
            sink.write(LINE)
        sink.flush()
        make_room()
        sink.flush()
        sink.flush()

    assert 1 == on_a_small_disk(tmp_path / "log", 100, write)
    assert LINE + b"1 lost\n" == (tmp_path / "log").read_bytes()


# ---- processes and threads


def test_a_fork_starts_afresh() -> None:
    """A child neither repeats what waits in its parent nor counts what that has lost."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        sink = stack.enter_context(over(writer))
        while not sink.dropped:
            sink.write(LINE)
        have(reader)

        def child() -> int:
            sink.write(b"child\n")
            return sink.dropped

        assert 0 == in_child(child)
        assert b"child\n" == have(reader)
        assert 1 == sink.dropped
        sink.flush()
        assert have(reader).startswith(LINE)


def test_a_fork_while_a_thread_writes() -> None:
    """A child does not wait for a thread that it does not have."""
    entered, leave = threading.Event(), threading.Event()

    def slow_report(count: int) -> bytes:
        entered.set()
        leave.wait()
        return report(count)

    def child() -> None:
        sink.write(b"child\n")

    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        sink = Sink(writer, slow_report)
        sink.drop()
        thread = threading.Thread(target=sink.flush)
        thread.start()
        entered.wait()
        in_child(child)
        assert b"child\n" == have(reader)
        leave.set()
        thread.join()
        assert b"1 lost\n" == have(reader)
        sink.lead_to(stack.enter_context(open(os.devnull, "wb")).fileno())


def test_a_write_from_within_a_write() -> None:
    """What a finalizer or signal handler prints while a line is being written comes after it."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        sink = stack.enter_context(over(writer))

        def interrupt(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code.co_name == "_write_piece":
                sys.setprofile(None)
                sink.write(b"inner\n")

        sys.setprofile(interrupt)
        sink.write(b"outer\n")
        assert b"outer\ninner\n" == have(reader)


def test_threads_do_not_mix_lines() -> None:
    """Each line is whole, whoever wrote it, and also on a pipe that is full now and then."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        sink = stack.enter_context(over(writer))
        lines = [bytes([65 + letter]) * (700 + letter) + b"\n" for letter in range(4)]

        def write(line: bytes) -> None:
            for _ in range(50):
                sink.write(line)

        threads = [threading.Thread(target=write, args=(line,)) for line in lines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        came = drained(sink, reader)
        assert 0 == sink.dropped
        assert sorted(lines * 50) == sorted(came.splitlines(keepends=True))


def test_another_descriptor(tmp_path: Path) -> None:
    """What waits for a stuck pipe goes along, a record that was begun as a whole."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        file = stack.enter_context(open(tmp_path / "log", "wb"))
        sink = stack.enter_context(over(writer))
        long = b"long" * 20_000 + b"\n"
        sink.write(long)
        sink.write(LINE)
        sink.lead_to(file.fileno())
        sink.flush()
        assert long + LINE == (tmp_path / "log").read_bytes()
        assert long[:100] == os.read(reader, 100)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 9000), st.none()), max_size=30))
def test_whatever_comes_when(steps: list[int | None]) -> None:
    """Whatever is written and whenever the reader reads: all that was not dropped comes, in order and whole."""
    with contextlib.ExitStack() as stack:
        reader, writer = a_pipe(stack)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        sink = stack.enter_context(over(writer))
        written, came = b"", b""
        for size in steps:
            if size is None:
                came += have(reader)
                continue
            record = b"".join(b"%d\n" % number for number in range(size // 5))[:size].rstrip(b"\n") + b"\n"
            sink.write(record)
            written += record
        sink.flush()
        came += drained(sink, reader)
        # thirty of these records do not fill the queue: nothing may be lost here
        assert (0, written) == (sink.dropped, came)
