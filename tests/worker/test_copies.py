"""Processes that user code forks from a worker, in a process that is no worker but watches as one does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wsworker.worker.copies import end_if_copy

WATCHED = """\
import asyncio, logging, os, signal, socket, sys
from wsworker.worker.copies import end_if_copy, watch

class Odd:
    def __str__(self):
        raise ValueError

def new_loop():
    if sys.argv[1] == "asyncio":
        return asyncio.new_event_loop()
    import uvloop
    return uvloop.new_event_loop()

def fork(child):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # for one that is not ended
        child()
        return True
    print("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return False

loop = new_loop()
logging.basicConfig(format="%(message)s")
watch(loop, lambda: print("let go", flush=True))

"""


def run(script: str, loop: str = "asyncio") -> tuple[list[str], str]:
    """Run a script in a process that watches; return the lines that it has printed, and its standard error."""
    command = [sys.executable, "-W", "error", "-c", WATCHED + script, loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines(), done.stderr


def test_who_is_no_copy_goes_on() -> None:
    """Whatever user code has raised."""
    end_if_copy(None)
    end_if_copy(SystemExit(7))
    assert ([], "") == run("end_if_copy(SystemExit(7))\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("None", 0, "it should end with os._exit()"),
        ("SystemExit()", 0, ""),
        ("SystemExit(7)", 7, ""),
        ("SystemExit(-1)", 255, ""),
        ("SystemExit('why')", 1, "why\n"),
        ("SystemExit(Odd())", 1, ""),
        ("ValueError('of mine')", 1, "a process that the app has forked has failed\nValueError: of mine\n"),
    ],
)
def test_the_end_of_a_copy(error: str, code: int, said: str) -> None:
    """It lets go when it begins; its exit code is what the interpreter's would be, and what it has printed is seen."""
    printed, told = run(f"fork(lambda: (print('printed'), end_if_copy({error})))\n")
    assert ["let go", "printed", f"code {code}"] == printed
    assert said in told
    assert bool(said) == bool(told)


def test_a_copy_that_stays_in_user_code_is_left_alone() -> None:
    """It ends as it likes, and so does a copy of it, which has nothing more to let go."""
    assert (["let go", "code 8", "code 9"], "") == run("fork(lambda: (fork(lambda: os._exit(8)), os._exit(9)))\n")


COMES_BACK = """\
ours, theirs = socket.socketpair()

def read():
    print("read", ours.recv(10), flush=True)
    loop.stop()

def back():
    if fork(lambda: loop.remove_reader(ours)):
        {then}
    else:
        theirs.send(b"hello")

loop.add_reader(ours, read)
loop.call_soon(back)
loop.run_forever()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_copy_in_the_loop(loop: str) -> None:
    """It is ended, and what it has told its loop does not concern the worker's."""
    printed, told = run(COMES_BACK.format(then="pass"), loop)
    assert ["let go", "code 0", "read b'hello'"] == printed
    assert "came back and is ended" in told


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_copy_whose_loop_ends_first(loop: str) -> None:
    """Who runs the loop gets the SystemExit that has ended it, on either loop, and can ask for the end."""
    script = COMES_BACK.format(then="sys.exit(7)").replace(
        "loop.run_forever()", "try:\n    loop.run_forever()\nexcept SystemExit as error:\n    end_if_copy(error)\n"
    )
    assert (["let go", "code 7", "read b'hello'"], "") == run(script, loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_copy_of_which_the_loop_is_closed(loop: str) -> None:
    """There is nothing that it could come back to."""
    assert (["let go", "code 7"], "") == run("loop.close()\nfork(lambda: os._exit(7))\n", loop)


IN_A_CALLBACK = """\
from tests.worker.service import make_app, recorded, text

def on_message(connection, data):
    print(os.getpid() == worker, data.split()[0], flush=True)
    if data.startswith("fork"):
        fork(lambda: {child})

worker = os.getpid()
asyncio.set_event_loop(loop)

async def main():
    connection, transport = recorded(make_app(on_message=on_message))
    connection.data_received(text("fork") + text("behind"))
    print("wrote", transport.writes, flush=True)

loop.run_until_complete(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("child", "code", "said"),
    [("None", 0, "came back and is ended"), ("sys.exit(7)", 7, ""), ("1 / 0", 1, "ZeroDivisionError")],
)
def test_a_copy_that_comes_back_from_on_message(loop: str, child: str, code: int, said: str) -> None:
    """It is ended before the next message of the same read, which the worker handles once."""
    printed, told = run(IN_A_CALLBACK.format(child=child), loop)
    assert ["True fork", "let go", f"code {code}", "True behind", "wrote []"] == printed
    assert said in told
