"""The last words: what is read when, that old ones go, and that a reader never disturbs the writer."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import os
import resource
from collections.abc import Iterator

import pytest

from tests.master.forks import in_child
from wsworker.master.words import MAX_BYTES, READ_BYTES, LastWords


@pytest.fixture
def words() -> Iterator[LastWords]:
    """Give a file for last words."""
    made = LastWords()
    yield made
    made.close()


def test_each_word_is_read_once(words: LastWords) -> None:
    """Only what is new comes, in whatever pieces it was written; what is no UTF-8 shows as such."""
    assert "" == words.unread()
    os.write(words.fd, b"one ")
    os.write(words.fd, b"two")
    assert "one two" == words.unread()
    assert "" == words.unread()
    os.write(words.fd, b"three\xff")
    assert "three\ufffd" == words.unread()


def test_the_words_outlive_the_worker(words: LastWords) -> None:
    """What a child wrote is there when it is dead, and its writing goes on where it was after a reading."""

    def worker() -> None:
        os.write(words.fd, b"from the worker")
        faulthandler.dump_traceback(words.fd)

    in_child(worker)
    text = words.unread()
    assert text.startswith("from the worker")
    assert "most recent call first" in text
    in_child(lambda: os.write(words.fd, b"more"))
    assert "more" == words.unread()


def test_of_too_many_words_the_end_is_read(words: LastWords) -> None:
    """A flood costs one reading and not one a second for minutes."""
    os.write(words.fd, b"x" * READ_BYTES + b"the end")
    text = words.unread()
    assert READ_BYTES == len(text)
    assert text.endswith("xthe end")
    assert "" == words.unread()


def test_the_file_does_not_grow_for_ever(words: LastWords) -> None:
    """Over 1 MiB it is emptied, and what comes then is read from the start, without a hole before it."""
    os.write(words.fd, b"x" * MAX_BYTES)
    words.unread()
    assert MAX_BYTES == os.fstat(words.fd).st_size
    os.write(words.fd, b"!")
    assert "!" == words.unread()
    assert 0 == os.fstat(words.fd).st_size
    os.write(words.fd, b"new")
    assert "new" == words.unread()
    assert 3 == os.fstat(words.fd).st_size


def test_a_file_that_cannot_be_emptied_is_still_read(words: LastWords) -> None:
    """User code holds the descriptor too and may seal it."""
    os.write(words.fd, b"x" * (MAX_BYTES + 1))
    fcntl.fcntl(words.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    assert READ_BYTES == len(words.unread())
    os.write(words.fd, b"new")
    assert "new" == words.unread()
    assert "" == words.unread()


def test_programs_do_not_inherit_it(words: LastWords) -> None:
    """What a worker executes has no business there."""
    assert not os.get_inheritable(words.fd)


def test_without_descriptors_there_is_none() -> None:
    """The caller hears of it and nothing is left open."""

    def master() -> list[int | None]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            LastWords()
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return [caught.value.errno, len(os.listdir("/proc/self/fd")) - before]

    assert [errno.EMFILE, 0] == in_child(master)


def test_another_reader_goes_on() -> None:
    """By the descriptor, and by how much was read: nothing comes twice, nothing is lost, and writing goes on."""
    before = LastWords()
    os.write(before.fd, b"one ")
    assert "one " == before.unread()
    os.write(before.fd, b"two ")
    after = LastWords(os.dup(before.fd), before.read)
    os.write(before.fd, b"three")
    assert "two three" == after.unread()
    assert 13 == after.read
    before.close()
    after.close()
