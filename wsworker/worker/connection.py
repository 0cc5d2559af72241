"""Connection: one client, as users have it. The topmost layer: see intake.py for the others.

All that a user may call at any time stands here, also before anything was received and long after the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Literal

from wsworker.bus.topics import check_name
from wsworker.handover.jsonable import Checked
from wsworker.handover.wishes import Wish
from wsworker.protocol.frames import TEXT_HEADERS, Shared, build, check_close_code, cut_reason, deflate
from wsworker.worker.access import Farewell
from wsworker.worker.arrival import Arrival
from wsworker.worker.home import Home
from wsworker.worker.intake import BROKEN, MOVING, PAUSED, QUEUE_FULL
from wsworker.worker.limbo import Limbo, Wishes
from wsworker.worker.link import ECHO_SECONDS, Stage
from wsworker.worker.vigil import Vigil
from wsworker.worker.wheel import ticks

SLOW_CONSUMER: Final = 3008
TOO_MANY_OF_USER: Final = 3504
"""Codes of ours: below 3500 a client may connect again by itself, from 3500 on it should not."""

RELOAD_CLOSE: Final = (1012, "service restart")
LIMBO_SECONDS: Final = 0.001


class Connection(Vigil):
    """One client. You get it in on_connect and may keep it; all members may be used at any time, also after its end.

    id: unique over all workers and machines, never reused, to be taken as it is; request: what the client asked for;
    subprotocol: the one agreed on, or None; remote: the client's address; worker: the worker it is connected to;
    data: a dictionary of your own, of what JSON has: it goes with the connection when that moves to another worker.
    """

    __slots__ = ("_topics", "_wishes", "data", "worker")

    def __init__(self, home: Home, arrival: Arrival) -> None:
        super().__init__(home, arrival)
        self.worker = home.worker
        self.data: dict[str, Any] = Checked() if home.checks_data else {}
        self._topics: set[str] | None = None  # a set since the first subscription
        self._wishes: Wishes | None = None  # in stage moving

    def __repr__(self) -> str:
        return f"<Connection {self.id or 'without id'} from {self.remote}, {self.state}>"

    # What users call

    @property
    def state(self) -> Literal["open", "closing", "closed"]:
        """Where it stands: "open", "closing" once close() was called, "closed" once on_close is due."""
        if self._ending is not None or self._stage == "gone":
            return "closed"
        return "open" if self._stage in ("open", "moving") else "closing"

    @property
    def buffered(self) -> int:
        """Bytes that were sent and that the kernel has not taken yet."""
        if self._wishes is not None:
            return self._wishes.size
        return 0 if self._stage == "gone" else self._cork.buffered

    @property
    def user(self) -> str | None:
        """Who this is, as your code has found out: a name of your own, or None. One user may have many connections."""
        return self._user

    @user.setter
    def user(self, name: str | None) -> None:
        """Say who this is: worker.send_to reaches it by that name. A name is as that of a topic, see subscribe.

        TypeError for anything but a str or None, ValueError for what cannot be a name. Over websocket.max_per_user the
        connection is closed with 3504. No effect once it is closed.
        """
        if not (name is None or isinstance(name, str)):
            raise TypeError(f"user is a str or None, not {type(name).__name__}")
        if name is not None:
            check_name(name, "a user")
        if self._wishes is not None:
            self._wishes.keep(Wish("user", (name or "").encode()))
            return
        users = self._home.users
        if self._user is not None:
            users.leave(self._user, self)
        self._user = name
        if name is not None and self._ending is None and not users.join(name, self):
            self.close(TOO_MANY_OF_USER, "too many connections of this user")

    @property
    def topics(self) -> frozenset[str]:
        """What it has subscribed to. It stays as it is when the connection ends, so on_close can look at it."""
        return frozenset(self._topics or ())

    def subscribe(self, topic: str) -> None:
        """Have it get what is published to a topic from now on, by this worker and all others.

        The others know of the first one here that wants a topic a moment later, when this callback is over and their
        loops have read it; what they publish before that is none of its, and no gap.

        topic: 1 to 255 bytes of UTF-8 without control characters. TypeError for anything but a str; ValueError for what
        cannot be a topic, and over websocket.max_topics. Again does nothing, and it has no effect unless open.
        """
        check_name(topic)
        if self._wishes is not None:
            self._wishes.keep(Wish("subscribe", topic.encode()))
            return
        topics = self._topics if self._topics is not None else set()
        if self._stage != "open" or topic in topics:
            return
        most = self._home.config.websocket.max_topics
        if most and len(topics) >= most:
            raise ValueError(f"a connection has at most {most} topics, see websocket.max_topics")
        topics.add(topic)
        self._topics = topics
        self._home.subscribe(topic, self)

    def unsubscribe(self, topic: str) -> None:
        """Have it get no more of a topic; nothing if it has not subscribed, or is not open. Errors for wrong names."""
        check_name(topic)
        if self._wishes is not None:
            self._wishes.keep(Wish("unsubscribe", topic.encode()))
        elif self._stage == "open" and self._topics and topic in self._topics:
            self._topics.discard(topic)
            self._home.unsubscribe(topic, self)

    def send(self, data: str | bytes | bytearray | memoryview) -> bool:
        """Send a message: text for a str, binary for the others. Never waits.

        True: accepted, it will be written in order. False: the connection is not open any more, or `buffered` has
        reached websocket.send_buffer and websocket.slow_consumer says so; the message is dropped. One message always
        goes in below the limit, however large it is.
        TypeError for other types; UnicodeEncodeError for a str with a lone surrogate.
        """
        cork = self._cork
        if self._stage != "open" or cork.size >= cork.limit:
            if not isinstance(data, (str, bytes, bytearray, memoryview)):
                raise TypeError(f"send takes str, bytes, bytearray or memoryview, not {type(data).__name__}")
            if self._wishes is not None:
                return self._keep(data, self._wishes)
            if not self._make_room():
                self._counters.refused += 1
                return False
        if type(data) is str and (size := len(payload := data.encode())) < len(TEXT_HEADERS):
            # what build() does, without the call: nearly all messages are like this
            frame = TEXT_HEADERS[size] + payload
        else:
            frame = self._build(data)
        cork.frames.append(frame)
        cork.size += len(frame)
        if not self._handling:
            self._home.flush_later(self)
        if cork.size >= cork.limit:
            cork.press()
        return True

    async def drain(self) -> None:
        """Wait until `buffered` is below half of websocket.send_buffer, or the connection is closed. Never raises."""
        while self._wishes is not None:
            # until it is known where it goes
            await asyncio.sleep(LIMBO_SECONDS)
        if self.state == "closed":
            return
        waiter = self._cork.drained()
        if waiter is not None:
            await waiter

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection behind what was sent; on_close comes when the client has answered, or has not in time.

        code: 1000-1003, 1007-1014 or 3000-4999, else ValueError: 1005, 1006 and 1015 are never sent. reason: cut to
        123 bytes of UTF-8.
        Messages that the client sends from now on are not delivered. After the first time it does nothing.
        """
        if self._wishes is not None:
            check_close_code(code)
            self._wishes.keep(Wish("close", cut_reason(reason).encode(), code))
            return
        self._session.close(code, reason)
        if self._stage != "open":
            return
        self._blame(Farewell("server", code, cut_reason(reason)))
        self._enter("closing")
        self._home.schedule(self, ticks(ECHO_SECONDS))
        self._delivery.release()
        self._let_go(PAUSED | QUEUE_FULL | BROKEN)
        if not self._handling:
            self._home.flush_later(self)

    def terminate(self) -> None:
        """Drop the TCP connection at once, with what was not written yet; on_close gets 1006. Never raises."""
        if self._wishes is not None:
            self._wishes.keep(Wish("terminate"))
            return
        self._cut("terminate() was called")

    def pause(self) -> None:
        """Stop reading: no message is delivered until `resume()`, not even those that have already arrived.

        The client's pongs are not read either, so it is not dropped for silence meanwhile; nor is its Close. Does
        nothing unless open.
        """
        if self._wishes is not None:
            self._wishes.keep(Wish("pause"))
        elif self._stage == "open":
            self._hold(PAUSED)
            self._delivery.hold()

    def resume(self) -> None:
        """Read again after pause()."""
        if self._wishes is not None:
            self._wishes.keep(Wish("resume"))
        elif self._holds & PAUSED:
            self._let_go(PAUSED)
            self._delivery.release()

    # What the layers beneath and the hub say

    def _fail(self) -> None:
        self._stopped = True
        self.close(1011, "internal error")

    def _not_resumed(self) -> None:
        self._stopped = True
        self._counters.unmoved["on_resume"] += 1
        self.close(*RELOAD_CLOSE)

    def _enter(self, stage: Stage) -> None:
        # who moves gets what is published until another worker has it
        if self._stage in ("open", "moving") and stage not in ("open", "moving"):
            for topic in self._topics or ():
                self._home.unsubscribe(topic, self)
        if stage == "gone":
            self._wishes = None
        super()._enter(stage)

    def _send_shared(self, message: Shared) -> bool:
        """Send a message whose frame others get as well; as send()."""
        if self._wishes is not None:
            return self._wishes.keep(message)
        cork = self._cork
        if (self._stage != "open" or cork.size >= cork.limit) and not self._make_room():
            self._counters.refused += 1
            return False
        frame = message.frame(self._session.window_bits)
        cork.frames.append(frame)
        cork.size += len(frame)
        if not self._handling:
            self._home.flush_later(self)
        if cork.size >= cork.limit:
            cork.press()
        return True

    def _keep(self, data: str | bytes | bytearray | memoryview, wishes: Wishes) -> bool:
        """Keep a message for the worker that has the connection soon."""
        body = data.encode() if isinstance(data, str) else bytes(data)
        if wishes.keep(Wish("text" if isinstance(data, str) else "binary", body)):
            return True
        self._counters.refused += 1
        return False

    def _land(self, transport: asyncio.Transport) -> None:
        """Go on with a transport, in the new worker or, if that could not take it, in the old one."""
        before, self._transport = self._transport, transport
        # it begins to be read of itself; see freezing.land for those that must not
        self._reading = True
        self._cork.land(transport)
        if isinstance(before, Limbo) and before.aborted:
            transport.abort()
            return
        wishes, self._wishes = self._wishes, None
        if wishes is not None:
            self._enter("open")
        if self._stage == "open":
            self._home.schedule(self, self._ticks_left())
        for wish in wishes or ():
            self._grant(wish)
        if self._holds == MOVING and self._stage == "open" and self._session.rests and not self._delivery.busy:
            # nearly all: nothing waits for the turn that _let_go asks for
            self._holds = 0
            self._delivery.release()
            self._rested(False)
            self._read(True)
            return
        self._let_go(MOVING)
        if not self._holds & PAUSED:
            self._delivery.release()
        self._cork.flush()

    def _give_up(self) -> None:
        if self._wishes is not None:
            self._wishes.keep(Wish("terminate"))
        else:
            super()._give_up()

    def _grant(self, wish: Wish | Shared) -> None:
        """Do what was asked for while it was in limbo."""
        if isinstance(wish, Shared):
            self._send_shared(wish)
            return
        match wish.kind:
            case "text":
                self.send(wish.text)
            case "binary":
                self.send(wish.body)
            case "close":
                self.close(wish.code, wish.text)
            case "terminate":
                self.terminate()
            case "subscribe":
                with contextlib.suppress(ValueError):
                    # one more than it may have
                    self.subscribe(wish.text)
            case "unsubscribe":
                self.unsubscribe(wish.text)
            case "user":
                self.user = wish.text or None
            case "pause":
                self.pause()
            case "resume":
                self.resume()

    def _build(self, data: str | bytes | bytearray | memoryview) -> bytes:
        window_bits = self._session.window_bits
        return (deflate(data, window_bits) if window_bits else None) or build(data)

    def _make_room(self) -> bool:
        """Return whether a message may go out although it did not look so; the policy for slow clients is applied."""
        if self._stage != "open" or self._transport.is_closing():
            return False
        if self._cork.has_room():
            return True
        policy = self._home.config.websocket.slow_consumer
        if policy == "drop_oldest":
            self._counters.dropped += self._cork.drop_oldest()
        elif policy == "disconnect":
            self._counters.dropped += self._cork.drop_all()
            self.close(SLOW_CONSUMER, "too slow")
        return self._stage == "open" and self._cork.size < self._cork.limit
