"""The board: what the master posts is read whole or not at all, in every process."""

from __future__ import annotations

import os

from wsworker.board import AREA_BYTES, Board, Post


def test_an_empty_board_says_nothing() -> None:
    """Before the first post there is nothing to read."""
    assert Board().read() is None


def test_the_last_post_is_read() -> None:
    """Longer, shorter and empty ones follow each other, and none leaves a trace in the next."""
    board = Board()
    for number, text in enumerate((b"first", b"the second, longer", b"3", b"", b"fifth")):
        board.post(text, number)
        assert Post(number, text) == board.read()
        assert Post(number, text) == board.read()


def test_the_greatest_post_fits() -> None:
    """All of an area may be filled, and the other one is not touched by it."""
    board = Board()
    board.post(b"before", 1)
    board.post(b"x" * AREA_BYTES, 2)
    assert Post(2, b"x" * AREA_BYTES) == board.read()
    board.post(b"after", 3)
    assert Post(3, b"after") == board.read()


def test_a_forked_child_reads_what_is_posted_later() -> None:
    """The memory is shared, not copied."""
    board = Board()
    board.post(b"old", 1)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - runs in the child
        post = board.read()
        while post is None or post.text == b"old":
            post = board.read()
        os.write(writer, post.text)
        os._exit(0)
    board.post(b"new", 2)
    os.waitpid(pid, 0)
    assert b"new" == os.read(reader, 10)
    os.close(reader)
    os.close(writer)


def test_nothing_is_read_in_the_middle_of_a_post() -> None:
    """While another process posts without a pause, each reading is one of its posts, and none is older than before."""
    board = Board()
    board.post(b"0 " * 10, 0)
    pid = os.fork()
    if pid == 0:  # pragma: no cover - runs in the child
        for number in range(1, 20_001):
            board.post(b"%d " % number * (10 + number % 1000), number)
        os._exit(0)
    last = 0
    while last < 20_000:
        post = board.read()
        assert post is not None
        assert post.posted_ns >= last
        last = post.posted_ns
        assert b"%d " % last * (10 + last % 1000 if last else 10) == post.text
    os.waitpid(pid, 0)


def test_a_post_that_is_not_whole_is_not_taken() -> None:
    """Where its checksum is wrong, as on a machine that shows writes late, the reader keeps what it had, or nothing."""
    board = Board()
    board.post(b"whole", 1)
    reader = Board()
    reader._memory, reader._words = board._memory, board._words
    assert Post(1, b"whole") == board.read()
    board.post(b"other", 2)
    start = bytes(board._memory).index(b"other")
    board._memory[start : start + 5] = b"oth\0\0"
    assert Post(1, b"whole") == board.read()
    assert reader.read() is None


def test_a_board_goes_on_by_its_descriptor() -> None:
    """What was posted is read, and what is posted from now on is read by those that have it from before."""
    before = Board()
    before.post(b"first", 1)
    fd = os.dup(before.memory.fd)
    before.memory.let_go()
    after = Board(fd)
    assert Post(1, b"first") == after.read()
    after.post(b"second", 2)
    assert Post(2, b"second") == before.read()
