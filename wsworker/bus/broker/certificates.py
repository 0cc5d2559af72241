"""Certificates: what TLS with a broker needs, from the files that the URL names.

They are read anew for each connection, as files change; aside, as reading the machine's authorities takes long, and any
file for ever where a file system hangs. There each reading keeps its thread, so there is one at a time.
"""

from __future__ import annotations

import asyncio
import ssl

from wsworker.brokers import BrokerUrl
from wsworker.bus.broker.aside import aside
from wsworker.bus.broker.reasons import reason


class Certificates:
    """Those of one URL."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: BrokerUrl) -> None:
        self._loop = loop
        self._url = url
        self._reading: asyncio.Future[ssl.SSLContext] | None = None

    async def context(self, seconds: float) -> ssl.SSLContext:
        """Return a context that verifies the server, by TLS 1.2 or newer (RFC 8996). seconds: to wait at most.

        Raises OSError with the file at fault, or if they could not be read in time.
        """
        if self._reading is None:
            self._reading = aside(self._loop, self._read, "wsworker-tls")
            self._reading.add_done_callback(self._has_read)
        reading = self._reading
        # who gives up leaves it to the others
        await asyncio.wait((reading,), timeout=seconds)
        if not reading.done():
            raise OSError("the files of its TLS cannot be read in time")
        return reading.result()

    def _has_read(self, _: asyncio.Future[ssl.SSLContext]) -> None:
        self._reading = None

    def _read(self) -> ssl.SSLContext:
        url = self._url
        for file in url.files:
            # so that an error names it, which those of ssl do not
            with open(file, "rb"):
                pass
        what = f"{url.ca} cannot be used as ca"
        try:
            context = ssl.create_default_context(cafile=url.ca or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if url.cert:
                what = f"{url.cert} cannot be used as cert; its key must have no pass phrase"
                # asked for a pass phrase, OpenSSL would wait at a terminal
                context.load_cert_chain(url.cert, url.key or None, password=lambda: "")
        except (OSError, ValueError) as error:
            raise OSError(f"{what} ({reason(error)})") from None
        return context
