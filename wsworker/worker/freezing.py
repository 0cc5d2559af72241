"""Freezing: one connection out of its worker, as a state and a descriptor, and back into one.

    may it move?  hindrance      what stands against it now, and whether that may pass
    out           freeze         the socket's duplicate and all that is known; from here on it is in stage moving
                  give_back      the other worker could not take it: it goes on here
                  forget         the other worker has it
    in            thaw           a connection here, which has no transport yet; its socket is not touched
                  discard        it cannot be taken after all: as if it had never come
                  land           it gets its transport, and goes on

The transport is left at once when a connection is frozen, and not when the other worker has said that it has it: what
stands in its buffer could be written by both of them else, see parting.py. Closing a transport closes its descriptor
alone, and nothing is sent, as the duplicate holds the socket open. Source: unix(7), SCM_RIGHTS; close(2).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Set
from time import monotonic
from typing import Any, Final, NamedTuple

from wsworker.bus.topics import Key
from wsworker.counters import Unmoved
from wsworker.handover import jsonable
from wsworker.handover.state import ConnectionState
from wsworker.protocol.rates import Bucket
from wsworker.protocol.request import Address, Request
from wsworker.worker.arrival import Arrival
from wsworker.worker.connection import Connection
from wsworker.worker.cork import Cork
from wsworker.worker.gone import GONE
from wsworker.worker.hub import Hub
from wsworker.worker.intake import BROKEN, CUT, MOVING, PAUSED, QUEUE_FULL
from wsworker.worker.limbo import Limbo, Wishes
from wsworker.worker.parting import Parting
from wsworker.worker.quota import Quota
from wsworker.worker.watch import Watch

_NO_KEYS: Final[Set[Key]] = frozenset()


def hindrance(connection: Connection) -> Unmoved | None:
    """Return why an open connection cannot move now, None if it can. Only "busy" and "fragment" may pass."""
    if not connection._transport.can_write_eof():
        # its keys are OpenSSL's, and cannot be taken out of it
        return "tls"
    if connection._session.hindrance == "fragment":
        return "fragment"
    delivery = connection._delivery
    if connection._handling or connection._holds & (BROKEN | CUT) or not delivery.rests:
        return "busy"
    return None


def may_go(connection: Connection) -> bool:
    """Return whether it is open, and its client has not begun to leave."""
    transport = connection._transport
    if connection._stage != "open" or isinstance(transport, Limbo) or transport.is_closing():
        return False
    return connection._session.hindrance in (None, "fragment")


def keys(connection: Connection) -> Set[Key]:
    """Return what a connection wants to hear of, beside what everybody does."""
    topics, user = connection._topics, connection._user
    if not topics and user is None:
        return _NO_KEYS
    wanted = {Key("topic", topic) for topic in topics or ()}
    if user is not None:
        wanted.add(Key("user", user))
    return wanted


def hold(connection: Connection) -> None:
    """Read and deliver nothing more of it, so that it comes to rest. A callback that runs goes on."""
    connection._hold(MOVING)
    if connection._delivery.only_messages_wait:
        connection._delivery.hold()


def let_go(connection: Connection) -> None:
    """Go on with it, as it does not move."""
    if connection._holds & MOVING:
        connection._let_go(MOVING)
        if not connection._holds & PAUSED:
            connection._delivery.release()


def check_data(connection: Connection) -> None:
    """Raise TypeError or ValueError, which name the offending key, unless connection.data can travel."""
    data: object = connection.data
    if type(data) not in (dict, jsonable.Checked):
        raise TypeError(f"connection.data is a {type(data).__name__}, and no dict")
    if data:
        jsonable.check(data)


class Frozen(NamedTuple):
    """A connection that was taken out of its worker. descriptor: of its socket, which you must close or give_back.

    parting: says how much of the tail of the state has gone out all the same; see settled.
    """

    connection: Connection
    state: ConnectionState
    descriptor: int
    parting: Parting

    async def settled(self) -> ConnectionState:
        """Return the state as it is for good; mostly at once."""
        if self.parting.slipped is None:
            return self.state
        slipped = await self.parting.slipped
        return self.state._replace(tail=self.state.tail[slipped:])


def freeze(connection: Connection, hook: dict[str, Any] | None) -> Frozen:
    """Take a connection out of this worker.

    hook: what on_handover gave, which is JSON as its data is. It has been held, and has no hindrance. Raises OSError
    when there is no descriptor left, and then nothing has changed.
    """
    descriptor = os.dup(connection._transport.get_extra_info("socket").fileno())
    try:
        return _freeze(connection, hook, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _freeze(connection: Connection, hook: dict[str, Any] | None, descriptor: int) -> Frozen:
    home, transport = connection._home, connection._transport
    cork = connection._cork
    cork.flush()
    buffered = cork.buffered
    tail, frames, control = cork.take_rest()
    session = connection._session.freeze()
    if waiting := connection._delivery.take_waiting():
        session = session._replace(behind=(*waiting, *session.behind))
    now, tick, watch = home.loop.time(), home.tick, connection._watch
    assert watch is not None, "it is open"
    quota, bucket = connection._quota, connection._control
    # by place and not by name: with so many names that takes four times as long
    state = ConnectionState(
        connection.id,
        connection.request._head,
        (connection.remote.host, connection.remote.port),
        connection.subprotocol,
        session,
        tail,
        tuple(frames),
        control,
        connection._user,
        tuple(connection._topics or ()),
        dict(connection.data),
        hook,
        connection._holds & PAUSED > 0,
        cork.episode,
        now - connection._opened_at,
        tick - connection._active_at,
        watch.freeze(tick),
        None if quota is None else quota.freeze(now),
        None if bucket is None else bucket.freeze(now),
        connection._bytes_in,
        connection._messages_in,
        cork.bytes_out,
        cork.messages_out,
        monotonic(),
    )
    parting = Parting(transport)
    connection._transport = limbo = Limbo()
    cork.lose(limbo)
    home.cancel(connection)
    connection._wishes = Wishes(buffered, cork.limit)
    connection._enter("moving")
    connection._session.behind = list(session.behind)
    # if it comes back, none is in line any more
    connection._holds &= ~QUEUE_FULL
    return Frozen(connection, state, descriptor, parting)


async def give_back(frozen: Frozen) -> None:
    """Go on here with a connection that was frozen; its socket is ours from now on."""
    connection = frozen.connection
    try:
        state = await frozen.settled()
        connection._cork.put_rest(state.tail, state.frames, state.control, state.full)
        sock = socket.socket(fileno=frozen.descriptor)
    except BaseException:
        os.close(frozen.descriptor)
        raise
    await land(connection, sock)


def forget(connection: Connection) -> None:
    """Know that another worker has it: for this one it is over, and on_close does not come."""
    home = connection._home
    connection._enter("gone")
    connection._wishes = None
    connection._transport = GONE
    connection._cork.lose(GONE)
    connection._ending, connection._told = (1012, "it has moved to another worker"), True
    connection._cork.release()
    connection._cork.forget()
    # user code may keep it for as long as it likes
    connection._session.lose()
    if connection.user is not None:
        home.users.leave(connection.user, connection)
    home.visitors.leave(connection.remote.host)
    home.moved(connection)
    home.counters.moved_out += 1


def thaw(hub: Hub, state: ConnectionState, sock: socket.socket) -> Connection:
    """Return the connection that another worker has frozen, known to this one, with all that it had there.

    sock: its socket, which stays yours until it has landed. It may send from now on, which is written when it has.
    """
    now, settings = hub.loop.time(), hub.config.websocket
    remote = Address(*state.remote)
    connection = Connection(hub, Arrival(state.remote, remote, False, now, monotonic(), sock))
    # its ages are counted from the tick as it is
    hub.wake_wheel()
    tick = hub.tick
    connection._arrival = None
    connection.id, connection.remote = state.id, remote
    connection.request, connection.subprotocol = Request(state.head, remote), state.subprotocol
    connection._stage = "open"
    connection._holds = MOVING | (PAUSED if state.paused else 0)
    connection._held, connection._idles_on = True, not state.paused
    session = connection._session
    session.go_on(state.session)
    connection._transport = limbo = Limbo()
    connection._cork = cork = Cork(connection, session, limbo, settings.send_buffer, hub.counters)
    cork.put_rest(state.tail, state.frames, state.control, state.full)
    cork.bytes_out, cork.messages_out = state.bytes_out, state.messages_out
    connection._bytes_in, connection._messages_in = state.bytes_in, state.messages_in
    connection._opened_at, connection._active_at = now - state.opened_age, tick - state.active_age
    connection._watch = Watch.thaw(state.watch, hub.spans, tick, hub.random.random())
    connection._quota = Quota.thaw(state.quota, settings, now)
    if state.control_bucket is not None and (rate := settings.rate_control):
        connection._control = Bucket.thaw(state.control_bucket, rate, rate, now)
    connection.data.update(state.data)
    connection._user = state.user
    connection._topics = set(state.topics) or None
    return connection


def discard(connection: Connection) -> None:
    """Know a thawed connection no more; its socket is yours to close, and has not been touched."""
    if connection._stage == "open":
        connection._enter("closing")
    told = connection._told
    connection._ending, connection._told = (1012, "it was not taken over"), True
    connection._enter("gone")
    connection._transport = GONE
    connection._cork.lose(GONE)
    connection._cork.release()
    connection._cork.forget()
    connection._delivery.stop()
    home = connection._home
    home.cancel(connection)
    if connection.user is not None:
        home.users.leave(connection.user, connection)
    home.visitors.leave(connection.remote.host)
    if not told:
        # on_resume may have dropped it, and then it has had its on_close
        home.ended(connection)
    home.closed(connection)


async def land(connection: Connection, sock: socket.socket) -> None:
    """Give a connection its transport. Never raises: if there is none to be had, it has lost its client."""
    loop = connection._home.loop
    try:
        await loop.connect_accepted_socket(lambda: connection, sock)
    except OSError as error:
        sock.close()
        connection.connection_lost(error)
    else:
        if connection._holds:
            # behind what the loop does by itself, which begins to read whatever connection_made has said
            connection._reading = True
            connection._read(False)
