"""Stream: a connection to one server, in the clear or with TLS, for who waits for each answer.

Every wait has one end, `give_up_at` on CLOCK_MONOTONIC, which the owner sets anew for each message: a server that sends
or takes a byte now and then wins no time by it. Looking up a name has its own thread, since nothing else can end that.

What send() raises means that the server has not got all of it. That is certain: the kernel, or TLS, has not taken the
last byte. So nobody has a message that ends with it, and it may be sent again.

The libraries that speak to brokers are not used: that for NATS would need an event loop in a thread of its own, that
for Redis begins its timeout anew with each byte, and neither says what has certainly not been sent. A program that does
no more than publish needs to install neither.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from wsworker.brokers import BrokerUrl, Server
from wsworker.errors import WireError

Where: TypeAlias = Server | str
"""Where a server listens: a host and its port, or the path of a unix socket."""

RECV_BYTES: Final = 16 * 1024
MAX_ARRIVED_BYTES: Final = 256 * 1024
"""Unasked, a server says a line or two."""
_ABORT: Final = struct.pack("ii", 1, 0)


class Stream:
    """A connection to a server.

    Making it connects. Raises OSError if nobody is there, or not in time.
    """

    def __init__(self, where: Where, give_up_at: float) -> None:
        self.give_up_at = give_up_at
        self._socket = _connect(where, give_up_at)

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Go on in TLS. Raises OSError; ssl.SSLError, one of those, if the server is not who it should be."""
        self._socket.settimeout(_left(self.give_up_at))
        with _no_sigpipe():
            self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError: then the server has not got the last byte."""
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(_left(self.give_up_at))
            rest = rest[self._send_some(rest) :]

    def receive(self) -> bytes:
        """Return what comes next, at least a byte. Raises OSError, or WireError at the end of the stream."""
        self._socket.settimeout(_left(self.give_up_at))
        return self._receive_some()

    def arrived(self) -> bytes:
        """Return what has come already, b"" for nothing. Raises OSError or WireError if the stream has ended."""
        self._socket.setblocking(False)
        data = b""
        # that nothing more is there is told in either way
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            while len(data) < MAX_ARRIVED_BYTES:
                data += self._receive_some()
        return data

    def close(self) -> None:
        """Close it; what the server has not got yet it does not get any more."""
        # a network that comes back would deliver a message long after its publisher has given it up
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._socket.close()

    def let_go(self) -> None:
        """Close the descriptor and leave the connection as it is: it belongs to the process that has forked us."""
        self._socket.close()

    def _send_some(self, data: memoryview) -> int:
        if not isinstance(self._socket, ssl.SSLSocket):
            return self._socket.send(data, socket.MSG_NOSIGNAL)
        with _no_sigpipe():
            return self._socket.send(data)

    def _receive_some(self) -> bytes:
        # TLS may have to write for it
        guard = _no_sigpipe() if isinstance(self._socket, ssl.SSLSocket) else contextlib.nullcontext()
        with guard:
            data = self._socket.recv(RECV_BYTES)
        if not data:
            raise WireError("it has closed the connection")
        return data


def context_of(url: BrokerUrl) -> ssl.SSLContext:
    """Return how a server has to prove who it is, and how this program does. Raises OSError with the file at fault."""
    what = url.ca
    try:
        context = ssl.create_default_context(cafile=url.ca or None)
        if url.cert:
            what = f"{url.cert} or its key"
            context.load_cert_chain(url.cert, url.key or None, password=_no_password)
    except OSError as error:
        raise OSError(error.errno, f"{what}: {clause(error)}") from None
    return context


def clause(error: Exception) -> str:
    """Return why something failed, fit for brackets."""
    match error:
        case WireError():
            return error.reason
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {(error.reason or 'failed').replace('_', ' ').lower()}"
        case TimeoutError():
            return "no answer in time"
        case OSError(strerror=str() as reason):
            return reason
        case _:
            return str(error) or type(error).__name__


def _connect(where: Where, give_up_at: float) -> socket.socket:
    """Return a connected socket; of several addresses of a host each gets its share of the time."""
    if isinstance(where, str):
        return _open(socket.AF_UNIX, where, give_up_at)
    addresses = _resolve(where, give_up_at)
    for left in range(len(addresses), 0, -1):
        family, _, _, _, address = addresses[-left]
        now = time.monotonic()
        try:
            made = _open(family, address, now + (give_up_at - now) / left)
            # NATS is sent a message and a question in two writes; the second must not wait for an answer to the first
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            failure = error
        else:
            return made
    raise failure


def _open(family: int, address: Any, give_up_at: float) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.settimeout(_left(give_up_at))
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _resolve(server: Server, give_up_at: float) -> list[tuple[Any, ...]]:
    """Return the addresses of a server, at least one, as getaddrinfo does. Raises OSError."""
    with contextlib.suppress(OSError, UnicodeError):
        return [*socket.getaddrinfo(*server, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
    found: list[list[tuple[Any, ...]]] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            found.append([*socket.getaddrinfo(*server, type=socket.SOCK_STREAM)])
        # UnicodeError: a part of the name is too long
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, name="wsworker-resolve", daemon=True)
    thread.start()
    thread.join(_left(give_up_at))
    if failed:
        raise OSError(None, f"{server.host}: {clause(failed[0])}")
    if not found:
        raise TimeoutError(f"looking up {server.host} takes too long")
    return found[0]


def _left(give_up_at: float) -> float:
    """Return how many seconds are left, more than none. Raises TimeoutError."""
    left = give_up_at - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _no_password() -> str:
    # without it OpenSSL would ask at the terminal
    return ""


@contextlib.contextmanager
def _no_sigpipe() -> Iterator[None]:
    """Let no SIGPIPE come: a program may have given it back its meaning, and OpenSSL knows no MSG_NOSIGNAL."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE not in before:
            signal.sigtimedwait({signal.SIGPIPE}, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
