"""Row 34: programs that user code starts get nothing of the service but standard input, output and error."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.frames import TEXT
from tests.system.clients import raw
from tests.system.conftest import MakeDaemon
from tests.system.security.hostile import Client, framed, steadfast

PROGRAM = """
import json
import os

numbers = [number for number in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}")]
print(json.dumps({number: os.readlink(f"/proc/self/fd/{number}") for number in numbers}))
"""
"""Prints its descriptors and what they lead to; that of the listing itself is closed by then."""

STARTS = f"""
import json
import os
import subprocess
import sys

PROGRAM = [sys.executable, "-I", "-c", {PROGRAM!r}]

def run():
    return subprocess.run(PROGRAM, close_fds=False, capture_output=True, check=True).stdout

def fork_and_exec():
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(writing, 1)
        os.execv(PROGRAM[0], PROGRAM)
    os.close(writing)
    with open(reading, "rb") as pipe:
        found = pipe.read()
    os.wait()
    return found

def spawn():
    reading, writing = os.pipe()
    os.posix_spawn(PROGRAM[0], PROGRAM, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])
    os.close(writing)
    with open(reading, "rb") as pipe:
        found = pipe.read()
    os.wait()
    return found

def system():
    return os.popen(subprocess.list2cmdline(PROGRAM)).read().encode()

def on_message(connection, data):
    connection.send(globals()[data]().decode())
"""
"""Starts a program in the way that a message names, and answers with what the program sees."""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_row_34_programs_inherit_nothing(make_daemon: MakeDaemon, loop: str) -> None:
    """Neither listeners, clients, files, the loop's own descriptors nor the line to the master, in whatever way."""
    settings: dict[str, object] = {"log": {"file": "log.txt"}, "http": {"static": "public"}, "pidfile": "pid"}
    daemon = make_daemon(STARTS, loop=loop, **settings)
    (daemon.folder / "public").mkdir()
    (daemon.folder / "public" / "big").write_bytes(bytes(2**24))
    daemon.write_config(listen=[f"127.0.0.1:{daemon.port}", "unix:ws"])
    daemon.start()
    for _ in range(2):
        (worker,) = daemon.workers
        with Client(daemon) as client, raw(daemon) as unfinished, raw(daemon) as reader:
            # a client within its handshake, one that has a file of ours open, and a log that was opened anew
            unfinished.sendall(b"GET / HTTP/1.1\r\n")
            reader.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
            assert reader.recv(100).startswith(b"HTTP/1.1 200 ")
            assert 0 == daemon.cli("reopen").code
            held = [os.readlink(f"/proc/{worker}/fd/{number}") for number in os.listdir(f"/proc/{worker}/fd")]
            assert any(name.endswith("/public/big") for name in held)
            for way in (b"run", b"fork_and_exec", b"spawn", b"system"):
                client.send(framed(TEXT, way))
                found = json.loads(client.message())
                assert {"0", "1", "2"} == found.keys(), (way, found)
                assert not [name for name in found.values() if name.startswith(("socket:", "anon_inode:"))], way
        # a worker of a later generation is no different
        assert 0 == daemon.cli("reload").code


def test_row_34_programs_have_ordinary_signals(make_daemon: MakeDaemon) -> None:
    """A program that user code starts neither ignores nor blocks a signal because its worker does."""
    program = "import json; print(json.dumps([line for line in open('/proc/self/status') if line.startswith('Sig')]))"
    app = f"""
import subprocess
import sys

def on_message(connection, data):
    connection.send(subprocess.check_output([sys.executable, "-I", "-S", "-c", {program!r}]).decode())
"""
    with steadfast(make_daemon(app)) as daemon:
        lines = dict(line.split(":\t") for line in json.loads(daemon.echo("look")))
        assert 0 == int(lines["SigBlk"], 16)
        # Python itself ignores these two
        ours = {signal.SIGPIPE, signal.SIGXFSZ}
        ignored = {number for number in signal.valid_signals() if int(lines["SigIgn"], 16) >> (number - 1) & 1}
        assert not ignored - ours, ignored
