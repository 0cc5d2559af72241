"""Taking: a worker takes over the connections that another one gives it, see giving.py and bus/ledger.py.

For each round of keys it has the bus send what they bring, settles, logs from then on, and says that it is ready. Each
connection that comes gets what its giver had not received yet, and for a while is left out of what the giver had. Its
on_resume is called before it is acknowledged. Nothing of its socket is touched before the other worker has said that it
is ours, and if that never comes it is forgotten here, as it is still with that one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from time import monotonic
from typing import Final

from wsworker.bus import ledger
from wsworker.bus.topics import EVERYBODY, Key
from wsworker.counters import Unmoved
from wsworker.errors import WireError
from wsworker.handover import packets, wishes
from wsworker.handover import state as states
from wsworker.handover.packets import Ack, Bye, Done, Go, Keys, Marks, Message, Ready, Refused, State, Tail
from wsworker.worker import freezing, hooks
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub
from wsworker.worker.pair import Pair, PairClosed, greeting

SETTLE_SECONDS: Final = 4.0
LOG_BYTES: Final = 64 * 1024 * 1024
TIDY_BYTES: Final = 64 * 1024
TURN_SECONDS: Final = 0.005

logger = logging.getLogger("wsworker.worker")


class _Unwilling(Exception):
    """A connection is not taken; its argument is the reason."""

    def __init__(self, reason: Unmoved) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Taking:
    """What comes over one pair; run it once.

    sock: our end of it, ours from now on. expected: about how many connections come; their places are kept for them.
    """

    def __init__(self, hub: Hub, sock: socket.socket, expected: int = 0) -> None:
        self._hub = hub
        self._expected = expected
        hub.expected += expected
        self._pair = Pair(hub.loop, sock)
        self._packets = packets.Reader("giver")
        self._log = ledger.Log(LOG_BYTES)
        self._marks = ledger.Marks()
        self._keys: list[Key] = []  # held
        self._is_logging = False
        self._is_heard = True
        self._has_settled = True
        self._offered: dict[int, tuple[Connection, socket.socket]] = {}  # known here, and not ours yet
        self._acks: list[int] = []  # to be told
        self._here: dict[int, Connection] = {}
        self._landings: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Take what comes until the other side has no more, or has died; return how many have come."""
        is_over = False
        try:
            await self._say(greeting())
            await self._serve()
            is_over = True
        except PairClosed:
            pass
        except WireError as error:
            logger.warning("connections of another worker are not taken: %s", error)
        finally:
            await self._end(is_over)
        return len(self._here)

    def let_go(self) -> None:
        """Close the descriptor, in a process that user code has forked."""
        self._pair.let_go()

    async def _serve(self) -> None:
        until = monotonic() + TURN_SECONDS
        while True:
            parcel = self._pair.receive_now()
            descriptor = None if parcel is None else parcel.descriptor
            try:
                if parcel is None or monotonic() > until:
                    await self._acknowledge()
                    await asyncio.sleep(0)
                    until = monotonic() + TURN_SECONDS
                if parcel is None:
                    parcel = await self._pair.receive()
                    descriptor = parcel.descriptor
                message = self._packets.feed(parcel.packet)
                if isinstance(message, State):
                    sock, descriptor = _socket(descriptor), None
                    if refused := self._take(message, sock):
                        await self._say(refused)
                elif message is not None:
                    await self._obey(message)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
            if isinstance(message, Done):
                self._has_settled = self._has_settled and message.settled
                return

    async def _obey(self, message: Message) -> None:
        match message:
            case Keys():
                await self._cover(message)
            case Marks(changes):
                self._marks.apply(ledger.decode(changes))
                if self._log.size > TIDY_BYTES:
                    # those that come from now on had all this, and each looks through what there is
                    self._log.forget(self._marks)
            case Go(numbers):
                for number in numbers:
                    self._land(number)
            case Tail(number, wish):
                self._grant(number, wish)

    async def _cover(self, message: Keys) -> None:
        """Hear of these keys from now on, and say so when it is certain."""
        self._hub.post.hold(message.keys)
        self._keys += message.keys
        if not message.last:
            return
        exchange = self._hub.post.exchange
        if not await exchange.settle(SETTLE_SECONDS):
            self._has_settled = False
        if not self._is_logging:
            self._is_logging = True
            exchange.note(self._log)
        self._log.cover(self._keys)
        await self._say(Ready(message.number))

    # Connections

    def _take(self, message: State, sock: socket.socket | None) -> Refused | None:
        """Have a connection here; the answer if that cannot be, else there will be one with others."""
        if self._expected:
            self._expected -= 1
            self._hub.expected -= 1
        if not self._is_heard:
            # it cannot be ours any more
            if sock is not None:
                sock.close()
            return None
        try:
            if sock is None:
                raise _Unwilling("descriptors")
            connection = self._make(message.state, sock)
        except _Unwilling as refusal:
            if sock is not None:
                sock.close()
            return Refused(message.number, refusal.reason)
        self._offered[message.number] = connection, sock
        self._acks.append(message.number)
        return None

    async def _acknowledge(self) -> None:
        """Say which connections could be ours: together, as each word wakes the giver."""
        numbers, self._acks = tuple(self._acks), []
        if numbers:
            await self._say(Ack(numbers))

    def _land(self, number: int) -> None:
        """Go on with a connection, as it is ours now."""
        offer = self._offered.pop(number, None)
        if offer is None:
            raise WireError(f"connection {number} was not acknowledged, and comes")
        connection, sock = offer
        self._here[number] = connection
        self._hub.counters.moved_in += 1
        task = self._hub.loop.create_task(freezing.land(connection, sock), context=self._hub.context.copy())
        self._landings.add(task)
        task.add_done_callback(self._landings.discard)

    def _make(self, data: bytes, sock: socket.socket) -> Connection:
        """Return the connection of a state, known here. Raises _Unwilling."""
        hub = self._hub
        try:
            state = states.decode(data)
        except packets.VersionError:
            raise _Unwilling("version") from None
        except WireError as error:
            hub.log.error("a bug in wsworker: the state of a connection: %s", error)
            raise _Unwilling("error") from None
        sock.setblocking(False)
        try:
            connection = freezing.thaw(hub, state, sock)
        except Exception as error:
            hub.log.error("a bug in wsworker: %s does not come over", state.id, exc_info=error)
            raise _Unwilling("error") from None
        if hub.draining or not hub.resumed(connection):
            raise _Unwilling("full")
        try:
            self._catch_up(connection)
            hooks.resume(hub, connection, state.hook)
        except hooks.Declined:
            self._forget(connection)
            raise _Unwilling("on_resume") from None
        except Exception as error:
            hub.log.error("a bug in wsworker: %r does not come over", connection, exc_info=error)
            self._forget(connection)
            raise _Unwilling("error") from None
        except BaseException:
            # sys.exit() in on_resume ends the worker
            self._forget(connection)
            raise
        return connection

    def _forget(self, connection: Connection) -> None:
        self._hub.post.unshadow(connection)
        freezing.discard(connection)

    def _catch_up(self, connection: Connection) -> None:
        """Give a connection what its giver had not received, and keep from it what that one had."""
        post = self._hub.post
        if not (self._marks or self._log.size):
            # nothing was published, here or there
            return
        keys = [EVERYBODY, *freezing.keys(connection)]
        marks = self._marks.of(keys)
        for publisher, envelope in self._log.missed(marks, keys) if self._log.size else ():
            post.replay(connection, publisher, envelope)
        if marks:
            post.shadow(connection, marks)

    def _grant(self, number: int, data: bytes) -> None:
        """Do what the old code has asked of a connection since it was frozen."""
        connection = self._here.get(number)
        if connection is not None:
            connection._grant(wishes.decode(data))

    # The end

    async def _end(self, is_over: bool) -> None:
        """Forget what is not ours, and let go of what was kept for those that are. is_over: the giver has no more."""
        hub, exchange = self._hub, self._hub.post.exchange
        if not is_over:
            # before anything else: nobody is here any more for what the giver would still let go of
            self._pair.close()
        hub.expected -= self._expected
        for connection, sock in self._offered.values():
            # the other worker has died, or goes on with it
            self._forget(connection)
            sock.close()
        if self._landings:
            await asyncio.wait(self._landings)
        if self._keys or self._here:
            # until what the giver has had must have come here too
            await exchange.settle(SETTLE_SECONDS)
        exchange.unnote(self._log)
        for connection in self._here.values():
            hub.post.unshadow(connection)
        hub.post.release(self._keys)
        if self._log.overflowed:
            gap = self._log.take_gap()
            exchange.missed("mesh", gap.keys, gap.lost or None)
        if not self._has_settled:
            exchange.missed("mesh", None, None)
        if is_over:
            await self._say(Bye())
            self._pair.close()

    async def _say(self, message: Message) -> None:
        """Tell the giver something. If it hears nothing any more, it may have said before that some are ours: read on.

        Never raises.
        """
        try:
            for packet in packets.encode(message):
                await self._pair.send(packet)
        except PairClosed:
            self._is_heard = False


def _socket(descriptor: int | None) -> socket.socket | None:
    return None if descriptor is None else socket.socket(fileno=descriptor)
