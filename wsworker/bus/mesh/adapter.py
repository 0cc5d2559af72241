"""The mesh: the workers of one machine, each linked with each by a unix socket. An adapter of the bus.

The master makes a listener for each slot, forks, and says in the shared table which workers live and where they stand;
no message passes through it. Over each link (ties.py) a worker says what its connections want: first all of it, then
each tick what has changed. So a message goes only to workers in which somebody wants it, and one that nobody else wants
costs no system call.

Until a peer has said what it wants, what is published is held for it. So a reload alone loses nothing: the new worker
of a slot hears of the old ones before it has clients, whoever of them it can be linked with.

A link that ends without a goodbye may have swallowed something. That is told once the link is there again and both have
said anew what they want, or once the table says that the peer is dead. A full queue is told of in its place: outbox.py.

Programs outside come in at the same gate (gate.py) and are no peers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from time import monotonic_ns
from typing import Final

from wsworker.bus.bus import CAUSES, BusStats, Cause, Sink
from wsworker.bus.mesh.barrier import Barrier
from wsworker.bus.mesh.berth import Berth
from wsworker.bus.mesh.gate import Gate
from wsworker.bus.mesh.link import Link, Owner
from wsworker.bus.mesh.members import Standing
from wsworker.bus.mesh.outbox import Budget, Outbox
from wsworker.bus.mesh.peers import Peer, Peers
from wsworker.bus.mesh.ties import QUICK_LOOK_SECONDS, Ties
from wsworker.bus.records import (
    EXTRA_BYTES,
    LAST,
    Hello,
    Record,
    Type,
    decode_gap,
    decode_keys,
    decode_probe,
    encode,
    encode_envelope,
    encode_gap,
    encode_hello,
    encode_interest,
    encode_key,
    encode_probe,
    encode_snapshot,
)
from wsworker.bus.topics import Envelope, Key
from wsworker.errors import WireError

PROBE_SECONDS: Final = 5.0
STARTING_SECONDS: Final = 4 * QUICK_LOOK_SECONDS
"""So long a worker that starts, and whose loop runs, may take to be linked with one that is READY."""

ALL_QUEUES_BYTES: Final = 64 * 1024 * 1024

logger = logging.getLogger("wsworker.bus")


class Mesh:
    """The mesh as one worker has it; see Bus for what the public methods mean.

    max_message, peer_queue: settings, in bytes. draw: gives a random number from 0 to 1 at each call. You must call go
    and drain when the worker is told so.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        berth: Berth,
        *,
        max_message: int,
        peer_queue: int,
        draw: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._limit = peer_queue
        self._most = max_message + EXTRA_BYTES
        self._berth = berth
        self._hello = encode_hello(berth.hello(self._most))
        self._budget = Budget(ALL_QUEUES_BYTES)
        self._peers = Peers(peer_queue, self._budget, berth.node)
        self._ties = Ties(loop, berth, self._peers, self._hello, self._link, draw, self)
        self._gate: Gate | None = None  # from start on
        self._sink: Sink | None = None  # from start until the end of close
        self._keys: dict[Key, bytes] = {}  # what is wanted here, encoded once: there may be very many
        self._snapshot: list[bytes] | None = None  # of the keys; made once for all who link while they stay the same
        self._changes: dict[Key, bool] = {}  # since the last tick: True for what is wanted now
        self._written_to: set[Peer] = set()
        self._prober: asyncio.TimerHandle | None = None
        self._has_left = False
        self._dropped: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self._sent = self._reconnects = 0

    # Its life

    async def start(self, sink: Sink) -> None:
        """Begin to dial; nobody is accepted before go."""
        self._sink = sink
        self._gate = Gate(self._loop, self._berth, self._hello, sink, self._link, self._ties.arrived)
        self._ties.look()
        self._probe()

    async def linked(self, seconds: float) -> str:
        """Wait, so long at most, until all READY workers have said what they want; return a clause about the others."""
        slots = ", ".join(map(str, await self._ties.complete(seconds)))
        return f"workers in these slots do not answer on the bus: {slots}" if slots else ""

    async def settle(self, seconds: float) -> bool:
        """Have all others answer, as barrier.py says."""
        give_up_at = self._loop.time() + seconds
        self._ties.look()
        self.flush()
        barrier = Barrier(self._peers, self._ties.me, monotonic_ns(), self._ask)
        if barrier.starting:
            await self._until(lambda: not barrier.starting, min(give_up_at, self._loop.time() + STARTING_SECONDS))
        return not self._has_left and await self._until(lambda: barrier.passed, give_up_at)

    def go(self) -> None:
        """Accept from now on."""
        assert self._gate is not None, "start comes first"
        self._gate.open()
        self._ties.stand(Standing.READY)

    def drain(self) -> None:
        """Accept no more; who publishes from outside is sent to another worker. Links stay."""
        if self._gate is not None:
            self._gate.shut()
        self._ties.stand(Standing.DRAINING)

    async def hear_out(self) -> None:
        """Wait a moment until what programs outside sent before drain is published."""
        if self._gate is not None:
            await self._gate.hear_out()

    async def close(self, grace_seconds: float) -> None:
        """Say goodbye to all, and wait so long at most until it is written, and what is held for who is dialled."""
        give_up_at = self._loop.time() + grace_seconds
        if self._gate is not None:
            self._gate.shut()
        if self._prober is not None:
            self._prober.cancel()
        handed_over = await self._until(lambda: not any(peer.waits for peer in self._peers), give_up_at)
        self._ties.close()
        self._has_left = True
        linked = [peer.link for peer in self._peers if peer.link is not None]
        for link in linked:
            link.put(encode(Type.GOODBYE))
            link.write()
        written = await self._until(lambda: not any(link.open and link.outbox.size for link in linked), give_up_at)
        if not (handed_over and written):
            logger.warning("some of what was published last could not be written to other workers")
        for link in self._ties.links:
            if link not in linked:
                # it has come about while we waited; or the other one will find it, and that we have left
                link.put(encode(Type.GOODBYE))
                link.write()
        for link in self.links:
            link.close()
        self._sink = None

    async def _until(self, fact: Callable[[], bool], give_up_at: float) -> bool:
        """Wait until something about the links is true; False if the time is over before."""
        moved = self._ties.moved
        try:
            async with asyncio.timeout_at(give_up_at):
                while not fact():
                    moved.clear()
                    await moved.wait()
        except TimeoutError:
            return False
        return True

    def let_go(self) -> None:
        """Close the links, in a process that user code has forked."""
        for link in self.links:
            link.let_go()

    @property
    def links(self) -> list[Link]:
        """All links, in use or not, of workers or not."""
        return [*self._ties.links, *(self._gate.links if self._gate is not None else ())]

    def _link(self, sock: socket.socket, owner: Owner) -> Link:
        return Link(self._loop, sock, owner, Outbox(self._limit, self._budget), self._most)

    # What is published and wanted here

    def subscribe(self, keys: Iterable[Key]) -> None:
        """Have what others publish to these keys sent here."""
        self._snapshot = None
        for key in keys:
            self._keys[key] = encode_key(key)
            self._changes[key] = True

    def unsubscribe(self, keys: Iterable[Key]) -> None:
        """Have it sent no more."""
        self._snapshot = None
        for key in keys:
            self._keys.pop(key, None)
            self._changes[key] = False

    def publish(self, envelope: Envelope) -> bool:
        """Queue it for each peer that wants it; False if it was dropped for any."""
        record: bytes | None = None
        all_took_it = True
        for peer in self._peers.wanting(envelope.key):
            record = record or encode_envelope(envelope)
            if peer.held is not None:
                peer.held.push(record, envelope.key, self._loop.time())
            elif not self._push(peer, envelope.key, record):
                all_took_it = False
        return all_took_it

    def owe(self) -> bool:
        """Have another worker tell other machines that messages may be missing: the newest that is READY.

        Who leaves as well is no heir: at a stop all do, and would hand it to each other until nobody is left.
        """
        # who has begun to leave since the last look is not asked
        self._ties.look()
        heirs = [peer for peer in self._peers if peer.stays]
        if self._has_left or not heirs:
            return False
        chosen = max(heirs, key=lambda peer: (peer.member.standing == Standing.READY, peer.member.worker))
        assert chosen.link is not None, "who is live has a link"
        chosen.link.put(encode(Type.DEBT))
        self._written_to.add(chosen)
        return True

    @property
    def owes(self) -> bool:
        """Whether other machines are to be told of a loss: the mesh reaches none."""
        return False

    def flush(self) -> None:
        """Tell the peers what is wanted here now, and write what waits for them."""
        changes, self._changes = self._changes, {}
        if changes:
            self._tell_interest(encode_interest(changes))
        written_to, self._written_to = self._written_to, set()
        for peer in written_to:
            if peer.link is not None:
                self._tell_losses(peer.link, peer)
                peer.link.write()

    def stats(self) -> BusStats:
        """Return what it has seen."""
        live = [peer for peer in self._peers if peer.live]
        return BusStats(
            links=len(live),
            sent=self._sent,
            queued_bytes=self._budget.used,
            keys=len(self._keys),
            dropped=dict(self._dropped),
            reconnects=self._reconnects,
            refused=0 if self._gate is None else self._gate.refused,
            lag_seconds=max((peer.lag_seconds for peer in live), default=0.0),
        )

    def _push(self, peer: Peer, key: Key, record: bytes) -> bool:
        assert peer.link is not None, "who is live has a link"
        self._written_to.add(peer)
        outbox = peer.link.outbox
        if len(record) > peer.most:
            # its settings are of another generation
            outbox.lose(key)
            self._dropped["size"] += 1
            return False
        if not outbox.push(record, key):
            self._dropped["full"] += 1
            return False
        self._sent += 1
        return True

    def _tell_interest(self, records: list[bytes]) -> None:
        for peer in self._peers:
            if peer.link is None:
                continue
            outbox = peer.link.outbox
            if peer.stale or outbox.stalled or outbox.full:
                # it would only grow: all of it is told when there is room
                peer.stale = True
            else:
                peer.link.put(*records)
                peer.link.write()

    def _tell_losses(self, link: Link, peer: Peer) -> None:
        """Tell, if there is room again, what is wanted here and could not be told, and what was dropped."""
        # both are judged first: what is put in here takes room itself
        gap, eased = link.outbox.owed(), link.outbox.eased
        if peer.stale and eased:
            peer.stale = False
            link.put(*self._wanted())
        if gap is not None:
            link.put(encode_gap(gap))

    def _wanted(self) -> list[bytes]:
        """Return what others are told of all that is wanted here."""
        if self._snapshot is None:
            self._snapshot = encode_snapshot(self._keys.values())
        return self._snapshot

    def _probe(self) -> None:
        self._prober = self._loop.call_later(PROBE_SECONDS, self._probe)
        for peer in self._peers:
            if peer.live and peer.link is not None:
                peer.link.put(encode_probe(monotonic_ns()))
                peer.link.write()

    def _ask(self, peer: Peer) -> None:
        """Send a probe behind all that is wanted here, also if there is no room to tell of it yet."""
        assert peer.link is not None, "who is live has a link"
        if peer.stale:
            peer.stale = False
            peer.link.put(*self._wanted())
        peer.link.put(encode_probe(monotonic_ns()))
        peer.link.write()

    # What the ties tell

    def tied(self, peer: Peer) -> None:
        """Say over a new link what is wanted here."""
        assert peer.link is not None, "this is about its link"
        peer.stale = False
        peer.link.put(*self._wanted())
        peer.link.write()

    def gone(self, peer: Peer) -> None:
        """Tell what may be missing of a peer that has died; what it had for other machines, nobody else can tell."""
        if peer.owes and self._sink is not None:
            self._sink.on_gap(None, None)
            if not peer.left:
                self._sink.on_debt()

    # What links tell

    def greeted(self, link: Link, hello: Hello) -> None:
        """Hand on who has answered."""
        self._ties.answered(link, hello)

    def received(self, link: Link, record: Record) -> None:
        """Handle what a peer says."""
        peer = self._ties.peer(link)
        assert peer is not None, "it is known since its greeting"
        match record.type:
            case Type.MESSAGE | Type.CLOSE:
                if self._sink is not None:
                    self._sink.on_envelope(record.envelope, peer.origin)
            case Type.INTEREST:
                wanted, dropped = decode_keys(record.body)
                self._peers.interest.add(peer.bit, wanted)
                self._peers.interest.remove(peer.bit, dropped)
            case Type.SNAPSHOT:
                peer.wanted += decode_keys(record.body)[0]
                if record.flags & LAST:
                    self._lives(link, peer)
            case Type.GAP:
                gap = decode_gap(record.body)
                if self._sink is not None:
                    self._sink.on_gap(gap.keys, gap.lost or None)
            case Type.PROBE:
                self._answer(link, peer, *decode_probe(record.body))
            case Type.DEBT:
                if self._sink is not None:
                    self._sink.on_debt()
            case Type.GOODBYE:
                peer.left = True
            case _:
                raise WireError(f"a peer says {Type(record.type).name}")

    def rested(self, link: Link) -> None:
        """Nothing waits for that here."""

    def wrote(self, link: Link) -> None:
        """Tell of what was lost, if there is room again."""
        peer = self._ties.peer(link)
        if peer is not None:
            self._tell_losses(link, peer)
        if not link.outbox.size:
            self._ties.moved.set()

    def ended(self, link: Link, why: str) -> None:
        """Hand on that a link is over."""
        self._ties.ended(link, why)

    def _lives(self, link: Link, peer: Peer) -> None:
        """A peer has said what it wants: send what was held for it, and tell what may be missing of what it sent."""
        held = self._peers.lives(peer, peer.wanted)
        peer.wanted.clear()
        if held is not None:
            interest, bit = self._peers.interest, peer.bit
            messages, gap, too_old = held.release(lambda key: key.kind == "broadcast" or bool(interest.mask(key) & bit))
            if gap is not None:
                self._dropped["down"] += too_old
                self._dropped["full"] += gap.lost - too_old
                link.put(encode_gap(gap))
            for key, record in messages:
                self._push(peer, key, record)
            self._tell_losses(link, peer)
            link.write()
        if peer.owes:
            peer.owes = False
            self._reconnects += 1
            if self._sink is not None:
                self._sink.on_gap(None, None)
        self._ties.moved.set()

    def _answer(self, link: Link, peer: Peer, clock_ns: int, is_answer: bool) -> None:
        if is_answer:
            peer.lag_seconds = max(0, monotonic_ns() - clock_ns) / 1e9
            peer.answered_ns = max(peer.answered_ns, clock_ns)
            self._ties.moved.set()
        else:
            link.put(encode_probe(clock_ns, answer=True))
            link.write()
