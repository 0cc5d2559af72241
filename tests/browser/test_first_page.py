"""The page that `wsworker init` writes, in a real browser."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from wsworker.cli.init import contents, write
from wsworker.rig import Server

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


def test_connect_send_close(context: BrowserContext, tmp_path: Path) -> None:
    """It greets, shows the close code, can connect again, and tells of an address that is none; without an error."""
    write(tmp_path, contents("hello"))
    app = SimpleNamespace(on_message=lambda connection, data: connection.send(f"hello {data}"))
    faults: list[str] = []
    with Server(app, {"http": {"static": str(tmp_path / "public")}}) as server:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if str(server.port) not in request.url else None)
        page.goto(f"http://127.0.0.1:{server.port}/")
        for time in range(2):
            page.click("#connect")
            page.click("#send")
            # that of this time
            page.get_by_text("< hello tom").nth(time).wait_for()
            page.click("#close")
            page.get_by_text("closed, code 1000").nth(time).wait_for()
        page.fill("#url", "http://[")
        page.click("#connect")
        page.get_by_text("is invalid").wait_for()
        assert 9 == page.locator("#log li").count()
    assert [] == faults
