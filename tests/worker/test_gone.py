"""GONE: nothing is asked of it that fails, and nothing comes of it."""

from __future__ import annotations

from wsworker.worker.gone import GONE


def test_it_is_closed_and_empty() -> None:
    """It takes everything and keeps nothing."""
    GONE.set_write_buffer_limits(high=0)
    GONE.write(b"x")
    GONE.abort()
    assert (True, 0, True) == (GONE.is_closing(), GONE.get_write_buffer_size(), GONE.can_write_eof())
