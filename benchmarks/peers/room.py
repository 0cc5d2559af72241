"""What the servers of the broadcast benchmark serve: one room, in which everybody who connects is.

A client sends a number, and the server sends the message so many times to all in the room, without waiting in between:
to the one who has asked, too.
"""

from __future__ import annotations

from typing import Final

MESSAGE_BYTES: Final = 128
MESSAGE: Final = "".join(chr(33 + position % 90) for position in range(MESSAGE_BYTES))
