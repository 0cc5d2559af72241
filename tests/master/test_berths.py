"""The sockets by which workers meet: who may reach them, and what is left of them."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.master.heirs import inheritable, left
from wsworker.bus.mesh.members import Member, Standing
from wsworker.errors import RunDirError
from wsworker.master.berths import Berths
from wsworker.master.process import Identity

SAME = Identity(None, None, None, 0o022)
MEMBERS = [Member(1, 1, Standing.READY), Member(2, 2, Standing.STARTING), Member(3, 3, Standing.READY)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for the folder, with a short path."""
    parent = Path(tempfile.mkdtemp(prefix="ws"))
    yield parent / "hello.bus"
    shutil.rmtree(parent)


def make(folder: Path, identity: Identity = SAME, group: int | None = None) -> Berths:
    """Return berths that are not open yet."""
    return Berths(folder, "node", identity, group, lambda: MEMBERS)


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


def test_each_slot_has_a_socket_for_us_alone(folder: Path) -> None:
    """It listens from the first moment on; at the end nothing is left."""
    berths = make(folder)
    umask = os.umask(0)
    try:
        berths.open(3)
    finally:
        os.umask(umask)
    assert ["1.sock", "2.sock", "3.sock"] == sorted(path.name for path in folder.iterdir())
    assert (0o700, 0o600) == (mode(folder), mode(folder / "1.sock"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "2.sock"))
    berths.close_slot(3)
    berths.close_slot(3)
    assert not (folder / "3.sock").exists()
    berths.close()
    berths.close()
    assert not folder.exists()


def test_what_a_worker_is_given(folder: Path) -> None:
    """Its listener, which does not block, the folder, the secret, who may connect; the others' listeners are closed."""
    berths = make(folder)
    berths.open(2)
    one, two = berths.berth(7, 1), berths.berth(8, 2)
    assert (Member(7, 1, Standing.STARTING), "node", MEMBERS) == (one.me, one.node, one.members())
    assert 16 == len(one.secret)
    assert one.secret == two.secret != make(folder)._secret
    assert one.uids is not None
    assert {0, os.geteuid()} == set(one.uids)
    assert os.path.samestat(os.fstat(one.folder), folder.stat())
    with pytest.raises(BlockingIOError):
        one.listener.accept()
    berths.keep(2)
    assert (-1, True) == (one.listener.fileno(), two.listener.fileno() >= 0)
    berths.close()


def test_the_address_for_programs_outside(folder: Path) -> None:
    """The sockets of workers that are ready, and what it takes to greet them."""
    berths = make(folder)
    berths.open(3)
    address = berths.address()
    assert [str(folder / "1.sock"), str(folder / "3.sock")] == address["sockets"]
    assert ("node", berths.berth(7, 1).secret.hex()) == (address["node"], address["secret"])
    berths.close()


def test_the_path_may_be_long(tmp_path: Path) -> None:
    """Longer than an address of a socket may be."""
    folder = tmp_path / ("x" * 100) / "hello.bus"
    folder.parent.mkdir()
    berths = make(folder)
    berths.open(1)
    assert (folder / "1.sock").is_socket()
    berths.close()


def test_leftovers_of_a_dead_master(folder: Path) -> None:
    """Its sockets are replaced; a file that is none is somebody's, and stays."""
    dead = make(folder)
    dead.open(3)
    (folder / "notes").write_text("mine")
    for listener in dead._listeners.values():
        listener.close()
    os.close(dead._descriptor)
    berths = make(folder)
    berths.open(1)
    assert ["1.sock", "notes"] == sorted(path.name for path in folder.iterdir())
    berths.close()
    assert ["notes"] == [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("what", ["a socket", "the folder"])
def test_what_somebody_has_removed_is_made_again(folder: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    """For the workers that come; nothing is left open of what was there before."""
    berths = make(folder)
    berths.open(2)
    before = len(os.listdir("/proc/self/fd"))
    berths.renew()
    assert [] == caplog.messages
    if what == "a socket":
        (folder / "2.sock").unlink()
    else:
        shutil.rmtree(folder)
    berths.renew()
    (message,) = caplog.messages
    assert message.startswith(f"the sockets of the bus in {folder} were gone and are made again; ")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "2.sock"))
        berths.berth(7, 2).listener.accept()[0].close()
    assert os.path.samestat(os.fstat(berths.berth(7, 1).folder), folder.stat())
    assert before == len(os.listdir("/proc/self/fd"))
    berths.close()
    berths.renew()
    assert not folder.exists()


def test_what_cannot_be_made_again_is_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Workers go on with what there was, and it is tried again."""
    berths = make(folder)
    berths.open(1)
    before = len(os.listdir("/proc/self/fd"))
    shutil.rmtree(folder)
    folder.touch()
    for _ in range(2):
        berths.renew()
    (message,) = caplog.messages
    assert message.startswith(f"cannot make the sockets of the bus in {folder} again: ")
    assert berths.berth(7, 1).listener.fileno() >= 0
    assert before == len(os.listdir("/proc/self/fd"))
    folder.unlink()
    berths.renew()
    assert (folder / "1.sock").exists()
    berths.close()


def test_a_folder_that_cannot_be_ours(folder: Path) -> None:
    """A file, a link, or a folder in a folder that is not there: one sentence, and nothing is left open."""
    before = len(os.listdir("/proc/self/fd"))
    folder.symlink_to("/tmp")
    with pytest.raises(RunDirError, match=f"run directory {folder}: "):
        make(folder).open(1)
    folder.unlink()
    folder.touch()
    with pytest.raises(RunDirError, match="Not a directory; remove it"):
        make(folder).open(1)
    with pytest.raises(RunDirError, match="No such file or directory"):
        make(folder.parent / "none" / "hello.bus").open(1)
    assert before == len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_workers_of_another_user(folder: Path) -> None:
    """They may connect and not change anything: the sockets are theirs, the folder is root's."""
    nobody = pwd.getpwnam("nobody")
    berths = make(folder, Identity(nobody.pw_uid, nobody.pw_gid, (), 0o022))
    berths.open(1)
    sock, status = (folder / "1.sock").lstat(), folder.stat()
    assert (nobody.pw_uid, 0o600) == (sock.st_uid, stat.S_IMODE(sock.st_mode))
    assert (0, 0o711) == (status.st_uid, stat.S_IMODE(status.st_mode))
    uids = berths.berth(7, 1).uids
    assert uids is not None
    assert {0, nobody.pw_uid} == set(uids)
    berths.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_group_that_may_command(folder: Path) -> None:
    """It may publish as well: then the kernel alone says who connects, by the mode of the socket."""
    berths = make(folder, group=65534)
    berths.open(1)
    sock = (folder / "1.sock").lstat()
    assert (65534, 0o660, 0o711) == (sock.st_gid, stat.S_IMODE(sock.st_mode), mode(folder))
    assert berths.berth(7, 1).uids is None
    berths.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else(folder: Path) -> None:
    """It is refused, though its sockets could be used."""
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(RunDirError, match="it belongs to somebody else; remove it"):
        make(folder).open(1)


def test_others_go_on(folder: Path) -> None:
    """With the name, the secret and the sockets that workers and programs outside know; slots come and go."""
    before = make(folder)
    before.open(2)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "2.sock"))
        given = inheritable()
        after = Berths(folder, "another", SAME, None, lambda: MEMBERS)
        after.inherit(left(before.bequeath()))
        assert given == inheritable()
        assert before.address() == after.address()
        assert "node" == after.berth(7, 1).node
        for listener in before._listeners.values():
            listener.close()
        os.close(before._descriptor)
        after.berth(8, 2).listener.accept()[0].close()
    after.add(3)
    after.close_slot(2)
    assert ["1.sock", "3.sock"] == sorted(path.name for path in folder.iterdir())
    after.renew()
    after.close()
    assert not folder.exists()
