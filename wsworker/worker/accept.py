"""The accept loop of a worker: clients from the listeners it borrows, handed to the event loop one by one.

It is our own, because asyncio.Server calls listen(100) on any socket it is given, which shrinks the queue for every
process that holds the socket, and because a server must go on when it has no room or no descriptors. See accept(2) for
the errors.

The listeners of a slot are its worker's alone, but for two cases. A worker may be lent those of another slot, until
they are recalled. And a listener that all slots share (a unix socket, or one that systemd has opened) is one queue for
all workers: who wakes up first would empty it, so a worker takes one client at a time there. The master says which
these are; SO_REUSEPORT does not tell, as a .socket unit may set it as well (ReusePort=, systemd.socket(5)).

A worker that can take nobody looks away: its listeners stay readable, and the loop would spin. Where there are other
workers it leaves its clients to them, since the master steers new ones away and lends its queue. So it looks again ten
times a second who waits, and only who has waited for long, which means that no other worker had room, is dealt with:

    no room (worker_connections)    after 2 s accepted, upon which the handshake is answered with 503
    no descriptors                  after 1 s tried again; when there still is none, told 503 by means of the reserve
    any other error                 after 1 s tried again

A worker with websocket.max_handshakes clients whose handshake is not over looks away as well, whether there are others
or not, until one of them is through: that takes open_timeout at most, and who waits in the queue costs it nothing. The
master does not see it, as it usually is over before it would look.

Until a client has its protocol it is the entrance's, see there. The listeners are the master's. They are never shut
down here (that would hit every holder), only closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final

from wsworker import speaker
from wsworker.counters import Counters
from wsworker.forked import let_go
from wsworker.notices import Notices
from wsworker.worker.entrance import Entrance
from wsworker.worker.reserve import Reserve
from wsworker.worker.waiting import RESOLUTION_SECONDS, Waiting

ACCEPTS_PER_TURN: Final = 32
LAST_TURNS: Final = 2**16 // ACCEPTS_PER_TURN
"""As many as the longest queue gives work for (`backlog` is at most 65535): a flood must not hold the loop for ever."""

LOOK_SECONDS: Final = 0.1
CROWD_SECONDS: Final = 2.0
"""How long clients of a full worker are left to others: the master sees it within a second, and lends the queue."""

PAUSE_SECONDS: Final = 1.0
SEEN_SECONDS: Final = 1.5
"""How long a shortage lasts at least that the master must see: it reads the table once a second."""

QUIET_SECONDS: Final = 3.0
"""A queue to which the master sends nobody any more is empty for good when so long nobody came."""

NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
SHORTAGES: Final = NO_DESCRIPTORS | {errno.ENOBUFS, errno.ENOMEM}
PASSING: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EPERM,
        errno.EPROTO,
    }
)
"""The client has gone before it was accepted, or a firewall forbids it; the next one is not touched by that."""


class Acceptor:
    """Accepts from some listeners.

    entrance: takes each client that was accepted. shared: those of the listeners that all workers accept from.
    others: whether other workers may take who comes while full() is true; without them such a client is accepted at
    once, and its handshake refused. unfinished: how many clients have a protocol and no answer to their handshake yet;
    with those in the entrance there are most_handshakes at most. changed: called when `short` has. You must call wake()
    whenever a handshake is over or a connection has closed.

    short: nobody is accepted, for want of descriptors.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        entrance: Entrance,
        *,
        shared: Collection[socket.socket],
        full: Callable[[], bool],
        others: Callable[[], bool],
        unfinished: Callable[[], int],
        most_handshakes: int,
        changed: Callable[[], None],
        counters: Counters,
        log: logging.Logger,
    ) -> None:
        self._loop = loop
        self._own = list(listeners)
        self._lent: dict[int, list[socket.socket]] = {}
        self._entrance = entrance
        self._shared = shared
        self._full = full
        self._others = others
        self._unfinished = unfinished
        self._most_handshakes = most_handshakes
        self._changed = changed
        self._counters = counters
        self._notices = Notices(log, loop.time)
        self._context = speaker.aside()  # else clients would come in within that of a connection that has ended
        self._reserve = Reserve(mute=entrance.secure)
        self._started = False
        self._leaving = False  # nobody follows: who waits now is told at once
        self.short = False
        self._look_timer: asyncio.TimerHandle | None = None  # set while we look away
        self._waiting = Waiting()  # meanwhile
        self._again_at = 0.0
        self._short_until = 0.0  # at least; it has no meaning while we are not short
        self._came_at = 0.0
        self._take_up(listeners)

    # What the worker says

    def start(self) -> None:
        """Accept whoever comes; the listeners must listen, as accept(2) on others is an error and epoll would spin."""
        self._started = True
        if self.short:
            self._pause()
        else:
            self._watch()

    def stop(self) -> None:
        """Stop accepting; whoever waits in the queue stays there for others. May be called twice."""
        self._started = False
        self._unwatch()

    def lend(self, slot: int, listeners: Sequence[socket.socket]) -> None:
        """Accept from the listeners of another slot too; they are ours to close. Those lent before are replaced."""
        self.recall(slot)
        self._lent[slot] = list(listeners)
        self._take_up(listeners)
        if self._started and not self._looks_away:
            self._watch()

    def recall(self, slot: int) -> None:
        """Close what was lent of a slot; whoever waits there stays for others. Nothing if nothing was lent."""
        self._close(self._lent.pop(slot, []))

    def run_short(self) -> None:
        """Be short for long enough to be seen: what was lent is lost for want of descriptors, and is another's to take.

        Our own clients wait for a moment, as in any shortage.
        """
        self._short_until = self._loop.time() + SEEN_SECONDS
        self._set_short(True)
        if self._started:
            self._pause()

    def wake(self) -> None:
        """Look at once who waits: there is room, and if a connection has closed a descriptor in the loop's next turn.

        Does nothing while clients are accepted as ever.
        """
        if self._looks_away:
            if self.short:
                self._again_at = 0.0
            self._look_away(0.0)

    async def run_dry(self, limit_seconds: float) -> None:
        """Accept from our own listeners until nobody has come for QUIET_SECONDS, at most limit_seconds, then close.

        It is for a slot that goes away while the service goes on. The clients are served like any other.
        """
        for slot in [*self._lent]:
            self.recall(slot)
        self._others = lambda: False  # nobody else will take them
        self._came_at = began_at = self._loop.time()
        while (left := min(self._came_at + QUIET_SECONDS, began_at + limit_seconds) - self._loop.time()) > 0:
            await asyncio.sleep(left)
        await self.empty_and_close()

    async def empty_and_close(self) -> None:
        """Accept all who wait, once, then close: for a stop, when nobody else will ever accept them."""
        self.stop()
        self._leaving = True
        for listener in filter(_listens, self._listeners):
            for _ in range(LAST_TURNS):
                if not self._accept(listener, ACCEPTS_PER_TURN):
                    break
        await self.close()

    async def close(self) -> None:
        """Close our copies of the listeners; the master and a new worker keep theirs.

        Returns when every client that was accepted has its protocol or is gone, so that whoever counts connections then
        finds it.
        """
        self.stop()
        self._close(self._listeners)
        self._own, self._lent = [], {}
        await self._entrance.close()

    def let_go(self) -> None:
        """Close the listeners in a process that user code has forked; the loop's epoll is shared with the worker."""
        for listener in self._listeners:
            let_go(listener)

    # Accepting

    @property
    def _listeners(self) -> list[socket.socket]:
        return [*self._own, *(listener for lent in self._lent.values() for listener in lent)]

    def _take_up(self, listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            self._entrance.know(listener)

    def _ready(self, listener: socket.socket) -> None:
        """Accept from a listener at which somebody waits."""
        limit = min(ACCEPTS_PER_TURN, self._most_handshakes - self._unfinished() - self._entrance.pending)
        if limit <= 0:
            self._report_crowd()
            self._look_away(LOOK_SECONDS)
        elif not (self._full() and self._others()):
            self._accept(listener, 1 if listener in self._shared else limit)
        elif not self._waiting.is_over(listener, CROWD_SECONDS, self._loop.time()):
            self._look_away(LOOK_SECONDS)
        elif self._accept(listener, limit):
            # who stands behind those has waited in vain as well
            self._look_away(0.0)
        else:
            self._waiting.forget(listener)

    def _accept(self, listener: socket.socket, limit: int) -> bool:
        """Accept up to a number of clients; whether that number was reached, so that there may be more."""
        for _ in range(limit):
            try:
                client, address = listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in PASSING:
                    continue
                return self._fail(listener, error)
            self._came_at = self._loop.time()
            self._entrance.admit(listener, client, address)
        return True

    # Looking away

    def _watch(self) -> None:
        self._waiting.clear()
        for listener in self._listeners:
            self._loop.add_reader(listener, self._ready, listener)

    def _unwatch(self) -> None:
        if self._look_timer:
            self._look_timer.cancel()
            self._look_timer = None
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    @property
    def _looks_away(self) -> bool:
        return self._look_timer is not None

    def _look_away(self, seconds: float) -> None:
        self._unwatch()
        # it may be a connection that has woken us, and from there listeners are watched and clients come in
        self._look_timer = self._loop.call_later(seconds, self._look, context=self._context)

    def _look(self) -> None:
        """See who waits, deal with them if it is time, and go on as ever unless there is still a reason not to."""
        self._look_timer = None
        now = self._loop.time()
        waiting = self._waiting.look(self._listeners, now)
        if now < self._again_at - RESOLUTION_SECONDS:
            self._look_away(LOOK_SECONDS)
            return
        for listener in waiting:
            self._ready(listener)
        if self._looks_away:
            return
        if self.short and (now < self._short_until or not self._reserve.has_company()):
            self._pause()
            return
        self._set_short(False)
        self._watch()

    # Failing

    def _fail(self, listener: socket.socket, error: OSError) -> bool:
        """Pause after an error of accept(2); whether clients may be left that can be told to go."""
        self._report(error)
        more = False
        if error.errno in NO_DESCRIPTORS:
            self._set_short(True)
            if self._leaving or self._waiting.is_over(listener, PAUSE_SECONDS, self._loop.time()):
                more = self._turn_away(listener)
        self._pause()
        return more

    def _turn_away(self, listener: socket.socket) -> bool:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._reserve.turn_away(listener):
                return False
            self._counters.reject("descriptors")
        return True

    def _pause(self) -> None:
        self._again_at = self._loop.time() + PAUSE_SECONDS
        self._look_away(LOOK_SECONDS)

    def _set_short(self, short: bool) -> None:
        if short != self.short:
            self.short = short
            self._changed()

    def _report(self, error: OSError) -> None:
        what, hint = "cannot accept", ""
        if error.errno in SHORTAGES:
            what, hint = "out of file descriptors or memory", ", see LimitNOFILE= or ulimit -n"
        self._notices.tell("accept", "%s (%s); new clients wait%s", what, error.strerror, hint, level=logging.ERROR)

    def _report_crowd(self) -> None:
        text = "%d handshakes are under way, as many as websocket.max_handshakes allows; new clients wait"
        self._notices.tell("crowd", text, self._most_handshakes, level=logging.WARNING)

    def _close(self, listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            # first, since the socket itself lives on with its other holders, and so would its place in the epoll
            self._loop.remove_reader(listener)
            self._waiting.forget(listener)
            self._entrance.forget(listener)
            listener.close()


def _listens(listener: socket.socket) -> bool:
    return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
