"""The stacks: what is noise in what faulthandler wrote, and that the rest always fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsworker.master.stacks import GAP, MAX_CHARACTERS, MAX_FRAMES, trim

PACKAGE = "/usr/lib/python3.11/site-packages/wsworker"

CRASH = f"""Fatal Python error: Aborted

Thread 0x00007fbcdf7bb6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007fbce022ab80 (most recent call first):
  File "/srv/chat/app.py", line 12 in on_message
  File "{PACKAGE}/worker/delivery.py", line 77 in call
  File "{PACKAGE}/worker/main.py", line 80 in run
  File "{PACKAGE}/master/crew.py", line 140 in run
  File "{PACKAGE}/master/process.py", line 185 in _become_worker
  File "{PACKAGE}/__main__.py", line 5 in <module>

Extension modules: psutil._psutil_linux, uvloop.loop (total: 2)
"""


def frame(file: str, function: str = "call", line: int = 1) -> str:
    """Return a line of a stack."""
    return f'  File "{file}", line {line} in {function}'


def test_the_master_s_frames_go() -> None:
    """What is older than the worker's own entry says nothing about it; all else stays as it was written."""
    kept = trim(CRASH)
    assert [line for line in CRASH.strip().split("\n") if "/master/" not in line and "<module>" not in line] == (
        kept.split("\n")
    )


def test_the_oldest_entry_counts() -> None:
    """While a worker boots, a coroutine of the same name and file stands above the function."""
    entry = f"{PACKAGE}/worker/main.py"
    kept = [
        "Stack:",
        frame("/srv/app.py"),
        frame(entry, "run", 200),
        frame("/lib/asyncio/events.py"),
        frame(entry, "run"),
    ]
    assert kept == trim("\n".join([*kept, frame(f"{PACKAGE}/master/crew.py", "run")])).split("\n")


def test_the_user_s_own_names_are_no_entry() -> None:
    """A main.py of theirs, another function of ours, and a name that goes on behind run."""
    lines = [
        frame("/srv/worker/main.py", "run"),
        frame(f"{PACKAGE}/worker/main.py", "_boot"),
        frame(f"{PACKAGE}/worker/main.py", "run_all"),
        frame("/srv/last.py"),
    ]
    assert "\n".join(lines) == trim("\n".join(lines))


def test_each_dump_and_each_thread_has_frames_of_its_own() -> None:
    """Two dumps behind each other lose the master's frames in both."""
    assert f"{trim(CRASH)}\n{trim(CRASH)}" == trim(CRASH + CRASH)


def test_a_deep_recursion_is_cut_at_its_old_end() -> None:
    """The newest frames tell what it does; the next thread is not touched by that."""
    deep = [frame("/srv/app.py", "dive", number) for number in range(100)]
    other = ["Current thread:", frame("/srv/app.py", "wait")]
    assert ["Thread:", *deep[:MAX_FRAMES], GAP, *other] == trim("\n".join(["Thread:", *deep, *other])).split("\n")
    assert "\n".join(deep[:MAX_FRAMES]) == trim("\n".join(deep[:MAX_FRAMES]))


def test_of_too_much_the_end_is_kept() -> None:
    """The current thread comes last, so it is there; a mark says that something is missing."""
    threads = "\n".join(f"Thread {number}:\n{frame('/srv/app.py')}\n" for number in range(2000))
    kept = trim(f"{threads}\n{CRASH}")
    assert MAX_CHARACTERS == len(kept)
    assert kept.startswith(f"{GAP}\n")
    assert kept.endswith(trim(CRASH).partition("\n\n")[2])


def test_nothing_is_nothing() -> None:
    """No words, or only blank lines: the log gets no line for that."""
    assert "" == trim("") == trim("\n\n")


@given(st.lists(st.sampled_from([*CRASH.split("\n"), "  torn", "", "é\x1b"]), max_size=400), st.integers(0, 3000))
def test_whatever_is_written_fits(lines: list[str], copies: int) -> None:
    """The words may be torn anywhere or not be stacks at all: never an error, never too long, never a made-up line."""
    text = "\n".join([*lines, "x" * copies])
    kept = trim(text)
    assert len(kept) <= MAX_CHARACTERS
    if not kept.startswith(GAP):
        assert set(kept.split("\n")) <= {*text.split("\n"), GAP, ""}
