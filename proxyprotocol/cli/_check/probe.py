"""One connection to a server that is asked what it makes of a header, with a deadline for all of it."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.sender import name_ends
from proxyprotocol.server._process.program import ProgramError, describe_error, escape

__all__: list[str] = []

# what is kept of an answer
_MAX_ANSWER: Final = 64 * 1024
# How long an answer may pause before it counts as complete, in seconds, and at most as a share of the time-out: what
# comes later is not needed to tell answers apart.
_QUIET: Final = 0.3
_QUIET_SHARE: Final = 0.1
_LINES: Final = 10
_CODE: Final = re.compile(r"HTTP/[\d.]+ \d+|\W*\w*")


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
        # when a server closes after an answer by HTTP tells nothing
        return bool(self.ending) and not self.answer.startswith(b"HTTP/"), frozenset(self._codes())

    def _codes(self) -> dict[str, str]:
        """Give the code of each line, such as ``220``, ``-ERR`` or ``* OK``, with the first line that has it."""
        # a backslash of its own is doubled, so that an escaped byte cannot be taken for it
        text = self.answer.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")
        lines = text.splitlines()[: 1 if text.startswith("HTTP/") else _LINES]
        if b"\0" in self.answer or (lines and not lines[0].isprintable()):  # binary
            return {repr(self.answer[:1]): lines[0] or text}
        codes: dict[str, str] = {}
        for line in lines:
            codes.setdefault(_CODE.match(line)[0], line or text)  # type: ignore[index]  # it matches everything
        return codes

    def describe(self, beside: Outcome | None = None) -> str:
        """Say in words what came; of an answer in lines, the first line that another outcome has nothing like.

        Args:
            beside: The other outcome.
        """
        if self.handshake:
            return "TLS was agreed upon"
        how = {"closed": "closed the connection", "reset": "reset the connection", "": "did not answer in time"}
        if not self.answer or self.handshake is not None:
            ending = f" ({self.reason})" if self.reason else " without a word" if self.ending else ""
            return how[self.ending] + ending
        codes = self._codes()
        known = {} if beside is None else beside._codes()
        line = next((line for code, line in codes.items() if code not in known), "")
        ended = not line and self.ending and beside and not beside.ending
        line = line or next(iter(codes.values()))
        return f"answered '{escape(line[:60])}'" + (f", then {how[self.ending]}" if ended else "")


class Connection(NamedTuple):
    """A new connection to a server.

    Attributes:
        sock: Its socket.
        own: Its two ends, as a header names them.
        peer: The server's IP address.
    """

    sock: socket.socket
    own: ProxyResult
    peer: str


@contextmanager
def connect(target: Target) -> Iterator[Connection | None]:
    """Connect to a server, and close the connection in the end.

    Args:
        target: The server.

    Returns:
        The connection; None where the server has reset it before anything could be sent, which is an answer too.

    Raises:
        ProgramError: It cannot be reached.
    """
    try:
        sock = socket.create_connection((target.host, target.port), target.timeout)
    except UnicodeError:
        raise ProgramError(f"{target.host!r} is no name of a host") from None
    except ConnectionResetError:
        yield None
        return
    except OSError as error:
        where = describe_address((target.host, target.port))
        raise ProgramError(f"{where} cannot be reached: {describe_error(error)}") from None
    with sock:
        yield _look_at_ends(sock)


def _look_at_ends(sock: socket.socket) -> Connection | None:
    try:
        here, there = sock.getsockname(), sock.getpeername()
    except OSError:  # reset meanwhile: there is no other end any more
        return None
    return Connection(sock, name_ends(here, there), there[0])


def probe(connection: Connection | None, target: Target, header: Callable[[ProxyResult], bytes]) -> Outcome:
    """Send a header and what follows it, and see what comes.

    Args:
        connection: What :func:`connect` gave.
        target: The server.
        header: Makes the header from the ends of the connection; an empty one for none.
    """
    if connection is None:
        return Outcome(ending="reset", handshake=False if target.tls else None)
    deadline = time.monotonic() + target.timeout
    sent = header(connection.own)
    if target.tls:
        return _shake_hands(connection.sock, target, sent, deadline)
    quiet = min(_QUIET, target.timeout * _QUIET_SHARE)
    if not target.message:
        return _exchange(connection.sock, sent, deadline, quiet)
    # Apart: a server that speaks first behind the header may refuse a client that does not wait for that.
    greeting = _exchange(connection.sock, sent, time.monotonic() + quiet, quiet)
    if greeting.ending:
        return greeting
    reply = _exchange(connection.sock, target.message, deadline, quiet)
    return replace(reply, answer=greeting.answer + reply.answer)


def _exchange(connection: socket.socket, message: bytes, deadline: float, quiet: float) -> Outcome:
    answer = b""
    try:
        connection.sendall(message)
        while len(answer) < _MAX_ANSWER:
            data = _receive_some(connection, min(deadline, time.monotonic() + quiet) if answer else deadline)
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
