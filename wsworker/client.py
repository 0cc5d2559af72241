"""Publish from a program that is no worker: a Django view, a FastAPI route, a job of cron, a script.

    from wsworker import client

    client.publish("news", "hello", config="/srv/chat/config.yaml")
    await client.apublish("news", b"...")

The master is asked once where its workers are reached and for the secret of the service; the message then goes straight
to one of the workers, which publishes it as its own and answers. That link is kept: the next message takes a tenth of a
millisecond. A worker that leaves says so, and another one is used.

A message is sent again only if it has reached nobody: the kernel has not taken all of it, and a part of a record is
none. A worker that leaves in good order answers all that was taken, see bus/mesh/outside.py, so a reload loses nothing.
What was taken and is not answered, as when a worker is killed, is the caller's to judge: PublishError, `no_answer`.

It needs the right to command the service, as `wsworker status` does: the same user, root, or the group of
`control_socket_mode`. Nothing here imports an event loop or the settings' models, and all of it may be used from any
thread, and after a fork.

With `url` the message goes to the broker of `bus.url` instead, and from there to every machine of the service; nothing
of the service need run on this one, see remote/road.py.

    client.publish("news", "hello", url=os.environ["WSWORKER_BUS__URL"], prefix="chat:")
"""

from __future__ import annotations

import contextlib
import hmac
import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from wsworker import configfile, values
from wsworker.bus.records import (
    EXTRA_BYTES,
    Hello,
    Reader,
    Record,
    Type,
    decode_accepted,
    decode_hello,
    encode_envelope,
    encode_hello,
)
from wsworker.bus.topics import Envelope, Key, check_name
from wsworker.cli import ask
from wsworker.errors import ControlError, WireError
from wsworker.errors import NotRunning as NotRunning  # for callers: `except client.NotRunning`
from wsworker.errors import PublishError as PublishError
from wsworker.wire import Command

Data: TypeAlias = str | bytes | bytearray | memoryview
Where: TypeAlias = tuple[str | None, str | None]

ANSWER_SECONDS: Final = 5.0
GREETING_SECONDS: Final = 1.0
"""Of one worker; then the next one is tried, for ANSWER_SECONDS altogether."""

MAX_ANSWER_BYTES: Final = 64 * 1024

PREFIX: Final = "wsworker:"
MAX_MESSAGE: Final = 1024 * 1024
"""The defaults of bus.prefix and bus.max_message."""


def publish(
    topic: str,
    data: Data,
    *,
    config: str | Path | None = None,
    control_socket: str | Path | None = None,
    url: str | None = None,
    prefix: str = PREFIX,
    max_message: int = MAX_MESSAGE,
) -> None:
    """Send a message to all connections that have subscribed to a topic; returns when it has been accepted.

    topic, data: as for worker.publish, with its errors. By default a worker on this machine accepts it. config: the
    config file of the service, by default the one that the commands would take. control_socket: the path of its control
    socket; then no file is read.
    url: that of a broker, as bus.url; then the broker accepts it. prefix, max_message: bus.prefix and bus.max_message
    of the service, whose workers drop what is longer.
    Raises NotRunning if nothing runs, without url; PublishError if it was not accepted, or nobody can tell any more
    whether it was; ConfigError if there is no such file; ValueError if one of these is wrong. It takes no longer than
    5 s, whoever does not answer.
    """
    give_up_at = time.monotonic() + ANSWER_SECONDS
    _publish(topic, data, give_up_at, config, control_socket, url, prefix, max_message)


async def apublish(
    topic: str,
    data: Data,
    *,
    config: str | Path | None = None,
    control_socket: str | Path | None = None,
    url: str | None = None,
    prefix: str = PREFIX,
    max_message: int = MAX_MESSAGE,
) -> None:
    """Do as publish() does, and let the event loop go on meanwhile.

    It is done by asyncio.to_thread, whose threads are few: a call that gets one only after its 5 s sends nothing then.
    """
    # here, as it is not needed for the other one
    import asyncio

    # not in the thread: the calls that wait for one would have their 5 s one after the other
    give_up_at = time.monotonic() + ANSWER_SECONDS
    await asyncio.to_thread(_publish, topic, data, give_up_at, config, control_socket, url, prefix, max_message)


def _publish(
    topic: str,
    data: Data,
    give_up_at: float,
    config: str | Path | None,
    control_socket: str | Path | None,
    url: str | None,
    prefix: str,
    max_message: int,
) -> None:
    """Do as publish() does."""
    check_name(topic)
    body = _body(data)
    envelope = Envelope(Key("topic", topic), body, binary=not isinstance(data, str))
    if url is not None and (config is not None or control_socket is not None):
        raise ValueError("url is a way by itself; leave out config and control_socket, or leave out url")
    if url is None and (prefix, max_message) != (PREFIX, MAX_MESSAGE):
        raise ValueError("prefix and max_message go with url; a worker on this machine has its own")
    if time.monotonic() >= give_up_at:
        waited = f"no thread of this program was free in {ANSWER_SECONDS:.0f} s (see asyncio.to_thread)"
        raise PublishError("timeout", f"{waited}; the message was not sent")
    if url is not None:
        _publish_by_bus(url, prefix, envelope, max_message, give_up_at)
        return
    where = (_text(config), _text(control_socket))
    road = _roads.setdefault(where, Road())
    if not road.lock.acquire(timeout=max(0.0, give_up_at - time.monotonic())):
        message = f"other messages of this program got no answer in {ANSWER_SECONDS:.0f} s; this one was not sent"
        raise PublishError("timeout", message)
    try:
        road.take(where, encode_envelope(envelope), len(body), give_up_at)
    finally:
        road.lock.release()


def _publish_by_bus(url: str, prefix: str, envelope: Envelope, max_message: int, give_up_at: float) -> None:
    """Publish at a broker. Raises as publish."""
    # here, as most programs need no TLS
    from wsworker.remote.road import road_to

    argument = "prefix"
    try:
        values.prefix(prefix)
        argument = "url"
        road = road_to(url)
    except ValueError as error:
        raise ValueError(values.refusal(argument, error)) from None
    if len(envelope.body) > max_message:
        over = f"a message of {len(envelope.body)} bytes is over max_message = {max_message}, and workers would drop it"
        raise PublishError("too_large", f"{over}; raise it here and in their bus.max_message, or send less")
    road.publish(prefix, envelope, give_up_at)


class Road:
    """The way to one service, which one message takes at a time. worker: the link that is kept, if there is one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.worker: WorkerLink | None = None

    def take(self, where: Where, record: bytes, size: int, give_up_at: float) -> None:
        """Have a worker publish a message of this size. Raises as publish."""
        worker, self.worker = self.worker, None
        if worker is not None and worker.stays() and self._hand_over(worker, record, size, give_up_at):
            return
        service = _service(where)
        worker = _find(service, give_up_at)
        while not self._hand_over(worker, record, size, give_up_at):
            worker = _find_another(service, give_up_at)

    def _hand_over(self, worker: WorkerLink, record: bytes, size: int, give_up_at: float) -> bool:
        """Have this worker publish it; False if it has left, and the message has reached nobody."""
        if size > worker.max_message:
            self.worker = worker
            over = f"a message of {size} bytes is over bus.max_message = {worker.max_message}"
            raise PublishError("too_large", f"{over}; raise it or send less")
        is_accepted = False
        try:
            is_accepted = worker.publish(record, give_up_at)
        finally:
            if is_accepted:
                self.worker = worker
            else:
                # whatever it was, nobody knows any more what the next answer would be about
                worker.close()
        return is_accepted


class WorkerLink:
    """A link to one worker. path: of its socket; address: what the master has answered.

    give_up_at: here and below, when to wait no longer, on CLOCK_MONOTONIC.

    Making it connects. Raises OSError or WireError if nobody right is there.
    """

    def __init__(self, path: str, address: Mapping[str, Any], give_up_at: float) -> None:
        secret, node = bytes.fromhex(address["secret"]), str(address["node"])
        self._reader = Reader(MAX_ANSWER_BYTES)
        self._records: list[Record] = []
        self._published = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._give_up_at = min(give_up_at, time.monotonic() + GREETING_SECONDS)
            self._socket.settimeout(self._left())
            self._connect(path)
            ask.send(self._socket, encode_hello(Hello(secret, 0, 0, MAX_ANSWER_BYTES, node)))
            hello = decode_hello(self._await(Type.HELLO).body)
            if not hmac.compare_digest(hello.secret, secret):
                raise WireError("who answers does not know the secret")
        except BaseException:
            self._socket.close()
            raise
        self.max_message = hello.most - EXTRA_BYTES

    def stays(self) -> bool:
        """Whether it can be used still; closes itself if not."""
        try:
            self._socket.setblocking(False)
            data = self._socket.recv(MAX_ANSWER_BYTES)
        except BlockingIOError:
            # nothing is to be read: no goodbye, and no end
            return True
        except OSError:
            data = b""
        # unasked, a worker says nothing but goodbye
        del data
        self.close()
        return False

    def publish(self, record: bytes, give_up_at: float) -> bool:
        """Send a MESSAGE and wait until it is accepted; False if it has reached nobody. Raises PublishError."""
        self._give_up_at = give_up_at
        self._socket.settimeout(self._left())
        self._published += 1
        is_sent = False
        try:
            ask.send(self._socket, record)
            is_sent = True
            while decode_accepted(self._await(Type.ACCEPTED).body) < self._published:
                pass
        except TimeoutError:
            message = f"the worker gave no answer in {ANSWER_SECONDS:.0f} s; the message may come through all the same"
            if not is_sent:
                message = f"the worker did not take all of the message in {ANSWER_SECONDS:.0f} s; it was not sent"
            raise PublishError("timeout", message) from None
        except (OSError, WireError):
            if not is_sent:
                return False
            message = "the worker ended before it answered; the message may have come through all the same"
            raise PublishError("no_answer", message) from None
        return True

    def close(self) -> None:
        """Close the link."""
        self._socket.close()

    def _connect(self, path: str) -> None:
        # a path of a socket has at most 107 bytes; through a descriptor the folder's length does not count
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        finally:
            os.close(folder)

    def _left(self) -> float:
        # 0 would mean not to block at all
        return max(0.001, self._give_up_at - time.monotonic())

    def _await(self, wanted: Type) -> Record:
        """Return the next record of this type; others are passed over. Raises OSError or WireError."""
        while True:
            while self._records:
                record = self._records.pop(0)
                if record.type == wanted:
                    return record
            self._socket.settimeout(self._left())
            data = self._socket.recv(MAX_ANSWER_BYTES)
            self._records += self._reader.feed(data)
            if not data or self._reader.fault:
                raise WireError(self._reader.fault or "the stream has ended")


_roads: dict[Where, Road] = {}

# in a forked child: the links are the parent's, and a thread of the parent may have held a lock
os.register_at_fork(after_in_child=_roads.clear)


def _find(service: ask.Service, give_up_at: float) -> WorkerLink:
    """Ask the master where its workers are, and connect to one of them. Raises as publish."""
    try:
        address = _address(service, give_up_at)
    except ControlError as error:
        raise PublishError(error.code, error.message) from None
    paths = [str(path) for path in address.get("sockets", ())]
    # each program another one
    random.shuffle(paths)
    for path in paths:
        if time.monotonic() < give_up_at:
            with contextlib.suppress(OSError, WireError):
                return WorkerLink(path, address, give_up_at)
    raise PublishError("no_answer", f"no worker of {service.name} takes messages now; see `wsworker status`")


def _find_another(service: ask.Service, give_up_at: float) -> WorkerLink:
    """Do as _find() does when a worker has left; when the time is up, that is what is to be told."""
    try:
        return _find(service, give_up_at)
    except PublishError:
        if time.monotonic() < give_up_at:
            raise
    message = f"the workers of {service.name} keep leaving; the message was not sent; see `wsworker status`"
    raise PublishError("timeout", message)


def _address(service: ask.Service, give_up_at: float) -> Mapping[str, Any]:
    with contextlib.closing(ask.Call(service, Command("bus"), min(give_up_at, _soon()))) as call:
        while reply := call.reply(min(give_up_at, _soon())):
            if reply.final:
                return reply.body
    raise ControlError("timeout", f"{service.name} runs, but does not say where its workers are; see its log")


def _soon() -> float:
    return time.monotonic() + ask.ANSWER_SECONDS


def _service(where: Where) -> ask.Service:
    config, control_socket = where
    if control_socket is None:
        return ask.locate(configfile.find(config, os.environ), os.environ)
    return ask.at_socket(Path(control_socket))


def _text(path: str | Path | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _body(data: Data) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a message is str, bytes, bytearray or memoryview, not {type(data).__name__}")
