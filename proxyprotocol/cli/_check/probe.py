"""One connection of ``check``: it sends a header, and collects the answer, with one deadline for everything."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from proxyprotocol.result import ProxyResult, describe_address
from proxyprotocol.sender import name_ends
from proxyprotocol.server._process.program import ProgramError, describe_error, escape

# bytes to keep of an answer
_MAX_ANSWER: Final = 64 * 1024
# Seconds that an answer may pause before it counts as complete, and at most as a share of the time-out. A comparison
# does not need the rest of a slow answer.
_QUIET: Final = 0.3
_QUIET_SHARE: Final = 0.1
_LINES: Final = 10
_CODE: Final = re.compile(r"HTTP/[\d.]+ \d+|\W*\w*")
_ENDINGS: Final = {"closed": "closed the connection", "reset": "reset the connection", "": "did not answer in time"}


class Target(NamedTuple):
    """The server, and how to ask it."""

    host: str
    port: int
    message: bytes  # the bytes after the header; empty for a server that speaks first
    tls: bool  # whether TLS follows the header
    timeout: float  # how long one connection may take, in seconds
    greets: bool = False  # whether the server speaks first to a silent client, so that its greeting is worth a wait


@dataclass(frozen=True)
class Outcome:
    """The result of one connection."""

    answer: bytes = b""
    ending: str = ""  # "closed", "reset", or empty if the connection was still open
    handshake: bool | None = None  # whether the TLS handshake succeeded; None without TLS
    reason: str = ""  # why the handshake failed
    peer: str = ""  # the server's IP address; empty if the server reset the connection before the client could send

    @property
    def answered(self) -> bool:
        """Whether the server answered."""
        return bool(self.answer) if self.handshake is None else self.handshake

    @property
    def shape(self) -> object:
        """What all answers to one message have in common, without dates and the like."""
        if self.handshake is not None:
            return self.handshake
        # after an HTTP answer, a server may close or not
        return bool(self.ending) and not self.answer.startswith(b"HTTP/"), frozenset(self._codes())

    def _codes(self) -> dict[str, str]:
        """Return the code of each line, such as ``220``, ``-ERR`` or ``* OK``, with the first line that has it."""
        # double real backslashes, so that they cannot look like an escaped byte
        text = self.answer.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")
        lines = text.splitlines()[: 1 if text.startswith("HTTP/") else _LINES]
        if b"\0" in self.answer or (lines and not lines[0].isprintable()):  # binary
            return {repr(self.answer[:1]): lines[0] or text}
        codes: dict[str, str] = {}
        for line in lines:
            codes.setdefault(_CODE.match(line)[0], line or text)  # type: ignore[index]  # it matches everything
        return codes

    def describe(self, beside: Outcome | None = None) -> str:
        """Describe the outcome in words. If the answer has several lines, choose the first that *beside* has not."""
        if self.handshake:
            return "TLS was agreed upon"
        if not self.answer or self.handshake is not None:
            ending = f" ({self.reason})" if self.reason else " without a word" if self.ending else ""
            return _ENDINGS[self.ending] + ending
        codes = self._codes()
        known = {} if beside is None else beside._codes()
        line = next((line for code, line in codes.items() if code not in known), "")
        ended = not line and self.ending and beside and not beside.ending
        line = line or next(iter(codes.values()))
        return f"answered '{escape(line[:60])}'" + (f", then {_ENDINGS[self.ending]}" if ended else "")


def ask(target: Target, header: Callable[[ProxyResult], bytes]) -> Outcome:
    """Connect, send what *header* returns for the ends of the connection, then the message, and collect the answer."""
    reset = Outcome(ending="reset", handshake=False if target.tls else None)
    try:
        sock = socket.create_connection((target.host, target.port), target.timeout)
    except UnicodeError:
        raise ProgramError(f"{target.host!r} is not a valid host name") from None
    except ConnectionResetError:
        return reset
    except OSError as error:
        where = describe_address((target.host, target.port))
        raise ProgramError(f"Cannot connect to {where}: {describe_error(error)}") from None
    with sock:
        try:
            here, there = sock.getsockname(), sock.getpeername()
        except OSError:  # the server has reset the connection meanwhile
            return reset
        deadline = time.monotonic() + target.timeout
        sent = header(name_ends(here, there))
        if target.tls:
            return replace(_shake_hands(sock, target, sent, deadline), peer=there[0])
        quiet = min(_QUIET, target.timeout * _QUIET_SHARE)
        greeting = Outcome()
        if target.message:
            # In two steps: a server that speaks first may refuse a client that does not wait for its greeting.
            patience = target.timeout / 2 if target.greets else quiet
            greeting = _exchange(sock, sent, time.monotonic() + patience, quiet)
            sent = target.message
        reply = greeting if greeting.ending else _exchange(sock, sent, deadline, quiet, greeting.answer)
        return replace(reply, peer=there[0])


def _exchange(connection: socket.socket, message: bytes, deadline: float, quiet: float, before: bytes = b"") -> Outcome:
    answer = b""
    ending = ""
    try:
        connection.sendall(message)
        while len(answer) < _MAX_ANSWER:
            data = _receive_some(connection, min(deadline, time.monotonic() + quiet) if answer else deadline)
            if not data:
                ending = "closed"
                break
            answer += data
    except ConnectionError:
        ending = "reset"
    except OSError:  # a time-out, or a router that knows no route
        pass
    return Outcome(before + answer, ending)


def _receive_some(connection: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(_MAX_ANSWER)


def _shake_hands(connection: socket.socket, target: Target, header: bytes, deadline: float) -> Outcome:
    context = ssl.create_default_context()
    # the check is about headers, and sends no secrets
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # In memory: an SSLSocket drops a connection that is reset meanwhile, and its time-out is for each read, not for
    # all.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=target.host)
    unsent = header
    while True:
        try:
            tls.do_handshake()
            agreed = True
        except ssl.SSLWantReadError:
            agreed = False
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
