"""Reasons: why a broker cannot be reached, in words for people; the same words for every broker.

They stand in the log and in `check` behind the name of the broker: "nats://10.0.0.5:4222 does not answer (Connection
refused)".
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Final

NO_ANSWER: Final = "no answer came in time"
NO_NAME_SERVER: Final = "no name server answers"


def reason(error: BaseException) -> str:
    """Return the clause of an error of the system, of OpenSSL, or of our own, which has its clause in it.

    error: of one address; a loop that is given a name makes one text of the errors of all its addresses.
    """
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid: {error.verify_message}"
        case ssl.SSLError():
            # one that Python has made has none
            return f"TLS fails: {(getattr(error, 'reason', None) or 'no reason is given').replace('_', ' ').lower()}"
        case UnicodeError():
            return "its name is no host name"
        case TimeoutError():
            return NO_ANSWER
        case socket.gaierror():
            return str(error.strerror)
        case OSError(errno=int(number), filename=str(file)):
            return f"{file}: {os.strerror(number)}"
        case OSError(errno=int(number)):
            # the loops have texts of their own, with addresses in them
            return os.strerror(number)
    return str(error) or type(error).__name__
