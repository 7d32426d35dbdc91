"""One connection to a server that is asked what it makes of a header, with a deadline for all of it."""

from __future__ import annotations

import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

from .._program import ProgramError, describe_os_error
from ..receiver import describe_address

__all__: list[str] = []

# what is kept of an answer
_MAX_ANSWER: Final = 64 * 1024
# How long an answer may pause before it counts as complete: what comes later is not needed to tell answers apart.
_QUIET: Final = 0.3
_LINES: Final = 10


class Target(NamedTuple):
    """The server, and how it is asked.

    Attributes:
        host: Its name or address.
        port: Its port.
        message: What is sent behind the header; nothing for a server that speaks first.
        tls: Whether TLS is spoken behind the header.
        timeout: How long one connection may take, in seconds.
    """

    host: str
    port: int
    message: bytes
    tls: bool
    timeout: float


@dataclass(frozen=True)
class Outcome:
    """What came of a connection.

    Attributes:
        answer: What the server said; with TLS, what it said in it.
        ending: What ended the connection: ``"closed"``, ``"reset"``, or nothing where it was still open.
        handshake: With TLS, whether the handshake succeeded.
        reason: With TLS, why it did not.
    """

    answer: bytes = b""
    ending: str = ""
    handshake: bool | None = None
    reason: str = ""

    @property
    def answered(self) -> bool:
        """Whether the server took what was sent for something that it can answer."""
        return bool(self.answer) if self.handshake is None else self.handshake

    @property
    def shape(self) -> object:
        """What the answers to equal messages have in common, whatever the time of day is."""
        if self.handshake is not None:
            return self.handshake
        text = self.answer.decode("utf-8", "backslashreplace")
        if not text.isprintable() and not text.splitlines()[0].isprintable():
            return self.answer[:1]
        status = re.match(r"HTTP/\d\.\d (\d{3})", text)
        if status:
            return status[1]
        return self.ending, [line.split(" ")[0] for line in text.splitlines()[:_LINES]]

    def __str__(self) -> str:
        if self.handshake:
            return "TLS was agreed upon"
        if self.answer and self.handshake is None:
            first = self.answer.splitlines()[0] or self.answer
            return f"answered {first[:60].decode('utf-8', 'backslashreplace')!r}"
        how = {"closed": "closed the connection", "reset": "reset the connection", "": "did not answer in time"}
        return how[self.ending] + (f" ({self.reason})" if self.reason else " without a word" if self.ending else "")


def connect(target: Target) -> socket.socket:
    """Connect to a server.

    Args:
        target: The server.

    Raises:
        ProgramError: It cannot be reached.
    """
    try:
        return socket.create_connection((target.host, target.port), target.timeout)
    except UnicodeError:
        raise ProgramError(f"{target.host!r} is no name of a host") from None
    except OSError as error:
        where = describe_address((target.host, target.port))
        raise ProgramError(f"{where} cannot be reached: {describe_os_error(error)}") from None


def probe(connection: socket.socket, target: Target, header: bytes) -> Outcome:
    """Send a header and what follows it, and see what comes; the connection is closed in the end.

    Args:
        connection: A new connection to the server.
        target: The server.
        header: The header; nothing for none.
    """
    deadline = time.monotonic() + target.timeout
    with connection:
        if target.tls:
            return _shake_hands(connection, target, header, deadline)
        return _exchange(connection, header + target.message, deadline)


def _exchange(connection: socket.socket, message: bytes, deadline: float) -> Outcome:
    answer = b""
    try:
        connection.sendall(message)
        while len(answer) < _MAX_ANSWER:
            data = _receive_some(connection, min(deadline, time.monotonic() + _QUIET) if answer else deadline)
            if not data:
                return Outcome(answer, "closed")
            answer += data
    except ConnectionError:
        return Outcome(answer, "reset")
    except OSError:  # it takes too long, or a router says that there is no way
        pass
    return Outcome(answer)


def _receive_some(connection: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(_MAX_ANSWER)


def _shake_hands(connection: socket.socket, target: Target, header: bytes, deadline: float) -> Outcome:
    context = ssl.create_default_context()
    # it is asked about headers and not for its name; nothing is told to it
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # In memory: an SSLSocket loses the connection that it is given when that is reset meanwhile, and bounds each of its
    # reads, not all of them.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=target.host)
    unsent = header
    while True:
        try:
            agreed = _advance(tls)
        except ssl.SSLError as error:
            return Outcome(handshake=False, ending="closed", reason=f"TLS failed: {error.reason or error}")
        try:
            connection.sendall(unsent + outgoing.read())
            if agreed:
                return Outcome(handshake=True)
            unsent = b""
            data = _receive_some(connection, deadline)
        except ConnectionError:
            return Outcome(handshake=False, ending="reset")
        except OSError:
            return Outcome(handshake=False)
        if not data:
            return Outcome(handshake=False, ending="closed")
        incoming.write(data)


def _advance(tls: ssl.SSLObject) -> bool:
    """Take the handshake as far as it goes; say whether that is its end."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
