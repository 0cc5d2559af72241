"""What a process that user code has forked does with the worker's descriptors."""

from __future__ import annotations

import os
import socket

import pytest

from wsworker.forked import let_go


def test_a_socket_is_closed_once() -> None:
    """Its object does not close the number again, which is another file's by then."""
    one, other = socket.socketpair()
    with other:
        number = one.fileno()
        let_go(one)
        assert b"" == other.recv(1)
        os.dup2(other.fileno(), number)
        one.close()
        del one
        let_go(number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_what_is_closed_already_is_no_error() -> None:
    """The app may have closed it, as many a daemon does with all descriptors that it knows nothing of."""
    one, other = socket.socketpair()
    other.close()
    os.close(one.fileno())
    number = one.fileno()
    let_go(one)
    let_go(number)
    let_go(other)
