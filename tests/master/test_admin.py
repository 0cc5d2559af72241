"""The master's part of the admin endpoints: one socket for all workers, and what the board says."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.master.forks import in_child
from tests.master.heirs import inheritable, left
from tests.ports import free_port
from wsworker.assignment import Desk
from wsworker.errors import BindError
from wsworker.master.admin import Admin, CpuTime, notice
from wsworker.master.view import Sample
from wsworker.stats import Table
from wsworker.values import ListenAddress

STATUS: Mapping[str, Any] = {
    "restart_reasons": [[1, "exit", 2]],
    "reload_results": {"ok": 1},
    "slots_ever": 3,
    "workers": [{"id": 7, "slot": 1}, {"id": None, "slot": 2}],
}


def sample(seconds: float) -> Sample:
    """Return what a worker had used."""
    return Sample(at=0.0, seconds=seconds, rss=0)


@pytest.fixture
def admin() -> Iterator[Admin]:
    """Give one on a free port; it is closed after the test."""
    made = Admin(ListenAddress("127.0.0.1", free_port(), ""), "config.yaml:3:9", Table(1))
    yield made
    made.close()


def desk_of(admin: Admin) -> Desk:
    """Return what its workers get."""
    desk = admin.desk
    assert desk is not None
    return desk


def look(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a document with a name in it, and the status."""
    return {"name": name}, STATUS


def said(admin: Admin) -> Any:
    """Return what the board says."""
    post = desk_of(admin).board.read()
    return json.loads(post.text) if post else None


# The socket


def test_the_socket_listens_at_once(admin: Admin) -> None:
    """Clients may come before any worker runs; they wait. The address is told as one would write it."""
    admin.open()
    listener = desk_of(admin).listener
    address = listener.getsockname()
    assert f"http://127.0.0.1:{address[1]}" == admin.url
    with socket.create_connection(address, 5) as client:
        accepted, _ = listener.accept()
        accepted.close()
        assert b"" == client.recv(1)


def test_without_an_address_nothing_happens() -> None:
    """No socket, no board, and every method does nothing."""
    admin = Admin(None, "", Table(1))
    admin.open()
    admin.post(1.0, lambda: pytest.fail("nobody looks"), {}, 0)
    admin.keep()
    assert ("", None) == (admin.url, admin.desk)
    admin.close()


def test_a_port_that_somebody_has_is_an_error(admin: Admin) -> None:
    """It names the setting and its place."""
    admin.open()
    address = ListenAddress("127.0.0.1", desk_of(admin).listener.getsockname()[1], "")
    with pytest.raises(BindError) as caught:
        Admin(address, "config.yaml:3:9", Table(1)).open()
    assert "address in use" in str(caught.value)
    assert str(caught.value).endswith("change `admin.listen` (config.yaml:3:9)")


def test_a_unix_socket(tmp_path: Path) -> None:
    """A worker leaves its file alone; the master removes it at the end."""
    path = tmp_path / "admin.sock"
    admin = Admin(ListenAddress("", 0, str(path)), "", Table(1))
    admin.open()
    assert f"http+unix:{path}" == admin.url

    def in_worker() -> bool:
        admin.keep()
        listens = desk_of(admin).listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        admin.close()
        return bool(listens)

    assert in_child(in_worker)
    assert path.exists()
    admin.close()
    assert not path.exists()
    admin.close()


# The board


def test_it_posts_each_second(admin: Admin) -> None:
    """Not in every turn of the loop; but at once when something has changed."""
    admin.open()
    assert said(admin) is None
    for now, name in ((100.0, "first"), (100.5, "second"), (101.0, "third"), (101.5, "fourth")):
        admin.post(now, lambda name=name: look(name), {}, 0)  # type: ignore[misc]
    assert "third" == said(admin)["status"]["name"]
    admin.outdate()
    admin.post(101.6, lambda: look("fifth"), {7: sample(1.5)}, 4)
    assert {
        "status": {"name": "fifth"},
        "started": said(admin)["started"],
        "slots": 3,
        "restart_reasons": [[1, "exit", 2]],
        "reload_results": {"ok": 1},
        "cpu_seconds": {"1": 1.5},
        "log_dropped": 4,
    } == said(admin)
    post = desk_of(admin).board.read()
    assert post is not None
    assert 101_600_000_000 == post.posted_ns


def test_text_that_is_no_text_can_be_posted() -> None:
    """A traceback may name a file whose name is no UTF-8; it comes back as it was."""
    text = notice({"error": "caf\udce9 ☕"}, STATUS, CpuTime(), 0.0, 0)
    assert "caf\udce9 ☕" == json.loads(text)["status"]["error"]


def test_cpu_time_never_goes_back() -> None:
    """A slot has the sum over its workers; one that was not sampled yet adds nothing, one that died keeps its share."""
    cpu = CpuTime()
    cpu.add({1: 1, 2: 2}, {1: sample(3.0)})
    assert {1: 3.0, 2: 0.0} == cpu.seconds
    cpu.add({1: 1, 2: 2, 3: 1}, {1: sample(4.0), 2: sample(1.0)})
    assert {1: 4.0, 2: 1.0} == cpu.seconds
    cpu.add({3: 1, 2: 2}, {3: sample(0.5)})
    assert {1: 4.5, 2: 1.0} == cpu.seconds
    cpu.add({3: 1, 2: 2}, {3: sample(0.5), 2: sample(2.0)})
    assert {1: 4.5, 2: 2.0} == cpu.seconds


TICKS = st.sampled_from((None, 0)) | st.integers(0, 500)


@given(st.lists(st.tuples(TICKS, TICKS), min_size=20, max_size=40))
def test_cpu_time_never_goes_back_by_rounding(turns: list[tuple[int | None, int | None]]) -> None:
    """Whatever clock ticks are sampled, of workers that come and go: not by the last bit, as Prometheus compares."""
    cpu, ticks, seen = CpuTime(), [0, 0], 0.0
    for turn in turns:
        for worker, more in enumerate(turn):
            ticks[worker] += more or 0
        living = {worker: 1 for worker, more in enumerate(turn) if more is not None}
        cpu.add(living, {worker: sample(ticks[worker] / 100) for worker in living})
        assert seen <= cpu.seconds.get(1, 0.0)
        seen = cpu.seconds.get(1, 0.0)


def test_a_sample_that_is_less_than_the_last_adds_nothing() -> None:
    """A counter that goes back would count as one that began anew."""
    cpu = CpuTime()
    for seconds, expected in ((3.0, 3.0), (2.0, 3.0), (3.5, 3.5)):
        cpu.add({1: 1}, {1: sample(seconds)})
        assert {1: expected} == cpu.seconds


# The next program in this process


def test_another_one_goes_on(admin: Admin) -> None:
    """Who waits is not lost; counters go on, and the start of the service is its start."""
    admin.open()
    admin.post(100.0, lambda: look("before"), {7: sample(1.5)}, 0)
    showing = admin.bequeath()
    assert showing is not None
    host, port = desk_of(admin).listener.getsockname()
    with socket.create_connection((host, port), 5):
        given = inheritable()
        after = Admin(ListenAddress(host, port, ""), "", Table(1))
        after.inherit(left(showing))
        assert given == inheritable()
        desk_of(admin).listener.close()
        desk_of(after).listener.accept()[0].close()
    assert "before" == said(after)["status"]["name"]
    after.post(102.0, lambda: look("after"), {7: sample(2.0)}, 0)
    assert {"1": 2.0} == said(after)["cpu_seconds"]
    assert said(after)["started"] == showing.started
    # workers that have the board from before read what is posted now
    assert said(after) == said(admin)
    after.close()


def test_where_there_is_none_nothing_is_left() -> None:
    """And nothing is taken over."""
    admin = Admin(None, "", Table(1))
    assert admin.bequeath() is None
    admin.inherit(None)
    assert ("", None) == (admin.url, admin.desk)


def test_a_fork_lets_go_of_the_board(admin: Admin) -> None:
    """It reads what is mapped; the descriptor is the master's."""
    admin.open()
    admin.post(100.0, lambda: look("here"), {}, 0)

    def worker() -> list[Any]:
        admin.keep()
        return [said(admin)["status"]["name"], desk_of(admin).board.memory.fd]

    assert ["here", -1] == in_child(worker)
    assert desk_of(admin).board.memory.fd >= 0
