"""examples/upload."""

from __future__ import annotations

import hashlib
import json
import os

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import code_at_end

IMAGE_BYTES = 400 * 320 * 4
MAX_SIZE = 1024**2


def test_digests(make_example: MakeExample) -> None:
    """The answer is length and SHA-256 of an image and of the largest message; one byte more is 1009, text is 1003."""
    upload = make_example("upload").start()
    with upload.connect() as client:
        for size in (0, IMAGE_BYTES, MAX_SIZE):
            data = os.urandom(size)
            client.send(data)
            assert {"length": size, "sha256": hashlib.sha256(data).hexdigest()} == json.loads(client.recv(10))
        client.send(bytes(MAX_SIZE + 1))
        assert 1009 == code_at_end(client)
    with upload.connect() as client:
        client.send("text")
        assert 1003 == code_at_end(client)


def test_the_page(make_example: MakeExample, open_page: OpenPage) -> None:
    """The page sends an ArrayBuffer of 512000 bytes and a file, the digests are its own; too large a file is 1009."""
    page = open_page(make_example("upload").start().site)

    def await_line(line: str) -> None:
        page.wait_for_function(
            "line => new RegExp(`${line}\\n$`).test(document.getElementById('log').textContent)", arg=line
        )

    page.wait_for_function("document.getElementById('state').textContent === 'open'")
    page.click("#image")
    await_line(r"^512000 bytes, SHA-256 \w{64}: same")
    page.set_input_files("#file", {"name": "a.bin", "mimeType": "", "buffer": bytes(MAX_SIZE)})
    await_line(r"\n1048576 bytes, SHA-256 \w{64}: same")
    page.set_input_files("#file", {"name": "b.bin", "mimeType": "", "buffer": bytes(MAX_SIZE + 1)})
    await_line(r"\nclosed, code 1009: larger than max_size")
