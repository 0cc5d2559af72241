"""The pictures of the documentation, taken anew: `make pictures`, or `python -m tests.pictures status chat` for some.

A service runs, clients talk to it, and what a person would see is photographed by a headless Chromium: a terminal as
rich draws it, a page as it is. Each picture is a function of the table PICTURES; its file is docs/img/NAME.png.

Nothing is compared: whoever takes pictures looks at them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.examples.example import Example

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER: Final = Path(__file__).parent.parent / "docs" / "img"
CLIENTS: Final = 60
SCALE: Final = 2

_STYLE: Final = """
body { margin: 0; padding: 18px; background: #fff; display: inline-block; }
.window { background: #15191e; border-radius: 9px; padding: 14px 18px 16px; color: #d7dce2; display: inline-block; }
.title { color: #7f8a96; font: 12px sans-serif; text-align: center; margin-bottom: 10px; }
pre { margin: 0; font: 13px/1.38 'DejaVu Sans Mono', 'Liberation Mono', monospace; }
"""


# The terminal


def screen(
    command: Sequence[str], example: Example, columns: int, rows: int, keys: bytes = b"", after: float = 0
) -> str:
    """Run a command on a terminal of this size and return what it wrote; keys are typed `after` so many seconds."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(example.folder)
        os.execve(
            sys.executable, [sys.executable, "-m", "wsworker", *command], example.environ | {"TERM": "xterm-256color"}
        )
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    if keys:
        threading.Timer(after, os.write, (terminal, keys)).start()
    written = io.BytesIO()
    try:
        while data := os.read(terminal, 65536):
            written.write(data)
    except OSError:
        # EIO: the program has ended
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    return written.getvalue().decode(errors="replace")


def last_frame(text: str) -> str:
    """Return the last whole screen of a program that draws again and again from the upper left corner."""
    frames = [frame for frame in text.split("\x1b[H") if frame.count("\n") > 3]
    return re.sub(r"\x1b\[\?[0-9]+[hl]|\x1b\[2?[JK]", "", frames[-1]).replace("\r", "")


def photograph_terminal(browser: Browser, name: str, title: str, text: str, example: Example) -> None:
    """Draw what a terminal shows, under the port that the documents use."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    shown = text.replace("\r\n", "\n").strip("\n").replace(str(example.port), "2346")
    shown = shown.replace(str(example.folder), "/srv/" + example.example).replace(example.name, example.example)
    console = Console(record=True, width=200, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(shown), crop=False, overflow="ignore", no_wrap=True)
    code = console.export_html(inline_styles=True, theme=MONOKAI, code_format="{code}")
    page = browser.new_page(device_scale_factor=SCALE)
    page.set_content(f"<style>{_STYLE}</style><div class=window><div class=title>{title}</div><pre>{code}</pre></div>")
    page.locator(".window").screenshot(path=FOLDER / f"{name}.png")
    page.close()


@contextmanager
def crowd(example: Example) -> Iterator[None]:
    """Let clients talk to the service, each with its own pace, until the block ends."""
    over = threading.Event()

    def talk() -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(example.connect()) for _ in range(CLIENTS)]
            turn = 0
            while not over.wait(0.02):
                turn += 1
                for index, client in enumerate(clients):
                    if turn % (index % 7 + 2) == 0:
                        client.send("tom")
                        client.recv(10)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        time.sleep(8)  # the rates are those of the last seconds
        yield
    finally:
        over.set()
        thread.join()


def status(browser: Browser) -> None:
    """`wsworker status` while clients talk."""
    with running("hello") as example, crowd(example):
        text = screen(["status", "--color", "always"], example, 130, 30)
        photograph_terminal(browser, "status", "wsworker status", text, example)
        text = screen(["connections", "--limit", "8", "--color", "always"], example, 130, 30)
        photograph_terminal(browser, "connections", "wsworker connections --limit 8", text, example)


def top(browser: Browser) -> None:
    """`wsworker top` after most of a minute."""
    with running("hello") as example, crowd(example):
        text = last_frame(screen(["top"], example, 140, 11, b"q", after=50))
        photograph_terminal(browser, "top", "wsworker top", text, example)


def reload(browser: Browser) -> None:
    """`wsworker reload`, with broken code and without."""
    with running("hello") as example, crowd(example):
        good = (example.folder / "app.py").read_text()
        (example.folder / "app.py").write_text(good.replace("):", ")", 1))
        refused = screen(["reload", "--color", "always"], example, 110, 30)
        photograph_terminal(browser, "refused", "wsworker reload", refused, example)


# Pages


@contextmanager
def running(name: str) -> Iterator[Example]:
    """Start an example for a picture."""
    with Example(name) as example:
        yield example.start()


def photograph_page(page: Page, name: str) -> None:
    """Photograph what a page shows."""
    page.wait_for_timeout(400)  # what was sent last has come back
    page.screenshot(path=FOLDER / f"{name}.png", full_page=True)


def echo(browser: Browser) -> None:
    """The page to try a service with."""
    with running("echo") as example:
        page = browser.new_page(viewport={"width": 760, "height": 480}, device_scale_factor=SCALE)
        page.goto(example.site)
        page.wait_for_timeout(500)
        page.locator("#text").click()
        page.locator("#data").fill("Grüße")
        page.locator("#text").click()
        page.locator("#binary").click()
        page.locator("#huge").click()
        photograph_page(page, "echo")


def chat(browser: Browser) -> None:
    """Two people in a room."""
    with running("chat") as example:
        pages = []
        for name in ("ann", "bob"):
            made = subprocess.run(
                [sys.executable, "ticket.py", name],
                cwd=example.folder,
                env=example.environ,
                capture_output=True,
                text=True,
            )
            context = browser.new_context(viewport={"width": 620, "height": 640}, device_scale_factor=SCALE)
            page = context.new_page()
            page.goto(f"{example.site}/#{made.stdout.strip().partition('#')[2]}")
            page.wait_for_timeout(500)
            page.locator("#enter button").click()
            page.wait_for_timeout(300)
            pages.append(page)
        for page, text in zip((*pages, *pages), ("hello", "hi ann", "is this fast?", "ask wsworker top"), strict=True):
            page.locator("#text").fill(text)
            page.locator("#text").press("Enter")
            page.wait_for_timeout(200)
        photograph_page(pages[0], "chat")


def cursors(browser: Browser) -> None:
    """Several mice on one page."""
    with running("cursors") as example:
        pages = []
        for _ in range(4):
            page = browser.new_page(viewport={"width": 620, "height": 480}, device_scale_factor=SCALE)
            page.goto(example.site)
            pages.append(page)
        pages[0].wait_for_timeout(500)
        for index, page in enumerate(pages[1:]):
            for step in range(12):
                page.mouse.move(120 + 160 * index + 4 * step, 120 + 70 * index + 6 * step)
                page.wait_for_timeout(40)
        photograph_page(pages[0], "cursors")


PICTURES: Final[dict[str, Callable[[Browser], None]]] = {
    "status": status,
    "top": top,
    "reload": reload,
    "echo": echo,
    "chat": chat,
    "cursors": cursors,
}


def main(arguments: Sequence[str]) -> int:
    """Take the pictures that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.pictures", description="Take the pictures of docs/img.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(PICTURES)}; none is all")
    names = parser.parse_args(arguments).names or [*PICTURES]
    if unknown := [name for name in names if name not in PICTURES]:
        parser.error(f"no picture is called {unknown[0]}; there are {', '.join(PICTURES)}")
    path = os.environ.get("WSWORKER_TEST_CHROMIUM") or shutil.which("chromium")
    if path is None:
        print("chromium is not installed; install it, or name another one in WSWORKER_TEST_CHROMIUM", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        for name in names:
            # a Daemon shows its log at its end
            with contextlib.redirect_stdout(io.StringIO()):
                PICTURES[name](browser)
            print(f"docs/img: {name}")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
