"""The site: which files are opened, and how they travel. The rules of plain HTTP are tested with plain.py."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

from tests.worker.conftest import Run
from tests.worker.service import DEADLINE_SECONDS, until
from wsworker.protocol.plain import Answer
from wsworker.worker.site import CHUNK_BYTES, CHUNKS_PER_TURN, Download, Site

NOW = 2_000_000_000.0
SECRET = b"nobody may read this"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of files, beside which lies a file with SECRET."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    made = tmp_path / "public"
    (made / "sub").mkdir(parents=True)
    (made / "index.html").write_text("start")
    (made / "a.js").write_text("let a")
    (made / "sub" / "index.html").write_text("below")
    (made / "caf\u00e9.txt").write_text("coffee")
    return made


def ask(folder: Path, target: str, method: str = "GET", **fields: str) -> tuple[int, bytes, Answer]:
    """Return status, all of the body, and the answer, whose file is closed."""
    headers = Headers({name.replace("_", "-"): value for name, value in fields.items()})
    answer = Site(str(folder)).answer(Request(target, headers, method), NOW)
    body = answer.body
    if answer.file is not None:
        body += answer.file.read()
        answer.file.close()
        assert len(body) == answer.size
    return int(answer.head.split()[1]), body, answer


@pytest.mark.parametrize(
    ("target", "content"),
    [
        ("/", b"start"),
        ("/index.html", b"start"),
        ("/a.js?v=2", b"let a"),
        ("/sub/", b"below"),
        ("/caf%C3%A9.txt", b"coffee"),
    ],
)
def test_files(folder: Path, target: str, content: bytes) -> None:
    """A file is given whole, the index for a folder; HEAD gets the same head and no file."""
    status, body, answer = ask(folder, target)
    assert (200, content) == (status, body)
    assert f"Content-Length: {len(content)}\r\n".encode() in answer.head
    assert Answer(answer.head) == ask(folder, target, "HEAD")[2]


def test_empty_file(folder: Path) -> None:
    """A file may hold nothing."""
    (folder / "empty").touch()
    assert (200, b"") == ask(folder, "/empty")[:2]


@pytest.mark.parametrize(
    "target", ["/none", "/none/", "/a.js/", "/a.js/b", "/sub/none", f"/{'x' * 300}", "/..", "/../secret.txt", "/a%00"]
)
def test_missing(folder: Path, target: str) -> None:
    """What is not there is 404, without a line in the log; so is what no target may mean."""
    status, _, answer = ask(folder, target)
    assert (404, "") == (status, answer.log)


def test_folders(folder: Path) -> None:
    """A folder without its slash is a redirect, one without an index is nothing: no listing."""
    (folder / "bare").mkdir()
    (folder / "odd" / "index.html").mkdir(parents=True)
    status, _, answer = ask(folder, "/sub?x=1")
    assert status == 301
    assert b"\r\nLocation: /sub/?x=1\r\n" in answer.head
    assert 404 == ask(folder, "/bare/")[0]
    assert 404 == ask(folder, "/odd/")[0]


def test_conditional(folder: Path) -> None:
    """A client that has the file is told so by tag or date; once the file changes it gets it again."""
    head = ask(folder, "/a.js")[2].head.decode()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
    assert (304, b"") == ask(folder, "/a.js", If_None_Match=fields["ETag"])[:2]
    assert (304, b"") == ask(folder, "/a.js", "HEAD", If_Modified_Since=fields["Last-Modified"])[:2]
    (folder / "a.js").write_text("let b")
    os.utime(folder / "a.js", ns=(0, 1))
    assert (200, b"let b") == ask(folder, "/a.js", If_None_Match=fields["ETag"])[:2]


def test_links_inside(folder: Path) -> None:
    """A link to a place inside is followed, also one to a folder, and the folder itself may be one."""
    (folder / "link.js").symlink_to("a.js")
    (folder / "other").symlink_to("sub")
    (folder / "up").symlink_to(folder)
    (folder.parent / "site").symlink_to(folder)
    assert (200, b"let a") == ask(folder, "/link.js")[:2]
    assert (200, b"below") == ask(folder.parent / "site", "/other/")[:2]
    assert (200, b"let a") == ask(folder, "/up/up/a.js")[:2]
    assert 301 == ask(folder, "/up")[0]


def test_links_out(folder: Path) -> None:
    """A link out of the folder is 404, to a file, a folder or through several links; the log says why."""
    (folder.parent / "public2").mkdir()
    (folder.parent / "public2" / "x").write_bytes(SECRET)
    links = {
        "file": "../secret.txt",
        "absolute": str(folder.parent / "secret.txt"),
        "parent": "..",
        "neighbour": "../public2",
        "twice": "sub/../file",
        "etc": "/etc",
        "whole": "/",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    for target in ("/file", "/absolute", "/parent/secret.txt", "/neighbour/x", "/twice", "/etc/passwd", "/whole/etc/"):
        status, body, answer = ask(folder, target)
        assert status == 404
        assert SECRET not in body
        if target != "/whole/etc/":
            assert answer.log == f"{target[1:]} is not served: a link leads out of http.static"
    # not even whether it is a folder is told
    assert 404 == ask(folder, "/parent")[0]


def test_links_in_a_circle(folder: Path) -> None:
    """A link that leads nowhere is a missing file."""
    (folder / "circle").symlink_to("circle")
    (folder / "dangling").symlink_to("nothing")
    assert [404, 404] == [ask(folder, "/circle")[0], ask(folder, "/dangling")[0]]


def test_hidden_files(folder: Path) -> None:
    """A dotfile cannot be asked for, nor reached by a link; a folder of files may itself lie in a hidden one."""
    (folder / ".env").write_bytes(SECRET)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_bytes(SECRET)
    (folder / "env").symlink_to(".env")
    (folder / "git").symlink_to(".git")
    assert [404] * 4 == [ask(folder, target)[0] for target in ("/.env", "/.git/config", "/env", "/git/config")]
    assert ask(folder, "/env")[2].log == "env is not served: a link leads to a hidden file"
    hidden = folder.parent / ".hidden"
    hidden.mkdir()
    (hidden / "x").write_text("served")
    assert (200, b"served") == ask(hidden, "/x")[:2]


def test_no_regular_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe or socket is not opened, so nobody waits for its other end; a device is out of the folder."""
    os.mkfifo(folder / "pipe")
    (folder / "null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)  # the path of a socket must be short
        listener.bind("socket")
        assert [404] * 3 == [ask(folder, f"/{name}")[0] for name in ("pipe", "socket", "null")]
    assert ask(folder, "/pipe")[2].log == "pipe is not served: it is no regular file"


def test_a_name_cannot_forge_a_log_line(folder: Path) -> None:
    """What a client asks for is escaped in the log, whatever the file is called."""
    (folder / "a\x85b\u202ec").symlink_to("/etc/passwd")
    log = ask(folder, "/a%C2%85b%E2%80%AEc")[2].log
    assert log.startswith("a\\x85b\\u202ec is not served")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_no_permission(folder: Path) -> None:
    """A file that the worker may not read is 404 to the client and a line in the log."""
    (folder / "a.js").chmod(0)
    status, _, answer = ask(folder, "/a.js")
    assert (404, "a.js is not served: Permission denied") == (status, answer.log)


def test_no_descriptors(folder: Path) -> None:
    """A worker that has no descriptor left says that it cannot read the file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        status, _, answer = ask(folder, "/a.js")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (500, "a.js is not served: Too many open files") == (status, answer.log)


def test_the_folder_is_everything(tmp_path: Path) -> None:
    """Even the root of the file system is a folder like any other."""
    (tmp_path / "x").write_text("served")
    assert (200, b"served") == ask(Path("/"), f"{tmp_path}/x")[:2]


@contextmanager
def flipping(link: Path, targets: list[Path]) -> Iterator[None]:
    """Let a link lead here and there, as fast as a thread can exchange it."""
    ended = threading.Event()

    def flip() -> None:
        while not ended.is_set():
            for target in targets:
                new = link.with_name("new")
                new.symlink_to(target)
                new.replace(link)

    link.symlink_to(targets[0])
    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_race_is_never_won(folder: Path) -> None:
    """A link that is exchanged at any moment, between a good file and one outside, never gives the one outside."""
    give_up_at = time.monotonic() + DEADLINE_SECONDS
    with flipping(folder / "link", [folder / "a.js", folder.parent / "secret.txt"]):
        seen = {ask(folder, "/link")[:2] for _ in range(2000)}
        # the thread may have had no turn yet
        while len({status for status, _ in seen}) < 2 and time.monotonic() < give_up_at:
            seen.add(ask(folder, "/link")[:2])
    statuses = {status for status, _ in seen}
    assert statuses == {200, 404}
    assert {body for status, body in seen if status == 200} == {b"let a"}


# Downloads


class Server(asyncio.Protocol):
    """Sends one answer to whoever connects, as a connection does."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.ended: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        loop = asyncio.get_running_loop()
        self.download = Download(loop, transport, self.answer, lambda: self.ended.append("done"))
        self.download.start()

    def resume_writing(self) -> None:
        self.download.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self.download.close()
        self.ended.append("lost")


def of_file(path: Path, size: int) -> Answer:
    """Return an answer with the file, which is announced with a size."""
    return Answer(b"HEAD\n", b"BODY\n", open(path, "rb", buffering=0), size)


async def serve(answer: Answer, receive_buffer: int = 0) -> tuple[Server, asyncio.StreamReader, Callable[[], None]]:
    """Return the server of one client, the client's reader, and what ends both."""
    loop, server = asyncio.get_running_loop(), Server(answer)
    listener = await loop.create_server(lambda: server, "127.0.0.1", 0)
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await loop.sock_connect(sock, listener.sockets[0].getsockname())
    # a small limit, so that the client's own buffer is no place for the file
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    await until(lambda: hasattr(server, "download"))

    def end() -> None:
        writer.close()
        server.transport.abort()
        listener.close()

    return server, reader, end


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 7])
def test_download(run: Run, tmp_path: Path, size: int) -> None:
    """A file of any size arrives whole behind head and body; done comes once, and the file is closed."""
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)

    async def main() -> None:
        answer = of_file(tmp_path / "file", size)
        server, reader, end = await serve(answer)
        assert b"HEAD\nBODY\n" + content == await reader.readexactly(10 + size)
        await until(lambda: server.ended)
        assert ["done"] == server.ended
        assert answer.file is not None
        assert answer.file.closed
        end()
        await until(lambda: "lost" in server.ended)

    run(main())


def test_download_without_a_file(run: Run) -> None:
    """An answer that has no file is sent in the same way."""

    async def main() -> None:
        server, reader, end = await serve(Answer(b"HEAD\n", b"BODY\n"))
        assert b"HEAD\nBODY\n" == await reader.readexactly(10)
        await until(lambda: server.ended == ["done"])
        end()
        await until(lambda: "lost" in server.ended)

    run(main())


def test_a_client_that_does_not_read(run: Run, tmp_path: Path) -> None:
    """Its file stays on the disk but for a chunk; that it takes nothing can be told, and once it reads it gets all."""
    size = 32 * 1024**2
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)

    async def main() -> None:
        answer = of_file(tmp_path / "file", size)
        assert answer.file is not None
        server, reader, end = await serve(answer, receive_buffer=4096)
        assert not server.download.stuck()
        await until(lambda: server.transport.get_write_buffer_size() and server.download.stuck())
        assert server.transport.get_write_buffer_size() <= CHUNK_BYTES + 10
        assert answer.file.tell() < size // 4
        left = size + 10
        while data := await reader.read(min(left, 2**20)):
            left -= len(data)
        assert left == 0
        await until(lambda: server.ended == ["done"])
        end()
        await until(lambda: "lost" in server.ended)

    run(main())


def test_a_file_that_shrinks(run: Run, tmp_path: Path) -> None:
    """A file that ends too early ends the connection without a goodbye, so that nobody takes it for whole."""
    (tmp_path / "file").write_bytes(b"x" * 100)

    async def main() -> None:
        answer = of_file(tmp_path / "file", 200)
        server, reader, end = await serve(answer)
        assert len(await reader.read(1000)) <= 110
        await until(lambda: server.ended)
        assert ["lost"] == server.ended
        end()

    run(main())


def test_a_file_that_cannot_be_read(run: Run) -> None:
    """An error of the disk ends the connection too."""

    async def main() -> None:
        # its first page is never mapped, so a read is EIO
        server, _, end = await serve(of_file(Path("/proc/self/mem"), 10))
        await until(lambda: server.ended)
        assert ["lost"] == server.ended
        end()

    run(main())


def test_a_client_that_leaves(run: Run, tmp_path: Path) -> None:
    """The file is closed with the connection, and done never comes."""
    size = 32 * 1024**2
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)

    async def main() -> None:
        answer = of_file(tmp_path / "file", size)
        server, _, end = await serve(answer, receive_buffer=4096)
        end()
        await until(lambda: server.ended)
        assert ["lost"] == server.ended
        assert answer.file is not None
        assert answer.file.closed
        server.download.close()

    run(main())


class Greedy(asyncio.Transport):
    """A transport that takes everything at once, as one does whose client is as fast as we are."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert 0 == high

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        self.taken += len(data)


def test_a_fast_client_does_not_hold_the_loop(run: Run, tmp_path: Path) -> None:
    """After a few chunks it is others' turn; a client that is dropped between two turns gets no more."""
    turn = CHUNKS_PER_TURN * CHUNK_BYTES
    (tmp_path / "file").write_bytes(bytes(3 * turn))

    async def main() -> None:
        done: list[int] = []
        greedy = Greedy()
        download = Download(
            asyncio.get_running_loop(), greedy, of_file(tmp_path / "file", 3 * turn), lambda: done.append(1)
        )
        download.start()
        assert turn + 10 == greedy.taken
        download.pump()
        assert 2 * turn + 10 == greedy.taken
        await until(lambda: done)
        assert 3 * turn + 10 == greedy.taken
        download.pump()
        assert [1] == done
        dropped = Greedy()
        download = Download(
            asyncio.get_running_loop(), dropped, of_file(tmp_path / "file", 3 * turn), lambda: done.append(2)
        )
        download.start()
        download.close()
        await asyncio.sleep(0)
        assert turn + 10 == dropped.taken
        assert [1] == done

    run(main())
